"""Learning curves in one file: the table that ``experiments.plot`` writes and that others publish their results in.

Its columns are ``exp_name`` (the arm), ``env_name``, ``seed``, ``metric``, ``env_step`` and ``value``; more may follow.
"""

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path

from experiments.comparing.drawing import Row
from experiments.comparing.runs import Cell, Run, make_series
from experiments.records.files import FINISHED, Record

COLUMNS = ("exp_name", "env_name", "seed", "metric", "env_step", "value")
RETURN = "eval/return"
# What others call the return of an evaluation.
_RETURNS = ("return", "avg_return", "average_return", "episode_return", "eval_return", "eval/avg_return")


def rows_of(cells: Iterable[Cell], metrics: Iterable[str], x: str) -> list[Row]:
    """Returns the table of some cells, with what the curves are drawn against if that is not env steps."""
    metrics = tuple(metrics)
    return [
        dict(zip(COLUMNS, (cell.arm, cell.task, run.seed, metric, int(series.env_steps[index])), strict=False))
        | {"value": f"{value:.6g}", "status": run.status}
        | ({} if x == "env_steps" else {x: float(getattr(series, x)[index])})
        for cell in cells
        for run in cell.runs
        for metric in metrics
        if (series := run.metrics.get(metric)) is not None
        for index, value in enumerate(series.values)
    ]


def read_runs(path: Path) -> list[Run]:
    """Reads the curves of a file as runs that say nothing of their settings.

    A Gymnasium id such as ``HalfCheetah-v4`` is the task of the ``mujoco`` suite, whatever its version; any other name
    without a suite is a task of DeepMind Control.

    Raises:
        ValueError: Naming what is wrong with the file.
    """
    records: dict[tuple[str, str, int, str], list[Record]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"is no table of curves, it has no column {', '.join(missing)}")
        for number, row in enumerate(reader, 2):
            try:
                metric = RETURN if row["metric"] in _RETURNS else row["metric"]
                key = (row["exp_name"], row["env_name"], int(float(row["seed"])), row.get("status") or FINISHED)
                record: Record = (int(float(row["env_step"])), math.nan, math.nan, metric, float(row["value"]))
                records.setdefault(key, []).append(record)
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"line {number}: {error}") from None
    if not records:
        raise ValueError("holds no curve")
    return [_run(path, *key, found) for key, found in records.items()]


def _run(path: Path, arm: str, env_name: str, seed: int, status: str, records: list[Record]) -> Run:
    suite, _, task = _task(env_name).rpartition("/")
    config = {
        "agent": {"name": arm},
        "env": {"suite": suite, "task": task},
        "seed": seed,
        "arm": arm,
        "file": str(path),
    }
    return Run(path, config, {}, {"status": status}, make_series(records))


def _task(env_name: str) -> str:
    if "/" in env_name:
        return env_name
    if match := re.fullmatch(r"(\w+)-v\d+", env_name):
        return "mujoco/" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", match[1]).lower().replace("2_d", "2d")
    return f"dmc/{env_name}"
