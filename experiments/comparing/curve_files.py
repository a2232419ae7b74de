"""Learning curves in one file: the table that ``experiments.plot`` writes and that others publish their results in.

Its columns are ``exp_name`` (the arm), ``env_name``, ``seed``, ``metric``, ``env_step`` and ``value``; more may
follow, of which ``status``, ``gradient_steps``, ``wall_clock``, and for title and colour ``agent`` and ``num_retries``
are read.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import envs
from experiments.comparing.drawing import Row
from experiments.comparing.runs import MEAN_RETURN, Cell, Run, make_series
from experiments.records.files import FINISHED, Record

TableRow = dict[str, str | None]  # by the names of columns
COLUMNS = ("exp_name", "env_name", "seed", "metric", "env_step", "value")
OTHER_AXES = ("gradient_steps", "wall_clock")  # of ``X_AXES``; their columns may be missing
OWN_NAME = "curves"  # of the figure whose table it is
# What others call the return of an evaluation.
_RETURNS = ("return", "avg_return", "average_return", "episode_return", "eval_return", "eval/avg_return")


def rows_of(cells: Iterable[Cell], metrics: Iterable[str], x: str) -> list[Row]:
    """Returns the table of some cells, with what the curves are drawn against if that is not env steps."""
    metrics = tuple(metrics)
    return [
        dict(zip(COLUMNS, (cell.arm, cell.task, run.seed, metric, int(series.env_steps[index])), strict=False))
        | {"value": f"{value:.6g}", "status": run.status, "agent": run.drawn_as[0], "num_retries": run.drawn_as[1]}
        | ({} if x == "env_steps" else {x: float(getattr(series, x)[index])})
        for cell in cells
        for run in cell.runs
        for metric in metrics
        if (series := run.metrics.get(metric)) is not None
        for index, value in enumerate(series.values)
    ]


def read_runs(path: Path) -> list[Run]:
    """Reads the curves of a file as runs that say nothing of their settings.

    A Gymnasium id such as ``HalfCheetah-v4`` is the task of the ``mujoco`` suite, whatever its version, or where there
    is none of ``gymnasium``; any other name without a suite is a task of DeepMind Control.

    Raises:
        ValueError: Naming what is wrong with the file.
    """
    records: dict[tuple[str, str, int, str], list[Record]] = {}
    drawn_as: dict[str, dict[str, Any]] = {}
    lines: dict[tuple[str, str, int, str, int], int] = {}
    called: dict[tuple[str, str, int, str], str] = {}

    def take(number: int, row: TableRow) -> None:
        arm, env_name, name = (read_text(row, column) for column in ("exp_name", "env_name", "metric"))
        metric = MEAN_RETURN if name in _RETURNS else name
        seed, env_step = read_whole(row, "seed"), read_whole(row, "env_step")
        others = [read_number(row, column) if row.get(column) else math.nan for column in OTHER_AXES]
        record: Record = (env_step, others[0], others[1], metric, read_number(row, "value"))
        num_retries = read_whole(row, "num_retries") if row.get("num_retries") else None
        earlier = lines.setdefault((arm, env_name, seed, metric, env_step), number)
        if earlier != number:
            raise ValueError(f"has arm, task, seed, metric and step of line {earlier}")
        if (other := called.setdefault((arm, env_name, seed, metric), name)) != name:
            raise ValueError(f"has {name} where arm, task and seed have {other} before; both are {metric} here")
        records.setdefault((arm, env_name, seed, row.get("status") or FINISHED), []).append(record)
        drawn_as[arm] = {"name": row.get("agent") or arm, "num_retries": num_retries}

    read_table(path, "curves", COLUMNS, take)
    if not records:
        raise ValueError("holds no curve")
    places = list(drawn_as)
    return [
        _run({"drawn_as": drawn_as[key[0]], "place": places.index(key[0]), "file": str(path)}, *key, found)
        for key, found in records.items()
    ]


def read_table(path: Path, of: str, columns: Sequence[str], take: Callable[[int, TableRow], None]) -> None:
    """Reads a CSV file row by row.

    Args:
        path: The file.
        of: What it is a table of.
        columns: That it has to have.
        take: Gets every row with the number of its line; raises ValueError saying what is wrong with it.

    Raises:
        ValueError: Naming the columns that are missing, or the line and what is wrong with it.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"is no table of {of}, it has no column {', '.join(missing)}")
        number = 1
        try:
            for number, row in enumerate(reader, 2):
                take(number, row)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"line {number + isinstance(error, csv.Error)}: {error}") from None


def read_text(row: TableRow, column: str) -> str:
    """Returns what a row has in a column; raises ValueError if that is nothing."""
    if not (value := (row[column] or "").strip()):
        raise ValueError(f"{column} is empty")
    return value


def read_number(row: TableRow, column: str) -> float:
    """Returns a row's number; raises ValueError if it has none."""
    try:
        return float(row[column] or "")
    except ValueError:
        raise ValueError(f"{column} must be a number, not {row[column]!r}") from None


def read_whole(row: TableRow, column: str) -> int:
    """Returns a row's number of steps, seeds or the like; raises ValueError if it is none."""
    value = read_number(row, column)
    if not (value.is_integer() and value >= 0):
        raise ValueError(f"{column} must be a whole number of at least 0, not {row[column]!r}")
    return int(value)


def _run(known: dict[str, Any], arm: str, env_name: str, seed: int, status: str, records: list[Record]) -> Run:
    suite, _, task = task_of(env_name).rpartition("/")
    config = {
        "agent": {"name": arm},
        "env": {"suite": suite, "task": task},
        "seed": seed,
        "arm": arm,
        **known,
    }
    return Run(Path(known["file"]), config, {}, {"status": status}, make_series(records))


def task_of(env_name: str) -> str:
    """Returns the task that others call so; ``read_runs`` says how it is found."""
    if "/" in env_name:
        return env_name
    if match := re.fullmatch(r"(\w+)-v\d+", env_name):
        task = "mujoco/" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", match[1]).lower().replace("2_d", "2d")
        return task if envs.may_be(task) else f"gymnasium/{env_name}"
    return f"dmc/{env_name}"
