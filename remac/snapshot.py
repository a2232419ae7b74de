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

from remac.devices import SPLIT, MemberSplit
from remac.training import TRAIN_STATE_SPLIT, TrainState
from remac.types import EnvState, PyTree

Arrays = dict[str, np.ndarray]
REPLAY = "state/replay/storage/"
COUNTERS = ("rounds_done", "evaluated_round")


class MisfitError(ValueError):
    """Arrays that are not those of such a training; the message names the first that does not fit."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Everything that a training is between two rounds. It is valid until training goes on, since state is donated.

    Attributes:
        state: Agents, optimisers, normalisers, replay, keys and sums, leading axis `[places]`.
        env_state: Environments, leading axes `[places, E]`; NumPy's for suites on the host.
        rounds_done: Rounds of environment steps made.
        evaluated_round: Round of the last evaluation, -1 before the first.
    """

    state: TrainState
    env_state: EnvState
    rounds_done: int
    evaluated_round: int

    def member(self, index: int, *, replay: bool = True) -> Arrays:
        """Returns one member by itself, as arrays without a member axis.

        Args:
            index: Which one.
            replay: Whether to include the transitions; only rows in use are.
        """
        size = int(self.state.replay.size)
        arrays = {name: np.asarray(getattr(self, name)) for name in COUNTERS}
        for name, leaf, is_split in _named_leaves(self.state, self.env_state):
            if name.startswith(REPLAY):
                if replay:
                    arrays[name] = _to_host(leaf, index)[:size]
            else:
                arrays[name] = _to_host(leaf, index) if is_split else np.asarray(leaf)
        return arrays

    def restored(self, members: Sequence[Mapping[str, np.ndarray]], split: MemberSplit) -> "Snapshot":
        """Returns the snapshot that members' arrays were taken from; self gives structure, shapes and types.

        Without the transitions, the replay is empty.

        Args:
            members: What ``member`` returned for each, at the same round.
            split: Of the population to be.

        Raises:
            MisfitError: If the arrays are not those of such a training.
        """
        counters = {tuple(int(arrays.get(name, -1)) for name in COUNTERS) for arrays in members}
        if len(counters) != 1:
            raise MisfitError("the members are not at the same round")
        has_replay = any(name.startswith(REPLAY) for name in members[0])
        leaves, known = [], set(COUNTERS)
        for name, leaf, is_split in _named_leaves(self.state, self.env_state):
            known.add(name)
            if name.startswith(REPLAY) and not has_replay:
                leaves.append(leaf)
            elif name in ("state/replay/size", "state/replay/position") and not has_replay:
                leaves.append(jnp.zeros_like(leaf))
            else:
                leaves.append(_assembled(name, leaf, is_split, [arrays.get(name) for arrays in members], split))
        for name in members[0]:
            if name not in known:
                raise MisfitError(f"{name}: this version has no such array")
        structure = jax.tree.structure((self.state, self.env_state))
        state, env_state = jax.tree.unflatten(structure, leaves)
        return Snapshot(state, env_state, *counters.pop())


def _named_leaves(state: TrainState, env_state: EnvState) -> list[tuple[str, jax.Array | np.ndarray, bool]]:
    """Returns every leaf's name, the leaf, and whether members have their own."""
    trees: list[tuple[str, PyTree, PyTree]] = [("state", state, TRAIN_STATE_SPLIT), ("env_state", env_state, SPLIT)]
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
    name: str,
    like: jax.Array | np.ndarray,
    is_split: bool,
    arrays: Sequence[np.ndarray | None],
    split: MemberSplit,
) -> jax.Array | np.ndarray:
    """Stacks the members' arrays to a leaf like the given one, on the same devices."""
    data = jax.random.key_data(like) if _is_key(like) else like
    shape = data.shape[1:] if is_split else data.shape
    for array in arrays:
        if array is None:
            raise MisfitError(f"{name}: is missing")
        rows = name.startswith(REPLAY)
        fits = array.shape[1:] == shape[1:] and len(array) <= shape[0] if rows else array.shape == shape
        if array.dtype != data.dtype or not fits:
            raise MisfitError(f"{name}: is {array.dtype}{list(array.shape)} and must be {data.dtype}{list(shape)}")
    if not is_split:
        if any(not np.array_equal(array, arrays[0]) for array in arrays[1:]):  # type: ignore[arg-type]
            raise MisfitError(f"{name}: is not the same for all members")
        return jnp.asarray(arrays[0])
    whole = np.zeros((split.num_places, *shape), data.dtype)
    for place in range(split.num_places):
        array = arrays[min(place, len(arrays) - 1)]  # as ``MemberSplit.place`` fills places
        filled: tuple[Any, ...] = (place, *(slice(length) for length in array.shape))  # type: ignore[union-attr]
        whole[filled] = array
    if isinstance(like, np.ndarray):
        return whole
    placed = jax.device_put(whole, data.sharding)  # type: ignore[union-attr]
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like)) if _is_key(like) else placed
