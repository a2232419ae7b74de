"""Interleaved timing, its summary, and what machine it was made on."""

import contextlib
import itertools
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from remac.machine import available_cpus

GEMM_SHAPE = (4096, 64, 64)
T = TypeVar("T")


def turns(cases: Sequence[T], repeats: int) -> Iterator[T]:
    """Yields every case once per repeat, in turn, so that what else the machine does falls on all of them alike.

    A bar on standard error tells which one is at work.
    """
    with tqdm(total=repeats * len(cases), desc="measuring", unit="measurement", dynamic_ncols=True) as bar:
        for _, case in itertools.product(range(repeats), cases):
            bar.set_postfix_str(str(case))
            yield case
            bar.update()


def interleave(cases: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Runs every case once per repeat, in ``turns``.

    Args:
        cases: Functions that make one measurement each; they are called once more before, and that one is dropped.
        repeats: Number of measurements of each.
    """
    for measure in cases.values():
        measure()
    results: dict[str, list[float]] = {name: [] for name in cases}
    for name in turns(list(cases), repeats):
        results[name].append(cases[name]())
    return results


def seconds(program: Callable[[], Any]) -> float:
    """Returns the wall time of a program to the end of its computation."""
    started = time.perf_counter()
    jax.block_until_ready(program())
    return time.perf_counter() - started


def summary(values: list[float], unit: str) -> dict[str, float]:
    """Returns median, least and largest as three columns."""
    return {
        unit: float(np.median(values)),
        f"{unit}_min": float(np.min(values)),
        f"{unit}_max": float(np.max(values)),
    }


def make_gemm(length: int = 20) -> Callable[[], float]:
    """Returns a measurement of the rate, in FLOP/s, of [4096, 64] x [64, 64]."""
    rows, inner, columns = GEMM_SHAPE
    left, right = jnp.ones((rows, inner)), jnp.eye(inner, columns)

    @jax.jit
    def products(left: jax.Array, right: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, length, lambda _, value: value @ right, left)

    return lambda: 2.0 * rows * inner * columns * length / seconds(lambda: products(left, right))


def machine() -> dict[str, Any]:
    """Describes the machine and the software."""
    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    device = jax.local_devices()[0]
    return {
        "cpu": model,
        "cores": available_cpus(),
        "load_average": os.getloadavg()[0],
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.local_device_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def measure_apart(arguments: Sequence[str], **options: Any) -> dict[str, float] | str:
    """Runs Python in a process of its own that prints one line of JSON last.

    Args:
        arguments: Of the interpreter, which comes first.
        **options: Of ``subprocess.run``.

    Returns:
        What it printed, or the last line of what went wrong.
    """
    outcome = subprocess.run(arguments, capture_output=True, text=True, **options)
    try:
        return dict(json.loads(outcome.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return last_line(outcome.stderr)


def recorded_lines(trace: Path) -> Iterator[tuple[str, Any]]:
    """Yields the lines of events (of a thread, or a device's stream) that ``jax.profiler.trace`` wrote to a directory.

    Each with the name of its plane (the host, or a device), and valid until the next.
    """
    for path in trace.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                yield plane.name, line


@contextlib.contextmanager
def device_trace(directory: Path) -> Iterator[None]:
    """Records what the device does, and not the host, of which half a second is too much."""
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level = options.python_tracer_level = 0
    with jax.profiler.trace(directory, profiler_options=options):
        yield


def kernel_summary(trace: Path, gradient_steps: int) -> dict[str, float]:
    """Returns what ``device_trace`` recorded, or nothing where no device's streams were, as on the CPU.

    Returns:
        ``kernels`` for each of the gradient steps, and ``kernel_share``, the share of the time in which one runs.
    """
    found = kernels(trace)
    return {"kernels": len(found) / gradient_steps, "kernel_share": busy_share(found)} if found else {}


def kernels(trace: Path) -> list[tuple[float, float]]:
    """Returns start and end, in ns, of all kernels that a device ran; none where no device's streams were recorded.

    Args:
        trace: Directory that ``jax.profiler.trace`` wrote.
    """
    return [
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane, line in recorded_lines(trace)
        if plane.startswith("/device:") and line.name.startswith("Stream")
        for event in line.events
    ]


def busy_share(intervals: list[tuple[float, float]]) -> float:
    """Returns the length of the union of intervals `(start, end)`, over that of the shortest interval around them."""
    start, end = np.array(sorted(intervals), dtype=np.float64).T
    covered = np.maximum.accumulate(end)
    begun = np.append(start[0], covered[:-1])  # what all earlier intervals have covered ends here
    return float(np.sum(np.maximum(end - np.maximum(start, begun), 0.0)) / (covered[-1] - start[0]))


def last_line(text: str) -> str:
    """Returns the last line of a program's output, shortened: what it says of its error."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"
