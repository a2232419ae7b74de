import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import SAC, ReMAC
from agents.actor_critic import AgentState
from remac.estimators.advantages import score_function_loss
from remac.estimators.order_statistics import max_at_k
from remac.types import Transition
from remac.validation import InvalidValueError

OBSERVATION_SIZE, ACTION_SIZE, BATCH_SIZE = 5, 2, 32
SMALL = {"hidden_sizes": (16, 16), "batch_size": BATCH_SIZE, "activation": "tanh"}


def make(agent_class, **hyperparameters):
    return agent_class.create(OBSERVATION_SIZE, ACTION_SIZE, **(SMALL | hyperparameters))


def batch(seed=0, discount=1.0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return Transition(
        observation=3 + 2 * jax.random.normal(keys[0], (BATCH_SIZE, OBSERVATION_SIZE)),
        action=jnp.tanh(jax.random.normal(keys[1], (BATCH_SIZE, ACTION_SIZE))),
        reward=jax.random.normal(keys[2], (BATCH_SIZE,)),
        discount=jnp.full((BATCH_SIZE,), discount),
        next_observation=3 + 2 * jax.random.normal(keys[3], (BATCH_SIZE, OBSERVATION_SIZE)),
    )


@jax.jit
def started(agent):
    return agent.observe(agent.init(jax.random.key(0)), batch(99).observation)


@jax.jit
def update(agent, state, key, data):
    return agent.update(state, key, data)


def after(agent, num_updates=5, state=None):
    state = started(agent) if state is None else state
    for step in range(num_updates):
        state, metrics = update(agent, state, jax.random.key(step), batch(step))
    return state, metrics


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_remac_with_one_try_is_sac_without_temperature():
    remac, _ = after(make(ReMAC, num_retries=1, num_samples=1))
    sac, _ = after(make(SAC, temperature="fixed:0"))
    assert_trees_close(dataclasses.replace(remac, log_temperature=sac.log_temperature), sac, rtol=1e-5, atol=1e-6)
    more_tries, _ = after(make(ReMAC, num_retries=2, num_samples=2))
    with pytest.raises(AssertionError):
        assert_trees_close(more_tries.policy, sac.policy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("agent_class", "options"), [(ReMAC, {"num_retries": 3, "num_samples": 5}), (SAC, {})])
def test_update_is_the_published_one(agent_class, options):
    """One step from a second writing of the update: actor, then critics towards the new policy's value."""
    agent = make(agent_class, learning_rate=1e-2, gamma=0.9, tau=0.3, actor_adam_epsilon=0.1, **options)
    state, data, key = (
        started(agent),
        batch(7, discount=0.0)._replace(discount=jnp.arange(BATCH_SIZE) % 2.0),
        jax.random.key(3),
    )
    new, metrics = update(agent, state, key, data)

    mean = state.normalizer.mean
    std = jnp.sqrt(state.normalizer.sum_squares / state.normalizer.count)
    observation = (data.observation - mean[None]) / std[None]
    next_observation = (data.next_observation - mean[None]) / std[None]
    policy, critics = agent._policy_network(), agent._critic_network()
    actor_key, critic_key = jax.random.split(key)
    temperature = 1.0 if agent_class is SAC else 0.0
    num_samples = options.get("num_samples", 1)

    def actor_loss(parameters):
        action, log_prob = policy.apply(parameters, observation).sample(actor_key, num_samples)
        q_values = critics.apply(state.critics, observation, action).min(axis=0)
        best = max_at_k(q_values.T, options.get("num_retries", 1))
        return jnp.mean(temperature * log_prob) - jnp.mean(best)

    def adam_step(epsilon, loss, parameters):
        """First step of Adam, where m_hat = g and sqrt(v_hat) = |g|: epsilon stands outside the root."""
        gradient = jax.grad(loss)(parameters)
        return jax.tree.map(lambda p, g: p - 1e-2 * g / (jnp.abs(g) + epsilon), parameters, gradient)

    expected_policy = adam_step(0.1, actor_loss, state.policy)
    assert_trees_close(new.policy, expected_policy, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["actor/loss"], actor_loss(state.policy), rtol=1e-5)

    next_action, next_log_prob = policy.apply(expected_policy, next_observation).sample(critic_key, 1)
    next_q = critics.apply(state.target_critics, next_observation, next_action)[:, 0].min(axis=0)
    td_target = data.reward + 0.9 * data.discount * (next_q - temperature * next_log_prob[0])

    def critic_loss(parameters):
        q_values = critics.apply(parameters, observation, data.action[None])[:, 0]
        return sum(jnp.mean(0.5 * (q - td_target) ** 2) for q in q_values)

    np.testing.assert_allclose(metrics["critic/loss"], critic_loss(state.critics), rtol=1e-4)
    expected_critics = adam_step(1e-8, critic_loss, state.critics)
    assert_trees_close(new.critics, expected_critics, rtol=1e-3, atol=2e-4)
    expected_target = jax.tree.map(lambda t, c: 0.7 * t + 0.3 * c, state.target_critics, new.critics)
    assert_trees_close(new.target_critics, expected_target, rtol=1e-5, atol=1e-6)


def test_target_networks_move_once_a_period():
    agent = make(ReMAC, target_update_period=3, tau=0.5)
    state = started(agent)
    moved = []
    for step in range(7):
        previous = state
        state, _ = update(agent, state, jax.random.key(step), batch(step))
        moved.append(
            not jnp.array_equal(previous.target_critics["params"]["bias_0"], state.target_critics["params"]["bias_0"])
        )
    assert moved == [False, False, True, False, False, True, False]


@pytest.mark.parametrize(("target_entropy", "direction"), [(-50.0, -1), (50.0, 1)])
def test_temperature_follows_the_target_entropy(target_entropy, direction):
    agent = make(SAC, target_entropy=target_entropy)
    state, metrics = after(agent)
    assert np.sign(state.log_temperature) == direction
    np.testing.assert_allclose(metrics["temperature"], np.exp(state.log_temperature))


def test_fixed_temperature_stays():
    state, metrics = after(make(SAC, temperature="fixed:0.25"))
    assert metrics["temperature"] == 0.25 and state.log_temperature == 0


def test_sgd_actor_is_plain_gradient_descent():
    agent = make(ReMAC, actor_optimizer="sgd", learning_rate=0.5)
    state = started(agent)
    new, metrics = update(agent, state, jax.random.key(0), batch())
    np.testing.assert_allclose(metrics["actor/update_norm"], 0.5 * metrics["actor/grad_norm"], rtol=1e-5)
    difference = optax.tree.sub(new.policy, state.policy)
    np.testing.assert_allclose(optax.tree.norm(difference), metrics["actor/update_norm"], rtol=1e-4)
    assert agent.diagnostics(new) == {}


def test_log_std_gradient_is_that_of_the_bias():
    """Against a finite difference of the loss when all log-std biases move together."""
    agent = make(ReMAC, num_retries=4, num_samples=8)
    state = started(agent)

    def loss(shift):
        policy = jax.tree.map(jnp.copy, state.policy)
        policy["params"]["log_std"]["bias"] += shift
        return update(agent, state.replace(policy=policy), jax.random.key(0), batch())[1]["actor/loss"]

    metrics = update(agent, state, jax.random.key(0), batch())[1]
    numeric = (loss(1e-2) - loss(-1e-2)) / 2e-2 / ACTION_SIZE
    np.testing.assert_allclose(metrics["actor/log_std_gradient"], numeric, rtol=0.05, atol=1e-4)
    assert metrics["actor/raises_std"] == (metrics["actor/log_std_gradient"] < 0)


def test_epsilon_diagnostics_count_the_coordinates():
    agent = make(ReMAC)
    state, _ = after(agent)
    adam = state.policy_optimizer[0]
    root = np.sqrt(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(adam.nu)]) / (1 - 0.999**5))
    for epsilon in (1e-8, 1e-3, 1.0):
        diagnostics = make(ReMAC, actor_adam_epsilon=epsilon).diagnostics(state)
        np.testing.assert_allclose(diagnostics["actor/adam_denominator_median"], np.median(root) + epsilon, rtol=1e-4)
        np.testing.assert_allclose(diagnostics["actor/epsilon_dominated_fraction"], np.mean(root < epsilon), atol=2e-3)


