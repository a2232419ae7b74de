"""Invariants of the training loop, on a suite that lives on the device and one on the host."""

import collections
import copy
import dataclasses
import functools
import itertools
import pickle
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import fast_are

import envs
from agents import PPO, SAC, ReMAC
from remac.training import evaluation, loop
from remac.training import functions as training
from remac.training.devices import MemberSplit
from remac.training.evaluation import Evaluator, Outcomes, summarize
from remac.training.loop import (
    DivergedError,
    Evaluation,
    Failure,
    NonFiniteError,
    Progress,
    TrainConfig,
    stack_members,
    train,
    train_population,
)
from remac.training.pacing import Pacer
from remac.training.snapshot import MisfitError
from remac.validation import InvalidValueError

CONFIG = TrainConfig(
    total_env_steps=200,
    updates_per_round=4,
    prefill_env_steps=40,
    eval_every_env_steps=64,
    num_eval_episodes=3,
    replay_capacity=150,
)
SMALL = {"hidden_sizes": (8,), "batch_size": 16}
SUITES = {"device": ("probe/truncation", {}), "host": ("mujoco/hopper", {"episode_length": 20})}
both_suites = pytest.mark.parametrize("suite", SUITES)
device_first = pytest.mark.parametrize("suite", fast_are(1, ["device", "host"]))
host_first = pytest.mark.parametrize("suite", fast_are(1, ["host", "device"]))


def make_env(suite, num_envs=8):
    name, options = SUITES[suite]
    return envs.make(name, num_envs=num_envs, **options)


def make_agent(env, agent_class=ReMAC, **options):
    return agent_class.create(env.observation_size, env.action_size, **(SMALL | options))


def logged(result):
    return [(event.env_steps, event.gradient_steps, event.metrics) for event in result.evaluations]


def assert_bitwise_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@both_suites
def test_the_same_key_gives_bitwise_the_same_run_and_another_key_another(suite):
    env = make_env(suite)
    agent = make_agent(env)
    first, second = (train(agent, make_env(suite), CONFIG, jax.random.key(1)) for _ in range(2))
    assert logged(first) == logged(second)
    assert_bitwise_equal(first.agent_state, second.agent_state)
    other = train(agent, env, CONFIG, jax.random.key(2))
    assert other.evaluations[-1].metrics["critic/loss"] != first.evaluations[-1].metrics["critic/loss"]


@pytest.mark.slow
@both_suites
def test_a_member_is_bitwise_the_same_run_alone(suite):
    """Members of different retry counts, rates and epsilons; this holds on the CPU."""
    env = make_env(suite)
    agents = [
        make_agent(env, num_retries=1),
        make_agent(env, num_retries=4, learning_rate=1e-3, actor_adam_epsilon=0.1),
        make_agent(env, num_retries=8, gamma=0.9, tau=0.1, target_update_period=3),
    ]
    keys = jax.random.split(jax.random.key(0), 3)
    together = train_population(stack_members(agents), env, CONFIG, keys)
    for index, agent in enumerate(agents):
        alone = train(agent, env, CONFIG, keys[index])
        assert_bitwise_equal(loop.member(together.agent_state, index), alone.agent_state)
        for of_all, own in zip(together.evaluations, alone.evaluations, strict=True):
            # In a population, an episode return that one member lacks is NaN.
            values = {name: values[index] for name, values in of_all.metrics.items() if not np.isnan(values[index])}
            assert values == own.metrics


@pytest.mark.usefixtures("fresh_programs")
@pytest.mark.slow
@both_suites
def test_members_agree_on_an_accelerators_code_path_too(suite, monkeypatch):
    """There members are vmapped: equal to rounding for the first 64 gradient steps."""
    monkeypatch.setattr(training.jax, "default_backend", lambda: "gpu")
    env = make_env(suite)
    config = dataclasses.replace(CONFIG, total_env_steps=168, eval_every_env_steps=168)
    agents = [make_agent(env, num_retries=1), make_agent(env, num_retries=8, learning_rate=1e-3)]
    keys = jax.random.split(jax.random.key(0), 2)
    together = train_population(stack_members(agents), env, config, keys)
    assert together.evaluations[-1].gradient_steps == 64
    for index, agent in enumerate(agents):
        alone = train(agent, env, config, keys[index])
        for name in ("policy", "critics"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
                getattr(loop.member(together.agent_state, index), name),
                getattr(alone.agent_state, name),
            )


