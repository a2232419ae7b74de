"""The command `python -m experiments.train` from end to end, and what it leaves in the run directory."""

import csv
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from PIL import Image, ImageSequence

import envs
from experiments.records.files import read_metrics
from experiments.records.run_directory import RunDirectory, require_unused
from experiments.running.config import compose_job
from experiments.running.jobs import run_jobs
from experiments.running.planning import PlannedJob
from remac.policies.policy import load_policy, save_policy
from remac.training.devices import MemberSplit
from remac.training.evaluation import Evaluator
from remac.training.loop import stack_members
from remac.training.pacing import Pacer
from remac.validation import InvalidValueError

QUICK = (
    "total_env_steps=256",
    "prefill_env_steps=64",
    "eval_every_env_steps=128",
    "num_eval_episodes=4",
    "num_envs=8",
    "agent.hidden_sizes=[8]",
    "agent.batch_size=16",
)
EVALUATION = {
    *("eval/return", "eval/return_stochastic", "eval/episode_length", "eval/entropy"),
    *("eval/max_at_1", "eval/max_at_2", "eval/max_at_4", "eval/median", "eval/cvar_25"),
}
MEASURED = {"forward_velocity", "control_cost", "healthy", "height"}
EVALUATION |= {f"eval/env/{name}" for name in MEASURED}
TRAINING = {
    *(f"env/{name}" for name in MEASURED),
    *("actor/entropy", "actor/gaussian_entropy", "actor/pre_tanh_std", "actor/saturation", "actor/tanh_slope"),
    "actor/loss",
    *("actor/grad_norm", "actor/update_norm", "actor/log_std_gradient", "actor/raises_std"),
    *("actor/adam_denominator_median", "actor/epsilon_dominated_fraction"),
    *("critic/loss", "critic/q_mean", "critic/grad_norm"),
}
TIMING = {"time/env_steps_per_second", "time/evaluation_seconds", "time/num_members"}


def command(module, *arguments, cwd, **options):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments], capture_output=True, text=True, cwd=cwd, **options
    )


