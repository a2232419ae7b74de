"""What suites on the host share: they keep their environments as rows of flat NumPy batches."""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from remac import random
from remac.types import HUGE, AnyArray, Array, EnvState, Key


class Threads:
    """Threads that share the rows of a batch, in contiguous chunks, and step one batch at a time.

    Attributes:
        number: Of the threads, the calling one among them: for few environments the hand-over costs as much as the
            physics.
    """

    def __init__(self, number: int, name: str) -> None:
        """Starts none of them yet."""
        self.number = number
        self._pool = ThreadPoolExecutor(max(1, number - 1), name)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Keeps batches from being stepped; what is entered may not ``run``."""
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        """Lets batches be stepped again."""
        self._lock.release()

    def run(self, work: Callable[[int, int, int], None], count: int) -> None:
        """Calls ``work(thread, first, last)`` once for each chunk of ``count`` rows."""
        num_chunks = min(self.number, count)
        first = [count * chunk // num_chunks for chunk in range(num_chunks + 1)]
        with self:
            futures = [self._pool.submit(work, chunk, first[chunk], first[chunk + 1]) for chunk in range(1, num_chunks)]
            work(0, first[0], first[1])
            for future in futures:
                future.result()


def draw_keys(key: Key, num_envs: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Makes each environment's own key of typed JAX keys `[...]`, which are consumed.

    Returns:
        The leading axes `(..., E)`, and random words, uint32 `[count, 4]`.
    """
    return (*key.shape, num_envs), np.asarray(_draw_words(key.reshape(-1), num_envs)).reshape(-1, 4)


@functools.partial(jax.jit, static_argnums=1)
def _draw_words(keys: Key, num_envs: int) -> Array:
    return jax.vmap(lambda key: jax.random.bits(random.unroll(key), (num_envs, 4), "uint32"))(keys)


def first_of_groups(count: int, group_size: int) -> np.ndarray:
    """Returns for each row the first one of its group of neighbours, `[count]`."""
    return np.arange(count) // group_size * group_size


def flat_actions(state: EnvState, action: AnyArray, action_size: int, dtype: Any) -> np.ndarray:
    """Returns actions `[..., E, action_dim]` as rows, clipped to [-1, 1].

    Raises:
        ValueError: The shape is not that of the state's environments.
    """
    action, shape = np.asarray(action), (*state.reward.shape, action_size)
    if action.shape != shape:
        raise ValueError(f"expected actions of shape {shape}, got {action.shape}")
    return np.clip(action.reshape(-1, action_size).astype(dtype), -1, 1)


def count_step(state: EnvState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts a step, from 1 again where an episode has ended.

    Returns:
        The state's ``step_count`` and ``episode_length`` with it, and its ``episode_return`` before it, `[count]` each.
    """
    count = state.reward.size
    going_on = ~np.reshape(state.termination | state.truncation, count)
    step_count = np.reshape(state.step_count, count) * going_on + np.int32(1)
    episode_length = np.reshape(state.episode_length, count) * going_on + np.int32(1)
    return step_count, episode_length, np.where(going_on, np.reshape(state.episode_return, count), 0)


def beginning(
    physics: Any, observation: np.ndarray, key: np.ndarray, step_count: np.ndarray, metric_names: tuple[str, ...]
) -> EnvState:
    """Returns the flat state at the beginning of episodes, numbers in the observation's type."""
    count, dtype = len(observation), observation.dtype
    return EnvState(
        physics=physics,
        observation=observation,
        reward=np.zeros(count, dtype),
        termination=np.zeros(count, bool),
        truncation=np.zeros(count, bool),
        diverged=np.zeros(count, bool),
        final_observation=observation.copy(),
        step_count=step_count,
        key=key,
        episode_return=np.zeros(count, dtype),
        episode_length=np.zeros(count, np.int32),
        metrics={name: np.zeros(count, dtype) for name in metric_names},
    )


def is_sound(values: np.ndarray) -> np.ndarray:
    """Whether all numbers of each row `[B, n]` are finite and not huge, `[B]`."""
    return (np.abs(values) < HUGE).all(axis=1)


def unflatten(lead: tuple[int, ...], state: EnvState) -> EnvState:
    """Gives every array of a flat state the leading axes."""
    return jax.tree.map(lambda array: array.reshape(*lead, *array.shape[1:]), state)
