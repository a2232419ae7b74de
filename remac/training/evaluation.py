"""Evaluation of every member's policy from the same starts, with the mean action and with sampled ones."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from remac import random
from remac.estimators.order_statistics import lstat_weights, rank_weights
from remac.policies.policy import Policy
from remac.training.devices import SPLIT, WHOLE, MemberSplit
from remac.training.functions import map_members, reset
from remac.training.pacing import Pacer
from remac.types import AnyArray, Array, Environment, EnvState, Key

MAX_AT_KS = (1, 2, 4, 8)
NUM_MODES = 2  # index 0: the distribution's mode; index 1: a sample


class Outcomes(NamedTuple):
    """Outcome so far of one episode in each environment, `[P, 2, E]`; the second axis is the action mode.

    Attributes:
        alive: Whether the episode is still running.
        episode_return: Undiscounted return.
        length: Number of steps.
        entropy: Sum over steps of -log pi of a sampled action.
        metrics: Sums over steps of ``EnvState.metrics``.
    """

    alive: Any
    episode_return: Any
    length: Any
    entropy: Any
    metrics: Any


def close(env: Environment) -> None:
    """Closes what environments keep open: simulators of some suites take memory, or processes."""
    if hasattr(env, "close"):
        env.close()


class Evaluator:
    """Runs one episode in each of ``num_envs`` environments, per member and action mode.

    The randomness comes from the evaluation key alone and is the same for every member, so that all policies meet
    the same starts. Programs are compiled once.
    """

    def __init__(self, env: Environment, split: MemberSplit, num_retries: int = 1) -> None:
        """Takes environments made for evaluation (E episodes at a time, none staggered), and where members live.

        So many neighbouring episodes begin from the same start; the number divides E.
        """
        self._env, self._split, self._num_retries = env, split, num_retries
        self._act = split.program(_act, (SPLIT, WHOLE, WHOLE, SPLIT), SPLIT)
        if env.on_device:
            # With as many environments as the training has, the training's own program.
            self._reset = split.program(reset, (SPLIT,), SPLIT, env=env, group_size=num_retries)
            # Episodes start within a program: made outside, they would differ in sharding and compile a second one.
            self._begin = split.program(begin, (SPLIT,), SPLIT)
            self._rollout = split.program(steps, (SPLIT, WHOLE, SPLIT, SPLIT, WHOLE, WHOLE), SPLIT, env=env)

    def __call__(self, policies: Policy, key: Key, pacer: Pacer) -> dict[str, np.ndarray]:
        """Evaluates all members; returns metrics `eval/...`, `[P]` each. Arguments are those of ``episodes``."""
        return summarize(self.episodes(policies, key, pacer), self._num_retries)

    def episodes(self, policies: Policy, key: Key, pacer: Pacer) -> Outcomes:
        """Runs the episodes of all members.

        Args:
            policies: Leaves `[places, ...]`.
            key: Consumed.
            pacer: Hands control to the caller now and then.

        Returns:
            What came of them, `[P, 2, E]`.
        """
        run = self._on_device if self._env.on_device else self._on_host
        reset_key, action_key = jax.random.split(key)
        episodes = run(policies, reset_key, action_key, pacer)
        finished: Outcomes = self._split.members(jax.tree.map(np.asarray, episodes))
        return finished

    def close(self) -> None:
        """Closes what the environments keep open."""
        close(self._env)

    def _on_host(self, policies: Policy, reset_key: Key, action_key: Key, pacer: Pacer) -> Outcomes:
        reset_keys = jnp.broadcast_to(reset_key, (self._split.num_places, NUM_MODES))
        env_state = self._env.reset(reset_keys, self._num_retries)
        episodes = _start(env_state, np)
        step = 0
        while episodes.alive.any():
            action, log_prob = self._act(policies, action_key, step, env_state.observation)
            env_state = self._env.step(env_state, np.asarray(action))
            episodes = _advance(episodes, env_state, np.asarray(log_prob), np)
            step += 1
            pacer.tick()
        return episodes

    def _on_device(self, policies: Policy, reset_key: Key, action_key: Key, pacer: Pacer) -> Outcomes:
        reset_keys = self._split.place(jnp.broadcast_to(reset_key, (self._split.num_members,)))
        env_state, episodes = self._begin(self._reset(reset_keys))
        step = 0
        while jax.device_get(episodes.alive).any():
            rollout = functools.partial(self._rollout, policies, action_key, env_state, episodes, step)
            (env_state, episodes), num_steps = pacer.run_chunk("evaluation", self._env.episode_length - step, rollout)
            step += num_steps
            pacer.tick()
        return episodes


def begin(env_state: EnvState) -> tuple[EnvState, Outcomes]:
    """Gives both action modes the starts `[P, E]`."""

    def twice(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf[:, None], (leaf.shape[0], NUM_MODES, *leaf.shape[1:]))

    both = jax.tree.map(twice, env_state)
    return both, _start(both, jnp)


def steps(
    policies: Policy,
    action_key: Key,
    env_state: EnvState,
    episodes: Outcomes,
    first_step: Array,
    num_steps: Array,
    *,
    env: Environment,
) -> tuple[EnvState, Outcomes]:
    """Makes steps of an evaluation in environments on the device, one act and step each.

    Args:
        policies: Leaves `[P, ...]`.
        action_key: The same for all members and steps.
        env_state: Leaves `[P, 2, E, ...]`, of the mean action and of sampled ones.
        episodes: What came of them until now, `[P, 2, E]`.
        first_step: Of the episodes, from 0.
        num_steps: A number on the device.
        env: Static.
    """
    env_step = getattr(env, "step_to_the_end", env.step)

    def body(step: Array, carry: tuple[EnvState, Outcomes]) -> tuple[EnvState, Outcomes]:
        env_state, episodes = carry
        action, log_prob = _act(policies, action_key, step, env_state.observation)
        env_state = map_members(jax.vmap(env_step), env_state, action)
        return env_state, _advance(episodes, env_state, log_prob, jnp)

    return jax.lax.fori_loop(first_step, first_step + num_steps, body, (env_state, episodes))


def _act(policies: Policy, key: Key, step: Array, observation: AnyArray) -> tuple[Array, Array]:
    """Returns actions `[P, 2, E, action_dim]` and log-probabilities `[P, 2, E]` of sampled ones."""
    # The same randomness for every member, on purpose.
    keys = jnp.broadcast_to(jax.random.fold_in(key, step), (observation.shape[0],))

    def member(policy: Policy, key: Key, observation: Array) -> tuple[Array, Array]:
        distribution = policy.distribution(observation)
        sampled, log_prob = distribution.sample(random.unroll(key), 1)
        return jnp.stack([distribution.mode()[0], sampled[0, 1]]), log_prob[0]

    return map_members(member, policies, keys, observation)


def _start(env_state: EnvState, xp: Any) -> Outcomes:
    shape = env_state.reward.shape
    zeros = xp.zeros(shape, xp.float32)
    metrics = dict.fromkeys(env_state.metrics, zeros)
    return Outcomes(xp.ones(shape, bool), zeros, xp.zeros(shape, xp.int32), zeros, metrics)


def _advance(episodes: Outcomes, env_state: EnvState, log_prob: Array | np.ndarray, xp: Any) -> Outcomes:
    alive = episodes.alive
    return Outcomes(
        alive=alive & ~(env_state.termination | env_state.truncation),
        episode_return=xp.where(alive, env_state.episode_return, episodes.episode_return),
        length=xp.where(alive, env_state.episode_length, episodes.length),
        entropy=episodes.entropy - xp.where(alive, log_prob, 0.0),
        metrics={
            name: total + xp.where(alive, env_state.metrics[name], 0.0) for name, total in episodes.metrics.items()
        },
    )


def summarize(episodes: Outcomes, num_retries: int = 1) -> dict[str, np.ndarray]:
    """Reduces finished episodes to metrics, `[P]` each.

    ``eval/return`` and ``eval/episode_length`` are of the deterministic policy; ``eval/return_stochastic``,
    ``eval/entropy`` (nats, mean over steps) and ``eval/max_at_k`` of the sampling one. ``eval/max_at_k`` is the
    unbiased estimate of the expected best of k episodes from k starts, too low with several retries, which share them;
    a k above the number of episodes is left out. ``eval/median`` and ``eval/cvar_25``, the mean of the worst quarter,
    are of the same episodes. With several retries, R neighbouring episodes from each start, ``eval/per_start/...`` are
    those three of the R, averaged over starts.
    ``eval/env/<name>`` is the mean over the deterministic policy's episodes of each one's mean over its steps.
    """
    members = range(len(episodes.alive))
    rows = [_summarize_member(jax.tree.map(lambda leaf, one=one: leaf[one], episodes), num_retries) for one in members]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _summarize_member(episodes: Outcomes, num_retries: int) -> dict[str, np.float64]:
    """Reduces one member's episodes `[2, E]`; always on contiguous rows, since NumPy's sums depend on the layout."""
    returns, stochastic = np.array(episodes.episode_return, np.float64)
    length, entropy = np.array(episodes.length), np.array(episodes.entropy)
    metrics = {
        "eval/return": returns.mean(),
        "eval/return_stochastic": stochastic.mean(),
        "eval/episode_length": length[0].mean(),
        "eval/entropy": entropy[1].sum() / length[1].sum(),
    }
    metrics |= {f"eval/env/{name}": (total[0] / length[0]).mean() for name, total in episodes.metrics.items()}
    metrics |= {f"eval/{name}": values[0] for name, values in _order_statistics(stochastic[None]).items()}
    if num_retries > 1:
        per_start = _order_statistics(stochastic.reshape(-1, num_retries))
        metrics |= {f"eval/per_start/{name}": values.mean() for name, values in per_start.items()}
    return metrics


def _order_statistics(returns: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the order statistics of groups of returns `[groups, N]` that are recorded, `[groups]` each."""
    ascending, number = np.sort(returns, axis=1), returns.shape[1]
    # In NumPy: as a program this takes 0.7 s to compile. Not by BLAS, which chooses its sums by the layout.
    weights = {f"max_at_{k}": rank_weights("max", k, number) for k in MAX_AT_KS if k <= number}
    for name, objective in (("median", "median"), ("cvar_25", "lower_tail_mean:0.25")):
        weights[name] = lstat_weights(objective, number)
    return {name: np.sum(ascending * values, axis=1) for name, values in weights.items()}
