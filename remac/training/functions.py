"""Pure training functions, the same for every agent, suite and population size.

A training state holds P members. ``act`` and ``learn`` are one round's two halves; between them the environments step,
on the device or on the host. Members differ in the leaves of the agent only, and run through ``map_members``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from remac import random
from remac.policies.policy import Policy
from remac.training import replay as replay_lib
from remac.training.devices import SPLIT, WHOLE
from remac.training.replay import ReplayState
from remac.types import Array, EnvState, Key, Metrics, PyTree, Transition

T = TypeVar("T")


class Agent(Protocol):
    """What the training functions need of an agent; see ``agents.actor_critic`` for the arguments' meaning.

    Agents are pytrees: numbers are leaves, which a population stacks; ``batch_size`` is static.
    """

    batch_size: int

    def init(self, key: Key) -> Any:
        """Starts what the agent learns."""
        ...

    def observe(self, state: Any, observation: Array) -> Any:
        """Takes new observations `[B, obs_dim]` into the running statistics."""
        ...

    def policy(self, state: Any) -> Policy:
        """Returns the policy by itself."""
        ...

    def act(self, state: Any, key: Key, observation: Array, *, deterministic: bool = False) -> Array:
        """Chooses actions `[B, action_dim]`."""
        ...

    def update(self, state: Any, key: Key, batch: Transition) -> tuple[Any, Metrics]:
        """Makes one gradient step per network."""
        ...

    def diagnostics(self, state: Any) -> Metrics:
        """Returns metrics of the state itself, computed once a round."""
        ...


class Experience(NamedTuple):
    """What one round of environment steps hands to the learner; leading axes `[P, E]`.

    Attributes:
        transition: The steps.
        episode_return: Undiscounted return of the running or just ended episode.
        episode_ended: Whether a whole episode has just ended; one that a staggered start cut short does not count.
        diverged: Whether the simulation broke down in the step.
    """

    transition: Transition
    episode_return: Array
    episode_ended: Array
    diverged: Array


@struct.dataclass
class MetricSums:
    """Running sums since the last evaluation, `[P]` each.

    Attributes:
        totals: Sum over rounds of every metric's mean over the round.
        rounds: Number of rounds with gradient steps.
        episode_return: Sum of the returns of the episodes that ended.
        episodes: Their number.
        diverged: Number of steps in which the simulation broke down.
        failed_step: Gradient step of the first non-finite metric, -1 while there is none. Survives ``reset_metrics``.
        failed_metric: That metric's index in ``totals``' order.
    """

    totals: Metrics
    rounds: Array
    episode_return: Array
    episodes: Array
    diverged: Array
    failed_step: Array
    failed_metric: Array


@struct.dataclass
class TrainState:
    """Everything a population is while it trains, but its environments.

    Attributes:
        agent: The agents' states, leading axis `[P]`.
        replay: Shared ring buffer.
        metrics: Sums since the last evaluation.
        key: One key a member, `[P]`.
        gradient_steps: Gradient steps made by each member, scalar int32.
    """

    agent: PyTree
    replay: ReplayState
    metrics: MetricSums
    key: Key
    gradient_steps: Array


# How a state is split over devices.
TRAIN_STATE_SPLIT = TrainState(SPLIT, ReplayState(SPLIT, WHOLE, WHOLE), SPLIT, SPLIT, WHOLE)  # type: ignore[arg-type]


def map_members(function: Callable[..., T], *arguments: PyTree) -> T:
    """Applies a function of one member to all members, leading axis `[P]`.

    On the CPU this is a loop, which gives a member bitwise what it gets alone; elsewhere a vmap.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda xs: function(*xs), arguments)
    return jax.vmap(function)(*arguments)


def init_train_state(
    agents: Agent, keys: Key, *, observation_size: int, action_size: int, replay_capacity: int
) -> tuple[TrainState, Key]:
    """Starts the members' agents and an empty replay.

    Args:
        agents: Stacked agents, leaves `[P, ...]`.
        keys: `[P]`, consumed.
        observation_size: obs_dim.
        action_size: action_dim.
        replay_capacity: Rows for each member.

    Returns:
        The state, and the members' keys for their environments, `[P]`.
    """

    def member(agent: Agent, key: Key) -> tuple[PyTree, Key, Key]:
        agent_key, train_key, env_key = jax.random.split(key, 3)
        return agent.init(agent_key), train_key, env_key

    num_members = keys.shape[0]
    agent_states, train_keys, env_keys = map_members(member, agents, keys)
    one_agent, one_state = jax.tree.map(lambda leaf: leaf[0], (agents, agent_states))
    example = transition_example(observation_size, action_size)
    batch = jax.tree.map(lambda leaf: jnp.zeros((one_agent.batch_size, *leaf.shape)), example)
    _, metrics = jax.eval_shape(one_agent.update, one_state, jax.random.key(0), batch)
    names = [*metrics, *jax.eval_shape(one_agent.diagnostics, one_state)]
    zeros = jnp.zeros((num_members,))
    sums = MetricSums(
        totals={name: zeros for name in names},
        rounds=zeros,
        episode_return=zeros,
        episodes=zeros,
        diverged=zeros,
        failed_step=jnp.full((num_members,), -1, jnp.int32),
        failed_metric=jnp.zeros((num_members,), jnp.int32),
    )
    replay = replay_lib.init(example, replay_capacity, num_members)
    return TrainState(agent_states, replay, sums, train_keys, jnp.zeros((), jnp.int32)), env_keys


