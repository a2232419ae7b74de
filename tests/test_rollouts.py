"""An agent that learns from rollouts goes through the same loop, population and snapshots as those with a replay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from slow import fast_are

import envs
from agents import SAC
from remac.training.experience import Rollout
from remac.training.loop import Checkpoint, TrainConfig, stack_members, train, train_population
from remac.validation import InvalidValueError

LENGTH, NUM_ENVS = 4, 3
CONFIG = TrainConfig(
    total_env_steps=96, updates_per_round=2, prefill_env_steps=12, eval_every_env_steps=48, num_eval_episodes=2
)


@struct.dataclass
class Listener:
    """Acts like another agent, and learns nothing but what it is told: sums of its last rollout."""

    policy_agent: SAC
    step: float = 1.0
    gamma: float = 1.0

    @property
    def experience(self):
        return Rollout(LENGTH)

    def init(self, key):
        count = {
            "updates": jnp.zeros(()),
            "reward": jnp.zeros((LENGTH, NUM_ENVS)),
            "marks": jnp.zeros((LENGTH, NUM_ENVS)),
        }
        return {"agent": self.policy_agent.init(key), **count, "continued": jnp.zeros((LENGTH, NUM_ENVS), bool)}

    steps_per_update = 3

    def observe(self, state, observation):
        assert observation.shape[0] == LENGTH * NUM_ENVS
        return state | {"agent": self.policy_agent.observe(state["agent"], observation)}

    def policy(self, state):
        return self.policy_agent.policy(state["agent"])

    def act(self, state, key, observation, *, deterministic=False):
        action, _ = self.policy_agent.act(state["agent"], key, observation, deterministic=deterministic)
        return action, {"mark": jnp.sum(action, axis=-1)}

    def update(self, state, key, rollout):
        return state | {
            "updates": state["updates"] + self.step,
            "reward": rollout.reward,
            "marks": rollout.extras["mark"] - jnp.sum(rollout.action, axis=-1),
            "continued": rollout.truncation,
        }, {"listener/reward": jnp.mean(rollout.reward), "listener/noise": jnp.mean(jax.random.normal(key, (2,)))}

    def diagnostics(self, state):
        return {"listener/updates": state["updates"]}


def make_listener(env, step=1.0):
    agent = SAC.create(env.observation_size, env.action_size, hidden_sizes=(4,), batch_size=4)
    return Listener(agent, np.float32(step))


@pytest.mark.parametrize("name", fast_are(1, ["probe/truncation", "mujoco/inverted_pendulum"]))
def test_rollouts_are_in_order_and_whole(name):
    env = envs.make(name, num_envs=NUM_ENVS)
    result = train(make_listener(env), env, CONFIG, jax.random.key(0))
    state = result.agent_state
    assert state["updates"] == 2 * (96 - 12) / (LENGTH * NUM_ENVS)
    assert state["reward"].shape == (LENGTH, NUM_ENVS)
    np.testing.assert_allclose(state["marks"], 0.0, atol=1e-6)  # extras stand beside the actions they came with
    assert result.evaluations[-1].env_steps == 96 and result.evaluations[-1].gradient_steps == 3 * state["updates"]
    if name == "probe/truncation":  # episodes of five steps, all started together: 96 steps are 32 of each
        np.testing.assert_array_equal(state["reward"], 1.0)
        ended = [(step + 1) % 5 == 0 for step in range(28, 32)]
        np.testing.assert_array_equal(state["continued"], np.tile(np.array(ended)[:, None], NUM_ENVS))


@pytest.mark.slow
def test_a_population_of_rollout_agents_is_each_alone_and_goes_on_from_a_snapshot():
    env = envs.make("probe/truncation", num_envs=NUM_ENVS)
    agents, keys = [make_listener(env), make_listener(env, 3.0)], jax.random.split(jax.random.key(0), 2)
    saved = {}

    def keep(event):
        if isinstance(event, Checkpoint):
            saved[event.env_steps] = [event.snapshot.member(index) for index in range(2)]

    config = TrainConfig(**{**vars(CONFIG), "checkpoint_every_env_steps": 36})
    whole = train_population(stack_members(agents), env, config, keys, keep)
    for index, agent in enumerate(agents):
        alone = train(agent, env, CONFIG, keys[index])
        jax.tree.map(
            lambda one, all_of_them, i=index: np.testing.assert_array_equal(one, all_of_them[i]),
            alone.agent_state,
            whole.agent_state,
        )
    going_on = train_population(stack_members(agents), env, config, keys, None, saved[36])
    jax.tree.map(np.testing.assert_array_equal, going_on.agent_state, whole.agent_state)


def test_a_rollout_that_does_not_fit_is_refused():
    env = envs.make("probe/truncation", num_envs=50)
    with pytest.raises(
        InvalidValueError, match=r"total_env_steps=96: must be at least num_envs=50 rollouts of 4 steps"
    ):
        train(make_listener(env), env, CONFIG, jax.random.key(0))
