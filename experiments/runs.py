"""Finished and unfinished runs, read from their directories and sorted into cells of one task and one arm.

Plots, reports and claims all start here, so that they leave out the same runs for the same reasons, and say so.
"""

import csv
import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.run_directory import CONFIG, METRICS, PROVENANCE, SUMMARY
from remac.types import InvalidValueError

PLAN = "plan.json"
FINISHED, UNFINISHED = "finished", "unfinished"
TUNING_EXPERIMENTS = ("tune_learning_rate",)
FINAL_FRACTION = 0.1
X_AXES = {"env_steps": "env steps", "gradient_steps": "gradient steps", "wall_clock": "wall clock (s)"}
# What may differ between the seeds of one arm: names, where records go, and how runs are measured.
NOT_SETTINGS = ("seed", "experiment", "arm", "logger", "agent", "env")
MEASUREMENT = ("eval_seed", "eval_every_env_steps", "num_eval_episodes")


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric of one run, T records long.

    Attributes:
        env_steps: `[T]`, strictly increasing.
        gradient_steps: `[T]`.
        wall_clock: Seconds since the start of the run, `[T]`.
        values: `[T]`; may hold non-finite numbers.
    """

    env_steps: np.ndarray
    gradient_steps: np.ndarray
    wall_clock: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        directory: Where it is.
        config: Its resolved configuration.
        provenance: Command, commit, device and versions; empty if the file is missing.
        summary: How it ended; None while it is going, or if it was killed.
        metrics: Name to series.
    """

    directory: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    summary: dict[str, Any] | None
    metrics: dict[str, Series]

    @property
    def task(self) -> str:
        """Suite and task, with the options that make it another one."""
        env = self.config["env"]
        options = {key: value for key, value in _flatten(env.get("options") or {}).items() if value is not None}
        name = f"{env['suite']}/{env['task']}"
        shown = [f"{key}={value_text(value)}" for key, value in options.items() if key != "stagger_first_episodes"]
        return " ".join([name, *shown])

    @property
    def seed(self) -> int:
        """The seed."""
        return self.config["seed"]

    @property
    def agent(self) -> dict[str, Any]:
        """The agent's settings."""
        return self.config["agent"]

    @property
    def num_retries(self) -> int | None:
        """M, or None for an agent that has none."""
        return self.agent.get("num_retries")

    @property
    def experiment(self) -> str | None:
        """Name of the preset that it belongs to."""
        return self.config.get("experiment")

    @property
    def status(self) -> str:
        """``finished``, ``unfinished`` (no summary: going or killed), or how it failed."""
        return self.summary.get("status", UNFINISHED) if self.summary else UNFINISHED

    @property
    def reason(self) -> str:
        """Why it is not finished, in words."""
        if self.summary is None:
            return f"no {SUMMARY}: still going, or killed"
        return " ".join(str(self.summary.get("reason") or self.status).split())

    @property
    def env_steps(self) -> int:
        """Env steps of its last record."""
        return max((int(series.env_steps[-1]) for series in self.metrics.values()), default=0)

    @property
    def settings(self) -> dict[str, Any]:
        """What two runs must share to be seeds of one arm, with dotted keys."""
        top = {key: value for key, value in self.config.items() if key not in NOT_SETTINGS and key not in MEASUREMENT}
        return {**_flatten(self.agent), **_flatten(top)}

    def final(self, metric: str) -> float:
        """Returns the mean of a metric over the last tenth of training; NaN if it is missing or not finite there."""
        if metric not in self.metrics:
            return math.nan
        series = self.metrics[metric]
        # A record at step t is about the steps before t, so the border's own record belongs to the nine tenths.
        window = series.values[series.env_steps > (1 - FINAL_FRACTION) * self.env_steps]
        return float(np.mean(window)) if window.size and np.isfinite(window).all() else math.nan

    def mean(self, metric: str) -> float:
        """Returns the mean of a metric over all gradient steps; NaN if it is missing or not finite somewhere."""
        if metric not in self.metrics:
            return math.nan
        series = self.metrics[metric]
        weights = np.diff(series.gradient_steps, prepend=0)
        if not np.isfinite(series.values).all() or weights.sum() <= 0:
            return math.nan
        return float(np.average(series.values, weights=weights))