HOPPER = ("env=mujoco/hopper", "agent=sac", "seed=3", *QUICK)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on MuJoCo by the real command."""
    directory = tmp_path_factory.mktemp("runs")
    done = command("train", *HOPPER, f"hydra.run.dir={directory / 'a'}", cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory / "a", done


def rows(directory):
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_directory_says_what_ran_and_what_came_out(finished):
    directory, done = finished
    assert sorted(path.name for path in directory.iterdir()) == [
        *("config.yaml", "metrics.csv", "plots", "policy", "provenance.json", "summary.json")
    ]
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert config["seed"] == 3 and config["agent"]["name"] == "sac" and config["updates_per_round"] == 16
    assert "${" not in (directory / "config.yaml").read_text()
    provenance = json.loads((directory / "provenance.json").read_text())
    assert provenance["versions"]["jax"] == jax.__version__
    assert "agent=sac" in provenance["command"] and provenance["device"]["platform"] == "cpu"
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["status"], summary["env_steps"], summary["gradient_steps"]) == ("finished", 256, 384)
    for name in ("return", "entropy", "std"):
        assert np.asarray(Image.open(directory / "plots" / f"{name}.png")).std() > 5
    lines = done.stdout.strip().splitlines()
    assert "replay of 256 rows a member" in lines[0]
    assert lines[-1] == f"run directory: {directory}"


def test_every_metric_is_there_at_every_evaluation(finished):
    directory, _ = finished
    assert list(rows(directory)[0]) == ["env_steps", "gradient_steps", "wall_seconds", "name", "value"]
    names = {}
    for row in rows(directory):
        names.setdefault((int(row["env_steps"]), int(row["gradient_steps"])), set()).add(row["name"])
    assert list(names) == [(0, 0), (128, 128), (256, 384)]
    assert names[0, 0] == EVALUATION | {"time/evaluation_seconds", "time/num_members"}
    everything = EVALUATION | TRAINING | TIMING | {"temperature", "env/diverged"}
    assert names[128, 128] - {"train/episode_return"} == everything
    assert names[256, 384] == everything | {"train/episode_return"}, "hopper has fallen at least once by now"


def test_equal_commands_give_equal_files_but_for_the_time(finished, tmp_path):
    """The second in this process."""
    directories = finished[0], tmp_path / "b"
    run_jobs([PlannedJob(compose_job(list(HOPPER)), directories[1], "sweep", HOPPER)])

    def without_time(directory):
        return [
            (row["env_steps"], row["gradient_steps"], row["name"], row["value"])
            for row in rows(directory)
            if not row["name"].startswith("time/")
        ]

    assert without_time(directories[0]) == without_time(directories[1])
    arrays = [np.load(directory / "policy" / "arrays.npz") for directory in directories]
    for name in arrays[0].files:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name])


def test_the_bar_shows_steps_rate_return_and_entropy(finished):
    _, done = finished
    last = done.stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert re.search(r"100%.*256/256 env steps \[.*step/s, return=-?[\d.]+, entropy=-?[\d.]+\]", last)


def test_the_policy_acts_as_it_was_evaluated(finished, run_module):
    """`evaluate` loads the policy and finds the return that training logged for the same starts."""
    directory, _ = finished
    policy = load_policy(directory)
    action = policy(np.zeros((5, 11), np.float32))
    assert action.shape == (5, 3) and np.abs(action).max() <= 1
    assert not np.allclose(policy(jnp.zeros((5, 11)), jax.random.key(0)), action)
    status, out, err = run_module("evaluate", f"run={directory}", "num_episodes=4")
    assert status == 0, err
    assert out.startswith("policy after 256 env steps, 4 episodes\n")
    printed = dict(re.findall(r"(eval/[\w/]+) +(-?[\d.]+)", out))
    assert set(printed) == EVALUATION
    stored = json.loads((directory / "evaluation.json").read_text())["metrics"]
    assert all(abs(float(printed[name]) - stored[name]) < 1e-3 for name in printed)
    # With the key that training's last evaluation had, the loaded policy gets the returns that training logged.
    key = jax.random.fold_in(jax.random.key(1_000_003), 256)
    env = envs.make("mujoco/hopper", num_envs=4)
    again = Evaluator(env, MemberSplit(1))(stack_members([policy]), key, Pacer(lambda: None))
    logged = json.loads((directory / "summary.json").read_text())["metrics"]
    assert {name: logged[name] for name in again} == {name: float(values[0]) for name, values in again.items()}
    (directory / "evaluation.json").unlink()


@pytest.mark.parametrize("damage", ["missing", "no policy", "cut short", "pickle"])
def test_evaluate_refuses_what_is_not_a_run(finished, run_module, tmp_path, damage):
    directory = tmp_path / "run"
    if damage != "missing":
        directory.mkdir()
        (directory / "config.yaml").write_text((finished[0] / "config.yaml").read_text())
    if damage in ("cut short", "pickle"):
        save_policy(load_policy(finished[0]), directory / "policy")
        file = directory / "policy" / "arrays.npz"
        if damage == "cut short":
            file.write_bytes(file.read_bytes()[:500])
        else:
            np.savez(file, **{"params/mean/bias": np.array([_Bomb(tmp_path / "exploded")], dtype=object)})
    status, out, err = run_module("evaluate", f"run={directory}")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1 and err.startswith(f"run={directory}: is not a ")
    assert not (tmp_path / "exploded").exists()


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_evaluate_films_the_policy(finished, run_module):
    directory, _ = finished
    status, out, err = run_module("evaluate", f"run={directory}", "num_episodes=4", "render=true", "render_steps=30")
    assert status == 0, err
    if "no video" in err:
        pytest.skip(err)
    film = Image.open(directory / "video.gif")
    assert 1 < film.n_frames <= 6 and np.asarray(film.convert("RGB")).std() > 5
    milliseconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(film))
    seconds = float(re.search(r"\(([0-9.]+) s in real time", out)[1])  # as long as the policy stays up
    assert 1000 * seconds == pytest.approx(milliseconds, abs=20) and seconds <= 30 * 0.008
    (directory / "video.gif").unlink()
    (directory / "evaluation.json").unlink()


@pytest.mark.slow
def test_a_sweep_gives_every_job_its_directory_and_offline_wandb_run(tmp_path):
    arguments = ["-m", "env=probe/action", *QUICK, "agent.num_retries=1,4", "logger=wandb", "logger.mode=offline"]
    environment = os.environ | {f"WANDB_{name}_DIR": str(tmp_path / "w") for name in ("CONFIG", "CACHE", "DATA")}
    done = command("train", *arguments, f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "sweep").glob("*/summary.json"))
    assert len(runs) == 2 and done.stdout.count("wandb sync ") == 2
    for number, summary in enumerate(runs):
        config = yaml.safe_load((summary.parent / "config.yaml").read_text())
        assert config["agent"]["num_retries"] == (1, 4)[number]
        assert list(summary.parent.glob("wandb/offline-run-*/*.wandb"))


def test_used_directories_are_refused(tmp_path):
    require_unused(tmp_path)
    require_unused(tmp_path / "new")
    run = RunDirectory(tmp_path / "new", {"seed": 0})
    run.log(8, 0, {"eval/return": 1.5})
    run.log(16, 4, {"eval/return": 2.5, "critic/loss": 0.1})
    assert read_metrics(run.path) == {"eval/return": ([8, 16], [1.5, 2.5]), "critic/loss": ([16], [0.1])}
    with pytest.raises(InvalidValueError, match="in use by another process"):
        RunDirectory(tmp_path / "new", {})
    run.close()
    with pytest.raises(InvalidValueError, match="holds a run already"):
        RunDirectory(tmp_path / "new", {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InvalidValueError, match="holds other files"):
        require_unused(tmp_path / "other")
    with pytest.raises(InvalidValueError, match="is a file"):
        require_unused(tmp_path / "other" / "thesis.tex")
