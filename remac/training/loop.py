"""The host loop around the training functions: prefill, rounds of act, step and learn, and evaluations.

``train`` and ``train_population`` need nothing of Hydra, files or W&B; what happens is told through a callback.
"""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from remac.policies.policy import Policy
from remac.training import replay
from remac.training.agent import Agent
from remac.training.devices import SPLIT, WHOLE, MemberSplit
from remac.training.evaluation import Evaluator
from remac.training.experience import ON_POLICY_TRAINING, Experience, Replay, transition_example
from remac.training.functions import (
    Steps,
    TrainState,
    act,
    extras_of,
    init_train_state,
    learn,
    make_steps,
    map_members,
    reset,
    reset_metrics,
    train_state_split,
)
from remac.training.pacing import Pacer
from remac.training.snapshot import Arrays, Snapshot
from remac.types import Array, Environment, EnvState, Key, PyTree, Transition
from remac.validation import (
    NAME_OF_A_METRIC,
    InvalidValueError,
    is_metric_name,
    require_bool,
    require_divisor,
    require_int,
    require_number,
)

Tree = TypeVar("Tree")

# Few steps say nothing about how often a simulation breaks down.
_FEWEST_JUDGED_STEPS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how often; everything counts for one member.

    Attributes:
        total_env_steps: Environment steps, prefill included. Like all intervals, rounded up to whole rounds. A step of
            an environment with an ``action_repeat`` counts as so many of them.
        updates_per_round: Updates of the agent after each round, which is one step in every environment for agents that
            learn from replay, and a rollout in every environment for those that learn from rollouts.
        prefill_env_steps: Environment steps before the first gradient step, by the untrained policy.
        eval_every_env_steps: Environment steps between evaluations. There is one at step 0 and one at the end as well.
        num_eval_episodes: Episodes per evaluation and action mode.
        num_eval_retries: Episodes from each of their starts; divides ``num_eval_episodes``.
        eval_seed: Evaluation randomness is a function of this and of the environment step alone.
        replay_capacity: Rows; no more than ``total_env_steps`` are allocated.
        max_diverged_fraction: Share of the environment steps so far, counted as at least 100, in which the simulation
            may diverge; a member with more is stopped at the next evaluation.
        checkpoint_every_env_steps: Environment steps between ``Checkpoint`` events; None for no such events.
        split_batch: Whether every batch is split over the local devices, as many as divide it, which average their
            gradients, instead of members: faster where rounds have many gradient steps of narrow layers, but the last
            bits then depend on the number of devices, batch norms are of a device's part, and the replay is on all of
            them.
    """

    total_env_steps: int = 100_000
    updates_per_round: int = 16
    prefill_env_steps: int = 1_000
    eval_every_env_steps: int = 10_000
    num_eval_episodes: int = 16
    num_eval_retries: int = 1
    eval_seed: int = 1_000_003
    replay_capacity: int = 1_000_000
    max_diverged_fraction: float = 0.01
    checkpoint_every_env_steps: int | None = None
    split_batch: bool = False

    @property
    def replay_rows(self) -> int:
        """Rows to allocate for each member."""
        return min(self.replay_capacity, self.total_env_steps)

    def num_rounds(self, env_steps_per_round: int) -> int:
        """Returns the rounds of a whole training."""
        return math.ceil(self.total_env_steps / env_steps_per_round)

    def num_prefill_rounds(self, env_steps_per_round: int) -> int:
        """Returns the rounds before the first gradient step."""
        return math.ceil(self.prefill_env_steps / env_steps_per_round)

    def batch_parts(self, experience: Experience) -> int:
        """Returns how many devices share a batch: with ``split_batch`` the most that there are and that divide it."""
        if not self.split_batch:
            return 1
        assert isinstance(experience, Replay)
        return max(number for number in range(1, len(jax.local_devices()) + 1) if experience.batch_size % number == 0)

    def validate(self, num_envs: int, experience: Experience) -> None:
        """Checks the values, alone and against each other.

        Raises:
            InvalidValueError: Naming the field, its value and what is allowed.
        """
        for field in ("total_env_steps", "updates_per_round", "eval_every_env_steps", "num_eval_episodes"):
            require_int(field, getattr(self, field), 1)
        require_int("replay_capacity", self.replay_capacity, 1)
        require_bool("split_batch", self.split_batch)
        require_divisor("num_eval_retries", self.num_eval_retries, self.num_eval_episodes, "num_eval_episodes")
        require_int("eval_seed", self.eval_seed, 0, 2**32 - 1)
        require_number("max_diverged_fraction", self.max_diverged_fraction, 0, 1)
        if self.checkpoint_every_env_steps is not None:
            require_int("checkpoint_every_env_steps", self.checkpoint_every_env_steps, 1)
        of_round, name = num_envs * experience.steps_per_round, f"num_envs={num_envs}"
        if experience.steps_per_round > 1:
            name += f" rollouts of {experience.steps_per_round} steps"
        if self.total_env_steps < of_round:
            raise InvalidValueError("total_env_steps", self.total_env_steps, f"must be at least {name}")
        require_int("prefill_env_steps", self.prefill_env_steps, 0, self.total_env_steps, "total_env_steps")
        experience.validate(self.replay_capacity, num_envs)
        if self.split_batch and not getattr(experience, "averages_parts", False):
            raise InvalidValueError("split_batch", True, "must be false: this agent learns from whole batches")
        if experience.on_policy:
            for name, value in ON_POLICY_TRAINING.items():
                if getattr(self, name) != value:
                    allowed = f"must be {value} for an agent that learns from its own last rollout"
                    raise InvalidValueError(name, getattr(self, name), allowed)

    def replay_bytes(self, agent: Agent, env: Environment, num_members: int = 1) -> int:
        """Returns the size in bytes of the replay, 0 without one; of all copies where devices share a memory."""
        copies = self.batch_parts(agent.experience) if jax.default_backend() == "cpu" else 1
        return copies * agent.experience.num_bytes(_example(agent, env), self.replay_rows, num_members)


def env_steps_of_round(env: Environment, experience: Experience) -> int:
    """Returns the environment steps of a member's round, an action that is repeated counted so often."""
    return env.num_envs * experience.steps_per_round * getattr(env, "action_repeat", 1)