@pytest.mark.slow
@both_suites
def test_results_do_not_depend_on_how_the_work_is_cut(suite, monkeypatch):
    env = make_env(suite)
    usual = train(make_agent(env), env, CONFIG, jax.random.key(0))
    monkeypatch.setattr("remac.training.pacing.INTERVAL_SECONDS", 0.0)
    assert logged(train(make_agent(env), env, CONFIG, jax.random.key(0))) == logged(usual)


@host_first
def test_intervals_round_up_to_whole_rounds(suite):
    """8 environments: prefill 40 is 5 rounds, evaluations every 64, the end at 200."""
    events = []
    env = make_env(suite)
    train(make_agent(env), env, CONFIG, jax.random.key(0), events.append)
    evaluations = [event for event in events if isinstance(event, Evaluation)]
    assert [event.env_steps for event in evaluations] == [0, 64, 128, 192, 200]
    assert [event.gradient_steps for event in evaluations] == [0, 12, 44, 76, 80]
    odd = dataclasses.replace(CONFIG, total_env_steps=157, prefill_env_steps=41, eval_every_env_steps=50)
    result = train(make_agent(env), env, odd, jax.random.key(0))
    steps = [(event.env_steps, event.gradient_steps) for event in result.evaluations]
    assert steps == [(0, 0), (56, 4), (112, 32), (160, 56)]
    assert isinstance(events[0], Progress)


@pytest.fixture
def logged_compilations():
    """Of all threads."""
    jax.config.update("jax_log_compiles", True)
    yield
    jax.config.update("jax_log_compiles", False)


@pytest.mark.usefixtures("fresh_programs", "logged_compilations")
@device_first
def test_one_program_of_each_kind_however_long_the_training(suite, monkeypatch, caplog):
    """None is traced again, nor compiled again for arguments that lie otherwise on the devices."""
    counts = {"act": 0, "learn": 0}
    for name in counts:
        original = getattr(training, name)

        @functools.wraps(original)
        def counted(*args, original=original, name=name, **static):
            counts[name] += 1
            return original(*args, **static)

        monkeypatch.setattr(loop, name, counted)
    env = make_env(suite)
    config = dataclasses.replace(CONFIG, num_eval_episodes=env.num_envs)
    train(make_agent(env), env, dataclasses.replace(config, total_env_steps=800), jax.random.key(0))
    trains = re.compile(r"Finished XLA compilation of jit\((learn|rounds)\)")
    threads = sorted(record.threadName for record in caplog.records if trains.match(record.getMessage()))
    assert threads == ["MainThread", "compile"], "what trains is compiled beside the first evaluation"
    assert not any(thread.name == "compile" for thread in threading.enumerate())
    # learn: once for prefilling, once for training. On the device act is part of those two programs.
    assert counts == {"act": 2 if suite == "device" else 1, "learn": 2}
    compiled = collections.Counter(re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text))
    per_program = {"init_train_state": 1, "reset_metrics": 1} | (
        {"rounds": 2, "reset": 1, "begin": 1, "steps": 1} if suite == "device" else {"act": 1, "learn": 2, "_act": 1}
    )
    assert {name: compiled[name] for name in per_program} == per_program
    # Another training of the kind needs none of them again.
    caplog.clear()
    train(make_agent(make_env(suite), num_retries=2), make_env(suite), config, jax.random.key(1))
    assert "Finished XLA compilation" not in caplog.text


@host_first
def test_memory_does_not_grow_with_training(suite):
    live_bytes = []

    def callback(event):
        if isinstance(event, Evaluation):
            live_bytes.append(sum(array.nbytes for array in jax.live_arrays()))

    env = make_env(suite)
    config = dataclasses.replace(CONFIG, total_env_steps=1600)
    train(make_agent(env), env, config, jax.random.key(0), callback)
    assert len(live_bytes) > 20
    assert max(live_bytes[2:]) <= live_bytes[2] + 4096


@pytest.mark.usefixtures("fresh_programs")
@pytest.mark.slow
@pytest.mark.parametrize("suite", ["host", "device"])
def test_keys_are_used_once_and_tracers_do_not_leak(suite):
    env = make_env(suite)
    short = dataclasses.replace(CONFIG, total_env_steps=56)
    with jax.debug_key_reuse(True), jax.check_tracer_leaks(True):
        train(make_agent(env, SAC), env, short, jax.random.key(0))


