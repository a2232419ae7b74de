"""Flax networks: an ensemble of critics evaluated together, values, and where a policy's variables come from."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from remac.machine import on_accelerator
from remac.policies import norms
from remac.policies.norms import NORMS, Moments, Norm
from remac.policies.policy_network import ACTIVATIONS, PRECISIONS, PolicyNetwork
from remac.policies.value_heads import Aggregate
from remac.types import Array, PyTree

# Features of so many rows, forwards and backwards, stay in a CPU core's cache.
_ROWS_IN_CACHE = 512


class PolicyParameters(nn.Module):
    """Declares the variables of a ``PolicyNetwork``, which says itself what is done with them.

    Its ``init`` returns variables by collection: ``params``, and what norm and head take besides. They are declared
    here so that acting with them takes no Flax.

    Attributes:
        network: The network.
    """

    network: PolicyNetwork

    @nn.compact
    def __call__(self, observation: Array) -> None:
        """Takes observations `[..., obs_dim]`, for their size."""
        network, features = self.network, observation
        if network.norm == "batch":
            norms.declare_steps(self)
            norms.declare(self, "batch", "norm_0", features.shape[-1:])
        for index, width in enumerate(network.hidden_sizes):
            features = nn.Dense(width, name=f"hidden_{index}")(features)
            if network.norm != "none":
                norms.declare(self, network.norm, f"norm_{index + 1}", (width,))
        nn.Dense(network.action_size, name="mean")(features)
        if network.head == "clipped_gaussian":
            self.variable("constants", "noise", jnp.zeros, ())
        else:
            nn.Dense(network.action_size, name="log_std")(features)


class ValueNetwork(nn.Module):
    """Multi-layer perceptron from observations to the value of being there.

    Attributes:
        hidden_sizes: Width of each hidden layer.
        activation: Name in ``ACTIVATIONS``.
        norm: ``none``, or ``layer``: every hidden layer's product is normalised before its activation.
        precision: Of the products, of ``PRECISIONS``.
        num_outputs: Numbers that are given; None for one, without an axis.
    """

    hidden_sizes: tuple[int, ...]
    activation: str
    norm: str = NORMS[0]
    precision: str = PRECISIONS[0]
    num_outputs: int | None = None

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        """Maps normalised observations `[..., obs_dim]` to values `[...]`, or `[..., num_outputs]`."""
        features = observation
        for index, width in enumerate(self.hidden_sizes):
            features = nn.Dense(width, name=f"hidden_{index}", precision=self.precision)(features)
            if self.norm == "layer":
                features = norms.layer_norm(norms.declare(self, "layer", f"norm_{index + 1}", (width,)), features)
            features = ACTIVATIONS[self.activation](features)
        outputs: Array = nn.Dense(self.num_outputs or 1, name="value", precision=self.precision)(features)
        return outputs[..., 0] if self.num_outputs is None else outputs


class CriticNetworks(nn.Module):
    """Ensemble of C independent action-value networks on concat(observation, action).

    The first layer's product is split in its observation and its action part, so that the observation's part is
    computed once per state however many actions are valued there.

    With ``norm=layer`` every hidden layer's product is normalised before its activation. With ``norm=batch`` the input
    and what follows each activation are, as in CrossQ (Bhatt et al., 2024, arXiv 1902.05605).

    Attributes:
        num_critics: C.
        hidden_sizes: Width of each hidden layer.
        activation: Name in ``ACTIVATIONS``.
        norm: Of ``NORMS``.
        num_outputs: Numbers that each critic gives; None for one, without an axis.
        precision: Of the products, of ``PRECISIONS``; for the actor they are always of the highest.
    """

    num_critics: int
    hidden_sizes: Sequence[int]
    activation: str
    norm: str = NORMS[0]
    num_outputs: int | None = None
    precision: str = PRECISIONS[0]

    @nn.compact
    def __call__(
        self, observation: Array, action: Array, *, for_actor: Aggregate | None = None, training: bool = False
    ) -> Array:
        """Judges actions at states.

        Args:
            observation: Normalised, `[B, obs_dim]`.
            action: `[N, B, action_dim]`: N actions for each state.
            for_actor: Makes one value `[n, B]` of the critics' outputs `[C, n, B, ...]`. Where it is given, gradients
                flow to the actions alone, and once; they are found together with the values, on the CPU in pieces that
                its cache holds.
            training: Whether ``norm=batch`` normalises by the batch and moves the running statistics, which then have
                to be mutable; for N = 1.

        Returns:
            Outputs `[C, N, B]`, or `[C, N, B, num_outputs]`; with ``for_actor`` `[N, B]`.
        """
        action_size, obs_size = action.shape[-1], observation.shape[-1]
        widths = (obs_size + action_size, *self.hidden_sizes, self.num_outputs or 1)
        kernel_init = nn.initializers.lecun_normal(batch_axis=(0,))
        layers = [
            (
                self.param(f"kernel_{i}", kernel_init, (self.num_critics, fan_in, fan_out)),
                self.param(f"bias_{i}", nn.initializers.zeros_init(), (self.num_critics, fan_out)),
            )
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths))
        ]
        first_norm = {"none": len(widths), "layer": 1, "batch": 0}[self.norm]
        all_norms = {
            f"norm_{i}": norms.declare(self, self.norm, f"norm_{i}", (self.num_critics, widths[i]))
            for i in range(first_norm, len(widths) - 1)
        }
        steps = norms.declare_steps(self) if self.norm == "batch" else None
        activate = ACTIVATIONS[self.activation]
        # Samples of a narrow policy differ in value by less than an accelerator's faster products resolve.
        precision = "highest" if for_actor is not None else self.precision
        dot = functools.partial(jnp.matmul, precision=precision)

        def make_output(
            params: list[tuple[Array, Array]], norm: dict[str, Norm]
        ) -> Callable[[Array], tuple[Array, dict[str, Moments]]]:
            (first_kernel, first_bias), *rest = params

            def batch_norm(index: int, features: Array, part: slice = slice(None)) -> tuple[Array, list[Moments]]:
                if steps is None:
                    return features, []
                of_part = jax.tree.map(lambda leaf: leaf[part], norm[f"norm_{index}"])
                if not training:
                    return norms.running_norm(of_part, features), []
                features, moments = norms.batch_renorm(of_part, steps, features)
                return features, [moments]

            if not on_accelerator():
                # Features are normalised each by itself, so observation and action can be apart.
                first, of_observation = batch_norm(0, observation, slice(obs_size))
                from_observation = dot(first, first_kernel[:obs_size]) + first_bias[None]

            def first_layer(action: Array) -> tuple[Array, list[Moments]]:
                num_samples, batch_size, _ = action.shape
                if on_accelerator():  # one product of all there is takes less time there than two of its parts
                    observations = jnp.broadcast_to(observation[None], (num_samples, *observation.shape))
                    rows = jnp.concatenate([observations, action], axis=-1).reshape(num_samples * batch_size, -1)
                    rows, moments = batch_norm(0, rows)
                    return dot(rows, first_kernel) + first_bias[None], moments
                rows, of_action = batch_norm(0, action.reshape(-1, action_size), slice(obs_size, None))
                from_action = dot(rows, first_kernel[obs_size:])
                features = from_action.reshape(num_samples, batch_size, -1) + from_observation[None]
                return features.reshape(num_samples * batch_size, -1), of_observation + of_action

            def output(action: Array) -> tuple[Array, dict[str, Moments]]:
                features, moments = first_layer(action)
                found = {"norm_0": moments}
                for index, (kernel, bias) in enumerate(rest, 1):
                    if self.norm == "layer":
                        features = norms.layer_norm(norm[f"norm_{index}"], features)
                    features, found[f"norm_{index}"] = batch_norm(index, activate(features))
                    features = dot(features, kernel) + bias[None]
                features = features.reshape(*action.shape[:2], *(() if self.num_outputs is None else (-1,)))
                return features, {
                    name: jax.tree.map(lambda *parts: jnp.concatenate(parts), *moments)
                    for name, moments in found.items()
                    if moments
                }

            return output

        if not on_accelerator():
            # A Python loop, not vmap: on the CPU XLA runs a batched matrix product far below the rate of single ones.
            critics = [
                make_output(*jax.tree.map(lambda leaf, i=i: leaf[i], (layers, all_norms)))
                for i in range(self.num_critics)
            ]

        def outputs(action: Array) -> tuple[Array, dict[str, Moments]]:
            if on_accelerator():
                # Actions of each critic's own make one batched product of every layer, without transposing the first.
                actions = jnp.broadcast_to(action[None], (self.num_critics, *action.shape))
                return jax.vmap(lambda layers, norm, action: make_output(layers, norm)(action))(
                    layers, all_norms, actions
                )
            each = [output(action) for output in critics]
            values, moments = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
            if moments:  # the critics' input is the same; XLA finds that out with some numbers of devices only
                of_input = each[0][1]["norm_0"]
                moments["norm_0"] = jax.tree.map(
                    lambda leaf: jnp.broadcast_to(leaf, (len(each), *leaf.shape)), of_input
                )
            return values, moments

        if for_actor is not None:
            return _value_with_gradient(lambda piece: for_actor(outputs(piece)[0]), action)
        result, moments = outputs(action)
        if moments:
            norms.put_statistics(self, moments)
        return result


def outputs_of(network: nn.Module, variables: PyTree, *arguments: Any, **options: Any) -> Array:
    """Returns what a network gives at some arguments, with variables that the pass leaves as they are."""
    outputs = network.apply(variables, *arguments, **options)
    assert not isinstance(outputs, tuple)  # which it is with what was moved
    return outputs


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
    if on_accelerator():
        return num_samples
    return math.gcd(num_samples, 2 ** int(math.log2(max(1, _ROWS_IN_CACHE // batch_size))))
