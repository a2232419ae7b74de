"""MuJoCo Playground's tasks on the device. Observations, rewards and terminations are Playground's own.

Batches, time limits, the starts of new episodes, last observations and divergence are ``envs.device``'s; none of
Playground's training wrappers has a part.

| | |
|---|---|
| observation | the task's; where it has several by name, ``state``, or the one that the option ``observation`` names |
| critics' observation | the same, or the one that ``critic_observation`` names, such as ``privileged_state`` |
| action | [-1, 1], as Playground's tasks take them |
| reward | the task's; with ``action_repeat``, the sum over the control steps |
| termination | where the task says so; of the DeepMind Control tasks none does, but for one that breaks down |
| time limit | the task's ``episode_length``, in control steps |
| metrics | the task's own, after the last control step |

The robots of locomotion and manipulation come with no package. Playground would clone them when a task is first made;
here they have to be where it looks for them.

Source: Zakka et al., 2025, arXiv 2502.08844.
"""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from envs.device import DeviceEnvironment
from envs.engine import mujoco
from envs.mujoco_rendering import Renderer
from envs.quiet import quiet_mujoco, quietly
from remac.types import Array, EnvState, Key, Metrics, PyTree
from remac.validation import InvalidValueError, require_int, require_number, require_one_of

# Here, and not read from Playground, so that they can be listed without it.
DM_CONTROL_TASKS = (
    "AcrobotSwingup",
    "AcrobotSwingupSparse",
    "BallInCup",
    "CartpoleBalance",
    "CartpoleBalanceSparse",
    "CartpoleSwingup",
    "CartpoleSwingupSparse",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FingerTurnHard",
    "FishSwim",
    "HopperHop",
    "HopperStand",
    "HumanoidStand",
    "HumanoidWalk",
    "HumanoidRun",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "ReacherHard",
    "SwimmerSwimmer6",
    "WalkerRun",
    "WalkerStand",
    "WalkerWalk",
)
LOCOMOTION_TASKS = (
    "ApolloJoystickFlatTerrain",
    "BarkourJoystick",
    "BerkeleyHumanoidJoystickFlatTerrain",
    "BerkeleyHumanoidJoystickRoughTerrain",
    "G1JoystickFlatTerrain",
    "G1JoystickRoughTerrain",
    "Go1Footstand",
    "Go1Getup",
    "Go1Handstand",
    "Go1JoystickFlatTerrain",
    "Go1JoystickRoughTerrain",
    "H1InplaceGaitTracking",
    "H1JoystickGaitTracking",
    "Op3Joystick",
    "SpotFlatTerrainJoystick",
    "SpotGetup",
    "SpotJoystickGaitTracking",
    "T1JoystickFlatTerrain",
    "T1JoystickRoughTerrain",
)
MANIPULATION_TASKS = (
    "AeroCubeRotateZAxis",
    "AlohaHandOver",
    "AlohaSinglePegInsertion",
    "LeapCubeReorient",
    "LeapCubeRotateZAxis",
    "PandaOpenCabinet",
    "PandaPickCube",
    "PandaPickCubeCartesian",
    "PandaPickCubeOrientation",
    "PandaRobotiqPushCube",
)
TASKS = (*DM_CONTROL_TASKS, *LOCOMOTION_TASKS, *MANIPULATION_TASKS)
NEEDS = "mujoco_playground"  # installed by the extra that is named as the suite
IMPLEMENTATIONS = ("jax", "warp")
_ROBOTS = "https://github.com/google-deepmind/mujoco_menagerie"


