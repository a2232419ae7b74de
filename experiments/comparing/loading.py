"""Finished and unfinished runs, read from their directories and sorted into cells of one task and one arm.

Plots, reports and claims all start here, so that they leave out the same runs for the same reasons, and say so.
"""

import contextlib
import dataclasses
import gc
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.comparing.curve_files import OWN_NAME, read_runs
from experiments.comparing.runs import Cell, Plan, Run, Runs, make_series, value_text
from experiments.console.messages import one_line
from experiments.records.files import (
    CONFIG,
    FINISHED,
    METRICS,
    PLAN,
    PROVENANCE,
    SUMMARY,
    find_damage,
    read_json,
    read_records,
    walk,
)
from remac.validation import InvalidValueError

TUNING_EXPERIMENTS = ("tune_learning_rate", "tune_sac")


def load(paths: Sequence[Path | str], *, keep_tuning: bool = False) -> Runs:
    """Reads all runs in some folders.

    Args:
        paths: Run directories, folders that hold some at any depth, and files of curves.
        keep_tuning: Whether runs that tuned a hyperparameter are kept if there are no others.

    Raises:
        InvalidValueError: If a path does not exist, or there is no run at all.
    """
    notes: list[str] = []
    directories, plans, curves = find(paths, notes)
    with _no_garbage_collection():
        runs = [run for directory in directories if (run := _read_run(directory, notes)) is not None] + curves
    if not runs:
        shown = ", ".join(map(str, paths)) or "none"
        reason = f"hold no run (a folder with {CONFIG} and {METRICS})" if paths else "must name at least one"
        raise InvalidValueError("directories", shown, "; ".join([reason, *notes]))
    runs = _with_later_settings(runs)
    used = _without_tuning(runs, notes, keep_tuning)
    used = _without_duplicates(used, notes)
    cells = _make_cells(used, notes)
    _compare_lengths(cells, notes)
    for run in used:
        if run.status != FINISHED:
            notes.append(f"{run.directory}: {run.status} at {run.env_steps:,} env steps, no number of it counts")
    return Runs(cells, plans, runs, notes)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spares reading the search for cycles, half of its time; a thousand runs are millions of tuples and no cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find(paths: Sequence[Path | str], notes: list[str]) -> tuple[list[Path], list[Plan], list[Run]]:
    """Returns the run directories and plans at and below the paths, and the curves of the files among them.

    Raises:
        InvalidValueError: If a path does not exist.
    """
    curves: dict[Path, list[Run]] = {}
    directories: dict[Path, Path] = {}
    plans: dict[Path, Plan] = {}
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise InvalidValueError("directory", path, "does not exist")
        before = len(directories)
        if path.name == PLAN and path.is_file():
            if plan := _read_plan(path, notes):
                plans[path.resolve()] = plan
            continue
        if path.is_file():
            try:
                curves[path.resolve()] = read_runs(path)
            except (OSError, ValueError) as error:
                reason = one_line(error) if isinstance(error, OSError) else str(error)
                notes.append(f"{path}: {reason}, left out")
            continue
        known = path.resolve() in directories
        for folder, subfolders, files in walk(path, seen, notes):
            if PLAN in files:
                file = Path(folder, PLAN)
                if plan := _read_plan(file, notes):
                    plans[file.resolve()] = plan
            if CONFIG in files and METRICS in files:
                directories.setdefault(Path(folder).resolve(), Path(folder))
                subfolders.clear()
            elif CONFIG in files and (PROVENANCE in files or SUMMARY in files):
                notes.append(f"{folder}: has {CONFIG} but no file {METRICS}, left out")
            elif METRICS in files and (PROVENANCE in files or SUMMARY in files):
                notes.append(f"{folder}: has {METRICS} but no file {CONFIG}, left out")
        if len(directories) == before and not known:
            notes.append(f"{path}: no run in it" + (" that is not named already" if before else ""))
    return list(directories.values()), list(plans.values()), list(itertools.chain.from_iterable(curves.values()))


