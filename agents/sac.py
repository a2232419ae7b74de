"""Soft actor-critic (Haarnoja et al., 2018, arXiv 1812.05905)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import optax
from flax import struct

from agents.actor_critic import AgentState, StochasticActorCritic
from remac.hyperparameters import Hyperparameter, anything, number
from remac.types import Array, Metrics, PyTree
from remac.validation import InvalidValueError, require_number


@struct.dataclass
class Temperature:
    """The entropy temperature as it is learned.

    Attributes:
        log_value: Its logarithm, scalar.
        optimizer: State of its optimiser.
    """

    log_value: Array
    optimizer: optax.OptState


@struct.dataclass
class SAC(StochasticActorCritic):
    """Maximises the return plus temperature times the policy's entropy.

    Actor: E[min_c Q_c(s, a) - temperature * log pi(a|s)], one action per state. Next value:
    min_c Q_c(s', a') - temperature * log pi(a'|s'). With ``temperature=auto`` the temperature follows the gradient of
    log(temperature) * (entropy - target_entropy) (eq. 18, in the logarithm), starting at 1; ``fixed:0.2`` holds it.

    Attributes:
        fixed_temperature: The temperature where it is held.
        learn_temperature: Whether the temperature is adapted.
    """

    fixed_temperature: Array = struct.field(default=1.0)
    target_entropy: Array = number(
        None, "entropy that an adapted temperature aims at, in nats; null: -action_dim"
    ).field()
    learn_temperature: bool = struct.field(pytree_node=False, default=True)

    ARGUMENTS: ClassVar[dict[str, Hyperparameter]] = {
        "temperature": anything("auto", "temperature of the entropy bonus", "auto, or fixed:<number of at least 0>"),
    }

    @classmethod
    def make_fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the temperature's fields."""
        fixed = _parse_temperature(values["temperature"])
        fields = super().make_fields(values) | {"learn_temperature": fixed is None}
        if fields["target_entropy"] is None:
            fields["target_entropy"] = -float(values["action_size"])
        return fields | {"fixed_temperature": 1.0 if fixed is None else fixed}

    def init_extra(self, policy: PyTree) -> Temperature:
        """Starts the temperature at 1."""
        log_temperature = jnp.zeros(())
        return Temperature(log_temperature, self._make_critic_optimizer().init(log_temperature))

    def num_actor_samples(self) -> int:
        """Returns 1."""
        return 1

    def actor_objective(self, state: AgentState, q_values: Array, log_prob: Array) -> Array:
        """Returns the soft value of the sampled action at each state, `[B]`."""
        return self.sample_value(state, q_values[0], log_prob[0])

    def sample_value(self, state: AgentState, q_value: Array, log_prob: Array) -> Array:
        """Returns q - temperature * log_prob, `[B]`."""
        return q_value - self.temperature(state) * log_prob

    def temperature(self, state: AgentState) -> Array:
        """Returns the entropy temperature, scalar."""
        return jnp.exp(state.extra.log_value) if self.learn_temperature else self.fixed_temperature

    def update_extra(self, state: AgentState, actor_metrics: Metrics) -> AgentState:
        """Moves the temperature up where the entropy is below its target, and down where it is above."""
        if not self.learn_temperature:
            return state
        gradient = actor_metrics["actor/entropy"] - self.target_entropy
        updates, optimizer = self._make_critic_optimizer().update(gradient, state.extra.optimizer)
        temperature = Temperature(optax.apply_updates(state.extra.log_value, updates), optimizer)
        return dataclasses.replace(state, extra=temperature)

    def extra_metrics(self, state: AgentState) -> Metrics:
        """Returns the temperature."""
        return {"temperature": jnp.asarray(self.temperature(state), jnp.float32)}


def _parse_temperature(text: str) -> float | None:
    allowed = "must be auto or fixed:<number of at least 0>, for example fixed:0.2"
    if text == "auto":
        return None
    kind, _, number = str(text).partition(":")
    try:
        value = float(number)
        require_number("temperature", value, 0)
    except ValueError:
        value = -1.0
    if kind != "fixed" or value < 0:
        raise InvalidValueError("temperature", text, allowed)
    return value