@dataclasses.dataclass(frozen=True, eq=False)
class PlaygroundTask:
    """One episode of Playground; the physics is the arrays of Playground's own state.

    Attributes:
        env: An environment of Playground.
        observation: The name of what the policy sees, where observations have names.
        action_repeat: Control steps that an action is held for.
        critic_observation: The name of what critics see, which then follows what the policy sees; None: the same.
    """

    env: Any
    observation: str
    action_repeat: int = 1
    critic_observation: str | None = None

    @functools.cached_property
    def observation_size(self) -> int:
        """obs_dim."""
        return jax.eval_shape(self._observed, self._layout[0].unflatten(self._layout[1])).shape[0]

    @functools.cached_property
    def of_policy(self) -> "PlaygroundTask":
        """The task without what critics alone see; always the same one, since programs are compiled for it."""
        return self if self.critic_observation is None else dataclasses.replace(self, critic_observation=None)

    @property
    def action_size(self) -> int:
        """action_dim."""
        return self.env.action_size

    def start(self, key: Key) -> tuple[PyTree, Array]:
        """Draws a start."""
        with quietly():
            state = self._reset(jax.random.key_data(key))
        return self._own(state), self._observed(state)

    def advance(self, physics: PyTree, action: Array) -> tuple[PyTree, Array, Array, Array, Metrics]:
        """Applies an action `[action_dim]`; what follows the end of an episode is not simulated."""
        after, total = self._step(physics, action)
        if self.action_repeat > 1:

            def again(carry: tuple[PyTree, Array], _: None) -> tuple[tuple[PyTree, Array], None]:
                before, total = carry
                after, reward = self._step(before, action)
                is_over = self.state(before).done.astype(bool)
                kept = jax.tree.map(functools.partial(jnp.where, is_over), before, after)
                return (kept, total + jnp.where(is_over, 0, reward)), None

            (after, total), _ = jax.lax.scan(again, (after, total), length=self.action_repeat - 1)
        state = self.state(after)
        return after, self._observed(state), total, state.done.astype(bool), dict(state.metrics)

    def with_chance(self, physics: PyTree, key: Key) -> PyTree:
        """Gives a state another random generator, where the task keeps one: in ``info``, as ``rng``."""
        state = self.state(physics)
        if "rng" not in state.info:
            return physics
        return self._own(state.replace(info={**state.info, "rng": jax.random.key_data(key)}))

    def state(self, physics: PyTree) -> Any:
        """Returns Playground's own state.

        What all environments share in it is blank: the workspace of the implementation ``warp``.
        """
        structure, like, shared = self._layout
        own = iter(physics)
        leaves = [
            jnp.zeros(leaf.shape, leaf.dtype) if is_shared else next(own)
            for leaf, is_shared in zip(like, shared, strict=True)
        ]
        return structure.unflatten(leaves)

    def _own(self, state: Any) -> list[Array]:
        leaves, shared = jax.tree.leaves(state), self._layout[2]
        return [leaf for leaf, is_shared in zip(leaves, shared, strict=True) if not is_shared]

    def _step(self, physics: PyTree, action: Array) -> tuple[PyTree, Array]:
        with quietly():
            state = self.env.step(self.state(physics), action)
        return self._own(state), state.reward

    def _observed(self, state: Any) -> Array:
        if self.critic_observation is None:
            return _named(state, self.observation)
        return jnp.concatenate([_named(state, self.observation), _named(state, self.critic_observation)])

    @functools.cached_property
    def _reset(self) -> Callable[[Array], Any]:
        return jax.jit(self.env.reset)  # traced once

    @functools.cached_property
    def _layout(self) -> tuple[Any, list[jax.ShapeDtypeStruct], list[bool]]:
        """A state's structure, its leaves, and which of them environments side by side share."""
        key = jax.random.key_data(jax.random.key(0))
        with quietly():
            leaves, structure = jax.tree.flatten(jax.eval_shape(self._reset, key))
            if self.env.mjx_model.impl.value != "warp":
                return structure, leaves, [False] * len(leaves)
            batch = jax.tree.leaves(jax.eval_shape(jax.vmap(self._reset), key[None]))
        return structure, leaves, [one.ndim == many.ndim for one, many in zip(leaves, batch, strict=True)]


@dataclasses.dataclass(frozen=True)
class PlaygroundEnvironment(DeviceEnvironment):
    """A Playground task that can be filmed; see ``DeviceEnvironment``.

    Attributes:
        action_repeat: Control steps, which count as env steps, in a step.
    """

    task: PlaygroundTask
    action_repeat: int = 1

    @property
    def policy_observation_size(self) -> int | None:
        """How many numbers of an observation, its first, the policy sees; None where critics see no others."""
        return None if self.task.critic_observation is None else self.task.of_policy.observation_size

    def for_evaluation(self, num_envs: int) -> Self:
        """Returns the same task with another number of environments, no staggering, and nothing for critics alone."""
        return dataclasses.replace(super().for_evaluation(num_envs), task=self.task.of_policy)

    @property
    def dt(self) -> float:
        """Simulated time of a step, in seconds."""
        return self.task.env.dt * self.action_repeat

    def render(
        self, state: EnvState, index: int | tuple[int, ...] = 0, width: int = 480, height: int = 480
    ) -> np.ndarray:
        """Draws one environment, seen by the first camera of the task's model.

        Args:
            state: Any state of these environments.
            index: Which of them, an index into the leading axes, of which only the last counts.
            width: In pixels.
            height: In pixels.

        Returns:
            RGB image, uint8 `[height, width, 3]`.

        Raises:
            RuntimeError: This machine cannot render; the message says why.
        """
        row = index if isinstance(index, int) else index[-1]
        simulated = self.task.state([leaf[row] for leaf in state.physics[0]]).data
        model = self.task.env.mj_model
        data, renderer = _stage(model, width, height)
        for name in ("qpos", "qvel", "mocap_pos", "mocap_quat", "xfrc_applied"):
            getattr(data, name)[...] = getattr(simulated, name)
        mujoco.mj_forward(model, data)
        return renderer.draw(data)


@functools.lru_cache(maxsize=1)
def _stage(model: mujoco.MjModel, width: int, height: int) -> tuple[mujoco.MjData, Renderer]:
    return mujoco.MjData(model), Renderer(model, width, height, {}, camera=0)


