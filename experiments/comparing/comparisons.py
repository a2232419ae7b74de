"""Figures that compare runs, as functions of the cells they are sorted into; nothing is read or written here."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.comparing.figures import Row, caption, label, legend, new_figure, own_style, readable
from experiments.comparing.panels import (
    ENTROPY,
    FACTOR_LABELS,
    GAUSSIAN_ENTROPY,
    RETURN,
    STD,
    TITLE_WIDTH,
    by_retries,
    draw_against,
    draw_curves,
    draw_dots,
    draw_interval,
    draw_level,
    draw_speeds,
    group_style,
    metric_label,
    name_lines,
    plain,
    settings_text,
    styles,
    ticks_of,
    value_of,
)
from experiments.comparing.runs import X_AXES, Cell, Run, Runs, as_ranges, value_text
from experiments.comparing.statistics import describe, interquartile_interval, interquartile_mean
from experiments.console.messages import one_line
from remac.validation import InvalidValueError, require_one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Runs, list[str]], list["Drawing"]]

DEFAULT_METRICS = (RETURN, ENTROPY, GAUSSIAN_ENTROPY, STD)
UPDATE_METRICS = ("actor/raises_std", "actor/grad_norm", "actor/update_norm")
MOST_LINES = 10
STATISTIC = "interquartile mean over seeds with its 95% bootstrap interval"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure and what belongs to it.

    Attributes:
        name: Of its files.
        title: One line.
        description: What a person who cannot see it needs to know.
        figure: The picture.
        rows: The numbers behind it.
        statistic: What is drawn, in its small print.
    """

    name: str
    title: str
    description: str
    figure: "Figure"
    rows: list[Row]
    statistic: str = f"{STATISTIC}; thin lines and dots are single seeds"


@dataclasses.dataclass(frozen=True)
class Look:
    """How to draw.

    Attributes:
        metrics: What the learning curves show.
        x: One of ``X_AXES``.
        reference: Arm that others are compared with, or None for the first one.
        command: Stands under every figure.
    """

    metrics: tuple[str, ...]
    x: str = "env_steps"
    reference: str | None = None
    command: str = ""


def make_look(runs: Runs, settings: dict[str, str], command: str) -> Look:
    """Checks ``metric``, ``x`` and ``reference`` against the runs.

    Raises:
        InvalidValueError: If a metric is in no run, or the reference is no arm.
    """
    known = sorted({name for run in runs.used for name in run.metrics})
    if not known:
        raise InvalidValueError("directories", f"{len(runs.used)} runs", "hold no record of any metric yet")
    chosen = tuple(filter(None, settings.get("metric", "").split(",")))
    for name in chosen:
        require_one_of("metric", name, known)
    if not chosen:
        chosen = tuple(name for name in DEFAULT_METRICS if name in known)
        if RETURN not in known and "eval/return" in known:
            chosen = ("eval/return", *chosen)
    reference = settings.get("reference") or None
    if reference is not None:
        require_one_of("reference", reference, runs.arms)
    return Look(chosen or tuple(known[:1]), settings.get("x", "env_steps"), reference, command)


def draw_all(runs: Runs, look: Look, notes: list[str]) -> list[Drawing]:
    """Draws every figure that the runs have something for; which ones follows from what varies among them.

    A run that cannot be drawn in a figure is left out of it, and a figure without which the others can be drawn too;
    either is noted.
    """
    wanted: dict[str, Draw] = {"curves": lambda runs, notes: [curves(runs, _shown_in_curves(runs, notes), look)]}
    if _has_grids(runs):
        for metric in look.metrics:
            wanted[f"grid of {metric}"] = lambda runs, _, metric=metric: [grid(runs, metric, look)]
    if any(cell.finished for cell in runs.cells):
        wanted |= _drawings_of_final_values(runs, look)
        notes += _without_final_value(runs, look.metrics)
    else:
        notes.append("no run has finished: there are no final values")
    return [drawing for name, draw in wanted.items() for drawing in _try(name, draw, runs, look, notes)]


def _drawings_of_final_values(runs: Runs, look: Look) -> dict[str, Draw]:
    wanted: dict[str, Draw] = {"final": lambda runs, _: [final(runs, look)]}
    for factor in factors(runs):
        name = f"final_against_{factor}"
        wanted[name] = lambda runs, _, f=factor, name=name: [final_against(runs, f, look.metrics, name, look)]
    updates = tuple(name for name in UPDATE_METRICS if any(name in run.metrics for run in runs.used))
    if "num_retries" in factors(runs) and updates:
        name = "updates_against_num_retries"
        wanted[name] = lambda runs, _, name=name: [final_against(runs, "num_retries", updates, name, look)]
    wanted["paired"] = lambda runs, _: paired(runs, look)
    wanted["aggregate"] = lambda runs, notes: aggregate(runs, look, notes)
    if any(run.experiment == "speed" for run in runs.used):
        wanted["speed"] = lambda runs, _: [speed(runs, look)]
    return wanted


