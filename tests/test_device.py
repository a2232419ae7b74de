"""Batches of device environments: time limits, auto-reset, statistics."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.device import DeviceEnvironment
from remac.types import Environment
from remac.validation import InvalidValueError


@dataclasses.dataclass(frozen=True)
class Walk:
    """Starts anywhere in [0, 1) and moves by the action; ends beyond 3. Reward is the action."""

    observation_size: int = 1
    action_size: int = 1

    def start(self, key):
        position = jax.random.uniform(key, ())
        return position, position[None]

    def advance(self, physics, action):
        position = physics + action[0]
        return position, position[None], action[0], position > 3


def rollout(env, actions, key=0):
    step = jax.jit(env.step)
    states = [jax.jit(env.reset)(jax.random.key(key))]
    for action in actions:
        states.append(step(states[-1], jnp.broadcast_to(jnp.float32(action), (env.num_envs, 1))))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[dataclasses.replace(state, key=0) for state in states])


def test_episodes_end_restart_and_are_counted():
    env = DeviceEnvironment("test/walk", Walk(), num_envs=32, episode_length=4)
    right = rollout(env, [1.0] * 40)
    left = rollout(env, [-1.0] * 40)
    # Moving right from [0, 1) the walk is beyond 3 after 3 steps: always a termination, never a truncation.
    assert right.termination[3::3].all() and not right.truncation.any()
    # Moving left it never is: always a truncation.
    assert left.truncation[4::4].all() and not left.termination.any()
    for states, length, sign in ((right, 3, 1.0), (left, 4, -1.0)):
        over = states.termination | states.truncation
        assert over.sum() == 32 * (40 // length)
        assert (states.episode_length[over] == length).all() and (states.step_count[over] == length).all()
        assert (states.episode_return[over] == sign * length).all()
        assert (abs(states.final_observation[over] - sign * length - 0.5) <= 0.5 + 1e-5).all()
        assert ((states.observation[over] >= 0) & (states.observation[over] < 1)).all(), "the next start"
        going_on = ~over
        np.testing.assert_array_equal(states.observation[going_on], states.final_observation[going_on])
        np.testing.assert_array_equal(states.physics[0], states.observation[..., 0])


@pytest.mark.parametrize(
    ("num_envs", "length"),
    [(1024, 50), (48, 16), (5, 2), (1, 1), (7, 3)],
)
def test_no_two_episodes_begin_alike(num_envs, length):
    env = DeviceEnvironment("test/walk", Walk(), num_envs, length)
    states = rollout(env, [-1.0] * 4 * length)
    starts = np.concatenate([states.observation[0].ravel(), states.observation[states.truncation].ravel()])
    assert len(starts) == num_envs * 5
    # Numbers drawn in [0, 1) have 23 bits: a few of thousands are the same by chance.
    assert len(np.unique(starts)) >= len(starts) - 10 * (num_envs > 100)
    np.testing.assert_allclose(starts.mean(), 0.5, atol=1 / len(starts) ** 0.5)
    if num_envs == 5:
        assert not np.array_equal(states.observation, rollout(env, [-1.0] * 4 * length, key=1).observation)


@dataclasses.dataclass(frozen=True)
class CountedStarts(Walk):
    """A walk that tells when starts are drawn."""

    tell: Callable[[], None] = lambda: None

    def start(self, key):
        jax.debug.callback(self.tell)
        return super().start(key)


def test_starts_are_drawn_where_they_are_needed_only():
    draws = []
    env = DeviceEnvironment("test/walk", CountedStarts(tell=lambda: draws.append(1)), 8, episode_length=10)
    states, num_draws = [env.reset(jax.random.key(0))], []
    step = jax.jit(env.step)
    for _ in range(40):
        states.append(step(states[-1], -jnp.ones((8, 1))))
        jax.effects_barrier()
        num_draws.append(len(draws))
    assert num_draws == [1 + step // 10 for step in range(1, 41)], "of all environments at once"
    draws.clear()
    state = jax.jit(env.reset)(jax.random.key(0))
    for position in (5.0, 0.0, 5.0):  # ends in two environments, in none, and in the same two
        action = jnp.where(jnp.arange(8)[:, None] < 2, position - state.observation, -1)
        state = step(state, action)
    jax.effects_barrier()
    assert len(draws) == 3 and not np.isin(state.observation[:2], states[0].observation).any()


def test_members_side_by_side_draw_their_own_starts():
    env = DeviceEnvironment("test/walk", Walk(), 4, episode_length=6, stagger_first_episodes=True)
    keys = jax.random.split(jax.random.key(0), 3)
    together, alone = jax.vmap(env.reset)(keys), [env.reset(key) for key in keys]
    for step in range(30):
        actions = jax.random.uniform(jax.random.key(step), (3, 4, 1), minval=-1)
        together = jax.jit(jax.vmap(env.step))(together, actions)
        alone = [jax.jit(env.step)(state, action) for state, action in zip(alone, actions, strict=True)]
        for index, state in enumerate(alone):
            jax.tree.map(np.testing.assert_array_equal, *map(jax.random.key_data, (state.key, together.key[index])))
            of_member = jax.tree.map(
                lambda leaf, index=index: leaf[index], dataclasses.replace(together, key=0.0 * actions)
            )
            jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(state, key=0.0 * actions[index]), of_member)


@dataclasses.dataclass(frozen=True)
class UnsoundStarts(Walk):
    """A walk of which half of all starts are not sound."""

    unsound: float = np.nan

    def start(self, key):
        start_key, half_key = jax.random.split(key)
        x, observation = super().start(start_key)
        return x, jnp.where(jax.random.bernoulli(half_key), self.unsound, observation)


@pytest.mark.parametrize(("num_envs", "unsound"), [(1, np.nan), (1, 1e25), (8, np.nan)])
def test_a_start_that_is_not_sound_is_drawn_again(num_envs, unsound):
    """By themselves, few environments often have none that is sound among their first draws; and none is used twice."""
    env = DeviceEnvironment("test/walk", UnsoundStarts(unsound=unsound), num_envs=num_envs, episode_length=2)
    keys = jax.random.split(jax.random.key(0), 500)
    starts = np.asarray(jax.jit(jax.vmap(env.reset))(keys).observation)
    assert (np.abs(starts) < 1).all() and all(len(np.unique(one)) == num_envs for one in starts)
    states = rollout(env, [-1.0] * 40)
    assert not states.diverged.any() and (np.abs(states.observation) < 3).all()


def test_staggering_moves_the_first_end_only():
    env = DeviceEnvironment("test/walk", Walk(), num_envs=200, episode_length=5, stagger_first_episodes=True)
    states = rollout(env, [-1.0] * 12)
    first_end = states.truncation.argmax(axis=0)
    assert set(first_end) == {1, 2, 3, 4, 5}
    np.testing.assert_allclose(np.bincount(first_end, minlength=6)[1:], 40, atol=25)
    second_end = first_end + 1 + np.array([states.truncation[end + 1 :, i].argmax() for i, end in enumerate(first_end)])
    np.testing.assert_array_equal(second_end - first_end, 5)
    assert not env.for_evaluation(3).stagger_first_episodes and env.for_evaluation(3).num_envs == 3


@pytest.mark.parametrize("name", ["probe/action", "mujoco/reacher"])
def test_suites_keep_the_protocol(name):
    env = envs.make(name, num_envs=3)
    assert isinstance(env, Environment) and env.name == name
    reset, step = (jax.jit(function) if env.on_device else function for function in (env.reset, env.step))
    state = reset(jax.random.key(0))
    assert state.observation.shape == (3, env.observation_size)
    state = step(state, np.zeros((3, env.action_size), np.float32))
    assert state.reward.shape == state.termination.shape == (3,) and state.termination.dtype == bool


def test_names_and_options_are_checked():
    with pytest.raises(InvalidValueError, match=r"name=mujoco/cheetah: .*mujoco/half_cheetah"):
        envs.make("mujoco/cheetah", num_envs=1)
    with pytest.raises(InvalidValueError, match="num_envs=0"):
        envs.make("probe/action", num_envs=0)
    with pytest.raises(InvalidValueError, match=r"gravity=1: .*episode_length"):
        envs.make("probe/action", num_envs=1, gravity=1)
    assert len(envs.names()) == len(set(envs.names())) == 11 + 49 + 15 + 54 + 6 + 5


@dataclasses.dataclass(frozen=True)
class Brittle(Walk):
    """Beyond 2 the position, and below -2 the reward, is ``bad``; starts above 0.9 are too."""

    bad: float = np.nan

    def start(self, key):
        position, observation = super().start(key)
        return position, jnp.where(position > 0.9, self.bad, observation)

    def advance(self, physics, action):
        position, observation, reward, termination = super().advance(physics, action)
        observation = jnp.where(position > 2, self.bad, observation)
        return position, observation, jnp.where(position < -2, self.bad, reward), termination


@pytest.mark.parametrize(("action", "bad"), [(1.0, np.nan), (-1.0, np.inf), (1.0, 1e25), (-1.0, -1e11)])
def test_numbers_that_are_not_finite_or_huge_end_the_episode(action, bad):
    env = DeviceEnvironment("test/brittle", Brittle(bad=bad), num_envs=64, episode_length=4)
    states = rollout(env, [action] * 60)
    assert (states.diverged.sum(axis=1) > 0).any() and not states.diverged[0].any()
    np.testing.assert_array_equal(states.termination, states.diverged)
    assert (states.reward[states.diverged] == 0).all() and not (states.truncation & states.diverged).any()
    assert (states.episode_return == action * (states.episode_length - states.termination)).all()
    for leaf in (states.observation, states.final_observation, states.reward, states.episode_return):
        assert (abs(leaf) < 10).all()
    before = states.observation[:-1][states.diverged[1:]]
    np.testing.assert_array_equal(states.final_observation[1:][states.diverged[1:]], before)


@dataclasses.dataclass(frozen=True)
class WalkWithAnArray(Walk):
    targets: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))


def test_a_task_that_programs_cannot_be_kept_for_is_refused():
    with pytest.raises(InvalidValueError, match=r"task=WalkWithAnArray: must be hashable .*ndarray"):
        DeviceEnvironment("test/walk", WalkWithAnArray(), num_envs=2, episode_length=4)


@dataclasses.dataclass(frozen=True)
class Returning(Walk):
    """A walk that returns other things, which functions make of what it returned."""

    starts: Callable = lambda *values: values
    advances: Callable = lambda *values: values

    def start(self, key):
        return self.starts(*super().start(key))

    def advance(self, physics, action):
        return self.advances(*super().advance(physics, action))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"observation_size": 3}, r"observation of shape \(3,\) from start, and returns one of shape \(1,\)"),
        ({"starts": lambda x, seen: seen}, "a state and an observation from start, and returns a"),
        ({"starts": lambda x, seen: (x, {"x": seen})}, "one array as observation from start, and returns a dict of 1"),
        ({"starts": lambda x, seen: (x, seen + 1j)}, "observation as real numbers from start, and returns complex64"),
        ({"advances": lambda x, *rest: rest}, "a state, an observation, .* from advance, and returns a tuple of 3"),
        (
            {"advances": lambda x, seen, *rest: (x, seen[0], *rest)},
            r"observation of shape \(1,\) from advance, and returns one of shape \(\)",
        ),
        (
            {"advances": lambda x, seen, reward, ended: (x, seen, reward[None], ended)},
            r"reward as a scalar from advance, and returns one of shape \(1,\)",
        ),
        (
            {"advances": lambda x, seen, reward, ended: (x, seen, None, ended)},
            "one array as reward from advance, and returns a NoneType",
        ),
        (
            {"advances": lambda x, seen, reward, ended: (x, seen, reward, 1.0 * ended)},
            "termination as bool from advance, and returns float32",
        ),
        (
            {"advances": lambda x, seen, reward, ended: (x, seen, reward, ended[None])},
            "termination as a scalar from advance",
        ),
        (
            {"advances": lambda x, *rest: (x[None], *rest)},
            r"a state like that of start, with float32\[\] at state from advance, and returns float32\[1\] at state",
        ),
        ({"advances": lambda *values: (*values, 3.0)}, "metrics as a dictionary from advance"),
        (
            {"advances": lambda *values: (*values, {"x": values[1]})},
            r"metrics\['x'\] as a scalar from advance, and returns one of shape \(1,\)",
        ),
    ],
)
def test_what_a_task_returns_is_checked_before_anything_runs(task, message):
    env = DeviceEnvironment("test/walk", Returning(**task), num_envs=2, episode_length=4)
    for group_size in (1, 2):
        with pytest.raises(InvalidValueError, match=f"^task=Returning: must return {message}") as error:
            jax.jit(env.reset, static_argnums=1)(jax.random.key(0), group_size)
        assert "\n" not in str(error.value)


def test_no_metric_of_a_task_has_the_name_of_our_own():
    task = Returning(advances=lambda *values: (*values, {"diverged": 1.0}))
    with pytest.raises(InvalidValueError, match=r"metrics=diverged: .* must have another name"):
        DeviceEnvironment("test/walk", task, num_envs=2, episode_length=4).reset(jax.random.key(0))


@pytest.mark.parametrize("reward", [1, 1.0, True, np.int32(1)])
def test_a_reward_may_be_any_scalar(reward):
    task = Returning(advances=lambda x, seen, _, ended: (x, seen, reward, False, {"count": 2}))
    env = DeviceEnvironment("test/walk", task, num_envs=2, episode_length=4)
    states = rollout(env, [-1.0] * 5)
    assert env.metric_names == ("count",) and (states.metrics["count"][1:] == 2).all()
    assert (states.reward[1:] == 1).all() and (states.episode_return[4] == 4).all()
