"""No room for what a run writes: what was on the disk stays readable, and a line says what is missing."""

import contextlib
import json
import resource
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from agents import SAC
from experiments.console.progress import ProgressBar
from experiments.console.signals import StopSignals
from experiments.records.files import read_metrics
from experiments.records.run_directory import OutputError, RunDirectory
from experiments.running.recorder import Recorder
from remac.files import write_whole
from remac.policies.policy import load_policy, save_policy, saved_env_steps

CONFIG = {"seed": 0, "checkpoint": {"keep": 2, "replay": True}}


@contextlib.contextmanager
def room_for(num_bytes):
    """Lets no file grow beyond a size; needs no privileges, and fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run", CONFIG)
    directory.log(8, 0, {"eval/return": 1.5})
    yield directory
    directory.close()


def test_metrics_end_with_a_whole_row(run):
    with (
        room_for(100),
        pytest.raises(OutputError, match=r"metrics.csv: cannot be written \(File too large\); make room"),
    ):
        run.log(16, 4, {f"name/{index}": 0.5 for index in range(10)})
    assert read_metrics(run.path) == {"eval/return": ([8], [1.5])}
    run.log(16, 4, {"eval/return": 2.5})
    assert read_metrics(run.path) == {"eval/return": ([8, 16], [1.5, 2.5])}


@pytest.mark.parametrize("room", [0, 200, 5_000, 40_000, 81_000])
def test_earlier_checkpoints_stay(run, room):
    arrays = {"one": np.zeros(5_000), "two": np.zeros(5_000)}
    run.checkpoints.save(8, arrays, run.position())
    with room_for(room), pytest.raises(OSError):
        run.checkpoints.save(16, arrays, run.position() | {"latest": "x" * 100_000 * (room == 81_000)})
    assert [path.name for path in run.checkpoints.path.iterdir()] == ["000000000008"]
    (saved,) = run.checkpoints.usable(problems := [])
    assert not problems and saved.arrays()["two"].shape == (5_000,)


def test_the_earlier_policy_and_other_files_stay(tmp_path):
    agent = SAC.create(3, 2, hidden_sizes=(8,))
    policy = agent.policy(jax.jit(agent.init)(jax.random.key(0)))
    save_policy(policy, tmp_path, env_steps=10)
    with room_for(300), pytest.raises(OSError):
        save_policy(agent.policy(jax.jit(agent.init)(jax.random.key(1))), tmp_path, env_steps=20)
    assert saved_env_steps(tmp_path) == 10
    jax.tree.map(np.testing.assert_array_equal, load_policy(tmp_path), policy)
    write_whole(tmp_path / "file", b"old")
    with room_for(2), pytest.raises(OSError):
        write_whole(tmp_path / "file", b"new one")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays.npz", "file", "policy.json"]


@pytest.mark.parametrize("is_full", [True, False])
def test_a_finished_run_keeps_its_checkpoints_until_the_summary_is_there(run, is_full, monkeypatch, capsys):
    def fail(summary):
        raise OSError(28, "No space left on device")

    if is_full:
        monkeypatch.setattr(run, "write_summary", fail)
    monkeypatch.setattr("experiments.running.recorder.plot_run", lambda path: [])
    run.checkpoints.save(8, {"one": np.zeros(3)}, run.position())
    bar = ProgressBar(8)
    job = SimpleNamespace(config={"checkpoint": {"keep_best": False}})
    recorder = Recorder(bar, [job], [run], [lambda: None], [None], StopSignals())
    recorder.close("finished")
    bar.close()
    assert len(run.checkpoints.all()) == is_full
    assert ("summary not written" in capsys.readouterr().err) == is_full


@pytest.mark.slow
def test_a_run_without_room_stops_with_a_line_and_continues_with_room(tmp_path):
    """``ulimit`` counts KiB: metrics.csv outgrows it, and so do the checkpoints and pictures before."""
    run = tmp_path / "run"
    arguments = [
        *("env=probe/action", "agent=sac", "total_env_steps=800", "prefill_env_steps=64", "eval_every_env_steps=200"),
        *("checkpoint.every_env_steps=100", "num_eval_episodes=4", "agent.hidden_sizes=[8]", "agent.batch_size=16"),
    ]
    command = f"ulimit -f 5 && {sys.executable} -m experiments.train {shlex.join(arguments)} hydra.run.dir={run}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"make room, and continue with resume={run}")
    assert f"warning: {run}: checkpoint not written (File too large); going on without" in done.stderr
    assert len(read_metrics(run)["eval/return"][0]) >= 2
    assert load_policy(run)(np.zeros(1)).shape == (1,)
    assert json.loads((run / "summary.json").read_text())["status"] == "crashed"
    whole = tmp_path / "whole"
    for last in (f"resume={run}", f"hydra.run.dir={whole}"):
        options = arguments if "whole" in last else []
        done = subprocess.run(
            [sys.executable, "-m", "experiments.train", *options, last], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    found, expected = (
        {name: values for name, values in read_metrics(directory).items() if not name.startswith("time/")}
        for directory in (run, whole)
    )
    assert found == expected
