"""The policy's network: what is done with its variables, in JAX alone, so that a saved policy needs no more."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp

from remac.machine import on_accelerator
from remac.policies import norms
from remac.policies.distributions import ClippedGaussian, Distribution, TanhGaussian
from remac.policies.norms import NORMS, STATISTICS, Moments
from remac.types import Array, Metrics, PyTree

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
    "tanh": jnp.tanh,
}
LOG_STD_RANGE = (-10.0, 2.0)


def _within_by_tanh(value: Array, low: float, high: float) -> Array:
    centre, radius = (low + high) / 2, (high - low) / 2
    return centre + radius * jnp.tanh((value - centre) / radius)


LOG_STD_BOUNDS: dict[str, Callable[[Array, float, float], Array]] = {
    # Without a gradient beyond the range: a policy whose deviation has come to its floor, exp(-10), stays there.
    "clip": jnp.clip,
    # The range is approached and never reached; the slope is 1 at its centre.
    "tanh": _within_by_tanh,
}
HEADS = ("tanh_gaussian", "clipped_gaussian")
PRECISIONS = ("default", "high", "highest")


@dataclasses.dataclass(frozen=True)
class PolicyNetwork:
    """Multi-layer perceptron whose head is a distribution of actions.

    Attributes:
        action_size: action_dim.
        hidden_sizes: Width of each hidden layer.
        activation: Name in ``ACTIVATIONS``.
        head: With ``tanh_gaussian`` the network gives mean and log standard deviation of ``TanhGaussian``; with
            ``clipped_gaussian`` the mean of ``ClippedGaussian``, whose standard deviation is not learned: it is the
            variable ``noise`` of the collection ``constants``.
        log_std_bounds: Name in ``LOG_STD_BOUNDS``.
        log_std_max: Upper bound; the lower one is that of ``LOG_STD_RANGE``.
        mean_max: Bound of the mean before tanh on either side, approached as by ``log_std_bounds=tanh``; None for none.
        norm: Of ``NORMS``; where they stand is said in ``CriticNetworks``.
        precision: Of the products, of ``PRECISIONS``.
    """

    action_size: int
    hidden_sizes: tuple[int, ...]
    activation: str
    head: str = HEADS[0]
    log_std_bounds: str = "clip"
    log_std_max: float = LOG_STD_RANGE[1]
    mean_max: float | None = None
    norm: str = NORMS[0]
    precision: str = PRECISIONS[0]

    def clone(self, **changes: Any) -> Self:
        """Returns the network with other attributes."""
        return dataclasses.replace(self, **changes)

    def apply(self, variables: PyTree, observation: Array) -> Distribution:
        """Maps normalised observations `[..., obs_dim]` to a distribution over `[..., action_dim]`."""
        return self._distribution(variables, observation, None)

    def apply_in_training(self, variables: PyTree, observation: Array) -> tuple[Distribution, PyTree]:
        """Maps observations as ``apply`` does, but ``norm=batch`` normalises by the batch.

        Returns:
            The distribution, and the collections that the pass moved: the running statistics of ``norm=batch``.
        """
        moments: dict[str, Moments] = {}
        distribution = self._distribution(variables, observation, moments)
        return distribution, {STATISTICS: norms.moved(variables[STATISTICS], moments)} if moments else {}

    def _distribution(self, variables: PyTree, observation: Array, moments: dict[str, Moments] | None) -> Distribution:
        """Returns the distribution, and where there are moments to be filled is in training."""
        parameters, statistics = variables["params"], variables.get(STATISTICS, {})

        def dense(name: str, features: Array) -> Array:
            return affine(parameters[name]["kernel"], parameters[name]["bias"], features)

        def affine(kernel: Array, bias: Array, features: Array) -> Array:
            products = (((features.ndim - 1,), (0,)), ((), ()))
            features = jax.lax.dot_general(features, kernel, products, precision=self.precision)
            return features + bias.reshape((1,) * (features.ndim - 1) + bias.shape)

        def batch_norm(index: int, features: Array) -> Array:
            if self.norm != "batch":
                return features
            norm = norms.read(parameters, statistics, f"norm_{index}")
            if moments is None:
                return norms.running_norm(norm, features)
            features, moments[f"norm_{index}"] = norms.batch_renorm(norm, statistics["steps"], features)
            return features

        features = batch_norm(0, observation)
        for index in range(len(self.hidden_sizes)):
            features = dense(f"hidden_{index}", features)
            if self.norm == "layer":
                features = norms.layer_norm(norms.read(parameters, {}, f"norm_{index + 1}"), features)
            features = batch_norm(index + 1, ACTIVATIONS[self.activation](features))
        if self.head == "clipped_gaussian":
            return ClippedGaussian(jnp.tanh(dense("mean", features)), variables["constants"]["noise"])
        if on_accelerator():  # one product takes less time there than two
            heads = [parameters["mean"], parameters["log_std"]]
            kernel, bias = (jnp.concatenate([head[name] for head in heads], axis=-1) for name in ("kernel", "bias"))
            mean, log_std = jnp.split(_summed_once(affine(kernel, bias, features)), 2, axis=-1)
        else:
            mean, log_std = dense("mean", features), dense("log_std", features)
        if self.mean_max is not None:
            mean = _within_by_tanh(mean, -self.mean_max, self.mean_max)
        keep_within = LOG_STD_BOUNDS[self.log_std_bounds]
        return TanhGaussian(mean, keep_within(log_std, LOG_STD_RANGE[0], self.log_std_max))

    def gradient_metrics(self, gradient: PyTree) -> Metrics:
        """Returns what the gradient of a loss by this network's parameters says of the standard deviation.

        ``actor/log_std_gradient`` is the derivative by the bias of its head; ``actor/raises_std`` whether that is below
        zero.
        """
        if self.head != "tanh_gaussian":
            return {}
        log_std_gradient = jnp.mean(gradient["log_std"]["bias"])
        return {
            "actor/log_std_gradient": log_std_gradient,
            "actor/raises_std": (log_std_gradient < 0).astype(jnp.float32),
        }


@jax.custom_vjp
def _summed_once(outputs: Array) -> Array:
    """Returns the outputs, whose gradient XLA then sums up once and not again in everything that is made of it."""
    return outputs


_summed_once.defvjp(lambda outputs: (outputs, None), lambda _, gradient: (jax.lax.optimization_barrier(gradient),))
