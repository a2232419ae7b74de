"""Suites ``peers`` and ``returns``: the same training by other libraries, each in a virtual environment of its own.

Task, networks (two equal layers), hyperparameters and device are the same for all: for SAC batches of 512 and one
gradient step an environment step, for PPO rounds of 128 steps, ten epochs of minibatches of 64. Each script here but
``ours`` runs in its peer's environment and imports nothing of this repository.
"""

import concurrent.futures
import os
import queue
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.benchmark import installing, timing
from experiments.comparing.drawing import Row

SCRIPTS = Path(__file__).parent
# What each peer's own instructions install, and gymnasium's MuJoCo tasks.
REQUIREMENTS = {
    "sbx": ["sbx-rl", "gymnasium[mujoco]"],
    "stable_baselines3": ["stable-baselines3", "gymnasium[mujoco]"],
    # With gymnax 1 rejax 0.1.2 does not step Brax's environments.
    "rejax": ["rejax==0.1.2", "gymnax<0.1", "brax"],
    # Its trainers call what JAX 0.10 has no longer.
    "brax": ["brax", "jax<0.8"],
}


SPLIT = "ours, split_batch"


class Comparison(NamedTuple):
    """What is trained the same by several libraries.

    Attributes:
        agent: One of ours.
        task: One of ours.
        num_envs: E.
        peers: Of ``REQUIREMENTS``.
        width: Of each of the two layers.
    """

    agent: str
    task: str
    num_envs: int
    peers: tuple[str, ...]
    width: int = 64


COMPARISONS = (
    Comparison("sac", "mujoco/half_cheetah", 128, ("sbx", "stable_baselines3")),
    Comparison("sac", "mujoco/half_cheetah", 1, ("sbx", "stable_baselines3")),
    Comparison("sac", "mujoco/half_cheetah", 128, ("sbx",), width=256),
    Comparison("ppo", "mujoco/half_cheetah", 16, ("sbx", "stable_baselines3")),
    Comparison("sac", "brax/halfcheetah", 128, ("rejax",)),
    Comparison("sac", "brax/halfcheetah", 128, ("rejax",), width=256),
    Comparison("ppo", "brax/halfcheetah", 16, ("rejax", "brax")),
)
GYMNASIUM_NAMES = {
    "mujoco/half_cheetah": "HalfCheetah-v5",
    "mujoco/hopper": "Hopper-v5",
    "mujoco/walker2d": "Walker2d-v5",
}
RETURNS_TASKS, RETURNS_SEEDS = tuple(GYMNASIUM_NAMES), (0, 1, 2)


def run(
    size: str, repeats: int, peers: tuple[str, ...] = tuple(REQUIREMENTS), directory: Path | None = None
) -> list[Row]:
    """Installs the peers that are not yet there, and runs them and ours in turn.

    Args:
        size: ``full`` measures 10 s each, ``small`` 1 s.
        repeats: Runs of each.
        peers: Of ``REQUIREMENTS``.
        directory: Where their environments are made.

    Returns:
        Rows with steps per second, compilation and prefill not counted, and ``ours_over_peer``, the median over the
        turns of our rate over the peer's, and of an agent with a replay ``split_over_peer``, of ours with
        ``split_batch``; where its script tells them, ``start_seconds``, from starting
        it the first time to the end of the first gradient steps, our first evaluation included. A peer that does not
        install or run has its last line of output in ``error`` instead.
    """
    directory = directory or installing.DIRECTORY
    errors = {peer: installing.install(directory / peer, REQUIREMENTS[peer]) for peer in peers}
    seconds = 10.0 if size == "full" else 1.0
    rows: list[Row] = []
    for comparison in COMPARISONS:
        compared = [name for name in comparison.peers if name in peers]
        if not compared:
            continue
        failed = dict(errors)
        ours = ["ours", SPLIT] if comparison.agent == "sac" else ["ours"]
        rates: dict[str, list[float]] = {name: [] for name in (*ours, *compared)}
        starts: dict[str, float] = {}
        for name in timing.turns(list(rates), repeats):
            if failed.get(name):
                continue
            spawned = time.time()
            outcome = _measure(name, directory, comparison, "speed", seconds)
            if isinstance(outcome, str):
                failed[name] = outcome
            else:
                rates[name].append(outcome["env_steps_per_second"])
                if "first_step_at" in outcome:
                    starts.setdefault(name, outcome["first_step_at"] - spawned)
        for name, measured in rates.items():
            row: Row = {"agent": comparison.agent, "task": comparison.task, "envs": comparison.num_envs}
            row |= {"width": comparison.width, "who": name}
            if len(measured) == repeats:
                row |= timing.summary(measured, "env_steps_per_second")
                for one, told in zip(ours, ("ours_over_peer", "split_over_peer"), strict=False):
                    if len(rates[one]) == repeats:
                        ratios = np.array(rates[one]) / np.array(measured)
                        row |= timing.summary(ratios.tolist(), told)
                row |= {"start_seconds": starts[name]} if name in starts else {}
            rows.append(row | {"error": failed.get(name) or ""})
    return rows