def round_bytes(agent: Agent, env: Environment) -> int:
    """Returns the size in bytes of a member's round: its steps as they are made, and as they are learned from."""
    return 2 * replay.num_bytes(_example(agent, env), env.num_envs * agent.experience.steps_per_round)


def _example(agent: Agent, env: Environment) -> Transition:
    return transition_example(env.observation_size, env.action_size, extras_of(agent, env.observation_size))


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where training stands; sent about every half second once programs are compiled.

    On the device a round is not interrupted: where it takes longer, it is sent after each.

    Attributes:
        env_steps: Environment steps made by each member.
        gradient_steps: Gradient steps made by each member.
        evaluating: Whether an evaluation is under way.
        within_round: Whether a round of several steps is under way, which cannot be left and continued.
        snapshot: What training could be continued from; valid while the callback runs. None within a round, and while
            an empty replay is being filled again.
    """

    env_steps: int
    gradient_steps: int
    evaluating: bool = False
    within_round: bool = False
    snapshot: Snapshot | None = None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """It is time to save the training, if it is to be saved.

    Attributes:
        env_steps: Environment steps made by each member.
        gradient_steps: Gradient steps made by each member.
        snapshot: What training can be continued from; valid while the callback runs.
    """

    env_steps: int
    gradient_steps: int
    snapshot: Snapshot


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation, and the means of the training metrics since the last one.

    Attributes:
        env_steps: Environment steps made by each member.
        gradient_steps: Gradient steps made by each member.
        metrics: Name to values `[P]`. ``train/episode_return`` is NaN for a member of which no episode has ended, and
            left out where that is so for all.
        policies: The members' policies, leaves `[P, ...]`; only in what the callback gets.
    """

    env_steps: int
    gradient_steps: int
    metrics: dict[str, np.ndarray]
    policies: Policy | None = None


