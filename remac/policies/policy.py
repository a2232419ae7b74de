"""A policy by itself: parameters, normaliser and shapes; what is saved with a run and loaded without one."""

import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util

from remac.files import write_whole
from remac.policies import normalization
from remac.policies.distributions import TanhGaussian
from remac.policies.networks import PolicyNetwork
from remac.policies.normalization import RunningStatistics
from remac.types import Array, Key, PyTree

_SHAPE_FILE = "policy.json"
_ARRAY_FILE = "arrays.npz"
_STATIC_FIELDS = ("observation_size", "action_size", "hidden_sizes", "activation", "normalize_observations")


@struct.dataclass
class Policy:
    """A tanh-Gaussian policy over raw observations.

    Attributes:
        parameters: Of ``remac.policies.networks.PolicyNetwork``.
        normalizer: Moments of the observations seen in training.
        observation_size: obs_dim.
        action_size: action_dim.
        hidden_sizes: Width of each hidden layer.
        activation: Name in ``remac.policies.networks.ACTIVATIONS``.
        normalize_observations: Whether the network sees normalised observations.
    """

    parameters: PyTree
    normalizer: RunningStatistics
    observation_size: int = struct.field(pytree_node=False)
    action_size: int = struct.field(pytree_node=False)
    hidden_sizes: tuple[int, ...] = struct.field(pytree_node=False)
    activation: str = struct.field(pytree_node=False)
    normalize_observations: bool = struct.field(pytree_node=False)

    def distribution(self, observation: Array) -> TanhGaussian:
        """Returns the distribution of actions at raw observations `[..., obs_dim]`."""
        if self.normalize_observations:
            observation = normalization.normalize(self.normalizer, observation)
        network = PolicyNetwork(self.action_size, self.hidden_sizes, self.activation)
        distribution: TanhGaussian = network.apply(self.parameters, observation)  # type: ignore[assignment]
        return distribution

    def __call__(self, observation: Array, key: Key | None = None) -> Array:
        """Returns actions in [-1, 1], `[..., action_dim]`: samples with a key (consumed), the mode without."""
        distribution = self.distribution(jnp.asarray(observation))
        return distribution.mode() if key is None else distribution.sample(key, 1)[0][0]


def save_policy(policy: Policy, directory: Path | str) -> None:
    """Writes a policy as arrays and JSON into a directory, which is made; no file is ever there in part."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    shape = {field: getattr(policy, field) for field in _STATIC_FIELDS}
    write_whole(directory / _SHAPE_FILE, (json.dumps(shape, indent=2) + "\n").encode())
    parameters = traverse_util.flatten_dict(policy.parameters, sep="/")
    normalizer = {f"normalizer/{name}": getattr(policy.normalizer, name) for name in _normalizer_fields()}
    arrays = {name: np.asarray(value) for name, value in (parameters | normalizer).items()}
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_whole(directory / _ARRAY_FILE, content.getvalue())


def load_policy(directory: Path | str) -> Policy:
    """Loads the policy of a run.

    Loading reads arrays and JSON only; it never runs code.

    Args:
        directory: A run directory, or its ``policy`` folder.

    Raises:
        FileNotFoundError: If the directory holds no policy.
        ValueError: If its files are not those of a policy.
    """
    directory = Path(directory)
    if not (directory / _SHAPE_FILE).exists():
        directory = directory / "policy"
    if not (directory / _SHAPE_FILE).exists():
        raise FileNotFoundError(f"{directory.parent}: holds no policy (no {_SHAPE_FILE} in it or in policy/)")
    try:
        shape: dict[str, Any] = json.loads((directory / _SHAPE_FILE).read_text())
        shape["hidden_sizes"] = tuple(shape["hidden_sizes"])
        with np.load(directory / _ARRAY_FILE, allow_pickle=False) as archive:
            arrays = {name: jnp.asarray(archive[name]) for name in archive.files}
        normalizer = RunningStatistics(*(arrays.pop(f"normalizer/{name}") for name in _normalizer_fields()))
        policy = Policy(traverse_util.unflatten_dict(arrays, sep="/"), normalizer, **shape)
        jax.eval_shape(policy, jax.ShapeDtypeStruct((policy.observation_size,), jnp.float32))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{directory}: not a readable policy ({reason})") from error
    return policy


def _normalizer_fields() -> tuple[str, ...]:
    return tuple(RunningStatistics.__dataclass_fields__)
