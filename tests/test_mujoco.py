"""The MuJoCo suite against Gymnasium itself, and the invariants of its engine."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import mujoco
import numpy as np
import pytest
from scipy import stats
from slow import fast_are

from envs import mujoco as suite
from envs import mujoco_rendering
from envs.mujoco_tasks import Readings
from envs.quiet import quiet_mujoco
from remac.types import Environment
from remac.validation import InvalidValueError

GYMNASIUM = {
    "half_cheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
    "humanoid": "Humanoid-v5",
    "humanoid_standup": "HumanoidStandup-v5",
    "swimmer": "Swimmer-v5",
    "reacher": "Reacher-v5",
    "pusher": "Pusher-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
}
# What each of our numbers is of an environment of Gymnasium and the ``info`` of its step.
INFO = {
    "forward_velocity": lambda other, info: info["x_velocity"],
    "control_cost": lambda other, info: -info["reward_quadctrl" if "reward_quadctrl" in info else "reward_ctrl"],
    "contact_cost": lambda other, info: -info["reward_contact"],
    "impact_cost": lambda other, info: -info["reward_impact"],
    "healthy": lambda other, info: info["reward_survive"] / getattr(other, "_healthy_reward", 1.0),
    "height": lambda other, info: info["z_distance_from_origin"] + other.init_qpos[2 if other.model.nq > 20 else 1],
    "distance": lambda other, info: -info["reward_dist"] / other._reward_dist_weight,
    "fingertip_distance": lambda other, info: -info["reward_near"] / other._reward_near_weight,
    "distance_cost": lambda other, info: -info["distance_penalty"],
    "velocity_cost": lambda other, info: -info["velocity_penalty"],
    "tip_height": lambda other, info: other.data.site_xpos[0, 2],
}
KEEP = {"terminate_when_unhealthy": False}
HUMANOID = {
    "exclude_current_positions_from_observation": False,
    "include_cinert_in_observation": False,
    "include_qfrc_actuator_in_observation": False,
    "reset_noise_scale": 0.05,
    "ctrl_cost_weight": 0.3,
    "frame_skip": 2,
}
ANT = {"contact_force_range": (-0.5, 2.0), "contact_cost_weight": 0.01, "main_body": 3}
OPTIONS = [
    ("half_cheetah", {"forward_reward_weight": 2.5, "ctrl_cost_weight": 0.7, "frame_skip": 3}),
    ("half_cheetah", {"exclude_current_positions_from_observation": False, "reset_noise_scale": 0.3}),
    ("hopper", {"healthy_reward": 3.0, "healthy_z_range": [0.9, 1.3], "forward_reward_weight": 0.5}),
    ("hopper", {"healthy_state_range": (-1.5, 1.5), "healthy_angle_range": (-0.05, 0.1)}),
    ("hopper", KEEP | {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 1.0}),
    ("walker2d", KEEP | {"xml_file": "walker2d.xml", "healthy_reward": 2, "ctrl_cost_weight": 0.1}),
    ("walker2d", {"healthy_angle_range": (-0.1, 0.2), "exclude_current_positions_from_observation": False}),
    ("swimmer", {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 1.0}),
    ("swimmer", {"forward_reward_weight": 3.0, "reset_noise_scale": 0.4, "frame_skip": 2}),
    ("ant", KEEP | ANT | {"exclude_current_positions_from_observation": False}),
    ("ant", KEEP | {"include_cfrc_ext_in_observation": False, "ctrl_cost_weight": 0.1, "main_body": "torso"}),
    ("ant", {"healthy_z_range": (0.5, 0.9), "healthy_reward": 0.3, "forward_reward_weight": 2}),
    ("humanoid", KEEP | HUMANOID),
    ("humanoid", KEEP | {"contact_cost_weight": 1e-3, "contact_cost_range": (0.5, 3.0)}),
    ("humanoid", {"include_cvel_in_observation": False, "include_cfrc_ext_in_observation": False}),
    ("humanoid", {"healthy_z_range": (1.3, 1.39), "healthy_reward": 2, "forward_reward_weight": 3.0}),
    ("humanoid_standup", HUMANOID | {"include_cfrc_ext_in_observation": False}),
    ("humanoid_standup", {"impact_cost_weight": 1e-3, "impact_cost_range": (0.5, 3.0)}),
    ("humanoid_standup", {"include_cvel_in_observation": False}),
    ("reacher", {"reward_dist_weight": 3.0, "reward_control_weight": 0.5, "frame_skip": 4}),
    ("pusher", {"reward_near_weight": 2.0, "reward_dist_weight": 3.0, "reward_control_weight": 0.5}),
    ("inverted_pendulum", {"reset_noise_scale": 0.1, "frame_skip": 1}),
    ("inverted_double_pendulum", {"reset_noise_scale": 0.02, "healthy_reward": 3.0, "frame_skip": 2}),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Gymnasium's own loading writes MUJOCO_LOG.TXT


@functools.cache
def reference(task, index=0, options=()):
    """A Gymnasium environment without wrappers; ``index`` tells those apart that are alike."""
    return gymnasium.make(GYMNASIUM[task], **dict(options)).unwrapped


@functools.cache
def build(task, num_envs=3, dtype=np.float64, **options):
    return suite.make(task, num_envs=num_envs, dtype=dtype, **options)


def coordinates(env, state):
    qpos = state.physics.state[..., 1 : 1 + env.model.nq]
    return qpos, state.physics.state[..., 1 + env.model.nq : 1 + env.model.nq + env.model.nv]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def rows(state, index):
    return jax.tree.map(lambda array: array[index], state)


def merge(choice, one, other):
    """Takes the environments of ``choice`` `[E]` from one state and the rest from the other."""
    return jax.tree.map(lambda a, b: np.where(choice.reshape(-1, *[1] * (a.ndim - 1)), a, b), one, other)


def compare_with_gymnasium(task, options, num_steps, num_envs=3):
    """Runs random actions open loop in both, and starts afresh where an episode ends."""
    env = suite.make(task, num_envs=num_envs, dtype=np.float64, **options)
    frozen = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in options.items())
    others = [reference(task, index, frozen) for index in range(num_envs)]
    seeds, rng = iter(range(10_000)), np.random.default_rng(5)

    def start_like_gymnasium():
        qpos, qvel = (np.stack([getattr(other.data, name) for other in others]) for name in ("qpos", "qvel"))
        return env.state_from(jax.random.key(0), qpos, qvel)

    first = np.stack([other.reset(seed=next(seeds))[0] for other in others])
    state, num_ends = start_like_gymnasium(), 0
    np.testing.assert_array_equal(state.observation, first)
    centre, half = others[0].model.actuator_ctrlrange.mean(1), np.ptp(others[0].model.actuator_ctrlrange, 1) / 2
    for _ in range(num_steps):
        action = rng.uniform(-1, 1, (num_envs, env.action_size))
        state = env.step(state, action)
        found = [other.step(centre + half * row) for other, row in zip(others, action, strict=True)]
        observation, reward, termination, *_ = map(np.array, zip(*(step[:3] for step in found), strict=True))
        np.testing.assert_array_equal(state.final_observation, observation)
        np.testing.assert_allclose(state.reward, reward, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(state.termination, termination)
        for name in env.metric_names:
            theirs = [INFO[name](other, step[4]) for other, step in zip(others, found, strict=True)]
            np.testing.assert_allclose(state.metrics[name], theirs, rtol=0, atol=1e-9, err_msg=name)
        ended = state.termination | state.truncation
        if ended.any():
            num_ends += ended.sum()
            for index in np.flatnonzero(ended):
                others[index].reset(seed=next(seeds))
            fresh = start_like_gymnasium()
            state = merge(ended, fresh, state)
    return num_ends


@pytest.mark.parametrize("task", GYMNASIUM)
def test_trajectories_equal_gymnasium(task):
    num_ends = compare_with_gymnasium(task, {}, 200)
    terminates = ("hopper", "walker2d", "humanoid", "inverted_pendulum", "inverted_double_pendulum")
    assert num_ends > 3 or task not in terminates  # the comparison of terminations means something


@pytest.mark.parametrize("task", fast_are(2, ["humanoid", "hopper", "walker2d", "ant"]))
def test_long_trajectories_equal_gymnasium(task):
    assert compare_with_gymnasium(task, KEEP, 200) == 0


def test_what_gymnasium_tells_of_a_step_is_measured():
    """Left out are places, of which a mean over steps says little, and what is a constant times another number."""
    left_out = {"x_position", "y_position", "distance_from_origin", "y_velocity", "tendon_length", "tendon_velocity"}
    left_out |= {"reward_forward", "reward_linup"}
    for task in GYMNASIUM:
        other, names = reference(task), build(task).metric_names
        other.reset(seed=0)
        info = other.step(np.zeros(other.model.nu))[4]
        used = {key for key in info if key not in left_out}
        without_one_key = [{key: info[key] for key in info if key != removed} for removed in used]
        for fewer in without_one_key:
            with pytest.raises(KeyError):
                [INFO[name](other, fewer) for name in names]


@pytest.mark.parametrize(("task", "options"), OPTIONS)
def test_options_equal_gymnasium(task, options):
    compare_with_gymnasium(task, options, 40, num_envs=2)


def test_float32_rounds_gymnasiums_observations_and_nothing_else():
    """The largest numbers are contact forces: of thousands of newtons in a fall, so that half a unit is 2.4e-4 N."""
    other, rng = reference("humanoid", 0, tuple(KEEP.items())), np.random.default_rng(5)
    env = suite.make("humanoid", num_envs=1, **KEEP)
    other.reset(seed=0)
    state, worst = env.state_from(jax.random.key(0), other.data.qpos[None], other.data.qvel[None]), 0.0
    for _ in range(120):
        action = rng.uniform(-1, 1, (1, 17)).astype(np.float32)
        state, (theirs, *_) = env.step(state, action), other.step(0.4 * action[0].astype(np.float64))
        np.testing.assert_array_equal(state.final_observation[0], theirs.astype(np.float32))
        worst = max(worst, np.abs(state.final_observation[0] - theirs).max())
    assert 1e-5 < worst < 5e-4


def test_starts_beyond_what_a_simulation_may_reach_are_drawn_again_or_refused():
    with pytest.raises(InvalidValueError, match=r"reset_noise_scale=1e\+25: must give starts .* below 1e\+10"):
        suite.make("hopper", num_envs=1, reset_noise_scale=1e25)
    env = suite.make("half_cheetah", num_envs=400, episode_length=1)
    original, drawn = env.task.start, []

    class Task(type(env.task)):
        def start(self, rng, model):
            qpos, qvel = original(rng, model)
            drawn.append(len(drawn) % 5)
            return qpos, qvel * (1e12 if drawn[-1] == 0 else 1)

    env.task = Task(episode_length=1)
    state = env.reset(jax.random.key(0))
    for _ in range(2):
        assert (np.abs(state.observation) < 10).all()
        state = env.step(state, np.zeros((400, 6)))
    assert len(drawn) > 1300


def test_huge_numbers_are_a_breakdown():
    env = suite.make("half_cheetah", num_envs=2, forward_reward_weight=1e25)
    state = env.step(env.reset(jax.random.key(0)), np.zeros((2, 6)))
    assert state.diverged.all() and state.termination.all() and (state.reward == 0).all()


def test_every_gymnasium_flag_is_an_option_with_its_default():
    import inspect

    for task in GYMNASIUM:
        parameters = inspect.signature(type(reference(task)).__init__).parameters
        flags = {
            name: parameter.default
            for name, parameter in parameters.items()
            if name not in ("self", "kwargs", "default_camera_config")  # a camera is no part of the task
        }
        fields = {field.name: field.default for field in dataclasses.fields(build(task).task)}
        assert fields == flags | {"episode_length": gymnasium.spec(GYMNASIUM[task]).max_episode_steps}


@pytest.mark.parametrize(("task", "reach"), [("sparse_reacher", 0.05), ("sparse_reacher_hard", 0.01)])
def test_sparse_reacher_is_reacher_but_for_its_reward(task, reach):
    sparse, dense = (build(name, num_envs=400) for name in (task, "reacher"))
    state = sparse.reset(jax.random.key(1))
    action = np.random.default_rng(0).uniform(-1, 1, (400, 2))
    paid = 0
    for _ in range(20):
        theirs = dense.step(state, action)
        state = sparse.step(state, action)
        np.testing.assert_array_equal(state.final_observation, theirs.final_observation)
        near = np.linalg.norm(state.final_observation[:, -2:].astype(float), axis=1) < reach
        np.testing.assert_array_equal(state.reward, near)
        np.testing.assert_array_equal(state.metrics["success"], near)
        np.testing.assert_array_equal(state.metrics["distance"], theirs.metrics["distance"])
        paid += near.sum()
    assert 0 < paid < 4000
    assert build(task, reach=0.2).task.reach == 0.2
    with pytest.raises(InvalidValueError, match="reach=0"):
        build(task, reach=0)


@pytest.mark.parametrize(
    ("task", "dense_task"), fast_are(1, [("sparse_half_cheetah", "half_cheetah"), ("sparse_walker2d", "walker2d")])
)
def test_sparse_runners_are_the_dense_ones_but_for_their_reward(task, dense_task):
    goal = {"half_cheetah": 0.03, "walker2d": -0.02}[dense_task]  # which random actions cross
    sparse = build(task, num_envs=200, goal=goal)
    dense = build(dense_task, num_envs=200, exclude_current_positions_from_observation=False)
    assert build(task).task.goal == {"half_cheetah": 5.0, "walker2d": 1.0}[dense_task]
    state, rng, paid = sparse.reset(jax.random.key(1)), np.random.default_rng(0), 0
    for _ in range(40):
        action = rng.uniform(-1, 1, (200, 6))
        theirs, state = dense.step(state, action), sparse.step(state, action)
        np.testing.assert_array_equal(state.final_observation, theirs.final_observation)
        np.testing.assert_array_equal(state.termination, theirs.termination)
        np.testing.assert_array_equal(state.reward, state.final_observation[:, 0] >= goal)
        np.testing.assert_array_equal(state.metrics["success"], state.reward)
        paid += state.reward.sum()
    assert 0 < paid < 8000


def test_uph_cost_weight_weighs_the_height():
    plain, weighted = build("humanoid_standup"), build("humanoid_standup", uph_cost_weight=3.0)
    state, action = plain.reset(jax.random.key(1)), np.zeros((3, 17))
    after = plain.step(state, action)
    height = coordinates(plain, after)[0][:, 2] / plain.model.opt.timestep
    np.testing.assert_allclose(weighted.step(state, action).reward, after.reward + 2 * height)


@pytest.mark.parametrize("task", GYMNASIUM)
def test_reset_noise_is_distributed_as_gymnasiums(task):
    count, env, other = 1500, build(task, num_envs=1500), reference(task)
    qpos, qvel = coordinates(env, env.reset(jax.random.key(3)))
    others = [(other.reset(seed=seed), other.data.qpos.copy(), other.data.qvel.copy())[1:] for seed in range(count)]
    theirs = np.concatenate([np.stack([pair[part] for pair in others]) for part in (0, 1)], axis=1)
    ours = np.concatenate([qpos, qvel], axis=1)
    if task in ("reacher", "pusher"):  # what the rejection loop bounds: the two coordinates together
        place = slice(-2, None) if task == "reacher" else slice(-4, -2)
        ours = np.concatenate([ours, np.linalg.norm(qpos[:, place], axis=1)[:, None]], axis=1)
        theirs = np.concatenate([theirs, np.linalg.norm(theirs[:, : qpos.shape[1]][:, place], axis=1)[:, None]], axis=1)
    fixed = np.ptp(theirs, axis=0) == 0
    np.testing.assert_array_equal(ours[:, fixed], theirs[:, fixed])
    moving = np.flatnonzero(~fixed)
    for column in moving:
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3 / len(moving)
    correlation = np.corrcoef(ours[:, moving[: qpos.shape[1]]].T) - np.eye(min(len(moving), qpos.shape[1]))
    assert task in ("reacher", "pusher") or np.abs(correlation).max() < 5 / np.sqrt(count)


def test_auto_resets_draw_the_same_distribution_as_reset():
    env = build("half_cheetah", num_envs=400, episode_length=1)
    state, starts, action = env.reset(jax.random.key(0)), [], np.zeros((400, 6))
    first = np.concatenate(coordinates(env, env.reset(jax.random.key(1))), axis=1)
    for _ in range(4):
        state = env.step(state, action)
        starts.append(np.concatenate(coordinates(env, state), axis=1))
    assert len(np.unique(np.concatenate(starts)[:, 0])) == 1600
    for column in range(first.shape[1]):
        assert stats.ks_2samp(np.concatenate(starts)[:, column], first[:, column]).pvalue > 1e-3 / first.shape[1]
    assert abs(np.corrcoef(starts[0][:, 0], starts[1][:, 0])[0, 1]) < 0.2


# Task, coordinate of qpos, a start that is healthy, one that is not. The ground keeps the ant above its lower limit,
# which the test of exact ends covers.
EDGES = [
    ("hopper", 1, 1.0, 0.5),
    ("hopper", 2, 0.0, 0.4),
    ("hopper", 2, 0.0, -0.4),
    ("walker2d", 1, 1.2, 0.4),
    ("walker2d", 1, 1.5, 2.5),
    ("walker2d", 2, 0.0, 1.5),
    ("walker2d", 2, 0.0, -1.5),
    ("ant", 2, 0.75, 1.5),
    ("humanoid", 2, 1.4, 0.7),
    ("humanoid", 2, 1.4, 2.5),
    ("inverted_pendulum", 1, 0.0, 0.5),
    ("inverted_pendulum", 1, 0.0, -0.5),
    ("inverted_double_pendulum", 1, 0.0, 1.5),
]


@pytest.mark.parametrize(("task", "coordinate", "healthy", "unhealthy"), EDGES)
def test_termination_agrees_with_gymnasium_on_both_sides_of_the_edge(task, coordinate, healthy, unhealthy):
    env, other = build(task, num_envs=1), reference(task)
    qpos, qvel = env.model.qpos0.copy(), np.zeros(env.model.nv)

    def terminates(start):
        qpos[coordinate] = start
        return env.step(env.state_from(jax.random.key(0), qpos, qvel), np.zeros((1, env.action_size))).termination[0]

    assert not terminates(healthy) and terminates(unhealthy)
    while abs(healthy - unhealthy) > 1e-11:
        middle = (healthy + unhealthy) / 2
        healthy, unhealthy = (healthy, middle) if terminates(middle) else (middle, unhealthy)
    for start, expected in ((healthy, False), (unhealthy, True)):
        other.reset(seed=0)
        mujoco.mj_resetData(other.model, other.data)
        qpos[coordinate] = start
        other.set_state(qpos, qvel)
        assert other.step(np.zeros(env.action_size))[2] == expected


@pytest.mark.parametrize("task", ["hopper", "walker2d", "ant", "humanoid"])
def test_healthy_ranges_at_their_exact_ends(task):
    env, other = build(task), reference(task)
    z = 1 if task in ("hopper", "walker2d") else 2
    cases = [(z, edge) for edge in env.task.healthy_z_range]
    cases += [(2, edge) for edge in getattr(env.task, "healthy_angle_range", ())]
    cases += [(3, edge) for edge in getattr(env.task, "healthy_state_range", ())]
    cases += [(env.model.nq + 2, edge) for edge in getattr(env.task, "healthy_state_range", ())]
    outcomes = set()
    for coordinate, edge in cases:
        for value in (np.nextafter(edge, -np.inf), edge, np.nextafter(edge, np.inf), np.nan):
            other.reset(seed=0)
            both = np.concatenate([env.model.qpos0, np.zeros(env.model.nv)])
            both[coordinate] = value
            other.data.qpos[:], other.data.qvel[:] = both[: env.model.nq], both[env.model.nq :]
            qpos, qvel = both[None, : env.model.nq], both[None, env.model.nq :]
            ours = env.task.healthy(Readings(env.model, qpos, qvel, np.zeros((1, env.model.nu)), {}))
            assert ours[0] == other.is_healthy, (coordinate, value)
            outcomes.add(bool(ours[0]))
    assert outcomes == {True, False}


def test_auto_reset_keeps_the_books_and_leaks_nothing():
    env = build("inverted_pendulum", num_envs=8, episode_length=25)
    state, rng = env.reset(jax.random.key(2)), np.random.default_rng(0)
    assert isinstance(env, Environment)
    np.testing.assert_array_equal(state.final_observation, state.observation)
    assert not (state.reward.any() or state.termination.any() or state.truncation.any() or state.step_count.any())
    starts, length, total = [state.observation], np.zeros(8, int), np.zeros(8)
    seen = {"termination": 0, "truncation": 0}
    for _ in range(150):
        # Half of them balance, so that some episodes reach the limit.
        action = np.where(np.arange(8) % 2, rng.uniform(-1, 1, 8), state.observation @ (0.2, 10, 0.3, 1)).reshape(8, 1)
        state = env.step(state, action)
        length, total = length + 1, total + state.reward
        np.testing.assert_array_equal(state.episode_length, length)
        np.testing.assert_array_equal(state.step_count, length)
        np.testing.assert_array_equal(state.episode_return, total)
        np.testing.assert_array_equal(state.termination, np.abs(state.final_observation[:, 1]) > 0.2)
        np.testing.assert_array_equal(state.truncation, (length == 25) & ~state.termination)
        ended = state.termination | state.truncation
        going_on = ~ended
        np.testing.assert_array_equal(state.observation[going_on], state.final_observation[going_on])
        assert (np.abs(state.observation[ended]) <= 0.01).all()  # a start
        assert (np.abs(state.final_observation[ended]).max(axis=1) > 0.01).all()  # no start
        np.testing.assert_array_equal(np.concatenate(coordinates(env, state), axis=1), state.observation)
        starts.append(state.observation[ended])
        seen["termination"] += state.termination.sum()
        seen["truncation"] += state.truncation.sum()
        length, total = length * going_on, total * going_on
    starts = np.concatenate(starts)
    assert min(seen.values()) > 5
    assert len(np.unique(starts, axis=0)) == len(starts)


def test_a_termination_at_the_time_limit_is_no_truncation():
    def fall(limit):
        env = build("inverted_pendulum", num_envs=1, episode_length=limit)
        state = env.reset(jax.random.key(0))
        for _ in range(limit):
            state = env.step(state, np.ones((1, 1)))
            if state.termination[0]:
                break
        return state

    steps = int(fall(1000).step_count[0])
    assert fall(steps).termination[0] and not fall(steps).truncation[0]
    assert fall(steps - 1).truncation[0] and not fall(steps - 1).termination[0]


def test_the_state_after_an_auto_reset_is_that_of_a_start():
    env = build("ant", num_envs=2, episode_length=25)
    state = env.reset(jax.random.key(4))
    for _ in range(25):  # long enough to fall on the ground
        state = env.step(state, np.ones((2, 8)))
    assert state.truncation.all()
    again = env.state_from(jax.random.key(0), *coordinates(env, state))
    assert_equal((again.physics, again.observation), (state.physics, state.observation))
    assert not state.observation[:, 27:].any() and state.final_observation[:, 27:].any()  # contact forces


def episodes(env, key, num_steps):
    """Complete episodes of each environment under a fixed policy: lists of (start, return, length)."""
    state, found = env.reset(key), [[] for _ in range(env.num_envs)]
    gains = np.random.default_rng(1).normal(size=(env.observation_size, env.action_size))
    start, first_ends = state.observation, []
    for _ in range(num_steps):
        state = env.step(state, np.tanh(state.observation @ gains))
        ended = state.termination | state.truncation
        for index in np.flatnonzero(ended):
            if state.episode_length[index] == state.step_count[index]:
                found[index].append((start[index].tolist(), state.episode_return[index], state.episode_length[index]))
            else:
                first_ends.append((index, int(state.episode_length[index]), len(found[index])))
        start = np.where(ended[:, None], state.observation, start)
    return found, first_ends


@pytest.mark.parametrize("task", ["half_cheetah", "hopper"])
def test_staggering_shifts_only_the_ends_of_first_episodes(task):
    plain = build(task, num_envs=24, episode_length=20)
    staggered = build(task, num_envs=24, episode_length=20, stagger_first_episodes=True)
    state, shifted = plain.reset(jax.random.key(6)), staggered.reset(jax.random.key(6))
    assert_equal(state, shifted.replace(step_count=state.step_count))
    counts = shifted.step_count
    assert counts.min() >= 0 and counts.max() < 20 and len(np.unique(counts)) > 8
    whole, none = episodes(plain, jax.random.key(6), 75)
    found, first_ends = episodes(staggered, jax.random.key(6), 75)
    assert not none
    cut = {index: length for index, length, before in first_ends if before == 0}
    assert len(cut) == len(first_ends) == (counts > 0).sum()  # first episodes only, each once
    if task == "half_cheetah":  # never terminates
        assert cut == {index: 20 - count for index, count in enumerate(counts) if count}
    for index in range(24):  # every complete episode is one of the unstaggered run: the same start, return and length
        expected = whole[index][int(index in cut) :]
        num = min(len(expected), len(found[index]))
        assert num >= 2 and found[index][:num] == expected[:num]


PURE = ["half_cheetah", "ant", "humanoid", "reacher", "inverted_double_pendulum"]


@pytest.mark.parametrize("task", PURE)
def test_a_result_depends_on_the_environments_own_state_only(task):
    limit = {"episode_length": 4}  # auto-resets included
    env, rng = build(task, num_envs=5, **limit), np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(1), 3)
    together, separate = env.reset(keys), [env.reset(key) for key in keys]
    threaded = [build(task, num_envs=5, num_threads=count, **limit) for count in (1, 2, 4)]
    single = build(task, num_envs=1, num_threads=1, **limit)
    for _ in range(10):
        action = rng.uniform(-1, 1, (3, 5, env.action_size))
        before, saved = together, jax.tree.map(np.copy, together)
        together = env.step(before, action)
        assert_equal(before, saved)  # nothing is written into the state that went in
        assert_equal(env.step(before, action), together)
        separate = [env.step(state, row) for state, row in zip(separate, action, strict=True)]
        for member, state in enumerate(separate):
            assert_equal(rows(together, member), state)
        for other in threaded:
            assert_equal(other.step(before, action), together)
        assert_equal(rows(single.step(rows(before, (2, [3])), action[2, 3:4]), 0), rows(together, (2, 3)))
        order = (slice(None), [3, 1, 4, 0, 2])
        assert_equal(env.step(rows(before, order), action[order]), rows(together, order))


def test_keys_decide_the_starts():
    env = build("half_cheetah", num_envs=4, dtype=np.float32)
    with jax.debug_key_reuse(True):
        state, again, other = (env.reset(jax.random.key(seed)) for seed in (0, 0, 1))
    assert_equal(state, again)
    assert state.observation.dtype == state.reward.dtype == state.episode_return.dtype == np.float32
    assert len(np.unique(np.concatenate([state.observation, other.observation])[:, 0])) == 8
    assert len(np.unique(np.concatenate([state.key, other.key]), axis=0)) == 8
    nested = env.reset(jax.random.split(jax.random.key(0), (2, 3)))
    assert nested.observation.shape == (2, 3, 4, 17) and nested.reward.shape == (2, 3, 4)
    exact = build("half_cheetah", num_envs=4).reset(jax.random.key(0))
    np.testing.assert_array_equal(exact.observation.astype(np.float32), state.observation)


def test_actions_are_clipped_and_may_be_jax_arrays():
    env = build("pusher")
    state, action = env.reset(jax.random.key(0)), np.random.default_rng(0).uniform(-3, 3, (3, 7)).astype(np.float32)
    expected = env.step(state, np.clip(action, -1, 1))
    assert_equal(env.step(state, jax.numpy.asarray(action)), expected)
    with pytest.raises(ValueError, match=r"\(3, 7\)"):
        env.step(state, action[:, :6])


def test_for_evaluation_is_the_same_task():
    env = build("hopper", stagger_first_episodes=True, healthy_reward=2.0, episode_length=9)
    other = env.for_evaluation(5)
    assert (other.num_envs, other.task, other.name) == (5, env.task, "mujoco/hopper")
    assert not other.reset(jax.random.key(0)).step_count.any()


def test_the_models_are_those_that_gymnasium_loads():
    with quiet_mujoco():
        for task in GYMNASIUM:
            models = build(task).model, mujoco.MjModel.from_xml_path(reference(task).fullpath)
            buffers = [np.empty(mujoco.mj_sizeModel(model), np.uint8) for model in models]
            for model, buffer in zip(models, buffers, strict=True):
                mujoco.mj_saveModel(model, None, buffer)
            assert_equal(*buffers)


def test_loading_says_nothing_and_does_not_import_gymnasium(tmp_path):
    code = (
        "import sys\n"
        "from envs import mujoco\n"
        "for task in mujoco.TASKS: mujoco.make(task, num_envs=1)\n"
        "assert 'gymnasium' not in sys.modules and 'brax' not in sys.modules\n"
    )
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


BAD = [
    ("half_cheeta", {}, "task", "half_cheetah, hopper"),
    ("hopper", {"helthy_reward": 1}, "helthy_reward", "healthy_reward"),
    ("half_cheetah", {"healthy_reward": 1}, "healthy_reward", "ctrl_cost_weight"),
    ("hopper", {"frame_skip": 0}, "frame_skip", "1"),
    ("hopper", {"frame_skip": 2.0}, "frame_skip", "integer"),
    ("hopper", {"episode_length": -1}, "episode_length", "1"),
    ("hopper", {"episode_length": True}, "episode_length", "integer"),
    ("hopper", {"reset_noise_scale": -0.1}, "reset_noise_scale", "0"),
    ("hopper", {"healthy_reward": "2"}, "healthy_reward", "number"),
    ("hopper", {"healthy_reward": float("nan")}, "healthy_reward", "finite"),
    ("hopper", {"terminate_when_unhealthy": 1}, "terminate_when_unhealthy", "true or false"),
    ("hopper", {"healthy_z_range": (1.0, 0.5)}, "healthy_z_range", "lower"),
    ("hopper", {"healthy_z_range": 1.0}, "healthy_z_range", "two numbers"),
    ("hopper", {"healthy_z_range": (0.0, float("nan"))}, "healthy_z_range", "two numbers"),
    ("hopper", {"xml_file": "hoper.xml"}, "xml_file", "exists"),
    ("hopper", {"xml_file": 3}, "xml_file", "name"),
    ("ant", {"main_body": "trunk"}, "main_body", "torso"),
    ("ant", {"main_body": 14}, "main_body", "14"),
    ("ant", {"main_body": True}, "main_body", "number"),
    ("hopper", {"num_envs": 0}, "num_envs", "1"),
    ("hopper", {"num_threads": 0}, "num_threads", "1"),
    ("hopper", {"dtype": "float16"}, "dtype", "float32"),
    ("hopper", {"stagger_first_episodes": "yes"}, "stagger_first_episodes", "true or false"),
]


@pytest.mark.parametrize(("task", "options", "name", "hint"), BAD)
def test_bad_settings_are_named(task, options, name, hint):
    with pytest.raises(InvalidValueError) as caught:
        suite.make(task, **{"num_envs": 1} | options)
    value = options.get(name, task)
    assert caught.value.name == name and f"{name}={value}" in str(caught.value)
    assert hint in caught.value.allowed and "\n" not in str(caught.value)


def test_a_model_in_the_working_directory_is_spelled_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.xml").touch()
    with pytest.raises(InvalidValueError, match=r"xml_file=mine.xml: .*; the file in this folder is ./mine.xml$"):
        suite.make("hopper", num_envs=1, xml_file="mine.xml")
    with pytest.raises(InvalidValueError, match=r"xml_file=nowhere.xml: .* a path that exists$"):
        suite.make("hopper", num_envs=1, xml_file="nowhere.xml")


def test_render_draws_the_environment_or_says_why_not():
    env = build("half_cheetah")
    state = env.reset(jax.random.key(0))
    try:
        image = env.render(state, 1, width=96, height=64)
    except RuntimeError as error:
        pytest.skip(str(error))
    assert image.shape == (64, 96, 3) and image.dtype == np.uint8 and image.std() > 10
    assert_equal(env.render(state, 1, width=96, height=64), image)
    assert (env.render(state, 0, width=96, height=64) != image).any()
    other = build("inverted_double_pendulum")
    other.render(other.reset(jax.random.key(0)))  # takes over OpenGL's current context, and frees its first one below
    other.render(other.reset(jax.random.key(0)), width=40)
    assert_equal(env.render(state, 1, width=96, height=64), image)


def test_render_gives_the_reason_where_it_cannot(monkeypatch):
    def fail(name):
        raise ImportError("no such driver")

    monkeypatch.setattr(mujoco_rendering.importlib, "import_module", fail)
    env = suite.make("reacher", num_envs=1)
    with pytest.raises(RuntimeError, match=r"cannot render.*no such driver"):
        env.render(env.reset(jax.random.key(0)))


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("task", ["half_cheetah", "ant", "humanoid"])
def test_physics_that_diverges_ends_the_episode_and_disturbs_nobody(task, num_threads, capfd):
    """MuJoCo finds the accelerations too large, starts that simulation afresh and counts a warning."""
    env = suite.make(task, num_envs=5, num_threads=num_threads)
    calm = env.step(env.reset(jax.random.key(0)), np.zeros((5, env.action_size)))
    qpos, qvel = (array.copy() for array in coordinates(env, calm))
    qvel[[1, 3]] = 1e9
    pushed = env.state_from(jax.random.key(1), qpos, qvel)
    gentle = env.state_from(jax.random.key(1), *coordinates(env, calm))
    bad, action = np.array([False, True, False, True, False]), np.full((5, env.action_size), 0.1)
    after, usual = env.step(pushed, action), env.step(gentle, action)
    np.testing.assert_array_equal(after.diverged, bad)
    np.testing.assert_array_equal(after.termination, bad | usual.termination)
    assert not after.reward[bad].any() and not after.episode_return[bad].any() and not after.truncation[bad].any()
    np.testing.assert_array_equal(after.final_observation[bad], pushed.observation[bad])
    assert_equal(rows(after, ~bad), rows(usual, ~bad))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    following = env.step(after, action)
    assert not following.diverged.any() and (following.episode_length[bad] == 1).all()
    again = env.step(pushed, action)
    assert_equal(after, again)
    assert capfd.readouterr() == ("", "") and not Path("MUJOCO_LOG.TXT").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["observation", "reward"])
def test_numbers_that_are_not_finite_end_the_episode(where, value, monkeypatch):
    env = suite.make("half_cheetah", num_envs=3)
    state = env.reset(jax.random.key(0))
    usual = env.step(state, np.zeros((3, 6)))
    original_observe, original_outcome = type(env.task).observe, type(env.task).outcome
    measured = usual.metrics["forward_velocity"]

    def observe(task, readings):
        found = original_observe(task, readings).copy()
        if where == "observation" and len(found) == 3:
            found[2, 4] = value
        return found

    def outcome(task, readings, velocity):
        found = original_outcome(task, readings, velocity)
        return found if where != "reward" else found._replace(reward=np.where(np.arange(3) == 2, value, found.reward))

    monkeypatch.setattr(type(env.task), "observe", observe)
    monkeypatch.setattr(type(env.task), "outcome", outcome)
    after = env.step(state, np.zeros((3, 6)))
    np.testing.assert_array_equal(after.diverged, [False, False, True])
    np.testing.assert_array_equal(after.termination, after.diverged)
    assert after.reward[2] == 0 and np.isfinite(after.observation).all()
    np.testing.assert_array_equal(after.metrics["forward_velocity"], [*measured[:2], 0])
    np.testing.assert_array_equal(after.final_observation, [*usual.final_observation[:2], state.observation[2]])
