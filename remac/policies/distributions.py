"""Distributions of actions in [-1, 1], as policies' heads give them."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from remac.types import Array, Key, Metrics

_LOG_SQRT_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_LEAST_STD = 1e-6  # so that the density of no noise at all is finite


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TanhGaussian:
    """Distribution of a = tanh(u), u ~ Normal(mean, diag(exp(log_std)^2)).

    The density follows from the change of variables, log p(a) = log N(u) - sum_d log(1 - tanh(u_d)^2)
    (Haarnoja et al., 2018, Soft Actor-Critic, appendix C, arXiv 1801.01290).

    Note: log(1 - tanh(u)^2) is evaluated from u as 2 (log 2 - |u| - log(1 + exp(-2|u|))), which stays finite where
    tanh(u) rounds to +-1. The log-probability is therefore never computed from the action.

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
        # Drawn and scaled as one long row each: over an innermost axis of a few action dimensions XLA's loops are slow.
        noise = jax.random.normal(key, (num_samples, self.mean.size), self.mean.dtype)
        pre_tanh = self.mean.reshape(1, -1) + jnp.exp(self.log_std).reshape(1, -1) * noise
        noise, pre_tanh = (rows.reshape(num_samples, *self.mean.shape) for rows in (noise, pre_tanh))
        if not reparameterize:
            pre_tanh = jax.lax.stop_gradient(pre_tanh)
            return jnp.tanh(pre_tanh), self.log_prob(pre_tanh)
        return jnp.tanh(pre_tanh), _log_prob(noise, pre_tanh, self.log_std[None])

    def sample_pre_tanh(self, key: Key) -> Array:
        """Draws u, of which tanh(u) is an action, `[..., action_dim]`. The key is consumed."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def log_prob(self, pre_tanh: Array) -> Array:
        """Returns log p(tanh(u)), `[N, ...]`, at given values u, `[N, ..., action_dim]`, of the underlying Gaussian."""
        log_std = self.log_std[None]
        return _log_prob((pre_tanh - self.mean[None]) * jnp.exp(-log_std), pre_tanh, log_std)

    def metrics(self) -> Metrics:
        """Returns what the noise is before tanh saturates it, averaged over states."""
        return {
            "actor/gaussian_entropy": jnp.mean(self.gaussian_entropy()),
            "actor/pre_tanh_std": jnp.mean(jnp.exp(self.log_std)),
        }

    def gaussian_entropy(self) -> Array:
        """Returns the entropy of u in nats, `[...]`: what the policy's noise is before tanh saturates it."""
        return jnp.sum(self.log_std + 0.5 + _LOG_SQRT_TWO_PI, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClippedGaussian:
    """Distribution of a = clip(mean + std * noise, -1, 1): a deterministic policy with noise of a given size.

    Attributes:
        mean: The action without noise, in [-1, 1], `[..., action_dim]`.
        std: Standard deviation of the noise, scalar; 0 for none.
    """

    mean: Array
    std: Array

    def mode(self) -> Array:
        """Returns the action without noise, `[..., action_dim]`."""
        return self.mean

    def sample(self, key: Key, num_samples: int) -> tuple[Array, Array]:
        """Draws samples.

        Args:
            key: Consumed.
            num_samples: N.

        Returns:
            Actions `[N, ..., action_dim]`, and the log-density `[N, ...]` of their noise before it is clipped.
        """
        noise = jax.random.normal(key, (num_samples, *self.mean.shape), self.mean.dtype)
        of_noise = -0.5 * noise**2 - _LOG_SQRT_TWO_PI - jnp.log(jnp.maximum(self.std, _LEAST_STD))
        return jnp.clip(self.mean[None] + self.std * noise, -1.0, 1.0), jnp.sum(of_noise, axis=-1)

    def metrics(self) -> Metrics:
        """Returns nothing: the noise is given."""
        return {}


Distribution = TanhGaussian | ClippedGaussian


def _log_prob(noise: Array, pre_tanh: Array, log_std: Array) -> Array:
    # What all samples share is added up once.
    of_sample = jnp.sum(-0.5 * noise**2 - _log_one_minus_tanh_square(pre_tanh), axis=-1)
    return of_sample - jnp.sum(log_std + _LOG_SQRT_TWO_PI, axis=-1)


@jax.custom_jvp
def _log_one_minus_tanh_square(x: Array) -> Array:
    size = jnp.abs(x)
    # Not log1p, which on the CPU is not vectorised here and takes 10 times as long; the error is that of rounding 1.
    return 2.0 * (math.log(2.0) - size - jnp.log(1.0 + jnp.exp(-2.0 * size)))


@_log_one_minus_tanh_square.defjvp
def _log_one_minus_tanh_square_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Shares tanh with the action; the derivative that JAX would find costs another exponential and a division.
    return _log_one_minus_tanh_square(*primals), -2.0 * jnp.tanh(primals[0]) * tangents[0]
