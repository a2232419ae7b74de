"""What samples cost, and what they buy."""

import numpy as np

from experiments.comparing.declarations import STATISTIC, Drawing, Look, figure
from experiments.comparing.drawing import Row, label, legend, new_figure, readable
from experiments.comparing.figures.final import factors, line_name
from experiments.comparing.panels import TITLE_WIDTH, group_style, metric_label, plain, task_title
from experiments.comparing.runs import SPEED, Cell, Runs
from experiments.comparing.statistics import describe


def milliseconds(cell: Cell) -> float:
    """Returns what a gradient step of one run takes, acting included; NaN where speed was not recorded.

    Runs that were one program shared the machine, so it is the program's time over all gradient steps of its members.
    Of several programs it is the median.
    """
    found = [run.metrics[SPEED] for run in cell.finished if SPEED in run.metrics]
    ends = [(np.diff(series.gradient_steps[-2:]), np.diff(series.env_steps[-2:])) for series in found]
    ratios = [gradient_steps / env_steps for gradient_steps, env_steps in ends if gradient_steps.sum() > 0]
    rates = [rate for rate, _ in cell.speeds()]
    return float(np.median([1000 / rate for rate in rates]) / np.median(ratios)) if rates and ratios else np.nan


@figure(
    "cost",
    when=lambda runs, _: "num_samples" in factors(runs) and any(np.isfinite(milliseconds(cell)) for cell in runs.cells),
    needs_final=True,
    place=45,
)
def cost(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws final values against the time of a gradient step: a row per task, a column per metric, a line per M."""
    figure, axes = new_figure(len(runs.tasks), len(look.metrics), panel=(3.2, 2.5))
    rows: list[Row] = []
    cells = [cell for cell in runs.cells if cell.num_retries is not None and np.isfinite(milliseconds(cell))]
    lines = {cell.arm: line_name(cell, "num_samples") for cell in cells}
    groups = list(dict.fromkeys(lines.values()))
    for row, task in zip(axes, runs.tasks, strict=True):
        for panel, metric in zip(row, look.metrics, strict=True):
            for group in groups:
                members = [cell for cell in cells if cell.task == task and lines[cell.arm] == group]
                colour, dashes = group_style(group, groups, "num_samples", members)
                found = [(cell, values) for cell in members if (values := list(cell.by_seed(metric).values()))]
                points = []
                for cell, values in found:
                    numbers, x, samples = describe(values), milliseconds(cell), cell.agent["num_samples"]
                    points.append((x, numbers["iqm"]))
                    panel.plot([x] * len(values), values, "o", color=colour, alpha=0.35, markersize=2.5)
                    panel.plot([x, x], [numbers["low"], numbers["high"]], color=colour, linewidth=1.5)
                    panel.annotate(
                        str(samples), points[-1], xytext=(3, 3), textcoords="offset points", fontsize=6, color=colour
                    )
                    rows.append(
                        {"task": task, "metric": metric, "arm": cell.arm, "num_retries": cell.num_retries}
                        | {"num_samples": samples, "milliseconds": x, **numbers}
                    )
                if points:
                    look_of = {"color": colour, "linestyle": dashes, "marker": "s", "markersize": 3.5}
                    panel.plot(*zip(*sorted(points), strict=True), label=readable(group, 40), **look_of)
            label(
                panel,
                title=readable(task_title(task), TITLE_WIDTH),
                x="ms a gradient step, acting included",
                y=metric_label(metric),
            )
            panel.set_xlim(left=0)
            panel.grid(alpha=0.3)
    if not rows:
        return None
    legend(figure, axes.flat)
    what = ", ".join(map(plain, look.metrics))
    return Drawing(
        "cost",
        "Final values against the time of a gradient step",
        f"Mean over the last tenth of training of {what} against the milliseconds that a gradient step takes, for each "
        f"M; numbers beside the marks are N, {STATISTIC}, dots are seeds. Programs that ran beside other work count as "
        "they were.",
        figure,
        rows,
        look.metrics,
        f"numbers are N; {STATISTIC}; dots are single seeds",
    )