@dataclasses.dataclass(frozen=True)
class Cell:
    """The seeds of one arm on one task.

    Attributes:
        task: The task.
        arm: The arm's label.
        runs: One per seed, in the order of the seeds.
        variant: The settings, besides M, in which arms of this agent differ.
    """

    task: str
    arm: str
    runs: tuple[Run, ...]
    variant: dict[str, Any]

    @property
    def kind(self) -> str:
        """Name of the agent."""
        return self.runs[0].agent["name"]

    @property
    def num_retries(self) -> int | None:
        """M, or None for an agent that has none."""
        return self.runs[0].num_retries

    @property
    def agent(self) -> dict[str, Any]:
        """The agent's settings."""
        return self.runs[0].agent

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs whose numbers count."""
        return tuple(run for run in self.runs if run.status == FINISHED)

    def by_seed(self, metric: str, reduce: Callable[[Run, str], float] = Run.final) -> dict[int, float]:
        """Returns one number per finished seed, without those that do not have it."""
        values = {run.seed: reduce(run, metric) for run in self.finished}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep set out to run.

    Attributes:
        folder: Where it is.
        experiment: Name of the preset.
        scale: Suite and scale.
        command: What started it.
        runs: Each with ``directory`` (absolute), ``task``, ``arm`` and ``seed``.
    """

    folder: Path
    experiment: str
    scale: str
    command: list[str]
    runs: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Runs:
    """All that was found.

    Attributes:
        cells: In the order of tasks, agents, M and variants.
        plans: The plans of the sweeps among the directories.
        all: Every run, also those that no cell holds.
        notes: A line for each thing that was left out or needs to be known.
    """

    cells: list[Cell]
    plans: list[Plan]
    all: list[Run]
    notes: list[str]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def arms(self) -> list[str]:
        """Labels of the arms."""
        return list(dict.fromkeys(cell.arm for cell in sorted(self.cells, key=_order_in_task)))

    @property
    def used(self) -> list[Run]:
        """The runs that are in a cell."""
        return [run for cell in self.cells for run in cell.runs]

    def on(self, task: str) -> list[Cell]:
        """Returns the cells of a task."""
        return [cell for cell in self.cells if cell.task == task]


def load(paths: Sequence[Path | str], *, keep_tuning: bool = False) -> Runs:
    """Reads all runs in some folders.

    Args:
        paths: Run directories, and folders that hold some at any depth.
        keep_tuning: Whether runs that tuned a hyperparameter are kept if there are no others.

    Raises:
        InvalidValueError: If a path does not exist, or there is no run at all.
    """
    notes: list[str] = []
    directories, plans = _find(paths, notes)
    runs = [run for directory in directories if (run := _read_run(directory, notes)) is not None]
    if not runs:
        shown = ", ".join(map(str, paths)) or "none"
        reason = f"hold no run (a folder with {CONFIG} and {METRICS})" if paths else "must name at least one"
        raise InvalidValueError("directories", shown, "; ".join([reason, *notes]))
    used = _without_tuning(runs, notes, keep_tuning)
    used = _without_duplicates(used, notes)
    cells = _make_cells(used, notes)
    _compare_lengths(cells, notes)
    for run in used:
        if run.status != FINISHED:
            notes.append(f"{run.directory}: {run.status} at {run.env_steps:,} env steps, no number of it counts")
    return Runs(cells, plans, runs, notes)


