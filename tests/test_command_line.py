"""Bad input: status 2, one line on standard error that says what and what instead, and no trace left behind."""

import importlib.util
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from slow import fast_are
from waiting import LIBRARIES, end, has_loaded, wait_until

from agents import AGENTS
from experiments import train
from experiments.running import config
from experiments.running.config import CONFIG_DIRECTORY, register_schemas
from experiments.running.hydra_launcher import register_launcher
from experiments.running.planning import Outcome
from remac.training.loop import NonFiniteError

QUICK = (
    "env=probe/one_step",
    "total_env_steps=256",
    "prefill_env_steps=64",
    "eval_every_env_steps=128",
    "num_eval_episodes=2",
    "num_envs=8",
    "agent.hidden_sizes=[8]",
    "agent.batch_size=8",
)

# Arguments, and what the line must contain.
BAD = [
    (["logger.mode=offline"], ["logger.mode=offline", "add logger=wandb"]),
    (["logger=wandb", "logger.tags=[a,???]"], ["logger.tags[1]=???", "must be given"]),
    # Names: the line lists what exists.
    (["agent=a2c"], ["agent=a2c", "remac", "sac"]),
    (["env=mujoco/half_cheeta"], ["env=mujoco/half_cheeta", "mujoco/half_cheetah", "experiments.suites lists all"]),
    (["env=brax/hopper", "env.options.backend=bullet"], ["env.options.backend=bullet", "generalized", "mjx"]),
    (["agent=sac", "agent.temperature=hot"], ["agent.temperature=hot", "auto", "fixed:"]),
    (["+env.tuned.modern.remac.training=abc"], ["env.tuned.modern.remac.training=abc", "must have keys"]),
    (["agent=ppo", "updates_per_round=2"], ["updates_per_round=2", "must be 1"]),
    # Keys: the line lists the keys that exist there.
    (
        ["learning_rate=1"],
        ["learning_rate=1", "no such key; did you mean agent.learning_rate? there are", "total_env_steps"],
    ),
    (["agent.lr=1"], ["agent.lr=1", "no such key", "learning_rate"]),
    (["hydra/launcher=populaton"], ["hydra/launcher=populaton: no such choice", "basic", "population", "[launchers]"]),
    (["agent=sac", "agent.num_retries=4"], ["agent.num_retries=4", "no such key", "temperature"]),
    (["+env.tuned.modern.remac.lr=1"], ["env.tuned.modern.remac.lr=1", "no such key", "learning_rate"]),
    (["setting=paper"], ["setting=paper", "protocol, modern"]),
    (["+env.options.num_envs=4"], ["env.options.num_envs=4", "another key"]),
    (
        ["env=brax/hopper", "+env.options.terminate_when_unhealthy=perhaps"],
        ["terminate_when_unhealthy=perhaps", "true"],
    ),
    (["agent.actor_adam_epsilon=1e-50"], ["agent.actor_adam_epsilon=1e-50", "(0"]),
    (["env.options.reset_noise_scale=0.05"], ["no such key", "+env.options.reset_noise_scale=0.05"]),
    (["seed=1,2"], ["seed=1,2", "-m"]),
    (["-m", "hydra/sweeper=optuna"], ["hydra/sweeper=optuna", "agent.learning_rate=interval"]),
    (["hydra.run.dir=/dev/null/run"], ["hydra.run.dir=/dev/null/run", "cannot be made in /dev/null"]),
    # Types.
    (["seed=abc"], ["seed=abc: must be an integer"]),
    (["checkpoint.every_env_steps=null"], ["checkpoint.every_env_steps=null: must be an integer"]),
    (["checkpoint=3"], ["checkpoint=3", "key by key", "keep_best"]),
    (["env.tuned.modern.all.gamma=x"], ["env.tuned.modern.all.gamma=x", "must be a finite number"]),
    (["env.tuned.modern.training.num_envs=x"], ["env.tuned.modern.training.num_envs=x", "must be an integer"]),
    (["agent.objective=null"], ["agent.objective=null", "preset"]),
    # Ranges.
    (["agent.num_retries=17"], ["agent.num_retries=17", "num_samples=16"]),
    (["prefill_env_steps=100001"], ["prefill_env_steps=100001", "total_env_steps=100000"]),
    (["total_env_steps=1000"], ["prefill_env_steps=1000", "must leave a round", "total_env_steps=1000"]),
    (["total_env_steps=1005"], ["prefill_env_steps=1000", "16 env steps", "total_env_steps=1005"]),
    (["replay_capacity=255"], ["replay_capacity=255", "agent.batch_size=256"]),
    (["agent.learning_rate=nan"], ["agent.learning_rate=nan"]),
    (["agent.gamma=1.01"], ["agent.gamma=1.01", "[0, 1]"]),
    (["agent.hidden_sizes=[]"], ["agent.hidden_sizes", "at least one"]),
    (["agent=sac", "agent.temperature=fixed:-1"], ["agent.temperature=fixed:-1"]),
    (["+env.options.episode_length=0"], ["env.options.episode_length=0"]),
    (["total_env_steps=100000000000", "replay_capacity=100000000000"], ["replay_capacity=100000000000", "bytes"]),
    # Syntax.
    (["seed"], ["seed"]),
    (["--sed", "5"], ["--sed", "--multirun"]),
    (["agent.learning_rate=${nothing}"], ["agent.learning_rate"]),
    # Sweeps: before the first job.
    (["-m", "seed=1,x"], ["seed=1,x: must be an integer"]),
    (["-m", "agent.num_retries=1,2,17"], ["agent.num_retries=17", "num_samples=16"]),
    (["resume=auto"], ["resume=auto", "hydra.run.dir=<directory>"]),
    (["-m", "seed=1,2", "resume=auto"], ["resume=auto", "hydra.sweep.dir=<directory>"]),
    (["resume=nowhere"], ["resume=nowhere", "a directory that holds a run"]),
    (["resume=nowhere", "hydra.run.dir=x"], ["resume=nowhere", "hydra.run.dir must be left out"]),
]
# More of the kinds that are above.
ALSO_BAD = [
    (["env.options.backend=spring"], ["env.options.backend"]),
    (["+env.options.gravity=1"], ["env.options.gravity=1", "frame_skip"]),
    (["+seed=1"], ["+seed=1: there is such a key; given as seed=1, without the +"]),
    (
        ["agent=ordergrad", "env.options.stagger_first_episodes=true", "total_env_steps=1000000"],
        ["env.options.stagger_first_episodes=true: must be false for ordergrad, which learns from whole episodes"],
    ),
    (["env.suite=atari"], ["atari/half_cheetah", "mujoco/half_cheetah"]),
    (["env.task=hopper"], ["env.task=hopper: given as env=mujoco/hopper, with which its values come"]),
    (["agent.name=sac"], ["agent.name=sac: given as agent=sac, with which its values come"]),
    (["-m", "env=glob(mujoco/x*)"], ["env=glob(mujoco/x*): matches no task; python -m experiments.suites lists all"]),
    (["-m", "env=glob(mujoco/h*)", "seed=-1"], ["seed=-1", "at least 0"]),
    (["-m", "seed=range(5,5)"], ["seed=range(5,5): stands for no value"]),
    (["-m", "--cfg", "job"], ["--cfg", "does not go together with -m"]),
    (["hydra.output_subdir=.hydra"], ["hydra.output_subdir=.hydra: must be null"]),
    (["agent.hidden_sizes=[100000]"], ["agent.hidden_sizes=100000", "at most 16384"]),
    (["env.options=[1]"], ["env.options=[1]: must be of its own kind, a list [<value>] or keys {<key>: <value>}"]),
    (["~env.options"], ["~env.options: cannot be taken away"]),
    (["agent.actor_optimizer=lion"], ["agent.actor_optimizer=lion", "adam, sgd"]),
    (["logger=wandb", "logger.mode=loud"], ["logger.mode=loud", "online, offline"]),
    (["agent.objective=maximum"], ["agent.objective=maximum", "top_mean:m", "upper_range_mean:lo:hi"]),
    (
        ["agent.num_retires=8"],
        ["agent.num_retires=8", "no such key; did you mean agent.num_retries or agent.num_retries_end?"],
    ),
    (["+env.tuned.modern.nobody.gamma=1"], ["env.tuned.modern=nobody", "all, training, remac, sac, td3"]),
    (["env.backend=spring"], ["env.backend=spring", "no such key", "options"]),
    (["~seed"], ["seed"]),
    (["--total_env_steps", "2000"], ["--total_env_steps", "total_env_steps=<value>"]),
    (["seed=1", "seed=abc"], ["seed=abc: must be an integer"]),
    (["hydra.run.dir=/dev/null/run", "resume=auto"], ["hydra.run.dir=/dev/null/run", "cannot be made in /dev/null"]),
    (["agent.hidden_sizes=[a]"], ["agent.hidden_sizes=[a]: must be a list of integers"]),
    (["agent.normalize_observations=perhaps"], ["agent.normalize_observations=perhaps: must be true or false"]),
    (["seed=-1"], ["seed=-1", "at least 0"]),
    (["total_env_steps=0"], ["total_env_steps=0"]),
    (["replay_capacity=10", "agent.batch_size=4"], ["replay_capacity=10", "num_envs=16"]),
    (["agent.tau=0"], ["agent.tau=0", "(0, 1]"]),
    (["agent.hidden_sizes=[64,-1]"], ["agent.hidden_sizes=-1", "at least 1"]),
    (["agent=sac", "agent.target_entropy=inf"], ["agent.target_entropy=inf"]),
    (["agent.num_retries="], ["agent.num_retries"]),
    (["=5"], ["=5"]),
    (["seed=[1"], ["seed=[1"]),
    (["-m", "agent=remac,a2c"], ["agent=a2c", "remac, sac"]),
    (["-m", "seed=1,2", "resume=nowhere"], ["resume=nowhere", "must be auto"]),
    (["-m", "seed=1,2", "agent.lr=1"], ["agent.lr=1", "no such key"]),
    (["env=atari/pong"], ["env=atari/pong", "experiments.suites lists all"]),
    (["logger=mlflow"], ["logger=mlflow", "none", "tensorboard", "wandb"]),
    (["env=brax/hopper", "+env.options.gravity=1"], ["env.options.gravity=1", "terminate_when_unhealthy"]),
    (["env=probe/one_step", "+env.options.gravity=1"], ["env.options.gravity=1", "episode_length"]),
    (["agent.objective=maximum"], ["agent.objective", "maximum", "median"]),
    (["agent.objective=top_mean:9"], ["agent.objective", "9"]),
    (["agent.objective=[0.5,0.5]"], ["agent.objective", "4"]),
    (["agent.activation=sine"], ["agent.activation=sine", "relu"]),
    (["agent.critic_aggregate=max"], ["agent.critic_aggregate=max", "min, mean"]),
    (["logger.name=mlflow"], ["logger.name=mlflow", "none, wandb"]),
    (["agent.name=a2c"], ["agent.name=a2c", "remac, sac, td3"]),
    (["+learning_rate=1"], ["learning_rate=1", "no such key", "total_env_steps"]),
    (["+agent.lr=1"], ["agent.lr=1", "no such key", "learning_rate"]),
    (["+env.tuned.modern.training.seed=1"], ["env.tuned.modern.training.seed=1", "num_envs"]),
    (["env=probe/one_step", "env.options.stagger_first_episodes=perhaps"], ["stagger_first_episodes=perhaps"]),
    (["env=brax/hopper", "+env.options.ctrl_cost_weight=abc"], ["env.options.ctrl_cost_weight=abc", "number"]),
    (["++foo.bar=1"], ["foo"]),
    (["seed=1.5"], ["seed=1.5: must be an integer"]),
    (["seed=null"], ["seed=null: must be an integer"]),
    (["total_env_steps=many"], ["total_env_steps=many: must be an integer"]),
    (["agent.learning_rate=fast"], ["agent.learning_rate=fast: must be a number"]),
    (["agent.hidden_sizes=64"], ["agent.hidden_sizes=64: must be a list of integers"]),
    (["env.options.stagger_first_episodes=perhaps"], ["env.options.stagger_first_episodes=perhaps"]),
    (["agent=5"], ["agent=5", "remac"]),
    (["agent.gamma=[1]"], ["agent.gamma"]),
    (["agent.num_retries=0"], ["agent.num_retries=0", "at least 1"]),
    (["agent.num_samples=0"], ["agent.num_samples=0", "at least 1"]),
    (["eval_seed=-1"], ["eval_seed=-1", "at least 0"]),
    (["num_envs=0"], ["num_envs=0", "at least 1"]),
    (["num_envs=-4"], ["num_envs=-4", "at least 1"]),
    (["updates_per_round=0"], ["updates_per_round=0", "at least 1"]),
    (["eval_every_env_steps=0"], ["eval_every_env_steps=0", "at least 1"]),
    (["num_eval_episodes=0"], ["num_eval_episodes=0", "at least 1"]),
    (["prefill_env_steps=-1"], ["prefill_env_steps=-1"]),
    (["agent.batch_size=0"], ["agent.batch_size=0", "at least 1"]),
    (["agent.learning_rate=0"], ["agent.learning_rate=0", "(0"]),
    (["agent.learning_rate=-1e-3"], ["agent.learning_rate=-0.001"]),
    (["agent.learning_rate=inf"], ["agent.learning_rate=inf"]),
    (["agent.actor_adam_epsilon=0"], ["agent.actor_adam_epsilon=0"]),
    (["agent.critic_adam_epsilon=-1"], ["agent.critic_adam_epsilon=-1"]),
    (["agent.gamma=-0.1"], ["agent.gamma=-0.1", "[0, 1]"]),
    (["agent.tau=2"], ["agent.tau=2", "(0, 1]"]),
    (["agent.target_update_period=0"], ["agent.target_update_period=0", "at least 1"]),
    (["agent.num_critics=0"], ["agent.num_critics=0", "at least 1"]),
    (["+env.options.frame_skip=-1"], ["env.options.frame_skip=-1"]),
    (["checkpoint.keep=0"], ["checkpoint.keep=0", "at least 1"]),
    (["checkpoint.every_env_steps=0"], ["checkpoint.every_env_steps=0", "at least 1"]),
    (["checkpoint.replay=maybe"], ["checkpoint.replay=maybe"]),
    (["max_diverged_fraction=1.5"], ["max_diverged_fraction=1.5", "[0, 1]"]),
    (["-m", "seed=1,2", "+agent.lr=1,2"], ["agent.lr", "no such key"]),
    (["-m", "agent=sac,remac", "agent.num_samples=4"], ["agent.num_samples=4", "no such key"]),
]


