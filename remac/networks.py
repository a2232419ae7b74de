"""Flax networks: the policy, and an ensemble of critics evaluated together."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from remac.distributions import TanhGaussian
from remac.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "relu": nn.relu,
    "swish": nn.swish,
    "tanh": nn.tanh,
}
LOG_STD_RANGE = (-10.0, 2.0)


class PolicyNetwork(nn.Module):
    """Multi-layer perceptron with a mean and a log-standard-deviation head.

    Attributes:
        action_size: action_dim.
        hidden_sizes: Width of each hidden layer.
        activation: Name in ``ACTIVATIONS``.
    """

    action_size: int
    hidden_sizes: Sequence[int]
    activation: str

    @nn.compact
    def __call__(self, observation: Array) -> TanhGaussian:
        """Maps normalised observations `[..., obs_dim]` to a distribution over actions `[..., action_dim]`."""
        features = observation
        for index, width in enumerate(self.hidden_sizes):
            features = ACTIVATIONS[self.activation](nn.Dense(width, name=f"hidden_{index}")(features))
        mean = nn.Dense(self.action_size, name="mean")(features)
        log_std = nn.Dense(self.action_size, name="log_std")(features)
        return TanhGaussian(mean, jnp.clip(log_std, *LOG_STD_RANGE))


class CriticNetworks(nn.Module):
    """Ensemble of C independent action-value networks on concat(observation, action).

    The first layer's product is split in its observation and its action part, so that the observation's part is
    computed once per state however many actions are valued there.

    Attributes:
        num_critics: C.
        hidden_sizes: Width of each hidden layer.
        activation: Name in ``ACTIVATIONS``.
    """

    num_critics: int
    hidden_sizes: Sequence[int]
    activation: str

    @nn.compact
    def __call__(self, observation: Array, action: Array) -> Array:
        """Values actions at states.

        Args:
            observation: Normalised, `[B, obs_dim]`.
            action: `[N, B, action_dim]`: N actions for each state.

        Returns:
            Q-values `[C, N, B]`.
        """
        num_samples, batch_size, action_size = action.shape
        obs_size = observation.shape[-1]
        widths = (obs_size + action_size, *self.hidden_sizes, 1)
        kernel_init = nn.initializers.lecun_normal(batch_axis=(0,))
        layers = [
            (
                self.param(f"kernel_{i}", kernel_init, (self.num_critics, fan_in, fan_out)),
                self.param(f"bias_{i}", nn.initializers.zeros_init(), (self.num_critics, fan_out)),
            )
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths))
        ]
        activate = ACTIVATIONS[self.activation]
        flat_action = action.reshape(num_samples * batch_size, action_size)

        def value(params: list[tuple[Array, Array]]) -> Array:
            (kernel, bias), *rest = params
            from_observation = observation @ kernel[:obs_size] + bias[None]
            from_action = (flat_action @ kernel[obs_size:]).reshape(num_samples, batch_size, -1)
            features = (from_observation[None] + from_action).reshape(num_samples * batch_size, -1)
            for kernel, bias in rest:
                features = activate(features) @ kernel + bias[None]
            return features.reshape(num_samples, batch_size)

        # A Python loop, not vmap: on the CPU XLA runs a batched matrix product far below the rate of single ones.
        return jnp.stack([value(jax.tree.map(lambda leaf, i=i: leaf[i], layers)) for i in range(self.num_critics)])
