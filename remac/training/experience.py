"""What stands between environments and learners: the kinds of experience that an agent may learn from.

An agent names its kind (``Agent.experience``), with what is special about it; nothing else in training knows which it
is. A kind (``Experience``) says how many steps a round has, what is kept of them, and what an update gets.
"""

import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from remac.training import replay
from remac.training.devices import SPLIT, WHOLE
from remac.training.replay import ReplayState
from remac.types import Array, Key, PyTree, Transition
from remac.validation import InvalidValueError

ON_POLICY_TRAINING = {"updates_per_round": 1, "prefill_env_steps": 0}  # what ``on_policy`` requires of a training


class Experience(Protocol):
    """A kind of experience: static, and equal for all members of a population.

    Attributes:
        steps_per_round: T, steps of every environment in a round.
        on_policy: Whether an update has to be by the policy that acted, so that there is one a round, from the first.
        group_size: N, if every round begins with new episodes; otherwise None.
        split: What ``init`` returns, with where each leaf lives in place of it (``remac.training.devices``).
    """

    @property
    def steps_per_round(self) -> int:
        """T, steps of every environment in a round."""
        ...

    @property
    def on_policy(self) -> bool:
        """Whether an update has to be by the policy that acted, so that there is one a round, from the first."""
        ...

    @property
    def group_size(self) -> int | None:
        """N, if every round begins with new episodes, those of N neighbouring environments from the same start.

        None: environments go on where the round before has left them.
        """
        ...

    @property
    def split(self) -> Any:
        """What ``init`` returns, with where each leaf lives in place of it (``remac.training.devices``)."""
        ...

    def validate(self, capacity: int, num_envs: int) -> None:
        """Checks what may be kept against a round of E environments.

        Raises:
            InvalidValueError: If it is too little.
        """
        ...

    def init(self, example: Transition, capacity: int, num_members: int) -> PyTree:
        """Allocates what is kept for each member, at most ``capacity`` transitions like the example."""
        ...

    def num_bytes(self, example: Transition, capacity: int, num_members: int) -> int:
        """Returns the size of what ``init`` would allocate."""
        ...

    def add(self, kept: PyTree, steps: Transition) -> PyTree:
        """Takes in a round's steps, `[P, T, E, ...]`."""
        ...

    def end_episodes(self, kept: PyTree, ended: Array) -> PyTree:
        """Takes note of episodes that were given up after their newest step, `[P, E]` bool."""
        ...

    def draw(self, kept: PyTree, key: Key) -> PyTree:
        """Draws which of what is kept one update learns from. The key is consumed."""
        ...

    def batch(self, kept: PyTree, steps: Transition, member: Array, drawn: PyTree, gamma: Array) -> Transition:
        """Returns what one member's update learns from.

        Args:
            kept: Of all members.
            steps: The member's last round `[T, E, ...]`.
            member: Its index.
            drawn: What ``draw`` gave for the update.
            gamma: Discount factor.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Replay:
    """Transitions drawn uniformly from all that are kept; a round is one step in every environment.

    With ``num_steps`` above 1, a drawn transition spans up to that many steps of its environment (n-step returns;
    Sutton and Barto, 2018, section 7.1): rewards are discounted and summed, and the value is taken at the observation
    that the last of them led to. It spans fewer where an episode ends, or where later steps have not been made yet.

    Note: nothing corrects for the policy having changed since the steps were made, as usual with short spans; and
    where values hold an entropy bonus, a span's is that of its last step, not of those between.

    Attributes:
        batch_size: B.
        num_steps: Longest span.
        averages_parts: Whether the agent's update takes part of a batch, and averages what comes of the parts by
            ``remac.training.devices.mean_over_parts``, so that batches may be split over devices.
    """

    batch_size: int
    num_steps: int = 1
    averages_parts: bool = False

    steps_per_round: ClassVar[int] = 1
    on_policy: ClassVar[bool] = False
    group_size: ClassVar[None] = None
    split: ClassVar[ReplayState] = ReplayState(SPLIT, WHOLE, WHOLE)  # type: ignore[arg-type]  # not arrays

    def validate(self, capacity: int, num_envs: int) -> None:
        """Requires room for a round and for a batch."""
        span = "num_envs" if self.num_steps == 1 else f"agent.num_steps={self.num_steps} rounds of num_envs"
        for name, least in ((span, num_envs * self.num_steps), ("agent.batch_size", self.batch_size)):
            if capacity < least:
                raise InvalidValueError("replay_capacity", capacity, f"must be at least {name}={least}")

    def init(self, example: Transition, capacity: int, num_members: int) -> PyTree:
        """Allocates room for ``capacity`` transitions of each member, shaped and typed like one."""
        return replay.init(self._kept(example), capacity, num_members)

    def num_bytes(self, example: Transition, capacity: int, num_members: int) -> int:
        """Returns what ``init`` would allocate."""
        return replay.num_bytes(self._kept(example), capacity, num_members)

    def add(self, kept: PyTree, steps: Transition) -> PyTree:
        """Takes in a round's steps, `[P, 1, E, ...]`."""
        return replay.add(kept, self._kept(_without_time(steps)))

    def end_episodes(self, kept: PyTree, ended: Array) -> PyTree:
        """Lets no span go on from those episodes into the next."""
        return replay.end_episodes(kept, ended) if self.num_steps > 1 else kept

    def draw(self, kept: PyTree, key: Key) -> Array:
        """Draws rows, `[B]`. The key is consumed."""
        return replay.draw(kept, key, self.batch_size)

    def batch(self, kept: PyTree, steps: Transition, member: Array, drawn: Array, gamma: Array) -> Transition:
        """Returns the batch of drawn rows, `[B, ...]`."""
        if self.num_steps == 1:
            return replay.take(kept, member, drawn)
        return replay.take_spans(
            kept, member, drawn, num_steps=self.num_steps, num_envs=steps.reward.shape[1], gamma=gamma
        )

    def _kept(self, steps: Transition) -> Transition:
        """Drops what is not learned from: whether a time limit ended an episode matters to longer spans only."""
        return steps if self.num_steps > 1 else steps._replace(truncation=())