def assert_refused(status, out, err, expected, directory):
    assert status == 2, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    for part in expected:
        assert part in err, f"{part!r} is missing in: {err}"
    assert not list(directory.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["agent.num_retries=4,17"], ["agent.num_retries=17"]),
        (["seed=0,1", "hydra.launcher.memory_gib=1e-9"], ["hydra.launcher.memory_gib=1e-09: must be at least"]),
        (["seed=0,1", "hydra.launcher.memory_gib=-1"], ["hydra.launcher.memory_gib=-1"]),
        (["seed=0,1", "hydra.launcher.memory_gib=much"], ["hydra.launcher.memory_gib=much: must be a number"]),
        (["seed=0,1", "hydra.launcher.memory=1"], ["hydra.launcher.memory=1"]),
        (["seed=0,1", "hydra.sweep.subdir=same"], ["hydra.sweep.subdir=", "two jobs"]),
    ],
)
def test_bad_sweeps_are_refused_before_anything_is_made(call, tmp_path, arguments, expected):
    register_launcher()
    assert_refused(*call(["-m", "hydra/launcher=population", *QUICK, *arguments]), expected, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"), fast_are(len(BAD), BAD + ALSO_BAD), ids=[" ".join(bad[0]) for bad in BAD + ALSO_BAD]
)
def test_bad_input_is_one_line_that_helps(call, tmp_path, monkeypatch, arguments, expected):
    register_launcher()
    monkeypatch.setattr(train, "run_jobs", lambda *jobs: sys.exit("bad input reached the training"))
    assert_refused(*call(arguments), expected, tmp_path)


