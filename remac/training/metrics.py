"""Scalar metrics of a step, kept in the form that a loop over steps stores best."""

from typing import Any

import jax.numpy as jnp
from flax import struct

from remac.machine import on_accelerator
from remac.types import Metrics


@struct.dataclass
class Packed:
    """Scalar metrics, on an accelerator as one array `[..., metrics]`, which a loop stores at once.

    Attributes:
        values: The array, or the metrics.
        names: In the array's order; None for metrics.
    """

    values: Any
    names: tuple[str, ...] | None = struct.field(pytree_node=False)

    def unpack(self) -> Metrics:
        """Returns the metrics, `[...]` each."""
        if self.names is None:
            return dict(self.values)
        return {name: self.values[..., index] for index, name in enumerate(self.names)}


def pack(metrics: Metrics) -> Packed:
    """Packs the metrics of one step."""
    if on_accelerator():
        return Packed(jnp.stack([*metrics.values()]), tuple(metrics))
    return Packed(metrics, None)
