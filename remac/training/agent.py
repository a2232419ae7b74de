"""What training needs of an agent."""

from typing import Any, Protocol

from remac.policies.policy import Policy
from remac.training.experience import Experience
from remac.types import Array, Key, Metrics, PyTree, Transition


class Agent(Protocol):
    """A frozen pytree of hyperparameters: numbers are leaves, which a population stacks; structure is static.

    It holds no parameters, keys or environments; what it learns is in the state that it starts and returns.

    Attributes:
        gamma: Discount factor, of returns over several steps.
        experience: What the agent learns from; static.
        steps_per_update: Gradient steps of one ``update``; static.
    """

    @property
    def gamma(self) -> Array:
        """Discount factor, of returns over several steps."""
        ...

    @property
    def experience(self) -> Experience:
        """What the agent learns from; static."""
        ...

    @property
    def steps_per_update(self) -> int:
        """Gradient steps of one ``update``; static."""
        ...

    def init(self, key: Key) -> Any:
        """Starts what the agent learns. The key is consumed."""
        ...

    def observe(self, state: Any, observation: Array) -> Any:
        """Takes new raw observations `[B, obs_dim]` into the running statistics."""
        ...

    def policy(self, state: Any) -> Policy:
        """Returns the policy by itself."""
        ...

    def act(self, state: Any, key: Key, observation: Array, *, deterministic: bool = False) -> tuple[Array, PyTree]:
        """Chooses actions at raw observations `[B, obs_dim]`. The key is consumed.

        Returns:
            Actions `[B, action_dim]`, and what the agent wants to find with them when it learns, leaves `[B, ...]`
            (``Transition.extras``): an empty tuple, or for example log-probabilities.
        """
        ...

    def update(self, state: Any, key: Key, experience: Transition) -> tuple[Any, Metrics]:
        """Learns from a batch `[B, ...]` of replay, or from a rollout `[T, E, ...]`. The key is consumed."""
        ...

    def diagnostics(self, state: Any) -> Metrics:
        """Returns metrics of the state itself, computed once a round."""
        ...