def test_a_job_leaves_the_loggers_of_libraries_on(call, monkeypatch):
    library = logging.getLogger("some_library")
    monkeypatch.setattr(train, "run_jobs", lambda *jobs: sys.exit("came to the training"))
    assert call(QUICK)[0] == "came to the training"
    assert not library.disabled


def keys_of(config, prefix=""):
    """Yields every key of a composed configuration."""
    for key in config:
        yield f"{prefix}{key}"
        if OmegaConf.is_dict(config) and not OmegaConf.is_missing(config, key) and OmegaConf.is_dict(config[key]):
            yield from keys_of(config[key], f"{prefix}{key}.")


def train_keys():
    register_schemas()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        keys = [
            *keys_of(hydra.compose("train")),
            *(f"agent.{key}" for key in hydra.compose("train", ["agent=sac"]).agent),
        ]
    return sorted(set(keys))


SCALARS = (
    st.integers(-(2**70), 2**70).map(str)
    | st.floats().map(str)
    | st.sampled_from(
        ["true", "null", "", "[]", "{}", "[1,[2]]", "{a:1}", "${seed}", "${nothing:1}", "???", "0x10", "1e400", "-0.0"]
    )
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(train_keys()), sign=st.sampled_from(["", "", "", "+", "++", "~"]), value=SCALARS)
def test_no_value_reaches_a_traceback(call, monkeypatch, tmp_path, key, sign, value):
    monkeypatch.setattr(train, "run_jobs", lambda planned: [Outcome(tmp_path, "finished", 0.0)])
    status, _, err = call([f"{sign}{key}={value}"])
    assert status in (0, 2), err
    assert len(err.strip().splitlines()) == (1 if status else 0), err


