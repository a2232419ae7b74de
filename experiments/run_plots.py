"""Pictures of one run, drawn from its ``metrics.csv``."""

import io
from pathlib import Path

from experiments.run_directory import PLOTS, read_metrics
from remac.files import write_whole

# File name: (label of the y axis, {metric: label of its line}).
FIGURES = {
    "return": ("return", {"eval/return": "mean action", "eval/return_stochastic": "sampled action"}),
    "entropy": ("entropy (nats)", {"eval/entropy": "squashed, evaluation", "actor/gaussian_entropy": "before tanh"}),
    "std": ("standard deviation before tanh", {"actor/pre_tanh_std": "mean over states and actions"}),
}


def plot_run(directory: Path | str) -> list[Path]:
    """Draws every figure whose metrics exist into ``plots/``, and returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    directory = Path(directory)
    series = read_metrics(directory)
    files = []
    for name, (label, lines) in FIGURES.items():
        present = {metric: line for metric, line in lines.items() if metric in series}
        if not present:
            continue
        figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
        for metric, line in present.items():
            axes.plot(*series[metric], marker=".", label=line)
        axes.set(xlabel="env steps", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        (directory / PLOTS).mkdir(exist_ok=True)
        files.append(directory / PLOTS / f"{name}.png")
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=120)
        plt.close(figure)
        write_whole(files[-1], content.getvalue())
    return files
