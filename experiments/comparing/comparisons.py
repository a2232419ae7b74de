"""Comparing runs: draws every figure that is declared and has something to show; nothing is read or written here."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.comparing.declarations import Draw, Drawing, Look
from experiments.comparing.drawing import caption, own_style
from experiments.comparing.figures import find
from experiments.comparing.panels import ENTROPY, GAUSSIAN_ENTROPY, STD, floor_of_std
from experiments.comparing.published import TABLE, PublishedCurve, known_on, read_published
from experiments.comparing.runs import MEAN_RETURN, SAMPLED_RETURN, X_AXES, Run, Runs, as_ranges
from experiments.console.messages import one_line
from remac.validation import InvalidValueError, require_one_of

DEFAULT_METRICS = (SAMPLED_RETURN, ENTROPY, GAUSSIAN_ENTROPY, STD)
# How to draw, as people may say it, with what holds where they do not.
LOOK = {"x": "env_steps", "metric": "", "reference": "", "threshold": "", "published": "false"}
NO_FINAL_VALUES = "no run has finished: there are no final values"


def make_look(runs: Runs, settings: dict[str, str], command: str) -> Look:
    """Checks ``metric``, ``x``, ``reference``, ``threshold`` and ``published``, the first three against the runs.

    Raises:
        InvalidValueError: If a metric or ``x`` is in no run, the reference is no arm, the threshold no number, or
            ``published`` no table of returns.
    """
    known = sorted({name for run in runs.used for name in run.metrics})
    if not known:
        raise InvalidValueError("directories", f"{len(runs.used)} runs", "hold no record of any metric yet")
    given = settings.get("metric", "")
    chosen = tuple(dict.fromkeys(filter(None, given.split(","))))
    if given and not chosen:
        raise InvalidValueError("metric", given, "names no metric")
    for name in chosen:
        require_one_of("metric", name, known)
    reference = settings.get("reference") or None
    if reference is not None:
        reference = {cell.title: cell.arm for cell in runs.cells}.get(reference, reference)
        require_one_of("reference", reference, runs.arms)
    x = settings.get("x", "env_steps")
    without = [run for run in runs.used if not run.has(x)]
    if len(without) == len(runs.used):
        allowed = "none of these runs has it; must be " + " or ".join(
            axis for axis in X_AXES if any(run.has(axis) for run in runs.used)
        )
        raise InvalidValueError("x", x, allowed)
    notes = [f"{file}: has no {x}, left out of curves" for file in dict.fromkeys(run.directory for run in without)]
    runs.notes.extend(notes)
    threshold = settings.get("threshold") or None
    try:
        at = None if threshold is None else float(threshold)
    except ValueError:
        at = math.nan
    if at is not None and not math.isfinite(at):
        raise InvalidValueError("threshold", threshold, "must be a number")
    published = _published(settings.get("published", "false"))
    metrics = chosen or default_metrics(known, is_of_mean=bool(published))
    if published and (lacking := "; ".join(filter(None, (_unlike_published(metrics, x), _untold(runs, published))))):
        runs.notes.append(f"published: {lacking}")
    return Look(metrics, x, reference, at, published, command)


def _published(value: str) -> list[PublishedCurve]:
    """Reads the table that is asked for: none, ours, or a file's."""
    if value == "false":
        return []
    path = TABLE if value == "true" else Path(value)
    try:
        return read_published(path)
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
        raise InvalidValueError("published", value, f"{reason}; must be true, false or a table of returns") from None


def _unlike_published(metrics: Sequence[str], x: str) -> str:
    """Says why no curve can have published returns beside it."""
    if MEAN_RETURN not in metrics:
        return f"they are the mean action's, which metric={MEAN_RETURN} draws"
    return "" if x == "env_steps" else "they are known by env steps alone"


def _untold(runs: Runs, published: Sequence[PublishedCurve]) -> str:
    """Says on which tasks none is known for the steps that were trained."""
    without = [task for task in runs.tasks if not any(known_on(task, runs.on(task), published))]
    return f"none is known, at as few steps, on {', '.join(without)}" if without else ""


def default_metrics(known: Sequence[str], *, is_of_mean: bool = False) -> tuple[str, ...]:
    """Returns what is shown where no metric is asked for: at least one, if any is known.

    Args:
        known: What the runs have.
        is_of_mean: Whether returns are the mean action's and not those of sampled actions, if the runs have both.
    """
    chosen = tuple(name for name in DEFAULT_METRICS if name in known)
    if MEAN_RETURN in known and (is_of_mean or SAMPLED_RETURN not in known):
        chosen = (MEAN_RETURN, *(name for name in chosen if name != SAMPLED_RETURN))
    return chosen or tuple(known[:1])


