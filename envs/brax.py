"""Brax tasks on the device. Observations, rewards and terminations are Brax's own (brax.envs).

| task | observation | action | time limit (steps) |
|---|---|---|---|
| ant | 27: positions and velocities of torso and joints | 8 torques | 1000 |
| halfcheetah | 17 | 6 | 1000 |
| hopper | 11 | 3 | 1000 |
| humanoid | 244, with inertias, velocities and forces | 17 | 1000 |
| humanoidstandup | 244 | 17 | 1000 |
| pusher | 23: joints, finger tip, object and goal | 7 | 100 |
| reacher | 11: joint angles, target, finger tip to target | 2 | 50 |
| swimmer | 8 | 2 | 1000 |
| walker2d | 17 | 6 | 1000 |

The time limits are the protocol's (arXiv 2606.05888). Actions are in [-1, 1], as Brax takes them.
"""

import contextlib
import dataclasses
import inspect
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from envs.device import DeviceEnvironment
from remac.types import Array, InvalidValueError, Key
from remac.validation import require_int, require_one_of

BACKENDS = ("generalized", "positional", "spring", "mjx")
EPISODE_LENGTHS = {
    "ant": 1000,
    "halfcheetah": 1000,
    "hopper": 1000,
    "humanoid": 1000,
    "humanoidstandup": 1000,
    "pusher": 100,
    "reacher": 50,
    "swimmer": 1000,
    "walker2d": 1000,
}
TASKS = tuple(EPISODE_LENGTHS)


@dataclasses.dataclass(frozen=True, eq=False)
class BraxTask:
    """One Brax episode; the physics is Brax's own state.

    Attributes:
        env: An environment of ``brax.envs``.
    """

    env: Any

    @property
    def observation_size(self) -> int:
        """obs_dim."""
        return self.env.observation_size

    @property
    def action_size(self) -> int:
        """action_dim."""
        return self.env.action_size

    def start(self, key: Key) -> tuple[Any, Array]:
        """Draws a start."""
        state = self.env.reset(jax.random.key_data(key))
        return state, state.obs

    def advance(self, physics: Any, action: Array) -> tuple[Any, Array, Array, Array]:
        """Applies an action `[action_dim]`."""
        state = self.env.step(physics, action)
        return state, state.obs, state.reward, state.done.astype(bool)


def make(
    task: str,
    *,
    num_envs: int,
    stagger_first_episodes: bool = False,
    backend: str = "generalized",
    episode_length: int | None = None,
    **options: Any,
) -> DeviceEnvironment:
    """Builds a Brax task; further options go to Brax's own constructor.

    Raises:
        InvalidValueError: If an option does not exist or has a value that is not allowed.
    """
    require_one_of("backend", backend, BACKENDS)
    episode_length = EPISODE_LENGTHS[task] if episode_length is None else episode_length
    require_int("episode_length", episode_length, 1)
    with _quiet():
        from brax import envs

        try:
            env = envs.get_environment(task, backend=backend, **options)
        except TypeError:
            known = _options_of(type(envs.get_environment(task)))
            for option in options:
                if option not in known:
                    allowed = f"brax/{task} has no such option; its options are {', '.join(sorted(known))}"
                    raise InvalidValueError(option, options[option], allowed) from None
            raise
    return DeviceEnvironment(f"brax/{task}", BraxTask(env), num_envs, episode_length, stagger_first_episodes)


def _options_of(env_class: type) -> set[str]:
    """Lists what a Brax environment's constructor takes, with what it hands on to its base class."""
    names = {name for cls in env_class.__mro__ for name in inspect.signature(cls.__init__).parameters}
    return (names - {"self", "sys", "args", "kwargs"}) | {"backend", "episode_length", "stagger_first_episodes"}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what Brax and MJX say about optional packages and their own future when they are imported."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
