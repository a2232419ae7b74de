"""Each objective as trained against each objective as measured."""

import itertools
import math
from typing import TYPE_CHECKING, Any

from experiments.comparing.declarations import Drawing, Look, figure
from experiments.comparing.drawing import Row, label, new_figure, readable
from experiments.comparing.runs import Cell, Runs
from experiments.comparing.statistics import describe

if TYPE_CHECKING:
    from matplotlib.patches import Rectangle

RETRIES = "eval/per_start/"
# What is measured for an objective.
MEASURES = {
    "cvar:0.25": f"{RETRIES}cvar_25",
    "lower_tail_mean:0.25": f"{RETRIES}cvar_25",
    "median": f"{RETRIES}median",
    "mean": "eval/return_stochastic",
}


def objective_of(cell: Cell) -> str | None:
    """Returns the objective of an agent that has one, as its preset's name or a list of weights."""
    if cell.num_retries is None or "objective" not in cell.agent:
        return None
    if (objective := cell.agent["objective"]) is None:
        from remac.estimators.group_coefficients import own_objective  # takes seconds, and is rarely needed

        objective = own_objective(cell.agent.get("estimator", "ordergrad"))
    return str(objective)


def _own_measure(cell: Cell) -> str | None:
    """Returns the metric that is of what an arm was trained for, where one is."""
    objective = objective_of(cell)
    return f"{RETRIES}max_at_{cell.num_retries}" if objective == "max" else MEASURES.get(objective or "")


def _measured(runs: Runs) -> set[str]:
    """Returns what was measured on several tries from each start."""
    return {name for cell in runs.cells for run in cell.finished for name in run.metrics if name.startswith(RETRIES)}


def _is_of_many(runs: Runs, look: Look) -> bool:
    objectives = {objective_of(cell) for cell in runs.cells} - {None}
    return len(objectives) > 1 and bool(_measured(runs))


@figure("objectives", when=_is_of_many, needs_final=True, place=15)
def objectives(runs: Runs, look: Look, notes: list[str]) -> Drawing | None:
    """Draws a table for every task: rows are what was trained for, columns what is measured at the end."""
    wanted = {_own_measure(cell) for cell in runs.cells}
    bests = {int(name.rpartition("_")[2]): name for name in _measured(runs) if "max_at_" in name}
    shown = {number for number, name in bests.items() if number == max(bests) or name in wanted}
    columns = list(dict.fromkeys([*MEASURES.values(), *(bests[number] for number in sorted(shown))]))
    rows: list[Row] = []
    for cell in runs.cells:
        if objective_of(cell) is None:
            continue
        own = _own_measure(cell)
        for metric in columns:
            if values := cell.by_seed(metric):
                numbers = describe(list(values.values()))
                rows.append({"task": cell.task, "arm": cell.arm, "metric": metric, "own": metric == own} | numbers)
    if not rows:
        return None
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    own_columns = {row["arm"]: columns.index(row["metric"]) for row in rows if row["own"]}
    arms = sorted(dict.fromkeys(row["arm"] for row in rows), key=lambda arm: own_columns.get(arm, len(columns)))
    figure, axes = new_figure(1, len(tasks), panel=(1.15 * len(columns) + 1.2, 0.5 * len(arms) + 1.0))
    wins = []
    for task, panel in zip(tasks, axes.flat, strict=False):
        found = {(row["arm"], row["metric"]): row for row in rows if row["task"] == task}
        for (line, arm), (place, metric) in itertools.product(enumerate(arms), enumerate(columns)):
            row = found.get((arm, metric))
            if row is None:
                continue
            others = [found[other, metric]["iqm"] for other in arms if (other, metric) in found]
            low, high = min(others), max(others)
            share = (row["iqm"] - low) / (high - low) if high > low else 0.5
            row["is_best"] = row["iqm"] == high
            panel.add_patch(_cell(place, line, share, row["own"]))
            interval = f"\n[{row['low']:.3g}, {row['high']:.3g}]" if math.isfinite(row["low"]) else ""
            text = f"{row['iqm']:.3g}{interval}"
            panel.text(
                place, line, text, ha="center", va="center", fontsize=6.5, weight="bold" if row["is_best"] else None
            )
            if row["own"]:
                wins.append(row["is_best"])
        panel.set_xlim(-0.5, len(columns) - 0.5)
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.set_xticks(range(len(columns)), [_name(metric) for metric in columns])
        panel.set_yticks(range(len(arms)), [readable(arm, 24) for arm in arms])
        panel.grid(False)
        label(panel, title=task, x="measured", y="trained for")
    title = "Each objective as trained and as measured"
    return Drawing(
        "objectives",
        title,
        "A table for every task. Rows are objectives as trained, columns as measured on several tries from each start; "
        "framed is an objective's own measure, bold the best arm of a column. "
        f"{sum(wins)} of {len(wins)} objectives are best at their own measure.",
        figure,
        rows,
        columns,
        "interquartile mean over seeds with its 95% bootstrap interval",
    )


def _name(metric: str) -> str:
    name = metric.rpartition("/")[2]
    return {"cvar_25": "CVaR, worst 25%", "return_stochastic": "mean"}.get(name, name.replace("max_at_", "best of "))


def _cell(place: int, line: int, share: float, is_framed: bool) -> "Rectangle":
    from matplotlib.patches import Rectangle

    edge: dict[str, Any] = (
        {"edgecolor": "black", "linewidth": 1.6, "zorder": 3} if is_framed else {"edgecolor": "white", "linewidth": 0.6}
    )
    return Rectangle((place - 0.48, line - 0.47), 0.96, 0.94, facecolor=(0.45, 0.65, 0.9, 0.1 + 0.7 * share), **edge)
