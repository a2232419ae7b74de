"""What all studies share: tables of numbers, their files, and the look of all figures."""

import csv
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]

# Okabe and Ito's colours, which the colour-blind can tell apart; one per number of retries, in every figure.
COLOURS_OF_RETRIES = {1: "#000000", 2: "#56B4E9", 4: "#E69F00", 8: "#D55E00"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))
COLOURS_OF_AGENTS = {"sac": "#009E73", "ppo": "#0072B2"}
_OTHER_COLOURS = ("#CC79A7", "#0072B2", "#F0E442")


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


def label(axes: "Axes", *, title: str = "", x: str = "", y: str = "") -> None:
    """Labels a panel in the size that all panels have."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)


def colour_of(agent: str, num_retries: int | None) -> str:
    """Returns the colour that an agent, or a number of retries, has in every figure."""
    if num_retries is None:
        return COLOURS_OF_AGENTS.get(agent, "#999999")
    return COLOURS_OF_RETRIES.get(num_retries, _OTHER_COLOURS[num_retries % len(_OTHER_COLOURS)])


def shade(number: int, count: int) -> tuple[float, ...]:
    """Returns one of an ordered range of colours, dark to light, which are none of those of M."""
    from matplotlib import colormaps

    return colormaps["magma"](0.15 + 0.6 * number / max(count - 1, 1))


def caption(figure: "Figure", text: str) -> None:
    """Writes small print under a figure, as wide as the figure is."""
    width = int(figure.get_figwidth() * 24)
    figure.supxlabel(
        "\n".join(textwrap.wrap(text, width)), x=0.01, ha="left", fontsize=5.5, color="#555555", parse_math=False
    )


def legend(figure: "Figure", axes: Iterable["Axes"]) -> None:
    """Puts one legend above all panels, with an entry for each label in any of them."""
    entries = {}
    for panel in axes:
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    if entries:
        longest = max(map(len, entries)) * 0.07 + 0.5
        columns = max(1, min(len(entries), int(figure.get_figwidth() / longest)))
        figure.legend(entries.values(), entries, loc="outside upper center", ncols=columns, frameon=False, fontsize=7)


def write_csv(path: Path, rows: list[Row]) -> None:
    """Writes a table whose rows have equal keys."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)


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
    import matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"{name}.{ending}" for ending in ("csv", "png", "pdf")]
    write_csv(files[0], rows)
    figure.savefig(files[1], dpi=200)
    # The layout stays as it is: finding it takes most of the time.
    figure.set_layout_engine("none")
    # Fonts as outlines that publishers accept, and no date, so that equal numbers give equal files.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(files[2], metadata={"CreationDate": None})
    return files


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
