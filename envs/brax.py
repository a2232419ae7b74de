"""Brax tasks on the device. Observations, rewards and terminations are Brax's own (brax.envs).

| task | observation | action | reward per step | terminates | limit (steps) |
|---|---|---|---|---|---|
| ant | 27: positions, velocities | 8 torques | forward (m/s) + 1 - 0.5 control | torso outside [0.2, 1] m | 1000 |
| halfcheetah | 17 | 6 torques | forward - 0.1 control | never | 1000 |
| hopper | 11 | 3 torques | forward + 1 - 0.001 control | unhealthy height or angle | 1000 |
| humanoid | 244, with forces | 17 torques | 1.25 forward + 5 - 0.1 control | torso outside [1, 2] m | 1000 |
| humanoidstandup | 244 | 17 torques | height / time + 1 - 0.1 control | never | 1000 |
| pusher | 23: arm, object, goal | 7 torques | -distances (m) - 0.1 control | never | 100 |
| reacher | 11: joint angles, target | 2 torques | -distance (m) - control | never | 50 |
| sparse_reacher, sparse_reacher_hard | 11 | 2 torques | 1 where distance < ``reach`` (0.05 m, 0.01 m) | never | 50 |
| swimmer | 8 | 2 torques | forward - 1e-4 control | never | 1000 |
| walker2d | 17 | 6 torques | forward + 1 - 0.001 control | unhealthy height or angle | 1000 |

"Forward" is the forward velocity in m/s; "control" is the sum of squared actions. The weights are Brax's defaults,
which ``env.options`` can change. The time limits are the protocol's (arXiv 2606.05888). Actions are in [-1, 1], as
Brax takes them.
"""

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from envs import components, device
from envs.components import Component, Components
from envs.device import DeviceEnvironment
from envs.engine import mujoco
from envs.quiet import quietly
from remac.types import Array, Key, Metrics
from remac.validation import (
    InvalidValueError,
    require_bool,
    require_int,
    require_number,
    require_one_of,
    require_range,
)

BACKENDS = ("generalized", "positional", "spring", "mjx")
EPISODE_LENGTHS = {
    "ant": 1000,
    "halfcheetah": 1000,
    "hopper": 1000,
    "humanoid": 1000,
    "humanoidstandup": 1000,
    "pusher": 100,
    "reacher": 50,
    "sparse_reacher": 50,
    "sparse_reacher_hard": 50,
    "swimmer": 1000,
    "walker2d": 1000,
}
TASKS = tuple(EPISODE_LENGTHS)
REACHES = {"sparse_reacher": 0.05, "sparse_reacher_hard": 0.01}


@dataclasses.dataclass(frozen=True, eq=False)
class BraxTask:
    """One Brax episode; the physics is Brax's own state.

    Attributes:
        env: An environment of ``brax.envs``.
    """

    env: Any

    @functools.cached_property
    def observation_size(self) -> int:
        """obs_dim; Brax's own property runs a reset for it, operation by operation, which takes half a minute."""
        return int(jax.eval_shape(functools.partial(device.start, self), jax.random.key(0))[1].shape[-1])

    @property
    def action_size(self) -> int:
        """action_dim."""
        return self.env.action_size

    @property
    def components(self) -> Components | None:
        """What the numbers of observations and actions are; of Brax's own tasks, whatever the backend."""
        model, name = self.env.sys.mj_model, type(self.env).__name__
        place, velocity = components.positions(model), components.velocities(model)
        num_hidden = {"Halfcheetah": 1, "Hopper": 1, "Walker2d": 1, "Reacher": 0, "Pusher": 0}.get(name, 2)
        if name in ("Hopper", "Walker2d"):  # Brax puts the torso's height there
            place[1] = Component("x/torso_z", "m")
        shown = place[num_hidden if getattr(self.env, "_exclude_current_positions_from_observation", True) else 0 :]
        if name in ("Halfcheetah", "Hopper", "Walker2d", "Swimmer", "Ant"):
            observation = [*shown, *velocity]
        elif name in ("Humanoid", "HumanoidStandup"):
            links = self.env.sys.link_names
            inertia = [f"i{row}{column}" for row in "xyz" for column in "xyz"]
            of_link = [*((part, "kg m^2") for part in inertia), ("mass", "kg")]
            moving = [*((f"v{axis}", "m/s") for axis in "xyz"), *((f"w{axis}", "rad/s") for axis in "xyz")]
            observation = [*shown, *velocity]
            observation += [Component(f"com_inertia/{link}_{part}", unit) for link in links for part, unit in of_link]
            observation += [Component(f"com_velocity/{link}_{part}", unit) for link in links for part, unit in moving]
            observation += components.actuator_forces(model)
        elif name == "Reacher":
            turned = [one for form in ("cos({})", "sin({})") for one in components.renamed(place[:2], form, "1")]
            tip = components.vector("xd/fingertip", 2, "m/s")
            observation = [*turned, *place[2:], *tip, *components.vector("fingertip-target")]
        elif name == "Pusher":
            bodies = (one for body in ("tips_arm", "object", "goal") for one in components.vector(f"x/{body}"))
            observation = [*place[:7], *velocity[:7], *bodies]
        else:
            return None
        # Of these Brax scales an action of 1 to the highest control.
        scales = model.actuator_ctrlrange[:, 1] if name in ("Humanoid", "HumanoidStandup", "Pusher") else None
        return Components(observation, components.controls(model, scales))

    def start(self, key: Key) -> tuple[Any, Array]:
        """Draws a start."""
        with quietly():
            state = self.env.reset(jax.random.key_data(key))
        return state, state.obs

    def advance(self, physics: Any, action: Array) -> tuple[Any, Array, Array, Array, Metrics]:
        """Applies an action `[action_dim]`; the step is measured by what Brax calls its metrics."""
        with quietly():
            state = self.env.step(physics, action)
        return state, state.obs, state.reward, state.done.astype(bool), dict(state.metrics)

    @property
    def dt(self) -> float:
        """Seconds between two states."""
        return float(self.env.dt)

    def page(self, states: Sequence[Any]) -> str:
        """Shows an episode, states as ``start`` and ``advance`` give them, as a page of HTML."""
        from brax.io import html

        system = self.env.sys.tree_replace({"opt.timestep": self.dt})
        return html.render(system, [state.pipeline_state for state in states])


