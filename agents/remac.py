"""ReMAC: the actor maximises the expected best of several retries (Nishimori and Parmas, 2026, arXiv 2606.05888)."""

from collections.abc import Sequence
from typing import Any, Self

from flax import struct

from agents.actor_critic import ActorCritic, AgentState
from remac.order_statistics import lstat, rank_weights
from remac.types import Array
from remac.validation import require_int


@struct.dataclass
class ReMAC(ActorCritic):
    """Maximises an order statistic of the critics' value over retries, without an entropy bonus.

    Actor: at each state draw N = ``num_samples`` actions, value each by min_c Q_c, and maximise
    sum_m w_m Q_(m), where Q_(1) <= ... <= Q_(N) and w are the rank weights of the unbiased estimate, from N samples, of
    the objective over K = ``num_retries`` draws (for the maximum, w_m = C(m-1, K-1) / C(N, K)). The gradient is
    pathwise: the weights are constants found from the ranks. Next value: min_c Q_c(s', a').

    Since every K and every objective is a vector of N numbers, agents that differ in them are the same program.

    Note: the source treats time limits as terminations; here they bootstrap.

    Attributes:
        rank_weights: w over ascending ranks, `[N]`.
        num_samples: N.
    """

    rank_weights: Array = ()
    num_samples: int = struct.field(pytree_node=False, default=8)

    @classmethod
    def create(
        cls,
        observation_size: int,
        action_size: int,
        *,
        num_retries: int = 4,
        num_samples: int = 8,
        objective: str | Sequence[float] = "max",
        **hyperparameters: Any,
    ) -> Self:
        """Builds the agent for an objective of ``remac.order_statistics`` over ``num_retries`` draws.

        Raises:
            InvalidValueError: Naming the hyperparameter, its value and what is allowed.
        """
        require_int("num_samples", num_samples, 1)
        require_int("num_retries", num_retries, 1, num_samples, "num_samples")
        return super().create(
            observation_size,
            action_size,
            rank_weights=rank_weights(objective, num_retries, num_samples),
            num_samples=num_samples,
            **hyperparameters,
        )

    def num_actor_samples(self) -> int:
        """Returns ``num_samples``."""
        return self.num_samples

    def actor_objective(self, state: AgentState, q_values: Array, log_prob: Array) -> Array:
        """Returns the order statistic of the values `[N, B]` over the samples, `[B]`."""
        return lstat(q_values, self.rank_weights, axis=0)

    def next_value(self, state: AgentState, q_value: Array, log_prob: Array) -> Array:
        """Returns the value itself: there is no entropy bonus."""
        return q_value
