"""What off-policy actor-critics share: networks, optimisers, the critics' step, the target networks and the metrics.

An agent is a frozen dataclass of hyperparameters without parameters or keys in it. Fields that are numbers are pytree
leaves, so that agents which differ in numbers only can be stacked and mapped over; fields that decide shapes or
program structure are static. Every hyperparameter is declared here or in its agent, once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.flatten_util import ravel_pytree

from agents.base import BaseAgent, make_policy_network, policy_metrics
from remac.hyperparameters import choice, flag, integer, number, widths
from remac.machine import choose, on_accelerator
from remac.policies import normalization
from remac.policies.distributions import Distribution, TanhGaussian
from remac.policies.networks import Aggregate, CriticNetworks, PolicyParameters, outputs_of
from remac.policies.normalization import RunningStatistics
from remac.policies.norms import NORMS, STATISTICS
from remac.policies.policy_network import ACTIVATIONS, LOG_STD_BOUNDS, LOG_STD_RANGE, PRECISIONS, PolicyNetwork
from remac.policies.value_heads import CATEGORICAL_TARGETS, CategoricalHead, ScalarHead, ValueHead
from remac.selection import median
from remac.training.devices import mean_over_parts
from remac.training.experience import Replay
from remac.types import Array, Key, Metrics, PyTree, Transition
from remac.validation import InvalidValueError

ADAM_BETA2 = 0.999


@struct.dataclass
class AgentState:
    """Everything that an agent learns.

    Attributes:
        policy: Variables of the policy network; those of the collection ``params`` are learned by gradients.
        critics: Variables of the critic ensemble, likewise.
        target_critics: Slowly following copy of ``critics``; an empty tuple where there are no target networks.
        policy_optimizer: State of the actor's optimiser.
        critic_optimizer: State of the critics' optimiser.
        normalizer: Moments of the observations seen.
        gradient_steps: Number of updates made, scalar int32.
        extra: What the agent learns besides.
    """

    policy: PyTree
    critics: PyTree
    target_critics: PyTree
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    normalizer: RunningStatistics
    gradient_steps: Array
    extra: PyTree = ()


@struct.dataclass
class ActorCritic(BaseAgent):
    """Off-policy actor-critic with an ensemble of critics.

    One update is the actor's step (``update_actor``), then the critics' (``update_critics``) towards
    y = r + gamma * discount * V(s'), with V of the policy just updated, then that of the target networks
    (``update_targets``), then what the agent adds (``update_extra``). A subclass says what the actor minimises
    (``actor_loss``), which next action is valued (``next_action``) and what V makes of its value (``sample_value``),
    and may replace any of the four.

    With ``critic_norm=batch`` there are no target networks: the critics judge (s, a) and (s', a') in one pass, so that
    both are normalised by the moments of their mixture, and y is made of that pass as a constant (CrossQ: Bhatt et al.,
    2024, arXiv 1902.05605). Running statistics move in that pass, and those of the policy in the actor's; every other
    pass reads them.

    With ``actor_update_period`` above 1 the actor, and what is learned with it, moves once in so many gradient steps.
    Its metrics are zero in the others and so many times as large in its own: their mean over any window of a multiple
    of so many gradient steps is that over its own steps, and close to it over one of many periods.

    Adam is m_hat / (sqrt(v_hat) + epsilon): epsilon stands outside the root and after bias correction (Kingma and Ba,
    2015, algorithm 1, arXiv 1412.6980). That is what ``actor_adam_epsilon`` and ``critic_adam_epsilon`` set.
    """

    learning_rate: Array = number(3e-4, "learning rate of all networks", 0, open_minimum=True).field()
    policy_learning_rate: Array = number(
        None, "learning rate of the policy; null: learning_rate", 0, open_minimum=True
    ).field()
    gamma: Array = number(0.99, "discount factor", 0, 1).field()
    tau: Array = number(
        0.005, "step of the target networks: target + tau * (online - target)", 0, 1, open_minimum=True
    ).field()
    actor_update_period: int = integer(1, "gradient steps of the critics for one of the actor").field()
    target_update_period: Array = integer(
        1, "gradient steps between two steps of the target networks", is_leaf=True
    ).field()
    adam_beta1: float = number(
        0.9, "decay of every Adam's running mean of gradients (its momentum)", 0, 0.999, is_leaf=False
    ).field()
    actor_adam_epsilon: Array = number(
        1e-8, "epsilon of the actor's Adam: added to its denominator, outside the root", 0, open_minimum=True
    ).field()
    critic_adam_epsilon: Array = number(
        1e-8, "epsilon of the critics' Adam, and of that of the temperature", 0, open_minimum=True
    ).field()
    batch_size: int = integer(256, "B, transitions per gradient step").field()
    num_steps: int = integer(
        1, "longest span of the returns that critics learn from (n-step returns; any entropy term is of the last step)"
    ).field()
    hidden_sizes: tuple[int, ...] = widths((64, 64), "width of each hidden layer of both networks").field()
    policy_hidden_sizes: tuple[int, ...] | None = widths(
        None, "width of each hidden layer of the policy; null: hidden_sizes"
    ).field()
    critic_hidden_sizes: tuple[int, ...] | None = widths(
        None, "width of each hidden layer of each critic; null: hidden_sizes"
    ).field()
    activation: str = choice("relu", "activation after each hidden layer of both networks", ACTIVATIONS).field()
    policy_activation: str | None = choice(None, "activation of the policy; null: activation", ACTIVATIONS).field()
    critic_activation: str | None = choice(None, "activation of each critic; null: activation", ACTIVATIONS).field()
    num_critics: int = integer(2, "C, critics in the ensemble").field()
    critic_aggregate: str = choice(
        "min", "how the critics' values become one, for the actor and for V", ("min", "mean")
    ).field()
    policy_norm: str = choice("none", "norm of the policy's features; batch: batch renormalisation", NORMS).field()
    critic_norm: str = choice(
        "none", "norm of the critics' features; batch: batch renormalisation without target networks (CrossQ)", NORMS
    ).field()
    critic_head: str = choice(
        "scalar", "what a critic gives: a value, or a distribution whose mean it is", ("scalar", "categorical")
    ).field()
    num_atoms: int = integer(101, "values that a categorical critic's distribution is over", 2).field()
    value_min: Array = number(-1000.0, "least value of a categorical critic; targets are clipped there").field()
    value_max: Array = number(1000.0, "greatest value of a categorical critic; its means start halfway").field()
    categorical_target: str = choice(
        "hl_gauss",
        "what a categorical critic learns: a Gaussian's histogram around the target, or its distribution",
        CATEGORICAL_TARGETS,
    ).field()
    matmul_precision: str = choice(
        "default",
        "precision of products, on accelerators; critics' values for the actor have the highest",
        PRECISIONS,
    ).field()
    actor_optimizer: str = choice("adam", "optimiser of the policy", ("adam", "sgd")).field()
    normalize_observations: bool = flag(
        True, "whether networks see observations less their running mean, over their deviation"
    ).field()

    @classmethod
    def make_fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the agent's fields of the sizes and a value for every hyperparameter.

        Raises:
            InvalidValueError: If values do not fit each other.
        """
        with np.errstate(over="ignore"):
            span = np.float32(values["value_max"]) - np.float32(values["value_min"])
        if not 0 < span < np.inf:
            allowed = f"must be above value_min={values['value_min']}, by a finite number in float32"
            raise InvalidValueError("value_max", values["value_max"], allowed)
        fields = super().make_fields(values)
        if fields["policy_learning_rate"] is None:
            fields["policy_learning_rate"] = fields["learning_rate"]
        return fields

    def init(self, key: Key) -> AgentState:
        """Starts parameters, optimisers and statistics. The key is consumed."""
        policy_key, critic_key = jax.random.split(key)
        observation = jnp.zeros((1, self.observation_size))
        action = jnp.zeros((1, 1, self.action_size))
        policy = PolicyParameters(self.policy_network).init(policy_key, self.of_policy(observation))
        critics = self.critic_networks.init(critic_key, self.of_critics(observation), action)
        return AgentState(
            policy=policy,
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics) if self.has_target_networks else (),
            policy_optimizer=self._make_actor_optimizer().init(policy["params"]),
            critic_optimizer=self._make_critic_optimizer().init(critics["params"]),
            normalizer=normalization.init(self.observation_size),
            gradient_steps=jnp.zeros((), jnp.int32),
            extra=self.init_extra(policy),
        )

    def init_extra(self, policy: PyTree) -> PyTree:
        """Starts what the agent learns besides policy and critics."""
        return ()

    @property
    def experience(self) -> Replay:
        """What the agent learns from."""
        return Replay(self.batch_size, self.num_steps, averages_parts=True)

    def act(
        self, state: AgentState, key: Key, observation: Array, *, deterministic: bool = False
    ) -> tuple[Array, tuple[()]]:
        """Chooses actions `[B, action_dim]` at raw observations `[B, obs_dim]`, without extras. The key is consumed."""
        return self.policy(state)(self.of_policy(observation), None if deterministic else key), ()

    def update(self, state: AgentState, key: Key, experience: Transition) -> tuple[AgentState, Metrics]:
        """Makes one gradient step per network that is due.

        Args:
            state: Before the step.
            key: Consumed.
            experience: Raw transitions `[B, ...]`.

        Returns:
            The state after the step, and scalar metrics of it.
        """
        actor_key, critic_key = jax.random.split(key)
        batch = experience._replace(
            observation=self._normalize(state, experience.observation),
            next_observation=self._normalize(state, experience.next_observation),
        )
        due = (state.gradient_steps + 1) % self.actor_update_period == 0
        state, actor_metrics = self._where(due, self.update_actor, state, actor_key, batch)
        state, critic_metrics = self.update_critics(state, critic_key, batch)
        state = self.update_targets(state)
        state, _ = self._where(
            due, lambda state, of_actor: (self.update_extra(state, of_actor), {}), state, actor_metrics
        )
        state = dataclasses.replace(state, gradient_steps=state.gradient_steps + 1)
        actor_metrics = {name: self.actor_update_period * value for name, value in actor_metrics.items()}
        return state, actor_metrics | critic_metrics | self.extra_metrics(state)

    def diagnostics(self, state: AgentState) -> Metrics:
        """Returns what the actor's Adam divides by, and how far epsilon decides it; empty for other optimisers.

        ``actor/adam_denominator_median`` is the median over the policy's coordinates of sqrt(v_hat) + epsilon;
        ``actor/epsilon_dominated_fraction`` the share of coordinates with sqrt(v_hat) < epsilon.
        """
        if self.actor_optimizer != "adam":
            return {}
        adam = state.policy_optimizer[0]
        correction = 1.0 - ADAM_BETA2 ** jnp.maximum(adam.count, 1)
        second_moment = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(adam.nu)])
        root = jnp.sqrt(second_moment / correction)
        return {
            "actor/adam_denominator_median": median(root) + self.actor_adam_epsilon,
            "actor/epsilon_dominated_fraction": jnp.mean(root < self.actor_adam_epsilon),
        }

    def _where(
        self, due: Array, step: Callable[..., tuple[AgentState, Metrics]], state: AgentState, *arguments: PyTree
    ) -> tuple[AgentState, Metrics]:
        """Makes a step where it is due; its metrics are zero elsewhere."""
        if self.actor_update_period == 1:
            return step(state, *arguments)
        metrics = jax.eval_shape(step, state, *arguments)[1]

        def no_step(state: AgentState, *_: PyTree) -> tuple[AgentState, Metrics]:
            return state, {name: jnp.zeros(like.shape, like.dtype) for name, like in metrics.items()}

        return choose(due, step, no_step, state, *arguments)

    # What a subclass decides.

    def actor_loss(
        self, distribution: Distribution, state: AgentState, key: Key, batch: Transition
    ) -> tuple[Array, Metrics]:
        """Returns what the actor's step makes smaller, and metrics of the policy.

        Args:
            distribution: The policy's at the batch's observations.
            state: Before the step.
            key: Consumed.
            batch: Observations normalised, `[B, ...]`.
        """
        raise NotImplementedError

    def next_action(self, state: AgentState, key: Key, next_observation: Array) -> tuple[Array, Array]:
        """Chooses the actions whose values V is made of.

        Args:
            state: After the actor's step.
            key: Consumed.
            next_observation: Normalised, what the policy sees of it, `[B, obs_dim]`.

        Returns:
            Actions `[1, B, action_dim]` and their log-probabilities `[1, B]`.
        """
        raise NotImplementedError

    def sample_value(self, state: AgentState, q_value: Array, log_prob: Array) -> Array:
        """Returns V `[B]` from the critics' value and the log-probability of the next action, `[B]`."""
        return q_value

    def update_extra(self, state: AgentState, actor_metrics: Metrics) -> AgentState:
        """Moves what the agent learns besides policy and critics, as often as the actor."""
        return state

    def extra_metrics(self, state: AgentState) -> Metrics:
        """Returns metrics of it, scalars."""
        return {}

    # The parts of an update.

    def update_actor(self, state: AgentState, key: Key, batch: Transition) -> tuple[AgentState, Metrics]:
        """Makes the actor's gradient step."""

        def loss_fn(params: PyTree) -> tuple[Array, tuple[Metrics, PyTree]]:
            variables = state.policy | {"params": params}
            observation = self.of_policy(batch.observation)
            distribution, moved = self.policy_network.apply_in_training(variables, observation)
            loss, metrics = self.actor_loss(distribution, state, key, batch)
            return loss, (metrics, moved)

        params = state.policy["params"]
        (loss, (metrics, moved)), gradient = mean_over_parts(jax.value_and_grad(loss_fn, has_aux=True)(params))
        updates, optimizer = self._make_actor_optimizer().update(gradient, state.policy_optimizer, params)
        grad_norm, update_norm = _norms(gradient, updates)
        metrics = metrics | {
            "actor/loss": loss,
            "actor/grad_norm": grad_norm,
            "actor/update_norm": update_norm,
            **self.policy_network.gradient_metrics(gradient),
        }
        policy = state.policy | moved | {"params": optax.apply_updates(params, updates)}
        return dataclasses.replace(state, policy=policy, policy_optimizer=optimizer), metrics

    def update_critics(self, state: AgentState, key: Key, batch: Transition) -> tuple[AgentState, Metrics]:
        """Makes the critics' gradient step towards r + gamma * discount * V(s')."""
        head = self.value_head
        observation, next_observation = self.of_critics(batch.observation), self.of_critics(batch.next_observation)
        next_action, log_prob = self.next_action(state, key, self.of_policy(batch.next_observation))

        def make_target(next_outputs: Array) -> tuple[Array, Metrics]:
            def backup(q_value: Array) -> Array:
                return batch.reward + self.gamma * batch.discount * self.sample_value(state, q_value, log_prob[0])

            return head.target(jax.lax.stop_gradient(next_outputs), self.aggregate, backup)

        if self.has_target_networks:
            next_outputs = outputs_of(self.critic_networks, state.target_critics, next_observation, next_action)
            target = make_target(next_outputs[:, 0])

        def loss_fn(params: PyTree) -> tuple[Array, tuple[Metrics, PyTree]]:
            critics = state.critics | {"params": params}
            moved: PyTree = {}
            if self.has_target_networks:
                outputs = outputs_of(self.critic_networks, critics, observation, batch.action[None])[:, 0]
                (wanted, metrics) = target
            else:
                both = jnp.concatenate([observation, next_observation])
                action = jnp.concatenate([batch.action[None], next_action], axis=1)
                joint, moved = self.critic_networks.apply(critics, both, action, training=True, mutable=[STATISTICS])
                outputs, next_outputs = jnp.split(joint[:, 0], 2, axis=1)
                wanted, metrics = make_target(next_outputs)
            metrics = metrics | {"critic/q_mean": jnp.mean(head.values(outputs))}
            return head.loss(outputs, wanted), (metrics, moved)

        params = state.critics["params"]
        (loss, (metrics, moved)), gradient = mean_over_parts(jax.value_and_grad(loss_fn, has_aux=True)(params))
        updates, optimizer = self._make_critic_optimizer().update(gradient, state.critic_optimizer, params)
        metrics = metrics | {"critic/loss": loss, "critic/grad_norm": _norms(gradient)[0]}
        critics = state.critics | moved | {"params": optax.apply_updates(params, updates)}
        return dataclasses.replace(state, critics=critics, critic_optimizer=optimizer), metrics

    def update_targets(self, state: AgentState) -> AgentState:
        """Moves the target critics, where there are any, towards the critics, once a period."""
        if not self.has_target_networks:
            return state
        target = optax.incremental_update(state.critics, state.target_critics, self.target_step(state))
        return dataclasses.replace(state, target_critics=target)

    def target_step(self, state: AgentState) -> Array:
        """Returns tau where target networks are due, and 0 elsewhere."""
        due = (state.gradient_steps + 1) % self.target_update_period == 0
        return jnp.where(due, self.tau, 0.0)

    def aggregate(self, q_values: Array) -> Array:
        """Makes one value `[...]` of the critics' values `[C, ...]`."""
        return (jnp.min if self.critic_aggregate == "min" else jnp.mean)(q_values, axis=0)

    def q_values(self, critics: PyTree, observation: Array, action: Array) -> Array:
        """Returns the critics' values `[C, N, B]` of actions `[N, B, action_dim]` at normalised observations."""
        return self.value_head.values(outputs_of(self.critic_networks, critics, self.of_critics(observation), action))

    def actor_values(
        self, state: AgentState, observation: Array, action: Array, aggregate: Aggregate | None = None
    ) -> Array:
        """Returns what the actor learns from: one value `[N, B]` of each action, with gradients to the actions alone.

        Args:
            state: Whose critics judge.
            observation: Normalised, `[B, obs_dim]`.
            action: `[N, B, action_dim]`.
            aggregate: Makes one value of the critics' `[C, n, B]`; None for ``self.aggregate``.
        """

        def for_actor(outputs: Array) -> Array:
            return (aggregate or self.aggregate)(self.value_head.values(outputs))

        observation = self.of_critics(observation)
        return outputs_of(self.critic_networks, state.critics, observation, action, for_actor=for_actor)

    @property
    def has_target_networks(self) -> bool:
        """Whether V is of slowly following copies of the critics."""
        return self.critic_norm != "batch"

    @property
    def value_head(self) -> ValueHead:
        """What the critics' outputs mean."""
        if self.critic_head == "scalar":
            return ScalarHead()
        return CategoricalHead(self.value_min, self.value_max, self.num_atoms, self.categorical_target)

    @property
    def policy_network(self) -> PolicyNetwork:
        """The policy's network."""
        return make_policy_network(self)

    @property
    def critic_networks(self) -> CriticNetworks:
        """The critics' networks."""
        return CriticNetworks(
            num_critics=self.num_critics,
            hidden_sizes=self.critic_hidden_sizes or self.hidden_sizes,
            activation=self.critic_activation or self.activation,
            norm=self.critic_norm,
            num_outputs=self.value_head.num_outputs,
            precision=self.matmul_precision,
        )

    def _make_actor_optimizer(self) -> optax.GradientTransformation:
        # Built from the fields at every use, so that learning rate and epsilon can be traced.
        if self.actor_optimizer == "sgd":
            return optax.sgd(self.policy_learning_rate)
        return optax.adam(self.policy_learning_rate, self.adam_beta1, ADAM_BETA2, eps=self.actor_adam_epsilon)

    def _make_critic_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, self.adam_beta1, ADAM_BETA2, eps=self.critic_adam_epsilon)


