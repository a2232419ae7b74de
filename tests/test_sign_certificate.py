"""How sure signs of advantages are: by hand, against a search over perturbations, and in the agents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import fast_are

from agents import OrderGrad, ReMAC
from remac.estimators import certificate_weights, sign_radii
from remac.types import Transition
from remac.validation import InvalidValueError


def test_radii_by_hand():
    """Features 0, 3 and 6 along w = (2, 0): advantages -6, 0, 6 at distances 3, 0, 3; then one across w."""
    features = np.array([[0.0, 0.0], [3.0, 0.0], [6.0, 0.0]])
    np.testing.assert_allclose(sign_radii(features, np.array([2.0, 0.0])), [2.0, np.inf, 2.0])
    # Centred (-1, -2), (-1, 2), (2, 0); advantages -1, -1, 2 for w = (1, 0).
    features = np.array([[0.0, 0.0], [0.0, 4.0], [3.0, 2.0]])
    np.testing.assert_allclose(sign_radii(features, np.array([1.0, 0.0])), [1 / 5**0.5, 1 / 5**0.5, 1.0], rtol=1e-6)


def test_weights_by_hand():
    # 1 / Delta is 1, 2, 4, 8, 0: of five samples, sorted 0, 1, 2, 4, 8, the 75% quantile is 4.
    radius = np.array([1.0, 0.5, 0.25, 0.125, np.inf])
    np.testing.assert_allclose(certificate_weights(radius, 0.75), [0.75, 0.5, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(certificate_weights(radius, 1.0), [7 / 8, 6 / 8, 4 / 8, 0.0, 1.0])
    np.testing.assert_array_equal(certificate_weights(np.array([0.0, np.inf, 0.0]), 0.5), [0.0, 1.0, 0.0])
    np.testing.assert_array_equal(certificate_weights(np.array([np.inf, np.inf]), 0.5), [1.0, 1.0])
    with pytest.raises(InvalidValueError, match="quantile"):
        certificate_weights(radius, 0.0)


def test_no_smaller_perturbation_flips_a_sign_and_one_a_little_larger_does():
    """A search: random directions and, by steepest descent on the sphere, the worst one."""
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(6, 4)), rng.normal(size=4)
    radius = np.asarray(sign_radii(features, weights))
    centred = features - features.mean(0)
    for sample in range(6):
        sign = np.sign(centred[sample] @ weights)
        directions = rng.normal(size=(20_000, 4))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        values = sign * (centred[sample] @ (weights[:, None] + 0.999 * radius[sample] * directions.T))
        assert values.min() > 0, "no perturbation within the radius flips it"
        worst = directions[values.argmin()]
        for _ in range(200):
            worst = worst - 0.1 * sign * centred[sample]
            worst /= np.linalg.norm(worst)
        assert sign * (centred[sample] @ (weights + 0.999 * radius[sample] * worst)) > 0
        assert sign * (centred[sample] @ (weights + 1.001 * radius[sample] * worst)) < 0


@pytest.mark.parametrize(("aggregate", "norm"), fast_are(1, [("min", "layer"), ("min", "none"), ("mean", "none")]))
def test_remacs_radii_are_distances_of_its_critics_last_layers(aggregate, norm):
    """The radius from the gradient of every sample's advantage by all last layers, which is its centred features."""
    agent = ReMAC.create(
        3, 2, gradient="score_function", num_retries=2, num_samples=5, hidden_sizes=(6,), sign_certificate=0.5,
        critic_aggregate=aggregate, critic_norm=norm,
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 4)
    state = jax.jit(agent.init)(keys[0])
    observation, action = jax.random.normal(keys[1], (4, 3)), jnp.tanh(jax.random.normal(keys[2], (5, 4, 2)))
    q_values, radius = jax.jit(agent.certified_values)(state, observation, action)
    plain = jax.jit(agent.actor_values)(state, observation, action)
    np.testing.assert_allclose(q_values, plain, rtol=1e-5, atol=1e-6)

    def advantages(last):
        critics = {**state.critics, "params": state.critics["params"] | last}
        outputs = agent.critic_networks.apply(critics, observation, action)
        values = outputs.min(0) if aggregate == "min" else outputs.mean(0)
        return values - jnp.mean(values, axis=0, keepdims=True)

    last = {name: state.critics["params"][name] for name in ("kernel_1", "bias_1")}
    by_last = jax.jit(jax.jacobian(advantages))(last)
    norms = np.sqrt(sum((np.asarray(leaf) ** 2).reshape(5, 4, -1).sum(-1) for leaf in jax.tree.leaves(by_last)))
    np.testing.assert_allclose(radius, np.abs(jax.jit(advantages)(last)) / norms, rtol=1e-4)


