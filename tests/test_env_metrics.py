"""Named numbers of environments, from a task to the means in the records, against numbers worked out by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import SAC
from envs.device import DeviceEnvironment
from remac.training.evaluation import Outcomes, summarize
from remac.training.loop import Checkpoint, TrainConfig, stack_members, train_population
from remac.validation import InvalidValueError

# Nothing is learned: what is measured does not depend on it, and so nothing of it is compiled.
CONFIG = TrainConfig(
    total_env_steps=32, prefill_env_steps=32, eval_every_env_steps=20, num_eval_episodes=6, checkpoint_every_env_steps=8
)
NUM_ENVS, LENGTH = 4, 5


@dataclasses.dataclass(frozen=True)
class Counter:
    """Measured by the number of the step in its episode, from 1, and by the level drawn at the start: the reward.

    Attributes:
        diverges_at: Number of the step that diverges, 0 for none.
    """

    diverges_at: int = 0
    observation_size: int = 1
    action_size: int = 1

    def start(self, key):
        level = jax.random.uniform(key, ())
        return (level, jnp.int32(0)), level[None]

    def advance(self, physics, action):
        level, number = physics[0], physics[1] + 1
        measured = jnp.where(number == self.diverges_at, jnp.nan, level)
        return (level, number), measured[None], level, number < 0, {"number": number, "level": measured}


@dataclasses.dataclass(frozen=True)
class Named(Counter):
    """A counter whose number has another name."""

    name: str = "number"

    def advance(self, physics, action):
        *others, metrics = super().advance(physics, action)
        return *others, {self.name: metrics["number"]}


class OnHost:
    """A device environment stepped from the host."""

    def __init__(self, env):
        self._env, self.on_device = env, False

    def __getattr__(self, name):
        return getattr(self._env, name)

    def for_evaluation(self, num_envs):
        return OnHost(self._env.for_evaluation(num_envs))

    def reset(self, key, group_size=1):
        return on_host(self._batched(self._env.reset, key.ndim, group_size=group_size)(key))

    def step(self, state, action):
        return on_host(self._batched(self._env.step, state.reward.ndim - 1)(state, action))

    @functools.cache  # noqa: B019 - lives as long as the test
    def _batched(self, function, num_axes, **settings):
        function = functools.partial(function, **settings)
        for _ in range(num_axes):
            function = jax.vmap(function)
        return jax.jit(function)


def on_host(state):
    arrays = jax.tree.map(np.asarray, state.replace(key=None, physics=None))
    return arrays.replace(key=state.key, physics=state.physics)


def trained(task, is_on_host=False, start=None, callback=None, **changes):
    env = DeviceEnvironment("test/counter", task, NUM_ENVS, LENGTH)
    agents = stack_members([SAC.create(1, 1, hidden_sizes=(4,), batch_size=4)] * 2)
    keys = jax.random.split(jax.random.key(0), 2)
    config = dataclasses.replace(CONFIG, **changes)
    result = train_population(agents, OnHost(env) if is_on_host else env, config, keys, callback, start=start)
    return [event.metrics for event in result.evaluations]


@pytest.fixture(scope="module")
def measured():
    """What the evaluations of a training measured, and its members after 8 steps."""
    saved = []

    def callback(event):
        if isinstance(event, Checkpoint) and event.env_steps == 8:
            saved.extend(event.snapshot.member(index, replay=True) for index in range(2))

    return trained(Counter(), callback=callback), saved


@pytest.mark.parametrize("on_host", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_means_over_steps_and_over_episodes(measured, on_host):
    """Rounds of 4 steps; after 5 all episodes are whole, and the last window has the first 3 steps of the next."""
    first, whole, begun = trained(Counter(), on_host) if on_host else measured[0]
    assert not [name for name in first if name.startswith("env/")], "no step has been made"
    for name, expected in (("env/number", 3.0), ("eval/env/number", 3.0)):
        np.testing.assert_array_equal(whole[name], [expected] * 2)
    np.testing.assert_allclose(whole["env/level"], whole["train/episode_return"] / LENGTH, rtol=1e-6)
    assert whole["env/level"][0] != whole["env/level"][1], "every member has its own"
    np.testing.assert_array_equal(begun["env/number"], [2.0] * 2)
    assert "train/episode_return" not in begun
    for metrics in (first, whole, begun):
        np.testing.assert_allclose(metrics["eval/env/level"], metrics["eval/return"] / LENGTH, rtol=1e-6)


def test_every_episode_counts_alike_however_long():
    """Two members, two action modes, three episodes: a sum over 1, 2 and 4 steps; of the mean action only."""
    length = np.tile(np.array([1, 2, 4]), (2, 2, 1))
    number = np.array([[[1.0, 3.0, 10.0], [9.0, 9.0, 9.0]], [[2.0, 6.0, 20.0], [0.0, 0.0, 0.0]]])
    zeros = np.zeros((2, 2, 3))
    metrics = summarize(Outcomes(zeros > 0, zeros, length, zeros, {"number": number}))
    np.testing.assert_allclose(metrics["eval/env/number"], [(1 + 1.5 + 2.5) / 3, (2 + 3 + 5) / 3])


def test_a_diverged_step_measures_zero():
    env = DeviceEnvironment("test/counter", Counter(diverges_at=2), NUM_ENVS, LENGTH)
    step, state = jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0))
    assert sorted(state.metrics) == ["level", "number"] and not any(map(np.any, state.metrics.values()))
    for expected in (1, 0, 1):
        state = step(state, jnp.zeros((NUM_ENVS, 1)))
        np.testing.assert_array_equal(state.metrics["number"], [expected] * NUM_ENVS)
        np.testing.assert_array_equal(state.diverged, [expected == 0] * NUM_ENVS)
        assert np.isfinite(state.metrics["level"]).all()


@pytest.mark.slow
def test_a_step_that_diverges_counts_as_zero():
    whole = trained(Counter(diverges_at=3), max_diverged_fraction=1.0, total_env_steps=24, prefill_env_steps=24)[-2:]
    # Of 5 rounds: 1, 2, diverged, 1, 2. The evaluation's episodes end with their third step.
    np.testing.assert_array_equal(whole[0]["env/diverged"], [NUM_ENVS] * 2)
    np.testing.assert_allclose(whole[0]["env/number"], [6 / 5] * 2, rtol=1e-6)
    np.testing.assert_array_equal(whole[0]["eval/env/number"], [1.0] * 2)
    assert np.isfinite(whole[0]["env/level"]).all()


def test_a_training_that_goes_on_keeps_what_was_measured(measured):
    (_, whole, begun), saved = measured
    again = trained(Counter(), start=saved)
    assert len(again) == 2
    for before, after in zip((whole, begun), again, strict=True):
        assert before.keys() == after.keys()
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


def test_a_task_may_measure_nothing():
    @dataclasses.dataclass(frozen=True)
    class Plain(Counter):
        def advance(self, physics, action):
            return super().advance(physics, action)[:4]

    assert DeviceEnvironment("test/plain", Plain(), 2, LENGTH).metric_names == ()
    assert DeviceEnvironment("test/counter", Counter(), 2, LENGTH).metric_names == ("level", "number")
    env = DeviceEnvironment("test/plain", Plain(), 2, LENGTH)
    assert jax.eval_shape(lambda: env.step(env.reset(jax.random.key(0)), jnp.zeros((2, 1)))).metrics == {}


@pytest.mark.parametrize("name", ["a,b", "é", "two\nlines", 'so "called"', ""])
def test_a_name_that_no_file_can_hold_is_refused(name):
    env = DeviceEnvironment("test/named", Named(name=name), NUM_ENVS, episode_length=LENGTH)
    agent = stack_members([SAC.create(1, 1, batch_size=4)])
    with pytest.raises(InvalidValueError, match=r"metric_names=.*: must be of printable ASCII, without commas"):
        train_population(agent, env, CONFIG, jax.random.split(jax.random.key(0), 1))