def test_agents_that_differ_in_numbers_are_one_program():
    """Every hyperparameter that is a number, the retry count and the objective included, is a leaf."""
    agents = [
        make(
            ReMAC,
            num_retries=retries,
            num_samples=4,
            actor_adam_epsilon=epsilon,
            learning_rate=rate,
            objective=objective,
        )
        for retries, epsilon, rate, objective in [
            (1, 1e-8, 1e-3, "max"),
            (4, 1.0, 3e-4, "max"),
            (3, 0.1, 1e-4, "median"),
        ]
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *agents)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[started(agent) for agent in agents])
    together, _ = jax.vmap(lambda agent, state: update(agent, state, jax.random.key(0), batch()))(stacked, states)
    for index, agent in enumerate(agents):
        alone, _ = update(agent, started(agent), jax.random.key(0), batch())
        member = jax.tree.map(lambda leaf, i=index: leaf[i], together)
        assert_trees_close(member, alone, rtol=1e-3, atol=1e-5)


def test_updates_trace_once_for_all_numbers():
    traces = []

    @jax.jit
    def counted_update(agent, state, key, data):
        traces.append(1)
        return agent.update(state, key, data)

    state = started(make(ReMAC))
    for retries, rate, period in [(1, 1e-3, 1), (8, 3e-4, 5), (2, 0.1, 100)]:
        agent = make(ReMAC, num_retries=retries, learning_rate=rate, target_update_period=period)
        state, _ = counted_update(agent, state, jax.random.key(0), batch())
    assert len(traces) == 1


