"""Measures speed: ``python -m experiments.benchmark suite=<name> [size=full|small] [repeats=5] [out=<file>]``.

Prints a table and writes it as JSON, with the machine in it. Columns named ``_min`` and ``_max`` are the spread of the
one before them, a median. Exit statuses: 0 done, 2 bad input (one line on stderr), 130 interrupted.

Suites: ``update`` (one gradient step, against the FLOPs that it needs), ``profile`` (where its time goes),
``environment`` (``tasks=mujoco/hopper,brax/ant`` chooses among them), ``dmc`` (DeepMind Control's tasks beside
dm_control and EnvPool), ``train`` (end to end), ``start`` (to the first gradient step), ``checkpoint`` (the share of
time that saving takes), ``estimators`` (against sorting), ``population`` (members against time), ``growth`` (time and
memory by members, jobs, transitions, and runs that are compared, with a picture; ``kinds=population,report`` chooses
among them), ``peers`` (other libraries, installed from the package index; ``peers=sbx,rejax`` chooses among them),
``returns`` (PPO's after 1,000,000 env steps, and its seconds, beside Stable-Baselines3's), ``accelerator`` (members,
XLA's settings, precision and a whole training of the protocol, on a GPU; ``parts=speed,learning,protocol`` chooses
among them, ``members=40,160`` among the sizes), ``program`` (what a GPU would run, compiled without one).
"""

import json
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.benchmark import (
    accelerator,
    checkpoint,
    dmc,
    environment,
    estimators,
    growth,
    peers,
    profile,
    program,
    start,
    timing,
    train,
    update,
)
from experiments.comparing.drawing import Row, files_of, own_style, save
from experiments.console.key_value import command_of, exit_with, parse, require_file
from experiments.console.pasting import as_path
from experiments.records.provenance import provenance
from experiments.running.hydra_main import use_all_cpus
from experiments.running.jax_settings import require_usable_jax
from remac.files import write_whole
from remac.validation import InvalidValueError, require_int, require_one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUITES: dict[str, Callable[..., list[Row]]] = {
    "update": update.run,
    "profile": profile.run,
    "environment": environment.run,
    "dmc": dmc.run,
    "train": train.run,
    "estimators": estimators.run,
    "start": start.run,
    "checkpoint": checkpoint.run,
    "population": train.run_population,
    "growth": growth.run,
    "peers": peers.run,
    "returns": peers.run_returns,
    "accelerator": accelerator.run,
    "program": program.run,
}
PICTURES: dict[str, Callable[[list[Row]], "Figure"]] = {"growth": growth.plot}
SIZES = ("full", "small")
# Keys that choose among what a suite runs, with the suite and what there is.
CHOICES: dict[str, tuple[str, Collection[str]]] = {
    "peers": ("peers", peers.REQUIREMENTS),
    "parts": ("accelerator", accelerator.PARTS),
    "members": ("accelerator", accelerator.MEMBERS),
    "kinds": ("growth", growth.GROWTHS),
    "tasks": ("environment", environment.TASKS),
}


class Settings(NamedTuple):
    """The command line, checked.

    Attributes:
        suite: One of ``SUITES``.
        size: One of ``SIZES``; ``small`` only shows that it works.
        repeats: Measurements of each row.
        out: The JSON file.
        chosen: By key, what the suite runs of that which it has.
    """

    suite: str
    size: str
    repeats: int
    out: Path
    chosen: dict[str, tuple[str, ...]]


def read_settings(arguments: Sequence[str]) -> Settings:
    """Reads ``key=value`` arguments.

    Raises:
        InvalidValueError: On an unknown key, one given twice, or a value that is not allowed.
    """
    defaults = {"suite": "", "size": "full", "repeats": "5", "out": ""} | dict.fromkeys(CHOICES, "")
    _, values = parse(arguments, defaults, with_directories=False)
    require_one_of("suite", values["suite"], SUITES)
    require_one_of("size", values["size"], SIZES)
    require_int("repeats", int(values["repeats"]) if values["repeats"].isdecimal() else values["repeats"], 1)
    chosen: dict[str, tuple[str, ...]] = {}
    for key, (suite, choices) in CHOICES.items():
        if values[key] and values["suite"] != suite:
            raise InvalidValueError(key, values[key], f"is for suite={suite} only")
        if values["suite"] == suite:
            chosen[key] = tuple(values[key].split(",")) if values[key] else tuple(choices)
            for name in chosen[key]:
                require_one_of(key, name, choices)
    out = as_path(values["out"]) if values["out"] else Path("runs", "benchmark", f"{values['suite']}.json")
    require_file("out", out)
    if values["suite"] in PICTURES and out in files_of(out.parent, out.stem):
        raise InvalidValueError("out", out, "is where the table or the picture goes; must end otherwise, such as .json")
    return Settings(values["suite"], values["size"], int(values["repeats"]), out, chosen)


def main(arguments: Sequence[str]) -> None:
    """Runs a suite, prints its table and writes it."""
    settings = read_settings(arguments)
    use_all_cpus()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes of some suites need the GPU's memory
    require_usable_jax()
    before = timing.machine()
    rows = SUITES[settings.suite](settings.size, settings.repeats, **settings.chosen)
    print(", ".join(f"{name} {value}" for name, value in before.items() if value != ""))
    print(table(rows))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    command, commit = command_of("experiments.benchmark", arguments), provenance()["commit"]
    content = {"command": command, "commit": commit, "machine": before, "rows": rows}
    write_whole(settings.out, (json.dumps(content, indent=2) + "\n").encode())
    print(settings.out)
    if settings.suite in PICTURES:
        with own_style():
            figure = PICTURES[settings.suite](rows)
        print(*save(settings.out.parent, settings.out.stem, rows, figure), sep="\n")


def table(rows: list[Row]) -> str:
    """Lays rows out as aligned columns; numbers have four figures."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_text(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    exit_with(main)