def _try(name: str, draw: Draw, runs: Runs, look: Look, notes: list[str]) -> list[Drawing]:
    """Draws with all runs, or with those that can be drawn, or not at all; notes what is left out, and why."""
    kept: list[Run] = []
    drawings: list[Drawing] = []
    notes_of_figure: list[str] = []

    def add(more: Sequence[Run]) -> dict[Path, str]:
        """Draws with more runs than before, as many as can be; returns what is wrong with the others."""
        nonlocal drawings, notes_of_figure
        tried = {id(run) for run in (*kept, *more)}
        own_notes: list[str] = []
        try:
            drawings = _draw(draw, _only(runs, lambda run: id(run) in tried), look, own_notes)
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
    return drawings


def _draw(draw: Draw, runs: Runs, look: Look, notes: list[str]) -> list[Drawing]:
    """Draws up to where only the saving is left, since much fails no earlier than when text is laid out."""
    with own_style():
        drawings = draw(runs, notes)
        for drawing in drawings:
            caption(drawing.figure, _small_print(runs, look, drawing.statistic))
            drawing.figure.draw_without_rendering()
            drawing.figure.set_layout_engine("none")  # it is found, which takes most of the time
    return drawings


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


def factors(runs: Runs) -> list[str]:
    """Returns what varies among agents with retries: M, and settings that differ between arms of equal M."""
    cells = [cell for cell in runs.cells if cell.num_retries is not None]
    names = ["num_retries"] if len({cell.num_retries for cell in cells}) > 1 else []
    return names + [key for key in dict.fromkeys(key for cell in cells for key in cell.variant)]


def curves(runs: Runs, shown: Sequence[Cell], look: Look) -> Drawing:
    """Draws learning curves: a row per task and a column per metric, or a grid of tasks for one metric."""
    tasks = list(dict.fromkeys(cell.task for cell in shown))
    panels = [(task, metric) for task in tasks for metric in look.metrics]
    columns = _columns(len(tasks), len(look.metrics))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, panel=(3.2, 2.6))
    style = styles(shown)
    for panel, (task, metric) in zip(axes.flat, panels, strict=False):
        cells = [cell for cell in shown if cell.task == task]
        draw_curves(panel, cells, metric, look.x, style, lambda cell: cell.arm)
        label(panel, title=readable(task, TITLE_WIDTH), x=X_AXES[look.x], y=metric_label(metric))
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    legend(figure, axes.flat)
    extra = [name for name in ("eval/return", "eval/entropy") if name not in look.metrics]
    what = ", ".join(plain(metric) for metric in look.metrics)
    return Drawing(
        "curves",
        "Learning curves",
        f"Curves of {what} against {X_AXES[look.x]} on {', '.join(tasks)}, a line each for "
        f"{', '.join(dict.fromkeys(cell.arm for cell in shown))}: {STATISTIC}; thin lines are single seeds.",
        figure,
        _curve_rows(runs.cells, (*look.metrics, *extra), look.x),
    )


def grid(runs: Runs, metric: str, look: Look) -> Drawing:
    """Draws learning curves of one metric: a row per task, a column per variant (such as epsilon), a line per M."""
    variants = _variants(runs)
    figure, axes = new_figure(len(runs.tasks), len(variants), panel=(2.6, 2.3), sharey="row", sharex="row")
    for row, task in zip(axes, runs.tasks, strict=True):
        for panel, variant in zip(row, variants, strict=True):
            cells = [cell for cell in runs.on(task) if cell.num_retries is None or _variant(cell) == variant]
            draw_curves(panel, cells, metric, look.x, by_retries, lambda cell: cell.base_label)
            title = f"{readable(task, TITLE_WIDTH)}\n{readable(variant, TITLE_WIDTH)}"
            label(panel, title=title, x=X_AXES[look.x], y=metric_label(metric) if panel is row[0] else "")
    legend(figure, axes.flat)
    name = metric.removeprefix("eval/").removeprefix("actor/").replace("/", "_")
    return Drawing(
        f"grid_{name}",
        f"{plain(metric).capitalize()} by {', '.join(_names_of(runs.cells))}",
        f"Curves of {plain(metric)} against {X_AXES[look.x]}: a row for each of {', '.join(runs.tasks)}, a column for "
        f"each of {'; '.join(variants)}, a line for each M and for agents without retries: {STATISTIC}.",
        figure,
        _curve_rows(runs.cells, (metric,), look.x),
    )


