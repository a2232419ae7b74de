"""Final values: of each arm, against each setting that varies, and as differences on the same seeds."""

from collections.abc import Sequence

from experiments.comparing.declarations import STATISTIC, Drawing, Look, figure
from experiments.comparing.drawing import Row, label, legend, new_figure, readable
from experiments.comparing.panels import (
    FACTOR_LABELS,
    TITLE_WIDTH,
    draw_against,
    draw_dots,
    draw_level,
    group_style,
    metric_label,
    plain,
    settings_text,
    task_title,
    ticks_of,
    value_of,
)
from experiments.comparing.runs import Cell, Runs, value_text

UPDATE_METRICS = ("actor/raises_std", "actor/grad_norm", "actor/update_norm")


def factors(runs: Runs) -> list[str]:
    """Returns what varies among agents with retries: M, and settings that differ between arms of equal M."""
    cells = [cell for cell in runs.cells if cell.num_retries is not None]
    names = ["num_retries"] if len({cell.num_retries for cell in cells}) > 1 else []
    return names + [key for key in dict.fromkeys(key for cell in cells for key in cell.variant)]


@figure("final", needs_final=True, place=30)
def final(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws every seed's final values: a row per task, a column per metric, an arm per line."""
    figure = draw_dots(runs, look.metrics, lambda cell, metric: cell.by_seed(metric), [])
    names = sorted({name for run in runs.used for name in run.metrics if not name.startswith("time/")})
    return Drawing(
        "final",
        "Final values",
        f"Mean over the last tenth of training of {', '.join(map(plain, look.metrics))} for each arm and task: a dot "
        f"per seed, {STATISTIC} as a bar. The table of final values holds the numbers.",
        figure,
        [
            {"task": cell.task, "arm": cell.arm, "seed": run.seed}
            | {name: run.final(name) if name in run.metrics else None for name in names}
            for cell in runs.cells
            for run in cell.finished
        ],
        look.metrics,
    )


@figure("final_against_{}", each=lambda runs, _: factors(runs), needs_final=True, place=40)
def final_against(runs: Runs, look: Look, notes: list[str], factor: str) -> Drawing | None:
    """Draws final values against one setting."""
    return _against(runs, factor, look.metrics, f"final_against_{factor}")


@figure(
    "updates_against_num_retries",
    when=lambda runs, _: "num_retries" in factors(runs) and bool(_update_metrics(runs)),
    needs_final=True,
    place=50,
)
def updates_against_num_retries(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws against M what the actor's updates were like at the end."""
    return _against(runs, "num_retries", _update_metrics(runs), "updates_against_num_retries")


@figure("paired", needs_final=True, place=60)
def paired(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws each arm's difference to the reference arm, seed by seed; nothing if no seeds are shared."""
    references = {task: reference_of(runs.on(task), look.reference) for task in runs.tasks}
    rows: list[Row] = []

    def difference(cell: Cell, metric: str) -> dict[int, float]:
        reference = references[cell.task]
        if reference is None or cell is reference:
            return {}
        theirs = reference.by_seed(metric)
        return {seed: value - theirs[seed] for seed, value in cell.by_seed(metric).items() if seed in theirs}

    if not any(difference(cell, metric) for cell in runs.cells for metric in look.metrics):
        return None
    taken_off = {task: cell.arm for task, cell in references.items() if cell is not None}
    figure = draw_dots(runs, look.metrics, difference, rows, references=taken_off)
    names = ", ".join(dict.fromkeys(taken_off.values()))
    return Drawing(
        "paired",
        f"Paired differences to {names}",
        f"Final values of each arm minus those of {names} on the same seed, for "
        f"{', '.join(map(plain, look.metrics))} and every task: a dot per seed, {STATISTIC} as a bar.",
        figure,
        rows,
        look.metrics,
    )


def _against(runs: Runs, factor: str, metrics: Sequence[str], name: str) -> Drawing:
    """Draws final values against one setting: a row per task, a column per metric, a line per group of other settings.

    Agents without retries are level lines with their interval as a band.
    """
    figure, axes = new_figure(len(runs.tasks), len(metrics), panel=(2.8, 2.3))
    cells = [cell for cell in runs.cells if cell.num_retries is not None and value_of(cell, factor) is not None]
    ticks = ticks_of(value_of(cell, factor) for cell in cells)
    lines = {cell.arm: line_name(cell, factor) for cell in cells}
    groups = list(dict.fromkeys(lines.values()))
    rows = []
    for row, task in zip(axes, runs.tasks, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            for number, group in enumerate(groups):
                members = [cell for cell in runs.on(task) if lines.get(cell.arm) == group]
                members.sort(key=lambda cell: ticks.index(value_text(value_of(cell, factor))))
                colour, dashes = group_style(group, groups, factor, members)
                offset = 0.08 * (number - (len(groups) - 1) / 2) if len(groups) < 8 else 0.0
                rows += draw_against(panel, members, metric, factor, ticks, (group, colour, dashes, offset))
            for cell in (cell for cell in runs.on(task) if cell.num_retries is None):
                rows += draw_level(panel, cell, metric, factor)
            x = readable(FACTOR_LABELS.get(factor, factor), 40)
            label(panel, title=readable(task_title(task), TITLE_WIDTH), x=x, y=metric_label(metric))
            shown = [readable(tick, 30) for tick in ticks]
            turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, shown)) > 24 else {}
            panel.set_xticks(range(len(ticks)), shown, **turned)
            panel.set_xlim(-0.5, len(ticks) - 0.5)
            panel.grid(alpha=0.3)
    legend(figure, axes.flat)
    what = ", ".join(map(plain, metrics))
    return Drawing(
        name,
        f"Final {what} against {FACTOR_LABELS.get(factor, factor)}",
        f"Mean over the last tenth of training of {what} against {FACTOR_LABELS.get(factor, factor)} "
        f"({', '.join(ticks)}) on {', '.join(runs.tasks)}, {STATISTIC}; dots are seeds.",
        figure,
        rows,
        metrics,
    )


def _update_metrics(runs: Runs) -> tuple[str, ...]:
    return tuple(name for name in UPDATE_METRICS if any(name in run.metrics for run in runs.used))


def reference_of(cells: Sequence[Cell], name: str | None) -> Cell | None:
    """Returns the arm that others are compared with: the one named, else an agent without retries, else the least M."""
    if name is not None:
        return next((cell for cell in cells if cell.arm == name), None)
    return next(iter(cells), None)


def line_name(cell: Cell, factor: str) -> str:
    """Names what a cell shares with the others on its line: everything but the factor."""
    rest = settings_text({key: value for key, value in cell.variant.items() if key != factor})
    if factor == "num_retries":
        return rest or cell.kind.replace("remac", "ReMAC")
    return ", ".join(filter(None, (f"M={cell.num_retries}", rest)))