def test_evaluation_does_not_touch_training_and_has_the_same_starts_for_all():
    env = make_env("host")
    often = dataclasses.replace(CONFIG, eval_every_env_steps=8)
    results = [train(make_agent(env), env, config, jax.random.key(0)) for config in (CONFIG, often)]
    assert_bitwise_equal(results[0].agent_state, results[1].agent_state)
    other_eval = train(make_agent(env), env, dataclasses.replace(CONFIG, eval_seed=5), jax.random.key(0))
    assert_bitwise_equal(results[0].agent_state, other_eval.agent_state)
    assert results[0].evaluations[-1].metrics["eval/return"] != other_eval.evaluations[-1].metrics["eval/return"]

    starts = []
    original = type(env).reset

    def recorded(self, key, *group_size):
        state = original(self, key, *group_size)
        starts.append(state.observation)
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(env), "reset", recorded)
        train(make_agent(env), env, CONFIG, jax.random.key(0))
        evaluations = [observation for observation in starts if observation.ndim == 4]
        assert not np.array_equal(evaluations[0], evaluations[1]), "each evaluation has new starts"
        agent = make_agent(env)
        policies = [agent.policy(jax.jit(agent.init)(jax.random.key(seed))) for seed in range(2)]
        evaluator = Evaluator(env.for_evaluation(4), MemberSplit(2))
        evaluator(stack_members(policies), jax.random.key(0), Pacer(lambda: None))
    assert starts[-1].shape[:2] == (2, 2)
    for observation in (evaluations[0], starts[-1]):
        np.testing.assert_array_equal(observation, np.broadcast_to(observation[:1, :1], observation.shape))


def test_the_replay_reads_right_across_a_reset():
    """Time limits keep discount 1 and the true next observation; terminations get 0; nothing leaks over a reset."""
    env = envs.make("mujoco/hopper", num_envs=2, episode_length=12)
    state = env.reset(jax.random.key(0)[None])
    rng = np.random.default_rng(0)
    seen = {"termination": 0, "truncation": 0}
    for _ in range(300):
        action = rng.uniform(-1, 1, (1, 2, 3)).astype(np.float32)
        after = env.step(state, action)
        new = training.make_steps(state, action, (), after)
        np.testing.assert_array_equal(new.transition.observation, state.observation)
        np.testing.assert_array_equal(new.transition.discount, 1.0 - after.termination)
        np.testing.assert_array_equal(new.transition.next_observation, after.final_observation)
        over = after.termination | after.truncation
        np.testing.assert_array_equal(new.episode_ended, over)
        np.testing.assert_array_equal((after.observation != after.final_observation).any(axis=-1), over)
        assert (after.episode_length <= 12).all()
        for name in seen:
            seen[name] += int(getattr(after, name).sum())
        state = after
    assert seen["truncation"] > 10
    healthy = envs.make("mujoco/hopper", num_envs=2, episode_length=1000)
    state = healthy.reset(jax.random.key(0)[None])
    for _ in range(100):
        state = healthy.step(state, rng.uniform(-1, 1, (1, 2, 3)))
        seen["termination"] += int(state.termination.sum())
    assert seen["termination"] > 0


@device_first
def test_the_replay_holds_what_happened(suite):
    """Read back after training: each row follows from the one before it in the same environment."""
    env = make_env(suite)
    agents = stack_members([make_agent(env)])
    running = loop._Loop(agents, env, CONFIG, 1, lambda event: None)
    running.begin(jax.random.key(0)[None])
    running.run()
    # Of 200 rows it holds the last 150, from place 50 on and round its end; from the seventh on they are whole steps.
    storage = jax.tree.map(
        lambda leaf: np.roll(leaf[0], -50, axis=0)[6:].reshape(18, 8, *leaf.shape[2:]), running.state.replay.storage
    )
    continues = (storage.next_observation[:-1] == storage.observation[1:]).all(axis=-1)
    assert (storage.discount[:-1][continues] == 1).all(), "the row after a termination is of a new episode"
    if suite == "host":
        ended = ~continues
        assert 4 < ended.sum() < 60
        assert {0.0, 1.0} >= set(storage.discount[:-1][ended])
    assert int(running.state.replay.size) == 150


