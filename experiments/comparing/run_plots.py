"""Pictures of one run, drawn from its ``metrics.csv``."""

import io
from pathlib import Path

from experiments.comparing.drawing import COLOURS, caption, label, new_figure, own_style, readable
from experiments.comparing.panels import STD, floor_of_std, task_title
from experiments.comparing.runs import Run
from experiments.records.files import PLOTS, read_config, read_metrics
from remac.files import write_whole

# File name: (label of the y axis, {metric: label of its line}).
FIGURES = {
    "return": ("return", {"eval/return": "mean action", "eval/return_stochastic": "sampled action"}),
    "entropy": ("entropy (nats)", {"eval/entropy": "squashed, evaluation", "actor/gaussian_entropy": "before tanh"}),
    "std": ("standard deviation before tanh", {STD: "mean over states and actions"}),
}


@own_style()
def plot_run(directory: Path | str) -> list[Path]:
    """Draws every figure whose metrics exist into ``plots/``, and returns the files."""
    directory = Path(directory)
    series, files = read_metrics(directory), list[Path]()
    run = Run(directory, read_config(directory), {}, None, {})
    title = f"{run.agent_title} on {task_title(run.task)}, seed {run.seed}"
    for name, (y_label, lines) in FIGURES.items():
        present = {metric: line for metric, line in lines.items() if metric in series}
        if not present:
            continue
        figure, axes = new_figure(1, 1, panel=(5, 3.2))
        for colour, (metric, line) in zip(COLOURS, present.items(), strict=False):
            axes[0, 0].plot(*series[metric], marker=".", color=colour, label=line)
        label(axes[0, 0], title=readable(title, 70), x="env steps", y=y_label)
        axes[0, 0].grid(alpha=0.3)
        axes[0, 0].legend(frameon=False, fontsize=8)
        if STD in present and (floor := floor_of_std([run.config])):
            caption(figure, floor)
        (directory / PLOTS).mkdir(exist_ok=True)
        files.append(directory / PLOTS / f"{name}.png")
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=120)
        write_whole(files[-1], content.getvalue())
    return files
