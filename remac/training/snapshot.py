"""A training as it stands, taken apart into plain arrays by member, and put together again.

A member's arrays do not say how many others there were, on how many devices: the members of a population can go on
alone, and runs that were made alone as a population.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from remac.training.devices import SPLIT, MemberSplit
from remac.training.functions import TrainState
from remac.types import EnvState, PyTree

Arrays = Mapping[str, np.ndarray]
REPLAY, SIZE, POSITION = "state/replay/storage/", "state/replay/size", "state/replay/position"
COUNTERS = ("rounds_done", "evaluated_round")


class MisfitError(ValueError):
    """Arrays that are not those of such a training; the message names the first that does not fit.

    Attributes:
        member: Whose array it is.
    """

    def __init__(self, message: str, member: int) -> None:
        """Stores both."""
        super().__init__(message)
        self.member = member

    def __reduce__(self) -> tuple[Any, ...]:
        """Says what it is made of, for pickling it."""
        return type(self), (str(self), self.member)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Everything that a training is between two rounds. It is valid until training goes on, since state is donated.

    Attributes:
        state: Agents, optimisers, normalisers, replay, keys and sums, leading axis `[places]`.
        env_state: Environments, leading axes `[places, E]`; NumPy's for suites on the host.
        rounds_done: Rounds of environment steps made.
        evaluated_round: Round of the last evaluation, -1 before the first.
        state_split: Which leaves of the state members have of their own.
    """

    state: TrainState
    env_state: EnvState
    rounds_done: int
    evaluated_round: int
    state_split: TrainState

    @property
    def num_replay_rows(self) -> int | None:
        """Rows of the replay in use, None without one."""
        return int(self.state.replay.size) if self.state.replay else None

    def member(self, index: int, *, replay: bool = True) -> dict[str, np.ndarray]:
        """Returns one member by itself, as arrays without a member axis.

        Args:
            index: Which one.
            replay: Whether to include the transitions; only rows in use are.
        """
        size = self.num_replay_rows
        arrays: dict[str, np.ndarray] = {name: np.asarray(getattr(self, name)) for name in COUNTERS}
        for name, leaf, is_split in self._named_leaves():
            if name.startswith(REPLAY):
                if replay:
                    arrays[name] = _to_host(leaf, index)[:size]
            else:
                arrays[name] = _to_host(leaf, index) if is_split else np.asarray(leaf)
        return arrays

    def restored(self, members: Sequence[Arrays], split: MemberSplit) -> "Snapshot":
        """Returns the snapshot that members' arrays were taken from; self gives structure, shapes and types.

        Without the transitions, the replay is empty. With them, self gives up its own, so that memory holds one replay;
        it may have more rows than the members' had.

        Args:
            members: What ``member`` returned for each, at the same round; read array by array.
            split: Of the population to be.

        Raises:
            MisfitError: If the arrays are not those of such a training.
        """
        counters = [[int(arrays.get(name, -1)) for name in COUNTERS] for arrays in members]
        for index, of_member in enumerate(counters):
            if of_member != counters[0]:
                raise MisfitError("is not at the same round as the first member", index)
        has_replay = any(name.startswith(REPLAY) for name in members[0])
        # A full ring in a larger one: its oldest row becomes the first, and the next goes behind the newest.
        size, position = (int(members[0].get(name, 0)) for name in (SIZE, POSITION))
        grows = any(name.startswith(REPLAY) and size < leaf.shape[1] for name, leaf, _ in self._named_leaves())
        turn = position if grows and position != size else None
        leaves, known = [], set(COUNTERS)
        for name, leaf, is_split in self._named_leaves():
            known.add(name)
            if name.startswith(REPLAY) and not has_replay:
                leaves.append(leaf)
            elif name in (SIZE, POSITION) and not has_replay:
                leaves.append(jnp.zeros_like(leaf))
            else:
                leaves.append(_assembled(name, leaf, is_split, members, split, turn or 0))
                if name == POSITION and turn is not None:
                    leaves[-1] = jnp.full_like(leaves[-1], size)
        for index, arrays in enumerate(members):
            for name in arrays:
                if name not in known:
                    raise MisfitError(f"{name}: this version has no such array", index)
        structure = jax.tree.structure((self.state, self.env_state))
        state, env_state = jax.tree.unflatten(structure, leaves)
        return Snapshot(state, env_state, counters[0][0], counters[0][1], self.state_split)

    def _named_leaves(self) -> list[tuple[str, jax.Array | np.ndarray, bool]]:
        """Returns every leaf's name, the leaf, and whether members have their own."""
        trees: list[tuple[str, PyTree, PyTree]] = [
            ("state", self.state, self.state_split),
            ("env_state", self.env_state, SPLIT),
        ]
        found = []
        for root, tree, specs in trees:
            whole = jax.tree.broadcast(specs, tree, is_leaf=lambda leaf: isinstance(leaf, type(SPLIT)))
            splits = jax.tree.leaves(whole, is_leaf=lambda leaf: isinstance(leaf, type(SPLIT)))
            for (path, leaf), spec in zip(jax.tree_util.tree_leaves_with_path(tree), splits, strict=True):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                found.append((f"{root}/{name}", leaf, spec == SPLIT))
        return found


