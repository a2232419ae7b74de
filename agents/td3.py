"""Twin delayed deep deterministic policy gradient (Fujimoto et al., 2018, arXiv 1802.09477)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents.actor_critic import ActorCritic, AgentState
from agents.base import SATURATED
from remac.hyperparameters import number, redeclared
from remac.policies.distributions import Distribution
from remac.policies.policy_network import PolicyNetwork
from remac.types import Array, Key, Metrics, PyTree, Transition


@struct.dataclass
class TD3(ActorCritic):
    """Deterministic actor that climbs the first critic, every ``actor_update_period`` gradient steps.

    Actor: E[Q_1(s, pi(s))]. Next value: min_c Q_c(s', a') of the target networks (or the mean: ``critic_aggregate``)
    at the target policy's action with clipped noise, a' = clip(pi(s') + clip(e, -c, c), -1, 1),
    e ~ Normal(0, ``target_noise``^2), c = ``target_noise_clip`` (target policy smoothing, eqs. 14 and 15). Actions in
    training are clip(pi(s) + e, -1, 1), e ~ Normal(0, ``exploration_noise``^2).

    Note: one update is the actor's step and then the critics', as for the other agents; in the source the critics'
    comes first. Target networks move every ``target_update_period`` steps, in the source as often as the actor. With
    ``policy_norm=batch`` the target policy reads the policy's running statistics.
    """

    actor_update_period: int = redeclared(ActorCritic, "actor_update_period", 2)
    target_update_period: Array = redeclared(ActorCritic, "target_update_period", 2)
    exploration_noise: Array = number(0.1, "standard deviation of the noise on actions in training", 0).field()
    target_noise: Array = number(0.2, "standard deviation of the noise on the target policy's actions", 0).field()
    target_noise_clip: Array = number(0.5, "largest noise on the target policy's actions", 0).field()

    @property
    def policy_network(self) -> PolicyNetwork:
        """The policy's network, with a deterministic head."""
        return super().policy_network.clone(head="clipped_gaussian")

    def init(self, key: Key) -> AgentState:
        """Starts parameters, optimisers and statistics. The key is consumed."""
        state = super().init(key)
        policy = state.policy | {"constants": {"noise": jnp.asarray(self.exploration_noise, jnp.float32)}}
        return dataclasses.replace(state, policy=policy)

    def init_extra(self, policy: PyTree) -> PyTree:
        """Starts the target policy's parameters."""
        return jax.tree.map(jnp.copy, policy["params"])

    def actor_loss(
        self, distribution: Distribution, state: AgentState, key: Key, batch: Transition
    ) -> tuple[Array, Metrics]:
        """Returns minus the first critic's value of the policy's actions, averaged over states."""
        action = distribution.mode()[None]
        q_value = self.actor_values(state, batch.observation, action, lambda q_values: q_values[0])
        return -jnp.mean(q_value), {"actor/saturation": jnp.mean(jnp.abs(action) > SATURATED)}

    def next_action(self, state: AgentState, key: Key, next_observation: Array) -> tuple[Array, Array]:
        """Returns the target policy's action with clipped noise; its log-probability is not asked for, and reads 0."""
        target_policy = state.policy | {"params": state.extra}
        action = self.policy_network.apply(target_policy, next_observation).mode()
        noise = self.target_noise * jax.random.normal(key, action.shape)
        action = jnp.clip(action + jnp.clip(noise, -self.target_noise_clip, self.target_noise_clip), -1.0, 1.0)
        return action[None], jnp.zeros((1, len(action)))

    def update_targets(self, state: AgentState) -> AgentState:
        """Moves the target critics and the target policy, once a period."""
        target = optax.incremental_update(state.policy["params"], state.extra, self.target_step(state))
        return super().update_targets(dataclasses.replace(state, extra=target))
