"""Critics that see other numbers than the policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import fast_are

from agents import PPO, SAC, TD3, OrderGrad, ReMAC
from envs.device import DeviceEnvironment
from remac import load_policy
from remac.policies.policy import save_policy
from remac.training.loop import TrainConfig, train
from remac.types import Transition
from remac.validation import InvalidValueError


@dataclasses.dataclass(frozen=True)
class Place:
    """A place that actions move; after it, for critics alone, so many numbers: the place again, and its squares."""

    for_critics: int = 0
    action_size: int = 2

    @property
    def observation_size(self):
        return 2 + self.for_critics

    def start(self, key):
        place = jax.random.uniform(key, (2,))
        return place, self.observe(place)

    def advance(self, place, action):
        place = place + 0.1 * action
        return place, self.observe(place), -jnp.sum(place**2), jnp.zeros((), bool)

    def observe(self, place):
        return jnp.concatenate([place, jnp.concatenate([place, place**2])[: self.for_critics]])


@dataclasses.dataclass(frozen=True)
class Places(DeviceEnvironment):
    """As an environment has to be for such critics."""

    @property
    def policy_observation_size(self):
        return 2 if self.task.for_critics else None

    def for_evaluation(self, num_envs):
        return dataclasses.replace(super().for_evaluation(num_envs), task=Place())


ONCE = {"num_epochs": 1, "num_minibatches": 1, "hidden_sizes": (8,)}
REPLAY = {"batch_size": 16, "hidden_sizes": (8,)}
AGENTS = [
    (SAC, REPLAY),
    (PPO, {**ONCE, "rollout_length": 10}),
    (ReMAC, {**REPLAY, "gradient": "score_function", "sign_certificate": 0.5}),
    (SAC, {**REPLAY, "critic_norm": "batch"}),
    (TD3, REPLAY),
    (
        OrderGrad,
        {
            **ONCE,
            "episode_length": 10,
            "num_samples": 4,
            "num_retries": 2,
            "baseline": "value",
            "sign_certificate": 0.5,
        },
    ),
]


def make(agent_class, options, for_critics):
    own = {"policy_observation_size": 2} if for_critics else {}
    return agent_class.create(2 + for_critics, 2, **own, **options)


def learned(agent, for_critics):
    """Two updates from the same places, which the agent sees as it does."""
    lead = (10, 4) if agent.experience.on_policy else (16,)
    rng = np.random.default_rng(0)
    places, rewards = rng.normal(size=(2, *lead, 2)), rng.normal(size=lead)
    observations = jax.vmap(jnp.vectorize(Place(for_critics).observe, signature="(n)->(m)"))(jnp.float32(places))

    @jax.jit
    def learn(key):
        init_key, act_key, *update_keys = jax.random.split(key, 4)
        state = agent.observe(agent.init(init_key), observations[0].reshape(-1, agent.observation_size))
        action, extras = agent.act(state, act_key, observations[0].reshape(-1, agent.observation_size))
        reward, never = jnp.float32(rewards), jnp.zeros(lead, bool)
        action, extras = jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), (action, extras))
        batch = Transition(observations[0], action, reward, jnp.ones(lead), observations[1], never, extras)
        for key in update_keys:
            state, metrics = agent.update(state, key, batch)
        return agent.policy(state), metrics

    return learn


@pytest.mark.parametrize(("agent_class", "options"), fast_are(1, AGENTS))
def test_critics_that_see_the_same_apart_learn_the_same(agent_class, options):
    """The same numbers twice, for the policy and for the critics, are what both see at once."""
    at_once, apart = (
        learned(make(agent_class, options, for_critics), for_critics)(jax.random.key(0)) for for_critics in (0, 2)
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), at_once, apart)


@pytest.mark.parametrize(("agent_class", "options"), AGENTS)
def test_what_sees_the_wrong_numbers_does_not_fit(agent_class, options):
    """The policy sees 2 and critics 3: whole updates are traced."""
    agent = make(agent_class, options, 3)
    policy, _ = jax.eval_shape(learned(agent, 3), jax.random.key(0))
    assert policy.observation_size == 2 and policy.normalizer.mean.shape == (2,)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    sizes = {leaf.shape[-2] for leaf in jax.tree.leaves(state.policy) if leaf.ndim > 1}
    assert 2 in sizes and not {3, 5} & sizes


def test_a_saved_policy_needs_only_what_it_sees(tmp_path):
    agent = make(SAC, REPLAY, 4)
    state = agent.observe(jax.jit(agent.init)(jax.random.key(0)), jnp.arange(30.0).reshape(5, 6))
    seen = jnp.arange(6.0)[None]
    action, _ = agent.act(state, jax.random.key(0), seen, deterministic=True)
    other, _ = agent.act(state, jax.random.key(0), seen.at[:, 2:].set(9.0), deterministic=True)
    np.testing.assert_array_equal(action, other)
    save_policy(agent.policy(state), tmp_path)
    loaded = load_policy(tmp_path)
    np.testing.assert_allclose(loaded(seen[0, :2]), action[0], rtol=1e-6)
    assert abs(action).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("agent_class", "options"), AGENTS[:2])
def test_a_whole_training(agent_class, options):
    env = Places("tests/place", Place(4), num_envs=4, episode_length=10)
    config = {"total_env_steps": 160, "eval_every_env_steps": 80, "num_eval_episodes": 3}
    config |= {"updates_per_round": 1, "prefill_env_steps": 0 if agent_class is PPO else 40}
    result = train(make(agent_class, options, 4), env, TrainConfig(**config), jax.random.key(0))
    first, _, last = (one.metrics for one in result.evaluations)
    assert np.isfinite(last["critic/loss"]) and last["eval/return"] != first["eval/return"]


def test_sizes_that_do_not_fit_are_refused():
    env = Places("tests/place", Place(4), num_envs=4, episode_length=10)
    with pytest.raises(InvalidValueError, match=r"policy_observation_size=6: .*at most observation_size - 1=5"):
        SAC.create(6, 2, policy_observation_size=6)
    with pytest.raises(InvalidValueError, match="policy_observation_size=None: must be 2, which is the environment's"):
        train(SAC.create(6, 2), env, TrainConfig(), jax.random.key(0))
