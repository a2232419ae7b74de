"""MuJoCo Playground's tasks through our interface against Playground itself and against dm_control."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_dmc import reference, scaled

import envs
from agents import SAC
from envs import dmc, playground
from envs.quiet import quietly
from experiments.evaluate import evaluate
from experiments.export import observations
from experiments.records.run_directory import RunDirectory
from experiments.running.config import compose_job
from experiments.running.saved_runs import load_run
from remac.policies.policy import save_policy
from remac.training.loop import TrainConfig, stack_members, train_population
from remac.types import Environment
from remac.validation import InvalidValueError

pytest.importorskip("mujoco_playground")


class Reach:
    """What an environment of Playground is, in pure JAX: observations by name, and a place drawn at the start."""

    action_size, dt = 2, 0.05

    def __init__(self, config, config_overrides=None):
        self.config = config
        self.mjx_model = type("Model", (), {"impl": type("Impl", (), {"value": config.impl})})

    def reset(self, rng):
        info = {"rng": rng, "goal": jax.random.uniform(rng, (2,))}
        zero = jnp.zeros(())
        return self._state(jnp.zeros((2,)), zero, zero, {"distance": zero}, info)

    def step(self, state, action):
        state.info["rng"] = jax.random.split(state.info["rng"])[0]  # in place, as many of Playground's do
        place = state.data["place"] + action
        distance = jnp.linalg.norm(place - state.info["goal"])
        state.metrics["distance"] = distance
        return self._state(place, -distance, (distance > 3).astype(float), state.metrics, state.info)

    def _state(self, place, reward, done, metrics, info):
        from mujoco_playground import State

        seen = {"state": place, "privileged_state": jnp.concatenate([place, info["goal"]]), "view": jnp.zeros((4, 4))}
        return State({"place": place}, seen, reward, done, metrics, info)


@pytest.fixture
def reach(monkeypatch, tmp_path):
    """Registers the task among those of robots, and a folder where the robots would be."""
    from ml_collections import config_dict
    from mujoco_playground import locomotion

    def config():
        values = {"impl": "warp", "episode_length": 12, "action_repeat": 1, "noise": {"level": 1.0}, "vision": False}
        return config_dict.create(**values)

    monkeypatch.setitem(locomotion._envs, "Reach", Reach)
    monkeypatch.setitem(locomotion._cfgs, "Reach", config)
    monkeypatch.setattr("mujoco_playground._src.mjx_env.MENAGERIE_PATH", tmp_path)
    monkeypatch.setattr(playground, "_robots_folder", lambda: tmp_path)


def test_the_tasks_are_playgrounds_and_robots_are_looked_for_where_it_does(monkeypatch):
    from mujoco_playground import dm_control_suite, locomotion, manipulation
    from mujoco_playground._src import mjx_env

    assert sorted(playground.DM_CONTROL_TASKS) == sorted(dm_control_suite.ALL_ENVS)
    assert sorted(playground.LOCOMOTION_TASKS) == sorted(locomotion.ALL_ENVS)
    assert sorted(playground.MANIPULATION_TASKS) == sorted(manipulation.ALL_ENVS)
    assert playground._robots_folder() == Path(mjx_env.MENAGERIE_PATH)
    monkeypatch.setattr(mjx_env, "_clone_with_progress", lambda *_: pytest.fail("it clones"))
    monkeypatch.setattr(playground, "_robots_folder", lambda: Path("/nowhere/robots"))
    for task in ("Go1Getup", "PandaPickCube"):
        with pytest.raises(InvalidValueError, match=rf"name=playground/{task}: .*looked for in /nowhere/robots; git"):
            envs.make(f"playground/{task}", num_envs=1)


@pytest.mark.usefixtures("reach")
def test_observations_by_name_time_limits_and_metrics():
    env = playground.make("Reach", num_envs=3)
    assert isinstance(env, Environment)
    assert (env.observation_size, env.episode_length, env.metric_names) == (2, 12, ("distance",))
    assert playground.make("Reach", num_envs=3, observation="privileged_state").observation_size == 4
    short = playground.make("Reach", num_envs=3, episode_length=3, observation="privileged_state")
    assert short.task.env.config.episode_length == 3
    state, take = short.reset(jax.random.key(0)), jax.jit(short.step)
    goals = state.observation[:, 2:]
    for step in range(1, 4):
        state = take(state, jnp.full((3, 2), 0.5))
        np.testing.assert_allclose(state.final_observation, np.c_[np.full((3, 2), 0.5 * step), goals])
        np.testing.assert_allclose(state.metrics["distance"], -state.reward)
        assert (state.truncation == (step == 3)).all() and not state.termination.any()
    assert (state.observation[:, :2] == 0).all() and not np.isclose(state.observation[:, 2:], goals).any()
    for _ in range(2):
        state = take(state, jnp.ones((3, 2)))
    state = take(state, jnp.full((3, 2), 5.0))  # beyond the task's own end, and at the time limit
    assert state.termination.all() and not state.truncation.any()


@pytest.mark.usefixtures("reach")
def test_critics_may_see_another_observation_which_evaluations_leave_out():
    env = playground.make("Reach", num_envs=3, critic_observation="privileged_state")
    assert (env.observation_size, env.policy_observation_size) == (2 + 4, 2)
    state = env.reset(jax.random.key(0))
    state = env.step(state, jnp.full((3, 2), 0.5))
    assert (state.final_observation[:, 4:] != 0).all(), "the goal, which the policy does not see"
    np.testing.assert_array_equal(state.final_observation, np.c_[np.full((3, 4), 0.5), state.final_observation[:, 4:]])
    evaluation = env.for_evaluation(3)
    assert (evaluation.observation_size, evaluation.policy_observation_size) == (2, None)
    assert evaluation == env.for_evaluation(3), "or its programs are compiled again"
    seen = evaluation.reset(jax.random.key(0)).observation
    np.testing.assert_array_equal(seen, env.reset(jax.random.key(0)).observation[:, :2])
    same = playground.make("Reach", num_envs=3, critic_observation="state")
    assert (same.observation_size, same.policy_observation_size) == (2, None)


@pytest.mark.usefixtures("reach")
def test_a_run_with_such_critics_is_evaluated_and_exported_by_what_its_policy_sees(monkeypatch, tmp_path):
    monkeypatch.setattr(playground, "TASKS", ("Reach",))
    job = compose_job(
        [
            "env=playground/Reach",
            "env.options.critic_observation=privileged_state",
            "agent=td3",
            "agent.hidden_sizes=[4]",
        ]
    )
    assert (job.agent.observation_size, job.agent.policy_observation_size) == (6, 2)
    RunDirectory(tmp_path, job.config).close()
    save_policy(job.agent.policy(jax.jit(job.agent.init)(jax.random.key(0))), tmp_path / "policy", env_steps=8)
    run = load_run(tmp_path)
    metrics, _ = evaluate(run, 4, 1, 0)
    assert metrics["eval/episode_length"] == 12 and np.isfinite(metrics["eval/return"])
    assert observations(run.env, run.policy).shape[1] == 2


@pytest.mark.usefixtures("reach")
def test_an_action_that_is_repeated_is_that_many_control_steps():
    once, many = (playground.make("Reach", num_envs=2, action_repeat=repeat) for repeat in (1, 4))
    assert (many.episode_length, many.action_repeat, many.dt) == (3, 4, 4 * once.dt)
    assert dataclasses.asdict(many.for_evaluation(5))["action_repeat"] == 4
    action, total = jnp.array([[0.1, 0.2], [3.0, 3.0]]), np.zeros(2)
    begun = state = once.reset(jax.random.key(0))
    for step in range(4):
        state = once.step(state, action)
        total += state.reward * np.array([1, step == 0])  # the second one is beyond its end after one control step
    after = many.step(many.reset(jax.random.key(0)), action)
    np.testing.assert_allclose(after.reward, total, rtol=1e-6)
    np.testing.assert_array_equal(after.termination, [False, True])
    np.testing.assert_allclose(after.final_observation[0], state.final_observation[0])
    np.testing.assert_allclose(after.final_observation[1], begun.observation[1] + 3.0)


@pytest.mark.usefixtures("reach")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"impl": "cuda"}, "impl=cuda: must be one of jax, warp"),
        ({"impl": "warp"}, "impl=warp: needs an NVIDIA GPU; must be jax"),
        ({"observation": "sate"}, "observation=sate: must be one of state, privileged_state, view"),
        ({"observation": "view"}, "observation=view: .* vectors"),
        ({"critic_observation": "sate"}, "critic_observation=sate: must be one of state, privileged_state, view"),
        ({"critic_observation": "view"}, "critic_observation=view: .* vectors"),
        ({"action_repeat": 5}, "action_repeat=5: must divide the time limit of 12 control steps"),
        ({"episode_length": 0}, "episode_length=0: must be an integer of at least 1"),
        ({"noise": {"levl": 1.0}}, "noise={'levl': 1.0}: playground/Reach does not take this"),
        ({"noize": 1}, "noize=1: playground/Reach has no such option; its options are action_repeat, .*noise"),
        ({"vision": True}, "vision=True: .* must be false"),
    ],
)
def test_bad_options_are_told_in_one_line(options, message):
    with pytest.raises(InvalidValueError, match=message) as error:
        playground.make("Reach", num_envs=1, **options)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("reach")
def test_options_reach_the_task():
    assert playground.make("Reach", num_envs=1, noise={"level": 0.5}).task.env.config.noise.level == 0.5


@pytest.mark.usefixtures("reach")
def test_chance_differs_where_starts_are_the_same():
    env = playground.make("Reach", num_envs=8)
    reset, step = jax.jit(env.reset, static_argnums=1), jax.jit(env.step)
    for group_size, num_starts in ((1, 8), (4, 2)):
        state = reset(jax.random.key(0), group_size)
        for _ in range(2):
            info = env.task.state(state.physics[0]).info
            assert len(np.unique(info["goal"], axis=0)) == num_starts and len(np.unique(info["rng"], axis=0)) == 8
            state = step(state, jnp.zeros((8, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ctrl_dt": 0.004}, "ctrl_dt=0.004: must be a multiple of sim_dt=0.01"),
        ({"ctrl_dt": 0.013}, "ctrl_dt=0.013: must be a multiple of sim_dt=0.01"),
        ({"ctrl_dt": None}, "ctrl_dt=None: must be a finite number"),
        ({"sim_dt": 0.0}, "sim_dt=0.0: must be a finite number"),
        ({"sim_dt": -0.01}, "sim_dt=-0.01: must be a finite number"),
    ],
)
def test_times_that_playground_would_round_are_refused(options, message):
    with pytest.raises(InvalidValueError, match=message):
        playground.make("CartpoleBalance", num_envs=1, **options)


def test_a_control_step_may_be_several_time_steps():
    assert playground.make("CartpoleBalance", num_envs=1, ctrl_dt=0.03, sim_dt=0.003).task.env.n_substeps == 10


def test_the_command_line_knows_the_tasks():
    job = compose_job(["env=playground/CartpoleBalance", "env.options.impl=jax"])
    assert job.env.name == "playground/CartpoleBalance" and job.env.episode_length == 1000


def test_building_is_quiet(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write MUJOCO_LOG.TXT
    envs.make("playground/CheetahRun", num_envs=1)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def camel(name):
    return "".join(word.title() for word in re.split("[-_]", name))


DM_CONTROL = {camel(name): name for name in dmc.TASKS} | {
    "BallInCup": "ball_in_cup-catch",
    "PointMass": "point_mass-easy",
}


def dm_control_from(task, start):
    """An environment of dm_control in the state of one of Playground's."""
    other = reference(DM_CONTROL[task])
    other.reset()
    other.physics.data.qpos[:], other.physics.data.qvel[:] = start.qpos, start.qvel
    other.physics.forward()
    return other


