import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from remac.policies.distributions import TanhGaussian


def test_log_prob_is_the_density_of_the_action():
    """Against SciPy's normal and the change of variables in float64, in one dimension."""
    mean, std = 0.3, 0.7
    distribution = TanhGaussian(jnp.array([mean]), jnp.log(jnp.array([std])))
    pre_tanh = np.linspace(-3, 3, 41)
    expected = stats.norm(mean, std).logpdf(pre_tanh) - np.log1p(-(np.tanh(pre_tanh) ** 2))
    np.testing.assert_allclose(distribution.log_prob(jnp.array(pre_tanh)[:, None]), expected, rtol=2e-5, atol=2e-5)


def test_density_integrates_to_one_over_actions():
    distribution = TanhGaussian(jnp.array([0.5]), jnp.array([-0.5]))

    pre_tanh = np.linspace(-8, 8, 4001)
    density = np.exp(np.asarray(distribution.log_prob(jnp.array(pre_tanh)[:, None]), np.float64))
    assert abs(integrate.trapezoid(density, np.tanh(pre_tanh)) - 1) < 1e-3


def test_sample_and_log_prob_agree():
    distribution = TanhGaussian(jnp.array([[0.2, -0.4]]), jnp.array([[0.1, -1.0]]))
    action, log_prob = distribution.sample(jax.random.key(0), 1000)
    assert action.shape == (1000, 1, 2) and log_prob.shape == (1000, 1)
    np.testing.assert_allclose(log_prob, distribution.log_prob(jnp.arctanh(action)), rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(jnp.arctanh(action).mean(axis=0), distribution.mean, atol=0.15)
    np.testing.assert_allclose(jnp.arctanh(action).std(axis=0), jnp.exp(distribution.log_std), rtol=0.1)


def test_saturated_samples_have_finite_log_probs_and_gradients():
    def loss(mean, log_std):
        action, log_prob = TanhGaussian(mean, log_std).sample(jax.random.key(0), 16)
        return jnp.sum(log_prob) + jnp.sum(action)

    for mean in (-1e3, -50.0, 50.0, 1e3):
        for log_std in (-10.0, 2.0):
            arguments = (jnp.full((3, 2), mean), jnp.full((3, 2), log_std))
            value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*arguments)
            assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
            assert (jnp.abs(TanhGaussian(*arguments).mode()) == 1).all(), "the case is meant to saturate"


def test_gaussian_entropy_is_scipys():
    distribution = TanhGaussian(jnp.zeros((1, 3)), jnp.array([[0.0, -1.0, 0.5]]))
    expected = sum(stats.norm(0, np.exp(log_std)).entropy() for log_std in (0.0, -1.0, 0.5))
    np.testing.assert_allclose(distribution.gaussian_entropy(), [expected], rtol=1e-6)


def test_log_prob_gradients_are_those_of_the_plain_form():
    """Against automatic differentiation of the textbook formula, where tanh does not saturate."""

    def plain(mean, log_std, pre_tanh):
        log_normal = -0.5 * ((pre_tanh - mean) / jnp.exp(log_std)) ** 2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.sum(log_normal - jnp.log(1 - jnp.tanh(pre_tanh) ** 2))

    def ours(mean, log_std, pre_tanh):
        return jnp.sum(TanhGaussian(mean, log_std).log_prob(pre_tanh))

    arguments = (jnp.array([[0.3, -0.2]]), jnp.array([[-0.5, 0.2]]), jnp.linspace(-2, 2, 10).reshape(5, 1, 2))
    broadcast = [jnp.broadcast_to(argument, (5, 1, 2)) for argument in arguments]
    expected = jax.grad(plain, argnums=(0, 1, 2))(*broadcast)
    gradients = jax.grad(ours, argnums=(0, 1, 2))(*arguments)
    for gradient, of_plain in zip(gradients[:2], expected[:2], strict=True):
        np.testing.assert_allclose(gradient, of_plain.sum(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[2], expected[2], rtol=1e-4, atol=1e-5)


def test_samples_are_the_scaled_noise():
    mean, log_std = jnp.arange(12.0).reshape(3, 4) / 10, jnp.linspace(-2, 0, 12).reshape(3, 4)
    action, _ = TanhGaussian(mean, log_std).sample(jax.random.key(0), 5)
    noise = jax.random.normal(jax.random.key(0), (5, 3, 4))
    np.testing.assert_allclose(action, jnp.tanh(mean[None] + jnp.exp(log_std)[None] * noise), rtol=1e-5, atol=1e-6)
