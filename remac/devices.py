"""Splits the members of a population over the local devices; one device is the same code with one part."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from remac.types import PyTree

AXIS = "members"
SPLIT = PartitionSpec(AXIS)  # arrays with leading axis `[P]`: every device holds its own members
WHOLE = PartitionSpec()  # arrays that all members share: every device holds a copy


class MemberSplit:
    """Gives every device the same number of members; copies of the last member fill the places that are left.

    Attributes:
        num_members: P.
        num_places: P, rounded up to a multiple of the devices in use.
        num_devices: Devices in use: as few as the fullest device's number of members allows.
    """

    def __init__(self, num_members: int) -> None:
        """Takes the number of members P."""
        devices = jax.local_devices()
        members_per_device = math.ceil(num_members / len(devices))
        self.num_members = num_members
        self.num_devices = math.ceil(num_members / members_per_device)
        self.num_places = members_per_device * self.num_devices
        self._mesh = Mesh(np.array(devices[: self.num_devices]), (AXIS,))

    def program(self, function: Callable[..., Any], inputs: Any, outputs: Any, donate: tuple[int, ...] = ()) -> Any:
        """Compiles a function of members so that every device runs it on the members it holds.

        Nothing passes between devices, since members do not depend on each other.

        Args:
            function: Takes and returns pytrees; inside it, P is the number of members on one device.
            inputs: For every argument ``SPLIT``, ``WHOLE``, or a pytree of the two.
            outputs: Likewise for what it returns.
            donate: Numbers of the arguments whose memory may be reused.
        """
        mapped = jax.shard_map(function, mesh=self._mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
        return jax.jit(mapped, in_shardings=self._shardings(inputs), donate_argnums=donate)

    def place(self, tree: PyTree) -> PyTree:
        """Fills the places and puts a pytree `[P, ...]` on the devices."""
        empty = self.num_places - self.num_members
        if empty:
            tree = jax.tree.map(
                lambda leaf: jax.numpy.concatenate([leaf, *[leaf[-1:]] * empty]), jax.tree.map(jax.numpy.asarray, tree)
            )
        return jax.device_put(tree, NamedSharding(self._mesh, SPLIT))

    def members(self, tree: PyTree) -> PyTree:
        """Returns the P members of a pytree with leading axis `[places]`."""
        if self.num_places == self.num_members:
            return tree
        return jax.tree.map(lambda leaf: leaf[: self.num_members], tree)

    def _shardings(self, specs: Any) -> Any:
        return jax.tree.map(
            lambda spec: NamedSharding(self._mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
        )