def _read_plan(path: Path, notes: list[str]) -> Plan | None:
    """Reads what a sweep is to hold, or notes why it cannot be read."""
    try:
        content = json.loads(path.read_text())
        runs = [{**run, "directory": str((path.parent / run["directory"]).resolve())} for run in content["runs"]]
        for run in runs:
            run["task"], run["arm"], run["seed"]
        scale = " ".join(str(content[key]) for key in ("suite", "scale") if content.get(key))
        return Plan(path.parent, str(content["experiment"]), scale, list(content.get("command", [])), runs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(f"{path}: cannot be read ({one_line(error)}), so what is missing is not known")
        return None


def _read_run(directory: Path, notes: list[str]) -> Run | None:
    """Reads one run, or notes why it cannot be."""
    summary, problem = read_json(directory / SUMMARY)
    damage = find_damage(directory, summary)
    config = _read_config(directory, notes)
    if config is None:
        return None
    if CONFIG in damage:
        notes.append(f"{damage[CONFIG]}, so the run is left out")
        return None
    provenance, unread = read_json(directory / PROVENANCE)
    records, wrong, is_trusted = read_records(directory, summary)
    notes += filter(None, (problem, unread))
    notes += wrong
    # The policy and the inputs are for evaluate, which looks at them itself.
    if PROVENANCE in damage and not unread:
        notes.append(damage[PROVENANCE])
    metrics = make_series(records)
    if not metrics:
        notes.append(f"{directory}: {METRICS} holds no record yet")
    for name, series in metrics.items():
        bad = int((~np.isfinite(series.values)).sum())
        if bad:
            notes.append(f"{directory}: {bad} non-finite values of {name}, left out of curves")
    is_damaged = not is_trusted and (summary or {}).get("status") == FINISHED
    return Run(directory, config, provenance or {}, summary, metrics, "; ".join(wrong) if is_damaged else "")


def _read_config(directory: Path, notes: list[str]) -> dict[str, Any] | None:
    try:
        config = yaml.load((directory / CONFIG).read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        config["agent"]["name"], config["env"]["suite"], config["env"]["task"], config["seed"]
        return config
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OSError) as error:
        notes.append(f"{directory}: {CONFIG} cannot be read ({one_line(error)}), left out")
        return None


def read_without_metrics(directory: Path, notes: list[str]) -> Run | None:
    """Reads what a run is and how it ended, but not its metrics; or notes why it cannot be read."""
    config = _read_config(directory, notes)
    if config is None:
        return None
    provenance, summary = (read_json(directory / name)[0] for name in (PROVENANCE, SUMMARY))
    return Run(directory, config, provenance or {}, summary, {})


def sort_into_cells(runs: list[Run], notes: list[str], *, keep_duplicates: bool = False) -> list[Cell]:
    """Groups runs that differ in the seed alone, and names the groups as figures do."""
    runs = _with_later_settings(runs)
    return _make_cells(runs if keep_duplicates else _without_duplicates(runs, notes), notes)


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


def _with_later_settings(runs: list[Run]) -> list[Run]:
    """Gives runs the hyperparameters that were declared after they were made, with the defaults that they had then."""
    known: dict[str, set[str]] = {}
    for run in runs:
        known.setdefault(run.agent["name"], set()).update(run.agent)
    if all(known[run.agent["name"]] <= run.agent.keys() for run in runs):
        return runs
    filled = []
    for run in runs:
        if missing := known[run.agent["name"]] - run.agent.keys():
            # What nothing declares, a hyperparameter that is gone, has no default.
            config = run.config | {"agent": {key: v for key, v in run.defaults.items() if key in missing} | run.agent}
            run = dataclasses.replace(run, config=config)
        filled.append(run)
    return filled


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
                which = "finished" if best.status == FINISHED != run.status else "the newest"
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
        keys = () if first.file else varying.get(first.agent["name"], ())
        variant = {key: first.settings.get(key) for key in keys}
        names = sorted({run.config["arm"] for run in group if run.config.get("arm")}, key=lambda arm: (len(arm), arm))
        if len(names) > 1:
            notes.append(f"{first.task}: arms {', '.join(names)} have the same settings: one arm, {names[0]}")
        derived = " ".join([first.base_label, *(f"{key}={value_text(value)}" for key, value in variant.items())])
        ordered = tuple(sorted(group, key=lambda run: run.seed))
        cells.append(Cell(first.task, names[0] if names else derived, ordered, variant))
    # What others call as one of ours, or as another file's, says where it is from, on every task.
    named: dict[str, set[Any]] = {}
    for cell in cells:
        for name in (cell.arm, cell.title):
            named.setdefault(name, set()).add(cell.runs[0].file)
    names_of_files = _shortest_names({run.file for run in runs if run.file})
    cells = [
        dataclasses.replace(cell, arm=f"{cell.arm} ({names_of_files[file]})")
        if (file := cell.runs[0].file) and len(named[cell.arm]) > 1
        else cell
        for cell in cells
    ]
    # Equal names for unequal settings: the settings tell them apart.
    taken = Counter((cell.task, cell.arm) for cell in cells)
    cells = [
        cell
        if taken[cell.task, cell.arm] == 1
        else dataclasses.replace(cell, arm=f"{cell.arm} ({_difference(cell, cells)})")
        for cell in cells
    ]
    return sorted(cells, key=lambda cell: (cell.task, *cell.order))


def _shortest_names(files: Iterable[str]) -> dict[str, str]:
    """Names files by as much of the ends of their paths, without the suffix, as tells them apart.

    One called as ``experiments.plot`` calls its own has the name of its folder.
    """
    parts: dict[str, tuple[str, ...]] = {}
    for file in files:
        path = Path(file)
        parts[file] = (path.resolve().parent if path.stem == OWN_NAME else path.with_suffix("")).parts
    names = {}
    for file, own in parts.items():
        others = [other for name, other in parts.items() if name != file]
        lengths = range(1, len(own) + 1)
        length = next((n for n in lengths if all(other[-n:] != own[-n:] for other in others)), len(own))
        names[file] = "/".join(own[-length:])
    return names


def _varying_settings(groups: Iterable[list[Run]]) -> dict[str, list[str]]:
    """Returns for every agent the settings that differ between arms of equal task and M, and M's end if it changes."""
    rivals: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for group in groups:
        run = group[0]
        if run.file:
            continue
        rivals.setdefault((run.agent["name"], run.task, run.num_retries), []).append(run.settings)
    varying: dict[str, list[str]] = {}
    for (name, *_), settings in rivals.items():
        known = varying.setdefault(name, [])
        keys = dict.fromkeys(key for one in settings for key in one)
        differing = [key for key in keys if len({value_text(one.get(key)) for one in settings}) > 1]
        changing = ["num_retries_end"] if any(one.get("num_retries_end") for one in settings) else []
        known += [key for key in dict.fromkeys(differing + changing) if key not in known]
    return varying


def _difference(cell: Cell, cells: Iterable[Cell]) -> str:
    """Names the settings in which a cell differs from others of its task and name."""
    settings = cell.runs[0].settings
    others = [other.runs[0].settings for other in cells if (other.task, other.arm) == (cell.task, cell.arm)]
    known = dict.fromkeys(key for one in (settings, *others) for key in one)
    keys = [key for key in known if any(value_text(one.get(key)) != value_text(settings.get(key)) for one in others)]
    return ", ".join(f"{key}={value_text(settings.get(key))}" for key in keys)


def _compare_lengths(cells: Sequence[Cell], notes: list[str]) -> None:
    for task in dict.fromkeys(cell.task for cell in cells):
        lengths = sorted({run.env_steps for cell in cells if cell.task == task for run in cell.finished})
        if len(lengths) > 1:
            shown = ", ".join(f"{length:,}" for length in lengths)
            notes.append(
                f"{task}: finished runs have different lengths ({shown} env steps): compare final values by them"
            )
