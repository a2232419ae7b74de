"""The DeepMind Control suite against dm_control itself, and the invariants of what steps it as a batch."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import envs
from envs import dmc, mujoco_rendering
from envs.quiet import quiet_mujoco
from experiments import evaluate
from experiments.running.config import compose_job
from remac.training.loop import TrainConfig, stack_members, train_population
from remac.types import Environment
from remac.validation import InvalidValueError

pytest.importorskip("dm_control")
ROOT = Path(__file__).resolve().parent.parent
# A number of the model that is drawn at a start, RK4 and Euler, contact sensors, rows of unequal range.
FAST = ("cheetah-run", "finger-turn_hard", "acrobot-swingup", "point_mass-hard", "reacher-hard")
COSTLY = ("dog-", "quadruped-", "humanoid_CMU-", "stacker-", "manipulator-")


def tasks(fast=FAST):
    return [task if task in fast else pytest.param(task, marks=pytest.mark.slow) for task in dmc.TASKS]


@functools.lru_cache(maxsize=4)  # each holds tens of MiB for its threads
def build(task, num_envs=3, dtype=np.float64, **options):
    return dmc.make(task, num_envs=num_envs, dtype=dtype, **options)


def seeds_of(key, num_envs):
    """The environments' own keys, which are seeds of np.random.RandomState."""
    return np.asarray(jax.random.bits(key, (num_envs, 4), "uint32"))


def reference(task, seed=0):
    """An environment of dm_control as its users have it, but for a display, which one task asks for."""
    env = dmc._suite().load(*task.split("-"), task_kwargs={"random": np.random.RandomState(seed)})
    kind = type(env.physics)
    env.physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
    return env


def flat(time_step):
    return np.concatenate([np.ravel(part) for part in time_step.observation.values()])


def scaled(other, action):
    """Controls, rounded as ours: contacts make 1e-8 of a last bit within 200 steps, in dm_control beside itself too."""
    spec = other.action_spec()
    return (spec.maximum + spec.minimum) / 2 + (spec.maximum - spec.minimum) / 2 * action


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def rows(state, index):
    return jax.tree.map(lambda array: array[index], state)


def actions(env, seed=0, lead=()):
    rng = np.random.default_rng(seed)
    while True:
        yield rng.uniform(-1, 1, (*lead, env.num_envs, env.action_size))


def model_arrays(model):
    arrays = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    arrays |= {f"opt.{name}": getattr(model.opt, name) for name in dir(model.opt) if not name.startswith("_")}
    return {name: array.copy() for name, array in arrays.items() if isinstance(array, np.ndarray)}


def test_the_tasks_are_dm_controls():
    theirs = [f"{domain}-{task}" for domain, task in dmc._suite().ALL_TASKS if domain != "lqr"]
    assert sorted(dmc.TASKS) == sorted(theirs) and {f"dmc/{task}" for task in theirs} <= set(envs.names())


@pytest.mark.parametrize("task", tasks())
def test_trajectories_equal_dm_control(task):
    """From its own starts, with other environments stepped by the same worker in between."""
    env = build(task, num_threads=1)
    assert isinstance(env, Environment)
    others = [reference(task, seed) for seed in seeds_of(jax.random.key(3), 3)]
    state = env.reset(jax.random.key(3))
    np.testing.assert_array_equal(state.observation, [flat(other.reset()) for other in others])
    assert env.dt == others[0].control_timestep() and env.episode_length == others[0]._step_limit == 1000
    told = actions(env)
    for _ in range(200):
        action = next(told)
        state = env.step(state, action)
        steps = [other.step(scaled(other, one)) for other, one in zip(others, action, strict=True)]
        np.testing.assert_array_equal(state.final_observation, [flat(step) for step in steps])
        np.testing.assert_array_equal(state.reward, [step.reward for step in steps])
        assert not (state.termination | state.diverged).any()
    assert np.ptp(state.final_observation, axis=0).max() > 0, "they differ"


@pytest.mark.parametrize("task", tasks((*FAST, "swimmer-swimmer6", "fish-swim")))
def test_all_that_a_task_draws_is_carried(task):
    """Whatever of the model or the task differs between two starts and is not in ``Physics`` would be lost."""
    other, env, differs = reference(task), build(task, num_threads=1), set()

    def kept():
        own = {f"task.{name}": value for name, value in vars(other.task).items() if name != "_random"}
        return model_arrays(other.physics.model.ptr) | own

    other.reset()
    first = kept()
    for _ in range(2 if task.startswith(COSTLY) else 20):
        other.reset()
        differs |= {name for name, value in kept().items() if not np.array_equal(value, first[name])}
    assert differs == set(env.reset(jax.random.key(0)).physics.model)


