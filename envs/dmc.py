"""The DeepMind Control suite on the CPU: dm_control's own tasks on MuJoCo's C engine, a state in and a state out.

Everything that makes a task is dm_control's: model, start, observation, reward, termination, control timestep, range of
the controls. Here is what steps a batch of them. A worker is one of its environments; each step puts the whole state of
ours into it, advances it and reads it back, so nothing about an environment is kept between calls, and the result is
bitwise the same whatever the batch, the threads, or what ran before.

| | |
|---|---|
| observation | the task's, flattened in its own order |
| action | [-1, 1], scaled to the task's range |
| reward | the task's, in [0, 1]; with ``action_repeat``, the sum over the control steps |
| termination | where the task says so, which none of these does |
| time limit | the task's, 1,000 control steps |

What a task keeps of an episode outside MuJoCo's state are numbers of the model, such as the place of a target: they are
drawn at the start and part of ``Physics``.

dm_control computes an observation from positions and velocities of the new state, and from accelerations and contact
forces of the state before the last physics step. It does so by ending a step with the first half of the next one
(mj_step2, ..., mj_step1). A restored state lacks that half, so here a step makes it again (mj_step is both halves):
the same numbers.

A step in which MuJoCo warns, and one whose observation or reward is not finite, or huge, ends the episode as a
termination; see ``EnvState.diverged``. dm_control would raise there. A start like this is drawn again.

Measured per step besides the reward: ``forward_velocity`` (m/s) of cheetah, hopper, walker, quadruped (of the torso)
and dog, ``horizontal_speed`` (m/s) of humanoid and humanoid_CMU, all as the tasks' rewards use them.

Source: Tunyasuvunakool et al., 2020, arXiv 2006.12983.
"""

import contextlib
import copy
import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from envs import host
from envs.components import Components, controls, numbered
from envs.engine import mujoco
from envs.mujoco_rendering import Renderer
from envs.quiet import silence_mujoco
from remac.machine import available_cpus
from remac.types import AnyArray, EnvState, Key
from remac.validation import InvalidValueError, require_bool, require_int, require_one_of

# Here, and not read from dm_control, so that they can be listed without it. All but its two linear-quadratic ones:
# their models are drawn when they are loaded, their controls have no range, and their episodes no end.
_DOMAINS = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
TASKS = tuple(f"{domain}-{task}" for domain, tasks in _DOMAINS.items() for task in tasks)
NEEDS = "dm_control"  # installed by the extra that is named as the suite

# Arrays of the model that tasks draw at the start of an episode, by how the tasks' names begin.
_DRAWN = {
    "finger-turn": ("site_pos",),
    "fish-swim": ("geom_pos",),
    "manipulator-": ("body_pos", "body_quat"),
    "point_mass-hard": ("wrap_prm",),
    "quadruped-escape": ("hfield_data",),
    "reacher-": ("geom_pos",),
    "stacker-": ("body_pos",),
    "swimmer-": ("geom_pos", "light_pos"),
}
_MEASURED: dict[str, tuple[str, Callable[[Any], float | np.floating]]] = {
    "cheetah": ("forward_velocity", lambda physics: physics.speed()),
    "dog": ("forward_velocity", lambda physics: physics.com_forward_velocity()),
    "hopper": ("forward_velocity", lambda physics: physics.speed()),
    "humanoid": ("horizontal_speed", lambda physics: np.linalg.norm(physics.center_of_mass_velocity()[:2])),
    "humanoid_CMU": ("horizontal_speed", lambda physics: np.linalg.norm(physics.center_of_mass_velocity()[:2])),
    "quadruped": ("forward_velocity", lambda physics: physics.torso_velocity()[0]),
    "walker": ("forward_velocity", lambda physics: physics.horizontal_velocity()),
}
_STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS.value | mujoco.mjtState.mjSTATE_WARMSTART.value
# MuJoCo tells of a warning where its count is 0; starting afresh, as it does with a bad state, sets all counts to 0.
_NONE_NEW = 2


class Physics(NamedTuple):
    """What a task needs to go on with an environment.

    Attributes:
        state: MuJoCo's state vector: time, positions, velocities, activations, warm start, float64
            `[..., E, num_state]`.
        model: The arrays of the model that the task drew at the start, by name, `[..., E, *shape]`.
    """

    state: np.ndarray
    model: dict[str, np.ndarray]


class _Batch(NamedTuple):
    """What the workers find, `[count, ...]`, float64 but for ``physics``, ``ended`` and ``diverged``."""

    physics: Physics
    observation: np.ndarray
    reward: np.ndarray
    metrics: dict[str, np.ndarray]
    ended: np.ndarray
    diverged: np.ndarray


