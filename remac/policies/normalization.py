"""Running mean and standard deviation of observations."""

import dataclasses

import jax
import jax.numpy as jnp

from remac.types import Array

CLIP = 10.0


_MOST = 2**31 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RunningStatistics:
    """Moments of all observations seen so far.

    What one of very many observations adds is less than float32 resolves beside the sum, so the mean and the sum of
    squares each are two floats, of which the second holds what the first one rounds away.

    Attributes:
        count: Number of observations, scalar int32; it stays at 2^31 - 1. Later observations weigh in the mean as if it
            were then, and the variance overestimates.
        mean: Per dimension, `[obs_dim]`.
        sum_squares: Sum of squared deviations from the mean, `[obs_dim]`.
        mean_rest: What is missing in ``mean``, `[obs_dim]`.
        sum_squares_rest: What is missing in ``sum_squares``, `[obs_dim]`.
    """

    count: Array
    mean: Array
    sum_squares: Array
    mean_rest: Array
    sum_squares_rest: Array


def init(size: int) -> RunningStatistics:
    """Starts statistics of observations with ``size`` dimensions."""
    zeros = jnp.zeros((size,))
    return RunningStatistics(jnp.zeros((), jnp.int32), zeros, zeros, zeros, zeros)


def of_first(statistics: RunningStatistics, size: int) -> RunningStatistics:
    """Returns those of the first ``size`` dimensions."""
    first = {
        name: getattr(statistics, name)[..., :size] for name in ("mean", "sum_squares", "mean_rest", "sum_squares_rest")
    }
    return dataclasses.replace(statistics, **first)


def update(statistics: RunningStatistics, observation: Array) -> RunningStatistics:
    """Takes in a batch of observations `[B, obs_dim]`.

    Merges the moments of two samples (Chan, Golub and LeVeque, 1983, eqs. 2.1a and 2.1b).
    """
    batch_size = observation.shape[0]
    batch_mean = jnp.mean(observation, axis=0)
    batch_sum_squares = jnp.sum((observation - batch_mean[None]) ** 2, axis=0)
    before = jnp.minimum(statistics.count, _MOST - batch_size)
    count = before + batch_size
    share = batch_size / count.astype(jnp.float32)
    delta = (batch_mean - statistics.mean) - statistics.mean_rest
    squares = batch_sum_squares + delta**2 * (before.astype(jnp.float32) * share)
    mean, mean_rest = _add(statistics.mean, statistics.mean_rest, delta * share)
    sum_squares, sum_squares_rest = _add(statistics.sum_squares, statistics.sum_squares_rest, squares)
    return RunningStatistics(count, mean, sum_squares, mean_rest, sum_squares_rest)


def _add(total: Array, rest: Array, term: Array) -> tuple[Array, Array]:
    """Adds to a sum of two floats, exactly but for the rounding of the second (Knuth's two-sum)."""
    term = term + rest
    result = total + term
    added = result - total
    return result, (total - (result - added)) + (term - added)


def normalize(statistics: RunningStatistics, observation: Array) -> Array:
    """Returns (observation - mean) / standard deviation for `[..., obs_dim]`, clipped to +-10.

    Without the clip, a dimension that was constant so far (a contact force) reaches the networks as 1e6 when it first
    moves. Before any data it is the identity, clipped.
    """
    inverse_std = inverse_deviation(statistics)
    shape = (1,) * (observation.ndim - 1) + statistics.mean.shape
    return jnp.clip((observation - statistics.mean.reshape(shape)) * inverse_std.reshape(shape), -CLIP, CLIP)


def inverse_deviation(statistics: RunningStatistics) -> Array:
    """Returns what ``normalize`` multiplies deviations from the mean by, `[obs_dim]`.

    Note: a deviation below what float32 resolves beside the mean counts as that, so that a constant maps to about 0.
    """
    variance = statistics.sum_squares / jnp.maximum(statistics.count, 1).astype(jnp.float32)
    least = 1e-6 + 1e-5 * jnp.abs(statistics.mean)
    # One operation and not a root and a division, which XLA joins in some programs and not in others: a member would
    # then not be bitwise the run alone.
    return jnp.where(statistics.count > 0, jnp.minimum(jax.lax.rsqrt(variance), 1.0 / least), 1.0)