@dataclasses.dataclass(frozen=True, eq=False)
class SparseReacher(BraxTask):
    """Reacher that pays 1 for every step with the fingertip in reach of the target, and nothing else.

    Attributes:
        reach: Distance (m) below which a step is paid.
    """

    reach: float

    def advance(self, physics: Any, action: Array) -> tuple[Any, Array, Array, Array, Metrics]:
        """Applies an action `[action_dim]`."""
        state, observation, _, termination, metrics = super().advance(physics, action)
        # Brax's own measure of the distance: the observation's last three numbers are fingertip - target.
        near = (-state.metrics["reward_dist"] < self.reach).astype(observation.dtype)
        return state, observation, near, termination, metrics | {"success": near}


def make(
    task: str,
    *,
    num_envs: int,
    stagger_first_episodes: bool = False,
    backend: str = "generalized",
    episode_length: int | None = None,
    **options: Any,
) -> DeviceEnvironment:
    """Builds a Brax task; see ``DeviceEnvironment``, and further options go to Brax's own constructor.

    Raises:
        InvalidValueError: If an option does not exist or has a value that is not allowed.
    """
    require_one_of("backend", backend, BACKENDS)
    episode_length = EPISODE_LENGTHS[task] if episode_length is None else episode_length
    reach = REACHES.get(task)
    if reach is not None and "reach" in options:
        reach = options.pop("reach")
        require_number("reach", reach, 0, open_minimum=True)
    braxs_name = "reacher" if reach is not None else task
    with quietly():
        from brax import envs

        _repair_brax()
        if options:
            _check_options(task, options, type(envs.get_environment(braxs_name)))
        try:
            env = envs.get_environment(braxs_name, backend=backend, **options)
        except (ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            given = options | {"backend": backend, "name": f"brax/{task}"}
            option = next((option for option in given if option in reason), "name")
            raise InvalidValueError(option, given[option], f"brax/{task} does not take this ({reason})") from None
    episode = BraxTask(env) if reach is None else SparseReacher(env, reach)
    return DeviceEnvironment(f"brax/{task}", episode, num_envs, episode_length, stagger_first_episodes)


class _Replaced:
    """A module or class in which some names mean something else."""

    def __init__(self, original: Any, **replacements: Any) -> None:
        self._original = original
        self.__dict__ |= replacements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _repair_brax() -> None:
    """Replaces two calls of Brax 0.14.

    JAX 0.10 has no argument ``a_min`` of ``clip``, which the forces of fluids (swimmer) use. Half cheetah's model has
    an attribute that MuJoCo 4 deprecates, prints about and notes in MUJOCO_LOG.TXT, but not where a specification is
    compiled; the compiled model is the same.
    """
    from brax import fluid
    from brax.io import mjcf

    def from_xml_string(xml: str, assets: dict[str, bytes]) -> mujoco.MjModel:
        return mujoco.MjSpec.from_string(xml, assets=assets).compile()

    fluid.jp = _Replaced(jnp, clip=lambda values, a_min: jnp.clip(values, a_min))
    mjcf.mujoco = _Replaced(mujoco, MjModel=_Replaced(mujoco.MjModel, from_xml_string=from_xml_string))


def _check_options(task: str, options: dict[str, Any], env_class: type) -> None:
    """Compares options with what a Brax environment's constructor, or its base class's, takes by default."""
    defaults: dict[str, Any] = {}
    for cls in reversed(env_class.__mro__):
        defaults |= {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    own = {"episode_length", "stagger_first_episodes"} | ({"reach"} if task in REACHES else set())
    known = sorted((set(defaults) - {"sys", "args", "kwargs"}) | own)
    for option, value in options.items():
        if option not in known:
            allowed = f"brax/{task} has no such option; its options are {', '.join(known)}"
            raise InvalidValueError(option, value, allowed)
        if isinstance(defaults[option], bool):
            require_bool(option, value)
        elif isinstance(defaults[option], float):
            require_number(option, value)
        elif isinstance(defaults[option], int):
            require_int(option, value, 1)
        elif isinstance(defaults[option], tuple):
            require_range(option, value, may_be_point=True)
