"""Suite ``accelerator``: what members, XLA's settings and precision do to speed and to the learning curve.

Everything is ReMAC on ``brax/halfcheetah`` with the protocol's settings (arXiv 2606.05888). XLA reads its settings once
a process, so every measurement is a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from experiments.benchmark import timing
from experiments.comparing.drawing import Row
from remac.validation import InvalidValueError

PROTOCOL = ("agent=remac", "env=brax/halfcheetah")
SMALL = ("agent=remac", "env=probe/action", "agent.batch_size=8", "agent.hidden_sizes=[8]", "num_eval_episodes=2")
DEFAULT = "default"
# The environment variables that make a variant. Without command buffers every kernel is launched by the host.
VARIANTS: dict[str, dict[str, str]] = {
    DEFAULT: {},
    "no command buffers": {"XLA_FLAGS": "--xla_gpu_enable_command_buffer="},
    "loops in command buffers": {"XLA_FLAGS": "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL"},
    "deterministic": {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"},
    "float32": {"JAX_DEFAULT_MATMUL_PRECISION": "float32"},
    "tf32": {"JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32"},
    "bfloat16": {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"},
}
MEMBERS = (1, 24, 40, 160)  # besides those of the variants
VARIANT_MEMBERS = 10
CURVE_ENV_STEPS, PROTOCOL_ENV_STEPS = 300_000, 3_000_000


def run(size: str, repeats: int) -> list[Row]:
    """Measures speed by members and by variant, learning by variant, and one whole training of the protocol.

    Returns:
        Rows of three kinds, told by ``what``: ``speed`` (rates of all members together, and ``kernel_share``, the
        share of the time in which the device computes; the rest is launching and waiting), ``learning`` (the sampled
        return at the end, median over the seeds, and the wall time), ``protocol`` (likewise, at full length). What did
        not run has the last line of its output in ``error``.

    Raises:
        InvalidValueError: If ``size`` is ``full`` and there is no accelerator.
    """
    if size == "full" and jax.default_backend() == "cpu":
        raise InvalidValueError("suite", "accelerator", "needs an accelerator; on the CPU there is size=small")
    if size == "full":
        members, variants, overrides, seconds = MEMBERS, list(VARIANTS), PROTOCOL, 3.0
        seeds, curve_env_steps, protocol_env_steps = VARIANT_MEMBERS, CURVE_ENV_STEPS, PROTOCOL_ENV_STEPS
    else:
        members, variants, overrides, seconds = (1,), [DEFAULT, "no command buffers"], SMALL, 0.1
        seeds, curve_env_steps, protocol_env_steps = 2, 2_000, 2_000
    cases = [*((name, seeds) for name in variants), *((DEFAULT, number) for number in members)]
    rows = _speed(cases, overrides, seconds, repeats)
    rows += [_learning("learning", name, seeds, curve_env_steps, overrides) for name in timing.turns(variants, 1)]
    return [*rows, _learning("protocol", DEFAULT, seeds, protocol_env_steps, overrides)]


def _speed(cases: list[tuple[str, int]], overrides: tuple[str, ...], seconds: float, repeats: int) -> list[Row]:
    """Measures every variant and number of members, in turn."""
    measured: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    errors: dict[tuple[str, int], str] = {}
    for case in timing.turns(cases, repeats):
        if case in errors:
            continue
        arguments = [sys.executable, "-m", "experiments.benchmark.protocol", str(case[1]), str(seconds), *overrides]
        outcome = timing.measure_apart(arguments, env=os.environ | _variables(case[0]))
        if isinstance(outcome, str):
            errors[case] = outcome
        else:
            measured[case].append(outcome)
    rows = []
    for (name, number), values in measured.items():
        row: Row = {"what": "speed", "variant": name, "members": number}
        if (name, number) not in errors:
            for quantity in ("env_steps_per_second", "gradient_steps_per_second", "kernel_share"):
                if quantity in values[0]:
                    row |= timing.summary([value[quantity] for value in values], quantity)
        rows.append(row | {"error": errors.get((name, number), "")})
    return rows


def _learning(what: str, variant: str, seeds: int, env_steps: int, overrides: tuple[str, ...]) -> Row:
    """Runs ``experiments.train`` with some seeds as one population."""
    row: Row = {"what": what, "variant": variant, "members": seeds, "env_steps": env_steps}
    with tempfile.TemporaryDirectory() as directory:
        arguments = [sys.executable, "-m", "experiments.train", "-m", "hydra/launcher=population", *overrides]
        arguments += [f"total_env_steps={env_steps}", f"seed=range(1,{seeds + 1})", f"hydra.sweep.dir={directory}/runs"]
        started = time.perf_counter()
        outcome = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | _variables(variant))
        elapsed = time.perf_counter() - started
        if outcome.returncode:
            return row | {"error": timing.last_line(outcome.stderr)}
        summaries = [json.loads(path.read_text()) for path in Path(directory, "runs").glob("*/summary.json")]
    returns = [summary["metrics"]["eval/return_stochastic"] for summary in summaries]
    return row | timing.summary(returns, "return") | {"wall_seconds": elapsed, "error": ""}


def _variables(variant: str) -> dict[str, str]:
    """Returns a variant's environment variables, with what the user has set in ``XLA_FLAGS`` before them."""
    variables = VARIANTS[variant]
    if "XLA_FLAGS" in variables:
        variables = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {variables['XLA_FLAGS']}".strip()}
    return variables


def kernel_share(trace: Path) -> float | None:
    """Returns the share of time in which the device was computing, between its first and its last kernel.

    Args:
        trace: Directory that ``jax.profiler.trace`` wrote.

    Returns:
        A number in [0, 1], or None where no device's streams were recorded, as on the CPU.
    """
    intervals = [
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane, line in timing.recorded_lines(trace)
        if plane.startswith("/device:") and line.name.startswith("Stream")
        for event in line.events
    ]
    return busy_share(intervals) if intervals else None


def busy_share(intervals: list[tuple[float, float]]) -> float:
    """Returns the length of the union of intervals `(start, end)`, over that of the shortest interval around them."""
    start, end = np.array(sorted(intervals), dtype=np.float64).T
    covered = np.maximum.accumulate(end)
    begun = np.append(start[0], covered[:-1])  # what all earlier intervals have covered ends here
    return float(np.sum(np.maximum(end - np.maximum(start, begun), 0.0)) / (covered[-1] - start[0]))
