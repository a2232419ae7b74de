"""Runs that are killed, stopped or damaged, by the real command: nothing is lost, nothing comes twice."""

import csv
import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from waiting import LIBRARIES, has_loaded, wait_until

QUICK = (
    *("env=mujoco/hopper", "agent=sac", "seed=3", "total_env_steps=320", "prefill_env_steps=48", "num_envs=8"),
    *("eval_every_env_steps=64", "checkpoint.every_env_steps=40"),
    # The programs of test_train.py.
    *("num_eval_episodes=4", "agent.hidden_sizes=[8]", "agent.batch_size=16", "replay_capacity=256"),
)

# Runs the command, and kills its own process at the n-th time that something happens.
KILLED = """
import os, signal, sys
moment, count = sys.argv.pop(1), int(sys.argv.pop(1))
from pathlib import Path
from experiments.records import checkpoints, run_directory
from experiments.running import hydra_main as command_line, recorder
from experiments import train
from experiments.running.hydra_launcher import register_launcher

def die(*arguments, **options):
    global count
    count -= 1
    if count <= 0:
        os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    original = getattr(owner, name)
    def killed(*arguments, **options):
        die()
        return original(*arguments, **options)
    setattr(owner, name, killed)

if moment == "within metrics":
    def half_of_a_row(self, *arguments):
        if count == 1:
            with (self.path / "metrics.csv").open("a") as file:
                file.write("64,16,1.0,eval/ret")
        die()
        log(self, *arguments)
    log, run_directory.RunDirectory.log = run_directory.RunDirectory.log, half_of_a_row
elif moment == "before the manifest":
    before(checkpoints, "sync")
elif moment == "before a checkpoint has its name":
    before(Path, "rename")
elif moment == "before the oldest checkpoint is removed":
    before(checkpoints.Checkpoints, "_sound")
elif moment == "while the oldest checkpoint is removed":
    def half(path, *arguments, **options):
        if path.name != ".new" and (path / "state.npz").exists():
            (path / "state.npz").unlink()
            die()
        rmtree(path, *arguments, **options)
    rmtree, checkpoints.shutil.rmtree = checkpoints.shutil.rmtree, half
elif moment == "while programs compile":
    before(recorder.Recorder, "__call__")
elif moment == "between metrics and policy":
    before(recorder, "save_policy")
elif moment == "before the summary":
    before(run_directory.RunDirectory, "write_summary")
register_launcher()
command_line.run("train", train.main)
"""


def train(*arguments, killed_at=(), **options):
    program = ["-c", KILLED, *map(str, killed_at)] if killed_at else ["-m", "experiments.train"]
    return subprocess.run([sys.executable, *program, *arguments], capture_output=True, text=True, **options)


def rows(directory):
    with (directory / "metrics.csv").open(newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def assert_same_run(one, other):
    def untimed(directory):
        return [(row[0], row[1], *row[3:]) for row in rows(directory) if not row[3].startswith("time/")]

    assert untimed(one) == untimed(other)
    assert [row[0::3] for row in rows(one)] == [row[0::3] for row in rows(other)], "time/ rows are there as well"
    seconds = [float(row[2]) for row in rows(one)]
    assert seconds == sorted(seconds)
    arrays = [np.load(directory / "policy" / "arrays.npz") for directory in (one, other)]
    for name in arrays[0].files:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name])
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was never stopped."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    done = train(*QUICK, f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    return directory


def num_evaluations(directory):
    path = directory / "metrics.csv"
    return path.read_text().count("eval/return,") if path.is_file() else 0


