"""Suite ``environment``: steps per second of the environments alone, under one batch of random actions."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from experiments.benchmark import timing
from experiments.comparing.drawing import Row
from remac.training.functions import map_members
from remac.types import Environment, EnvState

TASKS = (
    *("mujoco/half_cheetah", "mujoco/hopper", "mujoco/ant", "mujoco/humanoid"),
    *("brax/halfcheetah", "brax/ant", "probe/action", "gymnasium/HalfCheetah-v5", "gymnasium/Pendulum-v1"),
    *("gymnasium/BipedalWalker-v3", "gymnasium/gymnasium_robotics:FetchReachDense-v4"),
)
SECONDS = 1.0


def run(size: str, repeats: int, tasks: Sequence[str] = TASKS) -> list[Row]:
    """Times tasks by number of environments and of members."""
    if size != "full" and tuple(tasks) == TASKS:
        tasks = ("probe/action", "mujoco/reacher")
    shapes = ((128, 1), (128, 4), (16, 1)) if size == "full" else ((2, 1),)
    measures: dict[str, Callable[[], float]] = {}
    rows: dict[str, Row] = {}
    for task, (num_envs, num_members) in itertools.product(tasks, shapes):
        for options in envs.ways_to_step(task):
            env = envs.make(task, num_envs=num_envs, **options)
            if env.on_device and (num_envs, num_members) != shapes[0]:
                continue  # half a minute of compilation each, where the physics is Brax's
            told = " ".join([task, *options.values()])
            name = f"{told}, {num_envs} envs, {num_members} members"
            measures[name] = make_measurement(env, num_members, SECONDS if size == "full" else 0.01)
            rows[name] = {"task": told, "envs": num_envs, "members": num_members}
    rates = timing.interleave(measures, repeats)
    return [row | timing.summary(rates[name], "env_steps_per_second") for name, row in rows.items()]


def make_measurement(env: Environment, num_members: int, least_seconds: float) -> Callable[[], float]:
    """Returns a measurement of steps per second, of all members and environments together."""
    keys = jax.random.split(jax.random.key(0), num_members)
    actions = np.random.default_rng(0).uniform(-1, 1, (num_members, env.num_envs, env.action_size)).astype(np.float32)
    step: Callable[[EnvState], EnvState]
    if env.on_device:
        state = jax.jit(lambda keys: map_members(env.reset, keys))(keys)
        device_actions = jnp.asarray(actions)
        step = jax.jit(
            lambda state: jax.lax.fori_loop(0, 10, lambda _, state: map_members(env.step, state, device_actions), state)
        )
        steps_per_call = 10
    else:
        state = env.reset(keys)
        step, steps_per_call = lambda state: env.step(state, actions), 1

    def advance() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state))

    return repeatedly(advance, steps_per_call * num_members * env.num_envs, least_seconds)


def repeatedly(advance: Callable[[], Any], steps_per_call: int, least_seconds: float) -> Callable[[], float]:
    """Returns a measurement of steps per second that calls a function for so long, at least once."""

    def measure() -> float:
        calls, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < least_seconds or not calls:
            advance()
            calls += 1
        return calls * steps_per_call / elapsed if elapsed else 0.0

    return measure
