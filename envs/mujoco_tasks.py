"""The MuJoCo tasks: Gymnasium's eleven v5 definitions, vectorised over a batch of environments, and four sparse ones.

x, z: position of the body or joint (m); angle in rad; velocity in m/s or rad/s; control in the actuator's own unit
(torque or force before its gear); dt = frame_skip x timestep (s). v is the forward velocity, (x after - x before) / dt;
c is the sum of the squared controls; f the contact forces (N, N m) on every body. Option names in the tables are
written short: w_forward is ``forward_reward_weight``, w_ctrl ``ctrl_cost_weight``, and so on.

Observation (positions without x, and without y where there is one, unless
``exclude_current_positions_from_observation=False``) and action, which is [-1, 1] scaled to the control range:

| task | observation | size | action, control range |
|---|---|---|---|
| half_cheetah, sparse_half_cheetah (with x) | positions, velocities | 17, 18 | 6 torques, 1 |
| hopper | positions, velocities clipped to 10 | 11 | 3 torques, 1 |
| walker2d, sparse_walker2d (with x) | positions, velocities clipped to 10 | 17, 18 | 6 torques, 1 |
| swimmer | positions, velocities | 8 | 2 torques, 1 |
| ant | positions, velocities, clipped contact forces of all bodies | 105 | 8 torques, 1 |
| humanoid, humanoid_standup | positions, velocities, inertia and velocity of bodies, actuator forces, contact forces | 348 | 17 torques, 0.4 |
| reacher, sparse ones | cos, sin of 2 angles, target (m), 2 velocities, fingertip - target (m) | 10 | 2 torques, 1 |
| pusher | 7 angles, 7 velocities, position of fingertip, object and goal (m) | 23 | 7 torques, 2 |
| inverted_pendulum | x, angle, velocities | 4 | 1 force, 3 |
| inverted_double_pendulum | x, sin and cos of 2 angles, velocities clipped to 10, constraint force clipped to 10 | 9 | 1 force, 1 |

Reward per step (all are dimensionless sums) and termination:

| task | reward | terminates when |
|---|---|---|
| half_cheetah, swimmer | w_forward v - w_ctrl c | never |
| sparse_half_cheetah | 1 where x >= goal (5 m) | never |
| sparse_walker2d | 1 where x >= goal (1 m) | z or angle leaves its healthy range |
| hopper | w_forward v + healthy_reward - w_ctrl c | z, angle or any other coordinate leaves its healthy range |
| walker2d | w_forward v + healthy_reward - w_ctrl c | z or angle leaves its healthy range |
| ant | w_forward v + healthy_reward - w_ctrl c - w_contact sum(clip(f)^2) | z leaves its healthy range, or a number is not finite |
| humanoid | w_forward v + healthy_reward - w_ctrl c - clip(w_contact sum(f^2)) | z leaves its healthy range |
| humanoid_standup | w_uph z / timestep + 1 - w_ctrl c - clip(w_impact sum(f^2)) | never |
| reacher | - w_dist distance(fingertip, target) - w_control c | never |
| sparse_reacher, sparse_reacher_hard | 1 where distance(fingertip, target) < reach (0.05 m, 0.01 m) | never |
| pusher | - w_dist distance(object, goal) - w_near distance(object, fingertip) - w_control c | never |
| inverted_pendulum | 1, or 0 on the step that terminates | angle beyond 0.2 rad |
| inverted_double_pendulum | healthy_reward (0 if terminating) - 0.01 x^2 - (z - 2)^2 - 0.001 w1^2 - 0.005 w2^2 | tip z at most 1 m |

Measured per step besides the reward (Gymnasium's ``info``, with costs as they are taken off the reward):

| name | meaning | unit | tasks |
|---|---|---|---|
| forward_velocity | v; times w_forward it is a part of the reward | m/s | half_cheetah, swimmer, hopper, walker2d, ant, humanoid, sparse ones |
| control_cost | the weighted c | reward | those but the sparse ones, humanoid_standup, reacher, pusher |
| contact_cost, impact_cost | the weighted and clipped f^2 | reward | ant, humanoid; humanoid_standup |
| healthy | 1 where the pose is healthy, or has not ended the episode | share | hopper, walker2d, ant, humanoid, both pendulums |
| height | z of the torso | m | hopper, walker2d, humanoid_standup |
| distance | fingertip to target; object to goal | m | reacher, sparse ones; pusher |
| fingertip_distance | object to fingertip | m | pusher |
| success | 1 where the sparse tasks pay | share | sparse_reacher, sparse_reacher_hard, sparse_half_cheetah, sparse_walker2d |
| tip_height | z of the upper pole's tip | m | inverted_double_pendulum |
| distance_cost, velocity_cost | the reward's terms in x and z, and in w1 and w2 | reward | inverted_double_pendulum |

Time limits: 1000 steps, reachers 50, pusher 100. Source: Gymnasium (Towers et al., 2024, arXiv 2407.17032), version 5 of
its MuJoCo environments; the sparse reachers' reward is that of arXiv 2606.05888, the sparse half cheetah's that of VIME
(Houthooft et al., 2016, arXiv 1605.09674), and the sparse walker's is like it.
"""  # noqa: E501