@pytest.mark.slow
@pytest.mark.parametrize("task", playground.DM_CONTROL_TASKS)
def test_steps_are_playgrounds_and_a_population_trains(task, capsys):
    """50 steps from its own start, beside dm_control's from the same; then two members over short episodes."""
    env = envs.make(f"playground/{task}", num_envs=2)
    state = jax.jit(env.reset)(jax.random.key(0))
    theirs = env.task.state([leaf[0] for leaf in state.physics[0]])
    others, apart = dm_control_from(task, theirs.data), []
    step, own_step = jax.jit(env.step), jax.jit(env.task.env.step)
    for number in range(50):
        action = jax.random.uniform(jax.random.key(number), (2, env.action_size), minval=-1.0)
        state = step(state, action)
        with quietly():
            theirs = own_step(theirs, action[0])
        others.step(scaled(others, np.float64(action[0])))
        apart.append(np.abs(others.physics.data.qpos - theirs.data.qpos).max())
        # Batches are rounded otherwise, and what is unstable makes more of it.
        tolerance = {"rtol": 1e-3, "atol": 1e-3}
        np.testing.assert_allclose(state.final_observation[0], theirs.obs, **tolerance)
        np.testing.assert_allclose(state.reward[0], theirs.reward, **tolerance)
        for name in env.metric_names:
            np.testing.assert_allclose(state.metrics[name][0], theirs.metrics[name], **tolerance, err_msg=name)
        assert not (state.termination | state.diverged | state.truncation).any()
    with capsys.disabled():
        told = ", ".join(f"{apart[steps - 1]:.1e} after {steps}" for steps in (1, 10, 50))
        print(f"\n{task} parts from {DM_CONTROL[task]} by {told} steps (positions)")
    short = dataclasses.replace(env, episode_length=5)
    agent = SAC.create(env.observation_size, env.action_size, batch_size=16, hidden_sizes=(8,))
    config = TrainConfig(total_env_steps=24, updates_per_round=1, prefill_env_steps=8, eval_every_env_steps=24)
    config = dataclasses.replace(config, num_eval_episodes=2, replay_capacity=32)
    result = train_population(stack_members([agent] * 2), short, config, jax.random.split(jax.random.key(0), 2))
    metrics = result.evaluations[-1].metrics
    assert np.isfinite(metrics["eval/return"]).all() and (metrics["eval/episode_length"] == 5).all()


@pytest.mark.slow
def test_warp_shares_a_workspace_and_nothing_else(monkeypatch):
    """On the CPU, which Warp can use as well: the same as the other implementation, in a batch and in a population."""
    monkeypatch.setattr(playground, "_has_gpu", lambda: True)
    states = {}
    for impl in playground.IMPLEMENTATIONS:
        env = playground.make("CartpoleBalance", num_envs=3, episode_length=2, impl=impl)
        assert any(env.task._layout[2]) == (impl == "warp")
        state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 2))
        step = jax.jit(jax.vmap(env.step))
        for number in range(5):
            state = step(state, jax.random.uniform(jax.random.key(number), (2, 3, 1), minval=-1.0))
        states[impl] = state
    assert (states["warp"].step_count == 1).all() and len(np.unique(states["warp"].observation[..., 0])) == 6
    for name in ("observation", "final_observation", "reward", "truncation", "episode_return"):
        one, other = (getattr(states[impl], name) for impl in playground.IMPLEMENTATIONS)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=name)