def test_globs_over_config_files_are_understood(call, monkeypatch, tmp_path):
    seen = []
    outcome = Outcome(tmp_path, "finished", 0.0)
    monkeypatch.setattr(
        train, "run_jobs", lambda planned: seen.append(planned[0].job.config["agent"]["name"]) or [outcome]
    )
    status, _, err = call(["-m", "env=probe/action", "agent=glob(*,exclude=*_schema)"])
    assert status == 0, err
    assert seen == sorted(AGENTS)


PROCESSES = [
    *(("train", *bad) for bad in BAD if bad[0][0] in ("agent.num_retries=17", "seed=abc", "agent=a2c", "--sed")),
    ("evaluate", ["run=nowhere"], ["run=nowhere", "is not a run directory"]),
    ("evaluate", ["run=nowhere", "agent=sac"], ["agent=sac: no such key", "there are run, policy"]),
    ("evaluate", ["run=nowhere", "env.options.a=1"], ["env.options.a=1", "there are none", "+env.options.a=1"]),
    ("train", ["experiment=sparse"], ["experiment=sparse: no such key", "experiments.sweep", "saturation"]),
    ("train", ["tuned/modern=x"], ["tuned/modern=x: no such key", "there are agent"]),
    ("sweep", ["experiment=fig7"], ["experiment=fig7", "adam_epsilon"]),
    ("plot", ["nowhere"], ["nowhere"]),
    ("report", ["colour=red", "."], ["colour=red", "no such key", "out"]),
    ("claims", [], ["at least one"]),
    ("benchmark", ["suite=everything"], ["suite=everything", "update"]),
    ("toy", ["study=pendulum"], ["study=pendulum", "vector_field"]),
]