# ruff: noqa: D102 - what the methods of every task mean is documented once, on Task

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np

from envs.components import (
    Component,
    actuator_forces,
    of_bodies,
    positions,
    renamed,
    vector,
    velocities,
)
from envs.engine import mujoco
from remac.validation import InvalidValueError, require_int, require_number, require_one_of, require_range

Range = tuple[float, float]


class Readings(NamedTuple):
    """What the tasks read of B environments after a step, all float64.

    Attributes:
        model: The compiled model.
        qpos: Generalized positions, `[B, nq]`.
        qvel: Generalized velocities, `[B, nv]`.
        ctrl: Scaled action, `[B, nu]`.
        derived: The arrays of MjData that the task names in ``derived``, `[B, ...]`.
    """

    model: mujoco.MjModel
    qpos: np.ndarray
    qvel: np.ndarray
    ctrl: np.ndarray
    derived: dict[str, np.ndarray]


class Outcome(NamedTuple):
    """What a step of B environments came to.

    Attributes:
        reward: `[B]`.
        termination: Whether the task ended the episode, `[B]` bool.
        metrics: What else the step is measured by: names to values `[B]`, see ``EnvState.metrics``.
    """

    reward: np.ndarray
    termination: np.ndarray
    metrics: dict[str, np.ndarray]


def _never(readings: Readings) -> np.ndarray:
    """Termination of tasks that have none, `[B]`."""
    return np.zeros(len(readings.qpos), bool)


def _inside(value: np.ndarray, bounds: Range) -> np.ndarray:
    """Whether each value is strictly inside the range; NaN is not."""
    return (bounds[0] < value) & (value < bounds[1])


def _sum_of_squares(value: np.ndarray) -> np.ndarray:
    """Sums the squares of each row of `[B, ...]`, giving `[B]`."""
    return np.square(value.reshape(len(value), -1)).sum(axis=1)