def make(
    task: str,
    *,
    num_envs: int,
    action_repeat: int = 1,
    episode_length: int | None = None,
    stagger_first_episodes: bool = False,
    dtype: Any = np.float32,
    num_threads: int | None = None,
) -> "DMCEnvironment":
    """Makes E environments of a task.

    Args:
        task: One of ``TASKS``.
        num_envs: E.
        action_repeat: Control steps that an action is held for. Published results mostly have 2. What they count as an
            env step is a control step, not an action, and so does training here.
        episode_length: Time limit in control steps, a multiple of ``action_repeat``; by default the task's.
        stagger_first_episodes: Whether ``reset`` starts the count towards the time limit at a random number below the
            limit, so that the first episodes do not all end together.
        dtype: Of observations and rewards, which are computed in float64.
        num_threads: Threads that step environments; by default one per CPU that the process may use.

    Raises:
        InvalidValueError: Unknown task, or a value that is not allowed.
    """
    require_one_of("task", task, TASKS)
    require_int("num_envs", num_envs, 1)
    require_int("action_repeat", action_repeat, 1)
    if episode_length is not None:
        require_int("episode_length", episode_length, 1)
    require_bool("stagger_first_episodes", stagger_first_episodes)
    if dtype not in (np.float32, np.float64, "float32", "float64"):
        raise InvalidValueError("dtype", dtype, "must be float32 or float64")
    if num_threads is not None:
        require_int("num_threads", num_threads, 1)
    return DMCEnvironment(
        task,
        num_envs=num_envs,
        action_repeat=action_repeat,
        episode_length=episode_length,
        stagger_first_episodes=stagger_first_episodes,
        dtype=dtype,
        num_threads=available_cpus() if num_threads is None else num_threads,
    )