def final(runs: Runs, look: Look) -> Drawing:
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
    )


def final_against(runs: Runs, factor: str, metrics: Sequence[str], name: str, look: Look) -> Drawing:
    """Draws final values against one setting: a row per task, a column per metric, a line per group of other settings.

    Agents without retries are level lines with their interval as a band.
    """
    figure, axes = new_figure(len(runs.tasks), len(metrics), panel=(2.8, 2.3))
    cells = [cell for cell in runs.cells if cell.num_retries is not None and value_of(cell, factor) is not None]
    ticks = ticks_of(value_of(cell, factor) for cell in cells)
    lines = {cell.arm: _line(cell, factor) for cell in cells}
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
            label(panel, title=readable(task, TITLE_WIDTH), x=x, y=metric_label(metric))
            shown = [readable(tick, 20) for tick in ticks]
            panel.set_xticks(range(len(ticks)), shown, rotation=30 if sum(map(len, shown)) > 24 else 0)
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
    )


def paired(runs: Runs, look: Look) -> list[Drawing]:
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
        return []
    taken_off = {task: cell.arm for task, cell in references.items() if cell is not None}
    figure = draw_dots(runs, look.metrics, difference, rows, references=taken_off)
    names = ", ".join(dict.fromkeys(taken_off.values()))
    return [
        Drawing(
            "paired",
            f"Paired differences to {names}",
            f"Final values of each arm minus those of {names} on the same seed, for "
            f"{', '.join(map(plain, look.metrics))} and every task: a dot per seed, {STATISTIC} as a bar.",
            figure,
            rows,
        )
    ]


def aggregate(runs: Runs, look: Look, notes: list[str]) -> list[Drawing]:
    """Draws one number per arm over all tasks: returns scaled to 0 (untrained) and 1 (the task's best arm).

    Tasks are resampled apart (strata). Nothing for one task, or if no arm has finished seeds on all of them.
    """
    metric = next((metric for metric in look.metrics if metric.startswith("eval/return")), None)
    if metric is None or len(runs.tasks) < 2:
        return []
    scales: dict[str, tuple[float, float]] = {}
    for task in runs.tasks:
        scale = _scale(runs.on(task), metric, notes)
        if isinstance(scale, str):
            notes.append(f"{task}: {scale}, left out of the figure over tasks")
        else:
            scales[task] = scale
    if len(scales) < 2:
        return []
    rows = []
    for arm in runs.arms:
        cells = {cell.task: cell for cell in runs.cells if cell.arm == arm and cell.by_seed(metric)}
        if set(scales) <= set(cells):
            strata = [
                (np.asarray(list(cells[task].by_seed(metric).values())) - low) / (high - low)
                for task, (low, high) in scales.items()
            ]
            low, high = interquartile_interval(*strata)
            value = float(interquartile_mean(np.concatenate(strata)))
            counts = "+".join(str(len(stratum)) for stratum in strata)
            rows.append(
                {"arm": arm, "metric": metric, "runs": counts, "iqm": value, "low": float(low), "high": float(high)}
            )
        else:
            notes.append(f"{arm}: no finite final {metric} on every task, left out of the figure over tasks")
    if not rows:
        return []
    figure, axes = new_figure(1, 1, panel=(5, 0.9 + 0.24 * len(rows)))
    colours = {cell.arm: styles(runs.cells)(cell)[0] for cell in runs.cells}
    for height, row in enumerate(rows):
        draw_interval(axes[0, 0], height, row, colours[row["arm"]])
    name_lines(axes[0, 0], [row["arm"] for row in rows])
    title = f"{plain(metric)} over {len(scales)} tasks".capitalize()
    label(axes[0, 0], title=readable(title, 60), x="0: untrained, 1: the task's best arm")
    return [
        Drawing(
            "aggregate",
            title,
            f"Interquartile mean over {', '.join(scales)} of final returns scaled to 0 for untrained policies and 1 "
            "for the task's best arm, with 95% bootstrap intervals in which every task is a stratum: "
            + "; ".join(f"{row['arm']} {row['iqm']:.2f}" for row in rows),
            figure,
            rows,
        )
    ]


