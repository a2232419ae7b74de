"""Compares finished runs: ``python -m experiments.plot <run directories> out=<folder>``.

Reads run directories and nothing else. Writes ``curves.png`` and ``curves.pdf`` (return, entropy and standard deviation
by arm: the median over seeds, single seeds as thin lines), ``curves.csv`` (the numbers behind them) and ``final.csv``
(each run's last values).
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.figures import COLOURS_OF_RETRIES
from experiments.run_directory import CONFIG, METRICS, read_metrics
from remac.types import InvalidValueError

PANELS = {
    "eval/return": "return (mean action)",
    "actor/gaussian_entropy": "entropy before tanh (nats)",
    "actor/entropy": "entropy of the action (nats)",
    "actor/pre_tanh_std": "standard deviation before tanh",
}
COLOURS = {"SAC": "#009E73"} | {f"M={retries}": colour for retries, colour in COLOURS_OF_RETRIES.items()}


def main(arguments: Sequence[str]) -> None:
    """Draws the runs that the arguments name."""
    out = next((Path(argument[4:]) for argument in arguments if argument.startswith("out=")), Path("."))
    directories = [Path(argument) for argument in arguments if not argument.startswith("out=")]
    runs = [load_run(directory) for directory in directories]
    name_arms(runs)
    if not runs:
        raise InvalidValueError("directories", "none", "must name at least one run directory")
    out.mkdir(parents=True, exist_ok=True)
    write_tables(runs, out)
    draw(runs, out, " ".join(("python -m experiments.plot", *arguments)))
    print(out / "curves.png")


def load_run(directory: Path) -> dict[str, Any]:
    """Reads one run: task, arm, seed and metrics.

    Raises:
        InvalidValueError: If the directory is not that of a run.
    """
    if not (directory / CONFIG).is_file() or not (directory / METRICS).is_file():
        raise InvalidValueError("directory", directory, f"is not a run directory (no {CONFIG} and {METRICS} in it)")
    config = yaml.safe_load((directory / CONFIG).read_text())
    agent = config["agent"]
    return {
        "task": f"{config['env']['suite']}/{config['env']['task']}",
        "agent": agent,
        "seed": config["seed"],
        "metrics": read_metrics(directory),
    }


def name_arms(runs: Sequence[dict[str, Any]]) -> None:
    """Gives every run its ``arm``: SAC or the retry count, and whatever else differs between agents of one kind."""
    for run in runs:
        agent = run["agent"]
        same_kind = [
            other["agent"] for other in runs if (other["task"], other["agent"]["name"]) == (run["task"], agent["name"])
        ]
        differing = [
            key for key in agent if key != "num_retries" and any(other.get(key) != agent[key] for other in same_kind)
        ]
        base = "SAC" if agent["name"] == "sac" else f"M={agent['num_retries']}"
        run["arm"] = " ".join([base, *(f"{key}={agent[key]}" for key in differing)])


def write_tables(runs: Sequence[dict[str, Any]], out: Path) -> None:
    """Writes the numbers behind the figure, and the last value of everything."""
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("task", "arm", "seed", "env_steps", "name", "value"))
        for run in runs:
            for name in ("eval/return_stochastic", "eval/entropy", *PANELS):
                for env_steps, value in zip(*run["metrics"].get(name, ([], [])), strict=True):
                    writer.writerow((run["task"], run["arm"], run["seed"], env_steps, name, f"{value:.6g}"))
    names = sorted({name for run in runs for name in run["metrics"] if not name.startswith("time/")})
    with (out / "final.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("task", "arm", "seed", *names))
        for run in runs:
            last = [f"{run['metrics'][name][1][-1]:.6g}" if name in run["metrics"] else "" for name in names]
            writer.writerow((run["task"], run["arm"], run["seed"], *last))


def draw(runs: Sequence[dict[str, Any]], out: Path, caption: str) -> None:
    """Draws a panel per metric and a row per task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = sorted({run["task"] for run in runs})
    arms = sorted({run["arm"] for run in runs}, key=lambda arm: (arm != "SAC", len(arm), arm))
    # One task fills a square; several tasks have a row each.
    shape = (2, 2) if len(tasks) == 1 else (len(tasks), len(PANELS))
    size = (4 * shape[1], 3 * shape[0])
    figure, grid = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for row, task in zip(grid.reshape(len(tasks), len(PANELS)), tasks, strict=True):
        for axes, (name, label) in zip(row, PANELS.items(), strict=True):
            for number, arm in enumerate(arms):
                of_arm = [run for run in runs if (run["task"], run["arm"]) == (task, arm) and name in run["metrics"]]
                if not of_arm:
                    continue
                colour = COLOURS.get(arm, f"C{number}")
                curves = [run["metrics"][name] for run in of_arm]
                for steps, values in curves:
                    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
                shared = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
                aligned = [dict(zip(steps, values, strict=True)) for steps, values in curves]
                median = [np.median([values[step] for values in aligned]) for step in shared]
                axes.plot(shared, median, color=colour, linewidth=2, label=f"{arm} ({len(curves)} seeds)")
            axes.set(xlabel="env steps", ylabel=label, title=task)
            axes.grid(alpha=0.3)
    grid[0, 0].legend(frameon=False, fontsize="small")
    figure.text(0, -0.02, caption[:200], fontsize=6, color="grey", va="top")
    for ending in ("png", "pdf"):
        figure.savefig(out / f"curves.{ending}", dpi=110, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InvalidValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
