"""Gymnasium's environments by their own vector entry points, as rows of shared arrays (``gymnasium_simulators.Slots``).

Such an environment steps many episodes at once, and resets them itself. Whichever mode of ``gymnasium.vector`` it does
that in, a row's last observation is the true one, and no step that is a reset becomes a transition:

| mode | what is done |
|---|---|
| ``SAME_STEP`` | the last observation is its ``final_obs`` |
| ``DISABLED`` | rows that ended are reset, by ``reset_mask`` |
| ``NEXT_STEP`` | the step that resets is made at once, which asks for all episodes to end together |

Its seed is that of the first row when episodes begin by ``reset``; later ones begin as it draws them.
"""

import contextlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.gymnasium_simulators import BEGIN, STEP, Flat, Recipe, Slots, is_number, told
from envs.quiet import quiet_mujoco


class Vectors:
    """The vector environments of all rows, in this process, each of ``num_envs`` neighbours."""

    def __init__(self, recipe: Recipe, metric_names: tuple[str, ...], slots: Slots, num_envs: int) -> None:
        """Makes them.

        Raises:
            SimulatorError: One of them cannot be made.
        """
        import gymnasium

        self._recipe, self._metric_names, self._num_envs = recipe, metric_names, num_envs
        starts = range(0, len(slots.command), num_envs)
        self._parts = [Slots(*(array[start : start + num_envs] for array in slots)) for start in starts]
        with told(recipe.name, "making it"):
            self._vectors = [recipe.make_vector(num_envs) for _ in self._parts]
            one = self._vectors[0]
            if "autoreset_mode" not in one.metadata:
                raise ValueError("it does not say how it resets itself, as autoreset_mode in its metadata")
            mode = one.metadata["autoreset_mode"]
            if not isinstance(mode, gymnasium.vector.AutoresetMode):
                raise TypeError(f"autoreset_mode in its metadata is {mode!r}; must be a gymnasium.vector.AutoresetMode")
            self._mode = mode.name
            spaces = {"observation_space": one.single_observation_space, "action_space": one.single_action_space}
            self._flat = Flat(types.SimpleNamespace(**spaces))

    def run(self) -> None:
        """Does what the rows' commands say, which are the same for all rows of a vector environment.

        Raises:
            SimulatorError: An environment raised an exception, or its episodes cannot be told apart.
        """
        with quiet_mujoco(), np.errstate(over="ignore"):
            for vector, slots in zip(self._vectors, self._parts, strict=True):
                if slots.command[0] == BEGIN:
                    with told(self._recipe.name, "reset"):
                        slots.observation[:] = self._sound(self._flattened(vector.reset(seed=int(slots.seed[0]))[0]))
                elif slots.command[0] == STEP:
                    with told(self._recipe.name, "step"):
                        self._step(vector, slots)

    def close(self) -> None:
        """Closes the environments, whatever they say."""
        for vector in self._vectors:
            with contextlib.suppress(Exception):
                vector.close()

    def _step(self, vector: Any, slots: Slots) -> None:
        actions = self._flat.actions(slots.action)
        observation, reward, termination, truncation, info = vector.step(actions)
        slots.reward[:], slots.termination[:], slots.truncation[:] = reward, termination, truncation
        own = slots.termination | slots.truncation
        following = last = self._flattened(observation)
        if self._mode == "SAME_STEP" and own.any():
            last = last.copy()
            for row in np.flatnonzero(own).tolist():
                last[row] = self._flat.observation(_of_row(info["final_obs"], row))
        slots.metrics[:] = [self._metrics(info, row, row_ended) for row, row_ended in enumerate(own)]
        slots.diverged[:] = ~(self._is_sound(slots.reward[:, None]) & self._is_sound(last))
        if slots.diverged.any():
            slots.termination[slots.diverged] = True
            last = np.where(slots.diverged[:, None], slots.observation, last)
            slots.reward[slots.diverged] = slots.metrics[slots.diverged] = 0
        slots.final_observation[:] = last
        over = own | slots.last | slots.diverged
        if self._mode != "DISABLED" and (over != own).any():
            what = "breaks down" if slots.diverged.any() else "is at its time limit"
            raise ValueError(f"an episode {what} and goes on, and cannot be reset by itself")
        if self._mode == "DISABLED" and over.any():
            begun = self._flattened(vector.reset(options={"reset_mask": over})[0])
            following = np.where(over[:, None], begun, following)
        elif self._mode == "NEXT_STEP" and over.any():
            if not over.all():
                raise ValueError("an episode ends before the others, and its reset would be one of their steps")
            following = self._flattened(vector.step(actions)[0])
        slots.observation[:] = self._sound(following)

    def _flattened(self, observation: Any) -> np.ndarray:
        """Returns the rows of a batch of observations, `[num_envs, obs_dim]`."""
        return np.stack([self._flat.observation(_of_row(observation, row)) for row in range(self._num_envs)])

    def _metrics(self, info: Mapping[str, Any], row: int, ended: bool) -> list[float]:
        own = info["final_info"] if ended and "final_info" in info else info
        values = []
        for name in self._metric_names:
            has = name in own and np.ndim(own[name]) == 1 and (f"_{name}" not in own or own[f"_{name}"][row])
            value = own[name][row] if has else 0
            values.append(float(value) if is_number(value) and np.isfinite(value) else 0.0)
        return values

    def _sound(self, observation: np.ndarray) -> np.ndarray:
        """Requires starts, and what goes on, to be finite and not huge; a row's start cannot be drawn again."""
        if not self._is_sound(observation).all():
            raise ValueError(f"a start is not finite, or beyond {self._recipe.huge:g}")
        return observation

    def _is_sound(self, values: np.ndarray) -> np.ndarray:
        return (np.abs(values) < self._recipe.huge).all(axis=-1)


def _of_row(batch: Any, row: int) -> Any:
    """Returns one environment's observation of a batch, as ``gymnasium.vector`` batches Dict and Tuple spaces."""
    if isinstance(batch, Mapping):
        return {name: _of_row(values, row) for name, values in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_of_row(values, row) for values in batch)
    return batch[row]