def _is_key(leaf: jax.Array | np.ndarray) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: jax.Array | np.ndarray, index: int) -> np.ndarray:
    """Returns one member of a leaf; typed keys as the numbers they are made of."""
    if isinstance(leaf, np.ndarray):
        return leaf[index]
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    if len(leaf) == 1:
        return np.asarray(leaf)[0]
    for shard in leaf.addressable_shards:  # indexing the leaf itself would copy all of it to every device
        place = index - (shard.index[0].start or 0)
        if 0 <= place < len(shard.data):
            return np.asarray(_take(shard.data, place))
    raise IndexError(f"no device of this process holds member {index}")


@jax.jit
def _take(leaf: jax.Array, index: int) -> jax.Array:
    return leaf[index]


def _assembled(
    name: str, like: jax.Array | np.ndarray, is_split: bool, members: Sequence[Arrays], split: MemberSplit, turn: int
) -> jax.Array | np.ndarray:
    """Stacks the members' arrays to a leaf like the given one, on the same devices.

    Every array is read when its place is filled. Transitions take the place of those of the given leaf, from row
    ``turn`` on, the rows before it last.
    """
    data = jax.random.key_data(like) if _is_key(like) else like
    whole_shape, dtype = data.shape, data.dtype
    shape = whole_shape[1:] if is_split else whole_shape
    is_replay = name.startswith(REPLAY)

    def read(index: int) -> np.ndarray:
        array = members[index].get(name)
        if array is None:
            raise MisfitError(f"{name}: is missing", index)
        fits = array.shape[1:] == shape[1:] and len(array) <= shape[0] if is_replay else array.shape == shape
        if array.dtype != dtype or not fits:
            raise MisfitError(f"{name}: is {array.dtype}{list(array.shape)} and must be {dtype}{list(shape)}", index)
        return array

    def fill(slices: tuple[slice, ...] | None) -> np.ndarray:
        places = range(split.num_places)[slices[0] if slices else slice(None)]
        part = np.zeros((len(places), *shape), dtype)
        for row, place in enumerate(places):
            array = read(min(place, len(members) - 1))  # as ``MemberSplit.place`` fills places
            filled: tuple[int | slice, ...] = (row, *(slice(length) for length in array.shape))
            part[filled] = np.roll(array, -turn, axis=0) if is_replay and turn else array
        return part

    if not is_split:
        first = read(0)
        for index in range(1, len(members)):
            if not np.array_equal(read(index), first):
                raise MisfitError(f"{name}: is not the same for all members", index)
        return jnp.asarray(first)
    if isinstance(data, np.ndarray):
        return fill(None)
    sharding = data.sharding
    if is_replay:
        data.delete()
    placed = jax.make_array_from_callback(whole_shape, sharding, fill)
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like)) if _is_key(like) else placed
