"""OrderGrad on whole episodes: coefficients, the gradient step, and its expectation against the exact gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow import fast_are

import envs
from agents import PPO, OrderGrad
from envs.risk import CLIMBS, PRIZES
from experiments.toy.episodes import exact_gradient, flat, sampled_gradients
from remac.estimators import gap_weights, group_coefficients, lstat_advantage, maxpo_advantage, pkpo
from remac.estimators.group_coefficients import ESTIMATORS, UNBIASED
from remac.training.loop import Checkpoint, Progress, TrainConfig, train
from remac.types import Transition
from remac.validation import InvalidValueError

DEFINITIONS = {
    "ordergrad": lambda r, k: k / r.shape[-1] * lstat_advantage(r, "max", k),
    "maxpo": lambda r, k: k / r.shape[-1] * maxpo_advantage(r, k),
    "pkpo": lambda r, k: pkpo(r, k, "none"),
    "pkpo_leave_one_out": lambda r, k: pkpo(r, k, "leave_one_out"),
    "pkpo_leave_one_out_minus_one": lambda r, k: pkpo(r, k, "leave_one_out_minus_one"),
    "rloo": lambda r, k: np.stack([r[:, i] - np.delete(r, i, 1).mean(1) for i in range(r.shape[1])], 1) / r.shape[1],
    "mean": lambda r, k: (r - r.mean(1, keepdims=True)) / r.shape[1],
    "grpo": lambda r, k: (r - r.mean(1, keepdims=True)) / (r.std(1, keepdims=True) + 1e-8) / r.shape[1],
}


coefficients_of = jax.jit(group_coefficients)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 5, 8]), st.data())
def test_every_estimator_is_its_definition(seed, n, data):
    """Ties included, in float64."""
    k = data.draw(st.integers(1, n - 1))
    rewards = np.random.default_rng(seed).integers(-4, 5, (3, n)) / 2.0
    with jax.enable_x64(True):
        for estimator in ESTIMATORS:
            found = coefficients_of(rewards, gap_weights(estimator, None, k, n))
            np.testing.assert_allclose(found, DEFINITIONS[estimator](rewards, k), atol=1e-12, err_msg=estimator)


@pytest.mark.parametrize("objective", ["median", "lower_tail_mean:0.25", "gini_mean_difference", [3.0, 0.0, -1.0, 2.0]])
def test_ordergrad_takes_every_objective(objective):
    rewards = np.random.default_rng(0).normal(size=(5, 7))
    with jax.enable_x64(True):
        found = group_coefficients(rewards, gap_weights("ordergrad", objective, 4, 7))
        np.testing.assert_allclose(found, 4 / 7 * lstat_advantage(rewards, objective, 4), atol=1e-12)


def test_large_returns_keep_small_differences():
    """Coefficients that sum to zero are made of differences only."""
    rewards = np.float32(2**20) + np.arange(8, dtype=np.float32)
    for estimator in ("ordergrad", "rloo", "mean", "pkpo_leave_one_out_minus_one"):
        weights = gap_weights(estimator, None, 3, 8)
        if weights.first == 0:
            moved = group_coefficients(rewards, weights)
            np.testing.assert_array_equal(moved, group_coefficients(rewards - np.float32(2**20), weights))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("nothing", None, 2, 4), "estimator=nothing: must be one of"),
        (("rloo", "max", 2, 4), "objective=max: must be mean or null for estimator=rloo"),
        (("ordergrad", None, 4, 4), "k=4: must be below the number of samples, n=4"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(InvalidValueError, match=message):
        gap_weights(*values)
    with pytest.raises(InvalidValueError, match="objective"):
        gap_weights("maxpo", np.array([0.0, 1.0]), 2, 4)


# --- one update ---------------------------------------------------------------------------------------------------

LENGTH, NUM_ENVS = 5, 6


def make(**options):
    options = {"episode_length": LENGTH, "num_samples": 3, "num_retries": 2, "hidden_sizes": (5,)} | options
    return OrderGrad.create(2, 1, **options)


@pytest.fixture(scope="module")
def steps():
    """A round in which episodes end by terminations and time limits, and new ones begin after them."""
    agent, keys = make(), jax.random.split(jax.random.key(1), 6)
    state = jax.jit(agent.init)(keys[0])
    observation, after = jax.random.normal(keys[1], (2, LENGTH, NUM_ENVS, 2))
    act = jax.jit(jax.vmap(lambda key, at: agent.act(state, key, at)))
    action, extras = act(jax.random.split(keys[2], LENGTH), observation)
    ended = jax.random.randint(keys[3], (LENGTH, NUM_ENVS), 0, 5)
    reward = jax.random.normal(keys[4], (LENGTH, NUM_ENVS))
    discount = 1.0 - (ended == 0).astype(jnp.float32)
    return state, Transition(observation, action, reward, discount, after, ended == 1, extras)


def plain_gradient(agent, state, steps, baseline):
    """Minus the mean over starts of sum_i c_i sum_t grad log pi, episode by episode."""
    returns, lengths = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, int)
    for env in range(NUM_ENVS):
        for t in range(LENGTH):
            returns[env] += float(agent.return_gamma) ** t * float(steps.reward[t, env])
            lengths[env] += 1
            if steps.discount[t, env] == 0 or steps.truncation[t, env]:
                break
    assert len(set(lengths)) > 2, "episodes of different lengths"
    coefficients = np.concatenate(
        [2 / 3 * np.asarray(lstat_advantage(group, "max", 2)) for group in returns.reshape(2, 3)]
    )

    own = [(t, env) for env in range(NUM_ENVS) for t in range(lengths[env])]

    @jax.jit
    @jax.grad
    def gradient(params):
        observation, pre_tanh = (
            jnp.stack([leaf[at] for at in own])
            for leaf in (np.asarray(steps.observation), np.asarray(steps.extras["pre_tanh"]))
        )
        log_prob = agent.policy_network.apply({"params": params}, observation).log_prob(pre_tanh[None])[0]
        weights = np.array([coefficients[env] - baseline[t, env] / 3 for t, env in own])
        return -jnp.sum(weights * log_prob) / 2

    return gradient(state.policy["params"]), coefficients, lengths


@pytest.mark.parametrize("baseline", fast_are(1, ["value", "none"]))
def test_the_gradient_is_the_plain_one(steps, baseline):
    state, steps = steps
    agent = make(baseline=baseline, return_gamma=0.9, normalize_observations=False)
    rows, metrics = jax.jit(agent.rows)(state, steps)
    batch = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in (rows | steps.extras).items()}
    params = state.policy["params"], state.value["params"]
    (found, by_value), of_loss = jax.jit(jax.grad(agent.loss, has_aux=True))(params, jax.random.key(0), batch)
    values = np.asarray(jax.jit(agent.value_network.apply)(state.value, steps.observation))
    expected, coefficients, lengths = plain_gradient(agent, state, steps, values if baseline == "value" else 0 * values)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), found, expected)
    assert metrics["actor/coefficient"] == pytest.approx(np.abs(coefficients).mean(), rel=1e-5)
    if baseline == "value":
        errors = [
            (float(values[t, env]) - 3 * coefficients[env]) ** 2 for env in range(NUM_ENVS) for t in range(lengths[env])
        ]
        assert of_loss["critic/loss"] == pytest.approx(np.mean(errors), rel=1e-4)
    else:
        assert "critic/loss" not in of_loss and all(not leaf.any() for leaf in jax.tree.leaves(by_value))


# --- its expectation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", fast_are(1, ["none", "value"]))
def test_the_gradient_is_unbiased(baseline):
    """All that claim it, for several objectives, and those that do not are told apart."""
    cases = [("ordergrad", "median"), ("ordergrad", "lower_tail_mean:0.5"), *((name, None) for name in ESTIMATORS)]
    options = {"num_samples": 4, "num_retries": 3, "hidden_sizes": (3,), "episode_length": len(CLIMBS)}
    agents = [
        OrderGrad.create(len(PRIZES), 1, **options, baseline=baseline, estimator=estimator, objective=objective)
        for estimator, objective in cases
    ]
    state = jax.jit(agents[0].init)(jax.random.key(3))
    rounds = flat(sampled_gradients(agents, state, jax.random.key(5), 4096, 60), 2)
    exact_of = functools.cache(lambda *target: flat(exact_gradient(agents[0], state.policy, *target)))
    for index, (estimator, objective) in enumerate(cases):
        target = ("mean", 1) if estimator in ("rloo", "mean", "grpo") else (objective or "max", 3)
        share = {"mean": 3 / 4}.get(estimator, 1.0)
        exact = -share * exact_of(*target)
        error = rounds[:, index].std(0) / np.sqrt(60)
        scores = np.abs(rounds[:, index].mean(0) - exact)[error > 0] / error[error > 0]
        assert (error > 0).sum() > 10 and np.abs(exact).max() > 6 * error.max(), "precise enough to tell"
        if estimator == "grpo":
            assert scores.max() > 10, "the biased one is told apart"
        else:
            assert scores.max() < 4.5, (estimator, objective)
    assert set(UNBIASED) == set(ESTIMATORS) - {"mean", "grpo"}


# --- rounds of episodes -------------------------------------------------------------------------------------------


RISKS = ["risk/ladder", "risk/hopper"]
SUITES = ["mujoco/reacher", "probe/action", *RISKS, "dmc/finger-turn_easy", "gymnasium/Pendulum-v1"]
COMPILED = ["brax/reacher", "playground/PendulumSwingup"]


@pytest.mark.parametrize("name", [*SUITES, *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILED)])
def test_a_group_starts_alike_and_goes_on_by_itself(name):
    if reason := envs.lacks(name):
        pytest.skip(reason)
    env = envs.make(name, num_envs=12)
    key = jax.random.key(3)
    state = env.reset(key if env.on_device else key[None], 4)
    observation = np.asarray(state.observation).reshape(3, 4, -1)
    np.testing.assert_array_equal(observation, np.repeat(observation[:, :1], 4, axis=1))
    if name != "risk/ladder":
        assert len({group[0].tobytes() for group in observation}) == (2 if name == "probe/action" else 3)
    shape = np.shape(state.reward)
    step = jax.jit(env.step) if env.on_device else env.step
    rng, following = np.random.default_rng(0), []
    for _ in range(min(env.episode_length, 100)):
        state = step(state, np.full((*shape, env.action_size), 0.5, np.float32) + 0.1 * rng.normal(size=(*shape, 1)))
        following.append(np.asarray(state.observation).reshape(3, 4, -1))
    differ = [any((group[0] != group[i]).any() for i in range(1, 4)) for step in following for group in step]
    assert any(differ), "afterwards they differ"


@pytest.fixture(scope="module")
def watched():
    """Sizes of the groups that were reset, observations that the agent saw, and events; on the host."""
    env = envs.make("mujoco/reacher", num_envs=6, episode_length=4)
    resets, seen, events = [], [], []
    reset, rows = type(env).reset, OrderGrad.rows
    agent = OrderGrad.create(
        env.observation_size, env.action_size, episode_length=4, num_samples=3, num_retries=1, hidden_sizes=(4,)
    )
    config = TrainConfig(
        total_env_steps=72, updates_per_round=1, prefill_env_steps=0, eval_every_env_steps=72, num_eval_episodes=2
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("remac.training.pacing.INTERVAL_SECONDS", 0.0)
        patch.setattr(type(env), "reset", lambda self, key, size=1: resets.append(size) or reset(self, key, size))
        patch.setattr(
            OrderGrad,
            "rows",
            lambda self, state, steps: jax.debug.callback(seen.append, steps.observation) or rows(self, state, steps),
        )
        train(agent, env, config, jax.random.key(0), events.append)
    return resets, seen, events


def test_every_round_begins_with_new_groups(watched):
    """The agent sees what the environments say."""
    resets, seen, _ = watched
    assert resets.count(3) == 3 and len(seen) == 3
    starts = np.array([steps[0] for steps in seen]).reshape(6, 3, -1)
    np.testing.assert_array_equal(starts, np.repeat(starts[:, :1], 3, axis=1))
    assert len({start[0].tobytes() for start in starts}) == 6


def test_progress_is_told_within_a_round(watched):
    """Rounds may take minutes; within one there is nothing that training could be continued from."""
    *_, events = watched
    told = [event for event in events if isinstance(event, Progress) and not event.evaluating and event.env_steps]
    assert [event.env_steps for event in told if event.within_round] == [6, 12, 18, 30, 36, 42, 54, 60, 66]
    assert {event.env_steps for event in told if not event.within_round} == {24, 48, 72}
    assert all((event.snapshot is None) == event.within_round for event in told)


def test_episodes_have_to_fit():
    env = envs.make("probe/action", num_envs=6)
    with pytest.raises(InvalidValueError, match="episode_length=None: must be given"):
        OrderGrad.create(1, 1)
    with pytest.raises(InvalidValueError, match=r"num_retries=8: must be .* at most num_samples - 1=7"):
        OrderGrad.create(1, 1, episode_length=5, num_retries=8)
    agent = OrderGrad.create(1, 1, episode_length=5)
    config = TrainConfig(total_env_steps=300, updates_per_round=1, prefill_env_steps=0)
    with pytest.raises(InvalidValueError, match=r"num_envs=6: must be a multiple of agent.num_samples=8"):
        train(agent, env, config, jax.random.key(0))


def test_estimators_objectives_and_retries_are_numbers():
    """Agents that differ in them are one program."""
    trees = [
        jax.tree.structure(make(**options))
        for options in ({}, {"estimator": "pkpo"}, {"estimator": "grpo"}, {"objective": "median"}, {"num_retries": 1})
    ]
    assert len(set(trees)) == 1
    assert jax.tree.structure(make(num_samples=6)) != trees[0]
    assert all(dataclasses.is_dataclass(agent) for agent in (make(), make(estimator="rloo")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent_class", "name", "options"),
    [
        (OrderGrad, "risk/ladder", {"episode_length": 4, "num_samples": 4, "num_retries": 2, "baseline": "value"}),
        (OrderGrad, "mujoco/reacher", {"episode_length": 4, "num_samples": 4, "num_retries": 2}),
        (PPO, "mujoco/reacher", {"rollout_length": 4, "num_minibatches": 2}),
    ],
)
def test_a_continued_training_is_bitwise_the_one_never_stopped(agent_class, name, options):
    env = envs.make(name, num_envs=8, episode_length=4)
    agent = agent_class.create(env.observation_size, env.action_size, hidden_sizes=(8,), **options)
    config = TrainConfig(
        total_env_steps=160,
        updates_per_round=1,
        prefill_env_steps=0,
        eval_every_env_steps=96,
        num_eval_episodes=2,
        checkpoint_every_env_steps=64,
    )
    saved = {}

    def callback(event):
        if isinstance(event, Checkpoint):
            arrays = event.snapshot.member(0, replay=True)
            saved[event.env_steps] = {name: np.array(array) for name, array in arrays.items()}

    whole = train(agent, env, config, jax.random.key(1), callback)
    again = train(agent, env, config, jax.random.key(9), start=saved[64])
    jax.tree.map(np.testing.assert_array_equal, again.agent_state, whole.agent_state)
    assert [event.env_steps for event in again.evaluations] == [96, 160]
    for one, other in zip(again.evaluations[::-1], whole.evaluations[::-1], strict=False):
        assert one.metrics == other.metrics


def test_coefficients_over_the_deviation_keep_their_digits_far_from_zero():
    rewards = np.zeros(12, np.float32)
    rewards[0] = 1 / 16
    weights = gap_weights("grpo", None, 1, 12)
    expected = group_coefficients(rewards, weights)
    np.testing.assert_allclose(group_coefficients(rewards + np.float32(1e6), weights), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["probe/truncation", "mujoco/inverted_pendulum", "gymnasium/Pendulum-v1"])
def test_episodes_of_a_group_are_whole(name):
    env = envs.make(name, num_envs=8, stagger_first_episodes=True)
    agent = OrderGrad.create(
        env.observation_size, env.action_size, hidden_sizes=(4,), num_samples=4, num_retries=2, episode_length=5
    )
    config = TrainConfig(total_env_steps=400, updates_per_round=1, prefill_env_steps=0)
    with pytest.raises(
        InvalidValueError, match="stagger_first_episodes=True: must be false for agents that learn from whole"
    ):
        train(agent, env, config, jax.random.key(0))
