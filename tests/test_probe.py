"""The agents find every probe's known answer, trained through the whole loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents import SAC, TD3, ReMAC
from envs.probe import narrow_peak_reward
from remac.training.loop import TrainConfig, train

GAMMA = 0.9
CONFIG = TrainConfig(
    total_env_steps=6_000,
    updates_per_round=16,
    prefill_env_steps=512,
    eval_every_env_steps=6_000,
    num_eval_episodes=8,
)
AGENTS = {
    "remac": lambda *sizes, **options: ReMAC.create(*sizes, **options),
    # Without an entropy bonus, so that values are those of the rewards alone.
    "sac": lambda *sizes, **options: SAC.create(*sizes, temperature="fixed:0", **options),
    "td3": lambda *sizes, **options: TD3.create(*sizes, **options),
}


def trained(probe, make_agent, **options):
    env = envs.make(f"probe/{probe}", num_envs=16)
    options = {
        "learning_rate": 1e-3, "batch_size": 64, "gamma": GAMMA, "tau": 0.05, "hidden_sizes": (32, 32), **options
    }  # fmt: skip
    agent = make_agent(env.observation_size, env.action_size, **options)
    return agent, train(agent, env, CONFIG, jax.random.key(0)).agent_state


def value(agent, state, observation, action=0.0):
    normalized = agent._normalize(state, jnp.array([[observation]]))
    return agent.q_values(state.critics, normalized, jnp.array([[[action]]])).mean()


ANSWERS = {
    "one_step": {1.0: 1.0},
    "discounting": {0.0: GAMMA, 1.0: 1.0},
    "termination": {1.0: 1.0},
    "truncation": {1.0: 1 / (1 - GAMMA)},
}


# Slow, since what each of them rests on is also in the tests of updates, of the replay and of the loop.
@pytest.mark.slow
@pytest.mark.parametrize(("probe", "agent_name"), list(itertools.product(ANSWERS, AGENTS)))
def test_values(probe, agent_name):
    answers = ANSWERS[probe]
    agent, state = trained(probe, AGENTS[agent_name])
    for observation, answer in answers.items():
        np.testing.assert_allclose(value(agent, state, observation), answer, rtol=0.06, err_msg=f"at {observation}")


ARMS = AGENTS | {
    "score function": lambda *sizes, **options: ReMAC.create(*sizes, gradient="score_function", **options),
    "lower tail": lambda *sizes, **options: ReMAC.create(*sizes, objective="lower_tail_mean:0.25", **options),
}


@pytest.mark.slow
@pytest.mark.parametrize("make_agent", ARMS.values(), ids=ARMS)
def test_actions_depend_on_the_observation(make_agent):
    agent, state = trained("action", make_agent)
    actions = agent.policy(state)(jnp.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(actions[:, 0], [-0.5, 0.5], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"policy_norm": "layer", "critic_norm": "layer"},
        {"policy_norm": "batch", "critic_norm": "batch"},
        {"critic_head": "categorical", "value_min": -3.0, "value_max": 3.0},
        {"critic_head": "categorical", "value_min": -3.0, "value_max": 3.0, "categorical_target": "c51"},
    ],
    ids=["layer", "batch", "hl_gauss", "c51"],
)
def test_other_networks_find_values_and_actions_too(options):
    agent, state = trained("one_step", AGENTS["sac"], **options)
    np.testing.assert_allclose(value(agent, state, 1.0), 1.0, rtol=0.06)
    agent, state = trained("action", AGENTS["sac"], **options)
    # Values found with batch norm depend on the batch, so the best action is found less exactly.
    atol = 0.3 if "batch" in options.values() else 0.1
    np.testing.assert_allclose(agent.policy(state)(jnp.array([[-1.0], [1.0]]))[:, 0], [-0.5, 0.5], atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_agent", "options", "answer"),
    [
        pytest.param(AGENTS["sac"], {}, -0.5),
        pytest.param(AGENTS["remac"], {"num_retries": 1, "num_samples": 8}, -0.5),
        (AGENTS["remac"], {"num_retries": 8, "num_samples": 8}, 0.7),
    ],
    ids=["sac", "remac M=1", "remac M=8"],
)
def test_the_best_of_several_prefers_the_narrow_peak(make_agent, options, answer):
    agent, state = trained("narrow_peak", make_agent, **options)
    np.testing.assert_allclose(agent.policy(state)(jnp.ones((1, 1))), [[answer]], atol=0.15)


def test_narrow_peak_answers_are_right_at_the_initial_spread():
    """By quadrature over u ~ N(mu, 1): the mean is highest for a negative mu, the best of eight for a positive one."""
    mu = np.linspace(-2, 2, 81)
    noise = np.random.default_rng(0).normal(size=(4000, 8))
    rewards = np.asarray(narrow_peak_reward(np.tanh(mu[:, None, None] + noise[None])))
    assert mu[rewards.mean(axis=(1, 2)).argmax()] < -0.2
    assert mu[rewards.max(axis=2).mean(axis=1).argmax()] > 0.4
