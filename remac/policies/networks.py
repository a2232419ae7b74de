"""Flax networks: the policy, and an ensemble of critics evaluated together."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from remac.policies.distributions import ClippedGaussian, Distribution, TanhGaussian
from remac.types import Array, Metrics, PyTree

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "relu": nn.relu,
    "swish": nn.swish,
    "tanh": nn.tanh,
}
Aggregate = Callable[[Array], Array]
LOG_STD_RANGE = (-10.0, 2.0)
_LOG_STD_CENTRE, _LOG_STD_RADIUS = sum(LOG_STD_RANGE) / 2, (LOG_STD_RANGE[1] - LOG_STD_RANGE[0]) / 2
LOG_STD_BOUNDS: dict[str, Callable[[Array], Array]] = {
    # Without a gradient beyond the range: a policy whose deviation has come to its floor, exp(-10), stays there.
    "clip": lambda log_std: jnp.clip(log_std, *LOG_STD_RANGE),
    # The range is approached and never reached; the slope is 1 at its centre.
    "tanh": lambda log_std: _LOG_STD_CENTRE + _LOG_STD_RADIUS * jnp.tanh((log_std - _LOG_STD_CENTRE) / _LOG_STD_RADIUS),
}
HEADS = ("tanh_gaussian", "clipped_gaussian")
# Features of so many rows, forwards and backwards, stay in a CPU core's cache.
_ROWS_IN_CACHE = 512


class PolicyNetwork(nn.Module):
    """Multi-layer perceptron whose head is a distribution of actions.

    Attributes:
        action_size: action_dim.
        hidden_sizes: Width of each hidden layer.
        activation: Name in ``ACTIVATIONS``.
        head: With ``tanh_gaussian`` the network gives mean and log standard deviation of ``TanhGaussian``; with
            ``clipped_gaussian`` the mean of ``ClippedGaussian``, whose standard deviation is not learned: it is the
            variable ``noise`` of the collection ``constants``.
        log_std_bounds: Name in ``LOG_STD_BOUNDS``.
    """

    action_size: int
    hidden_sizes: tuple[int, ...]
    activation: str
    head: str = HEADS[0]
    log_std_bounds: str = "clip"

    @nn.compact
    def __call__(self, observation: Array) -> Distribution:
        """Maps normalised observations `[..., obs_dim]` to a distribution over actions `[..., action_dim]`."""
        features = observation
        for index, width in enumerate(self.hidden_sizes):
            features = ACTIVATIONS[self.activation](nn.Dense(width, name=f"hidden_{index}")(features))
        mean = nn.Dense(self.action_size, name="mean")(features)
        if self.head == "clipped_gaussian":
            return ClippedGaussian(jnp.tanh(mean), self.variable("constants", "noise", jnp.zeros, ()).value)
        log_std = nn.Dense(self.action_size, name="log_std")(features)
        return TanhGaussian(mean, LOG_STD_BOUNDS[self.log_std_bounds](log_std))

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
    def __call__(self, observation: Array, action: Array, *, for_actor: Aggregate | None = None) -> Array:
        """Values actions at states.

        Args:
            observation: Normalised, `[B, obs_dim]`.
            action: `[N, B, action_dim]`: N actions for each state.
            for_actor: Makes one value `[n, B]` of the critics' `[C, n, B]`. Where it is given, gradients flow to the
                actions alone, and once; they are found together with the values, on the CPU in pieces that its cache
                holds.

        Returns:
            Q-values `[C, N, B]`; with ``for_actor`` `[N, B]`.
        """
        action_size, obs_size = action.shape[-1], observation.shape[-1]
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

        def make_value(params: list[tuple[Array, Array]]) -> Callable[[Array], Array]:
            (first_kernel, first_bias), *rest = params
            from_observation = observation @ first_kernel[:obs_size] + first_bias[None]

            def value(action: Array) -> Array:
                num_samples, batch_size, _ = action.shape
                from_action = action.reshape(-1, action_size) @ first_kernel[obs_size:]
                features = from_action.reshape(num_samples, batch_size, -1) + from_observation[None]
                features = features.reshape(num_samples * batch_size, -1)
                for kernel, bias in rest:
                    features = activate(features) @ kernel + bias[None]
                return features.reshape(num_samples, batch_size)

            return value

        # A Python loop, not vmap: on the CPU XLA runs a batched matrix product far below the rate of single ones.
        critics = [make_value(jax.tree.map(lambda leaf, i=i: leaf[i], layers)) for i in range(self.num_critics)]

        def values(action: Array) -> Array:
            return jnp.stack([value(action) for value in critics])

        if for_actor is None:
            return values(action)
        return _value_with_gradient(lambda piece: for_actor(values(piece)), action)


def _value_with_gradient(function: Callable[[Array], Array], action: Array) -> Array:
    """Evaluates a function of actions and, in the same pass, its gradient, for a backward pass to use.

    Args:
        function: From `[n, B, action_dim]` to `[n, B]`, each action by itself.
        action: `[N, B, action_dim]`.

    Returns:
        Values `[N, B]`.
    """

    def evaluate(piece: Array) -> tuple[Array, Array]:
        value, pullback = jax.vjp(function, piece)
        return value, pullback(jnp.ones_like(value))[0]

    num_samples, batch_size, action_size = action.shape
    pieces = jax.lax.stop_gradient(action).reshape(
        -1, _samples_per_piece(num_samples, batch_size), batch_size, action_size
    )
    value, gradient = jax.lax.map(evaluate, pieces) if len(pieces) > 1 else evaluate(pieces[0])
    return _attach_gradient(action, value.reshape(num_samples, batch_size), gradient.reshape(action.shape))


@jax.custom_vjp
def _attach_gradient(action: Array, value: Array, gradient: Array) -> Array:
    """Returns values `[N, B]` that have the given gradient by the actions, `[N, B, action_dim]`."""
    return value


def _attach_gradient_forward(action: Array, value: Array, gradient: Array) -> tuple[Array, Array]:
    return value, gradient


def _attach_gradient_backward(gradient: Array, cotangent: Array) -> tuple[Array, None, None]:
    return cotangent[..., None] * gradient, None, None


_attach_gradient.defvjp(_attach_gradient_forward, _attach_gradient_backward)


def _samples_per_piece(num_samples: int, batch_size: int) -> int:
    """Returns how many of N samples are worked on together: all on an accelerator, a divisor of N on the CPU."""
    if jax.default_backend() != "cpu":
        return num_samples
    return math.gcd(num_samples, 2 ** int(math.log2(max(1, _ROWS_IN_CACHE // batch_size))))
