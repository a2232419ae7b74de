"""Numbers of observations and actions are called what they are: compared with the engines' own arrays."""

import re
from types import SimpleNamespace

import jax
import mujoco
import numpy as np
import pytest
from slow import fast_are

import envs
from envs import brax
from envs import mujoco as mujoco_suite
from envs.components import Components


def check(env, components):
    """As many as there are numbers, and no two of one name."""
    observation, action = components
    assert len(observation) == len({one.name for one in observation}) == env.observation_size
    assert len(action) == len({one.name for one in action}) == env.action_size


def own_values(model, array, values):
    """Returns numbers of ``qpos`` or ``qvel`` by the names that they should have."""
    starts = model.jnt_qposadr if array == "qpos" else model.jnt_dofadr
    free = {"qpos": ("x", "y", "z", "qw", "qx", "qy", "qz"), "qvel": ("vx", "vy", "vz", "wx", "wy", "wz")}[array]
    found = {}
    for number, start in enumerate(starts):
        is_free = model.jnt_type[number] == mujoco.mjtJoint.mjJNT_FREE
        for offset, ending in enumerate([f"_{one}" for one in free] if is_free else [""]):
            found[f"{array}/{model.joint(number).name}{ending}"] = values[start + offset]
    return found


@pytest.mark.parametrize("task", mujoco_suite.TASKS)
def test_mujocos_coordinates_have_their_joints_names(task):
    env, rng = envs.make(f"mujoco/{task}", num_envs=1), np.random.default_rng(0)
    check(env, env.components)
    model = env.model
    qpos, qvel = model.qpos0 + rng.uniform(0.1, 0.2, model.nq), rng.uniform(0.1, 0.2, model.nv)
    state = env.state_from(jax.random.key(0), qpos, qvel)
    values = dict(zip((one.name for one in env.components.observation), state.observation[0], strict=True))
    plain = own_values(model, "qpos", qpos) | own_values(model, "qvel", qvel)
    turned = {f"{name}({of})": getattr(np, name)(value) for of, value in plain.items() for name in ("cos", "sin")}
    known = {name: value for name, value in (plain | turned).items() if name in values and "root_q" not in name}
    assert len(known) >= min(8, env.observation_size - 3)
    np.testing.assert_allclose([values[name] for name in known], list(known.values()), rtol=1e-5)
    if "humanoid" in task:  # inertias are given with the masses
        for body in ("torso", "left_foot", "right_hand"):
            named = f"cinert/{body}_mass"
            assert named not in values or values[named] == pytest.approx(model.body(body).mass[0], rel=1e-5)
        assert "cinert/torso_mass" in values


def test_forces_and_controls_are_what_their_units_say():
    """An ant that lies still is carried; a control of 1 is so many newton metres."""
    env = envs.make("mujoco/ant", num_envs=1, contact_force_range=[-1e6, 1e6])
    state = env.reset(jax.random.key(0)[None])
    for _ in range(200):
        state = env.step(state, np.zeros((1, 1, 8)))
    names = [one.name for one in env.components.observation]
    pushes = [value for name, value in zip(names, state.observation[0, 0], strict=True) if name.endswith("_force_z")]
    weight = env.model.body_mass.sum() * 9.81
    assert sum(pushes) == pytest.approx(weight, rel=0.05)

    cheetah = envs.make("mujoco/half_cheetah", num_envs=1)
    assert [(one.name, one.unit) for one in cheetah.components.action[:2]] == [
        ("ctrl/bthigh", "120 N m"),
        ("ctrl/bshin", "90 N m"),
    ]
    data = mujoco.MjData(cheetah.model)
    data.ctrl[:] = 1
    mujoco.mj_forward(cheetah.model, data)
    for one in cheetah.components.action:
        force = data.qfrc_actuator[cheetah.model.joint(one.name.removeprefix("ctrl/")).dofadr[0]]
        assert one.unit == f"{force:g} N m"
    assert cheetah.components.observation[:2] == [("qpos/rootz", "m"), ("qpos/rooty", "rad")]
    assert cheetah.components.observation[8] == ("qvel/rootx", "m/s")


def test_dm_controls_observations_have_its_names():
    pytest.importorskip("dm_control")
    for task in ("cheetah-run", "hopper-stand", "humanoid-run", "quadruped-walk"):
        env = envs.make(f"dmc/{task}", num_envs=1)
        check(env, env.components)
    env = envs.make("dmc/walker-walk", num_envs=1)
    names = [one.name for one in env.components.observation]
    assert names[13:16] == ["orientations/13", "height", "velocity/0"] and len(names) == 24
    assert env.components.action[0] == ("ctrl/right_hip", "100 N m")


@pytest.mark.parametrize("task", fast_are(1, ["halfcheetah", *(one for one in brax.TASKS if one != "halfcheetah")]))
def test_braxs_coordinates_have_their_joints_names(task):
    env = envs.make(f"brax/{task}", num_envs=1)
    check(env, env.components)
    names = [one.name for one in env.components.observation]
    if task not in ("halfcheetah", "ant", "swimmer"):
        return
    system = env.task.env.sys
    rng = np.random.default_rng(0)
    state = SimpleNamespace(q=rng.normal(size=system.q_size()), qd=rng.normal(size=system.qd_size()))
    known = own_values(system.mj_model, "qpos", state.q) | own_values(system.mj_model, "qvel", state.qd)
    observation = env.task.env._get_obs(state)
    np.testing.assert_allclose([known[name] for name in names], observation, rtol=1e-6)


def test_brax_scales_controls_of_some_tasks():
    """As the step of theirs does, whose source says so."""
    import inspect

    for task in ("halfcheetah", "pusher"):
        env = envs.make(f"brax/{task}", num_envs=1)
        model, units = env.task.env.sys.mj_model, [one.unit for one in env.components.action]
        scaled = "action_max - action_min" in inspect.getsource(type(env.task.env).step)
        expected = model.actuator_gear[:, 0] * (model.actuator_ctrlrange[:, 1] if scaled else 1)
        assert [float(re.match(r"[\d.]*", unit)[0] or 1) for unit in units] == expected.tolist()


def test_other_suites_tell_nothing():
    assert envs.make("probe/action", num_envs=1).components is None
    assert isinstance(envs.make("mujoco/hopper", num_envs=1).components, Components)