def draw_all(runs: Runs, look: Look, notes: list[str]) -> list[Drawing]:
    """Draws every figure that is declared and that the runs have something for.

    A run that cannot be drawn in a figure is left out of it, and a figure without which the others can be drawn too;
    either is noted.
    """
    has_final = any(cell.finished for cell in runs.cells)
    notes += _without_final_value(runs, look.metrics) if has_final else [NO_FINAL_VALUES]
    wanted: list[tuple[str, Draw]] = []
    for figure in find():
        try:
            wanted += figure.wanted(runs, look) if has_final or not figure.needs_final else []
        except Exception as error:
            notes.append(f"{figure.name}: cannot be drawn ({one_line(error)}), left out")
    found = (_try(name, draw, runs, look, notes) for name, draw in wanted)
    return [drawing for drawing in found if drawing is not None]


def _try(name: str, draw: Draw, runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws with all runs, or with those that can be drawn, or not at all; notes what is left out, and why."""
    kept: list[Run] = []
    drawing: Drawing | None = None
    notes_of_figure: list[str] = []

    def add(more: Sequence[Run]) -> dict[Path, str]:
        """Draws with more runs than before, as many as can be; returns what is wrong with the others."""
        nonlocal drawing, notes_of_figure
        tried = {id(run) for run in (*kept, *more)}
        own_notes: list[str] = []
        try:
            drawing = _draw(draw, _only(runs, lambda run: id(run) in tried), look, own_notes)
        except Exception as error:
            if len(more) == 1:
                return {more[0].directory: one_line(error)}
            half = len(more) // 2
            return add(more[:half]) | add(more[half:])
        kept.extend(more)
        notes_of_figure = own_notes
        return {}

    faults = add(runs.used)
    if kept:
        notes += notes_of_figure
        notes += [f"{path}: cannot be drawn ({fault}), left out of {name}" for path, fault in faults.items()]
    else:
        notes.append(f"{name}: cannot be drawn ({next(iter(faults.values()))}), left out")
    return drawing


def _draw(draw: Draw, runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws up to where only the saving is left, since much fails no earlier than when text is laid out."""
    with own_style():
        drawing = draw(runs, notes)
        if drawing is None:
            return None
        floor = (
            floor_of_std([run.config for run in runs.used]) if {STD, GAUSSIAN_ENTROPY} & set(drawing.metrics) else ""
        )
        caption(drawing.figure, _small_print(runs, look, drawing.statistic, floor))
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine(None)  # it is found; with one, even an empty one, saving would draw twice
    return dataclasses.replace(drawing, description=f"{drawing.description} {floor}".rstrip())


def _only(runs: Runs, keep: Callable[[Run], bool]) -> Runs:
    cells = [dataclasses.replace(cell, runs=tuple(filter(keep, cell.runs))) for cell in runs.cells]
    return dataclasses.replace(runs, cells=[cell for cell in cells if cell.runs])


def _without_final_value(runs: Runs, metrics: Sequence[str]) -> list[str]:
    """Notes the finished runs that have records of a metric and yet no final value."""
    return [
        f"{run.directory}: {metric} is missing or not finite in the last tenth of training, so it has no final value"
        for cell in runs.cells
        for run in cell.finished
        for metric in metrics
        if metric in run.metrics and not np.isfinite(run.final(metric))
    ]


def _small_print(runs: Runs, look: Look, statistic: str, floor: str) -> str:
    """Returns command, commits, seeds and statistic."""
    finished = {cell.task + cell.arm: as_ranges(run.seed for run in cell.finished) for cell in runs.cells}
    seeds = ", ".join(dict.fromkeys(filter(None, finished.values()))) if len(set(finished.values())) < 2 else None
    if seeds is None:
        fewest, most = (f(len(cell.finished) for cell in runs.cells) for f in (min, max))
        seeds = f"{as_ranges(run.seed for cell in runs.cells for run in cell.finished)} ({fewest} to {most} an arm)"
    of_directories = [run for run in runs.used if run.file is None]  # a file of curves names no commit
    commits = sorted({str(run.provenance.get("commit") or "unknown")[:12] for run in of_directories})
    shown = ", ".join(commits[:3]) + (f" and {len(commits) - 3} more" if len(commits) > 3 else "")
    command = look.command if len(look.command) <= 240 else look.command[:237] + "..."
    return " | ".join(
        filter(
            None,
            (
                command,
                f"commit {shown}" if commits else "",
                f"finished seeds: {seeds or 'none'}",
                statistic,
                floor,
            ),
        )
    )
