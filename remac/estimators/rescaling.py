"""Gradients of order statistics at another length: without the damping that more retries bring.

The best of K samples is near a maximum of the reward, where the reward is flat, so its pathwise gradient gets shorter
as K grows (the damping of Nishimori and Parmas, 2026, arXiv 2606.05888). Whatever adds a fixed number to a gradient's
size, as Adam's epsilon does, or moves in proportion to it, as SGD does, then depends on K. The gradient of the samples'
mean (K = 1) has no such damping; an order statistic's at that length keeps its own direction, and no sample can make
it longer than that of the mean.
"""

from typing import Any

import jax
import jax.numpy as jnp


def with_length_of(gradient: Any, other: Any) -> Any:
    """Gives a gradient the length of another, for each row; one of length zero stays so.

    Args:
        gradient: Leaves `[B, ...]`.
        other: Likewise.
    """
    own, wanted = (
        jnp.sqrt(
            sum(jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim)), keepdims=True) for leaf in jax.tree.leaves(tree))
        )
        for tree in (gradient, other)
    )
    scale = jnp.where(own > 0, wanted / jnp.where(own > 0, own, 1.0), 0.0)
    return jax.tree.map(lambda leaf: scale * leaf, gradient)
