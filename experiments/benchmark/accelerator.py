"""Suite ``accelerator``: what members, XLA's settings and precision do to speed and to the learning curve.

Everything is on ``brax/halfcheetah`` with the protocol's settings (arXiv 2606.05888), but for a replay of
``SPEED_ROWS`` rows and episodes of 100 steps where speed is measured. XLA reads its settings once a process, so every
case is a process of its own: several compile at the same time, and then all are measured in turn.
"""

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Self

import jax
from tqdm import tqdm

from experiments.benchmark import timing
from experiments.comparing.drawing import Row
from remac.machine import available_cpus
from remac.validation import InvalidValueError

TASK = ("env=brax/halfcheetah",)
SHORT_EPISODES = ("+env.options.episode_length=100",)  # so that the first evaluation is over soon
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
AGENTS, MEMBERS = ("sac", "remac"), ("1", "10", "40", "160")
VARIANT_MEMBERS = 10
CURVE_ENV_STEPS, PROTOCOL_ENV_STEPS = 300_000, 3_000_000
PARTS = ("speed", "learning", "protocol")


class Case(NamedTuple):
    """One process of the speed's part."""

    agent: str
    variant: str
    members: int


def run(size: str, repeats: int, parts: Collection[str] = PARTS, members: Collection[str] = MEMBERS) -> list[Row]:
    """Measures speed by members and by variant, learning by variant, and one whole training of the protocol.

    Args:
        size: ``small`` only shows that it works.
        repeats: Measurements of speed.
        parts: Of ``PARTS``.
        members: Of ``MEMBERS``, whose speed is measured; the variants are of ten.

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
    curves: tuple[str, ...]
    task: tuple[str, ...]
    if size == "full":
        cases = [Case(agent, DEFAULT, int(number)) for agent in AGENTS for number in members]
        if str(VARIANT_MEMBERS) in members:
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
    with contextlib.ExitStack() as stack:
        trainings = {case: stack.enter_context(_Training(case, task, seconds)) for case in cases}
        # Tracing and compiling keep a few cores busy each; so many more at once are slower together.
        with concurrent.futures.ThreadPoolExecutor(max(1, available_cpus() // 4)) as pool:
            preparing = [pool.submit(training.prepare) for training in trainings.values()]
            for one in tqdm(concurrent.futures.as_completed(preparing), "compiling", len(cases), dynamic_ncols=True):
                one.result()
        rates: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
        for case in timing.turns([case for case in cases if not trainings[case].error], repeats):
            rates[case].append(trainings[case].ask("measure"))
        rows = []
        for case, training in trainings.items():
            row: Row = {"what": "speed", **case._asdict()} | training.prepared
            if not training.error:
                for quantity in rates[case][0]:
                    row |= timing.summary([values[quantity] for values in rates[case]], quantity)
                row |= training.ask("profile")
            rows.append(row | {"error": training.error})
    return rows


class _Training:
    """A training that ``experiments.benchmark.protocol`` runs in a process of its own; it ends with the context.

    Attributes:
        prepared: What it said of its preparation.
        error: The last line of what went wrong, or nothing.
    """

    def __init__(self, case: Case, task: tuple[str, ...], seconds: float) -> None:
        """Starts nothing yet."""
        variant = VARIANTS[case.variant]
        overrides = (f"agent={case.agent}", *task, *variant.overrides)
        self._command = [sys.executable, "-m", "experiments.benchmark.protocol", str(case.members), str(seconds)]
        self._command += overrides
        self._variables = _variables(variant)
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the context)
        self.prepared: dict[str, float] = {}
        self.error = ""

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def prepare(self) -> None:
        """Starts the training; returns when it stands still at its full speed."""
        pipe, environment = subprocess.PIPE, os.environ | self._variables
        self._process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, env=environment
        )
        self.prepared = self._answer()

    def ask(self, request: str) -> dict[str, float]:
        """Has it go on until it can answer; empty where it failed."""
        assert self._process is not None
        with contextlib.suppress(BrokenPipeError):
            print(request, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, float]:
        """Reads the next line of JSON that it prints."""
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        self._process.wait()
        self._errors.seek(0)
        self.error = self.error or timing.last_line(self._errors.read())
        return {}


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