class _Broken:
    """An environment whose evaluation returns are NaN."""

    def __init__(self, env, broken=False):
        self._env, self._broken = env, broken

    def __getattr__(self, name):
        return getattr(self._env, name)

    def for_evaluation(self, num_envs):
        return _Broken(self._env.for_evaluation(num_envs), broken=True)

    def step(self, state, action):
        after = self._env.step(state, action)
        return after.replace(episode_return=after.episode_return * np.float32("nan")) if self._broken else after


def test_a_non_finite_evaluation_stops_the_run():
    env = make_env("host")
    with pytest.raises(NonFiniteError, match=r"eval/return .* gradient step 0"):
        train(make_agent(env), _Broken(env), CONFIG, jax.random.key(0))


def test_staggered_first_episodes_do_not_count_as_whole():
    env = envs.make("probe/truncation", num_envs=64, stagger_first_episodes=True, episode_length=10)
    state = jax.jit(env.reset)(jax.random.key(0))
    assert len(set(np.asarray(state.step_count).tolist())) > 5

    @jax.jit
    def step(state):
        after = env.step(state, jnp.zeros((64, 1)))
        return after, training.make_steps(state, jnp.zeros((64, 1)), (), after)

    returns = []
    for _ in range(25):
        after, new = step(state)
        returns += np.asarray(new.episode_return)[np.asarray(new.episode_ended)].tolist()
        state = after
    assert set(returns) == {10.0} and len(returns) > 64


@host_first
@pytest.mark.parametrize(("options", "metric"), [({"learning_rate": 1e30}, None), ({"gamma": 1.0}, "critic/")])
def test_a_non_finite_metric_stops_the_run_and_is_named(suite, options, metric):
    env = make_env(suite)
    if metric == "critic/":
        # Rewards that overflow float32 once they are squared.
        original = env.step
        scale = 1e30
        env = _Scaled(env, scale, original)
    with pytest.raises(NonFiniteError) as error:
        train(make_agent(env, **options), env, CONFIG, jax.random.key(0))
    assert error.value.gradient_step > 0 and error.value.metric in str(error.value)
    if metric:
        assert error.value.metric.startswith(metric) and error.value.gradient_step == 1


@pytest.mark.slow
def test_a_failed_member_keeps_its_last_finite_state_and_the_others_go_on():
    env = make_env("device")
    events = []
    agents = [make_agent(env, learning_rate=1e30), make_agent(env), make_agent(env, learning_rate=1e30)]
    keys = jax.random.split(jax.random.key(0), 3)
    result = train_population(stack_members(agents), env, CONFIG, keys, events.append)
    assert sorted(result.failures) == [0, 2]
    failures = [event for event in events if isinstance(event, Failure)]
    assert {event.member: event.error for event in failures} == result.failures and len(failures) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.agent_state))
    assert result.agent_state.gradient_steps.tolist() == [0, 80, 0]
    with pytest.raises(NonFiniteError):
        train_population(stack_members(agents[:1] * 3), env, CONFIG, keys)


class _Scaled:
    """Multiplies the rewards of an environment."""

    def __init__(self, env, scale, step):
        self._env, self._scale, self._step = env, scale, step

    def __getattr__(self, name):
        return getattr(self._env, name)

    def step(self, state, action):
        after = self._step(state, action)
        return after.replace(reward=after.reward + after.reward.dtype.type(self._scale))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_env_steps": 0}, "total_env_steps=0"),
        ({"total_env_steps": 7}, "total_env_steps=7: must be at least num_envs=8"),
        ({"prefill_env_steps": 201}, "prefill_env_steps=201: .* total_env_steps=200"),
        ({"replay_capacity": 15}, "replay_capacity=15: must be at least agent.batch_size=16"),
        ({"replay_capacity": 7}, "replay_capacity=7: must be at least num_envs=8"),
        ({"eval_every_env_steps": 0}, "eval_every_env_steps=0"),
        ({"num_eval_episodes": -1}, "num_eval_episodes=-1"),
        ({"updates_per_round": 1.5}, "updates_per_round=1.5"),
        ({"eval_seed": -1}, "eval_seed=-1"),
        ({"replay_capacity": 20.0}, "replay_capacity=20.0: must be an integer"),
        ({"split_batch": "no"}, "split_batch=no: must be true or false"),
    ],
)
def test_bad_configurations_are_named(changes, message):
    env = make_env("device")
    with pytest.raises(InvalidValueError, match=message):
        train(make_agent(env), env, dataclasses.replace(CONFIG, **changes), jax.random.key(0))


