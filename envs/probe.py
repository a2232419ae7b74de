"""Tiny environments whose answer is known, for testing agents in seconds.

| name | observation | reward | ends | answer |
|---|---|---|---|---|
| one_step | 1 | 1 | after 1 step | Q = 1 |
| discounting | 0, then 1 | 0, then 1 | after 2 steps | Q = gamma at the first, 1 at the second |
| action | sign, -1 or 1 | -(a - sign/2)^2 | after 1 step | a = sign/2 |
| termination | 1 | 1 | after 1 step; time limit 5 | Q = 1 |
| truncation | 1 | 1 | never; time limit 5 | Q = 1 / (1 - gamma) |
| narrow_peak | 1 | max(broad, narrow) | after 1 step | see below |

``narrow_peak`` has two hills of reward over one action: 0.5 exp(-((a + 0.5) / 0.5)^2 / 2) and
exp(-((a - 0.7) / 0.1)^2 / 2). A point mass on the higher, narrow hill is best for every number of retries, but at the
spread that a policy starts with (u ~ N(mu, 1), a = tanh(u)) the mean reward is highest for mu on the broad hill, and
the expected best of eight for mu on the narrow one. So a mean-maximising actor settles on the broad hill, and max@8 on
the other.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from envs.device import DeviceEnvironment
from remac.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Probe:
    """A task with one observation and one action; its physics is (observation, steps made).

    Attributes:
        reward: Reward of (observation, action), scalars.
        first: Draws the first observation, scalar.
        following: Next observation of the present one, scalar.
        length: Steps until termination; 0 means never.
    """

    reward: Callable[[Array, Array], Array]
    first: Callable[[Key], Array] = lambda key: jnp.ones(())
    following: Callable[[Array], Array] = lambda observation: observation
    length: int = 1
    observation_size: int = 1
    action_size: int = 1

    def start(self, key: Key) -> tuple[tuple[Array, Array], Array]:
        """Draws a start."""
        observation = self.first(key)
        return (observation, jnp.zeros((), jnp.int32)), observation[None]

    def advance(self, physics: tuple[Array, Array], action: Array) -> tuple[tuple[Array, Array], Array, Array, Array]:
        """Applies an action `[1]`."""
        observation, steps = physics
        reward = self.reward(observation, action[0])
        observation, steps = self.following(observation), steps + 1
        return (observation, steps), observation[None], reward, steps == self.length


def narrow_peak_reward(action: Array) -> Array:
    """Reward of ``narrow_peak`` at actions of any shape."""
    broad = 0.5 * jnp.exp(-0.5 * ((action + 0.5) / 0.5) ** 2)
    return jnp.maximum(broad, jnp.exp(-0.5 * ((action - 0.7) / 0.1) ** 2))


PROBES = {
    "one_step": Probe(lambda observation, action: jnp.ones(())),
    "discounting": Probe(
        lambda observation, action: observation,
        first=lambda key: jnp.zeros(()),
        following=lambda observation: jnp.ones(()),
        length=2,
    ),
    "action": Probe(
        lambda observation, action: -((action - 0.5 * observation) ** 2),
        first=lambda key: jax.random.rademacher(key, (), jnp.float32),
    ),
    "termination": Probe(lambda observation, action: jnp.ones(())),
    "truncation": Probe(lambda observation, action: jnp.ones(()), length=0),
    "narrow_peak": Probe(lambda observation, action: narrow_peak_reward(action)),
}
TASKS = tuple(PROBES)


def make(
    task: str,
    *,
    num_envs: int,
    stagger_first_episodes: bool = False,
    episode_length: int = 5,
) -> DeviceEnvironment:
    """Builds a probe; see ``DeviceEnvironment`` for the options.

    Raises:
        InvalidValueError: If an option has a value that is not allowed.
    """
    return DeviceEnvironment(f"probe/{task}", PROBES[task], num_envs, episode_length, stagger_first_episodes)
