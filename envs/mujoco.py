"""MuJoCo tasks on the CPU: MuJoCo's C engine on the host, a state in and a state out.

`envs/mujoco_tasks.py` tabulates observation, action, reward and termination of the tasks. Here is the
engine that they share. Each step puts an environment's whole state, warm start included, into an MjData,
advances it, and reads the state back, so nothing about an environment is kept between calls: any batch can be
stepped in any order, and the result is bitwise the same whatever the batch, the threads, or what ran before.
``mj_rnePostConstraint`` runs only for tasks that read contact forces: what it writes (cacc, cfrc_int,
cfrc_ext) is read by nothing else.

Where the physics diverges, MuJoCo itself starts that simulation afresh and counts a warning. Such a step, and one
whose observation or reward is not finite, or huge, ends the episode as a termination; see ``EnvState.diverged``. A
start with such an observation is drawn again.

In float64 every observation equals Gymnasium's, whatever the task's options. The default is float32, which keeps 24
bits: contact forces, the largest numbers (5,000 N in a humanoid's fall), then differ by up to 2.4e-4 N.
"""

import copy
import importlib.util
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from envs import host
from envs.components import Components, controls
from envs.engine import mujoco
from envs.mujoco_rendering import Renderer
from envs.mujoco_tasks import TASKS as _TASKS
from envs.mujoco_tasks import Readings, Task, make_task
from envs.quiet import told_by_mujoco
from remac.machine import available_cpus
from remac.types import HUGE, AnyArray, EnvState, Key
from remac.validation import InvalidValueError, require_bool, require_int

TASKS = tuple(_TASKS)

_STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS.value | mujoco.mjtState.mjSTATE_WARMSTART.value
# The warnings of physics that diverged: a position, velocity, acceleration or control that is not finite, or huge.
_DIVERGED = slice(mujoco.mjtWarning.mjWARN_BADQPOS.value, mujoco.mjtWarning.mjWARN_BADCTRL.value + 1)
# MuJoCo prints a warning, and writes it to MUJOCO_LOG.TXT, where its count is 0; starting afresh sets all counts to 0.
_NONE_NEW = 2


class Physics(NamedTuple):
    """What MuJoCo needs to go on with an environment, float64.

    Attributes:
        state: MuJoCo's state vector: time, positions, velocities, warm start; `[..., E, num_state]`.
        position: The x (m) that the next forward velocity is measured from, `[..., E]`. ``state`` does not
            give it: some tasks take it from quantities that MuJoCo last updated inside its step.
    """

    state: np.ndarray
    position: np.ndarray


class _Start(NamedTuple):
    """The beginnings of ``count`` episodes, `[count, ...]`: those of ``Physics``, and the observations."""

    state: np.ndarray
    position: np.ndarray
    observation: np.ndarray


def make(
    task: str,
    *,
    num_envs: int,
    stagger_first_episodes: bool = False,
    dtype: Any = np.float32,
    num_threads: int | None = None,
    **options: Any,
) -> "MujocoEnvironment":
    """Makes E environments of a task.

    Args:
        task: One of ``TASKS``.
        num_envs: E.
        stagger_first_episodes: Whether ``reset`` starts the count towards the time limit at a random number
            below the limit, so that the first episodes do not all end together.
        dtype: Of observations and rewards, which are computed in float64.
        num_threads: Threads that step environments; by default one per CPU that the process may use.
        **options: ``episode_length`` and the task's Gymnasium flags, with Gymnasium's names and defaults.

    Raises:
        InvalidValueError: Unknown task or option, or a value that is not allowed.
    """
    return MujocoEnvironment(
        f"mujoco/{task}",
        make_task(task, options),
        num_envs=num_envs,
        stagger_first_episodes=stagger_first_episodes,
        dtype=dtype,
        num_threads=num_threads,
    )