def _body(readings: Readings, name: str | int) -> np.ndarray:
    """Position of a body's frame, `[B, 3]`, in m."""
    return readings.derived["xpos"][:, readings.model.body(name).id]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task: its options as fields, and what they mean as functions of a batch.

    Attributes:
        xml_file: Model, one of Gymnasium's own or a path that starts with ``/``, ``.`` or ``~``.
        frame_skip: Physics steps per environment step.
        episode_length: Time limit in environment steps.
    """

    xml_file: str
    frame_skip: int
    episode_length: int = 1000

    derived: ClassVar[tuple[str, ...]] = ()  # arrays of MjData that the functions below read
    view: ClassVar[dict[str, Any]] = {}  # attributes of MjvCamera, for models that have no camera

    def check(self, model: mujoco.MjModel) -> None:
        """Raises InvalidValueError where an option does not fit the model."""

    def start(self, rng: np.random.Generator, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
        """Draws the positions `[nq]` and velocities `[nv]` of a new episode."""
        raise NotImplementedError

    def position(self, readings: Readings) -> np.ndarray:
        """Position x that forward velocity is the difference of, `[B]`, in m."""
        return readings.qpos[:, 0]

    def observe(self, readings: Readings) -> np.ndarray:
        """Observation, `[B, obs_dim]`."""
        raise NotImplementedError

    def components(self, model: mujoco.MjModel) -> list[Component]:
        """What its numbers are, obs_dim of them."""
        raise NotImplementedError

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        """What a step with forward velocity `[B]` came to."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _NoisyStart(Task):
    """Starts around the model's own pose: uniform noise on positions, uniform or normal on velocities."""

    reset_noise_scale: float = 0.1

    normal_velocity: ClassVar[bool] = False

    def start(self, rng: np.random.Generator, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
        scale = self.reset_noise_scale
        qpos = model.qpos0 + rng.uniform(-scale, scale, model.nq)
        if self.normal_velocity:
            return qpos, scale * rng.standard_normal(model.nv)
        return qpos, rng.uniform(-scale, scale, model.nv)


@dataclass(frozen=True, kw_only=True)
class _Runner(_NoisyStart):
    """Runs forward at little control cost."""

    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float
    exclude_current_positions_from_observation: bool = True

    num_current_positions: ClassVar[int] = 1  # x, or x and y
    max_observed_velocity: ClassVar[float] = math.inf

    def observe(self, readings: Readings) -> np.ndarray:
        first = self.num_current_positions if self.exclude_current_positions_from_observation else 0
        limit = self.max_observed_velocity
        return np.concatenate([readings.qpos[:, first:], np.clip(readings.qvel, -limit, limit)], axis=1)

    def components(self, model: mujoco.MjModel) -> list[Component]:
        first = self.num_current_positions if self.exclude_current_positions_from_observation else 0
        return [*positions(model)[first:], *velocities(model)]

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        cost = self.ctrl_cost_weight * _sum_of_squares(readings.ctrl)
        metrics = {"forward_velocity": velocity, "control_cost": cost}
        return Outcome(self.forward_reward_weight * velocity - cost, _never(readings), metrics)


@dataclass(frozen=True, kw_only=True)
class HalfCheetah(_Runner):
    """Half cheetah."""

    xml_file: str = "half_cheetah.xml"
    frame_skip: int = 5
    ctrl_cost_weight: float = 0.1

    normal_velocity: ClassVar[bool] = True


def _paid_at(goal: float, readings: Readings, termination: np.ndarray, velocity: np.ndarray) -> Outcome:
    """Pays a runner 1 for every step at or beyond that x, and nothing else."""
    success = (readings.qpos[:, 0] >= goal).astype(float)
    return Outcome(success, termination, {"forward_velocity": velocity, "success": success})


@dataclass(frozen=True, kw_only=True)
class SparseHalfCheetah(HalfCheetah):
    """Half cheetah that has to go 5 m."""

    exclude_current_positions_from_observation: bool = False
    goal: float = 5.0

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        return _paid_at(self.goal, readings, super().outcome(readings, velocity).termination, velocity)


@dataclass(frozen=True, kw_only=True)
class Swimmer(_Runner):
    """Swimmer."""

    xml_file: str = "swimmer.xml"
    frame_skip: int = 4
    ctrl_cost_weight: float = 1e-4

    num_current_positions: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class _Upright(_Runner):
    """Runs forward, and is paid for being healthy, which depends on its pose."""

    healthy_reward: float = 1.0
    terminate_when_unhealthy: bool = True
    healthy_z_range: Range

    def healthy(self, readings: Readings) -> np.ndarray:
        """Whether each of B poses is healthy, `[B]`."""
        raise NotImplementedError

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        reward, _, metrics = super().outcome(readings, velocity)
        healthy = self.healthy(readings)
        termination = ~healthy & self.terminate_when_unhealthy
        return Outcome(reward + self.healthy_reward * healthy, termination, metrics | {"healthy": healthy})


@dataclass(frozen=True, kw_only=True)
class Walker2d(_Upright):
    """Walker2d."""

    xml_file: str = "walker2d_v5.xml"
    frame_skip: int = 4
    ctrl_cost_weight: float = 1e-3
    healthy_z_range: Range = (0.8, 2.0)
    healthy_angle_range: Range = (-1.0, 1.0)
    reset_noise_scale: float = 5e-3

    max_observed_velocity: ClassVar[float] = 10.0

    def healthy(self, readings: Readings) -> np.ndarray:
        z, angle = readings.qpos[:, 1], readings.qpos[:, 2]
        return _inside(z, self.healthy_z_range) & _inside(angle, self.healthy_angle_range)

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        reward, termination, metrics = super().outcome(readings, velocity)
        return Outcome(reward, termination, metrics | {"height": readings.qpos[:, 1]})


@dataclass(frozen=True, kw_only=True)
class SparseWalker2d(Walker2d):
    """Walker2d that has to go 1 m, more than it falls forward."""

    exclude_current_positions_from_observation: bool = False
    goal: float = 1.0

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        return _paid_at(self.goal, readings, super().outcome(readings, velocity).termination, velocity)


@dataclass(frozen=True, kw_only=True)
class Hopper(Walker2d):
    """Hopper."""

    xml_file: str = "hopper.xml"
    healthy_state_range: Range = (-100.0, 100.0)
    healthy_z_range: Range = (0.7, math.inf)
    healthy_angle_range: Range = (-0.2, 0.2)

    def healthy(self, readings: Readings) -> np.ndarray:
        bounds = self.healthy_state_range
        inside = _inside(readings.qpos[:, 2:], bounds).all(axis=1) & _inside(readings.qvel, bounds).all(axis=1)
        return inside & super().healthy(readings)


@dataclass(frozen=True, kw_only=True)
class Ant(_Upright):
    """Ant. Its x is that of ``main_body`` (name or number), as the simulator last computed it."""

    xml_file: str = "ant.xml"
    frame_skip: int = 5
    ctrl_cost_weight: float = 0.5
    contact_cost_weight: float = 5e-4
    main_body: int | str = 1
    healthy_z_range: Range = (0.2, 1.0)
    contact_force_range: Range = (-1.0, 1.0)
    include_cfrc_ext_in_observation: bool = True

    derived: ClassVar[tuple[str, ...]] = ("xpos", "cfrc_ext")
    normal_velocity: ClassVar[bool] = True
    num_current_positions: ClassVar[int] = 2

    def check(self, model: mujoco.MjModel) -> None:
        names = [model.body(number).name for number in range(model.nbody)]
        names = [name for name in names if name]
        if self.main_body not in names and self.main_body not in range(model.nbody):
            allowed = f"must be a body of the model: a number below {model.nbody}, or {', '.join(names)}"
            raise InvalidValueError("main_body", self.main_body, allowed)

    def position(self, readings: Readings) -> np.ndarray:
        return _body(readings, self.main_body)[:, 0]

    def observe(self, readings: Readings) -> np.ndarray:
        observation = super().observe(readings)
        if not self.include_cfrc_ext_in_observation:
            return observation
        forces = self._contact_forces(readings)[:, 1:].reshape(len(observation), -1)
        return np.concatenate([observation, forces], axis=1)

    def components(self, model: mujoco.MjModel) -> list[Component]:
        forces = of_bodies(model, "cfrc_ext") if self.include_cfrc_ext_in_observation else []
        return [*super().components(model), *forces]

    def healthy(self, readings: Readings) -> np.ndarray:
        low, high = self.healthy_z_range
        z = readings.qpos[:, 2]
        finite = np.isfinite(readings.qpos).all(axis=1) & np.isfinite(readings.qvel).all(axis=1)
        return finite & (low <= z) & (z <= high)  # the only range that includes its ends

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        reward, termination, metrics = super().outcome(readings, velocity)
        cost = self.contact_cost_weight * _sum_of_squares(self._contact_forces(readings))
        return Outcome(reward - cost, termination, metrics | {"contact_cost": cost})

    def _contact_forces(self, readings: Readings) -> np.ndarray:
        return np.clip(readings.derived["cfrc_ext"], *self.contact_force_range)


@dataclass(frozen=True, kw_only=True)
class _HumanoidBody(Task):
    """What the two humanoids observe."""

    exclude_current_positions_from_observation: bool = True
    include_cinert_in_observation: bool = True
    include_cvel_in_observation: bool = True
    include_qfrc_actuator_in_observation: bool = True
    include_cfrc_ext_in_observation: bool = True

    derived: ClassVar[tuple[str, ...]] = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext", "xipos")

    def observe(self, readings: Readings) -> np.ndarray:
        first = 2 if self.exclude_current_positions_from_observation else 0
        parts = [readings.qpos[:, first:], readings.qvel]
        # Without the world body, and without the six coordinates of the free joint that has no actuator.
        for name, rows in (("cinert", 1), ("cvel", 1), ("qfrc_actuator", 6), ("cfrc_ext", 1)):
            if getattr(self, f"include_{name}_in_observation"):
                parts.append(readings.derived[name][:, rows:].reshape(len(readings.qpos), -1))
        return np.concatenate(parts, axis=1)

    def components(self, model: mujoco.MjModel) -> list[Component]:
        first = 2 if self.exclude_current_positions_from_observation else 0
        found = [*positions(model)[first:], *velocities(model)]
        for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext"):
            if getattr(self, f"include_{name}_in_observation"):
                found += actuator_forces(model)[6:] if name == "qfrc_actuator" else of_bodies(model, name)
        return found


@dataclass(frozen=True, kw_only=True)
class Humanoid(_HumanoidBody, _Upright):
    """Humanoid. Its x is that of the centre of mass, as the simulator last computed it."""

    xml_file: str = "humanoid.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.25
    ctrl_cost_weight: float = 0.1
    contact_cost_weight: float = 5e-7
    contact_cost_range: Range = (-math.inf, 10.0)
    healthy_reward: float = 5.0
    healthy_z_range: Range = (1.0, 2.0)
    reset_noise_scale: float = 1e-2

    def position(self, readings: Readings) -> np.ndarray:
        mass = readings.model.body_mass
        return (mass * readings.derived["xipos"][:, :, 0]).sum(axis=1) / mass.sum()

    def healthy(self, readings: Readings) -> np.ndarray:
        return _inside(readings.qpos[:, 2], self.healthy_z_range)

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        reward, termination, metrics = super().outcome(readings, velocity)
        cost = self.contact_cost_weight * _sum_of_squares(readings.derived["cfrc_ext"])
        cost = np.clip(cost, *self.contact_cost_range)
        return Outcome(reward - cost, termination, metrics | {"contact_cost": cost})


@dataclass(frozen=True, kw_only=True)
class HumanoidStandup(_HumanoidBody, _NoisyStart):
    """Humanoid that has to stand up.

    Note: Gymnasium 1.x documents ``uph_cost_weight`` as the weight of the height term but its code leaves it
        out. Here it is that weight; at its default of 1 the two agree.
    """

    xml_file: str = "humanoidstandup.xml"
    frame_skip: int = 5
    uph_cost_weight: float = 1.0
    ctrl_cost_weight: float = 0.1
    impact_cost_weight: float = 0.5e-6
    impact_cost_range: Range = (-math.inf, 10.0)
    reset_noise_scale: float = 1e-2

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        height = readings.qpos[:, 2]
        upward = self.uph_cost_weight * height / readings.model.opt.timestep
        impact = self.impact_cost_weight * _sum_of_squares(readings.derived["cfrc_ext"])
        impact = np.clip(impact, *self.impact_cost_range)
        control = self.ctrl_cost_weight * _sum_of_squares(readings.ctrl)
        metrics = {"height": height, "control_cost": control, "impact_cost": impact}
        return Outcome(upward + 1 - (control + impact), _never(readings), metrics)


@dataclass(frozen=True, kw_only=True)
class _Arm(Task):
    """Two-link arm and a target, drawn uniformly in a disc of radius 0.2 m."""

    xml_file: str = "reacher.xml"
    frame_skip: int = 2
    episode_length: int = 50

    derived: ClassVar[tuple[str, ...]] = ("xpos",)

    def start(self, rng: np.random.Generator, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
        qpos = model.qpos0 + rng.uniform(-0.1, 0.1, model.nq)
        target = rng.uniform(-0.2, 0.2, 2)
        while np.hypot(*target) >= 0.2:
            target = rng.uniform(-0.2, 0.2, 2)
        qvel = rng.uniform(-0.005, 0.005, model.nv)
        qpos[-2:], qvel[-2:] = target, 0
        return qpos, qvel

    def observe(self, readings: Readings) -> np.ndarray:
        angles, gap = readings.qpos[:, :2], self._gap(readings)
        parts = [np.cos(angles), np.sin(angles), readings.qpos[:, 2:], readings.qvel[:, :2], gap[:, :2]]
        return np.concatenate(parts, axis=1)

    def components(self, model: mujoco.MjModel) -> list[Component]:
        place = positions(model)
        turned = [part for form in ("cos({})", "sin({})") for part in renamed(place[:2], form, "1")]
        return [*turned, *place[2:], *velocities(model)[:2], *vector("fingertip-target", 2)]

    def _gap(self, readings: Readings) -> np.ndarray:
        return _body(readings, "fingertip") - _body(readings, "target")


@dataclass(frozen=True, kw_only=True)
class Reacher(_Arm):
    """Reaches for the target."""

    reward_dist_weight: float = 1.0
    reward_control_weight: float = 1.0

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        distance = np.linalg.norm(self._gap(readings), axis=1)
        control = self.reward_control_weight * _sum_of_squares(readings.ctrl)
        metrics = {"distance": distance, "control_cost": control}
        return Outcome(-(self.reward_dist_weight * distance + control), _never(readings), metrics)


@dataclass(frozen=True, kw_only=True)
class SparseReacher(_Arm):
    """Reacher that pays 1 for every step with the fingertip in reach of the target, and nothing else."""

    reach: float = 0.05

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        distance = np.linalg.norm(self._gap(readings), axis=1)
        success = (distance < self.reach).astype(float)
        return Outcome(success, _never(readings), {"distance": distance, "success": success})


@dataclass(frozen=True, kw_only=True)
class SparseReacherHard(SparseReacher):
    """The same with a fifth of the reach."""

    reach: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Pusher(Task):
    """Arm that pushes an object, drawn uniformly more than 0.17 m from the goal, to the goal."""

    xml_file: str = "pusher_v5.xml"
    frame_skip: int = 5
    episode_length: int = 100
    reward_near_weight: float = 0.5
    reward_dist_weight: float = 1.0
    reward_control_weight: float = 0.1

    derived: ClassVar[tuple[str, ...]] = ("xpos",)

    def start(self, rng: np.random.Generator, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
        place = rng.uniform((-0.3, -0.2), (0, 0.2))
        while np.hypot(*place) <= 0.17:
            place = rng.uniform((-0.3, -0.2), (0, 0.2))
        qpos, qvel = model.qpos0.copy(), rng.uniform(-0.005, 0.005, model.nv)
        qpos[-4:], qvel[-4:] = (*place, 0, 0), 0
        return qpos, qvel

    def observe(self, readings: Readings) -> np.ndarray:
        bodies = [_body(readings, name) for name in ("tips_arm", "object", "goal")]
        return np.concatenate([readings.qpos[:, :7], readings.qvel[:, :7], *bodies], axis=1)

    def components(self, model: mujoco.MjModel) -> list[Component]:
        bodies = (part for name in ("tips_arm", "object", "goal") for part in vector(f"xpos/{name}"))
        return [*positions(model)[:7], *velocities(model)[:7], *bodies]

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        tip, thing, goal = (_body(readings, name) for name in ("tips_arm", "object", "goal"))
        distance, near = np.linalg.norm(thing - goal, axis=1), np.linalg.norm(thing - tip, axis=1)
        control = self.reward_control_weight * _sum_of_squares(readings.ctrl)
        cost = self.reward_dist_weight * distance + self.reward_near_weight * near + control
        metrics = {"distance": distance, "fingertip_distance": near, "control_cost": control}
        return Outcome(-cost, _never(readings), metrics)


@dataclass(frozen=True, kw_only=True)
class InvertedPendulum(_NoisyStart):
    """Pole on a cart."""

    xml_file: str = "inverted_pendulum.xml"
    frame_skip: int = 2
    reset_noise_scale: float = 0.01

    def observe(self, readings: Readings) -> np.ndarray:
        return np.concatenate([readings.qpos, readings.qvel], axis=1)

    def components(self, model: mujoco.MjModel) -> list[Component]:
        return [*positions(model), *velocities(model)]

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        observation = self.observe(readings)
        termination = ~np.isfinite(observation).all(axis=1) | (np.abs(observation[:, 1]) > 0.2)
        return Outcome(1.0 - termination, termination, {"healthy": ~termination})


@dataclass(frozen=True, kw_only=True)
class InvertedDoublePendulum(_NoisyStart):
    """Two poles on a cart."""

    xml_file: str = "inverted_double_pendulum.xml"
    frame_skip: int = 5
    healthy_reward: float = 10.0

    derived: ClassVar[tuple[str, ...]] = ("qfrc_constraint", "site_xpos")
    view: ClassVar[dict[str, Any]] = {"distance": 4.0, "lookat": (0, 0, 0.5)}
    normal_velocity: ClassVar[bool] = True

    def observe(self, readings: Readings) -> np.ndarray:
        angles = readings.qpos[:, 1:]
        limited = np.clip(np.concatenate([readings.qvel, readings.derived["qfrc_constraint"][:, :1]], axis=1), -10, 10)
        return np.concatenate([readings.qpos[:, :1], np.sin(angles), np.cos(angles), limited], axis=1)

    def components(self, model: mujoco.MjModel) -> list[Component]:
        cart, *angles = positions(model)
        turned = [part for form in ("sin({})", "cos({})") for part in renamed(angles, form, "1")]
        force = cart.name.replace("qpos", "qfrc_constraint")
        return [cart, *turned, *velocities(model), Component(force, "N")]

    def outcome(self, readings: Readings, velocity: np.ndarray) -> Outcome:
        tip = readings.derived["site_xpos"][:, 0]
        x, z, (w1, w2) = tip[:, 0], tip[:, 2], readings.qvel[:, 1:3].T
        termination = z <= 1
        distance, spin1, spin2 = 0.01 * x**2 + (z - 2) ** 2, 1e-3 * w1**2, 5e-3 * w2**2
        metrics = {"healthy": ~termination, "tip_height": z, "distance_cost": distance, "velocity_cost": spin1 + spin2}
        return Outcome(self.healthy_reward * ~termination - (distance + spin1 + spin2), termination, metrics)


TASKS: dict[str, type[Task]] = {
    "half_cheetah": HalfCheetah,
    "sparse_half_cheetah": SparseHalfCheetah,
    "hopper": Hopper,
    "walker2d": Walker2d,
    "sparse_walker2d": SparseWalker2d,
    "ant": Ant,
    "humanoid": Humanoid,
    "humanoid_standup": HumanoidStandup,
    "swimmer": Swimmer,
    "reacher": Reacher,
    "sparse_reacher": SparseReacher,
    "sparse_reacher_hard": SparseReacherHard,
    "pusher": Pusher,
    "inverted_pendulum": InvertedPendulum,
    "inverted_double_pendulum": InvertedDoublePendulum,
}


def make_task(name: str, options: dict[str, Any], *, suite: str = "mujoco", others: Sequence[str] = ()) -> Task:
    """Builds a task from its name and options.

    Args:
        name: The task's.
        options: Of the task.
        suite: Whose task it is called in messages.
        others: Options that the suite takes besides.

    Raises:
        InvalidValueError: Unknown task or option, or a value that the option does not allow.
    """
    require_one_of("task", name, TASKS)
    kinds = {field.name: field.type for field in fields(TASKS[name])}
    for option, value in options.items():
        if option not in kinds:
            known = ", ".join(sorted((*kinds, *others)))
            allowed = f"{suite}/{name} has no such option; its options are {known}"
            raise InvalidValueError(option, value, allowed)
    return TASKS[name](**{option: _checked(option, value, kinds[option]) for option, value in options.items()})


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Returns the value as the option's own type, or raises InvalidValueError."""
    if kind is int:
        require_int(name, value, 1)
    elif kind is float:
        minimum = {"reset_noise_scale": 0.0, "reach": 0.0}.get(name, -math.inf)
        require_number(name, value, minimum, open_minimum=name == "reach")
        return float(value)
    elif kind is bool:
        if not isinstance(value, bool):
            raise InvalidValueError(name, value, "must be true or false")
    elif kind == Range:
        require_range(name, value)
        return (float(value[0]), float(value[1]))
    elif not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidValueError(name, value, f"must be a name{'' if kind is str else ' or a number'}")
    return value
