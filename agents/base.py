"""What agents of all kinds share: how they are made of their hyperparameters, and observations."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from remac.hyperparameters import Hyperparameter, check, hyperparameters
from remac.policies import normalization
from remac.policies.distributions import Distribution
from remac.policies.policy import Policy
from remac.policies.policy_network import PolicyNetwork
from remac.types import Array, Metrics
from remac.validation import InvalidValueError, require_int

SATURATED = 0.99

# For type checkers alone: what an agent of one's own leaves out must be missing, and not return nothing.
if TYPE_CHECKING:
    from remac.training.agent import Agent as _Agent
else:
    _Agent = object


def policy_metrics(distribution: Distribution, action: Array, log_prob: Array) -> Metrics:
    """Returns what sampled actions `[..., action_dim]`, and their log-probabilities `[...]`, say of a policy."""
    return {
        "actor/entropy": -jnp.mean(log_prob),
        "actor/saturation": jnp.mean(jnp.abs(action) > SATURATED),
        "actor/tanh_slope": jnp.mean(1.0 - action**2),
        **distribution.metrics(),
    }


def make_policy_network(agent: Any, **bounds: Any) -> PolicyNetwork:
    """Returns the network of an agent that declares the policy's hyperparameters, with bounds if it declares some."""
    return PolicyNetwork(
        action_size=agent.action_size,
        hidden_sizes=agent.policy_hidden_sizes or agent.hidden_sizes,
        activation=agent.policy_activation or agent.activation,
        norm=agent.policy_norm,
        precision=agent.matmul_precision,
        **bounds,
    )


@struct.dataclass
class BaseAgent(_Agent):
    """An agent whose state has the variables of a ``policy`` and a ``normalizer`` of its observations.

    A subclass declares its hyperparameters, ``normalize_observations`` among them.

    Attributes:
        observation_size: obs_dim.
        action_size: action_dim.
        policy_observation_size: How many numbers of an observation, its first, the policy sees; the others are for
            critics alone. None: both see all.
    """

    observation_size: int = struct.field(pytree_node=False)
    action_size: int = struct.field(pytree_node=False)
    policy_observation_size: int | None = struct.field(pytree_node=False, default=None)

    if TYPE_CHECKING:

        @property
        def normalize_observations(self) -> bool:
            """Whether the networks see normalised observations."""
            ...

    ARGUMENTS: ClassVar[dict[str, Hyperparameter]] = {}
    # Training values that come with the kind of agent, whatever is tuned for a suite.
    TRAINING: ClassVar[dict[str, Any]] = {}

    @classmethod
    def create(
        cls, observation_size: int, action_size: int, *, policy_observation_size: int | None = None, **given: Any
    ) -> Self:
        """Builds an agent after checking every hyperparameter; numbers become strongly typed scalars.

        Args:
            observation_size: obs_dim.
            action_size: action_dim.
            policy_observation_size: The environment's, see ``remac.types.Environment``.
            **given: Hyperparameters by name.

        Raises:
            InvalidValueError: Naming the hyperparameter, its value and what is allowed.
        """
        require_int("observation_size", observation_size, 1)
        require_int("action_size", action_size, 1)
        values: dict[str, Any] = {"observation_size": int(observation_size), "action_size": int(action_size)}
        if policy_observation_size is not None:
            most = (observation_size - 1, "observation_size - 1")
            require_int("policy_observation_size", policy_observation_size, 1, *most)
            policy_observation_size = int(policy_observation_size)
        values |= {"policy_observation_size": policy_observation_size}
        values = cls.make_fields(values | check(cls, given))
        declared = hyperparameters(cls)
        for field in dataclasses.fields(cls):
            name = field.name
            if field.metadata.get("pytree_node", True):
                if values[name] is None:
                    raise InvalidValueError(name, None, f"{cls.__name__}.make_fields must make a number of it")
                is_integer = name in declared and declared[name].type is int
                dtype = np.int32 if is_integer else np.float32
                with np.errstate(over="ignore"):
                    made = jax.tree.map(lambda value, dtype=dtype: np.asarray(value, dtype), values[name])
                if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(made)):
                    raise InvalidValueError(name, values[name], "must be finite in float32")
                values[name] = made
        return cls(**values)

    @classmethod
    def make_fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the agent's fields of the sizes and a value for every hyperparameter.

        Raises:
            InvalidValueError: If values do not fit each other.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        return {name: value for name, value in values.items() if name in names}

    @property
    def policy_network(self) -> PolicyNetwork:
        """The policy's network."""
        raise NotImplementedError

    @property
    def steps_per_update(self) -> int:
        """Gradient steps of one ``update``."""
        return 1

    def observe(self, state: Any, observation: Array) -> Any:
        """Takes new raw observations `[B, obs_dim]` into the running statistics."""
        return state.replace(normalizer=normalization.update(state.normalizer, observation))

    def policy(self, state: Any) -> Policy:
        """Returns the policy by itself; it takes what ``of_policy`` gives."""
        size, normalizer = self.policy_observation_size, state.normalizer
        return Policy(
            parameters=state.policy,
            normalizer=normalizer if size is None else normalization.of_first(normalizer, size),
            observation_size=size or self.observation_size,
            network=self.policy_network,
            normalize_observations=self.normalize_observations,
        )

    def of_policy(self, observation: Array) -> Array:
        """Returns what the policy sees of observations `[..., obs_dim]`; of its own part, all."""
        return observation if self.policy_observation_size is None else observation[..., : self.policy_observation_size]

    def of_critics(self, observation: Array) -> Array:
        """Returns what critics see of observations `[..., obs_dim]`; not to be applied to its own result."""
        return observation if self.policy_observation_size is None else observation[..., self.policy_observation_size :]

    def _normalize(self, state: Any, observation: Array) -> Array:
        if not self.normalize_observations:
            return observation
        return normalization.normalize(state.normalizer, observation)
