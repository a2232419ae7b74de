"""What agents share that learn from their own last steps: epochs of shuffled minibatches, and the clipped surrogate."""

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents.actor_critic import ActorCritic, StochasticActorCritic
from agents.base import BaseAgent, make_policy_network, policy_metrics
from remac.hyperparameters import choice, flag, integer, number, redeclared, widths
from remac.policies import normalization
from remac.policies.distributions import TanhGaussian
from remac.policies.networks import PolicyParameters, ValueNetwork, outputs_of
from remac.policies.normalization import RunningStatistics
from remac.policies.norms import ROW_NORMS
from remac.policies.policy_network import ACTIVATIONS, LOG_STD_RANGE, PRECISIONS, PolicyNetwork
from remac.training.experience import ON_POLICY_TRAINING
from remac.training.metrics import Packed, pack
from remac.types import Array, Key, Metrics, PyTree, Transition

MAX_LOG_RATIO = 80.0


@struct.dataclass
class OnPolicyState:
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
class OnPolicyAgent(BaseAgent):
    """Base of agents that learn from the steps that they have just made; a subclass says what a step was worth.

    One update is ``num_epochs`` passes over the last round, each in ``num_minibatches`` gradient steps of

        -mean(min(r A, clip(r, 1 - c, 1 + c) A)) + value_weight mean((V - R)^2) - entropy_weight H

    (Schulman et al., 2017, arXiv 1707.06347, eq. 9), r the ratio of the action's probability to that when it was drawn,
    found from its value before tanh, and H the action's entropy, estimated by one action drawn at each state. The
    advantage A and the value function's target R are what ``rows`` says. With one epoch of one minibatch r is 1,
    nothing is clipped, and the actor's gradient is that of mean(A log pi).

    Note: the moments that normalise observations take in a round after its update, so that the first ratio is 1.
    """

    learning_rate: Array = number(3e-4, "learning rate of both networks", 0, open_minimum=True).field()
    clip_range: Array = number(0.2, "c, how far the ratio may go from 1", 0, open_minimum=True).field()
    entropy_weight: Array = number(0.0, "weight of the entropy bonus", 0).field()
    value_weight: Array = number(0.5, "weight of the value network's squared error", 0).field()
    max_gradient_norm: Array = number(
        0.5, "largest norm of a gradient; longer ones are cut", 0, open_minimum=True
    ).field()
    adam_epsilon: Array = number(
        1e-5, "epsilon of Adam: added to its denominator, outside the root", 0, open_minimum=True
    ).field()
    num_epochs: int = integer(10, "passes over a round's steps").field()
    num_minibatches: int = integer(32, "parts of a round's steps, one gradient step each").field()
    hidden_sizes: tuple[int, ...] = redeclared(ActorCritic, "hidden_sizes", (64, 64))
    policy_hidden_sizes: tuple[int, ...] | None = redeclared(ActorCritic, "policy_hidden_sizes", None)
    value_hidden_sizes: tuple[int, ...] | None = widths(
        None, "width of each hidden layer of the value network; null: hidden_sizes"
    ).field()
    activation: str = redeclared(ActorCritic, "activation", "tanh")
    policy_activation: str | None = redeclared(ActorCritic, "policy_activation", None)
    value_activation: str | None = choice(
        None, "activation of the value network; null: activation", ACTIVATIONS
    ).field()
    # Without batch norm: the ratio at the first gradient step has to be 1.
    policy_norm: str = choice("none", "norm of the policy's features", ROW_NORMS).field()
    value_norm: str = choice("none", "norm of the value network's features", ROW_NORMS).field()
    log_std_bounds: str = redeclared(StochasticActorCritic, "log_std_bounds", "clip")
    log_std_max: float = redeclared(StochasticActorCritic, "log_std_max", LOG_STD_RANGE[1])
    mean_max: float | None = redeclared(StochasticActorCritic, "mean_max", None)
    state_dependent_std: bool = flag(
        True, "whether the deviation before tanh is a function of the state, or the same at every one"
    ).field()
    head_scale: Array = number(1.0, "factor of the first weights of the policy's last layer", 0).field()
    matmul_precision: str = choice("default", "precision of products, on accelerators", PRECISIONS).field()
    normalize_observations: bool = redeclared(ActorCritic, "normalize_observations", True)

    TRAINING: ClassVar[dict[str, Any]] = ON_POLICY_TRAINING

    @property
    def policy_network(self) -> PolicyNetwork:
        """The policy's network."""
        return make_policy_network(
            self, log_std_bounds=self.log_std_bounds, log_std_max=self.log_std_max, mean_max=self.mean_max
        )

    @property
    def value_network(self) -> ValueNetwork:
        """The value function's network."""
        return ValueNetwork(
            hidden_sizes=self.value_hidden_sizes or self.hidden_sizes,
            activation=self.value_activation or self.activation,
            norm=self.value_norm,
            precision=self.matmul_precision,
        )

    @property
    def steps_per_update(self) -> int:
        """Gradient steps of one ``update``."""
        return self.num_epochs * self.num_minibatches

    def rows(self, state: OnPolicyState, experience: Transition) -> tuple[dict[str, Array], Metrics]:
        """Says what every step of a round was worth.

        Args:
            state: Of the policy that made the steps.
            experience: `[T, E, ...]`, raw.

        Returns:
            ``observation`` (normalised) and ``advantage``, and unless nothing is to be learned of values ``target`` and
            how much each step counts there, ``weight``, `[T, E, ...]`; and metrics of the round.
        """
        raise NotImplementedError

    def init(self, key: Key) -> OnPolicyState:
        """Starts parameters, optimiser and statistics. The key is consumed."""
        policy_key, value_key = jax.random.split(key)
        observation = jnp.zeros((1, self.observation_size))
        policy = PolicyParameters(self.policy_network).init(policy_key, self.of_policy(observation))
        scales = {"mean": self.head_scale, "log_std": self.head_scale if self.state_dependent_std else 0.0}
        for head, scale in scales.items():
            policy["params"][head]["kernel"] = scale * policy["params"][head]["kernel"]
        value = self.value_network.init(value_key, self.of_critics(observation))
        return OnPolicyState(
            policy=policy,
            value=value,
            optimizer=self._make_optimizer().init((policy["params"], value["params"])),
            normalizer=normalization.init(self.observation_size),
        )

    def observe(self, state: OnPolicyState, observation: Array) -> OnPolicyState:
        """Leaves the statistics as they are: ``update`` moves them."""
        return state

    def act(
        self, state: OnPolicyState, key: Key, observation: Array, *, deterministic: bool = False
    ) -> tuple[Array, dict[str, Array]]:
        """Chooses actions `[B, action_dim]` at raw observations `[B, obs_dim]`. The key is consumed.

        Returns:
            The actions, and of each its value before tanh and its log-probability.
        """
        distribution = self.policy(state).distribution(self.of_policy(observation))
        assert isinstance(distribution, TanhGaussian)
        pre_tanh = distribution.mean if deterministic else distribution.sample_pre_tanh(key)
        return jnp.tanh(pre_tanh), {"pre_tanh": pre_tanh, "log_prob": distribution.log_prob(pre_tanh[None])[0]}

    def update(self, state: OnPolicyState, key: Key, experience: Transition) -> tuple[OnPolicyState, Metrics]:
        """Makes all gradient steps of a round `[T, E, ...]`, raw. The key is consumed."""
        rows, of_round = self.rows(state, experience)
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows | experience.extras)

        def epoch(state: OnPolicyState, key: Key) -> tuple[OnPolicyState, Packed]:
            order_key, *step_keys = jax.random.split(key, self.num_minibatches + 1)
            order = jax.random.permutation(order_key, len(rows["advantage"])).reshape(self.num_minibatches, -1)
            return jax.lax.scan(
                lambda state, step: self._step(state, *step, rows), state, (jnp.stack(step_keys), order)
            )

        state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, self.num_epochs))
        normalizer = normalization.update(state.normalizer, experience.observation.reshape(-1, self.observation_size))
        means = {name: jnp.mean(values) for name, values in metrics.unpack().items()}
        return dataclasses.replace(state, normalizer=normalizer), means | of_round

    def diagnostics(self, state: OnPolicyState) -> Metrics:
        """Returns nothing."""
        return {}

    def loss(self, params: tuple[PyTree, PyTree], key: Key, batch: dict[str, Array]) -> tuple[Array, Metrics]:
        """Returns what a gradient step makes smaller, and metrics of it.

        Args:
            params: Of the policy and of the value function.
            key: Consumed.
            batch: What ``rows`` gave and ``act`` added, `[B, ...]`.
        """
        policy, value = params
        if not self.state_dependent_std:  # its weights begin as 0 and stay so
            log_std = policy["log_std"]
            policy = policy | {"log_std": log_std | {"kernel": jax.lax.stop_gradient(log_std["kernel"])}}
        distribution = self.policy_network.apply({"params": policy}, self.of_policy(batch["observation"]))
        log_ratio = cast(TanhGaussian, distribution).log_prob(batch["pre_tanh"][None])[0] - batch["log_prob"]
        # Bounded, since an infinite ratio has the gradient NaN even where it is clipped.
        ratio, advantage = jnp.exp(jnp.minimum(log_ratio, MAX_LOG_RATIO)), self.advantage(batch)
        clipped = jnp.clip(ratio, 1.0 - self.clip_range, 1.0 + self.clip_range)
        actor_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
        action, log_prob = distribution.sample(key, 1)
        metrics = {
            "actor/loss": actor_loss,
            "actor/kl": jnp.mean(ratio - 1.0 - log_ratio),
            "actor/clipped": jnp.mean(jnp.abs(ratio - 1.0) > self.clip_range),
            **policy_metrics(distribution, action, log_prob),
        }
        loss = actor_loss - self.entropy_weight * metrics["actor/entropy"]
        if "target" not in batch:
            return loss, metrics
        values = outputs_of(self.value_network, {"params": value}, self.of_critics(batch["observation"]))
        value_loss = jnp.mean(batch["weight"] * (values - batch["target"]) ** 2)
        metrics |= {"critic/loss": value_loss, "critic/value_mean": jnp.mean(batch["weight"] * values)}
        return loss + self.value_weight * value_loss, metrics

    def advantage(self, batch: dict[str, Array]) -> Array:
        """Returns the advantages of a minibatch as they count in a gradient step, `[B]`."""
        return batch["advantage"]

    def _step(
        self, state: OnPolicyState, key: Key, order: Array, rows: dict[str, Array]
    ) -> tuple[OnPolicyState, Packed]:
        """Makes a gradient step from some of the round's rows."""
        params = state.policy["params"], state.value["params"]
        batch = jax.tree.map(lambda leaf: leaf[order], rows)
        gradient, metrics = jax.grad(self.loss, has_aux=True)(params, key, batch)
        updates, optimizer = self._make_optimizer().update(gradient, state.optimizer, params)
        policy, value = optax.apply_updates(params, updates)
        metrics["actor/grad_norm"] = optax.tree.norm(gradient[0])
        metrics["critic/grad_norm"] = optax.tree.norm(gradient[1])
        state = dataclasses.replace(state, policy={"params": policy}, value={"params": value}, optimizer=optimizer)
        return state, pack(metrics)

    def _make_optimizer(self) -> optax.GradientTransformation:
        # Built from the fields at every use, so that numbers can be traced.
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(self.learning_rate, eps=self.adam_epsilon)
        )
