"""Simulations that break down during training: nothing of it reaches the replay, and too much of it is an error."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import SAC
from envs.device import DeviceEnvironment
from remac.training.loop import Checkpoint, DivergedError, TrainConfig, train

CONFIG = TrainConfig(
    total_env_steps=128, updates_per_round=2, prefill_env_steps=64, eval_every_env_steps=64, num_eval_episodes=2,
    replay_capacity=128, checkpoint_every_env_steps=120,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Brittle:
    """Moves by the action from 0; beyond 0.5 the observation, and below -0.5 the reward, is not finite."""

    observation_size: int = 1
    action_size: int = 1

    def start(self, key):
        return jnp.zeros(()), jnp.zeros((1,))

    def advance(self, physics, action):
        position = physics + action[0]
        observation = jnp.where(position > 0.5, jnp.nan, position)[None]
        return position, observation, jnp.where(position < -0.5, jnp.inf, action[0]), jnp.zeros((), bool)


def run(callback=None, **changes):
    env = DeviceEnvironment("test/brittle", Brittle(), num_envs=8, episode_length=5)
    agent = SAC.create(1, 1, hidden_sizes=(8,), batch_size=8)
    return train(agent, env, dataclasses.replace(CONFIG, **changes), jax.random.key(0), callback)


def test_nothing_of_it_reaches_the_replay_or_the_metrics():
    saved = []

    def callback(event):
        if isinstance(event, Checkpoint):
            saved.append({name: np.array(array) for name, array in event.snapshot.member(0).items()})

    result = run(callback, max_diverged_fraction=1.0)
    (arrays,) = saved
    storage = {name: array for name, array in arrays.items() if "storage" in name}
    assert len(storage) == 5 and all(np.isfinite(array).all() for array in storage.values())
    terminated = arrays["state/replay/storage/discount"] == 0
    assert (
        terminated.sum()
        == sum(event.metrics["env/diverged"] for event in result.evaluations[1:2]) + arrays["state/metrics/diverged"]
    )
    assert terminated.sum() > 10 and (arrays["state/replay/storage/reward"][terminated] == 0).all()
    for event in result.evaluations:
        assert all(np.isfinite(value) for value in event.metrics.values())
    # A float32 that is counted up stops at 2^24.
    for count in ("rounds", "episodes", "env_steps", "diverged", "diverged_before"):
        assert arrays[f"state/metrics/{count}"].dtype == np.int32


def test_too_much_of_it_stops_the_run():
    with pytest.raises(DivergedError, match=r"diverged in \d+ of 64 env steps, more than max_diverged_fraction=0.01 "):
        run()


@dataclasses.dataclass(frozen=True)
class Breaking:
    """Breaks down in every episode's step of a number."""

    number: int
    observation_size: int = 1
    action_size: int = 1

    def start(self, key):
        return jnp.zeros((), jnp.int32), jnp.zeros((1,))

    def advance(self, physics, action):
        steps = physics + 1
        return steps, jnp.where(steps == self.number, 1e25, 0.0)[None], action[0], jnp.zeros((), bool)


def run_breaking(number, num_envs, callback=None, start=None, **changes):
    """Trains in environments that break down, without gradient steps."""
    env = DeviceEnvironment("test/breaking", Breaking(number), num_envs=num_envs, episode_length=100)
    config = dataclasses.replace(CONFIG, **changes, prefill_env_steps=changes["total_env_steps"])
    agent = SAC.create(1, 1, hidden_sizes=(8,), batch_size=8)
    result = train(agent, env, config, jax.random.key(0), callback, start)
    return [event.metrics.get("env/diverged") for event in result.evaluations]


def test_an_action_that_is_repeated_counts_as_so_many_steps(monkeypatch):
    """One action in a hundred breaks down, of two env steps each: of all env steps it is one in a hundred as well."""
    monkeypatch.setattr(DeviceEnvironment, "action_repeat", 2, raising=False)
    changes = {"total_env_steps": 400, "eval_every_env_steps": 400, "replay_capacity": 400}
    assert run_breaking(100, 1, max_diverged_fraction=0.0101, **changes) == [None, 2]
    with pytest.raises(DivergedError, match=r"diverged in 4 of 400 env steps"):
        run_breaking(100, 1, max_diverged_fraction=0.0099, **changes)


@pytest.mark.slow
def test_one_breakdown_in_a_short_last_window_does_not_stop_the_run():
    """The last evaluation comes one step after the one before."""
    assert run_breaking(17, 1, total_env_steps=17, eval_every_env_steps=16) == [None, 0, 1]
    with pytest.raises(DivergedError, match=r"diverged in 2 of 34 env steps"):
        run_breaking(17, 1, total_env_steps=34, eval_every_env_steps=16)


def test_what_fills_a_replay_again_counts_nowhere():
    """After a resume without transitions: every step breaks down, and those of the filling are not among them."""
    saved = []

    def callback(event):
        if isinstance(event, Checkpoint):
            saved.append({name: np.array(array) for name, array in event.snapshot.member(0, replay=False).items()})

    options = {"total_env_steps": 152, "checkpoint_every_env_steps": 72, "max_diverged_fraction": 1.0}
    assert run_breaking(1, 8, callback, **options) == [None, 64, 64, 24]
    start = saved.pop(0)
    saved.clear()
    assert run_breaking(1, 8, callback, start=start, **options) == [64, 24]
    counts = [int(arrays["state/agent/normalizer/count"]) for arrays in (start, *saved)]
    assert counts == [72, 144], "nor among the observations whose moments are kept"
