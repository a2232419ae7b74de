"""Pure training functions, the same for every agent, suite and population size.

A training state holds P members. ``act`` and ``learn`` are one round's two halves; between them the environments step,
on the device or on the host. Members differ in the leaves of the agent only, and run through ``map_members``.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from remac import random
from remac.machine import choose, on_accelerator
from remac.training.agent import Agent
from remac.training.devices import SPLIT, WHOLE, own_keys, own_part
from remac.training.experience import transition_example
from remac.training.metrics import Packed, pack
from remac.types import AnyArray, Array, Environment, EnvState, Key, Metrics, PyTree, Transition

T = TypeVar("T")


class Steps(NamedTuple):
    """What environment steps hand to the learner; leading axes `[P, E]`, and `[P, T, E]` for a round.

    Attributes:
        transition: The steps.
        episode_return: Undiscounted return of the running or just ended episode.
        episode_ended: Whether a whole episode has just ended; one that a staggered start cut short does not count.
        diverged: Whether the simulation broke down in the step.
        metrics: The environments' own, ``EnvState.metrics``.
    """

    transition: Transition
    episode_return: Array
    episode_ended: Array
    diverged: Array
    metrics: Metrics


@struct.dataclass
class MetricSums:
    """Running sums since the last evaluation, `[P]` each; counts are int32, since float32 stops at 2^24.

    Attributes:
        totals: Sum over rounds of every metric's mean over the round.
        rounds: Number of rounds with gradient steps.
        episode_return: Sum of the returns of the episodes that ended.
        episodes: Their number.
        env_metrics: Sum over steps of every metric of the environments.
        env_steps: Number of those steps.
        diverged: Number of steps in which the simulation broke down.
        diverged_before: Their number in the training up to the last evaluation.
        failed_step: Gradient step of the first non-finite metric, the last one of its update; -1 while there is none.
            Survives ``reset_metrics``.
        failed_metric: That metric's index in ``totals``' order.
    """

    totals: Metrics
    rounds: Array
    episode_return: Array
    episodes: Array
    env_metrics: Metrics
    env_steps: Array
    diverged: Array
    diverged_before: Array
    failed_step: Array
    failed_metric: Array


@struct.dataclass
class TrainState:
    """Everything a population is while it trains, but its environments.

    Attributes:
        agent: The agents' states, leading axis `[P]`.
        replay: What the agents' kind of experience keeps from round to round.
        metrics: Sums since the last evaluation.
        key: One key a member, `[P]`.
        gradient_steps: Gradient steps made by each member, scalar int32.
    """

    agent: PyTree
    replay: PyTree
    metrics: MetricSums
    key: Key
    gradient_steps: Array


def train_state_split(agents: Agent) -> TrainState:
    """Returns how a state is split over devices."""
    return TrainState(SPLIT, agents.experience.split, SPLIT, SPLIT, WHOLE)  # type: ignore[arg-type]  # not arrays


def map_members(function: Callable[..., T], *arguments: PyTree) -> T:
    """Applies a function of one member to all members, leading axis `[P]`.

    On the CPU this is a loop, which gives a member bitwise what it gets alone; elsewhere a vmap, and of one member the
    function itself, since an axis of length 1 costs copies between layouts.
    """
    if on_accelerator():
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            return jax.vmap(function)(*arguments)
        result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], result)
    return jax.lax.map(functools.partial(_by_itself, jax.jit(function)), arguments)


def _by_itself(function: Callable[..., T], arguments: tuple[PyTree, ...]) -> T:
    """Calls a function so that XLA compiles it by itself, the same whatever surrounds the call.

    XLA removes a loop of one turn and what slices an array of one row, and then fuses a member with its surroundings
    otherwise than in a loop of many, which rounds otherwise. Nothing is fused over the bounds of a branch; the
    condition is hidden, or the branch would be removed too. Arrays pass the bounds as vectors, which have one layout
    in memory: loops over otherwise laid out arrays are vectorised otherwise, which rounds otherwise as well.

    Args:
        function: Traced once if it is a ``jax.jit``.
        arguments: Of the function.
    """
    leaves, structure = jax.tree.flatten(arguments)
    result = jax.eval_shape(function, *arguments)
    implementation = next((jax.random.key_impl(leaf) for leaf in leaves if _is_key(leaf)), None)

    def to_vector(leaf: Array) -> Array:
        return jnp.ravel(jax.random.key_data(leaf) if _is_key(leaf) else leaf)

    def from_vector(vector: Array, like: Array | jax.ShapeDtypeStruct) -> Array:
        if _is_key(like):
            return jax.random.wrap_key_data(vector.reshape(*like.shape, -1), impl=implementation)
        return vector.reshape(jnp.shape(like))

    def call(*vectors: Array) -> PyTree:
        shaped = [from_vector(vector, leaf) for vector, leaf in zip(vectors, leaves, strict=True)]
        return jax.tree.map(to_vector, function(*jax.tree.unflatten(structure, shaped)))

    def never(*_: Array) -> PyTree:
        as_vectors = jax.eval_shape(functools.partial(jax.tree.map, to_vector), result)
        return jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), as_vectors)

    vectors = [to_vector(leaf) for leaf in leaves]
    always, vectors = jax.lax.optimization_barrier((jnp.ones((), bool), vectors))
    found = jax.lax.optimization_barrier(jax.lax.cond(always, call, never, *vectors))
    return jax.tree.map(from_vector, found, result)


def _is_key(like: Array | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(like.dtype, jax.dtypes.prng_key)


def init_train_state(
    agents: Agent,
    keys: Key,
    *,
    observation_size: int,
    action_size: int,
    num_envs: int,
    replay_capacity: int,
    metric_names: tuple[str, ...] = (),
) -> tuple[TrainState, Key]:
    """Starts the members' agents, without experience.

    Args:
        agents: Stacked agents, leaves `[P, ...]`.
        keys: `[P]`, consumed.
        observation_size: obs_dim.
        action_size: action_dim.
        num_envs: E.
        replay_capacity: Rows for each member.
        metric_names: Of the environments.

    Returns:
        The state, and the members' keys for their environments, `[P]`.
    """

    def member(agent: Agent, key: Key) -> tuple[PyTree, Key, Key]:
        agent_key, train_key, env_key = jax.random.split(key, 3)
        return agent.init(random.unroll(agent_key)), train_key, env_key

    num_members, kind = keys.shape[0], agents.experience
    agent_states, train_keys, env_keys = map_members(member, agents, keys)
    one_agent, one_state = jax.tree.map(lambda leaf: leaf[0], (agents, agent_states))
    example = transition_example(observation_size, action_size, extras_of(one_agent, observation_size))
    replay = kind.init(example, replay_capacity, num_members)

    def update() -> Metrics:
        shape = (kind.steps_per_round, num_envs)
        steps = jax.tree.map(lambda leaf: jnp.zeros((*shape, *leaf.shape), leaf.dtype), example)
        batch_key, update_key = jax.random.split(jax.random.key(0))
        batch = kind.batch(replay, steps, jnp.zeros((), jnp.int32), kind.draw(replay, batch_key), one_agent.gamma)
        return one_agent.update(one_state, update_key, batch)[1]

    names = [*jax.eval_shape(update), *jax.eval_shape(one_agent.diagnostics, one_state)]
    zeros, none = jnp.zeros((num_members,)), jnp.zeros((num_members,), jnp.int32)
    sums = MetricSums(
        totals={name: zeros for name in names},
        rounds=none,
        episode_return=zeros,
        episodes=none,
        env_metrics={name: zeros for name in metric_names},
        env_steps=none,
        diverged=none,
        diverged_before=none,
        failed_step=none - 1,
        failed_metric=none,
    )
    return TrainState(agent_states, replay, sums, train_keys, jnp.zeros((), jnp.int32)), env_keys


def extras_of(agent: Agent, observation_size: int) -> PyTree:
    """Returns what one step's ``Transition.extras`` look like, as zeros."""
    return _extras_of(*structure_of(agent), observation_size)


