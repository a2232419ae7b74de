"""The gymnasium suite against plain loops over the same environments, and what it does where they fail."""

import gc
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from PIL import Image
from slow import fast_are
from waiting import wait_until

import envs
from agents import SAC
from envs.gymnasium_simulators import Flat, is_registered_at_once
from envs.mujoco import make as make_mujoco
from envs.quiet import quiet_mujoco
from experiments import evaluate
from experiments.running.config import compose_job
from experiments.running.tables import announcement
from remac.training.loop import Checkpoint, TrainConfig, train
from remac.types import Environment
from remac.validation import InvalidValueError

WALK, ENDLESS = "gymnasium_tasks:Walk-v0", "gymnasium_tasks:tests/Endless-v0"
TESTS = Path(__file__).parent
both = pytest.mark.parametrize("vectorization", ["sync", "processes"])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """What is left behind would show."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def make(env_id=WALK, num_envs=3, **options):
    return envs.make(f"gymnasium/{env_id}", num_envs=num_envs, **options)


def actions_of(env, num_steps, *lead):
    """More than the range, which is clipped."""
    return np.random.default_rng(0).uniform(-1.2, 1.2, (num_steps, *lead, env.num_envs, env.action_size))


def rollout(env, state, actions):
    """Returns the states, copied, since those of a host suite may share arrays."""
    states = [state]
    for action in actions:
        states.append(env.step(states[-1], action))
    return states


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def flattened(env, observation):
    return gymnasium.spaces.flatten(env.observation_space, observation).astype(np.float32)


@pytest.mark.parametrize(
    ("env_id", "options", "num_steps", "vectorization"),
    [
        (WALK, {}, 25, "sync"),
        (WALK, {"event": "terminate"}, 10, "processes"),
        (WALK, {"event": "truncate"}, 10, "sync"),
        ("Pendulum-v1", {"episode_length": 20, "g": 3.0}, 50, "sync"),
        ("HalfCheetah-v5", {"episode_length": 12}, 30, "sync"),
        ("HalfCheetah-v5", {"episode_length": 12}, 30, "processes"),
    ],
)
def test_it_is_a_plain_loop(env_id, options, num_steps, vectorization):
    """The same seeds and actions: observations, rewards, ends and last observations, of every episode."""
    env = make(env_id, vectorization=vectorization, **options)
    assert isinstance(env, Environment) and env.repeats
    options = dict(options)
    options["max_episode_steps"] = options.pop("episode_length", None)
    with quiet_mujoco():
        plain = [gymnasium.make(env_id, disable_env_checker=True, **options) for _ in range(env.num_envs)]
    state = env.reset(jax.random.key(3))
    assert state.observation.shape == (3, env.observation_size) and state.observation.dtype == np.float32
    for row, one in enumerate(plain):
        np.testing.assert_array_equal(
            state.observation[row], flattened(one, one.reset(seed=int(state.physics.seed[row]))[0])
        )
    ended = 0
    for action in actions_of(env, num_steps):
        state = env.step(state, action)
        for row, one in enumerate(plain):
            low, high = one.action_space.low.astype(float), one.action_space.high.astype(float)
            own = (low + high) / 2 + (high - low) / 2 * np.clip(action[row].astype(np.float32), -1, 1).astype(float)
            observation, reward, terminated, truncated, _ = one.step(own.astype(np.float32))
            observation = flattened(one, observation)
            np.testing.assert_array_equal(state.final_observation[row], observation)
            assert state.reward[row] == np.float32(reward)
            assert (state.termination[row], state.truncation[row]) == (terminated, truncated)
            if terminated or truncated:
                ended += 1
                seed = int(state.physics.seed[row])
                observation = flattened(one, one.reset(seed=seed)[0])
            np.testing.assert_array_equal(state.observation[row], observation)
    assert ended >= 3
    env.close()


@pytest.mark.parametrize("vectorization", fast_are(1, ["sync", "processes"]))
def test_a_member_is_the_same_alone_and_a_run_the_same_twice(vectorization):
    env = make(vectorization=vectorization, num_processes=2 if vectorization == "processes" else None)
    keys, actions = jax.random.split(jax.random.key(0), 2), actions_of(env, 12, 2)
    together = rollout(env, env.reset(keys), actions)
    alone = rollout(env, env.reset(keys[1]), actions[:, 1])
    for whole, one in zip(together, alone, strict=True):
        assert_equal(jax.tree.map(lambda array: array[1], whole.replace(physics=None)), one.replace(physics=None))
    other = make()
    assert_equal(rollout(other, other.reset(keys), actions)[-1], together[-1])
    starts = np.concatenate([state.physics.seed.ravel() for state in (together[0], together[-1])])
    assert len(set(starts)) == starts.size and (starts >= 0).all() and (starts < 2**31).all()
    evaluation = env.for_evaluation(2).reset(keys)
    assert evaluation.observation.shape == (2, 2, 5)
    env.close()


def test_a_time_limit_is_counted_from_where_staggering_began():
    env = make(num_envs=20, stagger_first_episodes=True)
    state = env.reset(jax.random.key(0))
    begun = state.step_count.copy()
    assert begun.min() >= 0 and begun.max() < 10 and len(set(begun)) > 4
    for step in range(1, 11):
        state = env.step(state, np.zeros((20, 2)))
        np.testing.assert_array_equal(state.truncation, (begun + step) % 10 == 0)
        assert not state.termination.any()
    np.testing.assert_array_equal(env.for_evaluation(4).reset(jax.random.key(0)).step_count, np.zeros(4))


def test_where_both_end_it_is_a_termination_and_statistics_are_those_of_the_episode():
    env = make(event="both", at=4)
    states = rollout(env, env.reset(jax.random.key(0)), actions_of(env, 9))
    for step, state in enumerate(states[1:], 1):
        np.testing.assert_array_equal(state.termination, [step % 4 == 0] * 3)
        assert not state.truncation.any()
        np.testing.assert_array_equal(state.episode_length, [(step - 1) % 4 + 1] * 3)
    np.testing.assert_allclose(states[8].episode_return, sum(state.reward for state in states[5:9]), rtol=1e-6)


@both
@pytest.mark.parametrize("event", ["nan", "huge"])
def test_a_simulation_that_breaks_down_ends_its_episode(event, vectorization):
    env = make(event=event, vectorization=vectorization)
    before, after, following = rollout(env, env.reset(jax.random.key(0)), actions_of(env, 4))[2:]
    for name, expected in (("diverged", True), ("termination", True), ("truncation", False), ("reward", 0)):
        np.testing.assert_array_equal(getattr(after, name), [expected] * 3)
    np.testing.assert_array_equal(after.final_observation, before.observation)
    assert np.isfinite(after.observation).all() and not np.array_equal(after.observation, before.observation)
    assert not any(values.any() for values in after.metrics.values())
    assert not following.diverged.any() and (following.episode_length == 1).all()
    env.close()


def test_a_start_that_is_not_finite_is_drawn_again():
    state = make(event="bad start", num_envs=16).reset(jax.random.key(0))
    assert np.isfinite(state.observation).all()


@both
def test_an_action_of_no_axes_is_one_number(vectorization):
    env = make("gymnasium_tasks:OneNumber-v0", vectorization=vectorization)
    assert env.action_size == 1 and env.action_range.tolist() == [[-1.0], [3.0]]
    state = env.step(env.reset(jax.random.key(0)), np.array([[-1.0], [0.5], [1.0]]))
    np.testing.assert_array_equal(state.reward, [1.0, -2.0, -3.0])
    env.close()


def test_numbers_of_every_step_are_metrics():
    env = make(event="odd info")
    assert env.metric_names == ("far", "x")
    states = rollout(env, env.reset(jax.random.key(0)), actions_of(env, 9))
    np.testing.assert_array_equal(states[1].metrics["x"], states[1].final_observation[:, -2])
    np.testing.assert_array_equal(states[1].metrics["far"], abs(states[1].final_observation[:, -2]) > 1)
    assert not states[9].metrics["x"].any() and not states[9].metrics["far"].any(), "not finite, and missing"
    assert make("Pendulum-v1").metric_names == ()


def test_our_own_metric_is_no_environments():
    env = make(event="own metric")
    assert env.metric_names == ("far", "x") and not make().remarks
    assert env.remarks == (
        f'gymnasium/{WALK}: "diverged" of its info is not recorded, since env/diverged counts steps at which a '
        "simulation breaks down",
        *(
            f'gymnasium/{WALK}: "{name}" of its info is not recorded, its name must be of printable ASCII, without '
            "commas and quotes"
            for name in ("a,b", r"new\nline", r"\xe9")
        ),
    )


@both
@pytest.mark.parametrize("event", fast_are(1, ["exit", "raise"]))
def test_a_failure_inside_is_one_line_and_no_process_stays(event, vectorization):
    if event == "exit" and vectorization == "sync":
        pytest.skip("ends this process")
    env = make(event=event, at=12, episode_length=20, vectorization=vectorization)
    state = env.reset(jax.random.key(0))
    children = psutil.Process().children() if vectorization == "processes" else []
    with pytest.raises(envs.SimulatorError) as raised:
        rollout(env, state, actions_of(env, 12))
    line = str(raised.value)
    assert line.startswith(f"gymnasium/{WALK}: ") and len(line.splitlines()) == 1
    if event == "raise":
        assert "step raised ZeroDivisionError: the walk fell over (line " in line and "gymnasium_tasks.py" in line
    else:
        assert line.endswith("a worker process has ended (exit code 7)")
    assert not any(child.is_running() for child in children)
    assert env.reset(jax.random.key(0)).reward.shape == (3,), "it can begin again"
    env.close()


def test_no_process_outlives_its_environments():
    env = make(vectorization="processes", num_processes=2)
    env.reset(jax.random.key(0))
    workers = [
        child for child in psutil.Process().children() if "envs.gymnasium_simulators" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2 and all(os.getsid(worker.pid) != os.getsid(0) for worker in workers)
    del env
    gc.collect()
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGTERM, None))]
)
def test_no_process_outlives_the_program(how):
    program = (
        "import sys, envs, jax, psutil; e = envs.make('gymnasium/Pendulum-v1', num_envs=2, vectorization='processes'); "
        "e.reset(jax.random.key(0)); print(*(c.pid for c in psutil.Process().children()), flush=True); sys.stdin.read()"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # Shells turn SIGINT off for what runs behind them, and so would these tests be.
    command = ["env", "--default-signal=INT", sys.executable, "-c", program]
    process = subprocess.Popen(command, **pipes, text=True, cwd=TESTS.parent)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert workers
    if how is None:
        process.stdin.close()
    else:
        process.send_signal(how)
    assert process.wait() == (0 if how is None else -how)
    wait_until(lambda: not any(map(psutil.pid_exists, workers)))
    said = process.stderr.read()
    assert "Worker" not in said and "gymnasium_simulators" not in said


@both
def test_another_process_goes_on_bit_for_bit(vectorization):
    env = make(event="terminate", at=7, vectorization=vectorization)
    states = rollout(env, env.reset(jax.random.split(jax.random.key(0), 2)), actions_of(env, 20, 2))
    for step in (0, 3, 7, 12):
        other = make(event="terminate", at=7)
        again = other.restored(states[step])
        assert_equal(again, states[step])
        for action, expected in zip(actions_of(env, 20, 2)[step:], states[step + 1 :], strict=True):
            again = other.step(again, action)
            assert_equal(again.replace(physics=None), expected.replace(physics=None))
    assert_equal(env.step(env.restored(states[3]), actions_of(env, 20, 2)[3]).observation, states[4].observation)
    env.close()


@both
@pytest.mark.parametrize("event", ["noise", "terminate"])
def test_an_environment_that_saves_its_state_goes_on_from_it(event, vectorization):
    """Also where its episodes are no functions of their seeds: to their ends. What it would repeat is not kept."""
    saved = "gymnasium_tasks:Saved-v0"
    env = make(saved, event=event, at=7, vectorization=vectorization)
    assert env.saves and env.repeats == (event == "terminate")
    assert (
        not env.remarks if env.repeats else env.remarks[0].endswith("a run that is resumed goes on with its episodes")
    )
    actions = actions_of(env, 20, 2)
    states = rollout(env, env.reset(jax.random.split(jax.random.key(0), 2)), actions)
    assert states[0].physics.actions.size == 0
    for step in (0, 4, 7, 12):
        other = make(saved, event=event, at=7)
        again = other.restored(states[step])
        assert_equal(again, states[step])
        until = 20 if env.repeats else 10 * (step // 10 + 1) - 1
        assert until - step >= 2
        for action, expected in zip(actions[step:until], states[step + 1 : until + 1], strict=True):
            again = other.step(again, action)
            assert_equal(again, expected)
    env.close()


def test_a_state_that_brings_no_episode_back_is_not_used():
    env = make("gymnasium_tasks:Saved-v0", forgets=True)
    assert not env.saves and env.repeats and "set_state" in env.remarks[0]
    states = rollout(env, env.reset(jax.random.key(0)), actions_of(env, 4))
    other = make("gymnasium_tasks:Saved-v0", forgets=True)
    assert_equal(other.restored(states[3]), states[3])
    for which in ("structured", "ragged", "two"):
        odd = make("gymnasium_tasks:Otherwise-v0", which=which)
        assert not odd.saves and "set_state" in odd.remarks[0]
    assert not make("HalfCheetah-v5").saves and not make("HalfCheetah-v5").remarks, "whose set_state is another"


WALKS = "gymnasium_tasks:Walks-v0"


@pytest.mark.parametrize(
    ("mode", "event"),
    [("SAME_STEP", "wander"), ("DISABLED", "wander"), ("NEXT_STEP", None), ("DISABLED", "nan")],
)
def test_an_own_vector_entry_point_is_a_plain_loop(mode, event):
    """Whichever mode it resets in: true last observations, no step that is a reset, metrics of every step."""
    env = make(WALKS, vectorization="vector_entry_point", mode=mode, event=event)
    keys, actions = jax.random.split(jax.random.key(0), 2), actions_of(env, 25, 2)
    states = rollout(env, env.reset(keys), actions)
    plain = [gymnasium.make(WALKS, disable_env_checker=True, event=event) for _ in range(6)]
    for number, one in enumerate(plain):
        one.reset(seed=int(states[0].physics.seed[number // 3, 0]) + number % 3)  # as SyncVectorEnv seeds them
    ended = 0
    for before, state, action in zip(states, states[1:], actions, strict=False):
        for number, one in enumerate(plain):
            row = divmod(number, 3)
            observation, reward, terminated, truncated, info = one.step(Flat(one).actions(np.float32(action[row]))[0])
            if event == "nan" and not np.isfinite(one.unwrapped.position).all():
                assert state.diverged[row] and state.termination[row] and state.reward[row] == 0
                np.testing.assert_array_equal(state.final_observation[row], before.observation[row])
                terminated = True
            else:
                np.testing.assert_array_equal(state.final_observation[row], flattened(one, observation))
                assert (state.termination[row], state.truncation[row]) == (terminated, truncated)
                assert state.reward[row] == np.float32(reward) and state.metrics["x"][row] == np.float32(info["x"])
            if terminated or truncated:
                ended += 1
                observation, _ = one.reset()
                np.testing.assert_array_equal(state.observation[row], flattened(one, observation))
    assert ended >= 12
    assert_equal(rollout(env, env.reset(keys), actions)[-1], states[-1])
    alone = rollout(env, env.reset(keys[1]), actions[:, 1])[-1]
    assert_equal(alone.replace(physics=None), jax.tree.map(lambda array: array[1], states[-1].replace(physics=None)))


def test_what_a_vector_entry_point_cannot_do_is_said():
    env = make(WALKS, vectorization="vector_entry_point", mode="NEXT_STEP", event="wander")
    with pytest.raises(envs.SimulatorError, match="an episode ends before the others"):
        rollout(env, env.reset(jax.random.key(0)), actions_of(env, 25))
    broken = make(WALKS, vectorization="vector_entry_point", event="nan")
    with pytest.raises(envs.SimulatorError, match="an episode breaks down and goes on"):
        rollout(broken, broken.reset(jax.random.key(0)), actions_of(env, 25))
    with pytest.raises(InvalidValueError, match=r"episodes from each start=3: must be 1"):
        env.reset(jax.random.key(0), 3)
    assert env.repeats and env.remarks == (
        f"gymnasium/{WALKS}, by its vector entry point: a run that is resumed begins new episodes",
    )
    state = env.reset(jax.random.key(0))
    with pytest.warns(UserWarning, match="3 of 3 episodes could not be resumed"):
        again = make(WALKS, vectorization="vector_entry_point").restored(state)
    assert not np.isin(again.observation[:, -2:], state.observation[:, -2:]).any()
    silent = make("phys2d/Pendulum-v0", vectorization="vector_entry_point")
    with pytest.raises(envs.SimulatorError, match="does not say how it resets itself"):
        silent.reset(jax.random.key(0))
    by_text = make(WALKS, vectorization="vector_entry_point", mode="text")
    with pytest.raises(envs.SimulatorError, match="autoreset_mode in its metadata is 'SAME_STEP'; must be"):
        by_text.reset(jax.random.key(0))


def test_only_the_latest_state_is_stepped():
    env = make()
    state = env.reset(jax.random.key(0))
    env.step(state, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="steps only the state that it returned last"):
        env.step(state, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="expected actions of shape"):
        env.step(env.restored(state), np.zeros((3, 1)))


@pytest.mark.parametrize("event", ["noise", "terminate"])
def test_an_episode_that_cannot_be_repeated_begins_anew(event):
    """All of them where the environment is not a function of its seed; one whose past is another."""
    env = make(event=event, at=9)
    assert env.repeats == (event == "terminate") and bool(env.remarks) == (event == "noise")
    state = rollout(env, env.reset(jax.random.key(0)), actions_of(env, 4))[-1]
    if event == "terminate":
        state.physics.actions[1, 2] += 0.1
    with pytest.warns(UserWarning, match=f"{3 if event == 'noise' else 1} of 3 episodes could not be resumed"):
        again = env.restored(state)
    lost = np.array([event == "noise", True, event == "noise"])
    np.testing.assert_array_equal(again.step_count, np.where(lost, 0, 4))
    np.testing.assert_array_equal(again.physics.seed[lost], state.physics.next_seed[lost])
    np.testing.assert_array_equal((again.observation == state.observation).all(axis=1), ~lost)
    after = env.step(again, actions_of(env, 1)[0])
    np.testing.assert_array_equal(after.episode_length, np.where(lost, 1, 5))


def trained(event, saved, start=None, env_id=WALK):
    """Nothing is learned, and so nothing of it is compiled."""
    config = TrainConfig(
        total_env_steps=48, prefill_env_steps=48, eval_every_env_steps=24, num_eval_episodes=2,
        checkpoint_every_env_steps=20,
    )  # fmt: skip
    env = make(env_id, num_envs=4, event=event, episode_length=9)
    agent = SAC.create(env.observation_size, env.action_size, hidden_sizes=(4,), batch_size=4, num_steps=3)

    def callback(event):
        if isinstance(event, Checkpoint):
            saved.append({name: np.array(array) for name, array in event.snapshot.member(0).items()})

    return train(agent, env, config, jax.random.key(0), callback, start).evaluations


@pytest.fixture(scope="module")
def given_up():
    """A training whose episodes cannot be repeated, resumed after its first checkpoint, and its checkpoints."""
    saved = []
    whole = trained("noise", saved)
    with pytest.warns(UserWarning, match="4 of 4 episodes"):
        return whole, trained("noise", saved, saved[0]), saved


@pytest.mark.parametrize("how", fast_are(1, ["given up", "by its actions", "by its state"]))
def test_a_training_is_resumed(how, given_up):
    whole, resumed, _ = given_up
    if how != "given up":
        saved, env_id = [], WALK if how == "by its actions" else "gymnasium_tasks:Saved-v0"
        whole = trained(None, saved, env_id=env_id)
        resumed = trained(None, [], saved[0], env_id)
    assert [one.env_steps for one in resumed] == [24, 48]
    if how != "given up":
        for one, other in zip(whole[1:], resumed, strict=True):
            assert one.metrics.keys() == other.metrics.keys() and "env/far" in one.metrics
            assert_equal(one.metrics, other.metrics)


def test_no_span_goes_on_from_an_episode_that_a_resume_gave_up(given_up):
    *_, saved = given_up
    first, after = saved[0], saved[-1]
    names = ("observation", "next_observation", "discount", "truncation")
    rows = {name: after[f"state/replay/storage/{name}"].reshape(-1, 4, *first[f"state/replay/storage/{name}"].shape[1:])
            for name in names}  # fmt: skip
    jumps = (rows["next_observation"][:-1] != rows["observation"][1:]).any(axis=-1)
    ended = (rows["discount"] == 0) | rows["truncation"]
    resumed_after = int(first["state/replay/size"]) // 4 - 1
    assert jumps[resumed_after].all(), "new episodes have begun there"
    assert ended[:-1][jumps].all() and not ended[:-1][~jumps].any()


def test_half_cheetah_is_that_of_the_mujoco_suite():
    ours, theirs = make_mujoco("half_cheetah", num_envs=3), make("HalfCheetah-v5")
    state = theirs.reset(jax.random.key(0))
    starts = [one.unwrapped for one in theirs._simulators.envs]
    of_ours = ours.state_from(
        jax.random.key(0), np.array([one.data.qpos for one in starts]), np.array([one.data.qvel for one in starts])
    )
    for action in actions_of(theirs, 60).astype(np.float32):
        state, of_ours = theirs.step(state, action), ours.step(of_ours, action)
        np.testing.assert_array_equal(state.observation, of_ours.observation)
        np.testing.assert_allclose(state.reward, of_ours.reward, rtol=1e-5, atol=1e-6)


BAD = [
    (["env=gymnasium/Pendulm-v1"], ["=gymnasium/Pendulm-v1: is not registered", "gymnasium/Pendulum-v1", "<module>"]),
    (["env=gymnasium/Pendulum-v7"], ["env=gymnasium/Pendulum-v7", "gymnasium/Pendulum-v1"]),
    (["env=gymnasium/ALE/Nothing-v5"], ["env=gymnasium/ALE/Nothing-v5: is not registered"]),
    (["env=gymnasium/no_module:Walk-v0"], ["no_module:Walk-v0: needs a package", "no module no_module"]),
    (["env=gymnasium/gymnasium_tasks:Wlk-v0"], ["gymnasium/gymnasium_tasks:Walk-v0"]),
    (["env=gymnasium"], ["env=gymnasium: no such environment", "gymnasium/<id>"]),
    (["env=gymnasium/CartPole-v1"], ["env=gymnasium/CartPole-v1: has actions Discrete(2); must have continuous"]),
    (["env=gymnasium/Pendulum-v1", "+env.options.gravity=1"], ["env.options.gravity=1: Pendulum-v1 does not take"]),
    (["env=gymnasium/Pendulum-v1", "+env.options.episode_length=0"], ["env.options.episode_length=0", "at least 1"]),
    (["env=gymnasium/Pendulum-v1", "+env.options.vectorization=gpu"], ["vectorization=gpu", "sync, processes"]),
    (
        ["env=gymnasium/Pendulum-v1", "+env.options.vectorization=vector_entry_point"],
        ["vectorization=vector_entry_point: Pendulum-v1 has no vector entry point; must be one of sync, processes"],
    ),
    (
        [f"env=gymnasium/{WALKS}", "+env.options.vectorization=vector_entry_point",
         "env.options.stagger_first_episodes=true"],
        ["stagger_first_episodes=true: must be false with vectorization=vector_entry_point"],
    ),
    (
        [f"env=gymnasium/{WALKS}", "+env.options.vectorization=vector_entry_point", "num_eval_retries=2"],
        ["num_eval_retries=2: needs an environment whose starts can be chosen"],
    ),
    (
        [f"env=gymnasium/{WALKS}", "+env.options.vectorization=vector_entry_point", "agent=ordergrad"],
        ["agent=ordergrad: needs an environment whose starts can be chosen"],
    ),
    (["env=gymnasium/Pendulum-v1", "+env.options.num_processes=2"], ["num_processes=2: needs vectorization=processes"]),
    (["env=gymnasium/Pendulum-v1", "+env.options.max_episode_steps=2"], ["is set by episode_length"]),
    (["env=gymnasium/gymnasium_tasks:Spaces-v0"], ["env.options.which=null", "missing 1 required"]),
    ([f"env=gymnasium/{ENDLESS}"], ["env.options.episode_length=null: must be given", "has no time limit"]),
    *(
        (
            ["env=gymnasium/gymnasium_tasks:Spaces-v0", f"+env.options.which={which}"],
            [f"env=gymnasium/gymnasium_tasks:Spaces-v0: has {kind}", "must have"],
        )
        for which, kind in (
            *(("discrete", "actions"), ("unbounded", "actions"), ("integers", "actions")),
            *(("empty range", "actions"), ("sequence", "observations")),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line(call, tmp_path, arguments, expected):
    status, out, err = call(arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    assert all(part in err for part in expected), err
    assert not list(tmp_path.iterdir())


def test_an_environment_that_fails_at_once_is_one_line(call, tmp_path):
    status, out, err = call([f"env=gymnasium/{WALK}", "+env.options.event=raise"])
    assert (status, out, len(err.splitlines())) == (1, "", 1), err
    assert err.startswith(f"gymnasium/{WALK}: trying it raised ZeroDivisionError") and not list(tmp_path.iterdir())


CARELESS = "gymnasium_tasks:Careless-v0"


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ("action_space", "looking at it raised AttributeError: .* 'action_space'"),
        ("observation_space", "looking at it raised AttributeError: .* 'observation_space'"),
        ("metadata", "looking at it raised AttributeError: 'NoneType'"),
        ("render_fps", "looking at it raised TypeError: .* 'str'"),
        ("render_modes", "looking at it raised TypeError: 'NoneType'"),
        ("reset", r"reset returned array\(\[0.5\].*; must be an observation and its info"),
        ("reward", "step returned the reward None; must be a number"),
        ("rewards", r"step returned the reward array\(\[1., 1.\]\); must be a number"),
        ("start", "100 starts in a row are not finite, or beyond 1e[+]10"),
    ],
)
def test_what_an_environment_lacks_or_returns_instead_is_one_line(which, told):
    with pytest.raises(envs.SimulatorError, match=f"^gymnasium/{CARELESS}: {told}") as raised:
        make(CARELESS, which=which)
    assert "\n" not in str(raised.value)


@both
def test_a_reward_may_be_alone_in_an_array(vectorization):
    env = make(CARELESS, which="one reward", vectorization=vectorization)
    state = rollout(env, env.reset(jax.random.key(0)), actions_of(env, 2))[-1]
    assert (state.reward == 0.5).all() and not state.diverged.any()
    env.close()


def test_warnings_are_those_of_the_environments_that_are_used():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make(CARELESS, which="warning")
        with pytest.raises(InvalidValueError, match=r"name=gymnasium/Pendulum-v0: is not registered"):
            make("Pendulum-v0")
    with pytest.warns(UserWarning, match="it has been made"):
        env.reset(jax.random.key(0))


def test_a_colon_comes_after_a_module():
    with pytest.raises(InvalidValueError, match="name=gymnasium/:Walk-v0: must be <id>, or <module>:<id>"):
        envs.make("gymnasium/:Walk-v0", num_envs=1)


def test_an_id_that_workers_cannot_know_is_refused(monkeypatch):
    known = {"import_module": "gymnasium_tasks"}
    for name in ("test_gymnasium", "__main__"):
        env_class = type("Own", (type(gymnasium.make(WALK).unwrapped),), {"__module__": name})
        monkeypatch.setitem(gymnasium.registry, "Own-v0", gymnasium.envs.registration.EnvSpec("Own-v0", env_class))
        assert make("Own-v0", episode_length=5).episode_length == 5
        for options in ({}, known) if name == "__main__" else ({},):
            with pytest.raises(
                InvalidValueError, match=r"vectorization=processes: .* cannot know Own-v0.*import_module"
            ):
                make("Own-v0", episode_length=5, vectorization="processes", **options)
    for env_id, options in ((WALK, {}), ("Walk-v0", known), ("Pendulum-v1", {}), ("phys2d/Pendulum-v0", {})):
        make(env_id, vectorization="processes", **options)


def test_what_a_new_process_knows_is_asked_of_one():
    assert is_registered_at_once("Pendulum-v1") and not is_registered_at_once("Own-v0")


def test_workers_find_what_the_program_finds_and_nothing_of_ours_elsewhere(tmp_path):
    """The folder that a program with ``-c`` searches first has packages of our names, and a module that is needed."""
    for name in ("envs", "remac"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "mine.py").write_text(
        "from gymnasium_tasks import Walk, gymnasium\ngymnasium.register('Mine-v0', Walk)"
    )
    program = (
        "import experiments, envs, jax; "
        "e = envs.make('gymnasium/mine:Mine-v0', num_envs=1, episode_length=5, vectorization='processes'); "
        "print(e.reset(jax.random.key(0)).observation.shape); e.close()"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "(1, 5)\n"), done.stderr


def test_any_id_is_a_task_of_the_command_line(tmp_path):
    job = compose_job(
        [f"env=gymnasium/{ENDLESS}", "+env.options.episode_length=7", "+env.options.period=2", "agent=sac"]
    )
    assert (job.env.name, job.env.episode_length) == (f"gymnasium/{ENDLESS}", 7)
    assert job.config["env"]["task"] == ENDLESS and job.config["setting"] == "modern"
    assert (job.agent.critic_norm, job.config["num_envs"]) == ("batch", 16)
    protocol = compose_job(["env=gymnasium/Pendulum-v1", "setting=protocol"])
    assert (protocol.agent.activation, protocol.config["num_envs"]) == ("tanh", 128)
    imported = compose_job(["env=gymnasium/Walk-v0", "+env.options.import_module=gymnasium_tasks"])
    assert imported.env.episode_length == 10


def test_the_announcement_says_what_cannot_be_resumed(tmp_path):
    from experiments.running.planning import PlannedJob

    lines = {}
    for event in ("noise", "terminate"):
        job = compose_job([f"env=gymnasium/{WALK}", f"+env.options.event={event}", "+env.options.at=9"])
        lines[event] = announcement([PlannedJob(job, tmp_path, "", ())]).splitlines()
    assert len(lines["terminate"]) == 2 and len(lines["noise"]) == 3
    assert "resumed begins new episodes" in lines["noise"][2]


def test_a_film_is_drawn_while_the_episode_runs(tmp_path):
    env = make(num_envs=1)
    policy = jax.tree_util.Partial(lambda observation: jnp.zeros((*observation.shape[:-1], 2)))
    said = evaluate.render(tmp_path, env, policy, 300, 20)
    assert said.startswith(str(tmp_path / "video.gif")) and "0.50 s in real time" in said
    with Image.open(tmp_path / "video.gif") as film:
        assert film.size == (20, 10) and film.n_frames == 10
    with pytest.raises(RuntimeError, match="has no render mode rgb_array, which a film needs; it has none"):
        make("gymnasium_tasks:Spaces-v0", which="box").for_rendering()


def test_actions_are_within_their_range():
    """Of bounds whose centre and half are rounded, the ends would be just outside."""
    low, high = np.sort(np.random.default_rng(0).normal(size=(2, 1000)), axis=0)
    env = gymnasium.Env()
    env.action_space = gymnasium.spaces.Box(low, high, dtype=np.float64)
    env.observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    actions = Flat(env).actions(np.repeat(np.float32([[-1.0], [1.0]]), 1000, axis=1))
    assert all(env.action_space.contains(action) for action in actions)
    np.testing.assert_allclose(actions, [low, high], rtol=0, atol=1e-15)


def test_how_to_install_is_said_of_what_the_extra_brings(call, tmp_path, monkeypatch):
    folder = tmp_path.parent / f"{tmp_path.name}_modules"
    folder.mkdir()
    (folder / "needy.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    _, _, theirs = call(["env=gymnasium/needy:Walk-v0"])
    assert "(No module named 'no_such_library')" in theirs and "pip install" not in theirs
    (folder / "buggy.py").write_text("\nfrom gymnasium import NoSuchThing")
    _, _, buggy = call(["env=gymnasium/buggy:Walk-v0"])
    assert buggy.startswith(
        "gymnasium/buggy:Walk-v0: importing it raised ImportError: cannot import name 'NoSuchThing'"
    )
    assert f"(line 2 of {folder / 'buggy.py'})" in buggy and len(buggy.splitlines()) == 1
    _, _, taken = call(["env=gymnasium/envs.mine:Walk-v0"])
    assert "there is no module envs.mine: envs is a package of this library; call your own otherwise" in taken
    _, _, extra = call(["env=gymnasium/gymnasium_robotics:FetchReach-v4"])
    assert "gymnasium_robotics" in extra and "try pip install -c constraints.txt -e '.[gymnasium]'" in extra


@pytest.mark.parametrize("fps", [None, 0])
def test_an_environment_that_names_no_frame_rate_has_one(monkeypatch, fps):
    env_class = type(gymnasium.make(WALK).unwrapped)
    monkeypatch.setitem(env_class.metadata, "render_fps", fps)
    assert make(num_envs=1).dt == 1 / 30


@pytest.mark.slow
@both
def test_a_run_by_command_is_stopped_resumed_evaluated_and_filmed(tmp_path, vectorization):
    arguments = [
        "agent=sac", f"env=gymnasium/{WALK}", f"+env.options.vectorization={vectorization}", "total_env_steps=320",
        "prefill_env_steps=48", "num_envs=8", "eval_every_env_steps=64", "num_eval_episodes=2",
        "checkpoint.every_env_steps=80", "agent.hidden_sizes=[8]", "agent.batch_size=16",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}

    def command(name, *arguments):
        return subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", *arguments], capture_output=True, text=True, env=environment
        )

    def values(run):
        rows = [row.split(",") for row in (tmp_path / run / "metrics.csv").read_text().splitlines()]
        return [(row[0], row[1], *row[3:]) for row in rows if not row[3].startswith("time/")]

    done = command("train", *arguments, "hydra.run.dir=whole")
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *arguments, "total_env_steps=320", "hydra.run.dir=stopped"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    metrics = tmp_path / "stopped" / "metrics.csv"
    wait_until(lambda: metrics.is_file() and metrics.read_text().count("eval/return,") >= 2, process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    if process.returncode:  # it may have come to its end
        assert process.returncode == 130
        done = command("train", "resume=stopped")
        assert done.returncode == 0, done.stderr
    assert values("stopped") == values("whole")
    done = command("evaluate", "run=whole", "render=true", "num_episodes=2")
    assert done.returncode == 0 and "video.gif" in done.stdout, done.stderr


def test_episodes_without_an_end_are_not_logged():
    env = envs.make("gymnasium/Pendulum-v1", num_envs=2, episode_length=10_001)
    assert any("10,001 steps" in remark and "begins new episodes" in remark for remark in env.remarks)
    states = [env.reset(jax.random.key(0))]
    states.append(env.step(states[0], np.zeros((2, 1))))
    assert states[1].physics.actions.nbytes == 0
    with pytest.warns(UserWarning, match="2 of 2 episodes could not be resumed"):
        env.restored(states[0])
    env.close()
    assert envs.make("gymnasium/Pendulum-v1", num_envs=2, episode_length=10_000).remarks == ()


def test_arguments_of_an_environment_may_have_the_names_of_options(tmp_path):
    job = compose_job(["env=gymnasium/gymnasium_tasks:Tasked-v0", "+env.options.kwargs={task:3,num_envs:2}"])
    state = job.env.reset(jax.random.key(0))
    assert job.env.num_envs == 16 and (state.observation[:, 3:] == [3, 2]).all()
    for override, words in (
        ("+env.options.task=3", "env.options.task=3: is set by another key; .*'\\+env.options.kwargs={task:3}'"),
        ("+env.options.kwargs=3", "env.options.kwargs=3: must be a dictionary"),
    ):
        with pytest.raises(InvalidValueError, match=words):
            compose_job(["env=gymnasium/gymnasium_tasks:Tasked-v0", override])
