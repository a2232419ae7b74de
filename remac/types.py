"""Shared types, and the glossary of the dimension names that docstrings use.

Dimensions:
    B: batch (transitions or states).
    E: environments that run side by side for one member.
    P: members of a population; one run is a population of one.
    T: time.
    N: action samples per state (``num_samples``).
    K: size of the retry set (``num_retries``).
    C: critics in the ensemble.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import jax
import numpy as np

Array = jax.Array
Key = jax.Array
# What environments give: those on the host have NumPy's arrays, and programs take either kind.
AnyArray = jax.Array | np.ndarray
PyTree = Any
# An observation or a reward beyond this, in size, is that of a simulation that broke down; MuJoCo's own bound.
HUGE = 1e10
Metrics = dict[str, Array]


class Transition(NamedTuple):
    """One environment step as the learner sees it, with leading axes `[...]`.

    Attributes:
        observation: Raw (not normalised) observation, `[..., obs_dim]`.
        action: Action in [-1, 1], `[..., action_dim]`.
        reward: Reward of the step, `[...]`.
        discount: 1 - termination, `[...]`. A time limit leaves it at 1, so that it bootstraps.
        next_observation: Observation that the step led to, before any reset, `[..., obs_dim]`.
        truncation: Whether a time limit ended the episode, `[...]` bool; an empty tuple where nobody asks.
        extras: What the agent added when it acted, see ``Agent.act``.
    """

    observation: Array
    action: Array
    reward: Array
    discount: Array
    next_observation: Array
    truncation: Array | tuple[()] = ()
    extras: PyTree = ()

    def ended(self) -> Array:
        """Returns whether a step was its episode's last, `[...]` bool; asks for ``truncation``."""
        assert not isinstance(self.truncation, tuple)
        return (self.discount == 0.0) | self.truncation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EnvState:
    """State of E environments side by side; every array has leading axes `[E]` (or `[P, E]`).

    Where an episode has just ended, ``observation`` and ``physics`` are already those of the next episode's start,
    while ``reward``, ``termination``, ``truncation``, ``final_observation``, ``step_count``, ``episode_return`` and
    ``episode_length`` still describe the step that ended it, and start afresh on the following step. So a first
    episode that was cut short by staggering can be told by ``episode_length != step_count`` at its end.

    Attributes:
        physics: What the simulator needs to go on; its structure is the suite's own.
        observation: What the policy acts on next, `[E, obs_dim]`.
        reward: Reward of the last step, `[E]`.
        termination: The task ended the episode (never bootstraps), `[E]` bool.
        truncation: The time limit ended the episode (bootstraps), `[E]` bool.
        diverged: The simulation broke down in the last step (an observation, a reward or the physics itself became
            non-finite or, beyond ``HUGE``, huge), `[E]` bool. Such a step is a termination with reward 0, and
            ``final_observation`` is the observation before it.
        final_observation: Observation after the last step, before any reset, `[E, obs_dim]`.
        step_count: Steps that count towards the time limit, `[E]` int32. A staggered first episode starts above 0.
        key: Randomness of the coming resets; its form is the suite's own.
        episode_return: Sum of the rewards of the running (or just ended) episode, `[E]`.
        episode_length: Number of steps in that sum, `[E]` int32.
        metrics: What else the last step is measured by: ``Environment.metric_names`` to values `[E]`.
    """

    physics: PyTree
    observation: AnyArray
    reward: AnyArray
    termination: AnyArray
    truncation: AnyArray
    diverged: AnyArray
    final_observation: AnyArray
    step_count: AnyArray
    key: AnyArray
    episode_return: AnyArray
    episode_length: AnyArray
    metrics: dict[str, AnyArray] = dataclasses.field(default_factory=dict)

    def replace(self, **changes: Any) -> Self:
        """Returns the state with other arrays in some places."""
        return dataclasses.replace(self, **changes)


@runtime_checkable
class Environment(Protocol):
    """A batch of environments: state in, state out.

    A suite that lives on the device (``on_device`` true) is pure JAX: ``reset(key)`` takes one key and returns
    arrays `[E, ...]`, and callers vmap it over members. A suite on the host takes and returns NumPy arrays with any
    leading axes: ``reset(key)`` with keys `[P]` returns arrays `[P, E, ...]`, all stepped in one call.

    It is hashable and does not change: programs are compiled for it once, and equal ones share them. A suite whose
    simulators hold their state themselves steps the latest state only, and has a method ``restored(state) -> EnvState``
    that brings them to one of another process, or begins new episodes where it cannot, and ``close()``.

    An environment may have an ``action_repeat`` as well: how many env steps its ``step`` counts as, 1 without it; and
    an ``action_range``: what actions -1 and 1 are in the task's own units, `[2, action_dim]`, -1 and 1 without it.
    With a ``policy_observation_size`` that is not None, the first so many numbers of an observation are what the policy
    sees, and the others what critics see, which the environments of ``for_evaluation`` leave out.
    It may tell what its numbers are by ``components``: ``observation`` and ``action``, obs_dim and action_dim pairs of
    a name and a unit, the unit None where it is not known.
    One on the device may have a ``step_to_the_end(state, action)``: ``step`` for evaluations, which do not look at what
    follows the first episode.
    """

    @property
    def name(self) -> str:
        """Suite and task, for example ``mujoco/half_cheetah``."""
        ...

    @property
    def num_envs(self) -> int:
        """E."""
        ...

    @property
    def observation_size(self) -> int:
        """obs_dim."""
        ...

    @property
    def action_size(self) -> int:
        """action_dim; actions are in [-1, 1]."""
        ...

    @property
    def episode_length(self) -> int:
        """Time limit in steps."""
        ...

    @property
    def on_device(self) -> bool:
        """Whether ``step`` can be traced by JAX."""
        ...

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Of the numbers that a step is measured by besides its reward, for example a velocity; sorted.

        They are recorded as ``env/<name>`` (mean over the steps of training) and ``eval/env/<name>`` (of evaluation).
        """
        ...

    def __hash__(self) -> int:
        """Equal environments have equal ones."""
        ...

    def for_evaluation(self, num_envs: int) -> "Environment":
        """Returns the same task with another number of environments and no staggered starts."""
        ...

    def reset(self, key: Key, group_size: int = 1) -> EnvState:
        """Starts new episodes in all environments, those of ``group_size`` neighbours from the same start.

        What then happens by chance differs among them, and so do their next starts. ``group_size`` divides E. The key
        is consumed.
        """
        ...

    def step(self, state: EnvState, action: AnyArray) -> EnvState:
        """Advances every environment by one action `[..., E, action_dim]`, and resets those that ended."""
        ...
