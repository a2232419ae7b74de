"""Runs that are going: their curves from what is appended to their files, each byte of which is read once."""

import contextlib
import dataclasses
from array import array
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.comparing.comparisons import default_metrics
from experiments.comparing.loading import find, read_without_metrics, sort_into_cells
from experiments.comparing.page import Line, Panel, make_line
from experiments.comparing.panels import POINTS_ON_WALL_CLOCK, plain, styles, task_title
from experiments.comparing.runs import X_AXES, Cell, Run, Series, as_ranges, series_of
from experiments.comparing.statistics import interquartile_mean
from experiments.records.files import CONFIG, FINISHED, METRICS, SUMMARY, NewRecords
from remac.validation import InvalidValueError

BAND = "Line: interquartile mean over the seeds that have come so far; band: from the lowest seed to the highest"
_CHUNK = 2**20  # bytes of one file read at once


@dataclasses.dataclass
class _Followed:
    """A run and its records: for each metric the rows of ``series_of``, one after the other."""

    run: Run
    new: NewRecords
    stamp: tuple[Any, ...]
    columns: dict[str, array]
    env_steps: int = 0

    def read(self) -> int:
        """Reads on; returns how many records came, and also if earlier ones went."""
        records, is_void = self.new.read(_CHUNK)
        if is_void:
            self.columns, self.env_steps = {}, 0
        for env_steps, gradient_steps, wall_seconds, name, value in records:
            rows = self.columns.setdefault(name, array("d"))
            rows.extend((env_steps, gradient_steps, wall_seconds, value))
            self.env_steps = env_steps
        return len(records) + is_void

    def series(self, metric: str) -> Series | None:
        rows = self.columns.get(metric)
        return None if rows is None else series_of(np.array(rows).reshape(-1, 4))


class Progress(NamedTuple):
    """How far the runs of a folder have come.

    Attributes:
        env_steps: Of all runs together.
        total_env_steps: What these will be at the end.
        words: How many runs have finished, and failed.
        has_ended: Whether there is a plan, and all that it has, and all others, have ended.
    """

    env_steps: int
    total_env_steps: int
    words: str
    has_ended: bool


def _stamp(directory: Path) -> tuple[Any, ...]:
    """Returns what changes when a run becomes another one, ends, or goes on after it had ended; that comes last."""
    times = {}
    for name in (CONFIG, METRICS, SUMMARY):
        with contextlib.suppress(OSError):
            times[name] = (directory / name).stat().st_mtime_ns
    goes_on = SUMMARY in times and times.get(METRICS, 0) > times[SUMMARY]
    return times.get(CONFIG), times.get(SUMMARY), goes_on


