import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import fast_are

from remac.policies.networks import CriticNetworks, PolicyParameters
from remac.policies.policy_network import LOG_STD_RANGE, PolicyNetwork


@pytest.mark.parametrize("activation", fast_are(1, ["tanh", "relu"]))
def test_critics_are_perceptrons_on_observation_and_action(activation):
    """Against plain NumPy on concat(observation, action)."""
    critics = CriticNetworks(num_critics=3, hidden_sizes=(16, 8), activation=activation)
    keys = jax.random.split(jax.random.key(0), 3)
    observation = jax.random.normal(keys[0], (5, 4))
    action = jax.random.normal(keys[1], (7, 5, 2))
    variables = critics.init(keys[2], observation, action)
    values = critics.apply(variables, observation, action)
    assert values.shape == (3, 7, 5)

    activate = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[activation]
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    for critic in range(3):
        for sample in range(7):
            features = np.concatenate([observation, action[sample]], axis=1).astype(np.float64)
            for layer in range(3):
                features = features @ parameters[f"kernel_{layer}"][critic] + parameters[f"bias_{layer}"][critic]
                if layer < 2:
                    features = activate(features)
            np.testing.assert_allclose(values[critic, sample], features[:, 0], rtol=2e-5, atol=2e-5)


def test_critics_start_different_with_the_scale_of_their_whole_input():
    critics = CriticNetworks(num_critics=2, hidden_sizes=(256,), activation="relu")
    variables = critics.init(jax.random.key(0), jnp.zeros((1, 30)), jnp.zeros((1, 1, 10)))
    kernel = variables["params"]["kernel_0"]
    assert not np.allclose(kernel[0], kernel[1])
    np.testing.assert_allclose(kernel.std(axis=(1, 2)), 1 / np.sqrt(40), rtol=0.05)


def test_policy_clips_the_log_std():
    policy = PolicyNetwork(action_size=2, hidden_sizes=(8,), activation="tanh")
    observation = jnp.ones((3, 4))
    variables = PolicyParameters(policy).init(jax.random.key(0), observation)
    for bias, bound in ((1e3, LOG_STD_RANGE[1]), (-1e3, LOG_STD_RANGE[0])):
        variables["params"]["log_std"]["bias"] = jnp.full((2,), bias)
        np.testing.assert_array_equal(policy.apply(variables, observation).log_std, np.full((3, 2), bound))


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "aggregate"),
    fast_are(
        2, [(8, 256, "min"), (3, 10, "mean"), (8, 256, "mean"), (3, 10, "min"), (6, 200, "mean"), (1, 600, "min")]
    ),
)
def test_values_for_the_actor_have_the_plain_values_and_gradients(num_samples, batch_size, aggregate):
    """In one piece, in pieces of several samples, and in pieces of one."""
    aggregate = functools.partial(getattr(jnp, aggregate), axis=0)
    critics = CriticNetworks(num_critics=2, hidden_sizes=(16, 8), activation="relu")
    keys = jax.random.split(jax.random.key(0), 4)
    observation = jax.random.normal(keys[0], (batch_size, 4))
    action = jax.random.normal(keys[1], (num_samples, batch_size, 2))
    weights = jax.random.normal(keys[2], (num_samples, batch_size))
    variables = critics.init(keys[3], observation, action)

    def plain(action):
        values = aggregate(critics.apply(variables, observation, action))
        return jnp.sum(weights * values), values

    def for_actor(action):
        values = critics.apply(variables, observation, action, for_actor=aggregate)
        return jnp.sum(weights * values), values

    (gradient, values), (expected_gradient, expected) = (
        jax.jit(jax.grad(function, has_aux=True))(action) for function in (for_actor, plain)
    )
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "num_samples", "num_outputs"),
    fast_are(1, [("none", 4, 3), ("layer", 4, None), ("batch", 1, 3)]),
)
def test_critics_on_an_accelerator_are_the_same_function(norm, num_samples, num_outputs, monkeypatch):
    """There all critics' products are one, of observation and action together: values, gradients and statistics."""
    critics = CriticNetworks(2, (16, 8), "relu", norm=norm, num_outputs=num_outputs)
    keys = jax.random.split(jax.random.key(0), 3)
    observation = jax.random.normal(keys[0], (12, 4))
    action = jax.random.normal(keys[1], (num_samples, 12, 2))
    variables = critics.init(keys[2], observation, action)
    for_actor = {"for_actor": lambda outputs: jnp.mean(outputs, axis=(0, *range(3, outputs.ndim)))}
    kinds = [{}, for_actor] + ([{"training": True, "mutable": ["batch_stats"]}] if num_samples == 1 else [])

    def everything(variables, action):
        return [critics.apply(variables, observation, action, **kind) for kind in kinds]

    def loss(variables, action):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(everything(variables, action)))

    found = {}
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr("jax.default_backend", lambda backend=backend: backend)
        values, gradients = jax.jit(
            lambda variables, action: (
                everything(variables, action),
                jax.grad(loss, argnums=(0, 1), allow_int=True)(variables, action),
            )
        )(variables, action)
        found[backend] = values, [leaf for leaf in jax.tree.leaves(gradients) if leaf.dtype == jnp.float32]
    assert len(found["cpu"][1]) > 6
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), found["cpu"], found["gpu"]
    )
