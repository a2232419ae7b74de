"""Suite ``accelerator``: what members, XLA's settings and precision do to speed and to the learning curve.

Everything is on ``brax/halfcheetah`` with the protocol's settings (arXiv 2606.05888), but for the replay of
``SPEED_ROWS`` rows where speed is measured. XLA reads its settings once a process, so every case is a process of its
own: all of them compile at the same time, and then are measured in turn.
"""

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmark import timing
from experiments.comparing.drawing import Row
from remac.validation import InvalidValueError

TASK = ("env=brax/halfcheetah",)
SHORT_EPISODES = ("+env.options.episode_length=100",)  # of the speed's evaluation, which is not measured
SMALL_TASK = ("env=probe/action", "agent.batch_size=8", "agent.hidden_sizes=[8]", "num_eval_episodes=2")
SPEED_ROWS = 100_000
DEFAULT = "default"


class Variant(NamedTuple):
    """What makes a case another one.

    Attributes:
        xla_flags: For the environment variable ``XLA_FLAGS``.
        overrides: Of ``experiments.train``.
    """

    xla_flags: str = ""
    overrides: tuple[str, ...] = ()


# Without command buffers every kernel is launched by the host.
VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(),
    "no command buffers": Variant("--xla_gpu_enable_command_buffer="),
    "loops in command buffers": Variant("--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL"),
    "deterministic": Variant("--xla_gpu_deterministic_ops=true"),
    "precision high": Variant("", ("agent.matmul_precision=high",)),
    "precision highest": Variant("", ("agent.matmul_precision=highest",)),
}
CURVE_VARIANTS = (DEFAULT, "precision high", "precision highest")  # those that change results
MEMBERS = {"sac": (1, 10, 40, 160), "remac": (1, 10, 40, 160)}
VARIANT_MEMBERS = 10
CURVE_ENV_STEPS, PROTOCOL_ENV_STEPS = 300_000, 3_000_000
PARTS = ("speed", "learning", "protocol")


class Case(NamedTuple):
    """One process of the speed's part."""

    agent: str
    variant: str
    members: int


def run(size: str, repeats: int, parts: tuple[str, ...] = PARTS) -> list[Row]:
    """Measures speed by members and by variant, learning by variant, and one whole training of the protocol.

    Args:
        size: ``small`` only shows that it works.
        repeats: Measurements of speed.
        parts: Of ``PARTS``.

    Returns:
        Rows of three kinds, told by ``what``: ``speed`` (rates of all members together; ``kernel_share``, the share of
        the time in which the device computes, the rest being launching and waiting; and kernels per gradient step,
        those of the environment included), ``learning`` (the sampled return at the end, median over the seeds, and the
        wall time), ``protocol`` (likewise, at full length). What did not run has the last line of its output in
        ``error``.

    Raises:
        InvalidValueError: If ``size`` is ``full`` and there is no accelerator.
    """
    if size == "full" and jax.default_backend() == "cpu":
        raise InvalidValueError("suite", "accelerator", "needs an accelerator; on the CPU there is size=small")
    if size == "full":
        cases = [Case(agent, DEFAULT, number) for agent, numbers in MEMBERS.items() for number in numbers]
        cases += [Case("remac", name, VARIANT_MEMBERS) for name in VARIANTS if name != DEFAULT]
        curves, task, seconds, seeds = CURVE_VARIANTS, TASK, 2.0, VARIANT_MEMBERS
        curve_env_steps, protocol_env_steps = CURVE_ENV_STEPS, PROTOCOL_ENV_STEPS
    else:
        cases = [Case("sac", DEFAULT, 1), Case("remac", "no command buffers", 2)]
        curves, task, seconds, seeds = (DEFAULT, "precision high"), SMALL_TASK, 0.1, 2
        curve_env_steps = protocol_env_steps = 2_000
    rows: list[Row] = []
    if "speed" in parts:
        rows += measure_speed(cases, (*task, *SHORT_EPISODES), seconds, repeats)
    if "learning" in parts:
        rows += [_learning("learning", name, seeds, curve_env_steps, task) for name in timing.turns(curves, 1)]
    if "protocol" in parts:
        rows.append(_learning("protocol", DEFAULT, seeds, protocol_env_steps, task))
    return rows


