"""What ReMAC and SAC share: networks, optimisers, the critic step, the target networks and the metrics.

An agent is a frozen dataclass of hyperparameters without parameters or keys in it. Fields that are numbers are pytree
leaves, so that agents which differ in numbers only can be stacked and mapped over; fields that decide shapes or
program structure are static.
"""

import inspect
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from remac.policies import normalization
from remac.policies.distributions import TanhGaussian
from remac.policies.networks import ACTIVATIONS, CriticNetworks, PolicyNetwork
from remac.policies.normalization import RunningStatistics
from remac.policies.policy import Policy
from remac.selection import median
from remac.types import Array, Key, Metrics, PyTree, Transition
from remac.validation import InvalidValueError, require_int, require_number, require_one_of

ADAM_BETAS = (0.9, 0.999)
OPTIMIZERS = ("adam", "sgd")
SATURATED = 0.99


@struct.dataclass
class AgentState:
    """Everything that an agent learns.

    Attributes:
        policy: Parameters of the policy.
        critics: Parameters of the critic ensemble.
        target_critics: Slowly following copy of ``critics``.
        policy_optimizer: State of the actor's optimiser.
        critic_optimizer: State of the critics' optimiser.
        log_temperature: Logarithm of SAC's entropy temperature, scalar; unused by ReMAC.
        temperature_optimizer: State of the temperature's optimiser.
        normalizer: Moments of the observations seen.
        gradient_steps: Number of updates made, scalar int32.
    """

    policy: PyTree
    critics: PyTree
    target_critics: PyTree
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    log_temperature: Array
    temperature_optimizer: optax.OptState
    normalizer: RunningStatistics
    gradient_steps: Array


