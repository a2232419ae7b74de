"""A run keeps the files of the user's that it was made of, and needs them where they were no more."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

import envs
from experiments import evaluate
from experiments.records.files import kept_inputs, read_metrics
from experiments.records.run_directory import RunDirectory
from experiments.running import recorder
from experiments.running.config import compose_job
from experiments.running.jobs import run_jobs
from experiments.running.planning import PlannedJob, structure
from remac.validation import InvalidValueError

TINY = (
    *("env=mujoco/inverted_pendulum", "agent=sac", "agent.hidden_sizes=[8]", "agent.batch_size=8", "num_envs=2"),
    *("total_env_steps=32", "prefill_env_steps=16", "eval_every_env_steps=16", "num_eval_episodes=1"),
    *("checkpoint.every_env_steps=16", "+env.options.episode_length=8", "+env.options.xml_file=./p.xml"),
)


def write_model(folder, timestep="0.0123456789012345"):
    """Gymnasium's pendulum with an included file, a mesh and numbers that a printed model would round."""
    assets = Path(importlib.util.find_spec("gymnasium").submodule_search_locations[0], "envs", "mujoco", "assets")
    text = (assets / "inverted_pendulum.xml").read_text()
    text = text.replace('timestep="0.02"', f'timestep="{timestep}"').replace(
        "<worldbody>", '<include file="m/a.xml"/><worldbody>'
    )
    text = text.replace('<geom name="cart"', '<geom type="mesh" mesh="tip" density="777.123456789"/><geom name="cart"')
    (folder / "m").mkdir(parents=True)
    (folder / "p.xml").write_text(text)
    (folder / "m/a.xml").write_text('<mujoco><asset><mesh name="tip" file="m/t.obj"/></asset></mujoco>')
    (folder / "m/t.obj").write_text(
        "v 0 0 0\nv 0.123456789 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the model is, and where the command is given."""
    folder = tmp_path / "start"
    write_model(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("experiments.running.config._environments", {})
    return folder


def remove(folder):
    for file in ("p.xml", "m/a.xml", "m/t.obj"):
        (folder / file).unlink()


def train(directory):
    return run_jobs([PlannedJob(compose_job(TINY), directory, "sweep", [])])[0]


def make(directory, *overrides):
    """Makes a job as the command does where it knows the run directory."""
    return compose_job([*TINY, *overrides], directory)


def untimed(directory):
    return {name: values for name, values in read_metrics(directory).items() if not name.startswith("time/")}


def evaluation(directory):
    settings = OmegaConf.structured(evaluate.EvaluateConfig(run=str(directory), num_episodes=2))
    evaluate.main(settings)
    return json.loads((directory / "evaluation.json").read_text())["metrics"]


@pytest.mark.slow
def test_a_run_is_evaluated_and_resumed_without_the_files_it_began_with(folder, tmp_path, monkeypatch, capsys):
    """From another folder, where a file of that name is another model; bit for bit."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(whole).status == "finished"
    before = evaluation(whole)

    def stop(self, event, record=recorder.Recorder._record):
        record(self, event)
        if event.env_steps == 16:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recorder.Recorder, "_record", stop)
        train(stopped)
    assert yaml.safe_load((stopped / "config.yaml").read_text())["env"]["options"]["xml_file"] == "./p.xml"
    remove(folder)
    monkeypatch.setattr("experiments.running.config._environments", {})
    monkeypatch.chdir(tmp_path)
    assert evaluation(whole) == before
    with pytest.raises(
        InvalidValueError, match=r"env.options.xml_file=./p.xml: must be a model of Gymnasium, or a path"
    ):
        make(tmp_path / "new", "resume=auto")
    write_model(tmp_path, timestep="0.01")
    assert make(tmp_path / "new", "env.options.xml_file=start/../p.xml").inputs, "with a folder it is a path"
    resumed = make(stopped, "resume=auto")
    assert structure(resumed) != structure(make(tmp_path / "new", "resume=auto")), "one name, two models"
    for job in (resumed, compose_job([f"resume={stopped}"])):
        assert job.inputs == {"xml_file.mjb": (whole / "inputs/xml_file.mjb").read_bytes()}
        assert job.config["env"]["options"]["xml_file"] == "./p.xml"
    assert run_jobs([PlannedJob(resumed, stopped, "sweep", [])])[0].status == "finished"
    assert untimed(stopped) == untimed(whole)
    config = [yaml.safe_load((run / "config.yaml").read_text()) for run in (whole, stopped)]
    assert config[0] == config[1]

    # Whatever is wrong with what is kept is one line.
    copy = whole / "inputs/xml_file.mjb"
    content = copy.read_bytes()
    for spoiled, what in ((content[:-1], "was cut short"), (content[:-9] + b"x" + content[-8:], "is corrupted")):
        copy.write_bytes(spoiled)
        with pytest.raises(InvalidValueError, match=rf"^env.options.xml_file={copy}: {what}.*restore that file$"):
            evaluate.load_run(whole)
        with pytest.raises(InvalidValueError, match=rf"^env.options.xml_file={copy}: {what}"):
            compose_job([f"resume={whole}"])
    copy.unlink()
    with pytest.raises(InvalidValueError, match=r"xml_file.mjb: is missing; restore"):
        evaluate.load_run(whole)
    copy.write_bytes(content)
    policy = whole / "policy/policy.json"
    policy.write_text(policy.read_text().replace("true", "false"))
    with pytest.raises(InvalidValueError, match=r"policy.json: was cut short or changed"):
        evaluate.load_run(whole)
    capsys.readouterr()
    run_jobs([PlannedJob(compose_job([f"resume={whole}"]), whole, "sweep", [])])
    said = capsys.readouterr()
    assert "has finished already" in said.out and f"warning: {policy}: was cut short or changed" in said.err
    assert not list(tmp_path.rglob("MUJOCO_LOG.TXT"))


def test_what_is_kept_stays_what_the_run_began_with(tmp_path):
    run = RunDirectory(tmp_path / "run", {"a": 1}, inputs={"file.txt": b"one"})
    run.close()
    again = RunDirectory(tmp_path / "run", {"a": 1}, resume=True, inputs={"file.txt": b"two"})
    again.close()
    assert kept_inputs(tmp_path / "run") == {"file": tmp_path / "run/inputs/file.txt"}
    assert (tmp_path / "run/inputs/file.txt").read_bytes() == b"one"
    assert kept_inputs(tmp_path / "none") == {}
    (tmp_path / "run/provenance.json").write_text("{")
    with pytest.raises(InvalidValueError, match=r"provenance.json: is damaged .*inputs cannot be checked"):
        kept_inputs(tmp_path / "run")


def test_a_kept_model_is_the_model(folder):
    """Every number of it, so that starts and steps are the same bits; rendering does not change what is kept."""
    import jax

    first = envs.make("mujoco/inverted_pendulum", num_envs=2, xml_file="./p.xml")
    Path("kept.mjb").write_bytes(first.own_files["xml_file.mjb"])
    remove(folder)
    assert first.for_evaluation(1).own_files == first.own_files, "which needs the file no more"
    second = envs.make("mujoco/inverted_pendulum", num_envs=2, xml_file="./kept.mjb")
    assert second.own_files == first.own_files
    states = [env.reset(jax.random.key(0)[None]) for env in (first, second)]
    for _ in range(20):
        states = [env.step(state, np.ones((1, 2, 1))) for env, state in zip((first, second), states, strict=True)]
    np.testing.assert_array_equal(states[0].physics.state, states[1].physics.state)
    assert envs.make("mujoco/inverted_pendulum", num_envs=2).own_files == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.xml", b"<mujoco><worldbody>"),
        ("bad.xml", b""),
        ("bad.xml", b"\xff\xfe\0"),
        ("bad.xml", b'<mujoco><include file="nowhere.xml"/></mujoco>'),
        ("bad.xml", b'<mujoco><asset><mesh file="nowhere.obj"/></asset></mujoco>'),
        ("bad.mjb", b"no model"),
        ("bad.mjb", b""),
        ("bad.xml", "inverted_pendulum.xml"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capfd, name, content):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, str):  # a model without what the task reads
        assets = Path(importlib.util.find_spec("gymnasium").submodule_search_locations[0], "envs/mujoco/assets")
        content = (assets / content).read_bytes()
    Path(name).write_bytes(content)
    with pytest.raises(InvalidValueError) as refusal:
        envs.make("mujoco/reacher", num_envs=1, xml_file=f"./{name}")
    assert str(refusal.value).startswith(f"xml_file=./{name}: must be a model") and "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "") and [path.name for path in tmp_path.iterdir()] == [name]
