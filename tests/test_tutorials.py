"""The tutorials of several commands run as they stand, but for sizes, and leave what they say."""

import re
import shlex
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from pages import blocks, commands

from experiments import sweep
from experiments.running.config import compose_job, hydra_anew, register_schemas
from experiments.running.hydra_launcher import register_launcher

DOCS = Path(__file__).parent.parent / "docs"
SMALL = {
    "env": "probe/truncation",
    "seed": "range(0,2)",
    "total_env_steps": "120",
    "eval_every_env_steps": "80",
    "prefill_env_steps": "40",
    "num_eval_episodes": "2",
    "num_envs": "4",
    "agent.hidden_sizes": "[8]",
    "agent.batch_size": "8",
}


def of_module(page, module):
    """Returns the arguments of the page's commands of a module."""
    return [list(arguments) for name, *arguments in commands(DOCS / page) if name == f"experiments.{module}"]


def made_small(arguments):
    """Replaces sizes and task of a training, and sets those that it leaves as they are."""
    kept = [one for one in arguments if one.partition("=")[0] not in SMALL]
    return [*kept, *("=".join(setting) for setting in SMALL.items())]


@pytest.mark.slow
def test_the_ablation_runs_and_leaves_what_its_page_reads(run_module, tmp_path):
    (training,) = of_module("epsilon.md", "train")
    status, out, err = run_module("train", *made_small(training))
    assert status == 0 and "8 members" in out, err
    for module in ("plot", "claims", "report"):
        (arguments,) = of_module("epsilon.md", module)
        status, out, err = run_module(module, *arguments)
        assert status == 0, err
        if module == "claims":
            assert "fewer than 2 finished seeds with this metric: M=1 at epsilon 0.01, M=8 at epsilon 0.01" in out
    named = re.findall(r"^- `(\w+\.png)`", (DOCS / "epsilon.md").read_text(), re.MULTILINE)
    assert len(named) == 2 and all((tmp_path / "figures" / name).is_file() for name in named)
    assert (tmp_path / "epsilon.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("page", "sizes"), [("epsilon.md", [16, 16]), ("cluster.md", [16])])
def test_presets_of_tutorials_are_planned(page, sizes, tmp_path):
    """As many runs as the grid has; of one seed, since each is composed."""
    register_schemas()
    ConfigStore.instance().store(name="sweep_schema", node=sweep.SweepConfig)
    found = []
    for arguments in of_module(page, "sweep"):
        with hydra_anew():
            config = hydra.compose("sweep", [*arguments, "seeds=[0]"])
            found.append(len(sweep.plan(config, "adam_epsilon", tmp_path)))
    assert found == sizes


def test_jobs_of_a_cluster_are_composed():
    """The script's training, for each task that is submitted, and each launcher's settings."""
    script, submission = blocks(DOCS / "cluster.md", "bash")[:2]
    assert script.startswith("#!/bin/bash\n#SBATCH --gpus=1")
    tasks = re.search("for task in (.*); do sbatch job.sh", submission)[1].split()
    training, *others = of_module("cluster.md", "train")
    for task in tasks:
        given = [
            one.replace("$1", task).split(",")[0] for one in training if not one.startswith(("-m", "hydra", "seed"))
        ]
        assert compose_job(given).env.name == f"brax/{task}"
    launchers = set()
    for arguments in others:
        chosen = [one for one in arguments if one.startswith("hydra/launcher=") or one.startswith("hydra.launcher.")]
        register_schemas()
        register_launcher()
        with hydra_anew():
            config = hydra.compose("train", chosen, return_hydra_config=True)
        launchers.add(config.hydra.launcher._target_.rpartition(".")[2])
        for one in chosen:
            key, _, value = one.partition("=")
            if "." in key:
                assert str(config.hydra.launcher[key.rpartition(".")[2]]) == value
    assert launchers == {"PopulationLauncher", "JoblibLauncher", "SlurmLauncher"}
    assert shlex.split(script.replace("\\\n", " ").splitlines()[-1])[0] == "exec"