@pytest.mark.parametrize(
    ("sizes", "num_agents", "num_keys", "num_starts", "message"),
    [
        ((1, 2), 1, 1, None, "action_size=2: must be 1, which is the environment's"),
        ((3, 1), 1, 1, None, "observation_size=3: must be 1, which is the environment's"),
        ((1, 1), 3, 2, None, "members=3: must be one for each of the 2 keys"),
        ((1, 1), None, 2, None, "members=none: must be one for each of the 2 keys"),
        ((1, 1), 2, 2, 1, "start=1 members: must be of as many as there are keys, 2"),
        ((1, 1), 1, 1, 0, "start=0 members: must be of as many as there are keys, 1"),
    ],
)
def test_members_that_do_not_fit_are_named(sizes, num_agents, num_keys, num_starts, message):
    env, agent = envs.make("probe/action", num_envs=8), PPO.create(*sizes, hidden_sizes=(8,))
    agents = agent if num_agents is None else stack_members([agent] * num_agents)
    config = dataclasses.replace(CONFIG, total_env_steps=2048, updates_per_round=1, prefill_env_steps=0)
    start = None if num_starts is None else [{}] * num_starts
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        train_population(agents, env, config, jax.random.split(jax.random.key(0), num_keys), start=start)


def test_float64_is_refused_before_anything_is_compiled():
    env = make_env("device")
    agent = make_agent(env)
    with jax.enable_x64(True), pytest.raises(InvalidValueError, match="jax_enable_x64=True: training"):
        train(agent, env, CONFIG, jax.random.key(0))


def test_a_replay_holds_the_longest_span():
    env = make_env("device", num_envs=4)
    agent = make_agent(env, num_steps=5, batch_size=4)
    config = dataclasses.replace(CONFIG, replay_capacity=19)
    with pytest.raises(
        InvalidValueError, match=r"replay_capacity=19: must be at least agent.num_steps=5 rounds of num_envs=20"
    ):
        train(agent, env, config, jax.random.key(0))


@pytest.mark.parametrize(
    "error",
    [
        InvalidValueError("num_envs", 3, "must be even"),
        NonFiniteError("critic/loss", 7),
        DivergedError(3, 200, 0.01),
        MisfitError("is not at the same round as the first member", 1),
    ],
)
def test_errors_pass_between_processes(error):
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error) and str(other) == str(error) and vars(other) == vars(error)


@host_first
def test_retries_of_an_evaluation_begin_from_the_same_start(suite, monkeypatch):
    env = envs.make({"device": "probe/action", "host": "mujoco/reacher"}[suite], num_envs=2, episode_length=3)
    seen = []
    summarize = evaluation.summarize
    monkeypatch.setattr(
        evaluation, "summarize", lambda episodes, count: seen.append(episodes) or summarize(episodes, count)
    )
    agent = make_agent(env)
    policy = jax.tree.map(lambda leaf: leaf[None], agent.policy(jax.jit(agent.init)(jax.random.key(0))))
    Evaluator(env.for_evaluation(24), MemberSplit(1), 3)(policy, jax.random.key(1), Pacer(lambda: None))
    by_mean, sampled = seen[0].episode_return[0].reshape(2, 8, 3)
    assert (by_mean == by_mean[:, :1]).all() and len(np.unique(by_mean)) > 1
    assert len(np.unique(sampled)) == 24


def test_k_above_the_episodes_is_left_out():
    zeros = np.zeros((1, 2, 3))
    metrics = summarize(Outcomes(zeros > 0, zeros, np.ones((1, 2, 3), int), zeros, {}))
    assert [name for name in metrics if "max_at" in name] == ["eval/max_at_1", "eval/max_at_2"]


