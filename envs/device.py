"""Turns the description of one episode in JAX into a batch of environments with time limits and auto-reset."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol, Self

import jax
import jax.numpy as jnp

from envs import OWN_METRIC
from envs.components import Components
from remac.types import HUGE, AnyArray, Array, EnvState, Key, Metrics, PyTree
from remac.validation import InvalidValueError, require_bool, require_int

_MOST_TRIES = 100


# What came of a step, with or without what it is measured by; see ``Task.advance``.
Advanced = tuple[PyTree, Array, Array, Array] | tuple[PyTree, Array, Array, Array, Metrics]


class _AnyTask(Protocol):
    """What tasks with and without chance have in common."""

    @property
    def observation_size(self) -> int:
        """obs_dim."""
        ...

    @property
    def action_size(self) -> int:
        """action_dim."""
        ...

    def start(self, key: Key) -> tuple[PyTree, Array]:
        """Draws a start: the simulator's state, and its observation `[obs_dim]`. The key is consumed."""
        ...


class Task(_AnyTask, Protocol):
    """One episode of one environment, as pure functions. This is what a new device environment has to provide.

    It is hashable and does not change, like a frozen dataclass. A simulator that keeps a random generator in its state
    has a method ``with_chance(physics, key) -> physics`` that puts another one there: episodes that begin from the same
    start then go on by chances of their own.
    """

    def advance(self, physics: PyTree, action: Array) -> Advanced:
        """Applies an action `[action_dim]` in [-1, 1].

        Returns:
            The simulator's state, its observation `[obs_dim]`, the reward and whether the task has ended, scalars; and,
            if there are any, named numbers that the step is measured by besides (``EnvState.metrics``), as a dictionary
            of scalars. Time limits are not the task's business.
        """
        ...


class StochasticTask(_AnyTask, Protocol):
    """A task in which chance plays a part, which it says by an attribute ``stochastic = True``."""

    @property
    def stochastic(self) -> bool:
        """True."""
        ...

    def advance(self, physics: PyTree, action: Array, key: Key) -> Advanced:
        """Applies an action as ``Task.advance`` does. The key is consumed."""
        ...


@functools.partial(jax.jit, static_argnums=0)
def start(task: Task | StochasticTask, key: Key) -> tuple[PyTree, Array]:
    """Draws a start of a task, which is traced once in a process, however many programs and batches it is part of.

    Raises:
        InvalidValueError: The task returns something else.
    """
    outcome = task.start(key)
    if not isinstance(outcome, tuple | list) or len(outcome) != 2:
        _refuse(task, "start", "a state and an observation", _kind(outcome))
    return outcome[0], outcome[1]


@functools.partial(jax.jit, static_argnums=0)
def advance(
    task: Task | StochasticTask, physics: PyTree, action: Array, *key: Key
) -> tuple[PyTree, Array, Array, Array, Metrics]:
    """Applies an action; traced once, likewise. The last value has no names where the task measures nothing.

    Raises:
        InvalidValueError: The task returns something else.
    """
    outcome = task.advance(physics, action, *key)
    if not isinstance(outcome, tuple | list) or len(outcome) not in (4, 5):
        wanted = "a state, an observation, a reward and a termination, and metrics if there are any"
        _refuse(task, "advance", wanted, _kind(outcome))
    metrics = outcome[4] if len(outcome) > 4 else {}
    if not isinstance(metrics, Mapping):
        _refuse(task, "advance", "metrics as a dictionary", _kind(metrics))
    return *outcome[:4], {name: jnp.float32(value) for name, value in metrics.items()}


def _refuse(task: Any, method: str, wanted: str, returned: str) -> NoReturn:
    """Refuses what a method of a task returns.

    Raises:
        InvalidValueError: Always.
    """
    allowed = f"must return {wanted} from {method}, and returns {returned}"
    raise InvalidValueError("task", type(task).__name__, allowed)


def _kind(outcome: Any) -> str:
    """Says what something is that was to be several values or named ones."""
    count = f" of {len(outcome)}" if isinstance(outcome, tuple | list | dict) else ""
    return f"a {type(outcome).__name__}{count}"


def _require_values(task: Any, method: str, values: dict[str, Any], of_observation: tuple[int, ...]) -> None:
    """Requires the shapes and types of what a method of a task returns.

    Args:
        task: A task.
        method: The name of its method.
        values: What that returns: an observation, a reward, a termination and whatever else is one number, by names.
        of_observation: The shape of an observation.

    Raises:
        InvalidValueError: One of them is something else.
    """
    for name, value in values.items():
        if not isinstance(value, jax.ShapeDtypeStruct):
            _refuse(task, method, f"one array as {name}", _kind(value))
        shape = of_observation if name == "observation" else ()
        if value.shape != shape:
            wanted = f"{name} of shape {shape}" if shape else f"{name} as a scalar"
            _refuse(task, method, wanted, f"one of shape {value.shape}")
        if name == "termination" and value.dtype != bool:
            _refuse(task, method, f"{name} as bool", str(value.dtype))
        if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            _refuse(task, method, f"{name} as real numbers", str(value.dtype))