def test_updates_use_keys_once_and_leak_nothing():
    with jax.debug_key_reuse(True), jax.check_tracer_leaks(True):
        for agent in (make(ReMAC), make(SAC)):
            jax.jit(agent.update)(started(agent), jax.random.key(0), batch())


@pytest.mark.parametrize(("objective", "num_retries"), [("max", 1), ("max", 3), ("lower_tail_mean:0.5", 4)])
def test_both_gradients_estimate_the_same(objective, num_retries):
    """Averaged over many draws at fixed critics, and the score-function step against its definition."""
    options = {"num_retries": num_retries, "num_samples": 6, "objective": objective, "actor_optimizer": "sgd"}
    data = batch()
    state = started(make(ReMAC))

    @jax.jit
    def mean_step(agent):
        def bias_step(key):
            new, _ = agent._update_actor(state, key, data)
            old = state.policy["params"]
            return jnp.stack([new.policy["params"][head]["bias"] - old[head]["bias"] for head in ("mean", "log_std")])

        steps = jax.lax.map(bias_step, jax.random.split(jax.random.key(0), 1500))
        return steps.mean(axis=0), steps.std(axis=0) / 1500**0.5

    pathwise, pathwise_error = mean_step(make(ReMAC, learning_rate=1.0, **options))
    score, score_error = mean_step(make(ReMAC, learning_rate=1.0, gradient="score_function", **options))
    assert (np.abs(pathwise) > 4 * pathwise_error).any(), "the case must show a gradient"
    assert (np.abs(score - pathwise) < 5 * np.hypot(pathwise_error, score_error)).all()

    agent = make(ReMAC, learning_rate=1.0, gradient="score_function", **options)
    policy, critics = agent._policy_network(), agent._critic_network()

    def loss(parameters):
        distribution = policy.apply(parameters, data.observation)
        fixed = policy.apply(state.policy, data.observation)
        noise = jax.random.normal(jax.random.key(1), (6, BATCH_SIZE, ACTION_SIZE))
        pre_tanh = fixed.mean[None] + jnp.exp(fixed.log_std)[None] * noise
        q_values = critics.apply(state.critics, data.observation, jnp.tanh(pre_tanh)).min(axis=0)
        return score_function_loss(distribution.log_prob(pre_tanh).T, q_values.T, objective, num_retries)

    expected = jax.tree.map(lambda p, g: p - g, state.policy, jax.grad(loss)(state.policy))
    new, _ = agent._update_actor(state, jax.random.key(1), data)
    assert_trees_close(new.policy, expected, rtol=1e-4, atol=1e-5)


