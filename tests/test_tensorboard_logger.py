"""TensorBoard's own reader finds in a run directory what was logged, each point once."""

import importlib.util
import math
from pathlib import Path

import pytest

from experiments.records import loggers
from experiments.records.files import read_metrics
from experiments.records.tensorboard_logger import FOLDER, TensorBoardLogger
from experiments.running.config import compose_job
from remac.validation import InvalidValueError

CONFIG = {"seed": 3, "agent": {"name": "remac", "num_retries": 4}, "arm": "<b>bold</b>"}


def read(directory):
    """Reads as TensorBoard does: scalars as pairs of step and value, and texts."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(directory / FOLDER)).Reload()
    tags = found.Tags()
    scalars = {name: [(event.step, event.value) for event in found.Scalars(name)] for name in tags["scalars"]}
    texts = {}
    for name in tags["tensors"]:
        texts[name.removesuffix("/text_summary")] = found.Tensors(name)[-1].tensor_proto.string_val[0].decode()
    return scalars, texts


def test_metrics_stand_at_their_env_steps(tmp_path, capfd):
    logger = TensorBoardLogger(CONFIG, tmp_path / FOLDER)
    logger.log(0, {"eval/return": -1.5, "actor/entropy": 2.0})
    logger.log(1_008, {"eval/return": 7.25, "actor/entropy": math.nan})
    scalars, _ = read(tmp_path)  # while it goes on
    assert scalars["eval/return"] == [(0, -1.5), (1_008, 7.25)]
    logger.finish({"status": "stopped", "env_steps": 1_008}, [], exit_code=1)
    scalars, texts = read(tmp_path)
    assert scalars.keys() == {"eval/return", "actor/entropy"} and math.isnan(scalars["actor/entropy"][1][1])
    assert "    num_retries: 4\n" in texts["config"].replace("      ", "    ") and "    arm: <b>" in texts["config"]
    assert '"status": "stopped"' in texts["summary"]
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_has_no_point_twice(tmp_path):
    """Also if it comes to some evaluations for the second time, with other values, and twice within a second."""
    for first, values in ((0, [0.0, 1.0, 2.0, 3.0]), (200, [22.0, 33.0]), (300, [333.0, 444.0])):
        logger = TensorBoardLogger(CONFIG, tmp_path / FOLDER)
        for number, value in enumerate(values):
            logger.log(first + 100 * number, {"eval/return": value})
        if first != 200:  # that one was killed
            logger.finish({"env_steps": first}, [], exit_code=0)
    scalars, _ = read(tmp_path)
    assert scalars["eval/return"] == [(0, 0.0), (100, 1.0), (200, 22.0), (300, 333.0), (400, 444.0)]


@pytest.mark.slow
def test_a_training_writes_them(tmp_path, run_module):
    arguments = ["env=probe/action", "agent=sac", "logger=tensorboard", "hydra.run.dir=run", "total_env_steps=128"]
    arguments += ["num_envs=8", "prefill_env_steps=64", "eval_every_env_steps=64", "num_eval_episodes=2"]
    arguments += ["updates_per_round=1", "agent.batch_size=8", "agent.hidden_sizes=[8]"]
    status, _, err = run_module("train", *arguments)
    assert status == 0 and "warning" not in err, err
    scalars, _ = read(tmp_path / "run")
    written = read_metrics(tmp_path / "run")
    assert scalars.keys() == written.keys() and len(scalars) > 10
    for name, (steps, values) in written.items():
        found_steps, found_values = zip(*scalars[name], strict=True)
        assert list(found_steps) == steps and found_values == pytest.approx(values, rel=1e-6, nan_ok=True)


def test_the_package_that_is_missing_is_named_with_its_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else find(name))
    with pytest.raises(InvalidValueError, match=r"^logger=tensorboard: needs the package tensorboardX, .*\[tensorb"):
        compose_job(["env=probe/action", "logger=tensorboard"])


def test_every_logger_has_its_settings():
    folder = Path(__file__).parent.parent / "conf" / "logger"
    assert {path.stem for path in folder.glob("*.yaml")} == set(loggers.LOGGERS)
    for name in ("none", "wandb"):
        assert compose_job(["env=probe/action", f"logger={name}"]).config["logger"]["name"] == name
    with pytest.raises(InvalidValueError, match=r"logger\.name=x: must be one of none, wandb, tensorboard"):
        compose_job(["env=probe/action", "logger.name=x"])