@dataclasses.dataclass(frozen=True)
class Rollout:
    """The steps of the last round themselves, in order; nothing is kept.

    Attributes:
        steps_per_round: T.
        num_minibatches: Equal parts that the steps of all environments are cut into.
        on_policy: Whether an update has to be by the policy that acted, so that there is one a round, from the first.
        least_minibatch: Steps that a part has to have.
        length_key: What T is called on the command line.
    """

    steps_per_round: int
    num_minibatches: int = 1
    on_policy: bool = False
    least_minibatch: int = 1

    group_size: ClassVar[int | None] = None
    length_key: ClassVar[str] = "agent.rollout_length"
    split: ClassVar[Any] = ()

    def validate(self, capacity: int, num_envs: int) -> None:
        """Requires equal parts."""
        if self.steps_per_round * num_envs % self.num_minibatches:
            allowed = f"must divide the {self.steps_per_round} steps of num_envs={num_envs} environments"
            raise InvalidValueError("agent.num_minibatches", self.num_minibatches, allowed)
        if self.steps_per_round * num_envs // self.num_minibatches < self.least_minibatch:
            allowed = f"must leave {self.least_minibatch} of the {self.steps_per_round * num_envs} steps in a minibatch"
            raise InvalidValueError("agent.num_minibatches", self.num_minibatches, allowed)

    def init(self, example: Transition, capacity: int, num_members: int) -> PyTree:
        """Allocates nothing."""
        return ()

    def num_bytes(self, example: Transition, capacity: int, num_members: int) -> int:
        """Returns 0."""
        return 0

    def add(self, kept: PyTree, steps: Transition) -> PyTree:
        """Keeps nothing."""
        return ()

    def end_episodes(self, kept: PyTree, ended: Array) -> PyTree:
        """Does nothing."""
        return kept

    def draw(self, kept: PyTree, key: Key) -> tuple[()]:
        """Draws nothing: all steps are learned from."""
        return ()

    def batch(self, kept: PyTree, steps: Transition, member: Array, drawn: tuple[()], gamma: Array) -> Transition:
        """Returns the member's last round, `[T, E, ...]`."""
        return steps


@dataclasses.dataclass(frozen=True)
class Episodes(Rollout):
    """A rollout that begins with new episodes, in groups of ``group_size`` from one start each.

    An environment's first episode is what counts; the steps after its end are of others, from other starts.

    Attributes:
        group_size: N.
    """

    group_size: int = 1  # type: ignore[misc]  # a constant of other rollouts
    length_key: ClassVar[str] = "agent.episode_length"

    def validate(self, capacity: int, num_envs: int) -> None:
        """Requires whole groups and equal parts."""
        if num_envs % self.group_size:
            allowed = f"must be a multiple of agent.num_samples={self.group_size}, the episodes from one start"
            raise InvalidValueError("num_envs", num_envs, allowed)
        super().validate(capacity, num_envs)


def transition_example(observation_size: int, action_size: int, extras: PyTree = ()) -> Transition:
    """Returns one transition, of zeros, that says how large they are.

    Args:
        observation_size: obs_dim.
        action_size: action_dim.
        extras: Of one step.
    """
    observation, scalar = jnp.zeros((observation_size,)), jnp.zeros(())
    false = jnp.zeros((), bool)
    return Transition(observation, jnp.zeros((action_size,)), scalar, scalar, observation, false, extras)


def _without_time(steps: Transition) -> Transition:
    return jax.tree.map(lambda leaf: leaf[:, 0], steps)