def test_act_is_deterministic_or_samples():
    agent = make(SAC)
    state: AgentState = started(agent)
    observation = batch().observation
    mode = agent.act(state, jax.random.key(0), observation, deterministic=True)
    np.testing.assert_array_equal(mode, agent.act(state, jax.random.key(1), observation, deterministic=True))
    sampled = [agent.act(state, jax.random.key(seed), observation) for seed in range(2)]
    assert mode.shape == sampled[0].shape == (BATCH_SIZE, ACTION_SIZE)
    assert not np.allclose(*sampled) and np.abs(sampled).max() <= 1


@pytest.mark.parametrize(
    ("agent_class", "options", "message"),
    [
        (ReMAC, {"num_retries": 9, "num_samples": 8}, r"num_retries=9: .* at most num_samples=8"),
        (ReMAC, {"num_retries": 0}, r"num_retries=0: .* at least 1"),
        (ReMAC, {"num_samples": 2.5}, r"num_samples=2.5: .* integer"),
        (ReMAC, {"objective": "maximum"}, r"objective.*maximum.*"),
        (ReMAC, {"learning_rate": 0.0}, r"learning_rate=0.0"),
        (ReMAC, {"learning_rate": float("nan")}, r"learning_rate=nan"),
        (ReMAC, {"actor_adam_epsilon": -1.0}, r"actor_adam_epsilon=-1.0"),
        (ReMAC, {"gamma": 1.5}, r"gamma=1.5: .*\[0, 1\]"),
        (ReMAC, {"tau": 0.0}, r"tau=0.0: .*\(0, 1\]"),
        (ReMAC, {"hidden_sizes": ()}, r"hidden_sizes"),
        (ReMAC, {"hidden_sizes": (64, 0)}, r"hidden_sizes=0"),
        (ReMAC, {"activation": "sine"}, r"activation=sine: .*relu"),
        (ReMAC, {"actor_optimizer": "lion"}, r"actor_optimizer=lion: .*adam, sgd"),
        (ReMAC, {"critic_aggregate": "max"}, r"critic_aggregate=max: .*min, mean"),
        (ReMAC, {"batch_size": True}, r"batch_size=True"),
        (ReMAC, {"gradient": "reinforce"}, r"gradient=reinforce: .*pathwise, score_function"),
        (ReMAC, {"gradient": "score_function", "num_retries": 8}, r"num_retries=8: must be below num_samples=8"),
        (ReMAC, {"entropy": 1}, r"entropy=1: no such hyperparameter"),
        (SAC, {"temperature": "auto:1"}, r"temperature=auto:1: must be auto or fixed"),
        (SAC, {"temperature": "fixed:-1"}, r"temperature=fixed:-1"),
        (SAC, {"temperature": "fixed:nan"}, r"temperature=fixed:nan"),
        (SAC, {"target_entropy": float("inf")}, r"target_entropy=inf"),
    ],
)
def test_bad_hyperparameters_are_named(agent_class, options, message):
    with pytest.raises(InvalidValueError, match=message) as error:
        make(agent_class, **options)
    assert "\n" not in str(error.value)