def _find(paths: Sequence[Path | str], notes: list[str]) -> tuple[list[Path], list[Plan]]:
    """Returns the run directories and plans at and below the paths."""
    directories: dict[Path, Path] = {}
    plans: dict[Path, Plan] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InvalidValueError("directory", path, "does not exist")
        before = len(directories)
        if path.name == PLAN and path.is_file():
            plans[path.resolve()] = _read_plan(path)
            continue
        if path.is_file():
            notes.append(f"{path}: is a file, left out")
            continue
        known = path.resolve() in directories
        for folder, subfolders, files in os.walk(path):
            subfolders.sort()
            if PLAN in files:
                plan = Path(folder, PLAN)
                plans[plan.resolve()] = _read_plan(plan)
            if CONFIG in files and METRICS in files:
                directories.setdefault(Path(folder).resolve(), Path(folder))
                subfolders.clear()
            elif CONFIG in files and PROVENANCE in files:
                notes.append(f"{folder}: has {CONFIG} but no {METRICS}, left out")
        if len(directories) == before and not known:
            notes.append(f"{path}: no run in it that is not named already")
    return list(directories.values()), list(plans.values())


def _read_plan(path: Path) -> Plan:
    try:
        content = json.loads(path.read_text())
        runs = [{**run, "directory": str((path.parent / run["directory"]).resolve())} for run in content["runs"]]
        for run in runs:
            run["task"], run["arm"], run["seed"]
        scale = " ".join(str(content[key]) for key in ("suite", "scale") if content.get(key))
        return Plan(path.parent, str(content["experiment"]), scale, list(content.get("command", [])), runs)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError("plan", path, f"cannot be read ({type(error).__name__}: {error})") from error


