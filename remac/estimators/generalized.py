"""Generalised advantage estimation (Schulman et al., 2015, arXiv 1506.02438)."""

import jax
import jax.numpy as jnp
from jax import Array


def generalized_advantages(
    reward: Array,
    discount: Array,
    ended: Array,
    value: Array,
    next_value: Array,
    *,
    gamma: float | Array,
    gae_lambda: float | Array,
) -> Array:
    """Returns A_t = sum_l (gamma lambda)^l delta_(t+l), delta_t = r_t + gamma d_t V(s'_t) - V(s_t) (eq. 16).

    The sum ends with the episode, for whatever reason, and with the rollout. Where a time limit ended the episode, d_t
    is 1 and s'_t the true last observation, so delta_t still bootstraps.

    Args:
        reward: r, `[T, ...]`, in order.
        discount: d, 0 where a termination ended the episode and 1 elsewhere, `[T, ...]`.
        ended: Whether the step was the last of its episode, `[T, ...]`.
        value: V(s_t), `[T, ...]`.
        next_value: V(s'_t), of what the step led to before any reset, `[T, ...]`.
        gamma: Discount factor.
        gae_lambda: lambda, 0 for one-step errors and 1 for whole returns.

    Returns:
        Advantages `[T, ...]`; with ``value`` added, what V learns towards.
    """
    delta = reward + gamma * discount * next_value - value
    decay = (gamma * gae_lambda * (1.0 - ended.astype(delta.dtype))).astype(delta.dtype)

    def backwards(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        error, factor = step
        advantage = error + factor * later
        return advantage, advantage

    return jax.lax.scan(backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]