def _scale(cells: Sequence[Cell], metric: str, notes: list[str]) -> tuple[float, float] | str:
    """Returns a task's mean return of untrained policies and that of its best arm at the end, or what is wrong."""
    untrained = []
    for run in (run for cell in cells for run in cell.finished if metric in run.metrics):
        if np.isfinite(first := run.metrics[metric].values[0]):
            untrained.append(first)
        else:
            notes.append(f"{run.directory}: its first {metric} is not finite, not counted among untrained policies")
    means = [describe(list(values.values()))["mean"] for cell in cells if (values := cell.by_seed(metric))]
    if not untrained:
        return f"no finished run has a finite first {metric}"
    if not means:
        return f"no finished run has a finite final {metric}"
    low, high = float(np.mean(untrained)), max(means)
    return (low, high) if high > low else "no arm ends above the untrained policies"


def speed(runs: Runs, look: Look) -> Drawing:
    """Draws the env steps a second of whole programs: the seeds that one trains share a clock, and are no sample."""
    rows: list[Row] = []
    figure = draw_speeds(runs, rows)
    return Drawing(
        "speed",
        "Env steps a second",
        "Env steps a second of whole programs, evaluations left out, mean over the last tenth of training: a dot per "
        "program, which trains its members (the seeds of an arm) together, so that there is no interval over seeds: "
        + "; ".join(
            f"{row['arm']} on {row['task']} {row['env_steps_per_second']:.4g} (members: {row['members']})"
            for row in rows
        )
        + ".",
        figure,
        rows,
        "total of the members of a program, which share one clock; a dot per program, no interval",
    )


def reference_of(cells: Sequence[Cell], name: str | None) -> Cell | None:
    """Returns the arm that others are compared with: the one named, else an agent without retries, else the least M."""
    if name is not None:
        return next((cell for cell in cells if cell.arm == name), None)
    return next(iter(cells), None)


def _curve_rows(cells: Iterable[Cell], metrics: Sequence[str], x: str) -> list[Row]:
    return [
        {"task": cell.task, "arm": cell.arm, "seed": run.seed, "status": run.status}
        | {"env_steps": int(series.env_steps[index])}
        | ({} if x == "env_steps" else {x: float(getattr(series, x)[index])})
        | {"name": metric, "value": f"{value:.6g}"}
        for cell in cells
        for run in cell.runs
        for metric in metrics
        if (series := run.metrics.get(metric)) is not None
        for index, value in enumerate(series.values)
    ]


def _shown_in_curves(runs: Runs, notes: list[str]) -> list[Cell]:
    """Returns the cells that fit into one panel: all, or those of the first variant."""
    if max(len(runs.on(task)) for task in runs.tasks) <= MOST_LINES:
        return runs.cells
    first = _variants(runs)[0]
    rest = ", the grids have all" if _has_grids(runs) else ""
    notes.append(f"curves: too many arms for one panel; shown are those with {first}{rest}")
    return [cell for cell in runs.cells if cell.num_retries is None or _variant(cell) == first]


def _has_grids(runs: Runs) -> bool:
    """Whether both M and another setting vary."""
    return len(_variants(runs)) > 1 and len({cell.num_retries for cell in runs.cells if cell.num_retries}) > 1


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


def _line(cell: Cell, factor: str) -> str:
    """Names what a cell shares with the others on its line: everything but the factor."""
    rest = settings_text({key: value for key, value in cell.variant.items() if key != factor})
    if factor == "num_retries":
        return rest or cell.kind.replace("remac", "ReMAC")
    return ", ".join(filter(None, (f"M={cell.num_retries}", rest)))


def _small_print(runs: Runs, look: Look, statistic: str) -> str:
    """Returns command, commits, seeds and statistic."""
    finished = {cell.task + cell.arm: as_ranges(run.seed for run in cell.finished) for cell in runs.cells}
    seeds = ", ".join(dict.fromkeys(filter(None, finished.values()))) if len(set(finished.values())) < 2 else None
    if seeds is None:
        fewest, most = (f(len(cell.finished) for cell in runs.cells) for f in (min, max))
        seeds = f"{as_ranges(run.seed for cell in runs.cells for run in cell.finished)} ({fewest} to {most} an arm)"
    commits = sorted({str(run.provenance.get("commit") or "unknown")[:12] for run in runs.used})
    shown = ", ".join(commits[:3]) + (f" and {len(commits) - 3} more" if len(commits) > 3 else "")
    command = look.command if len(look.command) <= 240 else look.command[:237] + "..."
    return " | ".join(
        filter(
            None,
            (
                command,
                f"commit {shown}",
                f"finished seeds: {seeds or 'none'}",
                statistic,
            ),
        )
    )
