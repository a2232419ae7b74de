"""Pages in a browser: their look, and curves on which a person points at the lines.

Everything a page needs is in it: uPlot (Leon Sorokin, MIT licence, as published in its package 1.6.32) draws the
curves. What stands in ``page_parts`` is put into pages as it is.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

_PARTS = Path(__file__).parent / "page_parts"
_LICENSE = "/* uPlot 1.6.32, (c) Leon Sorokin, MIT licence */"
# Of Matplotlib's names, in pixels.
_DASHES: dict[str, list[float]] = {"-": [], "--": [6, 3], ":": [1.5, 2.5], "-.": [6, 2, 1.5, 2]}


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a panel with its band, T points long.

    Attributes:
        name: In the legend.
        colour: As CSS writes it.
        dashes: Lengths of dashes and gaps in pixels; none for a whole line.
        points: Steps, values, lower and upper ends of the band, and the number of seeds, `[T]` each; None for NaN.
    """

    name: str
    colour: str
    dashes: list[float]
    points: list[list[float | None]]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Lines over one pair of axes: its title, the labels of the axes, and the lines."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]


def make_line(
    name: str,
    colour: Any,
    dashes: Any,
    steps: np.ndarray,
    middle: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    counts: np.ndarray,
) -> Line:
    """Makes a line of what Matplotlib would draw; the arrays, `[T]`, are those of ``Line.points``."""
    from matplotlib.colors import to_hex

    lengths = _DASHES[dashes] if isinstance(dashes, str) else [1.5 * length for length in dashes[1]]
    points = [_short(numbers, digits) for numbers, digits in ((steps, 9), (middle, 5), (low, 5), (high, 5))]
    return Line(name, to_hex(colour), lengths, [*points, [int(count) for count in counts]])


def _short(numbers: np.ndarray, digits: int) -> list[float | None]:
    """Rounds numbers to what can be seen, which makes pages small."""
    return [float(f"{number:.{digits}g}") if math.isfinite(number) else None for number in numbers.tolist()]


@cache
def part(name: str) -> str:
    """Returns a file of ``page_parts``."""
    text = (_PARTS / name).read_text(encoding="utf-8")
    return f"{_LICENSE}\n{text.partition('*/')[2].lstrip()}" if name == "uplot.js" else text


def as_json(value: Any) -> str:
    """Writes data so that it can stand in a script of a page, whatever texts are in it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def plain_panels(panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Returns panels as the page's script takes them."""
    return [dataclasses.asdict(panel) for panel in panels]


def html_page(title: str, body: str, scripts: Sequence[str]) -> str:
    """Returns a page.

    Args:
        title: Any text.
        body: HTML.
        scripts: Files of ``page_parts``, in the order in which they run.
    """
    style = part("page.css") + (part("uplot.css") if "uplot.js" in scripts else "")
    script = "\n".join(map(part, scripts))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body>{body}<script>{script}</script></body></html>\n"
    )