class DMCEnvironment:
    """E environments of one task (see remac.types.Environment), stepped on the host with NumPy arrays.

    Where termination and the time limit fall on the same step, it is a termination and not a truncation.

    Attributes:
        name: For example ``dmc/walker-walk``.
        num_envs: E.
        observation_size: obs_dim.
        metric_names: At most one, see the module.
        action_size: action_dim; actions are clipped to [-1, 1] and scaled to the task's range.
        action_range: That range, `[2, action_dim]`.
        action_repeat: Control steps, which count as env steps, in a step.
        episode_length: Time limit in steps, of ``action_repeat`` control steps each.
        on_device: False.
        dt: Simulated time of a step, in seconds.
    """

    on_device = False

    def __init__(
        self,
        task: str,
        *,
        num_envs: int,
        action_repeat: int,
        episode_length: int | None,
        stagger_first_episodes: bool,
        dtype: Any,
        num_threads: int,
    ) -> None:
        """See ``make``, which checks the values."""
        self.name, self.num_envs, self.action_repeat = f"dmc/{task}", num_envs, action_repeat
        self.stagger_first_episodes, self._dtype = stagger_first_episodes, np.dtype(dtype)
        domain, self._task = task.split("-")
        self._domain = domain
        self._workers: list[Any] = []
        self._threads = host.Threads(num_threads, "dmc")
        self._renderer: Renderer | None = None
        first = self._worker(0)
        if episode_length is None:
            episode_length = math.ceil(first._step_limit)
        if episode_length % action_repeat:
            allowed = f"must divide the time limit of {episode_length} control steps"
            raise InvalidValueError("action_repeat", action_repeat, allowed)
        self.episode_length = episode_length // action_repeat
        self.dt = first.control_timestep() * action_repeat
        spec = first.action_spec()
        self.action_size = spec.shape[0]
        self.action_range = np.stack([spec.minimum, spec.maximum])
        self._centre, self._scale = (spec.maximum + spec.minimum) / 2, (spec.maximum - spec.minimum) / 2
        model = first.physics.model.ptr
        self._drawn = next((names for start, names in _DRAWN.items() if task.startswith(start)), ())
        self._num_state = mujoco.mj_stateSize(model, _STATE)
        self.observation_size = sum(np.size(part) for part in first.task.get_observation(first.physics).values())
        self._measure = _MEASURED.get(domain)
        self.metric_names = () if self._measure is None else (self._measure[0],)

    @property
    def components(self) -> Components:
        """What the numbers of observations and actions are; dm_control names the former, and gives no units."""
        with self._threads:
            physics, task = self._worker(0).physics, self._worker(0).task
            observed = {name: np.size(part) for name, part in task.get_observation(physics).items()}
            action = controls(physics.model.ptr)
        return Components([one for name, size in observed.items() for one in numbered(name, size)], action)

    def for_evaluation(self, num_envs: int) -> "DMCEnvironment":
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
        # Each environment's own key, a seed of the task's np.random.RandomState.
        lead, keys = host.draw_keys(key, self.num_envs)
        start, counts, keys = self._start(keys)
        if group_size > 1:
            first = host.first_of_groups(len(keys), group_size)
            start, counts = jax.tree.map(lambda leaf: leaf[first], (start, counts))
        counts = counts if self.stagger_first_episodes else np.zeros_like(counts)
        observation = start.observation.astype(self._dtype)
        return host.unflatten(lead, host.beginning(start.physics, observation, keys, counts, self.metric_names))

    def step(self, state: EnvState, action: AnyArray) -> EnvState:
        """Advances every environment by one action `[..., E, action_dim]`, and resets those that ended.

        Raises:
            ValueError: The action's shape is not that of the state's environments.
        """
        lead, count = state.reward.shape, state.reward.size
        action = host.flat_actions(state, action, self.action_size, np.float64)
        before = jax.tree.map(lambda array: np.asarray(array).reshape(count, *array.shape[len(lead) :]), state.physics)
        after = self._new_batch(count, before.model)
        self._run(functools.partial(self._advance, before, self._centre + self._scale * action, after), count)

        with np.errstate(all="ignore"):  # too large for float32: found below
            reward, final_observation = after.reward.astype(self._dtype), after.observation.astype(self._dtype)
        diverged = after.diverged | ~(host.is_sound(reward[:, None]) & host.is_sound(final_observation))
        reward[diverged] = 0
        final_observation[diverged] = np.reshape(state.observation, final_observation.shape)[diverged]
        termination = after.ended | diverged

        step_count, episode_length, episode_return = host.count_step(state)
        truncation = (step_count >= self.episode_length) & ~termination
        physics, observation, key = after.physics, final_observation.copy(), np.reshape(state.key, (count, 4))
        ended = np.flatnonzero(termination | truncation)
        if ended.size:
            start, _, new_keys = self._start(key[ended])
            physics = Physics(physics.state, {name: array.copy() for name, array in physics.model.items()})
            key = key.copy()
            jax.tree.map(lambda array, new: array.__setitem__(ended, new), physics, start.physics)
            observation[ended], key[ended] = start.observation, new_keys
        return host.unflatten(
            lead,
            EnvState(
                physics=physics,
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
                metrics={
                    name: np.where(diverged, 0, value).astype(self._dtype) for name, value in after.metrics.items()
                },
            ),
        )

    def render(
        self, state: EnvState, index: int | tuple[int, ...] = 0, width: int = 480, height: int = 480
    ) -> np.ndarray:
        """Draws one environment, seen by the first camera of the task's model.

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
        with self._threads:
            physics = self._worker(0).physics
            model, data = physics.model.ptr, physics.data.ptr
            if self._renderer is None or self._renderer.size != (width, height):
                self._renderer = Renderer(model, width, height, {}, camera=0)
            for name, values in state.physics.model.items():
                getattr(model, name)[...] = values[index]
            mujoco.mj_setState(model, data, np.array(state.physics.state[index], np.float64), _STATE)
            mujoco.mj_forward(model, data)
            return self._renderer.draw(data)

    def _worker(self, number: int) -> Any:
        """Returns a dm_control environment of a thread's own, made when it is first needed."""
        while len(self._workers) <= number:
            worker = _suite().load(self._domain, self._task)
            # One task uploads its terrain to a rendering context at every start; without a display there is none.
            kind = type(worker.physics)
            worker.physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
            worker.task.random.seed(0)
            worker.reset()  # what a task sets at every start alike is set from now on
            self._workers.append(worker)
        return self._workers[number]

    def _new_batch(self, count: int, model: dict[str, np.ndarray]) -> _Batch:
        return _Batch(
            Physics(np.empty((count, self._num_state)), model),
            np.empty((count, self.observation_size)),
            np.zeros(count),
            {name: np.empty(count) for name in self.metric_names},
            np.zeros(count, bool),
            np.zeros(count, bool),
        )

    def _start(self, keys: np.ndarray) -> tuple[_Batch, np.ndarray, np.ndarray]:
        """Draws a start for each key, uint32 `[count, 4]`.

        Returns:
            The starts, random step counts `[count]` below the time limit, and the keys of the next starts.
        """
        count = len(keys)
        model = self._workers[0].physics.model.ptr
        arrays = {name: getattr(model, name) for name in self._drawn}
        drawn = {name: np.empty((count, *array.shape), array.dtype) for name, array in arrays.items()}
        start = self._new_batch(count, drawn)
        counts, following = np.empty(count, np.int32), np.empty_like(keys)
        self._run(functools.partial(self._draw, keys, start, counts, following), count)
        return start, counts, following

    def _run(self, work: Callable[[Any, int, int], None], count: int) -> None:
        """Calls ``_advance`` or ``_draw``, with inputs and outputs bound, for chunks of the rows of a batch."""
        with self._threads:
            self._worker(min(self._threads.number, count) - 1)
        self._threads.run(lambda thread, first, last: work(self._workers[thread], first, last), count)

    def _advance(self, before: Physics, control: np.ndarray, after: _Batch, worker: Any, first: int, last: int) -> None:
        """Steps rows ``first`` to ``last`` in one dm_control environment."""
        physics, task, num_physics_steps = worker.physics, worker.task, worker._n_sub_steps
        model, data = physics.model.ptr, physics.data.ptr
        drawn = [(getattr(model, name), values) for name, values in before.model.items()]
        warnings_counted = data.warning.number
        none_new = np.full_like(warnings_counted, _NONE_NEW).tobytes()
        with np.errstate(all="ignore"):
            for row in range(first, last):
                for array, values in drawn:
                    array[...] = values[row]
                mujoco.mj_setState(model, data, before.state[row], _STATE)
                warnings_counted[:] = _NONE_NEW
                for _ in range(self.action_repeat):
                    task.before_step(control[row], physics)
                    mujoco.mj_step(model, data, num_physics_steps)
                    mujoco.mj_step1(model, data)
                    task.after_step(physics)
                    after.reward[row] += task.get_reward(physics)
                    if task.get_termination(physics) == 0:
                        after.ended[row] = True
                        break
                self._read(physics, model, data, task, after, row)
                after.diverged[row] = warnings_counted.tobytes() != none_new

    def _draw(
        self,
        keys: np.ndarray,
        start: _Batch,
        counts: np.ndarray,
        following: np.ndarray,
        worker: Any,
        first: int,
        last: int,
    ) -> None:
        """Starts rows ``first`` to ``last`` in one dm_control environment."""
        from dm_control.rl.control import PhysicsError

        physics, task = worker.physics, worker.task
        model, data = physics.model.ptr, physics.data.ptr
        for row in range(first, last):
            task.random.seed(keys[row])
            is_sound = False
            while not is_sound:
                with contextlib.suppress(PhysicsError), np.errstate(all="ignore"):
                    with physics.reset_context():
                        task.initialize_episode(physics)
                    self._read(physics, model, data, task, start, row)
                    is_sound = bool(host.is_sound(start.observation[row : row + 1]).all())
            for name, array in start.physics.model.items():
                array[row] = getattr(model, name)
            counts[row] = task.random.randint(self.episode_length)
            following[row] = task.random.randint(2**32, size=4, dtype=np.uint32)

    def _read(self, physics: Any, model: Any, data: Any, task: Any, batch: _Batch, row: int) -> None:
        mujoco.mj_getState(model, data, batch.physics.state[row], _STATE)
        np.concatenate(tuple(task.get_observation(physics).values()), axis=None, out=batch.observation[row])
        if self._measure is not None:
            batch.metrics[self._measure[0]][row] = self._measure[1](physics)


@functools.cache
def _suite() -> Any:
    """Imports dm_control's suite, without a display, for whichever MuJoCo is installed, and silently."""
    variable = "MUJOCO_GL"
    chosen = os.environ.get(variable)
    os.environ[variable] = "disabled"  # or dm_control looks for a display, and warns where there is none
    try:
        from dm_control.mujoco.wrapper.mjbindings import sizes

        # dm_control lists the arrays of the MuJoCo that it was made with and reads all of them; another may lack some.
        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        for name, struct in (("mjmodel", model), ("mjdata", mujoco.MjData(model))):
            for array in [array for array in sizes.array_sizes[name] if not hasattr(struct, array)]:
                del sizes.array_sizes[name][array]
        from dm_control import suite
    finally:
        if chosen is None:
            del os.environ[variable]
        else:
            os.environ[variable] = chosen
    # dm_control logs MuJoCo's warnings, and MuJoCo itself writes a file. What matters of them is ``diverged``.
    silence_mujoco()
    return suite
