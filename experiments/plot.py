"""Compares runs: ``python -m experiments.plot <directories> [out=<folder>] [x=...] [metric=...] [reference=<arm>]``.

Reads run directories, and folders that hold some, and nothing else. Writes PNG, PDF and CSV of every figure that the
runs have something for: ``curves`` (learning curves) and ``final`` (values at the end) always; ``grid_*`` if a setting
besides M varies; ``final_against_*`` for every setting that varies; ``updates_against_num_retries``; ``paired``
(differences on the same seeds); ``aggregate`` for several tasks; ``speed`` for the experiment of that name.

What is left out, and why, is said on stderr. Exit statuses: 0 done, 2 bad input (one line on stderr).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.arguments import command_of, exit_with, parse, require_folder
from experiments.comparisons import Look, draw_all
from experiments.figures import save
from experiments.loading import load
from experiments.panels import ENTROPY, GAUSSIAN_ENTROPY, RETURN, STD
from experiments.runs import X_AXES, Runs
from remac.types import InvalidValueError
from remac.validation import require_one_of

DEFAULT_METRICS = (RETURN, ENTROPY, GAUSSIAN_ENTROPY, STD)


def main(arguments: Sequence[str]) -> None:
    """Draws the runs that the arguments name."""
    paths, settings = parse(arguments, {"out": ".", "x": "env_steps", "metric": "", "reference": ""})
    out = Path(settings["out"])
    require_folder("out", out)
    require_one_of("x", settings["x"], X_AXES)
    runs = load(paths, keep_tuning=True)
    look = make_look(runs, settings, command_of("experiments.plot", arguments))
    notes = list(runs.notes)
    drawings = draw_all(runs, look, notes)
    for note in notes:
        print(note, file=sys.stderr)
    for drawing in drawings:
        files = save(out, drawing.name, drawing.rows, drawing.figure)
        print(next(file for file in files if file.suffix == ".png"))


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


if __name__ == "__main__":
    exit_with(main)
