"""What a figure is that compares runs, and how it says what it is drawn of."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from experiments.comparing.drawing import Row
from experiments.comparing.page import Panel
from experiments.comparing.published import PublishedCurve
from experiments.comparing.runs import Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

STATISTIC = "interquartile mean over seeds with its 95% bootstrap interval"
SMALL_PRINT = f"{STATISTIC}; thin lines and dots are single seeds"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure and what belongs to it.

    Attributes:
        name: Of its files.
        title: One line.
        description: What a person who cannot see it needs to know.
        figure: The picture.
        rows: The numbers behind it.
        metrics: What it shows.
        statistic: What is drawn, in its small print.
        panels: The same for a page on which a person points at the lines, if it is made for that.
    """

    name: str
    title: str
    description: str
    figure: "Picture"
    rows: list[Row]
    metrics: Sequence[str]
    statistic: str = SMALL_PRINT
    panels: Sequence[Panel] = ()


@dataclasses.dataclass(frozen=True)
class Look:
    """How to draw.

    Attributes:
        metrics: What the learning curves show.
        x: One of ``X_AXES``.
        reference: Arm that others are compared with, or None for the first one.
        threshold: Of the first metric, whose reaching is drawn; or None.
        published: Returns of others, which are drawn beside.
        command: Stands under every figure.
    """

    metrics: tuple[str, ...]
    x: str = "env_steps"
    reference: str | None = None
    threshold: float | None = None
    published: Sequence[PublishedCurve] = ()
    command: str = ""


Draw = Callable[[Runs, list[str]], Drawing | None]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A function that draws, and when it does.

    Attributes:
        name: Of the figure in messages; "{}" in it becomes the part where it is drawn for each of several.
        draw: Takes runs, look, a list that it may append notes to, and the part if there are several; returns None
            where there turns out to be nothing to draw.
        when: Whether the runs have something for it.
        each: Of what it is drawn once each, for example every metric.
        needs_final: Whether it shows final values, and so needs finished runs.
        place: Figures come in the order of it.
    """

    name: str
    draw: Callable[..., Drawing | None]
    when: Callable[[Runs, Look], bool]
    each: Callable[[Runs, Look], Sequence[str]] | None
    needs_final: bool
    place: float

    def __call__(self, *arguments: object) -> Drawing | None:
        """Draws."""
        return self.draw(*arguments)

    def wanted(self, runs: Runs, look: Look) -> list[tuple[str, Draw]]:
        """Returns what there is to draw of some runs: names, and functions of as many of these runs as can be drawn."""
        if not self.when(runs, look):
            return []
        if self.each is None:
            return [(self.name, lambda runs, notes: self.draw(runs, look, notes))]
        return [(self.name.format(part), self._of_part(look, part)) for part in self.each(runs, look)]

    def _of_part(self, look: Look, part: str) -> Draw:
        return lambda runs, notes: self.draw(runs, look, notes, part)


def figure(
    name: str,
    *,
    when: Callable[[Runs, Look], bool] = lambda runs, look: True,
    each: Callable[[Runs, Look], Sequence[str]] | None = None,
    needs_final: bool = False,
    place: float = 100,
) -> Callable[[Callable[..., Drawing | None]], Figure]:
    """Declares that a function draws a figure; see ``Figure``."""
    return lambda draw: Figure(name, draw, when, each, needs_final, place)
