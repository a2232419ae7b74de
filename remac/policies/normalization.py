"""Running mean and standard deviation of observations."""

import jax.numpy as jnp
from flax import struct

from remac.types import Array

CLIP = 10.0


@struct.dataclass
class RunningStatistics:
    """Moments of all observations seen so far.

    Attributes:
        count: Number of observations, scalar.
        mean: Per dimension, `[obs_dim]`.
        sum_squares: Sum of squared deviations from the mean, `[obs_dim]`.
    """

    count: Array
    mean: Array
    sum_squares: Array


def init(size: int) -> RunningStatistics:
    """Starts statistics of observations with ``size`` dimensions."""
    return RunningStatistics(jnp.zeros(()), jnp.zeros((size,)), jnp.zeros((size,)))


def update(statistics: RunningStatistics, observation: Array) -> RunningStatistics:
    """Takes in a batch of observations `[B, obs_dim]`.

    Merges the moments of two samples (Chan, Golub and LeVeque, 1983, eqs. 2.1a and 2.1b).
    """
    batch_size = observation.shape[0]
    batch_mean = jnp.mean(observation, axis=0)
    batch_sum_squares = jnp.sum((observation - batch_mean[None]) ** 2, axis=0)
    count = statistics.count + batch_size
    delta = batch_mean - statistics.mean
    return RunningStatistics(
        count=count,
        mean=statistics.mean + delta * (batch_size / count),
        sum_squares=statistics.sum_squares + batch_sum_squares + delta**2 * (statistics.count * batch_size / count),
    )


def normalize(statistics: RunningStatistics, observation: Array) -> Array:
    """Returns (observation - mean) / standard deviation for `[..., obs_dim]`, clipped to +-10.

    Without the clip, a dimension that was constant so far (a contact force) reaches the networks as 1e6 when it first
    moves. Before any data it is the identity, clipped.

    Note: a deviation below what float32 resolves beside the mean counts as that, so that a constant maps to about 0.
    """
    variance = statistics.sum_squares / jnp.maximum(statistics.count, 1.0)
    least = 1e-6 + 1e-5 * jnp.abs(statistics.mean)
    std = jnp.where(statistics.count > 0, jnp.maximum(jnp.sqrt(variance), least), 1.0)
    shape = (1,) * (observation.ndim - 1) + statistics.mean.shape
    return jnp.clip((observation - statistics.mean.reshape(shape)) / std.reshape(shape), -CLIP, CLIP)