def _layout(physics: PyTree) -> list[str]:
    """Says of every array of a state where it is, and its type and shape."""
    return [
        f"{leaf.dtype}{list(leaf.shape)} at state{jax.tree_util.keystr(path)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(physics)
    ]


@dataclasses.dataclass(frozen=True)
class DeviceEnvironment:
    """E environments of one task, side by side on the device. See ``remac.types.Environment`` and ``EnvState``.

    Every environment has a start for its next episode. Where an episode ends and that has been used, one is drawn for
    every environment whose own has been, all at once, since a start may cost hundreds of steps: no two episodes begin
    alike.
    Where a step both terminates and reaches the time limit, it counts as a termination. A step to an observation or
    reward that is not finite, or huge, is handled as ``EnvState.diverged`` says; a start with such an observation is
    not used.

    Attributes:
        name: Suite and task.
        task: The episode.
        num_envs: E.
        episode_length: Time limit in steps.
        stagger_first_episodes: Whether first episodes start at a random step count.
    """

    name: str
    task: Task | StochasticTask
    num_envs: int
    episode_length: int
    stagger_first_episodes: bool = False
    on_device: bool = dataclasses.field(default=True, init=False)

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            InvalidValueError: Naming the option, its value and what is allowed.
        """
        require_bool("stagger_first_episodes", self.stagger_first_episodes)
        try:
            hash(self.task)
        except TypeError as error:
            allowed = (
                f"must be hashable with all its fields ({error}), for example a frozen dataclass of numbers and "
                "functions, since programs are compiled for it once"
            )
            raise InvalidValueError("task", type(self.task).__name__, allowed) from None
        for name in ("num_envs", "episode_length"):
            require_int(name, getattr(self, name), 1)

    @property
    def observation_size(self) -> int:
        """obs_dim."""
        return self.task.observation_size

    @property
    def action_size(self) -> int:
        """action_dim."""
        return self.task.action_size

    @property
    def components(self) -> Components | None:
        """What the numbers of observations and actions are, if the task has such an attribute."""
        return getattr(self.task, "components", None)

    @functools.cached_property
    def metric_names(self) -> tuple[str, ...]:
        """What the task's steps are measured by.

        Raises:
            InvalidValueError: The task does not return what ``Task`` says.
        """
        size = (self.observation_size,)
        physics, observation = jax.eval_shape(self._start, jax.random.key(0))
        _require_values(self.task, "start", {"observation": observation}, size)
        action = jax.ShapeDtypeStruct((self.action_size,), jnp.float32)
        chance = [jax.random.key(0)] if self._is_stochastic else []
        after, *values, metrics = jax.eval_shape(self._advance, physics, action, *chance)
        if (wanted := _layout(physics)) != (returned := _layout(after)):
            differs = [(a, b) for a, b in itertools.zip_longest(wanted, returned, fillvalue="nothing") if a != b]
            _refuse(self.task, "advance", f"a state like that of start, with {differs[0][0]}", differs[0][1])
        if OWN_METRIC in metrics:
            raise InvalidValueError("metrics", OWN_METRIC, "is what trainings count themselves; must have another name")
        named = dict(zip(("observation", "reward", "termination"), values, strict=True))
        of_metrics = {f"metrics[{name!r}]": value for name, value in metrics.items()}
        _require_values(self.task, "advance", named | of_metrics, size)
        return tuple(sorted(metrics))

    def _start(self, key: Key) -> tuple[PyTree, Array]:
        return start(self.task, key)

    def _advance(self, physics: PyTree, action: AnyArray, *key: Key) -> tuple[PyTree, Array, Array, Array, Metrics]:
        return advance(self.task, physics, action, *key)

    def for_evaluation(self, num_envs: int) -> Self:
        """Returns the same task with another number of environments and no staggering."""
        return dataclasses.replace(self, num_envs=num_envs, stagger_first_episodes=False)

    def reset(self, key: Key, group_size: int = 1) -> EnvState:
        """Starts new episodes in all environments, those of ``group_size`` neighbours from the same start.

        The key is consumed.

        Raises:
            InvalidValueError: The task does not return what ``Task`` says.
        """
        metric_names = self.metric_names
        start_key, stagger_key, next_key = jax.random.split(key, 3)
        blank = jax.tree.map(_blank, jax.eval_shape(self._starts, jax.random.split(start_key, self.num_envs)))
        zeros, false = jnp.zeros((self.num_envs,)), jnp.zeros((self.num_envs,), bool)
        starts, _ = self._draw(start_key, blank, false, ~false)
        if group_size > 1:
            rows = jnp.repeat(jnp.arange(0, self.num_envs, group_size), group_size)
            starts = jax.tree.map(lambda leaf: leaf[rows], starts)
        physics, observation = starts
        if group_size > 1 and hasattr(self.task, "with_chance"):
            next_key, chance_key = jax.random.split(next_key)
            physics = jax.vmap(self.task.with_chance)(physics, jax.random.split(chance_key, self.num_envs))
        step_count = jnp.zeros((self.num_envs,), jnp.int32)
        if self.stagger_first_episodes:
            step_count = jax.random.randint(stagger_key, (self.num_envs,), 0, self.episode_length)
        return EnvState(
            physics=(physics, starts, false),
            observation=observation,
            reward=zeros,
            termination=false,
            truncation=false,
            diverged=false,
            final_observation=observation,
            step_count=step_count,
            key=next_key,
            episode_return=zeros,
            episode_length=jnp.zeros((self.num_envs,), jnp.int32),
            metrics=dict.fromkeys(metric_names, zeros),
        )

    def _starts(self, keys: Key) -> tuple[PyTree, Array]:
        return jax.vmap(self._start)(keys)

    def _draw(
        self, key: Key, starts: tuple[PyTree, Array], unused: Array, needed: Array
    ) -> tuple[tuple[PyTree, Array], Array]:
        """Draws anew what is not there of n starts, unless all that are needed are.

        It is drawn again where an observation is not sound; what never is, is left to the first step.

        Args:
            key: Consumed.
            starts: Leaves `[n, ...]`.
            unused: Which of them are there, `[n]`.
            needed: Which of them have to be, `[n]`.

        Returns:
            The starts, and which of them are there now.
        """

        def draw(carry: tuple[Array, Key, tuple[PyTree, Array], Array]) -> Any:
            tries, key, starts, unused = carry
            keys = jax.random.split(key, len(unused) + 1)
            new = self._starts(keys[:-1])
            return tries + 1, keys[-1], _select(unused, starts, new), unused | _is_sound(new[1])

        def goes_on(carry: tuple[Array, Key, tuple[PyTree, Array], Array]) -> Array:
            tries, _, _, unused = carry
            return jnp.any(needed & ~unused) & (tries < _MOST_TRIES)

        # A loop and no branch, which a population would take on both sides.
        return jax.lax.while_loop(goes_on, draw, (jnp.zeros((), jnp.int32), key, starts, unused))[2:]

    def step(self, state: EnvState, action: AnyArray) -> EnvState:
        """Advances every environment by one action `[E, action_dim]`, and resets those that ended."""
        return self._step(state, action, draws_starts=True)

    def step_to_the_end(self, state: EnvState, action: AnyArray) -> EnvState:
        """The same where only the first episode in each environment counts, as in an evaluation.

        No start is drawn for episodes to come, which is about half of what ``step`` takes to compile.
        """
        return self._step(state, action, draws_starts=False)

    def _step(self, state: EnvState, action: AnyArray, draws_starts: bool) -> EnvState:
        next_key, start_key, *chance_keys = jax.random.split(state.key, 3 if self._is_stochastic else 2)
        chances = [jax.random.split(key, self.num_envs) for key in chance_keys]
        physics, waiting, unused = state.physics
        physics, observation, reward, termination, metrics = jax.vmap(self._advance)(physics, action, *chances)
        diverged = ~(_is_sound(reward[:, None]) & _is_sound(observation))
        reward = jnp.where(diverged, 0.0, reward)
        observation = jnp.where(diverged[:, None], state.observation, observation)
        termination = termination | diverged

        was_over = state.termination | state.truncation
        step_count = jnp.where(was_over, 0, state.step_count) + 1
        truncation = (step_count >= self.episode_length) & ~termination
        over = termination | truncation

        if draws_starts:
            waiting, unused = self._draw(start_key, waiting, unused, over)
        next_physics, next_observation = _select(over, waiting, (physics, observation))
        return EnvState(
            physics=(next_physics, waiting, unused & ~over),
            observation=next_observation,
            reward=reward,
            termination=termination,
            truncation=truncation,
            diverged=diverged,
            final_observation=observation,
            step_count=step_count,
            key=next_key,
            episode_return=jnp.where(was_over, 0.0, state.episode_return) + reward,
            episode_length=jnp.where(was_over, 0, state.episode_length) + 1,
            metrics={name: jnp.where(diverged, 0.0, value) for name, value in metrics.items()},
        )

    @property
    def _is_stochastic(self) -> bool:
        return getattr(self.task, "stochastic", False)


def _blank(like: jax.ShapeDtypeStruct) -> Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), like.shape)
    return jnp.zeros(like.shape, like.dtype)


def _is_sound(values: Array) -> Array:
    """Whether all numbers of each row `[E, n]` are finite and not huge, `[E]`."""
    return jnp.all(jnp.abs(values) < HUGE, axis=1)


def _select(choice: Array, one: PyTree, other: PyTree) -> PyTree:
    """Takes the rows of ``choice`` `[E]` from one pytree `[E, ...]` and the rest from the other."""
    return jax.tree.map(lambda a, b: jnp.where(choice.reshape(-1, *(1,) * (a.ndim - 1)), a, b), one, other)
