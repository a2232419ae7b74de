"""What is wrong with a checkpoint is found before anything is read from it, and nothing is lost by it."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from experiments.records import provenance
from experiments.records.checkpoints import UnusableError
from experiments.records.files import finished_summary
from experiments.records.provenance import training_code
from experiments.records.run_directory import RunDirectory
from experiments.running.resume import align, find_start, require_resumable
from remac.policies.policy import load_policy
from remac.validation import InvalidValueError

CONFIG = {"seed": 0, "agent": {"name": "sac", "tau": 0.1}, "logger": {"name": "none"}, "checkpoint": {"keep": 2}}


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path):
    """A run directory with checkpoints at 100, 200 and 300 steps, of which two are kept."""
    directory = RunDirectory(tmp_path / "run", CONFIG, keep=2)
    for env_steps in (100, 200, 300):
        directory.log(env_steps, 0, {"eval/return": env_steps / 7})
        record = {"code": training_code(), "config": CONFIG, **directory.position()}
        directory.checkpoints.save(env_steps, {"state/x": np.arange(env_steps)}, record)
    directory.close()
    return directory


def test_the_newest_are_kept_and_the_newest_is_found(run):
    assert [path.name for path in run.checkpoints.all()] == ["000000000300", "000000000200"]
    start = find_start(run.path, CONFIG)
    assert start.env_steps == 300
    np.testing.assert_array_equal(start.arrays()["state/x"], np.arange(300))
    assert find_start(run.path, CONFIG, 200).env_steps == 200 and find_start(run.path, CONFIG, 100) is None
    assert find_start(run.path.parent / "none", CONFIG) is None
    other = CONFIG | {"logger": {"name": "wandb"}, "checkpoint": {"keep": 5}}
    assert find_start(run.path, other).env_steps == 300, "where it is logged makes no difference"


def test_a_run_that_went_further_back_keeps_what_it_saves_then(run):
    """And not what it had saved of the steps that it makes again, which its files no longer fit."""
    checkpoints = RunDirectory(
        run.path, CONFIG, keep=1, resume=True, start=find_start(run.path, CONFIG, 200)
    ).checkpoints
    checkpoints.save(250, {"state/x": np.arange(250)}, {"config": CONFIG})
    assert [path.name for path in checkpoints.all()] == ["000000000250"]


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def resign(checkpoint, **changes):
    """Changes run.json and makes the manifest fit again: what another version or configuration would have written."""
    rewrite(checkpoint / "run.json", **changes)
    record = checkpoint / "run.json"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["run.json"] = {
        "bytes": record.stat().st_size,
        "sha256": hashlib.sha256(record.read_bytes()).hexdigest(),
    }
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


DAMAGE = {
    "flipped bit": (lambda c: flip(c / "state.npz"), "state.npz: is corrupted"),
    "flipped bit in the record": (lambda c: flip(c / "run.json"), "run.json: is corrupted"),
    "cut short": (lambda c: os.truncate(c / "state.npz", 100), "state.npz: was cut short"),
    "no state": (lambda c: (c / "state.npz").unlink(), "state.npz: is missing"),
    "no manifest": (lambda c: (c / "manifest.json").unlink(), "manifest.json: was cut short"),
    "half a manifest": (lambda c: os.truncate(c / "manifest.json", 30), "manifest.json: was cut short"),
    "an odd manifest": (lambda c: rewrite(c / "manifest.json", files=[]), "manifest.json: does not list"),
    "another format": (lambda c: rewrite(c / "manifest.json", format=99), "manifest.json: is of format 99"),
    "another configuration": (
        lambda c: resign(c, config=CONFIG | {"agent": {"name": "sac", "tau": 0.5}}),
        "another configuration (agent.tau=0.5, and not 0.1)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_previous_one(run, damage, capsys):
    newest, previous = run.checkpoints.all()
    spoil, message = DAMAGE[damage]
    spoil(newest)
    assert find_start(run.path, CONFIG).env_steps == 200
    (line,) = capsys.readouterr().err.splitlines()
    assert str(newest) in line and message in line and f"continuing from {previous}" in line
    spoil(previous)
    before = contents(run.path)
    with pytest.raises(InvalidValueError) as refusal:
        find_start(run.path, CONFIG)
    words = str(refusal.value)
    assert "\n" not in words and str(newest) in words and str(previous) in words and "restore" in words
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("made_by", "before", "now"),
    [
        ({"code": "0123456789abcdef"}, "code 0123456789abcdef", "code {code}"),
        ({"code": "0123456789abcdef", "jax": "0.1"}, "code 0123456789abcdef, jax 0.1", "code {code}, jax {jax}"),
        (None, "code unknown", "code {code}"),
    ],
)
def test_other_code_continues_only_if_told_to(run, capsys, made_by, before, now):
    """Also code that was not recorded, as in checkpoints of earlier versions."""
    now = now.format(**training_code())
    newest = run.checkpoints.all()[0]
    resign(newest, code=made_by and training_code() | made_by)
    with pytest.raises(InvalidValueError) as refusal:
        find_start(run.path, CONFIG)
    words = str(refusal.value)
    assert words.startswith("checkpoint.other_code=False: ") and "\n" not in words
    assert f"{newest} was made by {before}, and this is {now}; checkpoint.other_code=true continues" in words
    insisting = CONFIG | {"checkpoint": {"keep": 2, "other_code": True}}
    require_resumable(run.path, insisting)
    assert find_start(run.path, insisting).env_steps == 300
    assert f"was made by {before}; continuing with {now}" in capsys.readouterr().err


def test_any_change_of_what_trains_is_other_code(tmp_path, monkeypatch):
    for folder in provenance.TRAINING_SOURCES:
        shutil.copytree(provenance.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))

    def code():
        return training_code.__wrapped__()["code"]

    real = code()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert code() == real == training_code()["code"], "wherever it is"
    sources = sorted(path for path in tmp_path.rglob("*.py"))
    seen = {real}
    for path in sources[:: len(sources) // 7]:
        path.write_text(path.read_text() + "\n")
        seen.add(code())
    sources[0].rename(sources[0].with_name("renamed.py"))
    assert len({*seen, code()}) == len(sources[:: len(sources) // 7]) + 2


def test_metrics_that_are_not_those_of_a_checkpoint_are_noticed(run, capsys):
    metrics = run.path / "metrics.csv"
    content = metrics.read_bytes()
    metrics.write_bytes(content[: len(content) // 2 + 10])
    with pytest.raises(InvalidValueError, match=r"metrics.csv: does not begin with what .*000000000300 was saved with"):
        find_start(run.path, CONFIG)
    metrics.write_bytes(content[:-3])
    assert find_start(run.path, CONFIG).env_steps == 200
    metrics.write_bytes(content + b"400,0,1.0,eval/ret")
    start = find_start(run.path, CONFIG)
    again = RunDirectory(run.path, CONFIG, resume=True, start=start)
    assert metrics.read_bytes() != content, "not before the state has been read as well"
    again.begin()
    assert metrics.read_bytes() == content and again.wall_seconds >= start.run["wall_seconds"]
    again.close()


def test_a_damaged_checkpoint_is_kept_when_its_name_is_needed_again(run, capsys):
    newest, previous = run.checkpoints.all()
    flip(newest / "state.npz")
    spoiled = (newest / "state.npz").read_bytes()
    again = RunDirectory(run.path, CONFIG, resume=True, start=find_start(run.path, CONFIG))
    record = {"code": training_code(), "config": CONFIG, **again.position()}
    again.checkpoints.save(300, {"state/x": np.arange(3)}, record)
    assert (newest.with_name("000000000300.damaged0") / "state.npz").read_bytes() == spoiled
    assert find_start(run.path, CONFIG).env_steps == 300 and previous.exists()
    again.checkpoints.remove()
    assert [path.name for path in again.checkpoints.path.iterdir()] == ["000000000300.damaged0"]
    again.close()


def test_members_that_were_saved_apart_meet_at_the_older_checkpoint(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "checkpoints" / "000000000300")
    directories, configs = [run.path, tmp_path / "other"], [CONFIG, CONFIG]
    starts = [find_start(directory, CONFIG) for directory in directories]
    assert [start.env_steps for start in starts] == [300, 200]
    align(directories, configs, starts)
    assert [start.env_steps for start in starts] == [200, 200]
    shutil.rmtree(run.path / "checkpoints" / "000000000200")
    starts = [*[find_start(directory, CONFIG) for directory in directories], None]
    align([*directories, tmp_path], [*configs, CONFIG], starts)
    assert [start and start.env_steps for start in starts] == [300, 200, None]


def test_a_run_directory_is_for_one_process(tmp_path):
    directory = tmp_path / "run"
    held = RunDirectory(directory, CONFIG)
    with pytest.raises(InvalidValueError, match="in use by another process"):
        require_resumable(directory, CONFIG)
    with pytest.raises(InvalidValueError, match="in use by another process"):
        RunDirectory(directory, CONFIG, resume=True)
    program = (
        "import sys; from experiments.records.run_directory import RunDirectory; "
        f"run = RunDirectory({str(directory)!r}, {CONFIG!r}, resume=True); print('open', flush=True); sys.stdin.read()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, input="")
    assert "in use by another process" in done.stderr
    held.close()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "open\n"
    with pytest.raises(InvalidValueError, match="in use by another process"):
        require_resumable(directory, CONFIG)
    process.kill()
    process.communicate()
    require_resumable(directory, CONFIG)


def test_only_the_run_itself_is_continued(run, tmp_path):
    require_resumable(tmp_path / "new", CONFIG)
    require_resumable(run.path, CONFIG | {"logger": {"name": "wandb"}})
    with pytest.raises(InvalidValueError, match=r"agent.tau=0.2: the run in .* has 0.1"):
        require_resumable(run.path, CONFIG | {"agent": {"name": "sac", "tau": 0.2}})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InvalidValueError, match="holds other files"):
        require_resumable(tmp_path / "other", CONFIG)
    (run.path / "config.yaml").write_text("a: [")
    with pytest.raises(InvalidValueError, match=r"config.yaml is damaged"):
        require_resumable(run.path, CONFIG)
    # A process that was killed while it made the directory has left nothing.
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").touch()
    require_resumable(tmp_path / "begun", CONFIG)
    RunDirectory(tmp_path / "begun", CONFIG).close()
    assert yaml.safe_load((tmp_path / "begun" / "config.yaml").read_text()) == CONFIG


def test_a_summary_that_cannot_be_read_is_no_finished_run(run):
    assert finished_summary(run.path) is None
    run.write_summary(run.summary("interrupted", {}))
    assert finished_summary(run.path) is None
    (run.path / "summary.json").write_text('{"status": "fin')
    with pytest.raises(InvalidValueError, match=r"summary.json is damaged"):
        finished_summary(run.path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["pickle", "lone array", "object array", "yaml"])
def test_a_crafted_file_cannot_execute_anything(run, tmp_path, form):
    """Sums that fit do not help: arrays and JSON are read, and nothing else is understood."""
    target = tmp_path / "exploded"
    crafted = run.checkpoints.all()[0]
    state = crafted / "state.npz"
    if form == "pickle":
        state.write_bytes(pickle.dumps(Bomb(target)))
    elif form == "lone array":
        with state.open("wb") as file:
            np.save(file, np.arange(3))
    elif form == "object array":
        np.savez(state, **{"state/x": np.array([Bomb(target)], dtype=object)})
    else:
        (run.path / "config.yaml").write_text(f"seed: !!python/object/apply:os.mkdir ['{target}']")
        with pytest.raises(InvalidValueError, match=r"config.yaml is damaged"):
            require_resumable(run.path, CONFIG)
        assert not target.exists()
        return
    manifest = json.loads((crafted / "manifest.json").read_text())
    sums = {"bytes": state.stat().st_size, "sha256": hashlib.sha256(state.read_bytes()).hexdigest()}
    manifest["files"]["state.npz"] = sums
    (crafted / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UnusableError, match="holds other things than arrays"):
        dict(find_start(run.path, CONFIG).arrays())
    policy = run.path / "policy"
    policy.mkdir()
    shutil.copy(state, policy / "arrays.npz")
    (policy / "policy.json").write_text('{"hidden_sizes": [8]}')
    with pytest.raises(ValueError):
        load_policy(run.path)
    assert not target.exists()