def make(
    task: str,
    *,
    num_envs: int,
    stagger_first_episodes: bool = False,
    impl: str = "jax",
    observation: str = "state",
    critic_observation: str | None = None,
    action_repeat: int | None = None,
    episode_length: int | None = None,
    **options: Any,
) -> PlaygroundEnvironment:
    """Builds a Playground task; see ``DeviceEnvironment``.

    Args:
        task: One of ``TASKS``.
        num_envs: E.
        stagger_first_episodes: See ``DeviceEnvironment``.
        impl: What simulates: ``jax``, or on an NVIDIA GPU ``warp``.
        observation: What the policy sees of a task that has observations by name.
        critic_observation: What critics see of it; by default the same. The policy needs only its own once it is
            trained.
        action_repeat: Control steps that an action is held for; by default the task's. As in ``envs.dmc``, an env step
            is a control step.
        episode_length: Time limit in control steps, a multiple of ``action_repeat``; by default the task's.
        **options: Other values for the task's own configuration.

    Raises:
        InvalidValueError: If an option does not exist or has a value that is not allowed, or the task's robots are not
            on this machine.
    """
    require_one_of("impl", impl, IMPLEMENTATIONS)
    if impl == "warp" and not _has_gpu():
        raise InvalidValueError("impl", impl, "needs an NVIDIA GPU; must be jax on this machine")
    for name, value in (("action_repeat", action_repeat), ("episode_length", episode_length)):
        if value is not None:
            require_int(name, value, 1)
    if reason := missing(task):
        raise InvalidValueError("name", f"playground/{task}", reason)
    with quietly(), quiet_mujoco():
        from mujoco_playground import registry

        if impl == "warp":
            import warp

            warp.config.log_level = warp.LOG_WARNING  # or it tells of every kernel that it compiles

        config = registry.get_default_config(task)
        _configure(config, task, options)
        _require_times(config)
        action_repeat = action_repeat or config.get("action_repeat", 1)
        limit = episode_length or config.episode_length
        if limit % action_repeat:
            allowed = f"must divide the time limit of {limit} control steps, which env.options.episode_length sets"
            raise InvalidValueError("action_repeat", action_repeat, allowed)
        # Some tasks count for themselves.
        with config.unlocked():
            config.update(impl=impl, episode_length=limit, action_repeat=action_repeat)
        env = registry.load(task, config)
        of_critics = None if critic_observation == observation else critic_observation
        episode = PlaygroundTask(env, observation, action_repeat, of_critics)
        _check_observations(episode, task)
    return PlaygroundEnvironment(
        f"playground/{task}",
        episode,
        num_envs,
        limit // action_repeat,
        stagger_first_episodes,
        action_repeat=action_repeat,
    )


def missing(task: str) -> str | None:
    """Says what a task needs that is not on this machine, other than Playground itself."""
    folder = _robots_folder()
    if task in DM_CONTROL_TASKS or folder.is_dir():
        return None
    return f"needs robots that come with no package, looked for in {folder}; git clone {_ROBOTS} {folder}"


def _has_gpu() -> bool:
    return jax.default_backend() == "gpu"


def _robots_folder() -> Path:
    """Where Playground looks, without importing it."""
    package = importlib.util.find_spec(NEEDS)
    return Path(package.origin or "").parent / "external_deps" / "mujoco_menagerie" if package else Path("nowhere")


def _configure(config: Any, task: str, options: dict[str, Any]) -> None:
    """Puts options into a task's configuration, which has names, types and values by default."""
    config.lock()
    for option, value in options.items():
        if option not in config:
            own = {"observation", "critic_observation", "stagger_first_episodes"}
            known = ", ".join(sorted({*config} | own))
            allowed = f"playground/{task} has no such option; its options are {known}"
            raise InvalidValueError(option, value, allowed)
        try:
            config.update({option: value})
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InvalidValueError(option, value, f"playground/{task} does not take this ({reason})") from None
    if config.get("vision"):
        raise InvalidValueError("vision", True, "policies see vectors here; must be false")


def _require_times(config: Any) -> None:
    """Requires the time of a control step to be a whole number of time steps; Playground would round it to one."""
    for name in ("sim_dt", "ctrl_dt"):
        if name in config:
            require_number(name, config[name], 0, open_minimum=True)
    if "sim_dt" in config and "ctrl_dt" in config:
        steps = config.ctrl_dt / config.sim_dt
        if round(steps) < 1 or not math.isclose(steps, round(steps), rel_tol=1e-6):
            raise InvalidValueError("ctrl_dt", config.ctrl_dt, f"must be a multiple of sim_dt={config.sim_dt}")


def _named(state: Any, name: str) -> Any:
    """Returns an observation of a state of Playground by its name, if it has several."""
    return state.obs[name] if isinstance(state.obs, dict) else state.obs


def _check_observations(episode: PlaygroundTask, task: str) -> None:
    structure, leaves, _ = episode._layout
    state = structure.unflatten(leaves)
    names = sorted(state.obs) if isinstance(state.obs, dict) else ["state"]
    for option in ("observation", "critic_observation"):
        name = getattr(episode, option)
        if name is None:
            continue
        require_one_of(option, name, names)
        if _named(state, name).ndim != 1:
            raise InvalidValueError(option, name, f"of playground/{task} is no vector; policies see vectors")
