"""Suite ``dmc``: DeepMind Control tasks beside dm_control's own loop and beside EnvPool, on two threads."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

import envs
from experiments.benchmark import timing
from experiments.benchmark.environment import SECONDS, make_measurement, repeatedly
from experiments.comparing.drawing import Row
from experiments.console.messages import warn

TASKS = ("cheetah-run", "walker-walk", "humanoid-run")
NUM_ENVS, NUM_THREADS = 128, 2


def run(size: str, repeats: int) -> list[Row]:
    """Times each task in all three in turn; EnvPool, which is no dependency, where it is installed.

    Returns:
        Rows with control steps per second, and ``ours_over_it``, the median over the turns of our rate over theirs.

    Raises:
        InvalidValueError: dm_control is not installed.
    """
    envs.require_installed("suite", "dmc")
    seconds, num_envs = (SECONDS, NUM_ENVS) if size == "full" else (0.01, 2)
    rows: list[Row] = []
    has_envpool = importlib.util.find_spec("envpool") is not None
    if not has_envpool:
        warn("no rows of EnvPool, which is not installed; pip install envpool brings it")
    for task in TASKS if size == "full" else TASKS[:1]:
        env: Any = envs.make(f"dmc/{task}", num_envs=num_envs, num_threads=NUM_THREADS)
        measures = {"ours": make_measurement(env, 1, seconds), "dm_control": _dm_control(task, seconds)}
        if has_envpool:
            measures["envpool"] = _envpool(task, num_envs, seconds)
        rates = timing.interleave(measures, repeats)
        for who, values in rates.items():
            ratio = float(np.median(np.divide(rates["ours"], values)))
            row = {"task": task, "who": who, "envs": 1 if who == "dm_control" else num_envs, "ours_over_it": ratio}
            rows.append(row | timing.summary(values, "env_steps_per_second"))
    return rows


def _dm_control(task: str, seconds: float) -> Callable[[], float]:
    """Measures its own environment, which is one, in one thread."""
    from dm_control import suite

    env = suite.load(*task.split("-"), task_kwargs={"random": 0})
    env.reset()
    spec = env.action_spec()
    action = np.random.default_rng(0).uniform(spec.minimum, spec.maximum)
    return repeatedly(lambda: env.step(action), 1, seconds)


def _envpool(task: str, num_envs: int, seconds: float) -> Callable[[], float]:
    import envpool

    name = "".join(part.capitalize() for part in task.split("-")) + "-v1"
    env = envpool.make(name, env_type="gymnasium", num_envs=num_envs, num_threads=NUM_THREADS)
    env.reset()
    action = np.random.default_rng(0).uniform(-1, 1, (num_envs, *env.action_space.shape))
    return repeatedly(lambda: env.step(action), num_envs, seconds)
