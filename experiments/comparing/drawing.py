"""What all studies share: tables of numbers, their files, and the look of all figures."""

import contextlib
import csv
import functools
import io
import os
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.console.messages import shorten
from remac.files import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]

# Okabe and Ito's colours, which the colour-blind can tell apart; one per number of retries, in every figure.
COLOURS_OF_RETRIES = {1: "#000000", 2: "#56B4E9", 4: "#E69F00", 8: "#D55E00"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))
COLOURS_OF_AGENTS = {"sac": "#009E73", "ppo": "#0072B2", "td3": "#CC79A7"}
# For agents without one, such as those of published curves: of Tol's muted ones, and grey.
COLOURS_OF_OTHERS = ("#332288", "#882255", "#999933", "#44AA99", "#AA4499", "#999999")
_OTHER_COLOURS = ("#CC79A7", "#0072B2", "#F0E442")
# Of Matplotlib's settings for the user: a backend for windows, and a file of defaults.
_SETTINGS_OF_CALLERS = ("MPLBACKEND", "MATPLOTLIBRC")
PDF_FONT_TYPE = 42  # as outlines that publishers accept


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draws and saves figures with Matplotlib's defaults, whatever backend and settings the caller has for it.

    A notebook's backend cannot even be imported elsewhere, and then Matplotlib cannot either.
    """
    hidden = {name: os.environ.pop(name) for name in _SETTINGS_OF_CALLERS if name in os.environ}
    try:
        import matplotlib
    finally:
        os.environ |= hidden
    with matplotlib.rc_context(), np.errstate(all="ignore"):  # numbers of runs that diverged may be huge
        matplotlib.rcdefaults()
        matplotlib.rcParams["pdf.fonttype"] = PDF_FONT_TYPE
        yield


def readable(text: str, width: int, lines: int = 2) -> str:
    """Makes any text, such as that of a configuration, fit to stand in a figure.

    Args:
        text: May hold line breaks, dollar signs, and characters that do not show or of which the font has no picture.
        width: Characters in a line.
        lines: If it takes more, it is shortened, and stays different from others with the same beginning.

    Returns:
        The text without mathematics; neither empty nor with the underscore that keeps a label out of a legend.
    """
    shown = " ".join(text.split())
    shown = "".join(c if c.isprintable() and _has_picture(c) else ascii(c)[1:-1] for c in shown)
    wrapped = textwrap.wrap(shown, width, break_on_hyphens=False)
    if len(wrapped) > lines:
        shown = shorten(shown, width * lines)
        wrapped = [shown[start : start + width] for start in range(0, len(shown), width)]
    shown = "\n".join(wrapped).replace("$", r"\$") or "''"
    return f" {shown}" if shown.startswith("_") else shown


@functools.cache
def _has_picture(character: str) -> bool:
    """Whether the font of figures has a character."""
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont("DejaVu Sans")).get_char_index(ord(character)) != 0


def new_figure(
    rows: int, columns: int, *, panel: tuple[float, float] = (2.5, 2.3), **shared: Any
) -> tuple["Figure", Any]:
    """Makes a figure with a grid of panels, in a size and with fonts that a paper can use.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        panel: Width and height of one, in inches.
        **shared: Passed on to `Figure.subplots` (``sharex``, ``sharey``).

    Returns:
        The figure and its axes, `[rows, columns]`.
    """
    # Without pyplot there is no global state, and no display is looked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for panel_axes in axes.flat:
        panel_axes.tick_params(labelsize=7, which="both")
        panel_axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def new_panels(count: int, columns: int, panel: tuple[float, float]) -> tuple["Figure", list["Axes"]]:
    """Makes a figure of so many panels, in rows of so many columns, and returns both; see ``new_figure``."""
    figure, axes = new_figure(-(-count // columns), columns, panel=panel)
    for left in axes.flat[count:]:
        left.set_visible(False)
    return figure, list(axes.flat[:count])


def label(axes: "Axes", *, title: str = "", x: str = "", y: str = "") -> None:
    """Labels a panel in the size that all panels have; ticks of an axis of steps are 500k and 1M, which fit."""
    if x.endswith(" steps"):
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)


def colour_of(agent: str, num_retries: int | None) -> str:
    """Returns the colour that an agent, or a number of retries, has in every figure."""
    if num_retries is None:
        return COLOURS_OF_AGENTS.get(agent, COLOURS_OF_OTHERS[-1])
    return COLOURS_OF_RETRIES.get(num_retries, _OTHER_COLOURS[num_retries % len(_OTHER_COLOURS)])


def shade(number: int, count: int) -> tuple[float, ...]:
    """Returns one of an ordered range of colours, dark to light, which are none of those of M."""
    from matplotlib import colormaps

    return colormaps["magma"](0.15 + 0.6 * number / max(count - 1, 1))


def caption(figure: "Figure", text: str) -> None:
    """Writes small print under a figure, as wide as the figure is, which grows by it."""
    shown = readable(text, int(figure.get_figwidth() * 24), lines=20)
    figure.set_figheight(figure.get_figheight() + 0.1 * shown.count("\n"))
    figure.supxlabel(shown, x=0.01, ha="left", fontsize=5.5, color="#555555")


def legend(figure: "Figure", axes: Iterable["Axes"]) -> None:
    """Puts one legend above all panels, with an entry for each label in any; the figure grows by it."""
    entries: dict[str, Artist] = {}
    for panel in axes:
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    if entries:
        longest = max(len(line) for text in entries for line in text.split("\n")) * 0.07 + 0.5
        columns = max(1, min(len(entries), int(figure.get_figwidth() / longest)))
        lines = -(-len(entries) // columns) * max(text.count("\n") + 1 for text in entries)
        figure.set_figheight(figure.get_figheight() + 0.14 * (lines - 1))
        shown = figure.legend(
            entries.values(), entries, loc="outside upper center", ncols=columns, frameon=False, fontsize=7
        )
        for line in shown.get_lines():
            line.set_alpha(1.0)


def write_csv(path: Path, rows: list[Row]) -> None:
    """Writes a table whose rows have equal keys."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    write_whole(path, file.getvalue().encode(errors="backslashreplace"))


def save(directory: Path, name: str, rows: list[Row], figure: "Figure") -> list[Path]:
    """Writes a study's numbers and picture: `<name>.csv`, `<name>.png` and `<name>.pdf`.

    Args:
        directory: Made if it does not exist.
        name: Name of the study.
        rows: The numbers, all with the same keys.
        figure: The picture of them.

    Returns:
        The files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = files_of(directory, name)
    write_csv(files[0], rows)
    with own_style():
        figure.savefig(files[1], dpi=200)
        # The layout stays as it is: finding it takes most of the time.
        figure.set_layout_engine("none")
        # No date, so that equal numbers give equal files.
        figure.savefig(files[2], metadata={"CreationDate": None})
    return files


def files_of(directory: Path, name: str) -> list[Path]:
    """Returns what ``save`` writes."""
    return [directory / f"{name}.{ending}" for ending in ("csv", "png", "pdf")]


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Returns the rows that have the wanted values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def column(rows: Iterable[Row], name: str) -> list[Any]:
    """Returns one column of a table."""
    return [row[name] for row in rows]


def unique(rows: Iterable[Row], name: str) -> list[Any]:
    """Returns the different values of a column, in the order of their first appearance."""
    return list(dict.fromkeys(column(rows, name)))


def _text(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, str | int) else f"{float(value):.8g}"
