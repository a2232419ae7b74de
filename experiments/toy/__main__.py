"""Studies the gradients on toy problems: `python -m experiments.toy study=<name> [size=full|small] [out=<directory>]`.

Writes the study's numbers as CSV and its figure as PNG and PDF. Exit statuses: 0 done, 2 bad input (one line on
stderr), 130 interrupted.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax

from experiments.comparing.drawing import Row, save
from experiments.console.key_value import exit_with, parse, require_folder
from experiments.console.pasting import as_path
from experiments.running.jax_settings import require_usable_jax
from experiments.toy import certificates, episodes, estimators, gaussian
from remac.validation import require_one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Study(NamedTuple):
    """A study: numbers, and a picture that is a function of them.

    Attributes:
        compute: Takes the size (``full`` or ``small``) and returns the rows of the table.
        plot: Draws the rows.
    """

    compute: Callable[[str], list[Row]]
    plot: Callable[[list[Row]], "Figure"]


STUDIES = {
    "vector_field": Study(gaussian.vector_field, gaussian.plot_vector_field),
    "optimisation_paths": Study(gaussian.distance, gaussian.plot_optimisation_paths),
    "distance": Study(gaussian.distance, gaussian.plot_distance),
    "adam_denominator": Study(gaussian.adam_denominator, gaussian.plot_adam_denominator),
    "undamped": Study(gaussian.undamped, gaussian.plot_distance),
    "damping": Study(gaussian.damping, gaussian.plot_damping),
    "estimator_snr": Study(estimators.estimator_snr, estimators.plot_estimator_snr),
    "unbiasedness": Study(estimators.unbiasedness, estimators.plot_unbiasedness),
    "baselines": Study(estimators.baselines, estimators.plot_baselines),
    "episode_estimators": Study(episodes.episode_estimators, episodes.plot_episode_estimators),
    "sign_certificate": Study(certificates.sign_certificate, certificates.plot_sign_certificate),
    "objectives": Study(estimators.objectives, estimators.plot_objectives),
}
SIZES = ("full", "small")


def compute(study: str, size: str) -> list[Row]:
    """Computes a study's numbers, in float64.

    Args:
        study: One of `STUDIES`.
        size: One of `SIZES`.

    Returns:
        The rows of its table.
    """
    with jax.enable_x64(True):
        return STUDIES[study].compute(size)


def read_settings(arguments: Sequence[str]) -> tuple[str, str, Path]:
    """Reads `key=value` arguments.

    Args:
        arguments: Command line without the program.

    Returns:
        Study, size and directory.

    Raises:
        InvalidValueError: On an unknown key, one given twice, or a value that is not allowed.
    """
    _, settings = parse(arguments, {"study": "", "size": "full", "out": ""}, with_directories=False)
    require_one_of("study", settings["study"], STUDIES)
    require_one_of("size", settings["size"], SIZES)
    directory = as_path(settings["out"]) if settings["out"] else Path("runs", "toy", settings["study"])
    require_folder("out", directory)
    return settings["study"], settings["size"], directory


def main(arguments: Sequence[str]) -> None:
    """Runs a study and draws it."""
    study, size, directory = read_settings(arguments)
    require_usable_jax(x64=True)
    rows = compute(study, size)
    files = save(directory, study, rows, STUDIES[study].plot(rows))
    print("\n".join(str(path) for path in files))


if __name__ == "__main__":
    exit_with(main)
