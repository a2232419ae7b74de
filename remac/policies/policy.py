"""A policy by itself: parameters, normaliser and shapes; what is saved with a run and loaded without one."""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from remac.files import write_whole
from remac.policies import normalization
from remac.policies.distributions import Distribution
from remac.policies.normalization import RunningStatistics
from remac.policies.policy_network import PolicyNetwork
from remac.types import AnyArray, Array, Key, PyTree

_SHAPE_FILE = "policy.json"
_ARRAY_FILE = "arrays.npz"
_ENV_STEPS = "env_steps"
_OWN_FIELDS = ("observation_size", "normalize_observations")
_NETWORK_FIELDS = tuple(field.name for field in dataclasses.fields(PolicyNetwork))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy over raw observations.

    Attributes:
        parameters: Variables of the network.
        normalizer: Moments of the observations seen in training.
        observation_size: obs_dim.
        network: Says how a distribution of actions is found.
        normalize_observations: Whether the network sees normalised observations.
    """

    parameters: PyTree
    normalizer: RunningStatistics
    observation_size: int = dataclasses.field(metadata={"static": True})
    network: PolicyNetwork = dataclasses.field(metadata={"static": True})
    normalize_observations: bool = dataclasses.field(metadata={"static": True})

    def distribution(self, observation: Array) -> Distribution:
        """Returns the distribution of actions at raw observations `[..., obs_dim]`.

        Raises:
            ValueError: The last axis is not of that size.
        """
        if observation.shape[-1:] != (self.observation_size,):
            raise ValueError(f"observations are {list(observation.shape)}; must be [..., {self.observation_size}]")
        if self.normalize_observations:
            observation = normalization.normalize(self.normalizer, observation)
        return self.network.apply(self.parameters, observation)

    def __call__(self, observation: AnyArray, key: Key | None = None) -> Array:
        """Returns actions in [-1, 1], `[..., action_dim]`: samples with a key (consumed), the mode without."""
        distribution = self.distribution(jnp.asarray(observation))
        return distribution.mode() if key is None else distribution.sample(key, 1)[0][0]


def save_policy(policy: Policy, directory: Path | str, *, env_steps: int | None = None) -> None:
    """Writes a policy as arrays and JSON into a directory, which is made; no file is ever there in part.

    Args:
        policy: What is saved.
        directory: Where to.
        env_steps: How long it was trained, for ``saved_env_steps``.

    Raises:
        OSError: If a file cannot be written.
        ValueError: If it is not one policy, but those of a population.
    """
    if np.ndim(policy.normalizer.count):
        first = "jax.tree.map(lambda leaf: leaf[0], policies)"
        raise ValueError(f"these are several policies; of a population, save one member at a time, such as {first}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    shape = {field: getattr(policy, field) for field in _OWN_FIELDS}
    shape |= {field: getattr(policy.network, field) for field in _NETWORK_FIELDS}
    write_whole(directory / _SHAPE_FILE, (json.dumps(shape, indent=2) + "\n").encode())
    parameters = _flatten(policy.parameters)
    normalizer = {f"normalizer/{name}": getattr(policy.normalizer, name) for name in _normalizer_fields()}
    arrays = {name: np.asarray(value) for name, value in (parameters | normalizer).items()}
    if env_steps is not None:
        arrays[_ENV_STEPS] = np.asarray(env_steps, np.int64)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # no name is allow_pickle
    write_whole(directory / _ARRAY_FILE, content.getvalue())


def saved_env_steps(directory: Path | str) -> int | None:
    """Returns how long the policy of a run was trained; None where ``save_policy`` was not told.

    Raises:
        FileNotFoundError: If the directory, or its ``policy`` folder, holds no policy.
    """
    with np.load(_folder(directory) / _ARRAY_FILE, allow_pickle=False) as archive:
        return int(archive[_ENV_STEPS]) if _ENV_STEPS in archive.files else None


def load_policy(directory: Path | str) -> Policy:
    """Loads the policy of a run.

    Loading reads arrays and JSON only; it never runs code.

    Args:
        directory: A run directory, or its ``policy`` folder.

    Raises:
        FileNotFoundError: If the directory holds no policy.
        ValueError: If its files are not those of a policy.
    """
    directory = _folder(directory)
    try:
        shape: dict[str, Any] = json.loads((directory / _SHAPE_FILE).read_text())
        shape["hidden_sizes"] = tuple(shape["hidden_sizes"])
        with np.load(directory / _ARRAY_FILE, allow_pickle=False) as archive:
            arrays = {name: jnp.asarray(archive[name]) for name in archive.files if name != _ENV_STEPS}
        known = {
            name: arrays.pop(f"normalizer/{name}") for name in _normalizer_fields() if f"normalizer/{name}" in arrays
        }
        known["count"] = known["count"].astype(jnp.int32)
        # Older files have no rests, and their count is a float.
        rests = {f"{name}_rest": jnp.zeros_like(known[name]) for name in ("mean", "sum_squares")}
        normalizer = RunningStatistics(**(rests | known))
        network = PolicyNetwork(**{field: shape.pop(field) for field in _NETWORK_FIELDS if field in shape})
        policy = Policy(_unflatten(arrays), normalizer, network=network, **shape)
        action = jax.eval_shape(policy, jax.ShapeDtypeStruct((policy.observation_size,), jnp.float32))
        if action.shape != (network.action_size,):
            raise ValueError(f"its actions are {list(action.shape)}, and not [{network.action_size}]")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{directory}: not a readable policy ({reason})") from error
    return policy


def _folder(directory: Path | str) -> Path:
    """Returns the folder of a policy: the directory given, or ``policy`` in it."""
    for folder in (Path(directory), Path(directory) / "policy"):
        if (folder / _SHAPE_FILE).exists():
            return folder
    raise FileNotFoundError(f"{directory}: holds no policy (no {_SHAPE_FILE} in it or in policy/)")


def _normalizer_fields() -> tuple[str, ...]:
    return tuple(RunningStatistics.__dataclass_fields__)


def _flatten(tree: PyTree, prefix: str = "") -> dict[str, Array]:
    """Returns the arrays of nested dictionaries by their paths, as of files."""
    flat: dict[str, Array] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _unflatten(flat: Mapping[str, Array]) -> PyTree:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return tree