def structure_of(agent: Agent) -> tuple[jax.tree_util.PyTreeDef, tuple[tuple[Any, Any], ...]]:
    """Returns what agents that differ in numbers only have in common: the tree, and the leaves' shapes and types."""
    leaves, structure = jax.tree.flatten(agent)
    return structure, tuple((np.shape(leaf), np.result_type(leaf)) for leaf in leaves)


@functools.lru_cache
def _extras_of(
    structure: jax.tree_util.PyTreeDef, leaves: tuple[tuple[Any, Any], ...], observation_size: int
) -> PyTree:
    def act(agent: Agent) -> PyTree:
        init_key, action_key = jax.random.split(jax.random.key(0))
        return agent.act(agent.init(init_key), action_key, jnp.zeros((1, observation_size)))[1]

    like = structure.unflatten(jax.ShapeDtypeStruct(*leaf) for leaf in leaves)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), jax.eval_shape(act, like))


def make_steps(before: PyTree, action: PyTree, extras: PyTree, after: PyTree) -> Steps:
    """Makes the learner's input of one step from one ``EnvState`` to the next, whose arrays are NumPy's or JAX's.

    A termination gets discount 0; a truncation keeps 1 and the true next observation, so it bootstraps.
    """
    ended = after.termination | after.truncation
    return Steps(
        transition=Transition(
            observation=before.observation,
            action=action,
            reward=after.reward,
            discount=1.0 - after.termination.astype(after.reward.dtype),
            next_observation=after.final_observation,
            truncation=after.truncation,
            extras=extras,
        ),
        episode_return=after.episode_return,
        episode_ended=ended & (after.episode_length == after.step_count),
        diverged=after.diverged,
        metrics=after.metrics,
    )


