"""A policy as plain steps on arrays, of which files in several formats are made."""

from typing import NamedTuple

import jax
import numpy as np

from remac.policies import normalization, norms
from remac.policies.policy import Policy

Operand = np.ndarray | np.floating


class Step(NamedTuple):
    """Something that is done to features `[..., W]`.

    Attributes:
        name: Of ``numpy_policy.STEPS``, which says what is done.
        arrays: Its other arguments there, float32.
    """

    name: str
    arrays: tuple[Operand, ...] = ()


class ActionRange(NamedTuple):
    """What actions -1 and 1 are in the task's own units, float32 `[action_dim]` each."""

    low: np.ndarray
    high: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Action 0."""
        return (self.high + self.low) / 2

    @property
    def half(self) -> np.ndarray:
        """From action 0 to action 1."""
        return (self.high - self.low) / 2


def make_steps(policy: Policy, action_range: ActionRange) -> list[Step]:
    """Returns what leads from a raw observation `[..., obs_dim]` to the mean action in the task's own units.

    Nothing is folded into the weights, so that each step rounds as the policy itself does.
    """
    network, variables = policy.network, jax.device_get(policy.parameters)
    parameters, statistics = variables["params"], variables.get(norms.STATISTICS, {})

    def dense(name: str) -> Step:
        return Step("dense", (parameters[name]["kernel"], parameters[name]["bias"]))

    def running_norm(index: int) -> Step:
        scale, bias = (parameters[f"norm_{index}_{of}"] for of in ("scale", "bias"))
        mean, variance = (statistics[f"norm_{index}_{of}"] for of in ("mean", "variance"))
        return Step("shift_scale", (mean, scale / np.sqrt(variance + np.float32(norms.BATCH_EPSILON)), bias))

    steps = []
    if policy.normalize_observations:
        mean = np.asarray(policy.normalizer.mean)
        inverse = np.asarray(normalization.inverse_deviation(policy.normalizer))
        limit = np.float32(normalization.CLIP)
        steps += [Step("shift_scale", (mean, inverse, np.float32(0))), Step("clip", (-limit, limit))]
    if network.norm == "batch":
        steps.append(running_norm(0))
    for index in range(len(network.hidden_sizes)):
        steps.append(dense(f"hidden_{index}"))
        if network.norm == "layer":
            scale, bias = (parameters[f"norm_{index + 1}_{of}"] for of in ("scale", "bias"))
            steps.append(Step("layer_norm", (scale, bias, np.float32(norms.LAYER_EPSILON))))
        steps.append(Step(network.activation))
        if network.norm == "batch":
            steps.append(running_norm(index + 1))
    steps.append(dense("mean"))
    if network.mean_max is not None:
        most, zero = np.float32(network.mean_max), np.float32(0)
        steps += [Step("shift_scale", (zero, 1 / most, zero)), Step("tanh"), Step("shift_scale", (zero, most, zero))]
    to_range = Step("shift_scale", (np.float32(0), action_range.half, action_range.centre))
    return [*steps, Step("tanh"), to_range, Step("clip", tuple(action_range))]