class Following:
    """The runs in a folder, as they come, go on, end and go.

    Attributes:
        version: Another number whenever something has changed.
        is_behind: Whether there was more to read than one call of ``read`` reads.
        notes: A line for each thing about the runs that needs to be known.
    """

    def __init__(self, directory: Path) -> None:
        """Takes the folder, or the run directory; nothing is read yet."""
        self.version, self.is_behind = 0, False
        self._directory = directory
        self._followed: dict[Path, _Followed] = {}
        self._cells: list[Cell] = []
        self._planned: set[Path] = set()
        self.notes: list[str] = []

    def read(self, limit: int = 8 * _CHUNK) -> None:
        """Reads what is new, at most about so many bytes of metrics."""
        notes: list[str] = []
        try:
            directories, plans, _ = find([self._directory], notes)
        except InvalidValueError:
            directories, plans = [], []
        planned = {Path(run["directory"]) for plan in plans for run in plan.runs}
        has_changed = planned != self._planned
        self._planned = planned
        has_other_runs = self._find_changes(directories)
        if has_other_runs:
            self.notes = []
            runs = [followed.run for followed in self._followed.values()]
            self._cells = sort_into_cells(runs, self.notes) if runs else []
        self.is_behind = False
        for followed in self._followed.values():
            if limit <= 0:
                self.is_behind = True
                break
            has_changed |= followed.read() > 0
            limit -= followed.new.num_bytes
            self.is_behind |= followed.new.is_behind
        self.version += has_changed or has_other_runs

    def _find_changes(self, directories: list[Path]) -> bool:
        """Takes up runs that are new or have ended, and lets those go that are gone; returns whether there are such."""
        has_changed = False
        for gone in self._followed.keys() - set(directories):
            del self._followed[gone]
            has_changed = True
        for directory in directories:
            known = self._followed.get(directory)
            if known is not None and known.stamp == _stamp(directory):
                continue
            stamp, run = _stamp(directory), read_without_metrics(directory, [])
            if run is None:  # its files are being written
                continue
            if run.status != FINISHED and stamp[-1]:
                run = dataclasses.replace(run, summary=None)
            if known is None:
                self._followed[directory] = _Followed(run, NewRecords(directory), stamp, {})
            else:
                known.run, known.stamp = run, stamp
            has_changed = True
        return has_changed

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics that any run has, sorted."""
        return sorted({name for followed in self._followed.values() for name in followed.columns})

    def state(self) -> str:
        """Returns in a line how many runs there are, and in what state."""
        if not self._followed:
            planned = f"; {len(self._planned)} are planned" if self._planned else ""
            return f"{self._directory}: no run yet, waiting for the first{planned}"
        counts = Counter(followed.run.status for followed in self._followed.values())
        states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        planned = f" of {len(self._planned)} planned" if self._planned else ""
        plural = "" if len(self._followed) == 1 and not planned else "s"
        return f"{self._directory}: {len(self._followed)}{planned} run{plural}: {states}"

    def progress(self) -> Progress:
        """Returns how far all runs together have come; planned ones that are not there yet are taken to be as long."""
        states, env_steps, totals = Counter[str](), 0, list[int]()
        for followed in self._followed.values():
            run, steps = followed.run, followed.env_steps
            # What has ended early makes no more steps.
            has_ended = run.summary is not None and run.status != "interrupted"  # such a run may go on
            totals.append(steps if has_ended else max(steps, int(run.config.get("total_env_steps") or 0)))
            env_steps += steps
            states["finished" if run.status == FINISHED else "failed" if has_ended else "going"] += 1
        to_come = len(self._planned - {directory.resolve() for directory in self._followed})
        count, failed = len(totals) + to_come, states["failed"]
        total = sum(totals) + to_come * max(totals, default=0)
        words = f"{states['finished']}/{count} runs finished{f', {failed} failed' if failed else ''}"
        return Progress(env_steps, total, words, bool(self._planned) and not to_come and not states["going"])

    def rows(self) -> list[list[str]]:
        """Returns the rows of a table: task, arm, finished seeds, seeds going, how far, and what is wrong."""
        rows = []
        for cell in self._cells:
            going = [run for run in cell.runs if run.status != FINISHED]
            faults = [f"seed {run.seed}: {run.status} ({run.reason})" for run in going if run.summary is not None]
            done = [self._followed[run.directory].env_steps for run in cell.runs]
            total = max(int(run.config.get("total_env_steps") or 0) for run in cell.runs)
            far = f"{min(done):,}" if min(done) == max(done) else f"{min(done):,} to {max(done):,}"
            seeds = [as_ranges(run.seed for run in some) for some in (cell.finished, going)]
            rows.append([task_title(cell.task), cell.title, *seeds, f"{far} of {total:,}", "; ".join(faults)])
        return rows

    def panels(self, metrics: tuple[str, ...], x: str) -> tuple[tuple[str, ...], list[Panel]]:
        """Returns curves of some metrics, a panel for each task and metric.

        Args:
            metrics: Those that no run has are left out; none: the ones that figures show.
            x: One of ``X_AXES``.

        Returns:
            The metrics shown, and the panels.
        """
        known = self.metrics
        shown = tuple(name for name in metrics if name in known) or default_metrics(known)
        style = styles(self._cells)
        panels = []
        for task in dict.fromkeys(cell.task for cell in self._cells):
            cells = [cell for cell in self._cells if cell.task == task]
            for metric in shown:
                found = [(cell, self._points(cell, metric, x)) for cell in cells]
                lines = [make_running_line(cell.title, *style(cell), points, x) for cell, points in found if points]
                panels.append(Panel(task_title(task), X_AXES[x], plain(metric), lines))
        return shown, panels

    def _points(self, cell: Cell, metric: str, x: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns steps and finite values of each seed that has some."""
        points = []
        for run in cell.runs:
            series = self._followed[run.directory].series(metric)
            if series is not None and (finite := np.isfinite(series.values)).any():
                points.append((getattr(series, x)[finite], series.values[finite]))
        return points


def make_running_line(name: str, colour: Any, dashes: Any, points: list[tuple[np.ndarray, np.ndarray]], x: str) -> Line:
    """Makes a line of seeds that have come to different steps; at each it is about those that have come so far.

    Args:
        name: In the legend.
        colour: Of Matplotlib's.
        dashes: Of Matplotlib's.
        points: Steps and values of each of S seeds.
        x: One of ``X_AXES``.
    """
    steps = np.unique(np.concatenate([own for own, _ in points]))
    if x == "wall_clock":
        steps = np.linspace(steps[0], steps[-1], min(POINTS_ON_WALL_CLOCK, steps.size))
    values = np.stack([np.interp(steps, *own, left=np.nan, right=np.nan) for own in points], axis=-1)
    values = np.sort(values, axis=-1)  # NaN, where a seed has not come, goes to the end
    counts = np.isfinite(values).sum(axis=-1)
    middle, high = np.full(steps.shape, np.nan), np.full(steps.shape, np.nan)
    for count in np.unique(counts[counts > 0]):
        at = counts == count
        middle[at] = interquartile_mean(values[at, :count])
        high[at] = values[at, count - 1]
    low = np.where(counts > 1, values[:, 0], np.nan)
    return make_line(name, colour, dashes, steps, middle, low, np.where(counts > 1, high, np.nan), counts)