def test_what_is_drawn_is_restored_and_survives_a_save(tmp_path):
    """Two workers whose targets differ; a state from the middle, through a file, goes on as the first did."""
    env = build("reacher-hard", num_threads=2)
    told, state = actions(env), env.reset(jax.random.key(0))
    assert not np.array_equal(*state.physics.model["geom_pos"][:2])
    for _ in range(5):
        state = env.step(state, next(told))
    action = next(told)
    expected = env.step(state, action)
    leaves, structure = jax.tree.flatten(state)
    np.savez(tmp_path / "state.npz", *leaves)
    env.step(env.reset(jax.random.key(1)), action)
    with np.load(tmp_path / "state.npz") as saved:
        again = jax.tree.unflatten(structure, [saved[name] for name in saved.files])
    assert_equal(build("reacher-hard", num_threads=1).step(again, action), expected)


@pytest.mark.parametrize("task", ["cheetah-run", "finger-turn_hard"])
def test_neither_batch_nor_threads_nor_what_ran_before_change_a_bit(task):
    whole, one = build(task, 5, num_threads=1), build(task, 1, num_threads=1)
    threads = dmc.make(task, num_envs=5, num_threads=3, dtype=np.float64, episode_length=7)
    short = dmc.make(task, num_envs=5, num_threads=1, dtype=np.float64, episode_length=7)
    state, other = (env.reset(jax.random.key(2)) for env in (threads, short))
    assert_equal(state, other)
    assert_equal(state, whole.reset(jax.random.key(2)).replace(step_count=state.step_count, key=state.key))
    alone, told = rows(state, slice(4, 5)), actions(threads)
    for step in range(9):  # past the time limit: the starts are drawn alike, too
        action = next(told)
        state, other = threads.step(state, action), short.step(other, action)
        assert_equal(state, other)
        if step < 6:
            alone = one.step(alone, action[4:])
            assert_equal(alone, rows(state, slice(4, 5)))


def test_populations_have_leading_axes():
    env = build("point_mass-hard", 2)
    keys = jax.random.split(jax.random.key(0), 3)
    state, told = env.reset(keys), actions(env, lead=(3,))
    action = next(told)
    after = env.step(state, action)
    assert after.reward.shape == (3, 2) and after.physics.model["wrap_prm"].shape[:2] == (3, 2)
    for member in range(3):
        alone = env.reset(keys[member])
        assert_equal(rows(state, member), alone)
        assert_equal(rows(after, member), env.step(alone, action[member]))
    with pytest.raises(ValueError, match=r"shape \(3, 2, 2\), got \(2, 2\)"):
        env.step(state, action[0])


def test_the_time_limit_truncates_and_the_next_episode_starts_anew():
    env = dmc.make("reacher-easy", num_envs=4, episode_length=3, dtype=np.float64)
    state, told, seen = env.reset(jax.random.key(0)), actions(env), []
    for step in range(1, 7):
        before, state = state, env.step(state, next(told))
        ended = step % 3 == 0
        assert (state.truncation == ended).all() and not state.termination.any()
        assert (state.step_count == (step - 1) % 3 + 1).all() and (state.episode_length == state.step_count).all()
        assert np.array_equal(state.observation, state.final_observation) != ended
        if ended:
            seen.append(state.observation)
            # A target is another one, and its own episode goes on as that of a start.
            assert not np.array_equal(before.physics.model["geom_pos"], state.physics.model["geom_pos"])
        else:
            np.testing.assert_array_equal(state.physics.model["geom_pos"], before.physics.model["geom_pos"])
    assert len({tuple(row) for starts in seen for row in starts}) == 8


def test_starts_after_the_first_are_spread_as_dm_controls():
    """The first are equal to them; those that auto-resets draw come from other seeds."""
    env = dmc.make("walker-walk", num_envs=300, episode_length=1, dtype=np.float64)
    state = env.step(env.reset(jax.random.key(0)), np.zeros((300, 6)))
    other = reference("walker-walk")
    theirs = np.stack([flat(other.reset()) for _ in range(300)])
    spread = theirs.std(axis=0)
    np.testing.assert_allclose(state.observation.mean(axis=0), theirs.mean(axis=0), atol=4 * spread.max() / 300**0.5)
    np.testing.assert_allclose(state.observation.std(axis=0), spread, atol=0.15)


def test_staggered_episodes_end_apart_but_not_those_of_an_evaluation():
    env = dmc.make("pendulum-swingup", num_envs=16, episode_length=40, stagger_first_episodes=True)
    counts = env.reset(jax.random.key(0)).step_count
    assert len(set(counts)) > 4 and counts.min() >= 0 and counts.max() < 40
    evaluated = env.for_evaluation(2)
    assert (evaluated.reset(jax.random.key(0)).step_count == 0).all() and evaluated.num_envs == 2
    assert env.num_envs == 16 and env.reset(jax.random.key(0)).step_count.any()