def test_samples_that_are_unsure_do_not_move_the_actor():
    """The gradient is the plain one's with the certificate on every sample."""
    options = {"gradient": "score_function", "num_retries": 2, "num_samples": 5, "hidden_sizes": (6,)}
    agents = [ReMAC.create(3, 2, **options, sign_certificate=share) for share in (None, 0.4)]
    keys = jax.random.split(jax.random.key(0), 4)
    state = jax.jit(agents[0].init)(keys[0])
    observation = jax.random.normal(keys[1], (4, 3))
    batch = Transition(observation, jnp.zeros((4, 2)), jnp.zeros(4), jnp.ones(4), observation)
    distribution = jax.jit(agents[0].policy_network.apply)(state.policy, observation)

    @jax.jit
    def plain(distribution, state):
        action, log_prob = distribution.sample(keys[2], 5, reparameterize=False)
        _, radius = agents[0].certified_values(state, observation, action)
        certificate = certificate_weights(radius, 0.4)
        q_values = agents[0].actor_values(state, observation, action)
        return certificate, agents[0].actor_objective(state, q_values, certificate * log_prob)

    certificate, expected = plain(distribution, state)
    assert 0 < np.mean(np.asarray(certificate) == 0) < 1
    objective, _, metrics = jax.jit(agents[1].sampled_objective)(distribution, state, keys[2], batch)
    np.testing.assert_allclose(objective, expected, rtol=1e-5)
    assert metrics["actor/certificate"] == pytest.approx(float(np.mean(certificate)))


def test_what_is_no_sample_is_not_compared():
    radius, others = np.array([1.0, 0.5, 0.25, 0.125, np.inf]), np.array([1e-6, 0.0, np.inf])
    is_sample = np.arange(8) < 5
    found = certificate_weights(np.concatenate([radius, others]), 0.75, is_sample)
    np.testing.assert_array_equal(found[:5], certificate_weights(radius, 0.75))


def test_steps_after_the_end_do_not_change_what_counts():
    """Those of OrderGrad's later episodes, whatever is observed there."""
    options = {"episode_length": 4, "num_samples": 3, "num_retries": 2, "hidden_sizes": (4,), "baseline": "value"}
    agent = OrderGrad.create(2, 1, **options, sign_certificate=0.5, normalize_observations=False)
    keys = jax.random.split(jax.random.key(0), 3)
    state = agent.init(keys[0])
    observation, reward = jax.random.normal(keys[1], (4, 6, 2)), jax.random.normal(keys[2], (4, 6))
    discount = jnp.ones((4, 6)).at[1].set(0.0)  # every episode ends with its second step
    of = Transition(observation, observation[..., :1], reward, discount, observation, jnp.zeros((4, 6), bool))
    rows, metrics = agent.rows(state, of)
    others, other_metrics = agent.rows(state, of._replace(observation=observation.at[2:].multiply(100.0)))
    np.testing.assert_array_equal(rows["advantage"], others["advantage"])
    assert metrics["actor/certificate"] == other_metrics["actor/certificate"] > 0


@pytest.mark.slow
def test_ordergrads_steps_count_by_the_value_networks_certificate():
    options = {"episode_length": 3, "num_samples": 3, "num_retries": 2, "hidden_sizes": (4,), "baseline": "value"}
    plain, certified = (OrderGrad.create(2, 1, **options, sign_certificate=share) for share in (None, 0.5))
    keys = jax.random.split(jax.random.key(0), 3)
    state = plain.init(keys[0])
    observation, reward = jax.random.normal(keys[1], (3, 6, 2)), jax.random.normal(keys[2], (3, 6))
    false = jnp.zeros((3, 6), bool)
    steps = Transition(observation, observation[..., :1], reward, jnp.ones((3, 6)), observation, false)
    (rows, _), (certified_rows, metrics) = plain.rows(state, steps), certified.rows(state, steps)

    def left(last):
        value = {"params": state.value["params"] | {"value": last}}
        return rows["target"] - plain.value_network.apply(value, rows["observation"])

    last = state.value["params"]["value"]
    by_last = jax.jacobian(left)(last)
    norms = np.sqrt(sum((np.asarray(leaf) ** 2).reshape(3, 6, -1).sum(-1) for leaf in jax.tree.leaves(by_last)))
    certificate = certificate_weights(np.abs(left(last)) / norms, 0.5)
    assert 0 < np.mean(np.asarray(certificate) == 0) < 1
    np.testing.assert_allclose(certified_rows["advantage"], certificate * rows["advantage"], rtol=1e-4, atol=1e-6)
    assert metrics["actor/certificate"] == pytest.approx(float(np.mean(certificate)), rel=1e-4)


@pytest.mark.parametrize(
    ("agent_class", "options", "message"),
    [
        (ReMAC, {"sign_certificate": 0.5}, "sign_certificate=0.5: must be null unless gradient=score_function"),
        (ReMAC, {"sign_certificate": 0.0, "gradient": "score_function"}, "sign_certificate=0"),
        (OrderGrad, {"sign_certificate": 0.5, "episode_length": 2}, "must be null unless baseline=value"),
    ],
)
def test_certificates_that_cannot_be_are_refused(agent_class, options, message):
    with pytest.raises(InvalidValueError, match=message):
        agent_class.create(1, 1, **options)


@pytest.mark.parametrize("quantile", [1.5, np.float32(1.5), jnp.float32(0.0), np.array([0.5, -1.0])])
def test_quantiles_that_are_known_are_checked(quantile):
    with pytest.raises(InvalidValueError, match="quantile="):
        certificate_weights(jnp.ones(4), quantile)