def _norms(*trees: PyTree) -> list[Array]:
    """Returns of each of several trees alike the Euclidean norm of all leaves together, scalar."""
    if on_accelerator():
        return [*jnp.linalg.norm(jnp.stack([ravel_pytree(tree)[0] for tree in trees]), axis=1)]
    return [optax.tree.norm(tree) for tree in trees]


@struct.dataclass
class StochasticActorCritic(ActorCritic):
    """Actor-critic with a tanh-Gaussian policy, whose actor samples actions at every state.

    A subclass says what the actor maximises over its samples (``actor_objective``), and may say what a sampled next
    action is worth (``sample_value``).
    """

    log_std_bounds: str = choice(
        "clip",
        "how the log standard deviation is kept within its range: clip, or tanh, which has a gradient everywhere",
        LOG_STD_BOUNDS,
    ).field()

    log_std_max: float = number(
        LOG_STD_RANGE[1], "greatest log standard deviation, before tanh", -9, LOG_STD_RANGE[1], is_leaf=False
    ).field()

    mean_max: float | None = number(
        None,
        "bound of the policy's mean before tanh, on either side; null: none",
        0,
        open_minimum=True,
        is_leaf=False,
    ).field()

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

    # How the base asks.

    def actor_loss(
        self, distribution: Distribution, state: AgentState, key: Key, batch: Transition
    ) -> tuple[Array, Metrics]:
        """Returns minus the objective, averaged over states."""
        objective, _, metrics = self.sampled_objective(cast(TanhGaussian, distribution), state, key, batch)
        return -jnp.mean(objective), metrics

    def sampled_objective(
        self, distribution: TanhGaussian, state: AgentState, key: Key, batch: Transition
    ) -> tuple[Array, Array, Metrics]:
        """Draws actions and values them.

        Returns:
            The objective at each state, `[B]`, the actions' mean value, `[B]`, and metrics of the policy.
        """
        action, log_prob = distribution.sample(key, self.num_actor_samples(), reparameterize=self.reparameterizes())
        q_values = self.actor_values(state, batch.observation, action)
        objective = self.actor_objective(state, q_values, log_prob)
        return objective, jnp.mean(q_values, axis=0), policy_metrics(distribution, action, log_prob)

    def next_action(self, state: AgentState, key: Key, next_observation: Array) -> tuple[Array, Array]:
        """Draws one action of the policy just updated."""
        distribution = self.policy_network.apply(state.policy, next_observation)
        return distribution.sample(key, 1)

    @property
    def policy_network(self) -> PolicyNetwork:
        """The policy's network."""
        return make_policy_network(
            self, log_std_bounds=self.log_std_bounds, log_std_max=self.log_std_max, mean_max=self.mean_max
        )
