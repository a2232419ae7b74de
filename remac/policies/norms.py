"""Normalisation inside networks: of the features of one row, or of one feature over the rows of a batch."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from remac.types import Array, PyTree

if TYPE_CHECKING:  # a saved policy acts without it
    from flax import linen as nn

NORMS = ("none", "layer", "batch")
ROW_NORMS = NORMS[:2]  # by which a row's features do not depend on other rows
STATISTICS = "batch_stats"  # the collection of variables that passes in training mode move, and gradients do not
LAYER_EPSILON = 1e-6
BATCH_EPSILON = 1e-3
MOMENTUM = 0.99
SCALE_LIMIT, SHIFT_LIMIT = 3.0, 5.0
WARM_UP_STEPS = 100_000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Norm:
    """One norm's variables, for features of width W; leading axes are free.

    Attributes:
        scale: Of the normalised features, learned, `[W]`.
        bias: Added to them, learned, `[W]`.
        mean: Running mean of each feature, `[W]`; an empty tuple for layer norm.
        variance: Its running variance, `[W]`; likewise.
    """

    scale: Array
    bias: Array
    mean: Any = ()
    variance: Any = ()


Moments = tuple[Array, Array]


def declare(module: "nn.Module", norm: str, name: str, shape: tuple[int, ...]) -> Norm:
    """Declares the variables of a norm ``layer`` or ``batch`` in a module, shape `[..., W]`."""
    scale = module.param(f"{name}_scale", jax.nn.initializers.ones, shape)
    bias = module.param(f"{name}_bias", jax.nn.initializers.zeros, shape)
    if norm == "layer":
        return Norm(scale, bias)
    mean = module.variable(STATISTICS, f"{name}_mean", jnp.zeros, shape)
    variance = module.variable(STATISTICS, f"{name}_variance", jnp.ones, shape)
    return Norm(scale, bias, mean.value, variance.value)


def declare_steps(module: "nn.Module") -> Array:
    """Declares the number of times that a module's running statistics have moved, scalar int32."""
    steps: Array = module.variable(STATISTICS, "steps", jnp.zeros, (), jnp.int32).value
    return steps


def read(parameters: PyTree, statistics: PyTree, name: str) -> Norm:
    """Returns the variables of the norm that was declared by a name; without statistics, those of a layer norm."""
    scale, bias = parameters[f"{name}_scale"], parameters[f"{name}_bias"]
    if not statistics:
        return Norm(scale, bias)
    return Norm(scale, bias, statistics[f"{name}_mean"], statistics[f"{name}_variance"])


def moved(statistics: PyTree, moments: dict[str, Moments]) -> PyTree:
    """Returns running statistics that a training pass moves towards a batch's moments by 1 - ``MOMENTUM``.

    Args:
        statistics: The collection ``STATISTICS`` of a network.
        moments: Of every norm, by the name that it was declared with.
    """
    after = {"steps": statistics["steps"] + 1}
    for name, values in moments.items():
        for of, value in zip(("mean", "variance"), values, strict=True):
            before = statistics[f"{name}_{of}"]
            # One product: of the sum of two XLA rounds either, depending on what it fuses, so on the number of devices.
            after[f"{name}_{of}"] = before + (1.0 - MOMENTUM) * (value - before)
    return after


def put_statistics(module: "nn.Module", moments: dict[str, Moments]) -> None:
    """Moves the running statistics of a module that has declared them; see ``moved``."""
    for name, value in moved(module.variables[STATISTICS], moments).items():
        module.put_variable(STATISTICS, name, value)


def layer_norm(norm: Norm, features: Array) -> Array:
    """Normalises every row `[..., W]` by its own mean and variance (Ba et al., 2016, arXiv 1607.06450)."""
    centred = features - jnp.mean(features, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + LAYER_EPSILON)
    return centred * inverse * _row(norm.scale, features) + _row(norm.bias, features)


def running_norm(norm: Norm, features: Array) -> Array:
    """Normalises features `[..., W]` by their running statistics."""
    factor = norm.scale * jax.lax.rsqrt(norm.variance + BATCH_EPSILON)
    return (features - _row(norm.mean, features)) * _row(factor, features) + _row(norm.bias, features)


def batch_renorm(norm: Norm, steps: Array, features: Array) -> tuple[Array, Moments]:
    """Normalises features `[..., W]` by the batch's moments, corrected towards the running ones.

    y = scale * ((x - m) / s * r + d) + bias with the batch's mean m and deviation s = sqrt(variance + epsilon), and
    r = s / S within [1/3, 3], d = (m - M) / S within [-5, 5], where M and S are the running statistics; no gradient
    flows through r and d (Ioffe, 2017, algorithm 1, arXiv 1702.03275). While the statistics have moved fewer than
    ``WARM_UP_STEPS`` times, r = 1 and d = 0: batch normalisation. Constants are those of CrossQ's code (Bhatt et al.,
    2024, arXiv 1902.05605).

    Note: the limits open at once after the warm-up, as in that code; in the source they widen slowly.

    Args:
        norm: Its variables.
        steps: Times that the statistics have moved.
        features: At least one leading axis, over all of which the moments are.

    Returns:
        Normalised features, and the batch's mean and (biased) variance, `[W]`.
    """
    axes = tuple(range(features.ndim - 1))
    mean = jnp.mean(features, axis=axes)
    centred = features - _row(mean, features)
    variance = jnp.mean(centred**2, axis=axes)
    is_warm = steps >= WARM_UP_STEPS
    deviation, running_deviation = jnp.sqrt(variance + BATCH_EPSILON), jnp.sqrt(norm.variance + BATCH_EPSILON)
    r = jnp.clip(deviation / running_deviation, 1.0 / SCALE_LIMIT, SCALE_LIMIT)
    d = jnp.clip((mean - norm.mean) / running_deviation, -SHIFT_LIMIT, SHIFT_LIMIT)
    r, d = (jax.lax.stop_gradient(jnp.where(is_warm, value, plain)) for value, plain in ((r, 1.0), (d, 0.0)))
    factor, shift = norm.scale * (r / deviation), norm.scale * d + norm.bias
    moments = jax.lax.stop_gradient((mean, variance))
    return centred * _row(factor, features) + _row(shift, features), moments


def _row(weights: Array, features: Array) -> Array:
    return weights.reshape((1,) * (features.ndim - 1) + weights.shape)