def test_an_action_that_is_repeated_is_that_many_control_steps():
    once, twice = build("cheetah-run", 2), build("cheetah-run", 2, action_repeat=2)
    assert (twice.episode_length, twice.dt) == (500, 2 * once.dt)
    state = repeated = once.reset(jax.random.key(0))
    told = actions(once)
    for _ in range(10):
        action = next(told)
        first = once.step(state, action)
        state, repeated = once.step(first, action), twice.step(repeated, action)
        np.testing.assert_array_equal(repeated.final_observation, state.final_observation)
        np.testing.assert_allclose(repeated.reward, first.reward + state.reward, rtol=1e-12)
    assert (repeated.step_count == 10).all() and (state.step_count == 20).all()


@pytest.mark.slow
def test_control_steps_are_what_a_training_counts():
    from agents import SAC

    env = dmc.make("pendulum-swingup", num_envs=2, action_repeat=2, episode_length=10)
    agents = stack_members([SAC.create(3, 1, hidden_sizes=(4,), batch_size=4)])
    config = TrainConfig(
        total_env_steps=40, prefill_env_steps=40, eval_every_env_steps=20, num_eval_episodes=1, replay_capacity=40
    )
    found = train_population(agents, env, config, jax.random.split(jax.random.key(0), 1), None)
    assert [event.env_steps for event in found.evaluations] == [0, 20, 40]
    assert found.evaluations[-1].metrics["eval/episode_length"] == [5]


def test_a_task_that_terminates_ends_the_episode(monkeypatch):
    env = dmc.make("cheetah-run", num_envs=2, num_threads=1, action_repeat=2)
    state = env.reset(jax.random.key(0))
    once = build("cheetah-run", 2, dtype=np.float32).step(state, np.ones((2, 6)))
    monkeypatch.setattr(env._worker(0).task, "get_termination", lambda physics: 0.0)
    state = env.step(state, np.ones((2, 6)))
    assert state.termination.all() and not state.truncation.any() and not state.diverged.any()
    np.testing.assert_array_equal(state.reward, once.reward)  # of the one control step that there was
    np.testing.assert_array_equal(state.final_observation, once.final_observation)
    assert not np.array_equal(state.observation, state.final_observation)