def reset(keys: Key, *, env: Environment, group_size: int = 1) -> EnvState:
    """Starts the environments of every member, keys `[P]`; see ``Environment.reset``."""
    return map_members(functools.partial(env.reset, group_size=group_size), keys)


def act(agents: Agent, agent_states: PyTree, keys: Key, observation: AnyArray) -> tuple[Array, PyTree, Key]:
    """Samples every member's actions.

    Args:
        agents: Leaves `[P, ...]`.
        agent_states: Leaves `[P, ...]`.
        keys: `[P]`, consumed.
        observation: `[P, E, obs_dim]`.

    Returns:
        Actions `[P, E, action_dim]`, the agents' extras `[P, E, ...]`, and the members' next keys.
    """

    def member(agent: Agent, state: PyTree, key: Key, observation: Array) -> tuple[Array, PyTree, Key]:
        next_key, action_key = jax.random.split(key)
        action, extras = agent.act(state, random.unroll(action_key), observation)
        return action, extras, next_key

    return map_members(member, agents, agent_states, keys, observation)


def learn(agents: Agent, state: TrainState, new: Steps, *, num_updates: int) -> TrainState:
    """Takes in a round's steps and makes ``num_updates`` updates (0 while prefilling).

    A member with a non-finite metric keeps the agent state it had before that round, for good.

    Args:
        agents: Leaves `[P, ...]`.
        state: Before the round; donate it.
        new: Leading axes `[P, T, E]`.
        num_updates: Static.
    """
    kind = agents.experience
    replay = kind.add(state.replay, new.transition)
    members = jnp.arange(state.key.shape[0], dtype=jnp.int32)

    def member(
        index: Array, agent: Agent, before: PyTree, key: Key, sums: MetricSums, new: Steps
    ) -> tuple[PyTree, Key, MetricSums]:
        observation = new.transition.observation
        agent_state = agent.observe(before, observation.reshape(-1, *observation.shape[2:]))
        sums = _add_steps(sums, new)
        if not num_updates:
            return agent_state, key, sums

        def update(agent_state: PyTree, drawn_and_key: tuple[PyTree, Key]) -> tuple[PyTree, Packed]:
            drawn, update_key = drawn_and_key
            batch = kind.batch(replay, new.transition, index, drawn, agent.gamma)
            agent_state, metrics = agent.update(agent_state, update_key, batch)
            return agent_state, pack(metrics)

        keys = jax.random.split(key, num_updates + 1)
        pairs = jax.vmap(jax.random.split)(random.unroll(keys[1:]))
        drawn = jax.tree.map(own_part, jax.vmap(functools.partial(kind.draw, replay))(pairs[:, 0]))
        agent_state, metrics = jax.lax.scan(update, agent_state, (drawn, own_keys(pairs[:, 1])))
        sums = _add_metrics(
            sums, metrics.unpack(), agent.diagnostics(agent_state), state.gradient_steps, agent.steps_per_update
        )
        # Of whole states, since a select of each leaf is compiled by itself: an eighth of the program.
        agent_state = choose(sums.failed_step < 0, lambda new, old: new, lambda new, old: old, agent_state, before)
        return agent_state, keys[0], sums

    agent_states, keys, sums = map_members(member, members, agents, state.agent, state.key, state.metrics, new)
    gradient_steps = state.gradient_steps + num_updates * agents.steps_per_update
    return TrainState(agent_states, replay, sums, keys, gradient_steps)


def reset_metrics(sums: MetricSums) -> MetricSums:
    """Starts new sums; a recorded failure stays, and so does how often the simulation broke down."""
    zeros, none = jnp.zeros_like(sums.episode_return), jnp.zeros_like(sums.rounds)
    return dataclasses.replace(
        sums,
        totals={name: zeros for name in sums.totals},
        rounds=none,
        episode_return=zeros,
        episodes=none,
        env_metrics={name: zeros for name in sums.env_metrics},
        env_steps=none,
        diverged=none,
        diverged_before=sums.diverged_before + sums.diverged,
    )


def _add_steps(sums: MetricSums, new: Steps) -> MetricSums:
    return dataclasses.replace(
        sums,
        env_metrics={name: total + jnp.sum(new.metrics[name]) for name, total in sums.env_metrics.items()},
        env_steps=sums.env_steps + new.diverged.size,
        episode_return=sums.episode_return + jnp.sum(jnp.where(new.episode_ended, new.episode_return, 0.0)),
        episodes=sums.episodes + jnp.sum(new.episode_ended, dtype=jnp.int32),
        diverged=sums.diverged + jnp.sum(new.diverged, dtype=jnp.int32),
    )


def _add_metrics(
    sums: MetricSums, metrics: Metrics, diagnostics: Metrics, first_step: Array, steps_per_update: int
) -> MetricSums:
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
        rounds=sums.rounds + 1,
        failed_step=jnp.where(is_first, first_step + (step.astype(jnp.int32) + 1) * steps_per_update, sums.failed_step),
        failed_metric=jnp.where(is_first, index[jnp.argmin(finite[step])], sums.failed_metric),
    )