class MujocoEnvironment:
    """E environments of one task (see remac.types.Environment), stepped on the host with NumPy arrays.

    Where termination and the time limit fall on the same step, it is a termination and not a truncation.

    Attributes:
        name: For example ``mujoco/hopper``.
        num_envs: E.
        observation_size: obs_dim.
        metric_names: Of the task's ``Outcome.metrics``, sorted.
        action_size: action_dim; actions are clipped to [-1, 1] and scaled to the control range.
        action_range: That range, `[2, action_dim]`.
        episode_length: Time limit in steps.
        on_device: False.
        task: The task with its options.
        model: The compiled model.
        own_files: The model as MuJoCo's binary, which is all that it was made of and exact to the bit, if it is not one
            of Gymnasium's; by the name of the option that names it, with the ending of the file.
        dt: Simulated time of a step, in seconds.
    """

    on_device = False

    def __init__(
        self,
        name: str,
        task: Task,
        *,
        num_envs: int,
        stagger_first_episodes: bool = False,
        dtype: Any = np.float32,
        num_threads: int | None = None,
    ) -> None:
        """See ``make``."""
        require_bool("stagger_first_episodes", stagger_first_episodes)
        if dtype not in (np.float32, np.float64, "float32", "float64"):
            raise InvalidValueError("dtype", dtype, "must be float32 or float64")
        require_int("num_envs", num_envs, 1)
        if num_threads is None:
            num_threads = available_cpus()
        require_int("num_threads", num_threads, 1)
        self.num_envs = num_envs
        self.name, self.task, self.episode_length = name, task, task.episode_length
        self.model = _load_model(self.task.xml_file)
        self.own_files = {"xml_file.mjb": _to_binary(self.model)} if _is_path(self.task.xml_file) else {}
        self.task.check(self.model)
        self.stagger_first_episodes, self._dtype = stagger_first_episodes, np.dtype(dtype)
        self.action_range = low, high = self.model.actuator_ctrlrange.T
        self._ctrl_centre, self._ctrl_scale = (high + low) / 2, (high - low) / 2
        self._num_state = mujoco.mj_stateSize(self.model, _STATE)
        self.dt = self.model.opt.timestep * self.task.frame_skip
        self._workers = [mujoco.MjData(self.model) for _ in range(num_threads)]
        self._threads = host.Threads(num_threads, "mujoco")
        self._renderer: Renderer | None = None
        self.action_size = self.model.nu
        _, rest = self._run(partial(self._settle, self.model.qpos0[None], np.zeros((1, self.model.nv))), 1)
        try:
            self.observation_size = self.task.observe(rest).shape[1]
            self.metric_names = tuple(sorted(self.task.outcome(rest, np.zeros(1)).metrics))
        except (KeyError, IndexError, ValueError) as error:
            allowed = f"must be a model with what {name} reads ({' '.join(str(error).split())})"
            raise InvalidValueError("xml_file", self.task.xml_file, allowed) from None
        qpos, qvel, *_ = self._draw_starts(np.arange(32, dtype=np.uint64).reshape(16, 2))
        if not host.is_sound(self._settled(qpos, qvel).observation).all():
            option = "reset_noise_scale" if hasattr(self.task, "reset_noise_scale") else "xml_file"
            allowed = f"must give starts with observations below {HUGE:g}"
            raise InvalidValueError(option, getattr(self.task, option), allowed)

    @property
    def components(self) -> Components:
        """What the numbers of observations and actions are."""
        return Components(self.task.components(self.model), controls(self.model))

    def for_evaluation(self, num_envs: int) -> Self:
        """Returns the same task with another number of environments and no staggered starts.

        They share the threads, which step one batch at a time.
        """
        env = copy.copy(self)
        env.num_envs, env.stagger_first_episodes = num_envs, False
        return env

    def reset(self, key: Key, group_size: int = 1) -> EnvState:
        """Starts new episodes in all environments.

        Args:
            key: Typed JAX keys `[...]`; consumed. Each gives the starts of E environments.
            group_size: So many neighbours have the same start, but not the same next ones; divides E.

        Returns:
            State with leading axes `[..., E]`. Reward is 0, and nothing has ended.
        """
        lead, keys = self._environment_keys(key)
        start, counts, keys = self._draw_sound_starts(keys)
        if group_size > 1:
            first = host.first_of_groups(len(keys), group_size)
            start, counts = _Start(*(leaf[first] for leaf in start)), counts[first]
        return self._started(lead, start, counts if self.stagger_first_episodes else np.zeros_like(counts), keys)

    def state_from(self, key: Key, qpos: np.ndarray, qvel: np.ndarray) -> EnvState:
        """Starts new episodes from given positions and velocities, otherwise as ``reset`` does.

        As in Gymnasium's set_state after a reset, the rest of the state is what MuJoCo's forward dynamics
        find from time 0, no control, and no warm start.

        Args:
            key: As for ``reset``; gives the starts of the episodes after this one.
            qpos: `[..., E, nq]`, or anything that broadcasts to it.
            qvel: `[..., E, nv]`, likewise.
        """
        lead, keys = self._environment_keys(key)
        count, nq, nv = len(keys), self.model.nq, self.model.nv
        qpos = np.broadcast_to(np.asarray(qpos, np.float64), (*lead, nq)).reshape(count, nq)
        qvel = np.broadcast_to(np.asarray(qvel, np.float64), (*lead, nv)).reshape(count, nv)
        return self._started(lead, self._settled(qpos, qvel), np.zeros(count, np.int32), keys)

    def step(self, state: EnvState, action: AnyArray) -> EnvState:
        """Advances every environment by one action `[..., E, action_dim]`, and resets those that ended.

        Raises:
            ValueError: The action's shape is not that of the state's environments.
        """
        lead, count = state.reward.shape, state.reward.size
        action = host.flat_actions(state, action, self.action_size, np.float64)
        ctrl = self._ctrl_centre + self._ctrl_scale * action
        before = np.ascontiguousarray(state.physics.state, np.float64).reshape(count, self._num_state)
        diverged = np.zeros(count, bool)
        physics, readings = self._run(partial(self._advance, before, ctrl, diverged), count)
        readings = readings._replace(ctrl=ctrl)

        position = self.task.position(readings).copy()
        with np.errstate(all="ignore"):
            velocity = (position - np.reshape(state.physics.position, count)) / self.dt
            reward, termination, metrics = self.task.outcome(readings, velocity)
            reward = reward.astype(self._dtype)
            final_observation = self.task.observe(readings).astype(self._dtype)
        diverged |= ~(host.is_sound(reward[:, None]) & host.is_sound(final_observation))
        if diverged.any():
            reward[diverged], termination = 0, termination | diverged
            final_observation[diverged] = np.reshape(state.observation, final_observation.shape)[diverged]
        # Copies, since what was measured may be a part of the state, where the next starts are put.
        measured: dict[str, AnyArray] = {
            name: np.where(diverged, 0, value).astype(self._dtype) for name, value in metrics.items()
        }

        step_count, episode_length, episode_return = host.count_step(state)
        truncation = (step_count >= self.episode_length) & ~termination

        observation, key = final_observation.copy(), np.reshape(state.key, (count, 2))
        ended = np.flatnonzero(termination | truncation)
        if ended.size:
            key = key.copy()
            (physics[ended], position[ended], observation[ended]), _, key[ended] = self._draw_sound_starts(key[ended])
        return host.unflatten(
            lead,
            EnvState(
                physics=Physics(physics, position),
                observation=observation,
                reward=reward,
                termination=termination,
                truncation=truncation,
                diverged=diverged,
                final_observation=final_observation,
                step_count=step_count,
                key=key,
                episode_return=episode_return + reward,
                episode_length=episode_length,
                metrics=measured,
            ),
        )

    def _environment_keys(self, key: Key) -> tuple[tuple[int, ...], np.ndarray]:
        """Makes each environment's own key, uint64 `[count, 2]`, a key of NumPy's Philox generator."""
        lead, words = host.draw_keys(key, self.num_envs)
        return lead, words.view(np.uint64)

    def _draw_starts(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Draws a start for each key.

        Args:
            keys: uint64 `[count, 2]`.

        Returns:
            Positions `[count, nq]`, velocities `[count, nv]`, random step counts `[count]` below the time
            limit, and the keys of the next starts.
        """
        count, following = len(keys), np.empty_like(keys)
        qpos, qvel = np.empty((count, self.model.nq)), np.empty((count, self.model.nv))
        counts = np.empty(count, np.int32)
        for row, key in enumerate(keys):
            bits = np.random.Philox(key=key)
            following[row] = bits.random_raw(2)
            rng = np.random.Generator(bits)
            qpos[row], qvel[row] = self.task.start(rng, self.model)
            counts[row] = rng.integers(self.episode_length)
        return qpos, qvel, counts, following

    def _draw_sound_starts(self, keys: np.ndarray) -> tuple["_Start", np.ndarray, np.ndarray]:
        """Draws a start for each key, again where its observation is not finite, or huge.

        Returns:
            The starts, random step counts and the keys of the next starts, as of ``_draw_starts``.
        """
        qpos, qvel, counts, keys = self._draw_starts(keys)
        start = self._settled(qpos, qvel)
        again = ~host.is_sound(start.observation)
        if again.any():  # rarely: the constructor refuses tasks that often start like this
            drawn, counts[again], keys[again] = self._draw_sound_starts(keys[again])
            for array, new in zip(start, drawn, strict=True):
                array[again] = new
        return start, counts, keys

    def _settled(self, qpos: np.ndarray, qvel: np.ndarray) -> "_Start":
        physics, readings = self._run(partial(self._settle, qpos, qvel), len(qpos))
        with np.errstate(all="ignore"):
            observation = self.task.observe(readings).astype(self._dtype)
        return _Start(physics, self.task.position(readings).copy(), observation)

    def _started(self, lead: tuple[int, ...], start: "_Start", counts: np.ndarray, keys: np.ndarray) -> EnvState:
        """State at the beginning of episodes, with leading axes ``lead``."""
        physics = Physics(start.state, start.position)
        return host.unflatten(lead, host.beginning(physics, start.observation, keys, counts, self.metric_names))

    def _run(self, work: Callable[..., None], count: int) -> tuple[np.ndarray, Readings]:
        """Shares the rows of a batch among the threads, in contiguous chunks, and collects what they find.

        Args:
            work: ``_advance`` or ``_settle`` with their inputs bound.
            count: Number of rows.

        Returns:
            State vectors `[count, num_state]`, and the readings (with no control, as after a reset).
        """
        data = self._workers[0]
        state = np.empty((count, self._num_state))
        derived = {name: np.empty((count, *getattr(data, name).shape)) for name in self.task.derived}
        self._threads.run(lambda thread, first, last: work(self._workers[thread], first, last, state, derived), count)
        end = 1 + self.model.nq
        qpos, qvel = state[:, 1:end], state[:, end : end + self.model.nv]
        return state, Readings(self.model, qpos, qvel, np.zeros((count, self.model.nu)), derived)

    def _advance(
        self,
        before: np.ndarray,
        ctrl: np.ndarray,
        diverged: np.ndarray,
        data: mujoco.MjData,
        first: int,
        last: int,
        state: np.ndarray,
        derived: dict[str, np.ndarray],
    ) -> None:
        """Steps rows ``first`` to ``last`` on one MjData, and marks those whose physics diverged.

        Names are bound outside the loop: Python inside it holds the GIL, and so the other threads.
        """
        model, frame_skip, control = self.model, self.task.frame_skip, data.ctrl
        set_state, step, get_state = mujoco.mj_setState, mujoco.mj_step, mujoco.mj_getState
        contact_forces = mujoco.mj_rnePostConstraint if "cfrc_ext" in derived else None
        copies = [(getattr(data, name), out) for name, out in derived.items()]
        warnings_counted = data.warning.number[_DIVERGED]
        warnings_counted[:] = _NONE_NEW
        for row in range(first, last):
            set_state(model, data, before[row], _STATE)
            control[:] = ctrl[row]
            step(model, data, frame_skip)
            if contact_forces:
                contact_forces(model, data)
            get_state(model, data, state[row], _STATE)
            for value, out in copies:
                out[row] = value
        if (warnings_counted != _NONE_NEW).any():  # rare, so the rows are found by stepping again one by one
            if last - first == 1:
                diverged[first] = True
            else:
                for row in range(first, last):
                    self._advance(before, ctrl, diverged, data, row, row + 1, state, derived)

    def _settle(
        self,
        qpos: np.ndarray,
        qvel: np.ndarray,
        data: mujoco.MjData,
        first: int,
        last: int,
        state: np.ndarray,
        derived: dict[str, np.ndarray],
    ) -> None:
        """Starts rows ``first`` to ``last`` from their positions and velocities."""
        for row in range(first, last):
            mujoco.mj_resetData(self.model, data)
            data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
            mujoco.mj_forward(self.model, data)
            mujoco.mj_getState(self.model, data, state[row], _STATE)
            for name, out in derived.items():
                out[row] = getattr(data, name)

    def render(
        self, state: EnvState, index: int | tuple[int, ...] = 0, width: int = 480, height: int = 480
    ) -> np.ndarray:
        """Draws one environment, seen by the model's camera ``track`` if it has one.

        Args:
            state: Any state of these environments.
            index: Which of them, an index into the leading axes.
            width: In pixels.
            height: In pixels.

        Returns:
            RGB image, uint8 `[height, width, 3]`.

        Raises:
            RuntimeError: This machine cannot render; the message says why.
        """
        if self._renderer is None or self._renderer.size != (width, height):
            self._renderer = Renderer(self.model, width, height, self.task.view)
        data = mujoco.MjData(self.model)
        vector = np.array(state.physics.state[index], np.float64)
        mujoco.mj_setState(self.model, data, vector, _STATE)
        mujoco.mj_forward(self.model, data)
        return self._renderer.draw(data)


def _load_model(xml_file: str) -> mujoco.MjModel:
    """Compiles a model, or loads MuJoCo's binary; a plain name is one of Gymnasium's, found without importing it."""
    path = Path(xml_file).expanduser()
    if not _is_path(xml_file):
        spec = importlib.util.find_spec("gymnasium")
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError("the MuJoCo models come with the gymnasium package, which is not installed")
        path = Path(spec.submodule_search_locations[0], "envs", "mujoco", "assets", xml_file)
    if not path.is_file():
        of_ones_own = f"; the file in this folder is ./{xml_file}" if Path(xml_file).is_file() else ""
        allowed = f"must be a model of Gymnasium, or a path that exists{of_ones_own}"
        raise InvalidValueError("xml_file", xml_file, allowed)
    try:
        if path.suffix == ".mjb":
            model = _from_binary(path)
        else:
            # One of Gymnasium's models uses an attribute that MuJoCo 4 deprecates. Through MjSpec that is a Python
            # warning, which can be silenced; MjModel.from_xml_path prints it and writes it to MUJOCO_LOG.TXT.
            # The compiled model is the same.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*settotalmass")
                model = mujoco.MjSpec.from_file(str(path)).compile()
    except ValueError as error:
        reason = " ".join(str(error).split())
        allowed = f"must be a model that MuJoCo {mujoco.__version__} reads ({reason})"
        raise InvalidValueError("xml_file", xml_file, allowed) from None
    if not model.nu or not model.actuator_ctrllimited.all():
        raise InvalidValueError("xml_file", xml_file, "must be a model whose actuators all have a control range")
    return model


def _is_path(xml_file: str) -> bool:
    return "/" in xml_file or xml_file.startswith((".", "~"))


def _to_binary(model: mujoco.MjModel) -> bytes:
    buffer = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def _from_binary(path: Path) -> mujoco.MjModel:
    """Loads a model; what MuJoCo would print and write to MUJOCO_LOG.TXT is in the error."""
    said: list[str] = []
    try:
        with told_by_mujoco(said.append):
            return mujoco.MjModel.from_binary_path(str(path))
    except ValueError as error:
        raise ValueError("; ".join(said) or str(error)) from None
