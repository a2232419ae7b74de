"""How many seeds get somewhere, and when."""

import math

import numpy as np

from experiments.comparing.declarations import Drawing, Look, figure
from experiments.comparing.drawing import Row, label, legend, new_panels, readable
from experiments.comparing.panels import TITLE_WIDTH, plain, records, styles, task_title
from experiments.comparing.runs import X_AXES, Cell, Run, Runs


def reached_at(run: Run, metric: str, threshold: float, x: str) -> float:
    """Returns where a metric is at least a threshold for the first time; infinity if it never is."""
    steps, values = records(run, metric, x)
    return min(steps[values >= threshold].tolist(), default=math.inf)


def _that_tell(cell: Cell, metric: str, x: str) -> list[Run]:
    """Returns the finished runs that have records of a metric on an axis."""
    return [run for run in cell.finished if records(run, metric, x)[0].size]


@figure("reached", when=lambda runs, look: look.threshold is not None, needs_final=True, place=15)
def reached(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws the share of seeds of which the first metric has reached the threshold: a panel a task."""
    assert look.threshold is not None
    metric, style, rows = look.metrics[0], styles(runs.cells), list[Row]()
    figure, axes = new_panels(len(runs.tasks), min(len(runs.tasks), 4), (3.2, 2.6))
    for panel, task in zip(axes, runs.tasks, strict=True):
        cells = [(cell, _that_tell(cell, metric, look.x)) for cell in runs.on(task)]
        cells = [(cell, known) for cell, known in cells if known]
        widths = np.linspace(3.0, 1.2, len(cells))  # lines that coincide are seen
        for width, (cell, known) in zip(widths, cells, strict=True):
            found = {run.seed: reached_at(run, metric, look.threshold, look.x) for run in known}
            times = sorted(filter(math.isfinite, found.values()))
            end = max(records(run, metric, look.x)[0].max() for run in known)
            shares = np.arange(len(times) + 1) / len(found)
            colour, dashes = style(cell)
            line = {"color": colour, "linestyle": dashes, "linewidth": width, "label": readable(cell.title, 40)}
            panel.step([0, *times, end], [*shares, shares[-1]], where="post", **line)
            rows += [
                {"task": task, "arm": cell.arm, "seed": seed, "metric": metric, "threshold": look.threshold}
                | {f"reached_at_{look.x}": time if math.isfinite(time) else ""}
                for seed, time in found.items()
            ]
        panel.set_ylim(-0.03, 1.03)
        panel.grid(alpha=0.3)
        title = readable(task_title(task), TITLE_WIDTH)
        label(panel, title=title, x=X_AXES[look.x], y=f"share of seeds that reached {look.threshold:g}")
    if not rows:
        return None
    legend(figure, axes)
    what = f"{plain(metric)} of at least {look.threshold:g}"
    return Drawing(
        "reached",
        f"Seeds that reach {what}",
        f"Share of each arm's finished seeds that have had a {what} at some evaluation, against {X_AXES[look.x]}.",
        figure,
        rows,
        (metric,),
        f"share of finished seeds that have had a {what} at an evaluation",
    )
