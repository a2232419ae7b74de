"""Parts of figures that compare runs: what is drawn within one panel, in which colour, and what it is called."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import envs
from experiments.comparing.drawing import (
    COLOURS_OF_AGENTS,
    COLOURS_OF_OTHERS,
    LINES,
    Row,
    colour_of,
    label,
    new_figure,
    readable,
    shade,
)
from experiments.comparing.page import Line, make_line
from experiments.comparing.runs import SAMPLED_RETURN, Cell, Run, Runs, as_ranges, value_text
from experiments.comparing.statistics import describe, interquartile_interval, interquartile_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENTROPY = "actor/entropy"
GAUSSIAN_ENTROPY, STD = "actor/gaussian_entropy", "actor/pre_tanh_std"
LABELS = {
    SAMPLED_RETURN: "return (sampled actions)",
    "eval/return": "return (mean action)",
    ENTROPY: "entropy of the action (nats)",
    "eval/median": "median return\n(sampled actions)",
    "eval/cvar_25": "mean of the worst quarter\nof returns (sampled actions)",
    "eval/entropy": "entropy of the action,\nevaluation (nats)",
    GAUSSIAN_ENTROPY: "entropy before tanh (nats)",
    STD: "standard deviation\nbefore tanh",
    "actor/grad_norm": "actor gradient norm",
    "actor/update_norm": "actor update norm",
    "actor/raises_std": "share of updates\nthat raise sigma",
    "actor/saturation": "share of actions\nbeyond 0.99",
    "actor/tanh_slope": "mean slope of tanh",
    "time/env_steps_per_second": "env steps a second",
}
# What environments are measured by, where the unit is known; others go by the metric's name.
_UNITS = {
    "forward_velocity": "m/s",
    "x_velocity": "m/s",
    "y_velocity": "m/s",
    "distance": "m",
    "fingertip_distance": "m",
    "height": "m",
    "tip_height": "m",
    "healthy": "share of steps",
    "success": "share of steps",
}
for _name, _unit in _UNITS.items():
    _words = _name.replace("_", " ")
    LABELS[f"env/{_name}"] = f"{_words} ({_unit})"
    LABELS[f"eval/env/{_name}"] = f"{_words},\nevaluation ({_unit})"
LOWEST_LOG_STD = -10.0  # of remac.policies.policy_network, whose import takes seconds
TITLE_WIDTH = 32
POINTS_ON_WALL_CLOCK = 100  # of a curve over seeds, since no two runs have the same
FACTOR_LABELS = {
    "num_retries": "M",
    "num_retries_end": "M in the end",
    "actor_adam_epsilon": "Adam's epsilon (actor)",
    "learning_rate": "learning rate",
    "num_samples": "N",
    "actor_optimizer": "optimiser (actor)",
}


def task_title(task: str) -> str:
    """Returns a task as people write it: ``mujoco/half_cheetah`` as HalfCheetah, others with their suite behind."""
    path, *options = task.split(" ", 1)
    suite, _, name = path.partition("/")
    words = [word[:1].upper() + word[1:] for word in name.split("_")]
    shown = "".join(words) if suite == envs.DEFAULT_SUITE else f"{name} ({suite})" if name else path
    return " ".join([shown, *options])


def draw_curves(
    panel: "Axes",
    cells: Iterable[Cell],
    metric: str,
    x: str,
    style: Callable[[Cell], tuple[Any, Any]],
    name: Callable[[Cell], str],
) -> list[Line]:
    """Draws single seeds (dashed if unfinished), and the interquartile mean of the finished ones, which it returns."""
    drawn, lines = False, list[Line]()
    for cell in cells:
        colour, dashes = style(cell)
        for run in cell.runs:
            steps, values = records(run, metric, x)
            drawn |= steps.size > 0
            unfinished = run not in cell.finished
            panel.plot(steps, values, color=colour, alpha=0.3, linewidth=0.6, linestyle="--" if unfinished else "-")
        found = [points for run in cell.finished if (points := records(run, metric, x))[0].size]
        if not found:
            if cell.runs and not cell.finished:
                panel.lines[-1].set_label(_entry(f"{name(cell)} (unfinished)"))
            continue
        shared, values = _on_shared_steps(found, x)
        middle, (low, high) = interquartile_mean(values), interquartile_interval(values)
        title = name(cell)
        panel.plot(shared, middle, color=colour, linestyle=dashes, linewidth=1.6, label=_entry(title))
        panel.fill_between(shared, low, high, color=colour, alpha=0.18, linewidth=0)
        counts = np.full(shared.shape, values.shape[-1])
        lines.append(make_line(title, colour, dashes, shared, middle, low, high, counts))
    if not drawn:
        panel.text(0.5, 0.5, "no data", transform=panel.transAxes, ha="center", fontsize=8)
    panel.grid(alpha=0.3)
    return lines


def _on_shared_steps(found: Sequence[tuple[np.ndarray, np.ndarray]], x: str) -> tuple[np.ndarray, np.ndarray]:
    """Brings curves to the same steps, from where all have begun to where the first ends.

    Args:
        found: Steps and values of each of S curves.
        x: One of ``X_AXES``; of the wall clock no two curves have the same points.

    Returns:
        Steps `[T]` and values `[T, S]`.
    """
    # Records of equal length fall on equal steps, where this takes the values as they are.
    first, last = max(steps[0] for steps, _ in found), min(steps[-1] for steps, _ in found)
    shared = np.unique(np.concatenate([steps for steps, _ in found]))
    shared = shared[(shared >= first) & (shared <= last)]
    if x == "wall_clock" and shared.size:
        shared = np.linspace(first, last, POINTS_ON_WALL_CLOCK)
    return shared, np.stack([np.interp(shared, *points) for points in found], axis=-1)


def records(run: Run, metric: str, x: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the records of a metric that are finite, and of which the place on the axis is known."""
    if metric not in run.metrics:
        return np.empty(0), np.empty(0)
    series = run.metrics[metric]
    steps = getattr(series, x)
    known = np.isfinite(series.values) & np.isfinite(steps)
    return steps[known], series.values[known]