class StoppedError(ArithmeticError):
    """A member cannot go on; the message is one line."""


class NonFiniteError(StoppedError):
    """A metric of a member became NaN or infinite.

    Attributes:
        metric: Name of the first such metric.
        gradient_step: Gradient step at which it happened.
    """

    def __init__(self, metric: str, gradient_step: int) -> None:
        """Stores both."""
        super().__init__(f"{metric} became non-finite at gradient step {gradient_step}")
        self.metric, self.gradient_step = metric, gradient_step

    def __reduce__(self) -> tuple[Any, ...]:
        """Says what it is made of, for pickling it."""
        return type(self), (self.metric, self.gradient_step)


class DivergedError(StoppedError):
    """The simulation of a member diverged too often.

    Attributes:
        num_diverged: Steps in which it diverged.
        num_steps: All steps so far.
        max_diverged_fraction: Share of them that was allowed.
    """

    def __init__(self, num_diverged: int, num_steps: int, max_diverged_fraction: float) -> None:
        """Stores the counts."""
        super().__init__(
            f"the simulation diverged in {num_diverged} of {num_steps} env steps, "
            f"more than max_diverged_fraction={max_diverged_fraction:g} allows; "
            "shorter time steps or smaller actions may help, see env/diverged"
        )
        self.num_diverged, self.num_steps, self.max_diverged_fraction = num_diverged, num_steps, max_diverged_fraction

    def __reduce__(self) -> tuple[Any, ...]:
        """Says what it is made of, for pickling it."""
        return type(self), (self.num_diverged, self.num_steps, self.max_diverged_fraction)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A member cannot go on: later metrics of it mean nothing.

    Attributes:
        member: Its index.
        error: Why.
    """

    member: int
    error: StoppedError


Callback = Callable[[Progress | Evaluation | Checkpoint | Failure], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """Outcome of a training.

    Attributes:
        agent_state: What the agent learned; leading axis `[P]` for a population.
        evaluations: All evaluations in order; metrics are floats for one run, `[P]` for a population.
        failures: What became of the members that failed, by index.
    """

    agent_state: Any
    evaluations: list[Evaluation]
    failures: dict[int, StoppedError]


def train(
    agent: Agent,
    env: Environment,
    config: TrainConfig,
    key: Key,
    callback: Callback | None = None,
    start: Arrays | None = None,
) -> Result:
    """Trains one agent: a population of one.

    Args:
        agent: Hyperparameters, for example of ``agents.ReMAC.create``.
        env: Training environments, for example of ``envs.make``.
        config: How long and how often.
        key: Consumed.
        callback: Called with ``Progress``, ``Evaluation`` (metrics `[1]`), ``Checkpoint`` and ``Failure``; may raise to
            stop.
        start: What ``Snapshot.member`` returned, to continue from there.

    Returns:
        The agent's state without a member axis, and the evaluations.

    Raises:
        InvalidValueError: If the configuration is not allowed.
        StoppedError: If a metric became non-finite, or the simulation diverged too often.
        MisfitError: If ``start`` is not of such a training.
    """
    _require_keys("key", key, 0)
    result = train_population(
        stack_members([agent]), env, config, key[None], callback, None if start is None else [start]
    )
    evaluations = [
        dataclasses.replace(event, metrics={name: values[0] for name, values in event.metrics.items()})
        for event in result.evaluations
    ]
    return Result(member(result.agent_state, 0), evaluations, {})


def stack_members(agents: Sequence[Tree]) -> Tree:
    """Stacks agents, or other pytrees, that differ in leaves only into one with leaves `[P, ...]`.

    Raises:
        InvalidValueError: If agents differ in what makes another program, such as the widths of layers.
    """
    for other in agents[1:]:
        if names := _different(agents[0], other):
            allowed = "must be of one class, and differ in what is a number for each member alone"
            raise InvalidValueError("agents", f"differing in {', '.join(names)}", allowed)
    stacked: Tree = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *agents)
    return stacked


def _different(one: Any, other: Any) -> list[str]:
    """Returns the fields that are no leaves and differ, or that classes do."""
    if type(one) is not type(other):
        return ["class"]
    if not dataclasses.is_dataclass(one):
        return []
    names = [field.name for field in dataclasses.fields(one) if not field.metadata.get("pytree_node", True)]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def train_population(
    agents: Agent,
    env: Environment,
    config: TrainConfig,
    keys: Key,
    callback: Callback | None = None,
    start: Sequence[Arrays] | None = None,
) -> Result:
    """Trains P agents side by side, each as if alone; with several devices, each device trains some of them.

    A member that has to stop does not disturb the others.

    Args:
        agents: Leaves `[P, ...]`, see ``stack_members``.
        env: Training environments of one member.
        config: How long and how often.
        keys: `[P]`, consumed.
        callback: Called with ``Progress``, ``Evaluation``, ``Checkpoint`` and ``Failure``; may raise to stop.
        start: What ``Snapshot.member`` returned for each member, at the same round, to continue from there. Without
            the transitions, the policy first fills the replay again with ``prefill_env_steps`` steps, which do not
            count.

    Returns:
        The agents' states `[P, ...]`, the evaluations from here on and the failures.

    Raises:
        InvalidValueError: If the configuration is not allowed.
        StoppedError: If no member can go on.
        MisfitError: If ``start`` is not of such a training.
    """
    if jnp.result_type(float) != jnp.float32:
        raise InvalidValueError("jax_enable_x64", True, "training is in float32; must be false")
    _require_keys("keys", keys, 1)
    config.validate(env.num_envs, agents.experience)
    _require_fit(agents, env, keys.shape[0], None if start is None else len(start))
    loop = _Loop(agents, env, config, keys.shape[0], callback or (lambda event: None))
    loop.begin(keys)
    if start is not None:
        loop.restore(start)
    return loop.run()


def _require_keys(name: str, keys: Any, ndim: int) -> None:
    is_typed = isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not is_typed or keys.ndim != ndim:
        shown = f"{keys.dtype}{list(keys.shape)}" if isinstance(keys, jax.Array) else repr(keys)
        wanted = "jax.random.key(seed)" if ndim == 0 else "jax.random.split(jax.random.key(seed), <number of members>)"
        raise InvalidValueError(name, shown, f"must be what {wanted} makes")


def _require_fit(agents: Agent, env: Environment, num_members: int, num_starts: int | None) -> None:
    """Requires that agents are of the environment's sizes, and as many as there are keys and starts."""
    for name, default in (("observation_size", env.observation_size), ("action_size", env.action_size)):
        if getattr(agents, name, default) != default:
            raise InvalidValueError(name, getattr(agents, name), f"must be {default}, which is the environment's")
    sizes = [getattr(one, "policy_observation_size", None) for one in (agents, env)]
    if sizes[0] != sizes[1]:
        raise InvalidValueError("policy_observation_size", sizes[0], f"must be {sizes[1]}, which is the environment's")
    for name in env.metric_names:
        if not is_metric_name(name):
            raise InvalidValueError("metric_names", ascii(name), NAME_OF_A_METRIC)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(agents)}
    if not lengths <= {(num_members,)}:
        shown = "none" if () in lengths else ", ".join(str(length) for (length,) in sorted(lengths))
        allowed = f"must be one for each of the {num_members} keys, as stack_members makes them"
        raise InvalidValueError("members", shown, allowed)
    if num_starts not in (None, num_members):
        raise InvalidValueError(
            "start", f"{num_starts} members", f"must be of as many as there are keys, {num_members}"
        )
    if agents.experience.group_size is not None and getattr(env, "stagger_first_episodes", False):
        raise InvalidValueError(
            "stagger_first_episodes", True, "must be false for agents that learn from whole episodes"
        )


