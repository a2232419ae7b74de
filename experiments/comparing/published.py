"""What others have published: returns at some numbers of env steps, drawn in grey beside curves of the same task.

``published_returns.csv`` has a row for each task, method and number of env steps: what the seeds reached with the mean
action, and where that is written. A table of one's own has the same columns.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.comparing.curve_files import TableRow, read_number, read_table, read_text, read_whole, task_of
from experiments.comparing.drawing import MARKERS, readable
from experiments.comparing.page import Line, make_line
from experiments.comparing.runs import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE = Path(__file__).with_name("published_returns.csv")
COLUMNS = ("env_name", "method", "env_steps", "seeds", "interquartile_mean", "source")
GREY = "#7a7a7a"
_NEAR_END = 1.05  # times the steps of a training, which may end within its last round
_LABEL_GAP = 0.065  # between two labels, as a share of a panel's height


@dataclasses.dataclass(frozen=True)
class PublishedCurve:
    """What a method reached on a task, at T numbers of env steps.

    Attributes:
        task: As it is called here.
        env_name: As it is called there.
        method: Its name.
        source: Where it is written.
        env_steps: `[T]`, increasing.
        returns: Interquartile mean over seeds of the return of the mean action, `[T]`.
        seeds: How many, `[T]`.
    """

    task: str
    env_name: str
    method: str
    source: str
    env_steps: np.ndarray
    returns: np.ndarray
    seeds: np.ndarray

    @property
    def name(self) -> str:
        """The method in a legend."""
        return f"{self.method}, published"

    @property
    def short_name(self) -> str:
        """The method beside its line, without what stands in brackets."""
        return f"{self.method.partition(' (')[0]}, published"


def read_published(path: Path) -> list[PublishedCurve]:
    """Reads a table of published returns.

    Raises:
        ValueError: Naming what is wrong with the file.
    """
    found: dict[tuple[str, str, str], dict[int, tuple[float, int]]] = {}

    def take(number: int, row: TableRow) -> None:
        env_name, method, source = (read_text(row, column) for column in ("env_name", "method", "source"))
        env_steps, seeds = (read_whole(row, column) for column in ("env_steps", "seeds"))
        points = found.setdefault((env_name, method, source), {})
        if env_steps in points:
            raise ValueError(f"has {env_steps:,} env steps of {method} on {env_name} again")
        value = read_number(row, "interquartile_mean")
        if not np.isfinite(value):
            raise ValueError(f"interquartile_mean={value}: must be finite")
        points[env_steps] = (value, seeds)

    read_table(path, "published returns", COLUMNS, take)
    if not found:
        raise ValueError("holds no return")
    return [_curve(*names, points) for names, points in found.items()]


def _curve(env_name: str, method: str, source: str, points: dict[int, tuple[float, int]]) -> PublishedCurve:
    steps = np.array(sorted(points))
    returns, seeds = (np.array(column) for column in zip(*(points[step] for step in steps), strict=True))
    return PublishedCurve(task_of(env_name), env_name, method, source, steps, returns, seeds)


def known_on(task: str, cells: Sequence[Cell], published: Iterable[PublishedCurve]) -> list[PublishedCurve]:
    """Returns what is published of a task, up to where the arms on it have come.

    Env steps are taken to be control steps, there as here, for however many of them an action is held.
    """
    task = re.sub(r" action_repeat=\d+$", "", task)
    last = max((run.env_steps for cell in cells for run in cell.runs), default=0)
    known = []
    for curve in published:
        near = curve.env_steps <= _NEAR_END * last
        if curve.task == task and near.any():
            parts = {name: getattr(curve, name)[near] for name in ("env_steps", "returns", "seeds")}
            known.append(dataclasses.replace(curve, **parts))
    return known


def draw_published(panel: "Axes", curves: Sequence[PublishedCurve]) -> list[Line]:
    """Draws thin grey lines, each with its name at its end, right of the panel; returns them for a page."""
    lines = []
    for curve, marker in zip(curves, MARKERS * len(curves), strict=False):
        points = curve.env_steps, curve.returns
        panel.plot(*points, color=GREY, linewidth=0.8, marker=marker, markersize=2.5, zorder=1)
        nothing = np.full(curve.returns.shape, np.nan)
        lines.append(make_line(curve.name, GREY, ":", *points, nothing, nothing, curve.seeds))
    low, high = panel.get_ylim()
    ends = sorted(curves, key=lambda curve: float(curve.returns[-1]))
    places = _apart([(float(curve.returns[-1]) - low) / (high - low) for curve in ends])
    short = collections.Counter(curve.short_name for curve in curves)
    for curve, place in zip(ends, places, strict=True):
        panel.annotate(
            readable(curve.short_name if short[curve.short_name] == 1 else curve.name, 30),
            (float(curve.env_steps[-1]), float(curve.returns[-1])),
            (1.03, place),
            textcoords="axes fraction",
            fontsize=6,
            color="#555555",
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 0},
        )
    return lines


def _apart(heights: Sequence[float]) -> list[float]:
    """Moves heights, which increase, as little upwards, and then downwards, as leaves room for a line of text each."""
    places = list[float]()
    for height in heights:
        places.append(max(height, places[-1] + _LABEL_GAP) if places else height)
    top = 1.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], top)
        top = places[index] - _LABEL_GAP
    return places


def sources_of(curves: Iterable[PublishedCurve]) -> str:
    """Says whose returns are drawn in grey, and where they are written; nothing if there are none."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for curve in curves:
        tasks.setdefault((curve.method, curve.source), []).append(curve.env_name)
    named = "; ".join(f"{method} on {', '.join(names)} ({source})" for (method, source), names in tasks.items())
    return (
        f"grey: interquartile means over seeds as published, of the mean action, by control steps: {named}"
        if named
        else ""
    )