@pytest.mark.parametrize("bad", [np.nan, 1e12])
def test_a_simulation_that_breaks_down_is_a_termination(bad, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = build("cheetah-run", dtype=np.float32, num_threads=1)
    state = env.reset(jax.random.key(0))
    vector = state.physics.state.copy()
    vector[1, 3] = bad
    broken = state.replace(physics=state.physics._replace(state=vector))
    after, healthy = (env.step(one, np.zeros((3, 6))) for one in (broken, state))
    np.testing.assert_array_equal(after.diverged, [False, True, False])
    np.testing.assert_array_equal(after.termination, after.diverged)
    assert after.reward[1] == 0 and after.metrics["forward_velocity"][1] == 0
    np.testing.assert_array_equal(after.final_observation[1], state.observation[1])
    assert np.isfinite(after.observation).all() and np.isfinite(after.physics.state).all()
    for row in (0, 2):
        assert_equal(rows(after, row), rows(healthy, row))
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


def test_breakdowns_are_silent_whatever_else_listens_to_mujoco(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = build("cheetah-run", dtype=np.float32, num_threads=1)
    with quiet_mujoco():
        pass
    state = env.reset(jax.random.key(0))
    broken = state.replace(physics=state.physics._replace(state=np.full_like(state.physics.state, np.nan)))
    assert env.step(broken, np.zeros((3, 6))).diverged.all()
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


def test_huge_rewards_are_a_breakdown_and_unsound_starts_are_drawn_again(monkeypatch):
    env = dmc.make("pendulum-swingup", num_envs=3, num_threads=1)
    task = env._worker(0).task
    monkeypatch.setattr(task, "get_reward", lambda physics: 1e30)
    state = env.step(env.reset(jax.random.key(0)), np.zeros((3, 1)))
    assert state.diverged.all() and (state.reward == 0).all()
    kind, drawn = type(task), []

    def initialize_episode(physics):
        kind.initialize_episode(task, physics)
        drawn.append(len(drawn))
        if len(drawn) % 3 == 1:
            physics.data.qvel[0] = 1e12 if len(drawn) % 2 else np.nan

    monkeypatch.setattr(task, "initialize_episode", initialize_episode)
    state = env.reset(jax.random.key(0))
    assert (np.abs(state.observation) < 10).all() and len(drawn) > 3


@pytest.mark.parametrize("task", ["cheetah-run", "humanoid-walk"])
def test_what_is_measured_is_what_the_reward_is_of(task):
    env, other = build(task, num_envs=1), reference(task, seeds_of(jax.random.key(0), 1)[0])
    other.reset()
    state, told = env.reset(jax.random.key(0)), actions(env)
    assert set(state.metrics) == set(env.metric_names)
    for _ in range(5):
        action = next(told)
        state = env.step(state, action)
        other.step(scaled(other, action[0]))
    physics = other.physics
    expected = {
        "cheetah-run": lambda: {"forward_velocity": physics.speed()},
        "humanoid-walk": lambda: {"horizontal_speed": np.hypot(*physics.center_of_mass_velocity()[:2])},
    }[task]()
    assert {name: pytest.approx(value[0]) for name, value in state.metrics.items()} == expected


def test_every_metric_is_measured():
    for domain, (name, _) in dmc._MEASURED.items():
        task = next(task for task in dmc.TASKS if task.startswith(f"{domain}-"))
        if not task.startswith(COSTLY):
            assert build(task).metric_names == (name,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_repeat": 0}, "action_repeat=0: must be an integer of at least 1"),
        ({"action_repeat": 3}, "action_repeat=3: must divide the time limit of 1000 control steps"),
        ({"episode_length": 0}, "episode_length=0"),
        ({"dtype": "float16"}, "dtype=float16: must be float32 or float64"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"stagger_first_episodes": "yes"}, "stagger_first_episodes=yes: must be true or false"),
        ({"frame_skip": 2}, "frame_skip=2: no such option; there are action_repeat, episode_length"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InvalidValueError) as error:
        envs.make("dmc/cheetah-run", num_envs=1, **options)
    assert str(error.value).startswith(message)


def test_tasks_are_known_to_the_command_line_without_files(call):
    job = compose_job(["env=dmc/walker-walk", "agent=sac", "env.options.action_repeat=2"])
    assert (job.env.name, job.env.num_envs, job.env.action_repeat) == ("dmc/walker-walk", 16, 2)
    assert (job.config["setting"], job.config["updates_per_round"]) == ("modern", 32)
    status, _, err = call(["env=dmc/walker-fly"])
    assert (
        status == 2
        and "dmc/walker-walk" in err
        and "experiments.suites lists all" in err
        and len(err.splitlines()) == 1
    )


def test_without_the_package_one_line_says_how_to_install_it(call, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dm_control" else found(name))
    status, out, err = call(["env=dmc/cheetah-run", "num_envs=7"])
    assert (status, out, len(err.splitlines())) == (2, "", 1) and not list(tmp_path.iterdir())
    assert err.startswith("env=dmc/cheetah-run: needs the package dm_control")
    assert err.strip().endswith("pip install -c constraints.txt -e '.[dmc]'")


def test_nothing_is_loaded_or_said_before_a_task_is_used(tmp_path):
    """Nor is a display looked for; and the variable that says how is as it was."""
    program = (
        "import os, sys, jax, numpy as np, envs; envs.names(); assert 'dm_control' not in sys.modules\n"
        "env = envs.make('dmc/pendulum-swingup', num_envs=2); state = env.reset(jax.random.key(0))\n"
        "env.step(state, np.zeros((2, 1))); print(os.environ.get('MUJOCO_GL'))\n"
        "print([name for name in sys.modules if name.startswith('OpenGL') or name.endswith('_renderer')])"
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    where = {"cwd": tmp_path, "env": clean | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"}}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, **where)
    assert (found.stdout, found.stderr) == ("None\n[]\n", "") and not list(tmp_path.iterdir())


def test_a_machine_that_cannot_render_says_why(monkeypatch):
    def fail(name, *arguments):
        raise ImportError("no libEGL")

    env = dmc.make("cheetah-run", num_envs=1)
    monkeypatch.setattr(mujoco_rendering.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match=r"cannot render .*no libEGL") as error:
        env.render(env.reset(jax.random.key(0)))
    assert "\n" not in str(error.value)


def test_films_show_what_moves(tmp_path, monkeypatch):
    env = build("reacher-easy", num_envs=1)
    state = env.reset(jax.random.key(0)[None])
    try:
        first = env.render(state, (0, 0), 64, 48)
    except RuntimeError as error:
        pytest.skip(str(error))
    assert first.shape == (48, 64, 3) and first.dtype == np.uint8 and np.ptp(first) > 50
    elsewhere = env.render(env.reset(jax.random.key(1)[None]), (0, 0), 64, 48)
    assert not np.array_equal(first, elsewhere)
    np.testing.assert_array_equal(env.render(state, (0, 0), 64, 48), first)
    monkeypatch.setattr(evaluate, "_states", lambda env, policy, num_steps: [state] * num_steps)
    assert "video.gif (0.40 s in real time" in evaluate.render(tmp_path, env, None, 20, 32)
