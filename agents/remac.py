"""ReMAC: the actor maximises the expected best of several retries (Nishimori and Parmas, 2026, arXiv 2606.05888)."""

from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from agents.actor_critic import ActorCritic, AgentState
from remac.estimators.advantages import score_coefficients
from remac.estimators.order_statistics import lstat, rank_weights
from remac.types import Array
from remac.validation import InvalidValueError, require_int, require_one_of

GRADIENTS = ("pathwise", "score_function")


@struct.dataclass
class ReMAC(ActorCritic):
    """Maximises an order statistic of the critics' value over retries, without an entropy bonus.

    Actor: at each state draw N = ``num_samples`` actions, value each by min_c Q_c (or the mean: ``critic_aggregate``),
    and maximise sum_m w_m Q_(m), where Q_(1) <= ... <= Q_(N) and w are the rank weights of the unbiased estimate, from
    N samples, of the objective over K = ``num_retries`` draws (for the maximum, w_m = C(m-1, K-1) / C(N, K)). The
    gradient is pathwise: the weights are constants found from the ranks. Next value: that of one action of the policy
    just updated.

    With ``gradient=score_function`` the actor instead follows sum_i c_i grad log pi(a_i|s), where c_i are the
    leave-one-out advantages of the same objective (Parmas et al., 2026, arXiv 2606.06096) times K/N; neither actions
    nor critics are differentiated. ``actor/loss`` is then the surrogate, whose value means nothing.

    Since every K and every objective is a vector of numbers, agents that differ in them are the same program.

    Note: the source treats time limits as terminations; here they bootstrap.

    Attributes:
        rank_weights: w over ascending ranks, `[N]`; for the score function those of K-subsets of N-1 samples, `[N-1]`.
        num_samples: N.
        gradient: ``pathwise`` or ``score_function``.
    """

    rank_weights: Array = ()
    num_samples: int = struct.field(pytree_node=False, default=8)
    gradient: str = struct.field(pytree_node=False, default="pathwise")

    @classmethod
    def create(
        cls,
        observation_size: int,
        action_size: int,
        *,
        num_retries: int = 4,
        num_samples: int = 8,
        objective: str | Sequence[float] = "max",
        gradient: str = "pathwise",
        **hyperparameters: Any,
    ) -> Self:
        """Builds the agent for an objective of ``remac.estimators.order_statistics`` over ``num_retries`` draws.

        Raises:
            InvalidValueError: Naming the hyperparameter, its value and what is allowed.
        """
        require_int("num_samples", num_samples, 1)
        require_int("num_retries", num_retries, 1, num_samples, "num_samples")
        require_one_of("gradient", gradient, GRADIENTS)
        if gradient == "score_function" and num_retries == num_samples:
            raise InvalidValueError(
                "num_retries", num_retries, f"must be below num_samples={num_samples} for gradient=score_function"
            )
        weighted = num_samples if gradient == "pathwise" else num_samples - 1
        return super().create(
            observation_size,
            action_size,
            rank_weights=rank_weights(objective, num_retries, weighted),
            num_samples=num_samples,
            gradient=gradient,
            **hyperparameters,
        )

    def num_actor_samples(self) -> int:
        """Returns ``num_samples``."""
        return self.num_samples

    def actor_objective(self, state: AgentState, q_values: Array, log_prob: Array) -> Array:
        """Returns the order statistic of the values `[N, B]` over the samples, `[B]`, or its surrogate."""
        if self.gradient == "score_function":
            coefficients = score_coefficients(jax.lax.stop_gradient(q_values).T, self.rank_weights).T
            return jnp.sum(coefficients * log_prob, axis=0)
        return lstat(q_values, self.rank_weights, axis=0)

    def reparameterizes(self) -> bool:
        """Returns whether the gradient is pathwise."""
        return self.gradient == "pathwise"

    def next_value(self, state: AgentState, q_value: Array, log_prob: Array) -> Array:
        """Returns the value itself: there is no entropy bonus."""
        return q_value
