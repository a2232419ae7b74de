"""Soft actor-critic (Haarnoja et al., 2018, arXiv 1812.05905)."""

from typing import Any, Self

import jax.numpy as jnp
import optax
from flax import struct

from agents.actor_critic import ActorCritic, AgentState
from remac.types import Array, Metrics
from remac.validation import InvalidValueError, require_number


@struct.dataclass
class SAC(ActorCritic):
    """Maximises the return plus temperature times the policy's entropy.

    Actor: E[min_c Q_c(s, a) - temperature * log pi(a|s)], one action per state. Next value:
    min_c Q_c(s', a') - temperature * log pi(a'|s'). With ``temperature=auto`` the temperature follows the gradient of
    log(temperature) * (entropy - target_entropy) (eq. 18, in the logarithm), starting at 1; ``fixed:0.2`` holds it.

    Attributes:
        fixed_temperature: The temperature where it is held.
        target_entropy: Entropy that an adapted temperature aims at, in nats.
        learn_temperature: Whether the temperature is adapted.
    """

    fixed_temperature: Array = 1.0
    target_entropy: Array = 0.0
    learn_temperature: bool = struct.field(pytree_node=False, default=True)

    @classmethod
    def create(
        cls,
        observation_size: int,
        action_size: int,
        *,
        temperature: str = "auto",
        target_entropy: float | None = None,
        **hyperparameters: Any,
    ) -> Self:
        """Builds the agent; ``target_entropy`` is -action_dim unless given.

        Raises:
            InvalidValueError: Naming the hyperparameter, its value and what is allowed.
        """
        fixed = _parse_temperature(temperature)
        if target_entropy is None:
            target_entropy = -float(action_size)
        require_number("target_entropy", target_entropy)
        return super().create(
            observation_size,
            action_size,
            fixed_temperature=1.0 if fixed is None else fixed,
            target_entropy=target_entropy,
            learn_temperature=fixed is None,
            **hyperparameters,
        )

    def num_actor_samples(self) -> int:
        """Returns 1."""
        return 1

    def actor_objective(self, state: AgentState, q_values: Array, log_prob: Array) -> Array:
        """Returns the soft value of the sampled action at each state, `[B]`."""
        return self.next_value(state, q_values[0], log_prob[0])

    def next_value(self, state: AgentState, q_value: Array, log_prob: Array) -> Array:
        """Returns q - temperature * log_prob, `[B]`."""
        return q_value - self.temperature(state) * log_prob

    def temperature(self, state: AgentState) -> Array:
        """Returns the entropy temperature, scalar."""
        return jnp.exp(state.log_temperature) if self.learn_temperature else self.fixed_temperature

    def update_temperature(self, state: AgentState, entropy: Array) -> tuple[AgentState, Metrics]:
        """Moves the temperature up where the entropy is below its target, and down where it is above."""
        if self.learn_temperature:
            gradient = entropy - self.target_entropy
            updates, optimizer = self._critic_optimizer().update(gradient, state.temperature_optimizer)
            log_temperature = optax.apply_updates(state.log_temperature, updates)
            state = state.replace(log_temperature=log_temperature, temperature_optimizer=optimizer)
        return state, {"temperature": jnp.asarray(self.temperature(state), jnp.float32)}


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