def kill_and_resume(run, moments, reference, arguments=QUICK):
    command = [*arguments, f"hydra.run.dir={run}", "resume=auto"]
    for moment in moments:
        done = train(*command, killed_at=moment)
        assert done.returncode == -signal.SIGKILL, (moment, done.returncode, done.stderr[-2000:])
    done = train(f"resume={run}", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert_same_run(run, reference)
    provenance = json.loads((run / "provenance.json").read_text())
    steps = [one["env_steps"] for one in provenance["resumed"]]
    assert 0 < len(steps) <= len(moments) and steps == sorted(steps), "those that came as far as to train"
    return steps


@pytest.mark.slow
def test_a_killed_run_continues_as_if_nothing_had_happened(whole, tmp_path):
    """The last restart is given the run directory alone."""
    moments = [("while the oldest checkpoint is removed", 1)]
    assert kill_and_resume(tmp_path / "run", moments, whole)[-1] > 0


@pytest.mark.slow
def test_a_run_killed_at_every_kind_of_moment(whole, tmp_path):
    moments = [
        *(("while programs compile", 1), ("before the manifest", 1), ("between metrics and policy", 2)),
        *(("before a checkpoint has its name", 2), ("before the manifest", 5)),
        *(("before the oldest checkpoint is removed", 1), ("while programs compile", 1), ("within metrics", 2)),
        *(("before the manifest", 2), ("before a checkpoint has its name", 1), ("before the summary", 1)),
    ]
    kill_and_resume(tmp_path / "run", moments, whole)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["mujoco/half_cheetah", "probe/action"])
def test_a_run_killed_at_random_moments(tmp_path, env):
    """20 kills in all, checkpoints and evaluations all the time."""
    arguments = [
        *QUICK[1:], f"env={env}", "total_env_steps=48000", "eval_every_env_steps=800", "checkpoint.every_env_steps=160",
        "agent.hidden_sizes=[32]", "agent.batch_size=64",
    ]  # fmt: skip
    if env.startswith("mujoco"):
        arguments.append("+env.options.episode_length=50")
    reference, run = tmp_path / "whole", tmp_path / "run"
    done = train(*arguments, f"hydra.run.dir={reference}")
    assert done.returncode == 0, done.stderr
    rng = random.Random(0)
    command = [sys.executable, "-m", "experiments.train", *arguments, f"hydra.run.dir={run}", "resume=auto"]
    for kill in range(10):
        evaluations = num_evaluations(run) + rng.randint(1, 3)
        library = rng.choice(LIBRARIES)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kill % 2:  # while it starts
            wait_until(lambda process=process, library=library: has_loaded(process, library), process)
        else:  # while it trains; it goes on while this looks
            wait_until(lambda evaluations=evaluations: num_evaluations(run) >= evaluations, process)
        process.kill()
        process.communicate()
    done = train(*arguments, f"hydra.run.dir={run}", "resume=auto")
    assert done.returncode == 0, done.stderr
    assert_same_run(run, reference)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_its_members_were(tmp_path):
    """One program of three members, killed while the second is being saved; then a sweep in which one has finished."""
    arguments = ["env=probe/action", *QUICK[1:], "total_env_steps=200"]
    sweep = ["-m", *arguments, "seed=1,2,3", f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra.sweep.subdir=${seed}"]
    sweep += ["hydra/launcher=population", "resume=auto"]
    done = train(*sweep, killed_at=("before a checkpoint has its name", 8))  # the third time, of the second member
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    newest = [
        max(path.name for path in (tmp_path / "sweep" / str(seed) / "checkpoints").iterdir()) for seed in (1, 2, 3)
    ]
    assert newest == [f"{steps:012d}" for steps in (120, 80, 80)]
    done = train(f"resume={tmp_path / 'sweep' / '2'}")
    assert done.returncode == 0, done.stderr
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep" / "2").rglob("*")}
    done = train(*sweep)
    assert done.returncode == 0, done.stderr
    assert "2: has finished already" in done.stdout and "2 members" in done.stdout
    assert "continuing at 80 env steps" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep" / "2").rglob("*")}
    for seed in (1, 2, 3):
        alone = tmp_path / f"alone{seed}"
        done = train(*arguments, f"seed={seed}", f"hydra.run.dir={alone}")
        assert done.returncode == 0, done.stderr
        assert_same_run(tmp_path / "sweep" / str(seed), alone)
    done = train(*sweep)
    assert done.returncode == 0 and done.stdout.count("has finished already") == 3
