"""Proximal policy optimisation (Schulman et al., 2017, arXiv 1707.06347)."""

import jax.numpy as jnp
from flax import struct

from agents.actor_critic import ActorCritic
from agents.on_policy import OnPolicyAgent, OnPolicyState
from remac.estimators.generalized import generalized_advantages
from remac.hyperparameters import flag, integer, number, redeclared
from remac.policies.networks import outputs_of
from remac.training.experience import Rollout
from remac.types import Array, Metrics, Transition


@struct.dataclass
class PPO(OnPolicyAgent):
    """Maximises the clipped surrogate of the advantage over epochs of shuffled minibatches of one rollout.

    The gradient steps are those of ``OnPolicyAgent``. A is the generalised advantage (arXiv 1506.02438), normalised
    within the minibatch, and R = A + V. Time limits bootstrap from the true last observation.
    """

    gamma: Array = redeclared(ActorCritic, "gamma", 0.99)
    gae_lambda: Array = number(0.95, "lambda of the generalised advantage", 0, 1).field()
    rollout_length: int = integer(128, "T, steps of every environment between two updates").field()
    normalize_advantages: bool = flag(True, "whether advantages have mean 0 and deviation 1 in a minibatch").field()

    @property
    def experience(self) -> Rollout:
        """What the agent learns from."""
        least = 2 if self.normalize_advantages else 1  # of one step the advantage less its mean is 0
        return Rollout(self.rollout_length, self.num_minibatches, on_policy=True, least_minibatch=least)

    def rows(self, state: OnPolicyState, experience: Transition) -> tuple[dict[str, Array], Metrics]:
        """Returns observations, generalised advantages, and what the value function learns towards, `[T, E, ...]`."""
        observation = self._normalize(state, experience.observation)
        next_observation = self._normalize(state, experience.next_observation)
        value, next_value = (
            outputs_of(self.value_network, state.value, self.of_critics(at)) for at in (observation, next_observation)
        )
        advantage = generalized_advantages(
            experience.reward,
            experience.discount,
            experience.ended(),
            value,
            next_value,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
        )
        target = advantage + value
        weight = jnp.ones_like(target)
        return {"observation": observation, "advantage": advantage, "target": target, "weight": weight}, {}

    def advantage(self, batch: dict[str, Array]) -> Array:
        """Returns the advantages `[B]`, normalised within the minibatch or as they are."""
        advantage = batch["advantage"]
        if not self.normalize_advantages:
            return advantage
        return (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
