"""Compares runs: ``python -m experiments.plot <directories> [out=<folder>] [metric=...] [reference=<arm>]``.

Reads run directories, folders that hold some, and CSV files of curves with the columns of the ``curves.csv`` that it
writes (``exp_name,env_name,seed,metric,env_step,value``, which others publish too), and nothing else. Writes PNG, PDF
and CSV of every figure that the runs have something for: ``curves`` (learning curves) and ``final`` (values at the end)
always; ``grid_*`` if a setting besides M varies; ``final_against_*`` for every setting that varies;
``updates_against_num_retries``; ``cost`` where N varies; ``paired`` (differences on the same seeds); ``aggregate`` for
several tasks; ``speed`` for the experiment of that name; with ``threshold=<number>``, ``reached``, the share of seeds
of which the first ``metric`` has come so far, by steps. Each is declared in a module of
``experiments/comparing/figures``, and so is a new one.
``published=true`` draws in grey what others have published (``published_returns.csv``: SAC, CrossQ, SimbaV2, FlashSAC
and XQC on tasks of MuJoCo and DeepMind Control, each with its source), or a file's with the same columns, at up to as
many env steps; it is of the mean action (``eval/return``).
``metric`` is one or more names of ``metrics.csv``, for example ``actor/entropy,env/forward_velocity``; ``x`` is
``env_steps``, ``gradient_steps`` or ``wall_clock``.

What is left out, and why, is said on stderr. Exit statuses: 0 done, 1 a figure could not be written, 2 bad input (one
line on stderr).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.comparing.comparisons import LOOK, draw_all, make_look
from experiments.comparing.drawing import files_of, save
from experiments.comparing.loading import load
from experiments.comparing.runs import X_AXES
from experiments.console.key_value import command_of, exit_with, parse, require_folder, require_not_read
from experiments.console.messages import one_line, warn
from experiments.console.pasting import as_path
from remac.validation import require_one_of


def main(arguments: Sequence[str]) -> int:
    """Draws the runs that the arguments name, and returns the exit status."""
    paths, settings = parse(arguments, {"out": ".", **LOOK})
    out = as_path(settings["out"])
    require_folder("out", out)
    require_one_of("x", settings["x"], X_AXES)
    runs = load(paths, keep_tuning=True)
    look = make_look(runs, settings, command_of("experiments.plot", arguments))
    notes = list(runs.notes)
    drawings = draw_all(runs, look, notes)
    for note in notes:
        print(note, file=sys.stderr)
    read = [path for path in (*paths, settings["published"]) if Path(path).is_file()]
    require_not_read("out", out, (file for drawing in drawings for file in files_of(out, drawing.name)), read)
    status = 0 if drawings else 1
    for drawing in drawings:
        try:
            files = save(out, drawing.name, drawing.rows, drawing.figure)
        except Exception as error:
            warn(f"{drawing.name}: not written ({one_line(error)})")
            status = 1
        else:
            print(next(file for file in files if file.suffix == ".png"))
    return status


if __name__ == "__main__":
    exit_with(main)
