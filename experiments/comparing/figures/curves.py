"""Learning curves: all arms in a panel, and grids in which a panel stands for a setting."""

from collections.abc import Iterable

from experiments.comparing.curve_files import rows_of
from experiments.comparing.declarations import SMALL_PRINT, STATISTIC, Drawing, Look, figure
from experiments.comparing.drawing import label, legend, new_figure, new_panels, readable
from experiments.comparing.page import Panel
from experiments.comparing.panels import (
    FACTOR_LABELS,
    TITLE_WIDTH,
    by_retries,
    draw_curves,
    metric_label,
    plain,
    settings_text,
    styles,
    task_title,
)
from experiments.comparing.published import PublishedCurve, draw_published, known_on, sources_of
from experiments.comparing.runs import MEAN_RETURN, X_AXES, Cell, Runs

MOST_LINES = 10


@figure("curves", place=10)
def curves(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws learning curves: a row per task and a column per metric, or a grid of tasks for one metric."""
    shown = _shown_in_curves(runs, notes)
    tasks = list(dict.fromkeys(cell.task for cell in shown))
    panels = [(task, metric) for task in tasks for metric in look.metrics]
    columns = _columns(len(tasks), len(look.metrics))
    beside = look.published if MEAN_RETURN in look.metrics and look.x == "env_steps" else ()
    figure, axes = new_panels(len(panels), columns, (3.9 if beside else 3.2, 2.6))
    style, shown_panels, theirs = styles(shown), list[Panel](), list[PublishedCurve]()
    if beside:
        figure.set_layout_engine("constrained", w_pad=0.1)  # between their names and the next panel
    for panel, (task, metric) in zip(axes, panels, strict=True):
        cells = [cell for cell in shown if cell.task == task]
        lines = draw_curves(panel, cells, metric, look.x, style, lambda cell: cell.title)
        if metric == MEAN_RETURN and (known := known_on(task, cells, beside)):
            lines += draw_published(panel, known)
            theirs += known
        shown_panels.append(Panel(task_title(task), X_AXES[look.x], plain(metric), lines))
        label(panel, title=readable(task_title(task), TITLE_WIDTH), x=X_AXES[look.x], y=metric_label(metric))
    legend(figure, axes)
    extra = [name for name in ("eval/return", "eval/entropy") if name not in look.metrics]
    what = ", ".join(plain(metric) for metric in look.metrics)
    sources = sources_of(theirs)
    return Drawing(
        "curves",
        "Learning curves",
        f"Curves of {what} against {X_AXES[look.x]} on {', '.join(tasks)}, a line each for "
        f"{', '.join(dict.fromkeys(cell.title for cell in shown))}: {STATISTIC}; thin lines are single seeds"
        f"{sources and f'; {sources}'}.",
        figure,
        rows_of(runs.cells, (*look.metrics, *extra), look.x),
        look.metrics,
        f"{SMALL_PRINT}{sources and f'; {sources}'}",
        panels=shown_panels,
    )


@figure("grid of {}", when=lambda runs, _: _has_grids(runs), each=lambda _, look: look.metrics, place=20)
def grid(runs: Runs, look: Look, notes: list[str], metric: str) -> Drawing | None:
    """Draws learning curves of one metric: a row per task, a column per variant (such as epsilon), a line per M."""
    variants, panels = _variants(runs), list[Panel]()
    figure, axes = new_figure(len(runs.tasks), len(variants), panel=(2.6, 2.3), sharey="row", sharex="row")
    for row, task in zip(axes, runs.tasks, strict=True):
        for panel, variant in zip(row, variants, strict=True):
            cells = [cell for cell in runs.on(task) if cell.num_retries is None or _variant(cell) == variant]
            lines = draw_curves(panel, cells, metric, look.x, by_retries, lambda cell: cell.base_label)
            panels.append(Panel(f"{task_title(task)}, {variant}", X_AXES[look.x], plain(metric), lines))
            title = f"{readable(task_title(task), TITLE_WIDTH)}\n{readable(variant, TITLE_WIDTH)}"
            label(panel, title=title, x=X_AXES[look.x], y=metric_label(metric) if panel is row[0] else "")
    legend(figure, axes.flat)
    name = _short(metric)
    if [_short(other) for other in look.metrics].count(name) > 1:
        name = metric.replace("/", "_")
    return Drawing(
        f"grid_{name}",
        f"{plain(metric).capitalize()} by {', '.join(_names_of(runs.cells))}",
        f"Curves of {plain(metric)} against {X_AXES[look.x]}: a row for each of {', '.join(runs.tasks)}, a column for "
        f"each of {'; '.join(variants)}, a line for each M and for agents without retries: {STATISTIC}.",
        figure,
        rows_of(runs.cells, (metric,), look.x),
        (metric,),
        panels=panels,
    )


def _short(metric: str) -> str:
    return metric.removeprefix("eval/").removeprefix("actor/").replace("/", "_")


def _shown_in_curves(runs: Runs, notes: list[str]) -> list[Cell]:
    """Returns the cells that fit into one panel: all, or those of the first variant."""
    if max(len(runs.on(task)) for task in runs.tasks) <= MOST_LINES:
        return runs.cells
    if len(variants := _variants(runs)) < 2:
        return runs.cells
    first = variants[0]
    rest = ", the grids have all" if _has_grids(runs) else ""
    notes.append(f"curves: too many arms for one panel; shown are those with {first}{rest}")
    return [cell for cell in runs.cells if cell.num_retries is None or _variant(cell) == first]


def _columns(num_tasks: int, num_metrics: int) -> int:
    if num_metrics == 1:
        return min(num_tasks, 4)
    return 2 if num_tasks == 1 and num_metrics > 2 else num_metrics


def _variants(runs: Runs) -> list[str]:
    """Returns the variants of agents with retries, as text."""
    return list(dict.fromkeys(_variant(cell) for cell in runs.cells if cell.num_retries is not None))


def _variant(cell: Cell) -> str:
    return settings_text(cell.variant)


def _names_of(cells: Iterable[Cell]) -> list[str]:
    keys = dict.fromkeys(key for cell in cells if cell.num_retries is not None for key in cell.variant)
    return [FACTOR_LABELS.get(key, key) for key in keys]


def _has_grids(runs: Runs) -> bool:
    """Whether both M and another setting vary."""
    return len(_variants(runs)) > 1 and len({cell.num_retries for cell in runs.cells if cell.num_retries}) > 1
