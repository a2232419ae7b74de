"""What the README and the pages show runs as it stands: Python, but for the length of trainings, and command lines."""

import importlib
import re
import sys
import types
from pathlib import Path

import pytest
from pages import blocks, commands

import envs
from experiments.running.config import compose_job
from remac.types import Environment

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a page needs that is not installed with the tests, or stands for something of the reader's.
NOT_HERE = ("<", "$1", "my_package", "gymnasium_robotics", "env=playground")


def first_of_each(override):
    """Makes one job's override of a sweep's."""
    key, _, values = override.partition("=")
    if (found := re.fullmatch(r"range\((\d+),.*\)", values)) or (
        found := re.fullmatch(r"interval\(([^,]*),.*\)", values)
    ):
        return f"{key}={found[1]}"
    return override if values.startswith("[") else f"{key}={values.split(',')[0]}"


@pytest.mark.parametrize("command", dict.fromkeys(one for page in PAGES for one in commands(page)), ids=" ".join)
def test_command_lines_are_understood(command):
    module, *arguments = command
    assert importlib.util.find_spec(module), "is no module"
    if module != "experiments.train" or any(mark in " ".join(arguments) for mark in NOT_HERE):
        return
    overrides = [first_of_each(one) for one in arguments if one not in ("-m", "--cfg", "job", "--resolve")]
    compose_job([one for one in overrides if not one.startswith(("hydra", "resume"))])


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = {page.name: blocks(page, "python") for page in PAGES}
    assert {name: len(found) for name, found in shown.items() if found} == {
        "README.md": 1,
        "agent.md": 1,  # test_hyperparameters trains it
        "environment.md": 3,
        "python.md": 4,
    }
    assert shown["README.md"][0] == shown["python.md"][0]
    namespace = {}
    for block in shown["python.md"] + shown["environment.md"]:
        short = (
            block.replace("20_000", "1_100")
            .replace("5_000", "500")
            .replace("num_envs=16)", "num_envs=4, episode_length=20)", 1)
        )
        short = short.replace("updates_per_round=16", "updates_per_round=1")
        short = short.replace("num_samples=8)", "num_samples=8, hidden_sizes=(8,), batch_size=16)")
        exec(compile(short, "a page", "exec"), namespace)
    assert namespace["action"].shape == (3,)
    assert capsys.readouterr().out.startswith("0 ")

    # The environment on the device trains as well, and the one on the host begins anew at its time limit.
    env, agent = namespace["env"], namespace["ReMAC"].create(3, 1, batch_size=8, hidden_sizes=(8,))
    config = namespace["TrainConfig"](
        total_env_steps=64, updates_per_round=1, prefill_env_steps=16, eval_every_env_steps=64, num_eval_episodes=1
    )
    result = namespace["train"](agent, env, config, namespace["jax"].random.key(0))
    assert -4000 < result.evaluations[-1].metrics["eval/return"] < 0

    assert namespace["make"](namespace["TASKS"][0], num_envs=2, episode_length=7).episode_length == 7

    # With the module and the file of its last two blocks it is a suite of the command line.
    (values,) = blocks(ROOT / "docs" / "environment.md", "yaml")
    (tmp_path / "env" / "my").mkdir(parents=True)
    (tmp_path / "env" / "my" / "_suite.yaml").write_text(values)
    module = types.ModuleType("envs.my")
    vars(module).update(namespace)
    monkeypatch.setitem(sys.modules, "envs.my", module)
    monkeypatch.setattr(envs, "SUITES", (*envs.SUITES, "my"))
    job = compose_job(["env=my/pendulum", f"hydra.searchpath=[remac-tasks://,file://{tmp_path}]"])
    assert (job.env.name, job.env.episode_length, job.config["setting"]) == ("my/pendulum", 200, "modern")
    assert (job.config["total_env_steps"], job.train_config.num_eval_episodes) == (100_000, 16)

    walk, jax, np = namespace["Walk"](num_envs=3), namespace["jax"], namespace["np"]
    state = walk.reset(jax.random.split(jax.random.key(0), 2), group_size=3)
    assert isinstance(walk, Environment) and len(np.unique(state.observation)) == 2
    for step in range(1, walk.episode_length + 1):
        state = walk.step(state, np.ones((2, 3, 1)))
        assert (state.truncation == (step == walk.episode_length)).all()
    assert (state.final_observation > 3).all() and (abs(state.observation) < 1).all()
    assert len(np.unique(state.observation)) == 6


def test_every_block_of_code_is_one_that_a_test_takes():
    """Commands, Python, and the one file of configuration; text is what a command prints."""
    found = {(page.name, language) for page in PAGES for language in re.findall(r"^```(.+)$", page.read_text(), re.M)}
    others = {(name, language) for name, language in found if language not in ("bash", "python")}
    of_files = {("environment.md", "yaml"), ("agent.md", "yaml")}  # the latter in test_hyperparameters
    assert others == of_files | {("README.md", "bibtex"), ("sweeps.md", "text")}


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_all_metrics_are_in_the_table():
    files = [*ROOT.glob("agents/*.py"), *ROOT.glob("remac/**/*.py"), ROOT / "experiments/running/recorder.py"]
    names = {
        name for file in files for name in re.findall(r'"((?:actor|critic|eval|train|time)/\w+)"', file.read_text())
    }
    table = (ROOT / "docs" / "training.md").read_text().partition("## Metrics")[2].partition("## Resume")[0]
    assert len(names) > 20 and not {name for name in names if f"`{name}`" not in table}


def test_the_readme_fits_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