def measure_speed(cases: list[Case], task: tuple[str, ...], seconds: float, repeats: int) -> list[Row]:
    """Starts a training for every case, measures all of them in turn, and takes a profile of each."""
    rows = []
    with contextlib.ExitStack() as stack:
        processes = {case: stack.enter_context(_training(case, task, seconds)) for case in cases}
        with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
            first = dict(zip(cases, pool.map(_answer, processes.values()), strict=True))
        errors = {case: answer for case, answer in first.items() if isinstance(answer, str)}
        measured: dict[Case, list[dict[str, float]]] = {case: [] for case in cases if case not in errors}
        for case in timing.turns(list(measured), repeats):
            if case not in errors:
                answer = _ask(processes[case], "measure")
                if isinstance(answer, str):
                    errors[case] = answer
                else:
                    measured[case].append(answer)
        for case, answer in first.items():
            row: Row = {"what": "speed", **case._asdict()}
            if case not in errors:
                for quantity in ("env_steps_per_second", "gradient_steps_per_second"):
                    row |= timing.summary([values[quantity] for values in measured[case]], quantity)
                profile = _ask(processes[case], "profile")
                row |= answer | (profile if isinstance(profile, dict) else {"profile_error": profile})
            rows.append(row | {"error": errors.get(case, "")})
    return rows


@contextlib.contextmanager
def _training(case: Case, task: tuple[str, ...], seconds: float) -> Iterator["subprocess.Popen[str]"]:
    """Goes around a training that ``experiments.benchmark.protocol`` runs and measures when it is asked to."""
    variant = VARIANTS[case.variant]
    overrides = (f"agent={case.agent}", *task, *variant.overrides)
    arguments = [sys.executable, "-m", "experiments.benchmark.protocol", str(case.members), str(seconds), *overrides]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | _variables(variant),
        )
        process.errors_file = errors  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def _ask(process: "subprocess.Popen[str]", request: str) -> dict[str, float] | str:
    with contextlib.suppress(BrokenPipeError):
        print(request, file=process.stdin, flush=True)
    return _answer(process)


def _answer(process: "subprocess.Popen[str]") -> dict[str, float] | str:
    """Returns the next line of JSON that a training prints, or the last line of what went wrong."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    process.wait()
    errors: Any = process.errors_file  # type: ignore[attr-defined]
    errors.seek(0)
    return timing.last_line(errors.read())


def _learning(what: str, variant: str, seeds: int, env_steps: int, task: tuple[str, ...]) -> Row:
    """Runs ReMAC by ``experiments.train`` with some seeds as one population."""
    row: Row = {"what": what, "agent": "remac", "variant": variant, "members": seeds, "env_steps": env_steps}
    with tempfile.TemporaryDirectory() as directory:
        arguments = [sys.executable, "-m", "experiments.train", "-m", "hydra/launcher=population", "agent=remac"]
        arguments += [*task, *VARIANTS[variant].overrides]
        arguments += [f"total_env_steps={env_steps}", f"seed=range(1,{seeds + 1})", f"hydra.sweep.dir={directory}/runs"]
        started = time.perf_counter()
        environment = os.environ | _variables(VARIANTS[variant])
        outcome = subprocess.run(arguments, capture_output=True, text=True, env=environment)
        elapsed = time.perf_counter() - started
        if outcome.returncode:
            return row | {"error": timing.last_line(outcome.stderr)}
        summaries = [json.loads(path.read_text()) for path in Path(directory, "runs").glob("*/summary.json")]
    returns = [summary["metrics"]["eval/return_stochastic"] for summary in summaries]
    return row | timing.summary(returns, "return") | {"wall_seconds": elapsed, "error": ""}


def _variables(variant: Variant) -> dict[str, str]:
    """Returns a variant's environment variables, with what the user has set in ``XLA_FLAGS`` before them."""
    if not variant.xla_flags:
        return {}
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {variant.xla_flags}".strip()}


def kernels(trace: Path) -> list[tuple[float, float]]:
    """Returns start and end, in ns, of all kernels that a device ran; none where no device's streams were recorded.

    Args:
        trace: Directory that ``jax.profiler.trace`` wrote.
    """
    return [
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane, line in timing.recorded_lines(trace)
        if plane.startswith("/device:") and line.name.startswith("Stream")
        for event in line.events
    ]


def busy_share(intervals: list[tuple[float, float]]) -> float:
    """Returns the length of the union of intervals `(start, end)`, over that of the shortest interval around them."""
    start, end = np.array(sorted(intervals), dtype=np.float64).T
    covered = np.maximum.accumulate(end)
    begun = np.append(start[0], covered[:-1])  # what all earlier intervals have covered ends here
    return float(np.sum(np.maximum(end - np.maximum(start, begun), 0.0)) / (covered[-1] - start[0]))
