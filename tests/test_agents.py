import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from slow import fast_are

from agents import PPO, SAC, TD3, ReMAC
from agents.actor_critic import AgentState
from remac.estimators.advantages import score_function_loss
from remac.estimators.order_statistics import max_at_k
from remac.estimators.rescaling import with_length_of
from remac.policies.networks import PolicyParameters
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


@pytest.mark.slow
@pytest.mark.parametrize("agent_class", [SAC, ReMAC, TD3, PPO])
def test_an_update_on_an_accelerator_is_the_same_to_rounding(agent_class, monkeypatch):
    """There products, norms and metrics are put together, and steps that are not due are made and dropped."""
    options = SMALL if agent_class is not PPO else {"hidden_sizes": (16, 16), "num_minibatches": 2, "num_epochs": 2}
    agent = agent_class.create(OBSERVATION_SIZE, ACTION_SIZE, **options)

    def updated():
        state, step = started(agent), jax.jit(lambda *arguments: agent.update(*arguments))
        for index in range(3):
            data = batch(index)
            if agent_class is PPO:
                data = data._replace(truncation=jnp.zeros((BATCH_SIZE,), bool))
                data = data._replace(extras=agent.act(state, jax.random.key(9), data.observation)[1])
                data = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), data)
            state, metrics = step(state, jax.random.key(index), data)
        return state, metrics

    plain = updated()
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert_trees_close(updated(), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_remac_with_one_try_is_sac_without_temperature():
    remac, _ = after(make(ReMAC, num_retries=1, num_samples=1))
    sac, _ = after(make(SAC, temperature="fixed:0"))
    assert_trees_close(dataclasses.replace(remac, extra=sac.extra), sac, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_trees_close(remac.policy, started(make(SAC, temperature="fixed:0")).policy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("agent_class", "options"), fast_are(1, [(ReMAC, {"num_retries": 3, "num_samples": 5}), (SAC, {})])
)
def test_update_is_the_published_one(agent_class, options):
    """One step from a second writing of the update: actor, then critics towards the new policy's value."""
    agent = make(agent_class, learning_rate=1e-2, gamma=0.9, tau=0.3, actor_adam_epsilon=0.1, **options)
    state, data, key = (
        started(agent),
        batch(7, discount=0.0)._replace(discount=jnp.arange(BATCH_SIZE) % 2.0),
        jax.random.key(3),
    )
    new, metrics = update(agent, state, key, data)

    normalizer = jax.tree.map(np.asarray, state.normalizer)
    std = np.sqrt(normalizer.sum_squares / normalizer.count)
    observation, next_observation = (
        (np.asarray(rows) - normalizer.mean) / std for rows in (data.observation, data.next_observation)
    )
    policy, critics = agent.policy_network, agent.critic_networks
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
        gradient = jax.jit(jax.grad(loss))(parameters)
        arrays = (jax.tree.map(np.asarray, tree) for tree in (parameters, gradient))
        return jax.tree.map(lambda p, g: p - np.float32(1e-2) * g / (np.abs(g) + np.float32(epsilon)), *arrays)

    expected_policy = adam_step(0.1, actor_loss, state.policy)
    assert_trees_close(new.policy, expected_policy, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["actor/loss"], jax.jit(actor_loss)(state.policy), rtol=1e-5)

    @jax.jit
    def td_targets():
        next_action, next_log_prob = policy.apply(expected_policy, next_observation).sample(critic_key, 1)
        next_q = critics.apply(state.target_critics, next_observation, next_action)[:, 0].min(axis=0)
        return data.reward + 0.9 * data.discount * (next_q - temperature * next_log_prob[0])

    td_target = td_targets()

    def critic_loss(parameters):
        q_values = critics.apply(parameters, observation, data.action[None])[:, 0]
        return sum(jnp.mean(0.5 * (q - td_target) ** 2) for q in q_values)

    np.testing.assert_allclose(metrics["critic/loss"], jax.jit(critic_loss)(state.critics), rtol=1e-4)
    expected_critics = adam_step(1e-8, critic_loss, state.critics)
    assert_trees_close(new.critics, expected_critics, rtol=1e-3, atol=2e-4)
    expected_target = jax.tree.map(
        lambda t, c: 0.7 * np.asarray(t) + 0.3 * np.asarray(c), state.target_critics, new.critics
    )
    assert_trees_close(new.target_critics, expected_target, rtol=1e-5, atol=1e-6)


def test_the_gradient_may_have_the_length_of_the_means_at_every_state():
    """Against a second writing, a state at a time; with K = 1 nothing changes."""
    options = {"num_retries": 4, "num_samples": 6, "gradient_length": "mean"}
    agent, data, key = make(ReMAC, **options), batch(7), jax.random.key(3)
    state = started(agent)
    observation = agent._normalize(state, data.observation)
    distribution = agent.policy_network.apply(state.policy, observation)

    @functools.partial(jax.jit, static_argnums=1)
    @jax.jacrev
    def gradients(distribution, num_retries):
        action, _ = distribution.sample(key, 6)
        return max_at_k(agent.actor_values(state, observation, action).T, num_retries)

    @jax.jit
    @functools.partial(jax.grad, argnums=1)
    def gradient(agent, distribution):
        return agent.actor_loss(distribution, state, key, data._replace(observation=observation))[0]

    given = gradient(agent, distribution)
    of_best, of_all = gradients(distribution, 4), gradients(distribution, 1)
    for index in range(0, BATCH_SIZE, 3):
        own, of_mean = (np.concatenate([of.mean[index, index], of.log_std[index, index]]) for of in (of_best, of_all))
        expected = -own / np.linalg.norm(own) * np.linalg.norm(of_mean) / BATCH_SIZE
        np.testing.assert_allclose(np.concatenate([given.mean[index], given.log_std[index]]), expected, rtol=1e-4)

    plain, scaled = (
        make(ReMAC, **options | {"num_retries": 1, "gradient_length": length}) for length in ("own", "mean")
    )
    for one, other in zip(
        jax.tree.leaves(update(plain, state, key, data)), jax.tree.leaves(update(scaled, state, key, data)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert with_length_of(jnp.zeros((2, 3)), jnp.ones((2, 3))).tolist() == [[0.0] * 3] * 2


def test_the_number_of_retries_may_change_over_training():
    values, key = jax.random.normal(jax.random.key(0), (6, 5)), {"num_samples": 6}
    start, end = make(ReMAC, num_retries=1, **key), make(ReMAC, num_retries=4, **key)
    agent = make(ReMAC, num_retries=1, num_retries_end=4, num_retries_steps=8, **key)
    state = started(agent)

    def objective(agent, step):
        return agent.actor_objective(state.replace(gradient_steps=jnp.asarray(step)), values, jnp.zeros((6, 5)))

    for step, share in ((0, 0.0), (2, 0.25), (8, 1.0), (100, 1.0)):
        expected = (1 - share) * objective(start, step) + share * objective(end, step)
        np.testing.assert_allclose(objective(agent, step), expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(start.rank_weights, start.rank_weights_end)
    for options in ({"num_retries_end": 7}, {"num_retries_end": 6, "gradient": "score_function"}):
        with pytest.raises(InvalidValueError, match=r"num_retries_end=[67]: must be"):
            make(ReMAC, **key, **options)


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


@pytest.mark.parametrize(("target_entropy", "direction"), fast_are(1, [(-50.0, -1), (50.0, 1)]))
def test_temperature_follows_the_target_entropy(target_entropy, direction):
    agent = make(SAC, target_entropy=target_entropy)
    state, metrics = after(agent)
    assert np.sign(state.extra.log_value) == direction
    np.testing.assert_allclose(metrics["temperature"], np.exp(state.extra.log_value))


def test_fixed_temperature_stays():
    state, metrics = after(make(SAC, temperature="fixed:0.25"))
    assert metrics["temperature"] == 0.25 and state.extra.log_value == 0


@pytest.mark.slow
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


@pytest.mark.slow
def test_epsilon_diagnostics_count_the_coordinates():
    agent = make(ReMAC)
    state, _ = after(agent)
    adam = state.policy_optimizer[0]
    root = np.sqrt(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(adam.nu)]) / (1 - 0.999**5))
    for epsilon in (1e-8, 1e-3, 1.0):
        diagnostics = make(ReMAC, actor_adam_epsilon=epsilon).diagnostics(state)
        np.testing.assert_allclose(diagnostics["actor/adam_denominator_median"], np.median(root) + epsilon, rtol=1e-4)
        np.testing.assert_allclose(diagnostics["actor/epsilon_dominated_fraction"], np.mean(root < epsilon), atol=2e-3)


@pytest.mark.slow  # whole populations of them are in test_population.py
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


@pytest.mark.parametrize("agent_class", fast_are(1, [ReMAC, TD3]))
def test_updates_use_keys_once_and_leak_nothing(agent_class):
    """SAC's are looked at within a whole training, in test_loop.py."""
    agent = make(agent_class)
    state = started(agent)
    with jax.debug_key_reuse(True), jax.check_tracer_leaks(True):
        jax.jit(agent.update)(state, jax.random.key(0), batch())


@pytest.mark.parametrize(
    ("objective", "num_retries"),
    [
        ("max", 3),
        pytest.param("max", 1, marks=pytest.mark.slow),
        pytest.param("lower_tail_mean:0.5", 4, marks=pytest.mark.slow),
    ],
)
def test_both_gradients_estimate_the_same(objective, num_retries):
    """Averaged over many draws at fixed critics, and the score-function step against its definition."""
    options = {"num_retries": num_retries, "num_samples": 6, "objective": objective, "actor_optimizer": "sgd"}
    data = batch()
    state = started(make(ReMAC))

    @jax.jit
    def mean_step(agent):
        def bias_step(key):
            new, _ = agent.update_actor(state, key, data)
            old = state.policy["params"]
            return jnp.stack([new.policy["params"][head]["bias"] - old[head]["bias"] for head in ("mean", "log_std")])

        steps = jax.lax.map(bias_step, jax.random.split(jax.random.key(0), 1500))
        return steps.mean(axis=0), steps.std(axis=0) / 1500**0.5

    pathwise, pathwise_error = mean_step(make(ReMAC, learning_rate=1.0, **options))
    score, score_error = mean_step(make(ReMAC, learning_rate=1.0, gradient="score_function", **options))
    assert (np.abs(pathwise) > 4 * pathwise_error).any(), "the case must show a gradient"
    assert (np.abs(score - pathwise) < 5 * np.hypot(pathwise_error, score_error)).all()

    agent = make(ReMAC, learning_rate=1.0, gradient="score_function", **options)
    policy, critics = agent.policy_network, agent.critic_networks

    def loss(parameters):
        distribution = policy.apply(parameters, data.observation)
        fixed = policy.apply(state.policy, data.observation)
        noise = jax.random.normal(jax.random.key(1), (6, BATCH_SIZE, ACTION_SIZE))
        pre_tanh = fixed.mean[None] + jnp.exp(fixed.log_std)[None] * noise
        q_values = critics.apply(state.critics, data.observation, jnp.tanh(pre_tanh)).min(axis=0)
        return score_function_loss(distribution.log_prob(pre_tanh).T, q_values.T, objective, num_retries)

    expected = jax.tree.map(lambda p, g: p - g, state.policy, jax.jit(jax.grad(loss))(state.policy))
    new, _ = jax.jit(agent.update_actor)(state, jax.random.key(1), data)
    assert_trees_close(new.policy, expected, rtol=1e-4, atol=1e-5)


def test_act_is_deterministic_or_samples():
    agent = make(SAC)
    state: AgentState = started(agent)
    observation = batch().observation
    mode, _ = agent.act(state, jax.random.key(0), observation, deterministic=True)
    np.testing.assert_array_equal(mode, agent.act(state, jax.random.key(1), observation, deterministic=True)[0])
    sampled = [agent.act(state, jax.random.key(seed), observation)[0] for seed in range(2)]
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


def test_td3_is_the_published_one():
    """Two steps from a second writing: the actor moves on the second, and the targets with it."""
    options = {"learning_rate": 1e-2, "gamma": 0.9, "tau": 0.3, "target_noise": 0.4, "target_noise_clip": 0.5}
    agent = make(TD3, exploration_noise=0.3, **options)
    state, data = started(agent), batch(7)._replace(discount=jnp.arange(BATCH_SIZE) % 2.0)
    policy, critics = agent.policy_network, agent.critic_networks
    mean, std = state.normalizer.mean[None], jnp.sqrt(state.normalizer.sum_squares / state.normalizer.count)[None]
    normal, next_normal = ((observation - mean) / std for observation in (data.observation, data.next_observation))

    first, metrics = update(agent, state, jax.random.key(1), data)
    assert metrics["actor/loss"] == 0  # not a step of the actor's
    assert_trees_close(first.policy, state.policy, rtol=0, atol=0)
    assert_trees_close(first.target_critics, state.target_critics, rtol=0, atol=0)

    noise_key = jax.random.split(jax.random.key(1))[1]
    noise = np.clip(0.4 * jax.random.normal(noise_key, (BATCH_SIZE, ACTION_SIZE)), -0.5, 0.5)
    assert (np.abs(noise) == 0.5).any()

    @jax.jit
    def critic_loss():
        next_action = jnp.clip(policy.apply(state.policy, next_normal).mean + noise, -1, 1)
        next_q = critics.apply(state.target_critics, next_normal, next_action[None])[:, 0].min(axis=0)
        q_values = critics.apply(state.critics, normal, data.action[None])[:, 0]
        return 0.5 * ((q_values - (data.reward + 0.9 * data.discount * next_q)[None]) ** 2).mean(axis=1).sum()

    loss = critic_loss()
    np.testing.assert_allclose(metrics["critic/loss"], loss, rtol=1e-4)

    second, metrics = update(agent, first, jax.random.key(2), data)

    def next_actor_loss(params):
        action = policy.apply(state.policy | {"params": params}, normal).mean
        return -critics.apply(first.critics, normal, action[None])[0, 0].mean()

    def adams_first_step(parameter, gradient):
        return parameter - np.float32(1e-2) * gradient / (np.abs(gradient) + np.float32(1e-8))

    params = state.policy["params"]
    actor_loss, gradient = jax.jit(jax.value_and_grad(next_actor_loss))(params)
    np.testing.assert_allclose(metrics["actor/loss"], 2 * actor_loss, rtol=1e-5)  # of two steps
    expected = jax.tree.map(adams_first_step, *(jax.tree.map(np.asarray, tree) for tree in (params, gradient)))
    assert_trees_close(second.policy["params"], expected, rtol=1e-3, atol=2e-4)
    assert_trees_close(
        second.extra,
        jax.tree.map(
            lambda old, new: 0.7 * np.asarray(old) + 0.3 * np.asarray(new), state.extra, second.policy["params"]
        ),
        rtol=1e-5,
        atol=1e-6,
    )
    assert_trees_close(second.policy["constants"], {"noise": np.float32(0.3)}, rtol=0, atol=0)


@pytest.mark.parametrize("agent_class", fast_are(1, [SAC, ReMAC]))
def test_the_actor_moves_once_a_period_and_with_it_what_is_learned_besides(agent_class):
    """The critics' steps are those of an agent without a period as long as the actor's are."""
    agent = make(agent_class, actor_update_period=3, policy_learning_rate=1e-3)
    every, state = make(agent_class, policy_learning_rate=1e-3), started(agent)
    for step in range(6):
        data, key, due = batch(step), jax.random.key(step), step % 3 == 2
        new, metrics = update(agent, state, key, data)
        other, of_every = update(every, state, key, data)
        for name in ("policy", "policy_optimizer", "extra"):
            of_new = getattr(other if due else state, name)
            assert_trees_close(getattr(new, name), of_new, rtol=1e-6, atol=1e-7)
        expected = 3 * of_every["actor/entropy"] if due else 0.0
        np.testing.assert_allclose(metrics["actor/entropy"], expected, rtol=1e-5)
        assert metrics["critic/loss"] > 0 and not np.array_equal(
            new.critics["params"]["bias_0"], state.critics["params"]["bias_0"]
        )
        if agent_class is SAC:
            np.testing.assert_allclose(metrics["temperature"], np.exp(new.extra.log_value), rtol=1e-6)
        state = new
    with_one = make(agent_class, learning_rate=1e-3)
    assert with_one.policy_learning_rate == with_one.learning_rate
    assert agent.policy_learning_rate == np.float32(1e-3) and agent.learning_rate != agent.policy_learning_rate


def test_td3_explores_with_the_noise_that_it_was_given():
    agent = make(TD3, exploration_noise=0.05)
    state, observation = started(agent), 0.1 * jnp.ones((4_000, OBSERVATION_SIZE)) + batch(99).observation[:1]
    mode, _ = agent.act(state, jax.random.key(0), observation, deterministic=True)
    sample, _ = agent.act(state, jax.random.key(0), observation)
    assert np.abs(mode).max() < 0.8  # so that nothing is clipped
    np.testing.assert_allclose(np.std(sample - mode), 0.05, rtol=0.03)


def test_an_entropy_term_in_remacs_target_is_sacs():
    entropy, plain = (make(ReMAC, target=target, target_temperature=0.3) for target in ("entropy", "plain"))
    state, _ = after(make(SAC, temperature="fixed:0.3"), 1)
    values = []
    for agent in (entropy, make(SAC, temperature="fixed:0.3"), plain):
        action, log_prob = agent.next_action(state, jax.random.key(5), batch(1).observation)
        q_values = agent.q_values(state.target_critics, batch(1).observation, action)
        values.append(agent.sample_value(state, agent.aggregate(q_values)[0], log_prob[0]))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)
    assert not np.allclose(values[0], values[2])


def test_policy_and_critics_may_have_other_networks():
    agent = make(SAC, policy_hidden_sizes=(7,), critic_hidden_sizes=(9, 11), critic_activation="relu")
    state = started(agent)
    assert state.policy["params"]["hidden_0"]["kernel"].shape == (OBSERVATION_SIZE, 7)
    assert [state.critics["params"][f"kernel_{i}"].shape[2] for i in range(3)] == [9, 11, 1]
    assert (agent.policy_network.activation, agent.critic_networks.activation) == ("tanh", "relu")
    new, _ = jax.eval_shape(agent.update, state, jax.random.key(0), batch())
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)


def test_tanh_bounds_have_a_gradient_where_clip_has_none():
    """At the protocol's floor of the log standard deviation nothing could bring it back."""
    for (bounds, has_gradient), highest in itertools.product((("clip", False), ("tanh", True)), (2.0, -1.0)):
        network = make(SAC, log_std_bounds=bounds, log_std_max=highest).policy_network
        variables = PolicyParameters(network).init(jax.random.key(0), jnp.ones((1, OBSERVATION_SIZE)))

        def log_std(shift, network=network, variables=variables):
            moved = jax.tree.map(lambda leaf: leaf, variables)
            moved["params"]["log_std"]["bias"] = jnp.full((ACTION_SIZE,), shift)
            return network.apply(moved, jnp.zeros((1, OBSERVATION_SIZE))).log_std.sum() / ACTION_SIZE

        assert (jax.grad(log_std)(-11.0) > 0) == has_gradient
        np.testing.assert_allclose((log_std(-60.0), log_std(60.0)), (-10.0, highest), rtol=1e-5)
        centre = (highest - 10.0) / 2
        np.testing.assert_allclose(log_std(centre), centre, atol=1e-6)


def test_a_bound_of_the_mean_keeps_tanh_from_saturating():
    """Within it means are what they were, to third order; however large they would be, tanh keeps a slope."""
    network = make(SAC, mean_max=2.0).policy_network
    variables = PolicyParameters(network).init(jax.random.key(0), jnp.ones((1, OBSERVATION_SIZE)))

    def mean(shift):
        variables["params"]["mean"]["bias"] = jnp.full((ACTION_SIZE,), shift)
        return network.apply(variables, jnp.zeros((1, OBSERVATION_SIZE))).mean[0, 0]

    for shift in (-100.0, -1.5, 0.1, 100.0):
        np.testing.assert_allclose(mean(shift), 2 * np.tanh(shift / 2), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(mean)(0.0), 1.0, rtol=1e-5)
    assert 1 - jnp.tanh(mean(100.0)) ** 2 > 0.07
