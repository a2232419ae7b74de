import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from remac.distributions import TanhGaussian


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