@pytest.mark.parametrize("num_retries", [1, 3])
def test_summaries_of_episodes_equal_plain_averages(num_retries):
    returns = np.random.default_rng(0).normal(size=(2, 2, 6)).astype(np.float32)
    length = np.random.default_rng(1).integers(1, 9, (2, 2, 6)).astype(np.int32)
    entropy = np.random.default_rng(2).normal(size=(2, 2, 6)).astype(np.float32)
    metrics = summarize(Outcomes(np.zeros((2, 2, 6), bool), returns, length, entropy, {}), num_retries)
    for member in range(2):
        sampled = returns[member, 1]
        expected = {
            "eval/return": np.mean(returns[member, 0]),
            "eval/return_stochastic": np.mean(sampled),
            "eval/episode_length": np.mean(length[member, 0]),
            "eval/entropy": entropy[member, 1].sum() / length[member, 1].sum(),
        }
        for k in (1, 2, 4):
            expected[f"eval/max_at_{k}"] = np.mean([max(group) for group in itertools.combinations(sampled, k)])
        expected |= {"eval/median": np.median(sampled), "eval/cvar_25": np.mean(np.sort(sampled)[:2])}
        if num_retries == 3:
            tries = sampled.reshape(2, 3)
            pairs = [[max(pair) for pair in itertools.combinations(group, 2)] for group in tries]
            expected |= {
                "eval/per_start/max_at_1": tries.mean(),
                "eval/per_start/max_at_2": np.mean(pairs),
                "eval/per_start/median": np.median(tries, axis=1).mean(),
                "eval/per_start/cvar_25": tries.min(axis=1).mean(),
            }
        assert {name: values[member] for name, values in metrics.items()} == pytest.approx(expected, rel=1e-6)


class Enough(Exception):
    pass


@pytest.mark.usefixtures("logged_compilations")
@pytest.mark.parametrize("rollout", fast_are(1, [True, False]))
def test_what_trains_is_compiled_once_whatever_surrounds_it_and_nothing_goes_on_after_the_end(rollout, caplog):
    env = envs.make("mujoco/inverted_pendulum", num_envs=3)
    agent = PPO if rollout else SAC
    options = {"rollout_length": 4, "num_minibatches": 1} if rollout else {"batch_size": 4}
    agent = agent.create(env.observation_size, env.action_size, hidden_sizes=(4,), **options)
    start = {"updates_per_round": 1, "prefill_env_steps": 0} if rollout else {"prefill_env_steps": 12}
    config = dataclasses.replace(CONFIG, total_env_steps=24, replay_capacity=24, **start)
    with jax.default_matmul_precision("highest"):
        train(agent, env, config, jax.random.key(0))
    assert len(re.findall(r"Finished XLA compilation of jit\(learn\)", caplog.text)) == (1 if rollout else 2)

    def stop(event):
        raise Enough

    with pytest.raises(Enough):
        train(agent, env, config, jax.random.key(0), stop)
    assert not any(thread.name == "compile" for thread in threading.enumerate())


@pytest.mark.usefixtures("logged_compilations")
def test_one_that_never_trains_compiles_nothing_for_it(caplog):
    env = make_env("host")
    never = dataclasses.replace(CONFIG, total_env_steps=40, updates_per_round=3)
    train(make_agent(env), env, never, jax.random.key(0))
    assert "Finished XLA compilation of jit" in caplog.text
    assert not any(record.threadName == "compile" for record in caplog.records)


@pytest.mark.parametrize("make_key", [lambda: 3, lambda: jax.random.PRNGKey(0), lambda: jax.random.key(0)[None]])
def test_a_training_needs_one_key(make_key):
    env = make_env("device")
    with pytest.raises(InvalidValueError, match=r"key=.*: must be what jax.random.key\(seed\) makes"):
        train(make_agent(env), env, CONFIG, make_key())


def test_a_population_needs_keys():
    env = make_env("device")
    with pytest.raises(InvalidValueError, match=r"keys=key<fry>\[\]: must be what jax.random.split"):
        train_population(stack_members([make_agent(env)]), env, CONFIG, jax.random.key(0))


def test_members_of_other_programs_are_refused_by_what_differs():
    agents = [ReMAC.create(1, 1, num_samples=number, hidden_sizes=(8,) * number) for number in (4, 4, 8)]
    with pytest.raises(InvalidValueError, match="agents=differing in hidden_sizes, num_samples: must be of one class"):
        stack_members(agents)
    with pytest.raises(InvalidValueError, match="agents=differing in class: must be of one class"):
        stack_members([ReMAC.create(1, 1), SAC.create(1, 1)])
