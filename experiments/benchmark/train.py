"""Suites ``train`` and ``population``: whole trainings, between evaluations."""

import contextlib
import dataclasses
import itertools
import time
from typing import Any

import jax

import envs
from agents import AGENTS
from experiments.benchmark import timing
from experiments.comparing.drawing import Row
from remac.hyperparameters import hyperparameters
from remac.training.functions import Agent
from remac.training.loop import Progress, TrainConfig, stack_members, train_population
from remac.types import Environment

PREFILL = 1_024
# Settings of the comparison with peers, of what an agent has of them.
OPTIONS: dict[str, Any] = {"batch_size": 512, "learning_rate": 3e-4}


class Finished(Exception):
    """Enough has been measured."""


def settings(agent_name: str, env: Environment, width: int = 64) -> tuple[Agent, TrainConfig]:
    """Returns the agent of the comparison with peers, with two layers of a width, and a training without end.

    An agent with a replay makes one gradient step per environment step.
    """
    agent = AGENTS[agent_name]
    training = {"updates_per_round": env.num_envs, "prefill_env_steps": PREFILL} | agent.TRAINING
    config = TrainConfig(**training, num_eval_episodes=1, replay_capacity=100_000)
    values = OPTIONS | {"episode_length": env.episode_length}
    options = {name: value for name, value in values.items() if name in hyperparameters(agent)}
    hidden_sizes = (width, width)
    return agent.create(env.observation_size, env.action_size, hidden_sizes=hidden_sizes, **options), config


def measure(
    agent: Agent,
    env: Environment,
    config: TrainConfig,
    num_members: int,
    seconds: float,
) -> Row:
    """Trains for a while, and returns rates for all members together.

    Counted from the first progress report at least half a second after the first gradient step, so without
    compilation and evaluations.

    Args:
        agent: The agent of every member.
        env: Training environments of one member.
        config: How to train; how long and how often to evaluate is set here.
        num_members: P.
        seconds: Training time to count, at least.

    Returns:
        ``env_steps_per_second``, ``gradient_steps_per_second`` and ``first_step_seconds``, from the call to the first
        report after a gradient step.
    """
    config = dataclasses.replace(config, total_env_steps=10**8, eval_every_env_steps=10**8)
    started = time.perf_counter()
    reports: list[tuple[float, Progress]] = []

    def callback(event: Any) -> None:
        if isinstance(event, Progress) and event.gradient_steps and not event.evaluating:
            reports.append((time.perf_counter(), event))
            if len(reports) > 2 and reports[-1][0] - reports[1][0] >= seconds:
                raise Finished

    keys = jax.random.split(jax.random.key(0), num_members)
    with contextlib.suppress(Finished):
        train_population(stack_members([agent] * num_members), env, config, keys, callback)
    (first, before), (last, after) = reports[1], reports[-1]
    return {
        "env_steps_per_second": num_members * (after.env_steps - before.env_steps) / (last - first),
        "gradient_steps_per_second": num_members * (after.gradient_steps - before.gradient_steps) / (last - first),
        "first_step_seconds": reports[0][0] - started,
    }


def run(size: str, repeats: int) -> list[Row]:
    """Times trainings of one member of each agent, by task and number of environments."""
    if size == "full":
        tasks = [("mujoco/half_cheetah", 128), ("mujoco/half_cheetah", 1), ("brax/halfcheetah", 128)]
        cases = [(agent, task, num_envs, 1) for agent, (task, num_envs) in itertools.product(("sac", "remac"), tasks)]
        cases += [
            (agent, task, 16, 1)
            for agent, task in itertools.product(("ppo", "ordergrad"), ("mujoco/half_cheetah", "brax/halfcheetah"))
        ]
    else:
        cases = [(agent, "probe/action", 8, 1) for agent in ("sac", "remac", "ppo", "ordergrad")]
    return _rows(cases, repeats, 3.0 if size == "full" else 0.1)


def run_population(size: str, repeats: int) -> list[Row]:
    """Times populations by number of members."""
    if size == "full":
        cases = [("remac", "mujoco/half_cheetah", 128, members) for members in (1, 2, 4, 8, 24)]
    else:
        cases = [("sac", "probe/action", 4, members) for members in (1, 2)]
    return _rows(cases, repeats, 3.0 if size == "full" else 0.1)


def _rows(cases: list[tuple[str, str, int, int]], repeats: int, seconds: float) -> list[Row]:
    environments = {case: envs.make(case[1], num_envs=case[2]) for case in cases}
    results: dict[Any, list[Row]] = {case: [] for case in cases}
    for case in timing.turns(cases, repeats):
        env = environments[case]
        agent, config = settings(case[0], env)
        results[case].append(measure(agent, env, config, case[3], seconds))
    rows = []
    for case, measured in results.items():
        row: Row = dict(zip(("agent", "task", "envs", "members"), case, strict=True))
        for name in ("env_steps_per_second", "gradient_steps_per_second"):
            row |= timing.summary([result[name] for result in measured], name)
        row["first_step_seconds"] = measured[0]["first_step_seconds"]  # later ones find the programs compiled
        rows.append(row)
    return rows