def test_a_reference_to_another_key_is_followed(call, monkeypatch, tmp_path):
    seen = []
    outcome = Outcome(tmp_path, "finished", 0.0)
    monkeypatch.setattr(train, "run_jobs", lambda planned: seen.append(planned[0]) or [outcome])
    status, _, err = call([*QUICK, "agent.tau=${agent.gamma}"])
    assert status == 0, err
    assert seen[0].job.config["agent"]["tau"] == seen[0].job.config["agent"]["gamma"]
    assert "agent.tau=${agent.gamma}" in seen[0].overrides


@pytest.mark.parametrize(
    ("program", "arguments", "expected"), PROCESSES, ids=[" ".join((name, *rest)) for name, rest, _ in PROCESSES]
)
def test_bad_input_of_every_command(run_module, tmp_path, program, arguments, expected):
    assert_refused(*run_module(program, *arguments), expected, tmp_path)


@pytest.mark.slow
def test_bad_input_as_a_process(tmp_path):
    command = [sys.executable, "-m", "experiments.train", "agent.num_retries=17"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert_refused(done.returncode, done.stdout, done.stderr, ["agent.num_retries=17", "num_samples=16"], tmp_path)


def test_a_used_run_directory_is_refused_and_left_alone(call, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    for arguments in ([f"hydra.run.dir={run}"], ["-m", f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=run"]):
        status, out, err = call([*QUICK, *arguments])
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert "holds a run already" in err and str(run) in err
        assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_the_traceback_is_kept_for_who_asks(run_module, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    status, _, err = run_module("train", "seed=abc")
    assert status == 2 and "Traceback" in err


def test_a_run_that_stopped_has_status_3_and_its_reason(call, monkeypatch, tmp_path):
    """That a job which becomes non-finite is such an outcome is tested with populations."""
    outcome = Outcome(tmp_path, "stopped", None, "no reason", NonFiniteError("critic/loss", 7))
    monkeypatch.setattr(train, "run_jobs", lambda planned: [outcome])
    assert call(QUICK) == (3, "", "critic/loss became non-finite at gradient step 7\n")


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_a_job_is_built_once(call, monkeypatch, tmp_path, sweep):
    """Checking what a command line asks for and doing it share one job, with its environment."""
    made, ran = [], []
    make = config.make_environment

    def run_jobs(planned):
        ran.extend(job.job.env for job in planned)
        return [Outcome(tmp_path, "finished", 0.0, None, None)]

    monkeypatch.setattr(config, "make_environment", lambda *given: made.append(make(*given)) or made[-1])
    monkeypatch.setattr(train, "run_jobs", run_jobs)
    folders = [f"hydra.{mode}.dir={tmp_path / mode}" for mode in ("run", "sweep")]
    status, _, err = call([*QUICK, *sweep, *folders])
    assert status == 0, err
    assert len(made) == (2 if sweep else 1) and list(map(id, ran)) == list(map(id, made))


@pytest.mark.slow
def test_a_non_finite_run_stops_with_status_3(call, tmp_path):
    status, _out, err = call([*QUICK, "agent.learning_rate=1e30", f"hydra.run.dir={tmp_path / 'run'}"])
    assert status == 3
    last = err.strip().splitlines()[-1]
    assert "non-finite at gradient step" in last and "/" in last
    assert (tmp_path / "run" / "metrics.csv").read_text().count("eval/return,") >= 1
    assert '"stopped"' in (tmp_path / "run" / "summary.json").read_text()


@pytest.mark.parametrize("library", fast_are(1, LIBRARIES[::-1]))
def test_an_interrupt_while_it_starts_ends_it_at_once(tmp_path, library):
    """Wherever it comes: as each library that JAX, Flax and MuJoCo load in turn is mapped."""
    # Shells turn the signal off for what runs behind them, and so would these tests be.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "experiments.train", "total_env_steps=1000000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    wait_until(lambda: has_loaded(process, library), process)
    process.send_signal(signal.SIGINT)
    _, err = end(process)
    assert (process.returncode, err) == (130, b"interrupted\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signals_end_the_run_with_their_status(tmp_path, number, status):
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *QUICK, "total_env_steps=100000000", "replay_capacity=1000",
         "agent=sac", "checkpoint.every_env_steps=50000000",
         f"hydra.run.dir={run}"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = run / "metrics.csv"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("eval/return,") >= 2, process)
    process.send_signal(number)
    _, err = end(process)
    assert process.returncode == status, err[-2000:]
    assert "Traceback" not in err and f"continue with resume={run}" in err
    summary = json.loads((run / "summary.json").read_text())
    (saved,) = (run / "checkpoints").iterdir()
    assert (saved / "manifest.json").exists() and int(saved.name) > 0
    assert (summary["status"], summary["saved_env_steps"]) == ("interrupted", int(saved.name))
    assert summary["reason"] == signal.Signals(number).name


@pytest.mark.slow
def test_physics_that_diverges_too_often_stops_the_run_with_status_3(call, tmp_path):
    """Half cheetah with ten times its time step: MuJoCo's accelerations become huge."""
    gymnasium = importlib.util.find_spec("gymnasium").submodule_search_locations[0]
    source = Path(gymnasium, "envs", "mujoco", "assets", "half_cheetah.xml")
    model = tmp_path / "coarse.xml"
    model.write_text(source.read_text().replace('timestep="0.01"', 'timestep="0.1"'))
    run = tmp_path / "run"
    options = ["env=mujoco/half_cheetah", f"+env.options.xml_file={model}", "+env.options.episode_length=30"]
    status, _, err = call([*options, *QUICK[1:], f"hydra.run.dir={run}"])
    assert status == 3
    last = err.strip().splitlines()[-1]
    assert "the simulation diverged in" in last and "max_diverged_fraction=0.01" in last
    assert not Path("MUJOCO_LOG.TXT").exists()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "stopped" and summary["reason"] == last
    metrics = summary["metrics"]
    assert metrics["env/diverged"] > 1.28 and all(np.isfinite(value) for value in metrics.values())
