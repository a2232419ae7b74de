"""One number per arm over all tasks."""

from collections.abc import Sequence

import numpy as np

from experiments.comparing.declarations import Drawing, Look, figure
from experiments.comparing.drawing import Row, label, new_figure, readable
from experiments.comparing.panels import draw_interval, name_lines, plain, styles
from experiments.comparing.runs import Cell, Runs
from experiments.comparing.statistics import describe, interquartile_interval, interquartile_mean


@figure("aggregate", when=lambda runs, _: len(runs.tasks) > 1, needs_final=True, place=70)
def aggregate(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws one number per arm over all tasks: returns scaled to 0 (untrained) and 1 (the task's best arm).

    Tasks are resampled apart (strata). Nothing for one task, or if no arm has finished seeds on all of them.
    """
    metric = next((metric for metric in look.metrics if metric.startswith("eval/return")), None)
    if metric is None:
        return None
    scales: dict[str, tuple[float, float]] = {}
    for task in runs.tasks:
        scale = _scale(runs.on(task), metric, notes)
        if isinstance(scale, str):
            notes.append(f"{task}: {scale}, left out of the figure over tasks")
        else:
            scales[task] = scale
    if len(scales) < 2:
        return None
    rows: list[Row] = []
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
        return None
    figure, axes = new_figure(1, 1, panel=(5, 0.9 + 0.24 * len(rows)))
    colours = {cell.arm: styles(runs.cells)(cell)[0] for cell in runs.cells}
    for height, row in enumerate(rows):
        draw_interval(axes[0, 0], height, row, colours[row["arm"]])
    name_lines(axes[0, 0], [row["arm"] for row in rows])
    title = f"{plain(metric)} over {len(scales)} tasks".capitalize()
    label(axes[0, 0], title=readable(title, 60), x="0: untrained, 1: the task's best arm")
    return Drawing(
        "aggregate",
        title,
        f"Interquartile mean over {', '.join(scales)} of final returns scaled to 0 for untrained policies and 1 "
        "for the task's best arm, with 95% bootstrap intervals in which every task is a stratum: "
        + "; ".join(f"{row['arm']} {row['iqm']:.2f}" for row in rows),
        figure,
        rows,
        (metric,),
    )


def _scale(cells: Sequence[Cell], metric: str, notes: list[str]) -> tuple[float, float] | str:
    """Returns a task's mean return of untrained policies and that of its best arm at the end, or what is wrong."""
    untrained = []
    for run in (run for cell in cells for run in cell.finished if metric in run.metrics):
        if run.metrics[metric].env_steps[0] > 0:
            continue
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