def transition_example(observation_size: int, action_size: int) -> Transition:
    """Returns one transition, of zeros, for sizing the replay."""
    observation, scalar = jnp.zeros((observation_size,)), jnp.zeros(())
    return Transition(observation, jnp.zeros((action_size,)), scalar, scalar, observation)


def experience(before: EnvState, action: Array | np.ndarray, after: EnvState) -> Experience:
    """Makes the learner's input of one step of NumPy or JAX environments, shapes as in ``EnvState``.

    A termination gets discount 0; a truncation keeps 1 and the true next observation, so it bootstraps.
    """
    ended = after.termination | after.truncation
    return Experience(
        transition=Transition(
            observation=before.observation,
            action=action,  # type: ignore[arg-type]
            reward=after.reward,
            discount=1.0 - after.termination.astype(after.reward.dtype),
            next_observation=after.final_observation,
        ),
        episode_return=after.episode_return,
        episode_ended=ended & (after.episode_length == after.step_count),
        diverged=after.diverged,
    )


def act(agents: Agent, agent_states: PyTree, keys: Key, observation: Array) -> tuple[Array, Key]:
    """Samples every member's actions.

    Args:
        agents: Leaves `[P, ...]`.
        agent_states: Leaves `[P, ...]`.
        keys: `[P]`, consumed.
        observation: `[P, E, obs_dim]`.

    Returns:
        Actions `[P, E, action_dim]`, and the members' next keys.
    """

    def member(agent: Agent, state: PyTree, key: Key, observation: Array) -> tuple[Array, Key]:
        next_key, action_key = jax.random.split(key)
        return agent.act(state, action_key, observation), next_key

    return map_members(member, agents, agent_states, keys, observation)


def learn(agents: Agent, state: TrainState, new: Experience, *, num_updates: int) -> TrainState:
    """Adds a round's experience to the replay and makes ``num_updates`` gradient steps (0 while prefilling).

    A member with a non-finite metric keeps the agent state it had before that round, for good.

    Args:
        agents: Leaves `[P, ...]`.
        state: Before the round; donate it.
        new: Leading axes `[P, E]`.
        num_updates: Static.
    """
    replay = replay_lib.add(state.replay, new.transition)
    members = jnp.arange(state.key.shape[0], dtype=jnp.int32)

    def member(
        index: Array, agent: Agent, before: PyTree, key: Key, sums: MetricSums, new: Experience
    ) -> tuple[PyTree, Key, MetricSums]:
        agent_state = agent.observe(before, new.transition.observation)
        sums = _add_episodes(sums, new)
        if not num_updates:
            return agent_state, key, sums

        def gradient_step(agent_state: PyTree, key: Key) -> tuple[PyTree, Metrics]:
            sample_key, update_key = jax.random.split(key)
            batch = replay_lib.sample(replay, index, sample_key, agent.batch_size)
            return agent.update(agent_state, update_key, batch)

        keys = jax.random.split(key, num_updates + 1)
        agent_state, metrics = jax.lax.scan(gradient_step, agent_state, random.unroll(keys[1:]))
        sums = _add_metrics(sums, metrics, agent.diagnostics(agent_state), state.gradient_steps)
        agent_state = jax.tree.map(lambda old, new: jnp.where(sums.failed_step < 0, new, old), before, agent_state)
        return agent_state, keys[0], sums

    agent_states, keys, sums = map_members(member, members, agents, state.agent, state.key, state.metrics, new)
    return TrainState(agent_states, replay, sums, keys, state.gradient_steps + num_updates)


def reset_metrics(sums: MetricSums) -> MetricSums:
    """Starts new sums; a recorded failure stays."""
    zeros = jnp.zeros_like(sums.rounds)
    return dataclasses.replace(
        sums,
        totals={name: zeros for name in sums.totals},
        rounds=zeros,
        episode_return=zeros,
        episodes=zeros,
        diverged=zeros,
    )


def _add_episodes(sums: MetricSums, new: Experience) -> MetricSums:
    return dataclasses.replace(
        sums,
        episode_return=sums.episode_return + jnp.sum(jnp.where(new.episode_ended, new.episode_return, 0.0)),
        episodes=sums.episodes + jnp.sum(new.episode_ended),
        diverged=sums.diverged + jnp.sum(new.diverged),
    )


def _add_metrics(sums: MetricSums, metrics: Metrics, diagnostics: Metrics, first_step: Array) -> MetricSums:
    """Adds a round's metrics, `[num_updates]` each, and its scalar diagnostics to the sums."""
    means = {name: jnp.mean(values) for name, values in metrics.items()} | diagnostics
    finite = jnp.isfinite(jnp.stack([metrics[name] for name in metrics], axis=1))
    bad_steps = ~jnp.all(finite, axis=1)
    step = jnp.argmax(bad_steps)
    is_first = jnp.any(bad_steps) & (sums.failed_step < 0)
    # The pytree's own (sorted) order of names is the one that survives a program boundary.
    index = jnp.array([sorted(sums.totals).index(name) for name in metrics], jnp.int32)
    return dataclasses.replace(
        sums,
        totals={name: total + means[name] for name, total in sums.totals.items()},
        rounds=sums.rounds + 1.0,
        failed_step=jnp.where(is_first, first_step + step.astype(jnp.int32) + 1, sums.failed_step),
        failed_metric=jnp.where(is_first, index[jnp.argmin(finite[step])], sums.failed_metric),
    )
