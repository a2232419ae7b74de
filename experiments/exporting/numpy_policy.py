"""A trained policy that needs nothing but NumPy: ``action = Policy("policy.npz")(observation)``.

Observations are raw, `[obs_dim]` or `[batch, obs_dim]`; actions are the mean actions in the task's own units,
`[action_dim]` or `[batch, action_dim]`. ``contract.json`` says which task it is, and which units and ranges.
"""

from collections.abc import Callable
from os import PathLike

import numpy as np


def _layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


STEPS: dict[str, Callable[..., np.ndarray]] = {
    "shift_scale": lambda x, subtracted, factor, added: (x - subtracted) * factor + added,
    "clip": np.clip,
    "dense": lambda x, kernel, bias: x @ kernel + bias,
    "layer_norm": _layer_norm,
    "elu": _elu,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "swish": lambda x: 0.5 * x * (1 + np.tanh(0.5 * x)),
    "tanh": np.tanh,
}


class Policy:
    """What is done to an observation, one step after the other, each with its arrays."""

    def __init__(self, path: str | PathLike[str] = "policy.npz") -> None:
        """Reads the steps; arrays only, so that reading never runs code."""
        with np.load(path, allow_pickle=False) as file:
            self.steps = [
                (STEPS[name], [file[key] for key in file.files if key.startswith(f"{number}_")])
                for number, name in enumerate(file["steps"])
            ]

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Returns the mean actions at raw observations."""
        x, size = np.asarray(observation, np.float32), self.steps[0][1][0].shape[0]
        if x.shape[-1:] != (size,):
            raise ValueError(f"observations are {list(x.shape)}; must be [..., {size}]")
        for step, arrays in self.steps:
            x = step(x, *arrays)
        return x
