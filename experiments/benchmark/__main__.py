"""Measures speed: ``python -m experiments.benchmark suite=<name> [size=full|small] [repeats=5] [out=<file>]``.

Prints a table and writes it as JSON, with the machine in it. Columns named ``_min`` and ``_max`` are the spread of the
one before them, a median. Exit statuses: 0 done, 2 bad input (one line on stderr), 130 interrupted.

Suites: ``update`` (one gradient step, against the FLOPs that it needs), ``profile`` (where its time goes),
``environment``, ``train`` (end to end), ``start`` (to the first gradient step), ``checkpoint`` (the share of time that
saving takes), ``estimators`` (against sorting), ``population`` (members against time), ``peers`` (other libraries,
installed from the package index; ``peers=sbx,rejax`` chooses among them), ``accelerator`` (members, XLA's settings,
precision and a whole training of the protocol, on a GPU or TPU).
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.benchmark import (
    accelerator,
    checkpoint,
    environment,
    estimators,
    peers,
    profile,
    start,
    timing,
    train,
    update,
)
from experiments.comparing.drawing import Row
from experiments.console.key_value import command_of, exit_with, parse, require_file
from experiments.running.hydra_main import use_all_cpus
from experiments.running.jax_settings import require_usable_jax
from remac.files import write_whole
from remac.validation import InvalidValueError, require_int, require_one_of

SUITES: dict[str, Callable[[str, int], list[Row]]] = {
    "update": update.run,
    "profile": profile.run,
    "environment": environment.run,
    "train": train.run,
    "estimators": estimators.run,
    "start": start.run,
    "checkpoint": checkpoint.run,
    "population": train.run_population,
    "peers": peers.run,
    "accelerator": accelerator.run,
}
SIZES = ("full", "small")


class Settings(NamedTuple):
    """The command line, checked.

    Attributes:
        suite: One of ``SUITES``.
        size: One of ``SIZES``; ``small`` only shows that it works.
        repeats: Measurements of each row.
        out: The JSON file.
        peers: Peers that the suite of that name runs.
    """

    suite: str
    size: str
    repeats: int
    out: Path
    peers: tuple[str, ...]


def read_settings(arguments: Sequence[str]) -> Settings:
    """Reads ``key=value`` arguments.

    Raises:
        InvalidValueError: On an unknown key, one given twice, or a value that is not allowed.
    """
    defaults = {"suite": "", "size": "full", "repeats": "5", "out": "", "peers": ""}
    _, values = parse(arguments, defaults, with_directories=False)
    require_one_of("suite", values["suite"], SUITES)
    require_one_of("size", values["size"], SIZES)
    require_int("repeats", int(values["repeats"]) if values["repeats"].isdecimal() else values["repeats"], 1)
    chosen = tuple(values["peers"].split(",")) if values["peers"] else tuple(peers.REQUIREMENTS)
    for peer in chosen:
        require_one_of("peers", peer, peers.REQUIREMENTS)
    if values["peers"] and values["suite"] != "peers":
        raise InvalidValueError("peers", values["peers"], "is for suite=peers only")
    out = Path(values["out"] or Path("runs", "benchmark", f"{values['suite']}.json"))
    require_file("out", out)
    return Settings(values["suite"], values["size"], int(values["repeats"]), out, chosen)


def main(arguments: Sequence[str]) -> None:
    """Runs a suite, prints its table and writes it."""
    settings = read_settings(arguments)
    use_all_cpus()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes of some suites need the GPU's memory
    require_usable_jax()
    before = timing.machine()
    if settings.suite == "peers":
        rows = peers.run(settings.size, settings.repeats, settings.peers)
    else:
        rows = SUITES[settings.suite](settings.size, settings.repeats)
    print(", ".join(f"{name} {value}" for name, value in before.items() if value != ""))
    print(table(rows))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": command_of("experiments.benchmark", arguments), "machine": before, "rows": rows}
    write_whole(settings.out, (json.dumps(content, indent=2) + "\n").encode())
    print(settings.out)


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
