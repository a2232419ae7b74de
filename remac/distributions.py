"""The tanh-squashed Gaussian policy distribution."""

import math

import jax
import jax.numpy as jnp
from flax import struct

from remac.types import Array, Key

_LOG_SQRT_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@struct.dataclass
class TanhGaussian:
    """Distribution of a = tanh(u), u ~ Normal(mean, diag(exp(log_std)^2)).

    The density follows from the change of variables, log p(a) = log N(u) - sum_d log(1 - tanh(u_d)^2)
    (Haarnoja et al., 2018, Soft Actor-Critic, appendix C, arXiv 1801.01290).

    Note: log(1 - tanh(u)^2) is evaluated from u as 2 (log 2 - u - softplus(-2u)), which stays finite where tanh(u)
    rounds to +-1. The log-probability is therefore never computed from the action.

    Attributes:
        mean: Mean of u, `[..., action_dim]`.
        log_std: Logarithm of the standard deviation of u, `[..., action_dim]`.
    """

    mean: Array
    log_std: Array

    def mode(self) -> Array:
        """Returns the action at the mean of u, `[..., action_dim]`."""
        return jnp.tanh(self.mean)

    def sample(self, key: Key, num_samples: int, *, reparameterize: bool = True) -> tuple[Array, Array]:
        """Draws samples a = tanh(mean + std * noise).

        Args:
            key: Consumed.
            num_samples: N.
            reparameterize: Whether gradients flow through the samples (pathwise). Otherwise the samples are constants,
                and the gradient of their log-probabilities is the score.

        Returns:
            Actions `[N, ..., action_dim]` and their log-probabilities `[N, ...]`.
        """
        noise = jax.random.normal(key, (num_samples, *self.mean.shape), self.mean.dtype)
        pre_tanh = self.mean[None] + jnp.exp(self.log_std)[None] * noise
        if not reparameterize:
            pre_tanh = jax.lax.stop_gradient(pre_tanh)
            return jnp.tanh(pre_tanh), self.log_prob(pre_tanh)
        return jnp.tanh(pre_tanh), _log_prob(noise, pre_tanh, self.log_std[None])

    def log_prob(self, pre_tanh: Array) -> Array:
        """Returns log p(tanh(u)), `[N, ...]`, at given values u, `[N, ..., action_dim]`, of the underlying Gaussian."""
        log_std = self.log_std[None]
        return _log_prob((pre_tanh - self.mean[None]) * jnp.exp(-log_std), pre_tanh, log_std)

    def gaussian_entropy(self) -> Array:
        """Returns the entropy of u in nats, `[...]`: what the policy's noise is before tanh saturates it."""
        return jnp.sum(self.log_std + 0.5 + _LOG_SQRT_TWO_PI, axis=-1)


def _log_prob(noise: Array, pre_tanh: Array, log_std: Array) -> Array:
    log_one_minus_square = 2.0 * (math.log(2.0) - pre_tanh - jax.nn.softplus(-2.0 * pre_tanh))
    return jnp.sum(-0.5 * noise**2 - log_std - _LOG_SQRT_TWO_PI - log_one_minus_square, axis=-1)
