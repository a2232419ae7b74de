"""What the numbers of observations and actions are called, and their units, where a suite can tell.

Names are those of MuJoCo's arrays with the joint, body or actuator that a number belongs to:

| name | number | unit |
|---|---|---|
| `qpos/<joint>` | angle of a hinge, or way of a slide | rad, m |
| `qpos/<joint>_x`, `_y`, `_z`, `_qw`, `_qx`, `_qy`, `_qz` | place and quaternion of a free joint | m, 1 |
| `qvel/<joint>`, and `_vx` to `_vz`, `_wx` to `_wz` of a free one | velocity | rad/s, m/s |
| `qfrc_actuator/<joint>` | force of the actuators along it | N m, N |
| `cinert/<body>_...`, `cvel/...`, `cfrc_ext/...` | a body's inertia, velocity and contact force, about the centre of mass | in the name's own |
| `ctrl/<actuator>` | control; a unit of "120 N m" says what a control of 1 is | by gear and gain |

"1" is the unit of numbers without one, None of those whose unit is not known.
"""  # noqa: E501

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from envs.engine import mujoco

_JOINT, _TRANSMISSION = mujoco.mjtJoint, mujoco.mjtTrn
_OF_JOINTS = (_TRANSMISSION.mjTRN_JOINT, _TRANSMISSION.mjTRN_JOINTINPARENT)
_XYZ = ("x", "y", "z")
_QUATERNION = tuple((f"_q{axis}", "1") for axis in ("w", *_XYZ))
_ANGULAR, _LINEAR = (tuple(f"_{kind}{axis}" for axis in _XYZ) for kind in "wv")
# What a body's rows of MuJoCo's arrays are, in their order.
_OF_BODIES = {
    "cinert": [
        *((f"i{axes}", "kg m^2") for axes in ("xx", "yy", "zz", "xy", "xz", "yz")),
        *((f"m{axis}", "kg m") for axis in _XYZ),
        ("mass", "kg"),
    ],
    "cvel": [*((f"w{axis}", "rad/s") for axis in _XYZ), *((f"v{axis}", "m/s") for axis in _XYZ)],
    "cfrc_ext": [*((f"torque_{axis}", "N m") for axis in _XYZ), *((f"force_{axis}", "N") for axis in _XYZ)],
}


class Component(NamedTuple):
    """One number: its name, and its unit if that is known."""

    name: str
    unit: str | None = None


class Components(NamedTuple):
    """The numbers of an observation, obs_dim of them, and of an action, action_dim."""

    observation: list[Component]
    action: list[Component]


def numbered(name: str, size: int, unit: str | None = None) -> list[Component]:
    """Returns the numbers of an array that has a name; a single one has the name alone."""
    return [Component(name if size == 1 else f"{name}/{index}", unit) for index in range(size)]


def vector(name: str, size: int = 3, unit: str = "m") -> list[Component]:
    """Returns the first so many of x, y and z."""
    return [Component(f"{name}_{axis}", unit) for axis in _XYZ[:size]]


def positions(model: mujoco.MjModel) -> list[Component]:
    """Returns the model's generalized positions, nq of them."""
    found = []
    for number in range(model.njnt):
        kind, name = _kind(model, number), f"qpos/{_joint(model, number)}"
        if kind == _JOINT.mjJNT_FREE:
            found += vector(name)
        if kind in (_JOINT.mjJNT_FREE, _JOINT.mjJNT_BALL):
            found += [Component(name + suffix, unit) for suffix, unit in _QUATERNION]
        else:
            found.append(Component(name, "rad" if kind == _JOINT.mjJNT_HINGE else "m"))
    return found


def velocities(model: mujoco.MjModel) -> list[Component]:
    """Returns the model's generalized velocities, nv of them."""
    return [Component(f"qvel/{name}", "rad/s" if is_angular else "m/s") for name, is_angular in _freedoms(model)]


def actuator_forces(model: mujoco.MjModel) -> list[Component]:
    """Returns the forces of the actuators along the generalized coordinates, nv of them."""
    return [Component(f"qfrc_actuator/{name}", "N m" if is_angular else "N") for name, is_angular in _freedoms(model)]


def of_bodies(model: mujoco.MjModel, array: str) -> list[Component]:
    """Returns an array (``cinert``, ``cvel``, ``cfrc_ext``) of all bodies but the world."""
    names = [model.body(number).name or f"body{number}" for number in range(1, model.nbody)]
    return [Component(f"{array}/{name}_{part}", unit) for name in names for part, unit in _OF_BODIES[array]]


def controls(model: mujoco.MjModel, scales: Sequence[float] | None = None) -> list[Component]:
    """Returns the model's controls, nu of them; those without a name have their joint's.

    Args:
        model: The model.
        scales: What 1 is of each control, if not 1.
    """
    found = []
    for number in range(model.nu):
        joint = model.actuator_trnid[number, 0]
        is_of_joint = _TRANSMISSION(int(model.actuator_trntype[number])) in _OF_JOINTS
        own = _joint(model, joint) if is_of_joint else f"actuator{number}"
        # Of a motor, whose force is the control times gain and gear.
        kinds = (model.actuator_dyntype, model.actuator_gaintype, model.actuator_biastype)
        unit = {_JOINT.mjJNT_HINGE: "N m", _JOINT.mjJNT_SLIDE: "N"}.get(_kind(model, joint)) if is_of_joint else None
        if unit is not None and not any(int(kind[number]) for kind in kinds):
            size = model.actuator_gear[number, 0] * model.actuator_gainprm[number, 0]
            size *= 1.0 if scales is None else scales[number]
            unit = unit if size == 1 else f"{size:g} {unit}"
        else:
            unit = None
        found.append(Component(f"ctrl/{model.actuator(number).name or own}", unit))
    return found


def renamed(components: Iterable[Component], form: str, unit: str) -> list[Component]:
    """Returns functions of numbers, such as their cosines: ``form`` has {} where the name goes."""
    return [Component(form.format(component.name), unit) for component in components]


def _freedoms(model: mujoco.MjModel) -> list[tuple[str, bool]]:
    """Returns for each degree of freedom a name, and whether it is one of turning."""
    found: list[tuple[str, bool]] = []
    for number in range(model.njnt):
        kind, name = _kind(model, number), _joint(model, number)
        if kind == _JOINT.mjJNT_FREE:
            found += [(name + suffix, False) for suffix in _LINEAR]
        if kind in (_JOINT.mjJNT_FREE, _JOINT.mjJNT_BALL):
            found += [(name + suffix, True) for suffix in _ANGULAR]
        else:
            found.append((name, kind == _JOINT.mjJNT_HINGE))
    return found


def _kind(model: mujoco.MjModel, number: int) -> mujoco.mjtJoint:
    return _JOINT(int(model.jnt_type[number]))  # NumPy's numbers are equal to none of these


def _joint(model: mujoco.MjModel, number: int) -> str:
    return model.joint(number).name or f"joint{number}"