def training_bytes(agents: Agent, env: Environment, config: TrainConfig) -> tuple[int, int]:
    """Compiles the program that trains a population, and returns the memory that it takes by the compiler's account.

    No replay is allocated; environments on the host are begun once. With programs kept on disk, the training finds this
    one there.

    Args:
        agents: Leaves `[P, ...]`, see ``stack_members``.
        env: Training environments of one member.
        config: How long and how often; with gradient steps.

    Returns:
        Bytes on each device in use (arguments, among them the replay, results that are not written over them, and
        temporary arrays), and the number of these devices.

    Raises:
        jax.errors.JaxRuntimeError: The compiler refuses, for example for lack of memory.
    """
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(agents)[0]))
    loop = _Loop(agents, env, config, keys.shape[0], lambda event: None)
    memory = loop.lowered(keys).compile().memory_analysis()
    assert memory is not None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return held + memory.temp_size_in_bytes, loop.split.num_devices * loop.split.parts


class _Loop:
    """State of a training under way; ``begin`` makes it, ``run`` drives it.

    What changes, and so what a training can be continued from, is what ``snapshot`` returns. ``evaluations`` and
    ``failures`` are those of this process.
    """

    def __init__(
        self, agents: Agent, env: Environment, config: TrainConfig, num_members: int, callback: Callback
    ) -> None:
        self.env, self.config, self.callback = env, config, callback
        self.rounds_done, self.evaluated_round, self.resumed_round = 0, -1, 0
        self.evaluations: list[Evaluation] = []
        self.failures: dict[int, StoppedError] = {}
        self.evaluating = self.filling_again = False
        self.steps_of_round = 0  # made of a round that is under way
        self.pacer = Pacer(self._on_tick)
        self.steps_per_round = agents.experience.steps_per_round
        self.env_steps_per_round = env_steps_of_round(env, agents.experience)
        self.prefill_rounds = config.num_prefill_rounds(self.env_steps_per_round)
        self.total_rounds = config.num_rounds(self.env_steps_per_round)
        self.split = split = MemberSplit(num_members, config.batch_parts(agents.experience))
        self.agents = split.place(agents)
        self.state_split = train_state_split(agents)
        self.evaluator = Evaluator(env.for_evaluation(config.num_eval_episodes), split, config.num_eval_retries)
        self._init = split.program(
            init_train_state,
            (SPLIT, SPLIT),
            (self.state_split, SPLIT),
            observation_size=env.observation_size,
            action_size=env.action_size,
            num_envs=env.num_envs,
            replay_capacity=config.replay_rows,
            metric_names=env.metric_names,
        )
        self._reset = split.program(reset, (SPLIT,), SPLIT, env=env, group_size=1) if env.on_device else env.reset
        self.run_rounds = self._rounds_on_device if env.on_device else self._rounds_on_host
        self._act = split.program(act, (SPLIT, SPLIT, SPLIT, SPLIT), SPLIT)
        self._split_keys = split.program(_split_keys, (SPLIT,), SPLIT)
        self._reset_metrics = split.program(reset_metrics, (SPLIT,), SPLIT)

    def begin(self, keys: Key) -> None:
        """Makes the members' first state from a key each `[P]`, and starts their environments."""
        self.state, env_keys = self._init(self.agents, self.split.place(keys))
        self.env_state: EnvState = self._reset(env_keys)

    def lowered(self, keys: Key) -> jax.stages.Lowered:
        """Lowers the program that trains without allocating a state; ``begin`` is not needed for it."""
        self.state, env_keys = jax.eval_shape(self._init, self.agents, self.split.place(keys))
        self.env_state = jax.eval_shape(self._reset, env_keys) if self.env.on_device else self.env.reset(keys[:1])
        return self._lower_training()

    @property
    def rounds_that_count(self) -> int:
        return self.resumed_round if self.filling_again else self.rounds_done

    @property
    def env_steps(self) -> int:
        return self.rounds_that_count * self.env_steps_per_round

    @property
    def gradient_steps(self) -> int:
        updates = max(self.rounds_that_count - self.prefill_rounds, 0) * self.config.updates_per_round
        return updates * self.agents.steps_per_update

    def snapshot(self) -> Snapshot:
        """Returns everything that the training is."""
        return Snapshot(self.state, self.env_state, self.rounds_done, self.evaluated_round, self.state_split)

    def restore(self, members: Sequence[Arrays]) -> None:
        """Goes back to where a snapshot was taken."""
        snapshot = self.snapshot().restored(members, self.split)
        self.state, self.env_state = snapshot.state, snapshot.env_state
        if hasattr(self.env, "restored"):
            self.env_state = self.env.restored(snapshot.env_state)
            given_up = self.env_state.episode_length != snapshot.env_state.episode_length
            if np.any(given_up):
                kept = self.agents.experience.end_episodes(self.state.replay, given_up)
                self.state = dataclasses.replace(self.state, replay=kept)
        self.rounds_done, self.evaluated_round = snapshot.rounds_done, snapshot.evaluated_round
        self.resumed_round = self.rounds_done
        self.filling_again = self.rounds_done > 0 and snapshot.num_replay_rows == 0

    def run(self) -> Result:
        self._on_tick()
        compiling = self._start_compiling()
        try:
            return self._run(compiling)
        finally:
            compiling.join()  # what outlives the training would be in the way of what follows
            self.evaluator.close()

    def _run(self, compiling: threading.Thread) -> Result:
        of_round, first_round = self.env_steps_per_round, self.rounds_done
        eval_every = math.ceil(self.config.eval_every_env_steps / of_round)
        checkpoint_every = math.ceil((self.config.checkpoint_every_env_steps or 0) / of_round) or self.total_rounds
        if self.filling_again:
            self._fill_again()
        while True:
            is_end = self.rounds_done >= self.total_rounds
            if (is_end or self.rounds_done % eval_every == 0) and self.evaluated_round != self.rounds_done:
                self._evaluate()
            if is_end:
                return Result(self.split.members(self.state.agent), self.evaluations, self.failures)
            if self.rounds_done > first_round and self.rounds_done % checkpoint_every == 0:
                self.callback(Checkpoint(self.env_steps, self.gradient_steps, self.snapshot()))
            stops = [(self.rounds_done // every + 1) * every for every in (eval_every, checkpoint_every)]
            stop = min(*stops, self.total_rounds)
            if self.rounds_done < self.prefill_rounds:
                self.run_rounds(min(stop, self.prefill_rounds) - self.rounds_done, 0)
            else:
                compiling.join()
                self.run_rounds(stop - self.rounds_done, self.config.updates_per_round)
            self._note_failures()

    def _start_compiling(self) -> threading.Thread:
        """Starts to compile the program that trains, beside evaluating and prefilling; JAX then finds it compiled.

        Tracing stays in this thread, since it may be under one of JAX's contexts, and quiets what simulators print.
        """
        compiling = threading.Thread(target=lambda: None)
        if max(self.rounds_done, self.prefill_rounds) < self.total_rounds:
            with contextlib.suppress(Exception):  # fails again, and is told, where the program is used
                lowered = self._lower_training()
                compiling = threading.Thread(target=_compile, args=(lowered,), name="compile")
        compiling.start()
        return compiling

    def _lower_training(self) -> jax.stages.Lowered:
        """Lowers the program of rounds with gradient steps."""
        num_updates, agents, state = self.config.updates_per_round, *map(_shapes, (self.agents, self.state))
        program: Any
        if self.env.on_device:
            program = self._epoch(num_updates)
            return program.lower(agents, state, _shapes(self.env_state), self.split.share(np.int32(1)))
        program = self._learn(num_updates)
        return program.lower(agents, state, self._steps_shapes())

    def _steps_shapes(self) -> Steps:
        """Returns what a round's steps on the host look like."""
        places, num_envs = self.split.num_places, self.env.num_envs
        agent = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), self.agents)
        one_step = extras_of(agent, self.env.observation_size), np.zeros(self.env.action_size, np.float32)
        extras, action = jax.tree.map(lambda leaf: np.zeros((places, num_envs, *leaf.shape), leaf.dtype), one_step)

        def of_round(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((places, self.steps_per_round, *leaf.shape[1:]), leaf.dtype)

        return jax.tree.map(of_round, make_steps(self.env_state, action, extras, self.env_state))

    def _fill_again(self) -> None:
        """Makes up for transitions that were not saved, by steps that count nowhere."""
        agent, sums = jax.tree.map(jnp.copy, (self.state.agent, self.state.metrics))  # these are donated
        self.run_rounds(max(self.prefill_rounds, 1), 0)
        self.rounds_done, self.filling_again = self.resumed_round, False
        self.state = dataclasses.replace(self.state, agent=agent, metrics=sums)

    def _rounds_on_host(self, num_rounds: int, num_updates: int) -> None:
        learning = self._learn(num_updates)
        for _ in range(num_rounds):
            if (group_size := self.agents.experience.group_size) is not None:
                keys, reset_keys = self._split_keys(self.state.key)
                self.state = dataclasses.replace(self.state, key=keys)
                self.env_state = self.env.reset(reset_keys, group_size)
            steps = []
            for _ in range(self.steps_per_round):
                before = self.env_state
                action, extras, keys = self._act(self.agents, self.state.agent, self.state.key, before.observation)
                action = np.asarray(action)
                self.env_state = self.env.step(before, action)
                self.state = dataclasses.replace(self.state, key=keys)
                steps.append(make_steps(before, action, jax.device_get(extras), self.env_state))
                if len(steps) < self.steps_per_round:
                    self.steps_of_round = len(steps)
                    self.pacer.tick()
            self.steps_of_round = 0
            self.state = learning(self.agents, self.state, jax.tree.map(lambda *leaves: np.stack(leaves, 1), *steps))
            self.rounds_done += 1
            self.pacer.tick()

    def _rounds_on_device(self, num_rounds: int, num_updates: int) -> None:
        epoch = self._epoch(num_updates)
        while num_rounds:
            (self.state, self.env_state), done = self.pacer.run_chunk(
                f"rounds of {num_updates} updates",
                num_rounds,
                # The length goes to the devices explicitly, and nothing else does.
                lambda size: epoch(self.agents, self.state, self.env_state, self.split.share(np.int32(size))),
            )
            self.rounds_done += done
            num_rounds -= done
            self.pacer.tick()

    def _learn(self, num_updates: int) -> Callable[..., TrainState]:
        """Returns the program of a round's second half."""
        return self.split.program(
            learn, (SPLIT, self.state_split, SPLIT), self.state_split, donate=(1,), num_updates=num_updates
        )

    def _epoch(self, num_updates: int) -> Callable[..., tuple[TrainState, EnvState]]:
        """Returns the program of many rounds, for suites on the device."""
        both = (self.state_split, SPLIT)
        return self.split.program(
            rounds, (SPLIT, *both, WHOLE), both, donate=(1, 2), env=self.env, num_updates=num_updates
        )

    def _evaluate(self) -> None:
        self.evaluating = True
        self._on_tick()
        key = jax.random.fold_in(jax.random.key(self.config.eval_seed), self.env_steps)
        policies = self.agents.policy(self.state.agent)
        metrics = self.evaluator(policies, key, self.pacer) | self._training_means()
        self.state = dataclasses.replace(self.state, metrics=self._reset_metrics(self.state.metrics))
        self.evaluated_round = self.rounds_done
        self.evaluating = False
        event = Evaluation(self.env_steps, self.gradient_steps, metrics)
        self.evaluations.append(event)
        self.callback(dataclasses.replace(event, policies=jax.device_get(self.split.members(policies))))
        for name, values in metrics.items():
            if name != "train/episode_return":
                for index in np.flatnonzero(~np.isfinite(values)):
                    self._fail(int(index), NonFiniteError(name, self.gradient_steps))
        limit = self.config.max_diverged_fraction
        actions = self.split.members(jax.device_get(self.state.metrics.diverged_before))
        diverged = actions * getattr(self.env, "action_repeat", 1)  # env steps of actions in which it did
        for index in np.flatnonzero(diverged > limit * max(self.env_steps, _FEWEST_JUDGED_STEPS)):
            self._fail(int(index), DivergedError(int(diverged[index]), self.env_steps, limit))

    def _training_means(self) -> dict[str, np.ndarray]:
        sums = self.split.members(jax.device_get(self.state.metrics))
        rounds, episodes, env_steps, diverged = (
            count.astype(np.float32) for count in (sums.rounds, sums.episodes, sums.env_steps, sums.diverged)
        )
        means = {}
        if rounds.all():
            means = {name: total / rounds for name, total in sums.totals.items()}
        if episodes.any():
            means["train/episode_return"] = np.where(
                episodes > 0, sums.episode_return / np.maximum(episodes, 1), np.nan
            )
        if self.rounds_done:
            means["env/diverged"] = diverged
        if env_steps.all():
            means |= {f"env/{name}": total / env_steps for name, total in sums.env_metrics.items()}
        return means

    def _on_tick(self) -> None:
        self._note_failures()
        within = self.steps_of_round > 0
        snapshot = None if self.filling_again or within else self.snapshot()
        env_steps = self.env_steps + self.steps_of_round * self.env_steps_per_round // self.steps_per_round
        self.callback(Progress(env_steps, self.gradient_steps, self.evaluating, within, snapshot))

    def _note_failures(self) -> None:
        sums = self.state.metrics
        steps, metric = self.split.members(jax.device_get((sums.failed_step, sums.failed_metric)))
        for index in np.flatnonzero(steps >= 0):
            self._fail(int(index), NonFiniteError(sorted(sums.totals)[metric[index]], int(steps[index])))

    def _fail(self, index: int, error: StoppedError) -> None:
        """Marks a member as failed, once; ends the training when no member is left."""
        if index in self.failures:
            return
        self.failures[index] = error
        self.callback(Failure(index, error))
        if len(self.failures) == self.split.num_members:
            raise error


def _compile(lowered: jax.stages.Lowered) -> None:
    with contextlib.suppress(Exception):
        lowered.compile()


def _shapes(tree: PyTree) -> PyTree:
    """Returns what a program is compiled for, of arrays that are donated meanwhile."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def _split_keys(keys: Key) -> tuple[Key, Key]:
    """Returns two keys for each `[P]`, which are consumed."""
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def rounds(
    agents: Agent, state: TrainState, env_state: EnvState, num_rounds: Array, *, env: Environment, num_updates: int
) -> tuple[TrainState, EnvState]:
    """Makes rounds in environments on the device: one act and step for each step of a round, and then ``learn``.

    Args:
        agents: Leaves `[P, ...]`.
        state: Before the rounds; donate it.
        env_state: Leaves `[P, E, ...]`; donate it.
        num_rounds: A number on the device, so that rounds of every number are one program.
        env: Static.
        num_updates: As in ``learn``.
    """
    length, group_size = agents.experience.steps_per_round, agents.experience.group_size

    def one_round(_: int, carry: tuple[TrainState, EnvState]) -> tuple[TrainState, EnvState]:
        state, before = carry
        if group_size is not None:
            keys, reset_keys = _split_keys(state.key)
            state = dataclasses.replace(state, key=keys)
            before = reset(reset_keys, env=env, group_size=group_size)

        def one_step(carry: tuple[Key, EnvState], _: None) -> tuple[tuple[Key, EnvState], Steps]:
            keys, before = carry
            action, extras, keys = act(agents, state.agent, keys, before.observation)
            after = map_members(env.step, before, action)
            return (keys, after), make_steps(before, action, extras, after)

        (keys, after), steps = jax.lax.scan(one_step, (state.key, before), length=length, unroll=length == 1)
        steps = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), steps)
        return learn(agents, dataclasses.replace(state, key=keys), steps, num_updates=num_updates), after

    return jax.lax.fori_loop(0, num_rounds, one_round, (state, env_state))


def member(tree: PyTree, index: int) -> PyTree:
    """Returns one member of a pytree with leading axis `[P]`."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
