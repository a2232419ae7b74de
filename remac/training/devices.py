"""Splits the members of a population over the local devices, or every member's batches; one device is the same code."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from remac.types import Array, Key, PyTree

Tree = TypeVar("Tree")

AXIS, BATCH_AXIS = "members", "batch"
SPLIT = PartitionSpec(AXIS)  # arrays with leading axis `[P]`: every device holds its own members
WHOLE = PartitionSpec()  # arrays that all members share: every device holds a copy


@dataclasses.dataclass(frozen=True)
class MemberSplit:
    """Gives every device the same number of members; copies of the last member fill the places that are left.

    Attributes:
        num_members: P.
        parts: With more than 1, instead so many devices have all members, and a part of each of their batches.
    """

    num_members: int
    parts: int = 1

    @property
    def num_places(self) -> int:
        """P, rounded up to a multiple of the devices in use."""
        return self._members_per_device * self.num_devices

    @property
    def num_devices(self) -> int:
        """Devices in use: as few as the fullest device's number of members allows."""
        return math.ceil(self.num_members / self._members_per_device)

    @property
    def _members_per_device(self) -> int:
        return self.num_members if self.parts > 1 else math.ceil(self.num_members / len(jax.local_devices()))

    @functools.cached_property
    def _mesh(self) -> Mesh:
        devices = np.array(jax.local_devices()[: self.num_devices * self.parts])
        return Mesh(devices[None], (AXIS, BATCH_AXIS)) if self.parts > 1 else Mesh(devices, (AXIS,))

    @functools.lru_cache(maxsize=64)  # noqa: B019  trainings of a kind share their programs
    def program(
        self, function: Callable[..., Any], inputs: Any, outputs: Any, donate: tuple[int, ...] = (), **static: Any
    ) -> Any:
        """Compiles a function of members so that every device runs it on the members it holds.

        Nothing passes between devices but by ``mean_over_parts``, since members do not depend on each other. Equal
        arguments give the same program, which is compiled once in a process.

        Args:
            function: Takes and returns pytrees; inside it, P is the number of members on one device.
            inputs: For every argument ``SPLIT``, ``WHOLE``, or a pytree of the two.
            outputs: Likewise for what it returns.
            donate: Numbers of the arguments whose memory may be reused.
            **static: Further arguments of the function, hashable.
        """
        bound = functools.partial(function, **static)
        mapped = jax.shard_map(bound, mesh=self._mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
        return jax.jit(mapped, in_shardings=self._shardings(inputs), donate_argnums=donate)

    def place(self, tree: PyTree) -> PyTree:
        """Fills the places and puts a pytree `[P, ...]` on the devices."""
        empty = self.num_places - self.num_members
        if empty:
            tree = jax.tree.map(
                lambda leaf: jax.numpy.concatenate([leaf, *[leaf[-1:]] * empty]), jax.tree.map(jax.numpy.asarray, tree)
            )
        return jax.device_put(tree, NamedSharding(self._mesh, SPLIT))

    def share(self, tree: PyTree) -> PyTree:
        """Puts a copy of a pytree that all members share on every device."""
        return jax.device_put(tree, NamedSharding(self._mesh, WHOLE))

    def members(self, tree: PyTree) -> PyTree:
        """Returns the P members of a pytree with leading axis `[places]`."""
        if self.num_places == self.num_members:
            return tree
        return jax.tree.map(lambda leaf: leaf[: self.num_members], tree)

    def _shardings(self, specs: Any) -> Any:
        return jax.tree.map(
            lambda spec: NamedSharding(self._mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
        )


def own_part(rows: Array) -> Array:
    """Returns this device's part of rows `[..., B]`, `[..., B / parts]`; all where a batch is whole."""
    if (parts := _num_parts()) == 1:
        return rows
    size = rows.shape[-1] // parts
    return jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index(BATCH_AXIS) * size, size, axis=-1)


def own_keys(keys: Key) -> Key:
    """Returns this device's own of keys that all devices have, which are consumed; all where a batch is whole."""
    if _num_parts() == 1:
        return keys
    part = jax.lax.axis_index(BATCH_AXIS)
    return jax.vmap(lambda key: jax.random.fold_in(key, part))(keys)


def mean_over_parts(tree: Tree) -> Tree:
    """Averages what devices have made of their parts of a batch, in one exchange; itself where a batch is whole."""
    if _num_parts() == 1:
        return tree
    flat, unflatten = ravel_pytree(tree)
    mean: Tree = unflatten(jax.lax.pmean(flat, BATCH_AXIS))
    return mean


def _num_parts() -> int:
    """Returns the number of devices that share the batches of what is being traced."""
    try:
        return jax.lax.axis_size(BATCH_AXIS)
    except NameError:  # no axis has that name
        return 1
