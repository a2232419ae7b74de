"""Policies of saved runs are evaluated: several at once, on other options, with every episode's outcome."""

import csv
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from experiments.console.key_value import split_folders
from experiments.records.run_directory import RunDirectory
from experiments.running.config import compose_job
from experiments.running.hydra_main import FLAGS_WITH_VALUES
from remac.policies.policy import save_policy


@pytest.fixture
def make_run(tmp_path):
    """Makes a run of which only the policy is there; it always acts the same, by the tanh of a number."""

    def make(name, pre_tanh, task="probe/action", env_steps=8):
        job = compose_job([f"env={task}", "agent=td3", "agent.hidden_sizes=[4]", "agent.exploration_noise=0.25"])
        RunDirectory(tmp_path / name, job.config).close()
        policy = job.agent.policy(jax.eval_shape(job.agent.init, jax.random.key(0)))
        parameters = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), policy.parameters)
        parameters["params"]["mean"]["bias"] += pre_tanh
        parameters["constants"]["noise"] += 0.25
        normalizer = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), policy.normalizer)
        policy = replace(policy, parameters=parameters, normalizer=normalizer)
        save_policy(policy, tmp_path / name / "policy", env_steps=env_steps)
        return tmp_path / name

    return make


def test_runs_and_folders_of_runs_are_evaluated_together(make_run, run_module, tmp_path):
    """Reward -(a - sign / 2)^2 with a of 0 gives -0.25, whatever the sign."""
    one, zero, comma = make_run("sweep/0_one", 40.0), make_run("sweep/1_zero", 0.0), make_run("a,b", 0.0, env_steps=9)
    (tmp_path / "sweep" / "2_begun").mkdir()
    (tmp_path / "sweep" / "2_begun" / "config.yaml").write_bytes((zero / "config.yaml").read_bytes())
    arguments = ["num_episodes=6", "num_retries=3", "episodes=out/all.csv"]
    status, out, err = run_module("evaluate", 'run=[sweep,sweep/1_zero,"a,b"]', *arguments)
    assert status == 0, err
    assert err == "warning: sweep/2_begun: holds no policy yet, left out\n"
    assert run_module("evaluate", "sweep", "sweep/1_zero", "a,b", *arguments) == (status, out, err), "without the key"
    first, second, third, mean, table = out.splitlines()
    assert first.startswith("sweep/0_one: policy after 8 env steps, 6 episodes: eval/return -")
    assert second.startswith("sweep/1_zero: ") and third.startswith("a,b: policy after 9 env steps")
    assert "eval/return -0.250," in second and "of 3 runs" in mean and table == "out/all.csv"

    with (tmp_path / table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 6
    assert [(row["start"], row["retry"]) for row in rows[:6]] == [(str(s), str(r)) for s in (0, 1) for r in (0, 1, 2)]
    for directory in (one, zero, comma):
        name = str(directory.relative_to(tmp_path))
        metrics = json.loads((directory / "evaluation.json").read_text())["metrics"]
        returns = {
            actions: [float(row["return"]) for row in rows if (row["run"], row["actions"]) == (name, actions)]
            for actions in ("mean", "sampled")
        }
        assert np.mean(returns["mean"]) == pytest.approx(metrics["eval/return"])
        assert np.mean(returns["sampled"]) == pytest.approx(metrics["eval/return_stochastic"])
        medians = np.median(np.array(returns["sampled"]).reshape(2, 3), axis=1)
        assert metrics["eval/per_start/median"] == pytest.approx(medians.mean()) and len(set(returns["sampled"])) > 2
        by_start = np.array(returns["mean"]).reshape(2, 3)
        np.testing.assert_allclose(by_start, by_start[:, :1].repeat(3, axis=1), err_msg="retries of one start")
    assert {row["length"] for row in rows} == {"1"}


def test_runs_are_found_by_links_and_what_is_in_them_is_none(make_run, run_module, tmp_path):
    run = make_run("elsewhere/run", 0.0)
    other = make_run("sweep/0", 0.0)
    (other / "wandb" / "files").mkdir(parents=True)
    (other / "wandb" / "files" / "config.yaml").write_bytes((other / "config.yaml").read_bytes())
    (tmp_path / "sweep" / "1").symlink_to(run)
    status, out, err = run_module("evaluate", "sweep", "num_episodes=2")
    assert (status, err) == (0, "") and [line.split(":")[0] for line in out.splitlines()[:2]] == ["sweep/0", "sweep/1"]


def test_a_film_of_several_runs_replaces_none_of_theirs(make_run, run_module):
    for name in (".", "1"):
        make_run(name, 0.0, "mujoco/reacher")
    for film in ([], ["film=1/video.gif"]):
        status, out, err = run_module("evaluate", ".", "1", "render=true", *film)
        assert (status, out, len(err.splitlines())) == (2, "", 1) and "is the film of one of these runs" in err, err


def test_a_policy_meets_other_options_of_its_environment(make_run, run_module):
    """A reward of 1 a step until the time limit, which is an option."""
    run = make_run("run", 0.0, "probe/truncation")
    for options, expected in ([], 5.0), (["+env.options.episode_length=3"], 3.0):
        status, out, err = run_module("evaluate", "run=run", "num_episodes=2", *options)
        assert status == 0 and f"eval/return {expected:25.3f}" in out, err or out
        content = json.loads((run / "evaluation.json").read_text())
        assert content["options"] == ({"episode_length": 3} if options else {})
        assert content["metrics"]["eval/return"] == expected


def test_a_policy_of_nan_is_refused_and_one_episode_is_no_several(make_run, run_module):
    run = make_run("nan", float("nan"))
    status, out, err = run_module("evaluate", run)
    assert (status, out) == (2, "") and err == f"run={run}: {run / 'policy'} holds parameters that are not finite\n"
    status, out, err = run_module("evaluate", make_run("zero", 0.0), "num_episodes=1")
    assert status == 0 and "8 env steps, 1 episode\n" in out


def test_what_a_task_refuses_is_said_as_it_is(make_run, run_module):
    run = make_run("run", 0.0)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["env"]["options"]["gravity"] = 1
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    status, _, err = run_module("evaluate", run)
    assert status == 2 and err.startswith("env.options.gravity=1: no such option; there are ")


def test_folders_are_what_is_given_without_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    arguments = ["-m", "a", "--cfg", "job", "a=b", "num_episodes=1,2", "~/c", "~env", "--resolve", "d/"]
    others = ["-m", "--cfg", "job", "num_episodes=1,2", "~env", "--resolve"]
    assert split_folders(arguments, FLAGS_WITH_VALUES) == (["a", "a=b", "~/c", "d/"], others)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["run: has no value; must be given"]),
        (["run=[]"], ["run=[]: must name at least one"]),
        (["nowhere"], ["run=nowhere: is not a run directory", "nor a folder that holds some"]),
        (["run", "run=nowhere"], ["run=nowhere: must be given once; run is another"]),
        (["run=[run,nowhere]"], ["run=nowhere: is not a run directory", "nor a folder that holds some"]),
        (["run=runs/a,b"], ["needs quotes", "[...] for a list"]),
        (["run={a:1}"], ["must be a directory, or a list"]),
        (["run=run", "num_episodes=0"], ["num_episodes=0", "at least 1"]),
        (["run=run", "policy=first"], ["policy=first: must be one of last, best"]),
        (["run=run", "policy=best"], ["policy=best: run keeps none", "checkpoint.keep_best=true"]),
        (["run=run", "episodes=run"], ["episodes=run: is a folder"]),
        (
            ["run=run", "episodes=run/config.yaml"],
            ["episodes=run/config.yaml: is a file that the run there is known by"],
        ),
        (["run=run", "film=one.gif", "render=true"], ["film=one.gif: is of several runs", "run/video.gif"]),
        (["~/nowhere"], ["nowhere: is not a run directory"]),
        (["run=run", "+env.options.gravity=1"], ["env.options.gravity=1: no such option; there are", "episode_length"]),
        (["run=run", "env.options.episode_length=1"], ["given as +env.options.episode_length=1"]),
        (["run=run", "+env.options.episode_length=0"], ["env.options.episode_length=0", "at least 1"]),
        (["run=run", "+env.options.num_envs=3"], ["env.options.num_envs=3: is set by another key"]),
    ],
)
def test_bad_input_is_one_line(make_run, run_module, arguments, words):
    make_run("run", 0.0)
    status, out, err = run_module("evaluate", *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    assert all(word in err for word in words), err