def run_returns(size: str, repeats: int, directory: Path | None = None) -> list[Row]:
    """Trains PPO as often by us as by Stable-Baselines3, each training on one core, as many at a time as there are.

    Args:
        size: ``full`` trains 1,000,000 env steps, ``small`` 4,096 on one task.
        repeats: Not used: seeds 0 to 2 are trained once.
        directory: Where the peer's environment is made.

    Returns:
        Rows with ``return``, that of the mean action over 16 episodes at the end, those at a quarter, a half and three
        quarters of the way, and the ``seconds`` of the whole training, compilation and evaluations included; or
        ``error``. On the first row of a task ``ours_over_peer``: the median over the seeds of the peer's seconds over
        ours.
    """
    directory = directory or installing.DIRECTORY
    peer = "stable_baselines3"
    error = installing.install(directory / peer, REQUIREMENTS[peer])
    full = size == "full"
    total, tasks, seeds = (1_000_000, RETURNS_TASKS, RETURNS_SEEDS) if full else (4_096, RETURNS_TASKS[:1], (0,))
    quarters = [total * quarter // 4 for quarter in (1, 2, 3, 4)]
    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def train(case: tuple[str, str, int]) -> Row:
        who, task, seed = case
        row: Row = {"agent": "ppo", "task": task, "seed": seed, "who": who, "env_steps": total}
        if who == peer and error:
            return row | {"error": error}
        core = cores.get()
        try:
            comparison = Comparison("ppo", task, 16, ())
            outcome = _measure(who, directory, comparison, "returns", seed, *quarters, core=core)
        finally:
            cores.put(core)
        if isinstance(outcome, str):
            return row | {"error": outcome}
        names = ("return_quarter", "return_half", "return_three_quarters", "return")
        returns = dict(zip(names, outcome["returns"], strict=True))
        return row | returns | {"seconds": outcome["seconds"], "error": ""}

    # The longer ones first, so that no core waits long at the end.
    cases = [(who, task, seed) for who in (peer, "ours") for task in tasks for seed in seeds]
    with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
        rows = list(tqdm(pool.map(train, cases), "training", len(cases), dynamic_ncols=True))
    for task in tasks:
        seconds = {
            who: np.array([row.get("seconds", np.nan) for row in rows if row["task"] == task and row["who"] == who])
            for who in (peer, "ours")
        }
        first = next(row for row in rows if row["task"] == task and row["who"] == "ours")
        first["ours_over_peer"] = float(np.median(seconds[peer] / seconds["ours"]))
    return rows


def _measure(
    who: str, directory: Path, comparison: Comparison, what: str, *arguments: float, core: int | None = None
) -> dict[str, Any] | str:
    """Returns what a script prints, or the last line of what went wrong."""
    task = comparison.task
    if who in ("ours", SPLIT):
        what = "split" if who == SPLIT else what
        script = [sys.executable, "-m", f"{__name__}.ours"]
    else:
        script = [str(installing.python(directory / who)), str(SCRIPTS / f"{who}.py")]
        task = GYMNASIUM_NAMES.get(task, task)
    if core is not None:
        script = ["taskset", "--cpu-list", str(core), *script]
    words = [comparison.agent, str(comparison.num_envs), str(comparison.width), task, what, *map(str, arguments)]
    return timing.measure_apart([*script, *words])
