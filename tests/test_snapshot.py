"""Trainings taken apart and continued: bitwise what they would have been, on both kinds of suites."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import envs
from agents import SAC, ReMAC
from remac.training.loop import Checkpoint, Evaluation, Progress, TrainConfig, stack_members, train, train_population
from remac.training.snapshot import MisfitError

CONFIG = TrainConfig(
    total_env_steps=160,
    updates_per_round=2,
    prefill_env_steps=24,
    eval_every_env_steps=64,
    num_eval_episodes=2,
    replay_capacity=100,
    checkpoint_every_env_steps=40,
)
SUITES = {"device": ("probe/truncation", {}), "host": ("mujoco/hopper", {"episode_length": 20})}


def make_env(suite):
    name, options = SUITES[suite]
    return envs.make(name, num_envs=8, stagger_first_episodes=True, **options)


def make_agent(env, agent_class=ReMAC, **options):
    return agent_class.create(env.observation_size, env.action_size, hidden_sizes=(8,), batch_size=8, **options)


class Saved:
    """Keeps the arrays of every member at every event that offers them."""

    def __init__(self, num_members=1, replay=True):
        self.num_members, self.replay = num_members, replay
        self.at_checkpoint, self.at_progress = {}, {}

    def __call__(self, event):
        if isinstance(event, Checkpoint | Progress):
            members = [event.snapshot.member(index, replay=self.replay) for index in range(self.num_members)]
            copies = [{name: np.array(array) for name, array in arrays.items()} for arrays in members]
            place = self.at_checkpoint if isinstance(event, Checkpoint) else self.at_progress
            place.setdefault((event.env_steps, getattr(event, "evaluating", False)), copies)


def rows(result):
    return [(event.env_steps, event.gradient_steps, event.metrics) for event in result.evaluations]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def trained():
    """Agent, result and what was saved of a training on the device, with and without its transitions."""
    env = make_env("device")
    agent, saved, without = make_agent(env, SAC), Saved(), Saved(replay=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("remac.training.pacing.INTERVAL_SECONDS", 0.0)  # a tick after every round and evaluation step
        whole = train(agent, env, CONFIG, jax.random.key(1), lambda event: (saved(event), without(event)))
    return agent, whole, saved, without


@pytest.mark.parametrize("suite", ["device", pytest.param("host", marks=pytest.mark.slow)])
def test_a_continued_training_is_bitwise_the_one_never_stopped(suite, trained, monkeypatch):
    """From a checkpoint, and from where a signal may come: within evaluations, prefill and training."""
    agent, whole, saved, _ = trained
    if suite == "host":
        monkeypatch.setattr("remac.training.pacing.INTERVAL_SECONDS", 0.0)
        env = make_env(suite)
        agent, saved = make_agent(env, SAC), Saved()
        whole = train(agent, env, CONFIG, jax.random.key(1), saved)
    assert [env_steps for env_steps, _ in saved.at_checkpoint] == [40, 80, 120]
    assert saved.at_checkpoint[40, False][0]["state/replay/storage/reward"].shape == (40,), "only rows in use"
    places = [saved.at_progress[place] for place in ((16, False), (64, True), (160, True))]
    env = make_env(suite)  # another one, which knows nothing of the first training
    for (arrays,) in (saved.at_checkpoint[120, False], *places):
        again = train(agent, env, CONFIG, jax.random.key(99), start=arrays)
        assert_equal(rows(again), rows(whole)[-len(again.evaluations) :])
        assert again.evaluations[0].env_steps == {2: 64, 8: 64, 15: 128, 20: 160}[int(arrays["rounds_done"])]
        assert_equal(again.agent_state, whole.agent_state)


@pytest.mark.slow
def test_members_continue_together_alone_and_in_another_company():
    env = make_env("host")
    agents = [make_agent(env, num_retries=count, learning_rate=rate) for count, rate in ((1, 1e-3), (8, 1e-4))]
    keys, saved = jax.random.split(jax.random.key(0), 2), Saved(2)
    whole = train_population(stack_members(agents), env, CONFIG, keys, saved)
    members = saved.at_checkpoint[80, False]
    again = train_population(stack_members(agents), env, CONFIG, keys, start=members)
    assert_equal(again.agent_state, whole.agent_state)
    swapped = train_population(stack_members(agents[::-1]), env, CONFIG, keys, start=members[::-1])
    alone = train(agents[1], env, CONFIG, keys[1], start=members[1])
    for other in (jax.tree.map(lambda leaf: leaf[0], swapped.agent_state), alone.agent_state):
        assert_equal(other, jax.tree.map(lambda leaf: leaf[1], whole.agent_state))


def test_without_the_transitions_the_replay_is_filled_again_first(trained):
    env, second = make_env("device"), Saved()
    agent, _, _, without = trained
    (arrays,) = without.at_checkpoint[80, False]
    assert not any("storage" in name for name in arrays)
    events = []

    def callback(event):
        events.append(event)
        if isinstance(event, Checkpoint):
            second(event)

    result = train(agent, env, CONFIG, jax.random.key(1), callback, start=arrays)
    assert [event.env_steps for event in events if isinstance(event, Evaluation)] == [128, 160]
    told = [(event.env_steps, event.gradient_steps) for event in events if isinstance(event, Progress)]
    assert told == sorted(told) and told[0][0] == 80
    assert np.isfinite(result.evaluations[-1].metrics["critic/loss"])
    # 24 steps that do not count, and the 40 up to the next checkpoint.
    assert second.at_checkpoint[120, False][0]["state/replay/size"] == 24 + 40


@pytest.mark.parametrize("position", [0, 16])
def test_a_full_replay_goes_on_in_a_larger_one_from_its_oldest_row(trained, position):
    """Rows are numbered by age: after the resume the newest is the last in use, and no row is one never made."""
    env = make_env("device")
    agent, _, saved, _ = trained
    (arrays,) = saved.at_checkpoint[40, False]  # its 40 rows as if they were all that the ring has
    ages = np.roll(np.arange(40, dtype=np.float32) + 1, position)
    turned = {"state/replay/storage/reward": ages, "state/replay/position": np.int32(position)}
    seen = []

    def callback(event):
        if isinstance(event, Progress) and event.snapshot is not None and not seen:
            seen.append({name: np.array(array) for name, array in event.snapshot.member(0).items()})

    train(agent, env, CONFIG, jax.random.key(1), callback, start=arrays | turned)
    (first,) = seen
    assert (first["state/replay/size"], first["state/replay/position"]) == (40, 40)
    np.testing.assert_array_equal(first["state/replay/storage/reward"], np.arange(40) + 1)


def test_arrays_of_another_training_are_refused(trained):
    env = make_env("device")
    agent, _, saved, _ = trained
    (good,) = saved.at_checkpoint[40, False]
    size = good["state/replay/size"]

    def starting(*members):
        agents = stack_members([agent] * len(members))
        train_population(agents, env, CONFIG, jax.random.split(jax.random.key(1), len(members)), start=members)

    for change, message in (
        ({"state/key": good["state/key"][:1]}, r"state/key: is uint32\[1\] and must be uint32\[2\]"),
        ({"env_state/reward": good["env_state/reward"].astype(float)}, "env_state/reward: is float64"),
        ({"state/replay/storage/action": np.zeros((101, 1), np.float32)}, "storage/action: is float32"),
        ({"state/agent/new": np.zeros(3)}, "state/agent/new: this version has no such array"),
        ({"state/key": None}, "state/key: is missing"),
    ):
        arrays = {name: array for name, array in (good | change).items() if array is not None}
        with pytest.raises(MisfitError, match=message) as refused:
            starting(arrays)
        assert refused.value.member == 0
    for change, message in (
        ({"rounds_done": np.asarray(1)}, "not at the same round"),
        ({"state/replay/size": size - 1}, "state/replay/size: is not the same for all members"),
    ):
        with pytest.raises(MisfitError, match=message) as refused:
            starting(good, good | change)
        assert refused.value.member == 1


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from remac.training.devices import MemberSplit
from remac.training.snapshot import _to_host

for num_members in (2, 3, 5, 8):
    rows = np.arange(num_members * 6.0).reshape(num_members, 3, 2)
    keys = jax.random.split(jax.random.key(0), num_members)
    split = MemberSplit(num_members)
    for index in range(num_members):
        np.testing.assert_array_equal(_to_host(split.place(rows), index), rows[index])
        np.testing.assert_array_equal(_to_host(split.place(keys), index), jax.random.key_data(keys)[index])
"""


def test_members_are_read_from_the_device_that_holds_them():
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
