"""Suite ``profile``: where the time of a gradient step goes on one CPU core.

``python -m experiments.benchmark.profile <agent of suite update>`` is one measurement.
"""

import collections
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax

from experiments.benchmark import timing, update
from experiments.comparing.drawing import Row
from remac.validation import InvalidValueError

PRODUCTS = ("dot", "ynn_", "xnn_", "onednn_")  # XLA's names of matrix products, alone and fused with what follows
BATCH_SIZE, WIDTH, NUM_UPDATES = 512, 64, 64


def run(size: str, repeats: int) -> list[Row]:
    """Profiles gradient steps in processes that have one core; the profiler itself costs some time.

    Returns:
        A row by agent: milliseconds in matrix products, their rate, milliseconds in everything else, and the most
        expensive things among these; all of them take place one after the other.

    Raises:
        InvalidValueError: If the system cannot give a process one core.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise InvalidValueError("suite", "profile", "needs Linux, where a process can be given one core")
    agents = update.AGENTS if size == "full" else update.AGENTS[:1]
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in agents}
    for name in timing.turns(agents, repeats):
        arguments = [sys.executable, "-m", "experiments.benchmark.profile", name]
        with _one_core():
            outcome = timing.measure_apart(arguments)
        if isinstance(outcome, str):
            raise RuntimeError(outcome)
        measured[name].append(outcome)
    rows: list[Row] = []
    for name, profiles in measured.items():
        flops = update.update_flops(update.make_agent(name, BATCH_SIZE, WIDTH))
        products = [sum(ms for what, ms in profile.items() if what.startswith(PRODUCTS)) for profile in profiles]
        others = [sum(profile.values()) - ms for profile, ms in zip(profiles, products, strict=True)]
        largest = sorted(profiles[0].items(), key=lambda item: -item[1])
        row: Row = {"agent": name, "batch": BATCH_SIZE} | timing.summary(products, "products_ms")
        row |= {"products_gflops": flops / row["products_ms"] / 1e6} | timing.summary(others, "others_ms")
        told = [f"{what} {ms:.3f}" for what, ms in largest if not what.startswith(PRODUCTS)]
        rows.append(row | {"largest_others": ", ".join(told[:5])})
    return rows


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Holds this thread on one core, and so the processes that it starts: XLA makes threads for one core there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main(name: str) -> None:
    """Prints milliseconds a gradient step by kind of operation, as JSON."""
    program = update.make_program(name, BATCH_SIZE, WIDTH, 1, "plain", NUM_UPDATES)
    for _ in range(2):
        jax.block_until_ready(program())
    with tempfile.TemporaryDirectory() as trace:
        with jax.profiler.trace(trace):
            for _ in range(3):
                jax.block_until_ready(program())
        totals: collections.Counter[str] = collections.Counter()
        for _, line in timing.recorded_lines(Path(trace)):
            if line.name.startswith("tf_XLA"):  # the threads that run programs
                events = [
                    (event.start_ns, event.duration_ns, event.name.partition(".")[0])
                    for event in line.events
                    if "wait for completion" not in event.name  # of the thread that asked for the program
                ]
                totals.update(own_times(events))
    print(json.dumps({what: ns / NUM_UPDATES / 3 / 1e6 for what, ns in totals.items()}))


def own_times(events: Iterable[tuple[float, float, str]]) -> dict[str, float]:
    """Sums the durations of events by name, without those of the events inside them.

    Args:
        events: Start, duration and name; of any two, one holds the other or they are apart.
    """
    totals: dict[str, float] = collections.defaultdict(float)
    running: list[tuple[float, str]] = []  # end and name, outermost first
    for start, duration, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while running and running[-1][0] <= start:
            running.pop()
        if running:
            totals[running[-1][1]] -= duration
        totals[name] += duration
        running.append((start + duration, name))
    return dict(totals)


if __name__ == "__main__":
    main(sys.argv[1])