def draw_dots(
    runs: Runs,
    metrics: Sequence[str],
    values_of: Callable[[Cell, str], Mapping[int, float]],
    rows: list[Row],
    *,
    references: Mapping[str, str] | None = None,
) -> "Figure":
    """Draws a line of dots per arm, a row of panels per task, a column per metric; appends the numbers to the rows.

    Where the values are differences, ``references`` names the arm that is taken off, by task.
    """
    arms = [
        arm for arm in runs.arms if any(values_of(cell, m) for cell in runs.cells if cell.arm == arm for m in metrics)
    ]
    height = 0.8 + 0.2 * max(len(arms), 3)
    figure, axes = new_figure(len(runs.tasks), len(metrics), panel=(3.0, height), sharey=True)
    style, titles = styles(runs.cells), {cell.arm: cell.title for cell in runs.cells}
    for row, task in zip(axes, runs.tasks, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            for cell in runs.on(task):
                values = values_of(cell, metric)
                if not values:
                    continue
                line, colour = arms.index(cell.arm), style(cell)[0]
                panel.plot(list(values.values()), [line] * len(values), "o", color=colour, alpha=0.4, markersize=3)
                numbers = describe(list(values.values()))
                draw_interval(panel, line, numbers, colour)
                rows.append({"task": task, "metric": metric, "arm": cell.arm, "seeds": as_ranges(values), **numbers})
            shown = plain(metric)
            if references is not None:
                panel.axvline(0, color="#999999", linewidth=0.8)
                shown += f", difference to {references.get(task, 'none')}"
            label(panel, title=readable(task_title(task), TITLE_WIDTH), x=readable(shown, 48))
            name_lines(panel, [titles[arm] for arm in arms])
    return figure


def draw_speeds(runs: Runs, rows: list[Row]) -> "Figure":
    """Draws a dot per program of each arm, a panel per task; appends the numbers to the rows."""
    arms = [arm for arm in runs.arms if any(cell.speeds() for cell in runs.cells if cell.arm == arm)]
    figure, axes = new_figure(len(runs.tasks), 1, panel=(5, 1.0 + 0.25 * max(len(arms), 3)))
    style, titles = styles(runs.cells), {cell.arm: cell.title for cell in runs.cells}
    for panel, task in zip(axes.flat, runs.tasks, strict=True):
        for cell in runs.on(task):
            for rate, members in cell.speeds():
                panel.plot(rate, arms.index(cell.arm), "o", color=style(cell)[0])
                rows.append({"task": task, "arm": cell.arm, "members": members, "env_steps_per_second": rate})
        label(panel, title=readable(task_title(task), 60), x="env steps a second, of all members of a program together")
        panel.set_xlim(left=0)
        name_lines(panel, [titles[arm] for arm in arms])
    return figure


def draw_interval(panel: "Axes", line: float, numbers: Mapping[str, float], colour: Any) -> None:
    """Draws an interquartile mean and its interval on the line of an arm."""
    panel.plot([numbers["low"], numbers["high"]], [line, line], color=colour, linewidth=2.5, alpha=0.8)
    panel.plot(numbers["iqm"], line, "|", color=colour, markersize=11, markeredgewidth=2)


def name_lines(panel: "Axes", names: Sequence[str]) -> None:
    """Names the lines of a panel that has one per arm."""
    panel.set_yticks(range(len(names)), [readable(name, 40, lines=1) for name in names], fontsize=7)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(alpha=0.3, axis="x")


def draw_against(
    panel: "Axes",
    cells: Sequence[Cell],
    metric: str,
    factor: str,
    ticks: Sequence[str],
    look: tuple[str, Any, Any, float],
) -> list[Row]:
    """Draws one line of a metric against a factor, and returns its numbers."""
    name, colour, dashes, offset = look
    rows, points = [], []
    for cell in cells:
        values = list(cell.by_seed(metric).values())
        if not values:
            continue
        value = value_text(value_of(cell, factor))
        numbers, x = describe(values), ticks.index(value) + offset
        points.append((x, numbers["iqm"]))
        panel.plot([x] * len(values), values, "o", color=colour, alpha=0.35, markersize=2.5)
        panel.plot([x, x], [numbers["low"], numbers["high"]], color=colour, linewidth=1.5)
        rows.append({"task": cell.task, "metric": metric, "factor": factor, "at": value, "arm": cell.arm, **numbers})
    if points:
        panel.plot(
            *zip(*points, strict=True), color=colour, linestyle=dashes, marker="s", markersize=3.5, label=_entry(name)
        )
    return rows


def draw_level(panel: "Axes", cell: Cell, metric: str, factor: str) -> list[Row]:
    """Draws an agent that does not have the factor as a level line, and returns its numbers."""
    values = list(cell.by_seed(metric).values())
    if not values:
        return []
    numbers, colour = describe(values), colour_of(cell.kind, None)
    panel.axhline(numbers["iqm"], color=colour, linestyle="--", linewidth=1.2, label=_entry(cell.title))
    panel.axhspan(numbers["low"], numbers["high"], color=colour, alpha=0.12, linewidth=0)
    return [{"task": cell.task, "metric": metric, "factor": factor, "at": "", "arm": cell.arm, **numbers}]


def styles(cells: Sequence[Cell]) -> Callable[[Cell], tuple[Any, Any]]:
    """Returns colour and dashes of a cell: colours by M and dashes by variant, or by variant alone if M is the same."""
    variants: dict[str, list[str]] = {}
    for cell in cells:
        known = variants.setdefault(cell.drawn_as[0], [])
        if cell.more not in known:
            known.append(cell.more)
    retries = {cell.drawn_as[1] for cell in cells if cell.drawn_as[1] is not None}
    others = sorted({cell.drawn_as[0] for cell in cells} - COLOURS_OF_AGENTS.keys())
    colours = dict(zip(others, itertools.cycle(COLOURS_OF_OTHERS), strict=False))

    def style(cell: Cell) -> tuple[Any, Any]:
        kind, num_retries = cell.drawn_as
        number = variants[kind].index(cell.more)
        if num_retries is None or len(retries) > 1 or len(variants[kind]) == 1:
            own = colours.get(kind) if num_retries is None else None
            return own or colour_of(kind, num_retries), LINES[number % len(LINES)]
        # Many shades are hard to tell apart.
        dashes = LINES[number % 4] if len(variants[kind]) > 4 else "-"
        return shade(number, len(variants[kind])), dashes

    return style


def by_retries(cell: Cell) -> tuple[Any, Any]:
    """Returns colour and dashes of a cell where the panel stands for its variant."""
    return colour_of(cell.kind, cell.num_retries), "-"


def group_style(group: str, groups: Sequence[str], factor: str, members: Sequence[Cell]) -> tuple[Any, Any]:
    """Returns colour and dashes of a line of `final_against`: of its M, where it has one."""
    if factor == "num_retries" or not members:
        return shade(groups.index(group), len(groups)), "-"
    same = [other for other in groups if other.split(", ")[0] == group.split(", ")[0]]
    return colour_of(members[0].kind, members[0].num_retries), LINES[same.index(group) % len(LINES)]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Writes settings for a title or a legend."""
    return ", ".join(f"{FACTOR_LABELS.get(key, key)} {value_text(value)}" for key, value in settings.items())


def metric_label(metric: str) -> str:
    """Returns a metric's label for an axis."""
    return LABELS.get(metric) or readable(metric, 28)


def plain(metric: str) -> str:
    """Returns a metric's label as running text."""
    return " ".join(LABELS.get(metric, metric).split())


def floor_of_std(configs: Iterable[Mapping[str, Any]]) -> str:
    """Says how low the standard deviation can come, since that may be all it shows of M = 1; nothing without M = 1."""
    agents = [config.get("agent") or {} for config in configs]
    ones = [agent for agent in agents if 1 in (agent.get("num_retries"), agent.get("num_retries_end"))]
    if not ones:
        return ""
    bounds = {str(agent.get("log_std_bounds", "clip")) for agent in ones}
    known = {"clip": "a clip, beyond which there is no gradient", "tanh": "a smooth bound"}
    how = " or ".join(known.get(name, name) for name in sorted(bounds))
    floor = f"exp({LOWEST_LOG_STD:g}) = {np.exp(LOWEST_LOG_STD):.1e}"
    return f"The standard deviation's floor, where M = 1 may end, is {', '.join(filter(None, (floor, how)))}."


def ticks_of(values: Iterable[Any]) -> list[str]:
    """Writes values, which may be lists, each once: numbers in their order, then the rest."""
    texts = {value_text(value): value for value in values}
    return sorted(
        texts, key=lambda text: (0, texts[text], "") if isinstance(texts[text], int | float) else (1, 0, text)
    )


def value_of(cell: Cell, factor: str) -> Any:
    """Returns a cell's value of what varies: M, or one of its variant's settings."""
    return cell.num_retries if factor == "num_retries" else cell.variant.get(factor)


def _entry(name: str) -> str:
    """Writes a name for a legend."""
    return readable(name, 40)
