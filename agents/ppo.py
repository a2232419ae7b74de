"""Proximal policy optimisation (Schulman et al., 2017, arXiv 1707.06347)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents.actor_critic import ActorCritic, StochasticActorCritic
from agents.base import BaseAgent, policy_metrics
from remac.estimators.generalized import generalized_advantages
from remac.hyperparameters import choice, flag, integer, number, redeclared
from remac.policies import normalization
from remac.policies.distributions import TanhGaussian
from remac.policies.networks import LOG_STD_RANGE, PRECISIONS, PolicyNetwork, ValueNetwork
from remac.policies.normalization import RunningStatistics
from remac.training.experience import ON_POLICY_TRAINING, Rollout
from remac.types import Array, Key, Metrics, PyTree, Transition


@struct.dataclass
class PPOState:
    """Everything that the agent learns.

    Attributes:
        policy: Variables of the policy network.
        value: Variables of the value network.
        optimizer: State of the optimiser of both.
        normalizer: Moments of the observations seen.
    """

    policy: PyTree
    value: PyTree
    optimizer: optax.OptState
    normalizer: RunningStatistics


@struct.dataclass
class PPO(BaseAgent):
    """Maximises the clipped surrogate of the advantage over epochs of shuffled minibatches of one rollout.

    One update is ``num_epochs`` passes over the last rollout, each in ``num_minibatches`` gradient steps of

        -mean(min(r A, clip(r, 1 - c, 1 + c) A)) + value_weight mean((V - R)^2) - entropy_weight H

    (eq. 9), r the ratio of the action's probability to that when it was drawn, found from its value before tanh, A
    the generalised advantage (arXiv 1506.02438), normalised within the minibatch, R = A + V, and H the action's
    entropy, estimated by one action drawn at each state. Time limits bootstrap from the true last observation.

    Note: the moments that normalise observations take in a rollout after its update, so that the first ratio is 1.
    """

    learning_rate: Array = number(3e-4, "learning rate of both networks", 0, open_minimum=True).field()
    gamma: Array = redeclared(ActorCritic, "gamma", 0.99)
    gae_lambda: Array = number(0.95, "lambda of the generalised advantage", 0, 1).field()
    clip_range: Array = number(0.2, "c, how far the ratio may go from 1", 0, open_minimum=True).field()
    entropy_weight: Array = number(0.0, "weight of the entropy bonus", 0).field()
    value_weight: Array = number(0.5, "weight of the value network's squared error", 0).field()
    max_gradient_norm: Array = number(
        0.5, "largest norm of a gradient; longer ones are cut", 0, open_minimum=True
    ).field()
    adam_epsilon: Array = number(
        1e-5, "epsilon of Adam: added to its denominator, outside the root", 0, open_minimum=True
    ).field()
    rollout_length: int = integer(128, "T, steps of every environment between two updates").field()
    num_epochs: int = integer(10, "passes over a rollout").field()
    num_minibatches: int = integer(32, "parts of a rollout, one gradient step each").field()
    normalize_advantages: bool = flag(True, "whether advantages have mean 0 and deviation 1 in a minibatch").field()
    hidden_sizes: tuple[int, ...] = redeclared(ActorCritic, "hidden_sizes", (64, 64))
    activation: str = redeclared(ActorCritic, "activation", "tanh")
    log_std_bounds: str = redeclared(StochasticActorCritic, "log_std_bounds", "clip")
    log_std_max: float = redeclared(StochasticActorCritic, "log_std_max", LOG_STD_RANGE[1])
    mean_max: float | None = redeclared(StochasticActorCritic, "mean_max", None)
    matmul_precision: str = choice("default", "precision of products, on accelerators", PRECISIONS).field()
    normalize_observations: bool = redeclared(ActorCritic, "normalize_observations", True)

    TRAINING: ClassVar[dict[str, Any]] = ON_POLICY_TRAINING

    @property
    def experience(self) -> Rollout:
        """What the agent learns from."""
        return Rollout(self.rollout_length, self.num_minibatches, on_policy=True)

    @property
    def policy_network(self) -> PolicyNetwork:
        """The policy's network."""
        return PolicyNetwork(
            action_size=self.action_size,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            log_std_bounds=self.log_std_bounds,
            log_std_max=self.log_std_max,
            mean_max=self.mean_max,
            precision=self.matmul_precision,
        )

    @property
    def value_network(self) -> ValueNetwork:
        """The value function's network."""
        return ValueNetwork(self.hidden_sizes, self.activation, self.matmul_precision)

    def init(self, key: Key) -> PPOState:
        """Starts parameters, optimiser and statistics. The key is consumed."""
        policy_key, value_key = jax.random.split(key)
        observation = jnp.zeros((1, self.observation_size))
        policy = self.policy_network.init(policy_key, observation)
        value = self.value_network.init(value_key, observation)
        return PPOState(
            policy=policy,
            value=value,
            optimizer=self._make_optimizer().init((policy["params"], value["params"])),
            normalizer=normalization.init(self.observation_size),
        )

    def observe(self, state: PPOState, observation: Array) -> PPOState:
        """Leaves the statistics as they are: ``update`` moves them."""
        return state

    def act(
        self, state: PPOState, key: Key, observation: Array, *, deterministic: bool = False
    ) -> tuple[Array, dict[str, Array]]:
        """Chooses actions `[B, action_dim]` at raw observations `[B, obs_dim]`. The key is consumed.

        Returns:
            The actions, and of each its value before tanh and its log-probability.
        """
        distribution = self.policy(state).distribution(observation)
        assert isinstance(distribution, TanhGaussian)
        pre_tanh = distribution.mean if deterministic else distribution.sample_pre_tanh(key)
        return jnp.tanh(pre_tanh), {"pre_tanh": pre_tanh, "log_prob": distribution.log_prob(pre_tanh[None])[0]}

    def update(self, state: PPOState, key: Key, experience: Transition) -> tuple[PPOState, Metrics]:
        """Makes all gradient steps of a rollout `[T, E, ...]`, raw. The key is consumed."""
        observation = self._normalize(state, experience.observation)
        next_observation = self._normalize(state, experience.next_observation)
        value, next_value = (self.value_network.apply(state.value, at) for at in (observation, next_observation))
        advantage = generalized_advantages(
            experience.reward,
            experience.discount,
            (experience.discount == 0.0) | experience.truncation,
            value,
            next_value,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
        )
        rows = {"observation": observation, "advantage": advantage, "target": advantage + value} | experience.extras
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)

        def epoch(state: PPOState, key: Key) -> tuple[PPOState, Metrics]:
            order_key, *step_keys = jax.random.split(key, self.num_minibatches + 1)
            order = jax.random.permutation(order_key, len(rows["target"])).reshape(self.num_minibatches, -1)
            return jax.lax.scan(
                lambda state, step: self._step(state, *step, rows), state, (jnp.stack(step_keys), order)
            )

        state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, self.num_epochs))
        normalizer = normalization.update(state.normalizer, experience.observation.reshape(-1, self.observation_size))
        return state.replace(normalizer=normalizer), {name: jnp.mean(values) for name, values in metrics.items()}

    def diagnostics(self, state: PPOState) -> Metrics:
        """Returns nothing."""
        return {}

    def loss(self, params: tuple[PyTree, PyTree], key: Key, batch: dict[str, Array]) -> tuple[Array, Metrics]:
        """Returns what a gradient step makes smaller, and metrics of it.

        Args:
            params: Of the policy and of the value function.
            key: Consumed.
            batch: ``observation`` (normalised), ``pre_tanh``, ``log_prob``, ``advantage`` and ``target``, `[B, ...]`.
        """
        policy, value = params
        distribution = self.policy_network.apply({"params": policy}, batch["observation"])
        log_ratio = distribution.log_prob(batch["pre_tanh"][None])[0] - batch["log_prob"]
        ratio, advantage = jnp.exp(log_ratio), batch["advantage"]
        if self.normalize_advantages:
            advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
        clipped = jnp.clip(ratio, 1.0 - self.clip_range, 1.0 + self.clip_range)
        actor_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
        values = self.value_network.apply({"params": value}, batch["observation"])
        value_loss = jnp.mean((values - batch["target"]) ** 2)
        action, log_prob = distribution.sample(key, 1)
        metrics = {
            "actor/loss": actor_loss,
            "actor/kl": jnp.mean(ratio - 1.0 - log_ratio),
            "actor/clipped": jnp.mean(jnp.abs(ratio - 1.0) > self.clip_range),
            "critic/loss": value_loss,
            "critic/value_mean": jnp.mean(values),
            **policy_metrics(distribution, action, log_prob),
        }
        return actor_loss + self.value_weight * value_loss - self.entropy_weight * metrics["actor/entropy"], metrics

    def _step(self, state: PPOState, key: Key, order: Array, rows: dict[str, Array]) -> tuple[PPOState, Metrics]:
        """Makes a gradient step from some of the rollout's rows."""
        params = state.policy["params"], state.value["params"]
        batch = jax.tree.map(lambda leaf: leaf[order], rows)
        gradient, metrics = jax.grad(self.loss, has_aux=True)(params, key, batch)
        updates, optimizer = self._make_optimizer().update(gradient, state.optimizer, params)
        policy, value = optax.apply_updates(params, updates)
        metrics["actor/grad_norm"] = optax.tree.norm(gradient[0])
        metrics["critic/grad_norm"] = optax.tree.norm(gradient[1])
        return state.replace(policy={"params": policy}, value={"params": value}, optimizer=optimizer), metrics

    def _make_optimizer(self) -> optax.GradientTransformation:
        # Built from the fields at every use, so that numbers can be traced.
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(self.learning_rate, eps=self.adam_epsilon)
        )