def _read_run(directory: Path, notes: list[str]) -> Run | None:
    """Reads one run, or notes why it cannot be."""
    try:
        config = yaml.load((directory / CONFIG).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        config["agent"]["name"], config["env"]["suite"], config["env"]["task"], config["seed"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        notes.append(f"{directory}: {CONFIG} cannot be read ({type(error).__name__}: {_one_line(error)}), left out")
        return None
    metrics = read_series(directory / METRICS, notes)
    if not metrics:
        notes.append(f"{directory}: {METRICS} holds no record yet")
    for name, series in metrics.items():
        bad = int((~np.isfinite(series.values)).sum())
        if bad:
            notes.append(f"{directory}: {bad} non-finite values of {name}, left out of curves")
    return Run(directory, config, _read_json(directory / PROVENANCE) or {}, _read_json(directory / SUMMARY), metrics)


def read_series(path: Path, notes: list[str]) -> dict[str, Series]:
    """Reads a file of metrics; of two records of one step the later one counts, and half-written lines do not."""
    columns: dict[str, dict[int, tuple[float, ...]]] = {}
    bad = 0
    with path.open(newline="") as file:
        reader = csv.reader(file)
        next(reader, None)
        for row in reader:
            try:
                env_steps, gradient_steps, wall_seconds, name, value = row
                columns.setdefault(name, {})[int(env_steps)] = (
                    *(float(env_steps), float(gradient_steps), float(wall_seconds), float(value)),
                )
            except ValueError:
                bad += 1
    if bad:
        notes.append(f"{path}: {bad} lines cannot be read, left out")
    return {
        name: Series(*np.asarray([records[step] for step in sorted(records)]).T)
        for name, records in columns.items()
        if records
    }


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _without_tuning(runs: list[Run], notes: list[str], keep_tuning: bool) -> list[Run]:
    """Leaves out what tuned a hyperparameter, and the seeds on which it did."""
    tuning = [run for run in runs if run.experiment in TUNING_EXPERIMENTS]
    if not tuning or (keep_tuning and len(tuning) == len(runs)):
        return runs
    seeds = {(run.task, run.seed) for run in tuning}
    rest = [run for run in runs if (run.task, run.seed) not in seeds]
    notes.append(f"{len(tuning)} tuning runs are left out: no number of theirs is reported")
    spoilt = len(runs) - len(rest) - len(tuning)
    if spoilt > 0:
        notes.append(f"{spoilt} runs are left out: their seeds were used for tuning on the same task")
    return rest


def _identity(run: Run) -> str:
    return json.dumps([run.task, run.settings], sort_keys=True, default=str)


def _without_duplicates(runs: list[Run], notes: list[str]) -> list[Run]:
    """Keeps one run per task, arm and seed: a finished one if there is one, and the newest of those."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((_identity(run), run.seed), []).append(run)
    kept = []
    for group in groups.values():
        best = max(group, key=lambda run: (run.status == FINISHED, run.provenance.get("started") or ""))
        kept.append(best)
        for run in group:
            if run is not best:
                which = "the newest" if run.status == best.status else "finished"
                notes.append(
                    f"{run.directory}: same settings and seed {run.seed} as {best.directory}, which is {which}"
                )
    return kept


def _make_cells(runs: list[Run], notes: list[str]) -> list[Cell]:
    """Groups runs that differ in the seed alone, and finds labels that tell the groups apart."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    varying = _varying_settings(groups.values())
    cells = []
    for group in groups.values():
        first = group[0]
        variant = {key: first.settings.get(key) for key in varying.get(first.agent["name"], ())}
        names = sorted({run.config["arm"] for run in group if run.config.get("arm")}, key=lambda arm: (len(arm), arm))
        if len(names) > 1:
            notes.append(f"{first.task}: arms {', '.join(names)} have the same settings: one arm, {names[0]}")
        derived = " ".join([_base_label(first), *(f"{key}={value_text(value)}" for key, value in variant.items())])
        ordered = tuple(sorted(group, key=lambda run: run.seed))
        cells.append(Cell(first.task, names[0] if names else derived, ordered, variant))
    # Equal names for unequal settings: the settings tell them apart.
    taken = Counter((cell.task, cell.arm) for cell in cells)
    cells = [
        cell
        if taken[cell.task, cell.arm] == 1
        else dataclasses.replace(cell, arm=f"{cell.arm} ({_difference(cell, cells)})")
        for cell in cells
    ]
    return sorted(cells, key=lambda cell: (cell.task, *_order_in_task(cell)))


def _varying_settings(groups: Iterable[list[Run]]) -> dict[str, list[str]]:
    """Returns for every agent the settings that differ between arms of equal task and M."""
    rivals: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for group in groups:
        run = group[0]
        rivals.setdefault((run.agent["name"], run.task, run.num_retries), []).append(run.settings)
    varying: dict[str, list[str]] = {}
    for (name, *_), settings in rivals.items():
        known = varying.setdefault(name, [])
        keys = dict.fromkeys(key for one in settings for key in one)
        known += [key for key in keys if key not in known and len({value_text(one.get(key)) for one in settings}) > 1]
    return varying


def _difference(cell: Cell, cells: Iterable[Cell]) -> str:
    """Names the settings in which a cell differs from others of its task and name."""
    settings = cell.runs[0].settings
    others = [other.runs[0].settings for other in cells if (other.task, other.arm) == (cell.task, cell.arm)]
    keys = [key for key in settings if any(value_text(other.get(key)) != value_text(settings[key]) for other in others)]
    return ", ".join(f"{key}={value_text(settings[key])}" for key in keys)


def _compare_lengths(cells: Sequence[Cell], notes: list[str]) -> None:
    for task in dict.fromkeys(cell.task for cell in cells):
        lengths = sorted({run.env_steps for cell in cells if cell.task == task for run in cell.finished})
        if len(lengths) > 1:
            shown = ", ".join(f"{length:,}" for length in lengths)
            notes.append(
                f"{task}: finished runs have different lengths ({shown} env steps): compare final values by them"
            )


def _base_label(run: Run) -> str:
    return run.agent["name"].upper() if run.num_retries is None else f"M={run.num_retries}"


def _order_in_task(cell: Cell) -> tuple[Any, ...]:
    order = [value if isinstance(value, int | float) else 0 for value in cell.variant.values()]
    return (cell.num_retries is not None, cell.kind, cell.num_retries or 0, order, cell.arm)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def value_text(value: Any) -> str:
    """Writes a setting's value shortly."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def as_ranges(numbers: Iterable[int]) -> str:
    """Writes whole numbers shortly: ``1-5, 8``."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
