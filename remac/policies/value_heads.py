"""What a critic's outputs mean: a value, or the distribution of one over a fixed support."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from remac.types import Array, Metrics

CATEGORICAL_TARGETS = ("hl_gauss", "c51")
_SIGMA_IN_BINS = 0.75
Aggregate = Callable[[Array], Array]
Backup = Callable[[Array], Array]


@struct.dataclass
class ScalarHead:
    """One output, which is the value, trained by half the squared error."""

    @property
    def num_outputs(self) -> int | None:
        """Returns None: outputs have no axis of their own."""
        return None

    def values(self, outputs: Array) -> Array:
        """Returns the outputs."""
        return outputs

    def target(self, outputs: Array, aggregate: Aggregate, backup: Backup) -> tuple[Array, Metrics]:
        """Makes what critics learn towards, see ``CategoricalHead.target``; `[B]`."""
        return backup(aggregate(outputs)), {}

    def loss(self, outputs: Array, target: Array) -> Array:
        """Returns half the squared error of outputs `[C, B]`, averaged over the batch and summed over critics."""
        return 0.5 * jnp.sum(jnp.mean((outputs - target[None]) ** 2, axis=1))


@struct.dataclass
class CategoricalHead:
    """Logits of a distribution over A values, trained by the cross-entropy; its mean is the value.

    With ``hl_gauss`` the range is cut into A bins, whose centres are the values. The target is the histogram of a
    Gaussian around the scalar target with a deviation of 0.75 bins, over its mass within the range (Imani and White,
    2018; Farebrother et al., 2024, sections 3.1 and 4, arXiv 2403.03950).

    With ``c51`` the A values reach from end to end. The target is the distribution of r + gamma * discount * Z, its
    mass shared between the two nearest values (Bellemare et al., 2017, algorithm 1, arXiv 1707.06887). Z is that of the
    critic with the least mean in each state, or the mixture of all critics' where means are averaged.

    Attributes:
        minimum: Of the range, scalar.
        maximum: Of the range, scalar.
        num_atoms: A.
        kind: Name in ``CATEGORICAL_TARGETS``.
    """

    minimum: Array
    maximum: Array
    num_atoms: int = struct.field(pytree_node=False)
    kind: str = struct.field(pytree_node=False)

    @property
    def num_outputs(self) -> int | None:
        """Returns A."""
        return self.num_atoms

    @property
    def atoms(self) -> Array:
        """Returns the values, ascending, `[A]`."""
        index = jnp.arange(self.num_atoms, dtype=jnp.float32)
        fraction = index / (self.num_atoms - 1) if self.kind == "c51" else (index + 0.5) / self.num_atoms
        return self.minimum + (self.maximum - self.minimum) * fraction

    def values(self, outputs: Array) -> Array:
        """Returns the means `[...]` of logits `[..., A]`."""
        # Of the highest precision, since these are what an actor may rank.
        return jnp.matmul(jax.nn.softmax(outputs), self.atoms, precision="highest")

    def target(self, outputs: Array, aggregate: Aggregate, backup: Backup) -> tuple[Array, Metrics]:
        """Makes the probabilities that critics learn towards, `[B, A]`.

        Args:
            outputs: At the next states and actions, `[C, B, A]`.
            aggregate: Makes values `[B]` of the critics' `[C, B]`, by their minimum or their mean.
            backup: Makes r + gamma * discount * V of what is known of V, `[B]` to `[B]`.

        Returns:
            The target, and the share of it that was beyond the range, where it is clipped.
        """
        if self.kind == "hl_gauss":
            target = backup(aggregate(self.values(outputs)))
            is_clipped = (target < self.minimum) | (target > self.maximum)
            return self.histogram(target), {"critic/target_clipped": jnp.mean(is_clipped, dtype=jnp.float32)}
        values = self.values(outputs)
        # The aggregate's gradient is the critics' share in it, whichever it is.
        share = jax.grad(lambda values: jnp.sum(aggregate(values)))(values)
        probabilities = jnp.sum(share[..., None] * jax.nn.softmax(outputs), axis=0)
        locations = jax.vmap(lambda atom: backup(jnp.broadcast_to(atom, values.shape[1:])), out_axes=1)(self.atoms)
        is_clipped = (locations < self.minimum) | (locations > self.maximum)
        clipped = jnp.mean(jnp.sum(probabilities * is_clipped, axis=1))
        return self.project(locations, probabilities), {"critic/target_clipped": clipped}

    def histogram(self, target: Array) -> Array:
        """Returns the probabilities `[B, A]` of the bins around targets `[B]`, which are clipped to the range."""
        width = (self.maximum - self.minimum) / self.num_atoms
        # Edges in deviations from the target, counted in bins so that no precision is lost in a wide range.
        position = jnp.clip((target - self.minimum) / width, 0.0, float(self.num_atoms))
        edges = jnp.arange(self.num_atoms + 1, dtype=jnp.float32)
        mass = jax.lax.erf((edges[None] - position[:, None]) * (1.0 / (math.sqrt(2.0) * _SIGMA_IN_BINS)))
        return jnp.diff(mass, axis=1) / (mass[:, -1:] - mass[:, :1])

    def project(self, locations: Array, probabilities: Array) -> Array:
        """Shares the mass at locations `[B, A]`, clipped to the range, between the atoms beside them, `[B, A]`."""
        width = (self.maximum - self.minimum) / (self.num_atoms - 1)
        position = jnp.clip((locations - self.minimum) / width, 0.0, self.num_atoms - 1.0)
        atoms = jnp.arange(self.num_atoms, dtype=jnp.float32)
        share = jnp.maximum(1.0 - jnp.abs(position[:, :, None] - atoms[None, None, :]), 0.0)
        # Not summed over the innermost axis, for which the CPU's loop would not be vectorised.
        return jnp.sum(share * probabilities[:, :, None], axis=1)

    def loss(self, outputs: Array, target: Array) -> Array:
        """Returns the cross-entropy of logits `[C, B, A]` to probabilities `[B, A]`, averaged and summed likewise."""
        return -jnp.sum(jnp.mean(jnp.sum(target[None] * jax.nn.log_softmax(outputs), axis=-1), axis=1))


ValueHead = ScalarHead | CategoricalHead
