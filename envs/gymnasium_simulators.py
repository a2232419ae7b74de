"""Gymnasium's environments as rows of shared arrays: all in this process, or shared among worker processes.

A row is one environment. A command says of every row whether it is left alone, begins an episode or makes a step; what
comes of it is in the same arrays, in one exchange. One process holds many environments, since one process for each, as
in Gymnasium's own ``AsyncVectorEnv``, is slower than no process at all where a step takes less than a millisecond, and
a population has hundreds of them.
"""

import contextlib
import importlib
import mmap
import multiprocessing
import numbers
import os
import subprocess
import sys
import tempfile
import traceback
import types
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs import SimulatorError
from envs.engine import mujoco
from envs.quiet import quiet_mujoco
from remac.validation import InvalidValueError

IDLE, BEGIN, STEP, RESTORE = 0, 1, 2, 3
MAX_SEED = 2**31 - 1
_MAX_STARTS = 100
_CLOSE_SECONDS = 5.0
# The folder that holds these packages, by whichever name they have there.
_ROOT = str(Path(__file__).resolve().parents[__name__.count(".")])


@dataclass(frozen=True)
class Recipe:
    """What makes an environment, in any process.

    Attributes:
        name: Suite and id, for messages.
        env_id: As ``gymnasium.make`` takes it, with a module before a colon or without.
        options: Keyword arguments of ``gymnasium.make``.
        import_module: A module that registers the id when it is imported, or None.
        episode_length: Time limit in steps; None for the registered one.
        huge: Observations and rewards beyond this are those of a simulation that broke down.
        state_form: Type and shape of the state that the environment saves, or None.
    """

    name: str
    env_id: str
    options: dict[str, Any]
    import_module: str | None
    episode_length: int | None
    huge: float
    state_form: tuple[str, tuple[int, ...]] | None = None

    def make(self, **options: Any) -> Any:
        """Makes one environment; the options go before the recipe's own.

        Raises:
            Exception: Whatever ``gymnasium.make`` and the environment raise.
        """
        import gymnasium

        with quiet_mujoco():
            self.register()
            return gymnasium.make(
                self.env_id,
                max_episode_steps=self.episode_length,
                disable_env_checker=True,
                **{**self.options, **options},
            )

    def make_vector(self, num_envs: int) -> Any:
        """Makes environments side by side by the id's own vector entry point.

        Raises:
            Exception: Whatever ``gymnasium.make_vec`` and the environment raise.
        """
        import gymnasium

        limit = {} if self.episode_length is None else {"max_episode_steps": self.episode_length}
        with quiet_mujoco(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*AutoresetMode( metadata|, <class)")  # ``Vectors`` asks for it
            self.register()
            mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
            return gymnasium.make_vec(self.env_id, num_envs, vectorization_mode=mode, **{**self.options, **limit})

    def register(self) -> None:
        """Imports what registers the id.

        Raises:
            ImportError: It cannot be imported.
        """
        for module in (self.import_module, self.env_id.rpartition(":")[0]):
            if module:
                importlib.import_module(module)
                if module.partition(".")[0] == "gymnasium_robotics":
                    _repair_robotics()


class Slots(NamedTuple):
    """One row for each of the ``count`` environments.

    Attributes:
        command: ``IDLE``, ``BEGIN``, ``STEP`` or ``RESTORE``, `[count]` int8.
        seed: Of the episode that begins, now or when the running one has ended, `[count]` int64.
        action: In [-1, 1], `[count, action_dim]` float32.
        last: Whether the episode ends with this step in any case, `[count]` bool.
        observation: What the next action is for, of the next episode if one has ended, `[count, obs_dim]` float32.
        final_observation: What the step led to, `[count, obs_dim]` float32.
        reward: Of the step, `[count]` float32.
        termination: Whether the environment has terminated, or the step diverged, `[count]` bool.
        truncation: Whether the environment has truncated the episode, `[count]` bool.
        diverged: As in ``remac.types.EnvState``, `[count]` bool.
        metrics: Numbers of the step's ``info``; 0 for those that are missing or not finite, `[count, M]` float32.
        state: Bytes of the state that the environment saves, `[count, S]` uint8, none if it saves none.
    """

    command: np.ndarray
    seed: np.ndarray
    action: np.ndarray
    last: np.ndarray
    observation: np.ndarray
    final_observation: np.ndarray
    reward: np.ndarray
    termination: np.ndarray
    truncation: np.ndarray
    diverged: np.ndarray
    metrics: np.ndarray
    state: np.ndarray

    @classmethod
    def over(cls, buffer: Any, sizes: "Sizes") -> "Slots":
        """Makes arrays over a buffer of at least ``Slots.num_bytes``, one after the other."""
        arrays, offset = [], 0
        for dtype, shape in cls._layout(sizes):
            arrays.append(np.ndarray(shape, dtype, buffer, offset))
            offset += -(-arrays[-1].nbytes // 64) * 64
        return cls(*arrays)

    @classmethod
    def num_bytes(cls, sizes: "Sizes") -> int:
        """Returns the size of all arrays."""
        return sum(-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64 for dtype, shape in cls._layout(sizes))

    @staticmethod
    def _layout(sizes: "Sizes") -> list[tuple[Any, tuple[int, ...]]]:
        count, of_observation, of_action, num_metrics, of_state = sizes
        number, truth, observations = (
            (np.float32, (count,)),
            (np.bool_, (count,)),
            (np.float32, (count, of_observation)),
        )
        begins = [(np.int8, (count,)), (np.int64, (count,)), (np.float32, (count, of_action)), truth]
        ends = [number, truth, truth, truth, (np.float32, (count, num_metrics)), (np.uint8, (count, of_state))]
        return [*begins, observations, observations, *ends]


class Sizes(NamedTuple):
    """Sizes of the arrays: rows, obs_dim, action_dim, the number of metrics M and the bytes of a state S."""

    rows: int
    observation: int
    action: int
    metrics: int
    state: int


class Simulators:
    """The environments of some rows, in this process.

    Attributes:
        envs: Gymnasium's environments, one for each row.
    """

    def __init__(self, recipe: Recipe, metric_names: tuple[str, ...], slots: Slots, first: int, last: int) -> None:
        """Makes the environments of rows ``first`` to ``last``.

        Raises:
            SimulatorError: One of them cannot be made.
        """
        self._recipe, self._metric_names = recipe, metric_names
        self._slots = Slots(*(array[first:last] for array in slots))
        with told(recipe.name, "making it"):
            self.envs = [recipe.make() for _ in range(first, last)]
            self._flat = Flat(self.envs[0])

    def run(self) -> None:
        """Does what the rows' commands say.

        Raises:
            SimulatorError: An environment raised an exception.
        """
        slots = self._slots
        stepped = slots.command == STEP
        with quiet_mujoco(), np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
            with told(self._recipe.name, "step"):
                self._step(np.flatnonzero(stepped))
            diverged = stepped & ~(self._is_sound(slots.reward[:, None]) & self._is_sound(slots.final_observation))
            slots.diverged[stepped] = diverged[stepped]
            if diverged.any():
                slots.termination[diverged] = True
                slots.final_observation[diverged] = slots.observation[diverged]
                slots.reward[diverged] = slots.metrics[diverged] = 0
            slots.metrics[~np.isfinite(slots.metrics)] = 0
            over = stepped & (slots.termination | slots.truncation | slots.last)
            going_on = stepped & ~over
            slots.observation[going_on] = slots.final_observation[going_on]
            with told(self._recipe.name, "reset"):
                self._begin(np.flatnonzero(over | (slots.command == BEGIN)))
            if self._recipe.state_form is not None:
                with told(self._recipe.name, "restoring its state"):
                    self._restore(np.flatnonzero(slots.command == RESTORE))
                with told(self._recipe.name, "saving its state"):
                    self._save(np.flatnonzero(slots.command != IDLE))

    def close(self) -> None:
        """Closes the environments, whatever they say."""
        for env in self.envs:
            with contextlib.suppress(Exception):
                env.close()

    def _step(self, rows: np.ndarray) -> None:
        slots, envs, flatten, names = self._slots, self.envs, self._flat.observation, self._metric_names
        actions = self._flat.actions(slots.action)
        for row in rows:
            observation, reward, termination, truncation, info = envs[row].step(actions[row, ...])
            slots.final_observation[row] = flatten(observation)
            slots.reward[row] = reward_of(self._recipe.name, reward)
            slots.termination[row], slots.truncation[row] = termination, truncation
            if names:
                values = [info.get(name, 0) for name in names]
                slots.metrics[row] = [value if is_number(value) else 0 for value in values]

    def _begin(self, rows: np.ndarray) -> None:
        seeds = self._slots.seed.tolist()
        for row in rows:
            self._slots.observation[row] = begin(self._recipe, self.envs[row], self._flat, seeds[row])

    def _save(self, rows: np.ndarray) -> None:
        for row in rows:
            state = saved_state(self.envs[row])
            if (form := form_of(state)) != self._recipe.state_form:
                raise ValueError(f"get_state gives {form}, and gave {self._recipe.state_form} before")
            self._slots.state[row] = np.frombuffer(state.tobytes(), np.uint8)

    def _restore(self, rows: np.ndarray) -> None:
        dtype, shape = self._recipe.state_form or ("", ())
        for row in rows:
            self.envs[row].reset(seed=int(self._slots.seed[row]))  # wrappers step nothing that was never reset
            restore_state(self.envs[row], self._slots.state[row].copy().view(dtype).reshape(shape))

    def _is_sound(self, values: np.ndarray) -> np.ndarray:
        return (np.abs(values) < self._recipe.huge).all(axis=-1)


class Workers:
    """The environments of all rows, shared among processes that end with this one, however it ends.

    They are new programs and not forks, since a fork of a process that runs JAX can deadlock; nor do they import what
    the program that they serve was started with. In sessions of their own, they do not get the signals of a terminal:
    an interrupted training first ends its round.

    Attributes:
        slots: The rows.
    """

    def __init__(self, recipe: Recipe, metric_names: tuple[str, ...], sizes: Sizes, num_processes: int) -> None:
        """Starts the processes, and waits until they have made their environments.

        Raises:
            SimulatorError: One of them cannot be made.
        """
        self._name = recipe.name
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._close = weakref.finalize(self, _end, self._pipes, self._processes)
        with tempfile.TemporaryFile() as file:
            file.truncate(Slots.num_bytes(sizes))
            self.slots = Slots.over(mmap.mmap(file.fileno(), 0), sizes)
            for index in range(num_processes):
                rows = (sizes.rows * index // num_processes, sizes.rows * (index + 1) // num_processes)
                pipe, other = multiprocessing.Pipe()
                with other:
                    files = (other.fileno(), file.fileno())
                    # Ours is imported first, whatever else has its name; then all is searched for as it is here.
                    ours = f"sys.path.insert(0, {_ROOT!r}); from {__name__} import serve; sys.path.remove({_ROOT!r})"
                    process = subprocess.Popen(
                        **_python(f"import sys; {ours}; serve{files}"), pass_fds=files, start_new_session=True
                    )
                self._pipes.append(pipe)
                self._processes.append(process)
                with contextlib.suppress(OSError):  # of a process that has ended, which is told below
                    pipe.send((recipe, metric_names, sizes, rows))
        self._wait()

    def run(self) -> None:
        """Does what the rows' commands say.

        Raises:
            SimulatorError: An environment raised an exception, or a process has ended.
        """
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        self._wait()

    def close(self) -> None:
        """Ends the processes."""
        self._close()

    def _wait(self) -> None:
        failures = []
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                failures.append(pipe.recv())
            except (EOFError, OSError):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_CLOSE_SECONDS)
                failures.append(f"{self._name}: a worker process has ended (exit code {process.returncode})")
        if any(failures):
            self.close()
            raise SimulatorError(next(filter(None, failures)))


def serve(pipe_number: int, file_number: int) -> None:
    """Is a worker process: runs some rows until the other end of the pipe is closed, or its process is no more."""
    pipe = Connection(pipe_number)
    simulators = None
    with contextlib.suppress(EOFError, OSError):
        recipe, metric_names, sizes, rows = pipe.recv()
        slots = Slots.over(mmap.mmap(file_number, 0), sizes)
        os.close(file_number)
        try:
            simulators = Simulators(recipe, metric_names, slots, *rows)
            while True:
                pipe.send(None)
                pipe.recv()
                simulators.run()
        except SimulatorError as error:
            pipe.send(str(error))
    if simulators is not None:
        simulators.close()


def _end(pipes: list[Connection], processes: list["subprocess.Popen[bytes]"]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        try:
            process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Flat:
    """Translates between flat arrays and an environment's own actions and observations."""

    def __init__(self, env: Any) -> None:
        """Takes an environment with bounded Box actions and observations that can be flattened."""
        self._spaces = importlib.import_module("gymnasium.spaces")
        self._observation_space, self._action_space = env.observation_space, env.action_space
        self._is_box = isinstance(env.observation_space, self._spaces.Box)
        self._low, self._high = (
            np.asarray(bound, np.float64) for bound in (env.action_space.low, env.action_space.high)
        )
        self._centre, self._scale = (self._high + self._low) / 2, (self._high - self._low) / 2

    def observation(self, observation: Any) -> np.ndarray:
        """Flattens an observation, `[obs_dim]`."""
        if self._is_box:  # many times as fast, and the same
            return np.asarray(observation, self._observation_space.dtype).ravel()
        return np.asarray(self._spaces.flatten(self._observation_space, observation))

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Scales actions `[B, action_dim]` in [-1, 1] to the range of the environment, in its shape and type.

        Note: where that shape is (), one of them is taken by ``[row, ...]``, an array and no scalar.
        """
        space = self._action_space
        actions = actions.reshape(-1, *space.shape).astype(np.float64)
        # By rounding they may be just outside, which some environments refuse.
        return np.clip(self._centre + self._scale * actions, self._low, self._high).astype(space.dtype)


def begin(recipe: Recipe, env: Any, flat: Flat, seed: int) -> np.ndarray:
    """Begins an episode; a start that is not finite, or huge, is drawn again with the seed that follows.

    Returns:
        Its observation, `[obs_dim]`.

    Raises:
        SimulatorError: ``reset`` returns something else than Gymnasium asks for, or gives no start that is finite.
    """
    for attempt in range(_MAX_STARTS):
        start = env.reset(seed=(seed + attempt) % (MAX_SEED + 1))
        if not isinstance(start, tuple | list) or len(start) != 2 or not isinstance(start[1], dict | None):
            raise SimulatorError(f"{recipe.name}: reset returned {_shown(start)}; must be an observation and its info")
        observation = flat.observation(start[0])
        if (np.abs(observation.astype(np.float32)) < recipe.huge).all():  # the precision in which it is used
            return observation
    raise SimulatorError(f"{recipe.name}: {_MAX_STARTS} starts in a row are not finite, or beyond {recipe.huge:g}")


def reward_of(name: str, reward: Any) -> float:
    """Returns a reward as a number, which may be alone in an array.

    Raises:
        SimulatorError: It is none.
    """
    if isinstance(reward, numbers.Real):
        return float(reward)
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise SimulatorError(f"{name}: step returned the reward {_shown(reward)}; must be a number")
    return float(array.item())


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:100]


def is_registered_at_once(env_id: str) -> bool:
    """Whether a new process knows an id as soon as it has imported Gymnasium; what is not found out counts as yes."""
    unknown = f"import gymnasium, sys; sys.exit(3 * ({env_id!r} not in gymnasium.registry))"
    return subprocess.run(**_python(unknown), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 3


def _python(code: str) -> dict[str, Any]:
    """Returns how a process is started that runs some code, and imports what this one would, and from there.

    By itself Python would look first into the folder that it is started in.
    """
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    return {"args": [sys.executable, "-P", "-c", code], "stdin": subprocess.DEVNULL, "env": variables}


def saves_state(env: Any) -> bool:
    """Whether an environment, or what is wrapped around it, has ``get_state()`` and ``set_state(state)``."""
    return env.has_wrapper_attr("get_state") and env.has_wrapper_attr("set_state")


def saved_state(env: Any) -> np.ndarray:
    """Returns all that an environment's coming steps depend on, in an array that its next steps leave alone."""
    return np.array(env.get_wrapper_attr("get_state")())


def restore_state(env: Any, state: np.ndarray) -> None:
    """Brings an environment, which has been reset, to a state."""
    env.get_wrapper_attr("set_state")(state)


def form_of(state: np.ndarray) -> tuple[str, tuple[int, ...]]:
    """Returns type and shape."""
    return state.dtype.str, state.shape


def is_number(value: Any) -> bool:
    """Whether something in an ``info`` is a number or a truth value."""
    if isinstance(value, int | float | np.integer | np.floating | np.bool_):
        return True
    return isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "biuf"


@contextlib.contextmanager
def told(name: str, what: str) -> Iterator[None]:
    """Turns any exception of an environment into one line that names it.

    Raises:
        InvalidValueError: It was raised, which is such a line already.
        SimulatorError: With what was raised, and where.
    """
    try:
        yield
    except (InvalidValueError, SimulatorError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SimulatorError(f"{name}: {what} raised {words} (line {frame.lineno} of {frame.filename})") from error


def _repair_robotics() -> None:
    """Lets gymnasium-robotics 1.4 find a joint among MuJoCo's kinds of joints, which are no integers since 3.17."""
    from gymnasium_robotics.utils import mujoco_utils

    kinds = types.SimpleNamespace(**{name: kind.value for name, kind in mujoco.mjtJoint.__members__.items()})
    mujoco_utils.mujoco = types.SimpleNamespace(**{**vars(mujoco), "mjtJoint": kinds})