@struct.dataclass
class ActorCritic:
    """Off-policy actor-critic with a reparameterised tanh-Gaussian policy and an ensemble of critics.

    One update is the actor's step, then the critics' step towards y = r + gamma * discount * V(s'), with the next
    action drawn from the policy just updated. Subclasses say what the actor maximises (``actor_objective``) and what
    V is (``next_value``).

    Adam is m_hat / (sqrt(v_hat) + epsilon): epsilon stands outside the root and after bias correction (Kingma and Ba,
    2015, algorithm 1, arXiv 1412.6980). That is what ``actor_adam_epsilon`` and ``critic_adam_epsilon`` set.

    Attributes:
        observation_size: obs_dim.
        action_size: action_dim.
        learning_rate: Of all networks.
        gamma: Discount factor in [0, 1].
        tau: Step of the target networks, target <- target + tau * (online - target), in (0, 1].
        target_update_period: Gradient steps between two such steps.
        actor_adam_epsilon: Epsilon of the actor's Adam.
        critic_adam_epsilon: Epsilon of the critics' (and the temperature's) Adam.
        batch_size: B, transitions per gradient step.
        hidden_sizes: Width of each hidden layer of both networks.
        activation: Name in ``remac.policies.networks.ACTIVATIONS``.
        num_critics: C.
        critic_aggregate: How the critics' values become one, for the actor and for V: ``min`` or ``mean``.
        actor_optimizer: ``adam`` or ``sgd``.
        normalize_observations: Whether networks see observations less their running mean, over their deviation.
    """

    observation_size: int = struct.field(pytree_node=False)
    action_size: int = struct.field(pytree_node=False)
    learning_rate: Array = 3e-4
    gamma: Array = 0.99
    tau: Array = 0.005
    target_update_period: Array = 1
    actor_adam_epsilon: Array = 1e-8
    critic_adam_epsilon: Array = 1e-8
    batch_size: int = struct.field(pytree_node=False, default=256)
    hidden_sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    activation: str = struct.field(pytree_node=False, default="relu")
    num_critics: int = struct.field(pytree_node=False, default=2)
    critic_aggregate: str = struct.field(pytree_node=False, default="min")
    actor_optimizer: str = struct.field(pytree_node=False, default="adam")
    normalize_observations: bool = struct.field(pytree_node=False, default=True)

    @classmethod
    def create(cls, observation_size: int, action_size: int, **hyperparameters: Any) -> Self:
        """Builds an agent after checking every hyperparameter; numbers become strongly typed scalars.

        Raises:
            InvalidValueError: Naming the hyperparameter, its value and what is allowed.
        """
        fields = {field: spec.default for field, spec in cls.__dataclass_fields__.items()}
        unknown = sorted(set(hyperparameters) - set(fields))
        if unknown:
            # Subclasses' ``create`` makes some fields out of arguments of its own.
            known = (set(inspect.signature(cls.create).parameters) - {"hyperparameters"}) | set(
                ActorCritic.__annotations__
            )
            raise InvalidValueError(
                unknown[0], hyperparameters[unknown[0]], f"no such hyperparameter; there are {', '.join(sorted(known))}"
            )
        values = fields | hyperparameters
        values |= {"observation_size": observation_size, "action_size": action_size}
        if not isinstance(values["hidden_sizes"], Sequence):
            raise InvalidValueError("hidden_sizes", values["hidden_sizes"], "must be a list of integers")
        values["hidden_sizes"] = tuple(values["hidden_sizes"])
        _validate(values)
        for field, spec in cls.__dataclass_fields__.items():
            if spec.metadata.get("pytree_node", True):
                dtype = np.int32 if isinstance(spec.default, int) else np.float32
                values[field] = np.asarray(values[field], dtype)
        return cls(**values)

    def init(self, key: Key) -> AgentState:
        """Starts parameters, optimisers and statistics. The key is consumed."""
        policy_key, critic_key = jax.random.split(key)
        observation = jnp.zeros((1, self.observation_size))
        action = jnp.zeros((1, 1, self.action_size))
        policy = self._policy_network().init(policy_key, observation)
        critics = self._critic_network().init(critic_key, observation, action)
        log_temperature = jnp.zeros(())
        return AgentState(
            policy=policy,
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            policy_optimizer=self._policy_optimizer().init(policy),
            critic_optimizer=self._critic_optimizer().init(critics),
            log_temperature=log_temperature,
            temperature_optimizer=self._critic_optimizer().init(log_temperature),
            normalizer=normalization.init(self.observation_size),
            gradient_steps=jnp.zeros((), jnp.int32),
        )

    def observe(self, state: AgentState, observation: Array) -> AgentState:
        """Takes new raw observations `[B, obs_dim]` into the running statistics."""
        return state.replace(normalizer=normalization.update(state.normalizer, observation))

    def policy(self, state: AgentState) -> Policy:
        """Returns the policy by itself."""
        return Policy(
            parameters=state.policy,
            normalizer=state.normalizer,
            observation_size=self.observation_size,
            action_size=self.action_size,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            normalize_observations=self.normalize_observations,
        )

    def act(self, state: AgentState, key: Key, observation: Array, *, deterministic: bool = False) -> Array:
        """Chooses actions `[B, action_dim]` at raw observations `[B, obs_dim]`. The key is consumed."""
        return self.policy(state)(observation, None if deterministic else key)

    def update(self, state: AgentState, key: Key, batch: Transition) -> tuple[AgentState, Metrics]:
        """Makes one gradient step per network: actor, then critics, then what the subclass adds.

        Args:
            state: Before the step.
            key: Consumed.
            batch: Raw transitions `[B, ...]`.

        Returns:
            The state after the step, and scalar metrics of it.
        """
        actor_key, critic_key = jax.random.split(key)
        batch = batch._replace(
            observation=self._normalize(state, batch.observation),
            next_observation=self._normalize(state, batch.next_observation),
        )
        state, actor_metrics = self._update_actor(state, actor_key, batch)
        state, critic_metrics = self._update_critics(state, critic_key, batch)
        state, temperature_metrics = self.update_temperature(state, actor_metrics["actor/entropy"])
        state = state.replace(gradient_steps=state.gradient_steps + 1)
        return state, actor_metrics | critic_metrics | temperature_metrics

    def diagnostics(self, state: AgentState) -> Metrics:
        """Returns what the actor's Adam divides by, and how far epsilon decides it; empty for other optimisers.

        ``actor/adam_denominator_median`` is the median over the policy's coordinates of sqrt(v_hat) + epsilon;
        ``actor/epsilon_dominated_fraction`` the share of coordinates with sqrt(v_hat) < epsilon.
        """
        if self.actor_optimizer != "adam":
            return {}
        adam = state.policy_optimizer[0]
        correction = 1.0 - ADAM_BETAS[1] ** jnp.maximum(adam.count, 1)
        second_moment = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(adam.nu)])
        root = jnp.sqrt(second_moment / correction)
        return {
            "actor/adam_denominator_median": median(root) + self.actor_adam_epsilon,
            "actor/epsilon_dominated_fraction": jnp.mean(root < self.actor_adam_epsilon),
        }

    # What a subclass decides.

    def num_actor_samples(self) -> int:
        """Returns N, the actions that the actor's step draws at each state."""
        raise NotImplementedError

    def reparameterizes(self) -> bool:
        """Returns whether the actor's gradient flows through its actions and the critics (pathwise)."""
        return True

    def actor_objective(self, state: AgentState, q_values: Array, log_prob: Array) -> Array:
        """Returns what the actor maximises at each state, `[B]`, from values and log-probabilities `[N, B]`."""
        raise NotImplementedError

    def next_value(self, state: AgentState, q_value: Array, log_prob: Array) -> Array:
        """Returns V(s') `[B]` from the target critics' value and the log-probability of the next action, `[B]`."""
        raise NotImplementedError

    def update_temperature(self, state: AgentState, entropy: Array) -> tuple[AgentState, Metrics]:
        """Adapts the entropy temperature to the policy's mean entropy, if the agent has one."""
        del entropy
        return state, {}

    # The parts of an update.

    def _update_actor(self, state: AgentState, key: Key, batch: Transition) -> tuple[AgentState, Metrics]:
        def loss_fn(policy: PyTree) -> tuple[Array, tuple[TanhGaussian, Array, Array]]:
            distribution = self._policy_network().apply(policy, batch.observation)
            num_samples, reparameterize = self.num_actor_samples(), self.reparameterizes()
            action, log_prob = distribution.sample(key, num_samples, reparameterize=reparameterize)
            q_values = self._critic_network().apply(state.critics, batch.observation, action, for_actor=self._aggregate)
            objective = self.actor_objective(state, q_values, log_prob)
            return -jnp.mean(objective), (distribution, action, log_prob)

        (loss, aux), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.policy)
        distribution, action, log_prob = aux
        updates, optimizer = self._policy_optimizer().update(gradient, state.policy_optimizer, state.policy)
        log_std_gradient = jnp.mean(gradient["params"]["log_std"]["bias"])
        metrics = {
            "actor/loss": loss,
            "actor/entropy": -jnp.mean(log_prob),
            "actor/gaussian_entropy": jnp.mean(distribution.gaussian_entropy()),
            "actor/pre_tanh_std": jnp.mean(jnp.exp(distribution.log_std)),
            "actor/saturation": jnp.mean(jnp.abs(action) > SATURATED),
            "actor/grad_norm": optax.tree.norm(gradient),
            "actor/update_norm": optax.tree.norm(updates),
            "actor/log_std_gradient": log_std_gradient,
            "actor/raises_std": (log_std_gradient < 0).astype(jnp.float32),
        }
        policy = optax.apply_updates(state.policy, updates)
        return state.replace(policy=policy, policy_optimizer=optimizer), metrics

    def _update_critics(self, state: AgentState, key: Key, batch: Transition) -> tuple[AgentState, Metrics]:
        network = self._critic_network()
        next_distribution = self._policy_network().apply(state.policy, batch.next_observation)
        next_action, next_log_prob = next_distribution.sample(key, 1)
        next_q_values = network.apply(state.target_critics, batch.next_observation, next_action)
        next_value = self.next_value(state, self._aggregate(next_q_values)[0], next_log_prob[0])
        td_target = batch.reward + self.gamma * batch.discount * next_value

        def loss_fn(critics: PyTree) -> tuple[Array, Array]:
            q_values = network.apply(critics, batch.observation, batch.action[None])[:, 0]
            loss = 0.5 * jnp.sum(jnp.mean((q_values - td_target[None]) ** 2, axis=1))
            return loss, jnp.mean(q_values)

        (loss, q_mean), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.critics)
        updates, optimizer = self._critic_optimizer().update(gradient, state.critic_optimizer, state.critics)
        critics = optax.apply_updates(state.critics, updates)
        due = (state.gradient_steps + 1) % self.target_update_period == 0
        target_critics = optax.incremental_update(critics, state.target_critics, jnp.where(due, self.tau, 0.0))
        metrics = {
            "critic/loss": loss,
            "critic/q_mean": q_mean,
            "critic/grad_norm": optax.tree.norm(gradient),
        }
        state = state.replace(critics=critics, critic_optimizer=optimizer, target_critics=target_critics)
        return state, metrics

    def _aggregate(self, q_values: Array) -> Array:
        """Makes one value `[N, B]` of the critics' values `[C, N, B]`."""
        return (jnp.min if self.critic_aggregate == "min" else jnp.mean)(q_values, axis=0)

    def _normalize(self, state: AgentState, observation: Array) -> Array:
        if not self.normalize_observations:
            return observation
        return normalization.normalize(state.normalizer, observation)

    def _policy_network(self) -> PolicyNetwork:
        return PolicyNetwork(self.action_size, self.hidden_sizes, self.activation)

    def _critic_network(self) -> CriticNetworks:
        return CriticNetworks(self.num_critics, self.hidden_sizes, self.activation)

    def _policy_optimizer(self) -> optax.GradientTransformation:
        # Built from the fields at every use, so that learning rate and epsilon can be traced.
        if self.actor_optimizer == "sgd":
            return optax.sgd(self.learning_rate)
        return optax.adam(self.learning_rate, *ADAM_BETAS, eps=self.actor_adam_epsilon)

    def _critic_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, *ADAM_BETAS, eps=self.critic_adam_epsilon)


def _validate(values: dict[str, Any]) -> None:
    """Checks the hyperparameters that every agent has."""
    for field in ("observation_size", "action_size", "target_update_period", "batch_size", "num_critics"):
        require_int(field, values[field], 1)
    if not values["hidden_sizes"]:
        raise InvalidValueError("hidden_sizes", "[]", "must name at least one layer")
    for width in values["hidden_sizes"]:
        require_int("hidden_sizes", width, 1)
    for field in ("learning_rate", "actor_adam_epsilon", "critic_adam_epsilon"):
        require_number(field, values[field], 0, open_minimum=True)
    require_number("gamma", values["gamma"], 0, 1)
    require_number("tau", values["tau"], 0, 1, open_minimum=True)
    require_one_of("activation", values["activation"], ACTIVATIONS)
    require_one_of("critic_aggregate", values["critic_aggregate"], ("min", "mean"))
    require_one_of("actor_optimizer", values["actor_optimizer"], OPTIMIZERS)
