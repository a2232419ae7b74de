"""Tasks of chance, on which the mean, CVaR, the median and the best of several tries prefer different behaviour.

``lottery``, on the device: one step; the observation is 1, and the action chooses one of four lots. Best of K = 8:

| action | lot | pays | best for |
|---|---|---|---|
| [-1, -0.5) | likely | 1 with probability 0.7, otherwise -1.2 | median |
| [-0.5, 0) | certain | 0.6 | CVaR (lower_tail_mean:0.25) |
| [0, 0.5) | mixed | 3 with probability 0.3, otherwise 0.1 | mean |
| [0.5, 1] | long shot | 8 with probability 0.1, otherwise -0.3 | max |

``ladder``, on the device: at every rung a positive action climbs; any other one takes the rung's prize and ends the
episode. A climb fails with a probability that grows, which ends the episode with nothing; at the top the prize is
taken. The observation is the rung, one-hot, `[5]`. Of the policies that stop at one rung, for K = 8:

| rung | prize | chance to get there | chance of the next climb | best for |
|---|---|---|---|---|
| 0 | 1 | 1 | 0.9 | CVaR (lower_tail_mean:0.25) |
| 1 | 1.3 | 0.9 | 0.85 | |
| 2 | 1.9 | 0.765 | 0.5 | median |
| 3 | 5 | 0.3825 | 0.3 | mean |
| 4 | 12 | 0.11475 | | max |

On the host, MuJoCo's tasks (``envs.mujoco_tasks``) in which something rare happens: in a share ``probability`` of the
episodes, drawn unseen, every step beyond ``limit`` adds ``amount`` to the reward.

| task | beyond the limit | limit | probability | amount |
|---|---|---|---|---|
| half_cheetah | forward velocity above it (m/s) | 1 | 0.15 | -5 |
| hopper | x above it (m) | 1 | 0.1 | 10 |
| reacher | fingertip closer to the target than it (m) | 0.05 | 0.1 | -2 |

They are measured by ``rare_event``, 1 in a step at which it happens. Options are the task's and those three.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.device import DeviceEnvironment, StochasticTask
from envs.mujoco import MujocoEnvironment
from envs.mujoco_tasks import make_task
from remac.types import HUGE, AnyArray, Array, EnvState, Key
from remac.validation import InvalidValueError, require_number


class Lot(NamedTuple):
    """A prize, its probability, and what is paid otherwise."""

    prize: float
    probability: float
    otherwise: float


LOTS = (Lot(1.0, 0.7, -1.2), Lot(0.6, 1.0, 0.6), Lot(3.0, 0.3, 0.1), Lot(8.0, 0.1, -0.3))
PRIZES = (1.0, 1.3, 1.9, 5.0, 12.0)
CLIMBS = (0.9, 0.85, 0.5, 0.3)


@dataclasses.dataclass(frozen=True)
class Lottery:
    """See the module; there is no physics."""

    observation_size: int = 1
    action_size: int = 1
    stochastic: bool = True

    def start(self, key: Key) -> tuple[tuple[()], Array]:
        """Draws nothing."""
        return (), jnp.ones((1,))

    def advance(self, physics: tuple[()], action: Array, key: Key) -> tuple[tuple[()], Array, Array, Array]:
        """Buys a lot."""
        lots = jnp.array(LOTS)
        chosen = jnp.clip(jnp.floor(2.0 * (action[0] + 1.0)), 0, len(LOTS) - 1).astype(jnp.int32)
        prize, probability, otherwise = lots[chosen]
        reward = jnp.where(jax.random.uniform(key) < probability, prize, otherwise)
        return (), jnp.ones((1,)), reward, jnp.ones((), bool)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """See the module; its physics is the rung."""

    observation_size: int = len(PRIZES)
    action_size: int = 1
    stochastic: bool = True

    def start(self, key: Key) -> tuple[Array, Array]:
        """Starts at the foot."""
        rung = jnp.zeros((), jnp.int32)
        return rung, self.observe(rung)

    def advance(self, physics: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """Climbs or stops."""
        climbs = action[0] > 0.0
        holds = jax.random.uniform(key) < jnp.array(CLIMBS)[jnp.minimum(physics, len(CLIMBS) - 1)]
        rung = jnp.where(climbs & holds, physics + 1, physics)
        is_at_top = rung == len(PRIZES) - 1
        reward = jnp.where(~climbs | is_at_top, jnp.array(PRIZES)[rung], 0.0)
        return rung, self.observe(rung), reward, ~climbs | ~holds | is_at_top

    def observe(self, rung: Array) -> Array:
        """Returns which rung it is, `[5]`."""
        return jax.nn.one_hot(rung, self.observation_size)


class RareEvent(NamedTuple):
    """What happens in some episodes, at every step beyond a limit.

    Attributes:
        is_beyond: Whether a step was, `[..., E]`, of the states before and after it, its duration (s) and the limit.
        limit: In the task's unit.
        probability: Share of the episodes.
        amount: Added to the reward.
    """

    is_beyond: Callable[[EnvState, EnvState, float, float], np.ndarray]
    limit: float
    probability: float
    amount: float


def _is_faster(before: EnvState, after: EnvState, dt: float, limit: float) -> np.ndarray:
    return np.asarray(after.metrics["forward_velocity"] > limit)


def _is_further(before: EnvState, after: EnvState, dt: float, limit: float) -> np.ndarray:
    # Where an episode has ended, the state is already the next one's.
    return np.asarray(before.physics.position + dt * after.metrics["forward_velocity"] > limit)


def _is_closer(before: EnvState, after: EnvState, dt: float, limit: float) -> np.ndarray:
    return np.asarray(after.metrics["distance"] < limit)


EVENTS = {
    "half_cheetah": RareEvent(_is_faster, 1.0, 0.15, -5.0),
    "hopper": RareEvent(_is_further, 1.0, 0.1, 10.0),
    "reacher": RareEvent(_is_closer, 0.05, 0.1, -2.0),
}
DEVICE_TASKS: dict[str, tuple[StochasticTask, int]] = {"lottery": (Lottery(), 1), "ladder": (Ladder(), len(CLIMBS))}
EVENT_OPTIONS = ("limit", "probability", "amount")
TASKS = (*DEVICE_TASKS, *EVENTS)


def make(
    task: str, *, num_envs: int, stagger_first_episodes: bool = False, **options: Any
) -> "DeviceEnvironment | RareEventEnvironment":
    """Makes E environments of a task.

    Args:
        task: One of ``TASKS``.
        num_envs: E.
        stagger_first_episodes: See the suites ``mujoco`` and ``probe``.
        **options: On the device ``episode_length``; on the host ``limit``, ``probability``,
            ``amount`` and the options of the task of the suite ``mujoco``, with ``num_threads`` and ``dtype`` as there.

    Raises:
        InvalidValueError: On an option that is not there or has a value that is not allowed.
    """
    if task in DEVICE_TASKS:
        episode, length = DEVICE_TASKS[task]
        values = {"episode_length": length}
        for option, value in options.items():
            if option not in values:
                allowed = f"risk/{task} has no such option; its options are {', '.join(values)}"
                raise InvalidValueError(option, value, allowed)
        values |= options
        return DeviceEnvironment(
            f"risk/{task}", episode, num_envs, stagger_first_episodes=stagger_first_episodes, **values
        )
    event = EVENTS[task]
    given = {name: options.pop(name) for name in EVENT_OPTIONS if name in options}
    for name, value in given.items():
        limits = {"probability": (0.0, 1.0), "amount": (-HUGE / 2, HUGE / 2)}
        require_number(name, value, *limits.get(name, ()))
    num_threads, dtype = options.pop("num_threads", None), options.pop("dtype", np.float32)
    return RareEventEnvironment(
        f"risk/{task}",
        make_task(task, options, suite="risk", others=EVENT_OPTIONS),
        num_envs=num_envs,
        stagger_first_episodes=stagger_first_episodes,
        dtype=dtype,
        num_threads=num_threads,
        event=event._replace(**given),
    )


class RareEventEnvironment(MujocoEnvironment):
    """A MuJoCo task with a rare event; see the module.

    Attributes:
        event: What happens, and how often.
    """

    def __init__(self, *arguments: Any, event: RareEvent, **options: Any) -> None:
        """Takes the event beside what a ``MujocoEnvironment`` takes."""
        super().__init__(*arguments, **options)
        self.event = event
        self.metric_names = tuple(sorted((*self.metric_names, "rare_event")))

    def step(self, state: EnvState, action: AnyArray) -> EnvState:
        """Advances every environment by one action `[..., E, action_dim]`, and resets those that ended."""
        after = super().step(state, action)
        # An episode's key is random bits, another for each, and nothing that the policy sees.
        is_drawn = np.asarray(state.key)[..., 1] < self.event.probability * 2.0**64
        is_beyond = self.event.is_beyond(state, after, self.dt, self.event.limit)
        happens = (is_drawn & is_beyond & ~after.diverged).astype(self._dtype)
        extra = self._dtype.type(self.event.amount) * happens
        return after.replace(
            reward=after.reward + extra,
            episode_return=after.episode_return + extra,
            metrics=after.metrics | {"rare_event": happens},
        )
