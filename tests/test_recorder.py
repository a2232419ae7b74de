"""What training can go on without is a warning when it fails, whatever the failure is."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.console.progress import ProgressBar
from experiments.console.signals import StopSignals
from experiments.records.files import BEST_POLICY, POLICY, SUMMARY, read_metrics
from experiments.records.run_directory import RunDirectory
from experiments.running import recorder as module
from experiments.running.recorder import Recorder
from remac.training.loop import Checkpoint, Evaluation

METRICS = {"eval/return": 1.5, "eval/entropy": 0.5}


class Logger:
    """Notes what it is told, and fails where it should."""

    def __init__(self, failing=()):
        self.failing, self.calls = failing, []
        self._do("start")

    def _do(self, call):
        self.calls.append(call)
        if call in self.failing:
            raise {"start": ImportError, "log": KeyError, "finish": RecursionError}[call]("of the service")

    def log(self, env_steps, metrics):
        self._do("log")

    def finish(self, summary, plots, exit_code):
        self._do("finish")


JOB = SimpleNamespace(config={"checkpoint": {"keep_best": False}})


def train(directories, loggers, status="finished"):
    """Records two evaluations and the end of a population that has a checkpoint."""
    config = {"agent": {"name": "sac"}, "env": {"suite": "probe", "task": "action"}}
    runs = [RunDirectory(directory, config | {"seed": seed}) for seed, directory in enumerate(directories)]
    for run in runs:
        run.checkpoints.save(8, {"one": np.zeros(3)}, run.position())
    bar = ProgressBar(16 * len(runs))
    recorder = Recorder(bar, [JOB] * len(runs), runs, loggers, [None] * len(runs), StopSignals())
    values = {name: np.full(len(runs), value) for name, value in METRICS.items()}
    for env_steps in (8, 16):
        recorder(Evaluation(env_steps, env_steps, values, {"policy": np.zeros(len(runs))}))
    recorder.close(status)
    bar.close()
    for run in runs:
        run.close()
    return runs


@pytest.fixture(autouse=True)
def saves_no_policy(monkeypatch):
    monkeypatch.setattr(module, "save_policy", lambda policy, path, env_steps: None)


@pytest.mark.parametrize(
    "error", [ValueError("no such backend"), MemoryError(), OSError(28, "No space left on device")]
)
@pytest.mark.parametrize("what", ["plots", "policy"])
def test_what_fails_is_named_and_costs_nothing_else(tmp_path, monkeypatch, capsys, error, what):
    failing = tmp_path / "0"

    def fail_for_one(*arguments, **options):
        if any(failing in (path, path.parent) for path in map(module.Path, map(str, arguments))):
            raise error
        return []

    monkeypatch.setattr(module, {"plots": "plot_run", "policy": "save_policy"}[what], fail_for_one)
    loggers = [Logger(), Logger()]
    runs = train([failing, tmp_path / "1"], [lambda: loggers[0], lambda: loggers[1]])
    told = capsys.readouterr().err
    assert f"warning: {failing}: {what} not written (" in told and f"{tmp_path / '1'}:" not in told
    for run, logger in zip(runs, loggers, strict=True):
        assert (
            json.loads((run.path / SUMMARY).read_text())["metrics"] | METRICS
            == json.loads((run.path / SUMMARY).read_text())["metrics"]
        )
        assert read_metrics(run.path)["eval/return"] == ([8, 16], [1.5, 1.5])
        assert not run.checkpoints.all(), "a finished run needs none"
        assert logger.calls == ["start", "log", "log", "finish"]


@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_service_that_fails_costs_nothing_else(tmp_path, capsys, call):
    good = Logger()
    runs = train([tmp_path / "0", tmp_path / "1"], [lambda: Logger((call,)), lambda: good])
    assert capsys.readouterr().err.count(f"warning: {tmp_path / '0'}:") == 1, "it is not asked again"
    assert good.calls == ["start", "log", "log", "finish"]
    for run in runs:
        assert json.loads((run.path / SUMMARY).read_text())["status"] == "finished"
        assert (run.path / "plots" / "return.png").is_file()


def test_all_summaries_are_there_before_anything_is_drawn(tmp_path, monkeypatch):
    """Drawing may hang, or end the process."""
    found = []
    monkeypatch.setattr(module, "plot_run", lambda path: found.append(len(list(tmp_path.glob(f"*/{SUMMARY}")))) or [])
    train([tmp_path / "0", tmp_path / "1"], [lambda: None] * 2)
    assert found == [2, 2]


def test_the_best_policy_is_kept_also_across_a_resumption(tmp_path, monkeypatch):
    """Of two members, of which one keeps it; the first of equal ones stays."""
    saved = {}
    monkeypatch.setattr(module, "save_policy", lambda policy, path, env_steps: saved.update({path: env_steps}))
    jobs = [SimpleNamespace(config={"checkpoint": {"keep_best": keep, "replay": True}}) for keep in (True, False)]
    paths = [tmp_path / "0", tmp_path / "1"]

    def one_array(index, replay):
        return {"one": np.zeros(1)}

    def record(returns, starts, resume):
        runs = [RunDirectory(path, {}, resume=resume, start=start) for path, start in zip(paths, starts, strict=True)]
        bar = ProgressBar(100)
        recorder = Recorder(bar, jobs, runs, [lambda: None] * 2, starts, StopSignals())
        for env_steps, value in returns.items():
            values = {"eval/return": np.array([value, -value]), "eval/entropy": np.zeros(2)}
            recorder(Evaluation(env_steps, env_steps, values, {"policy": np.zeros(2)}))
            snapshot = SimpleNamespace(rounds_done=env_steps + 1, evaluated_round=env_steps + 1, member=one_array)
            recorder(Checkpoint(env_steps, env_steps, snapshot))
        starts = [next(run.checkpoints.usable([])) for run in runs]
        for run in runs:
            run.close()
        bar.close()
        return starts

    starts = record({0: float("nan"), 8: -2.0, 16: 3.0, 24: 3.0, 32: 1.0}, [None] * 2, False)
    expected = {paths[0] / POLICY: 32, paths[0] / BEST_POLICY: 16, paths[1] / POLICY: 32}
    assert saved == expected
    starts = record({40: 2.0}, starts, True)
    assert saved == expected | {path / POLICY: 40 for path in paths}
    record({48: 3.5}, starts, True)
    assert saved[paths[0] / BEST_POLICY] == 48
