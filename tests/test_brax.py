"""Brax tasks through our interface against Brax itself."""

from pathlib import Path

import brax
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from slow import fast_are

import envs
from agents import ReMAC
from envs.brax import EPISODE_LENGTHS, TASKS
from envs.quiet import quietly
from remac.training.loop import TrainConfig, train
from remac.validation import InvalidValueError


def compare_with_brax(task, num_steps, **options):
    env = envs.make(f"brax/{task}", num_envs=2, **options)
    assert env.episode_length == EPISODE_LENGTHS[task]
    state = jax.jit(env.reset)(jax.random.key(0))
    start = jax.tree.map(lambda leaf: leaf[0], state.physics[0])
    step, own_step = jax.jit(env.step), jax.jit(env.task.env.step)
    for number in range(num_steps):
        action = jax.random.uniform(jax.random.key(number), (2, env.action_size), minval=-1.0)
        state = step(state, action)
        with quietly():
            start = own_step(start, action[0])
        np.testing.assert_allclose(state.final_observation[0], start.obs, rtol=1e-3, atol=1e-3)
        reach = getattr(env.task, "reach", None)
        distance = np.linalg.norm(start.obs[-3:]) if reach else None
        reward = start.reward if reach is None else distance < reach
        assert reach is None or abs(distance - reach) > 1e-4  # rounding does not decide
        np.testing.assert_allclose(state.reward[0], reward, rtol=1e-3, atol=1e-3)
        assert bool(state.termination[0]) == bool(start.done)
        for name in env.metric_names:
            measured = start.metrics.get(name, reward)
            np.testing.assert_allclose(state.metrics[name][0], measured, rtol=1e-3, atol=1e-3, err_msg=name)
        if state.termination[0]:
            break
    assert np.isfinite(state.observation).all()
    return env, state


@pytest.mark.slow
def test_reacher_is_brax_reacher_and_ends_at_its_time_limit():
    _, state = compare_with_brax("reacher", 50)
    assert state.truncation.all() and not state.termination.any()
    assert (state.observation != state.final_observation).any(axis=1).all()
    assert not np.allclose(state.observation[0], state.observation[1])


@pytest.mark.slow
def test_sparse_reacher_is_paid_in_reach_only():
    _, state = compare_with_brax("sparse_reacher", 50, reach=0.15)
    assert 0 < state.episode_return[0] < 50
    assert envs.make("brax/sparse_reacher_hard", num_envs=1).task.reach == 0.01
    with pytest.raises(InvalidValueError, match="reach=-1"):
        envs.make("brax/sparse_reacher", num_envs=1, reach=-1)


def test_backends_and_options():
    assert envs.make("brax/reacher", num_envs=1, backend="spring").task.env.backend == "spring"
    with pytest.raises(InvalidValueError, match="backend=bullet"):
        envs.make("brax/reacher", num_envs=1, backend="bullet")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("swimmer", {"backend": "spring"}, r"backend=spring: brax/swimmer .*\(Unsupported backend: spring.\)$"),
        ("ant", {"use_contact_forces": True}, r"use_contact_forces=True: brax/ant .*not implemented"),
        ("ant", {"healthy_z_range": 0.7}, "healthy_z_range=0.7: must be two numbers, the lower bound first"),
        ("hopper", {"healthy_z_range": [1.0, 0.5]}, r"healthy_z_range=\[1.0, 0.5\]: must be two numbers"),
        ("walker2d", {"healthy_angle_range": ("a", 1)}, "healthy_angle_range=.*: must be two numbers"),
    ],
)
def test_what_brax_cannot_do_is_one_line(task, options, message):
    with pytest.raises(InvalidValueError, match=message) as error:
        envs.make(f"brax/{task}", num_envs=1, **options)
    assert "\n" not in str(error.value)


def test_a_range_of_braxs_is_a_pair():
    assert envs.make("brax/hopper", num_envs=1, healthy_z_range=[0.5, float("inf")]).action_size == 3


@pytest.mark.parametrize("task", fast_are(1, ["reacher", "halfcheetah", "swimmer"]))
def test_building_and_tracing_are_quiet(task, capfd, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write MUJOCO_LOG.TXT
    caplog.set_level("INFO")
    with quietly():
        print("nothing of this is seen")
    env = envs.make(f"brax/{task}", num_envs=1)
    caplog.set_level("INFO")
    state = jax.eval_shape(env.reset, jax.random.key(0))
    jax.eval_shape(env.step, state, jax.ShapeDtypeStruct((1, env.action_size), jnp.float32))
    assert capfd.readouterr() == ("", "") and not caplog.records and not list(tmp_path.iterdir())


def test_models_are_the_same_without_mujocos_notice(tmp_path, monkeypatch):
    from brax.io import mjcf

    paths = sorted(Path(brax.__file__).parent.glob("envs/assets/*.xml"))
    assert len(paths) > 8
    monkeypatch.chdir(tmp_path)  # MUJOCO_LOG.TXT
    with quietly():
        envs.make("brax/reacher", num_envs=1)
        ours = [mjcf.load_mjmodel(path) for path in paths]
        monkeypatch.setattr(mjcf, "mujoco", mujoco)
        theirs = [mjcf.load_mjmodel(path) for path in paths]
    for one, other in zip(ours, theirs, strict=True):
        buffers = [np.zeros(mujoco.mj_sizeModel(model), np.uint8) for model in (one, other)]
        mujoco.mj_saveModel(one, None, buffers[0])
        mujoco.mj_saveModel(other, None, buffers[1])
        np.testing.assert_array_equal(*buffers)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_braxs_and_trains(task):
    env, _ = compare_with_brax(task, 5)
    agent = ReMAC.create(env.observation_size, env.action_size, batch_size=32, activation="tanh")
    config = TrainConfig(
        total_env_steps=40,
        updates_per_round=2,
        prefill_env_steps=10,
        eval_every_env_steps=40,
        num_eval_episodes=1,
        replay_capacity=32,
    )
    short = envs.make(f"brax/{task}", num_envs=2, episode_length=10)
    result = train(agent, short, config, jax.random.key(0))
    metrics = result.evaluations[-1].metrics
    assert np.isfinite([metrics["critic/loss"], metrics["eval/return"], metrics["actor/entropy"]]).all()
    assert jnp.isfinite(agent.policy(result.agent_state)(jnp.zeros((env.observation_size,)))).all()
