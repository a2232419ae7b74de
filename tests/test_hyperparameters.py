"""A hyperparameter is declared once; an agent is one file, one registry line and one YAML."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from flax import struct
from hydra.errors import HydraException
from omegaconf import OmegaConf
from pages import blocks
from slow import fast_are

from agents import AGENTS, SAC, ReMAC
from experiments.reference import pages
from experiments.running.config import agent_config, compose_job, first_difference
from remac.hyperparameters import Hyperparameter, hyperparameters, integer, number
from remac.validation import InvalidValueError

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "env=probe/action", "total_env_steps=96", "prefill_env_steps=32", "eval_every_env_steps=48", "num_eval_episodes=2",
    "agent.batch_size=8", "agent.hidden_sizes=[8]",
)  # fmt: skip


@pytest.mark.parametrize("name", AGENTS)
def test_a_schema_has_what_the_agent_declares(name):
    declared = hyperparameters(AGENTS[name])
    assert [field.name for field in dataclasses.fields(agent_config(name))] == ["name", *declared]
    with pytest.raises(Exception, match="not be converted"):
        OmegaConf.merge(OmegaConf.structured(agent_config(name)), {"learning_rate": "much"})
    for key, one in declared.items():
        one.check(key, one.default)  # a default is allowed
        assert one.meaning and one.allowed and "\n" not in one.meaning + one.allowed


@pytest.mark.parametrize("name", fast_are(1, sorted(AGENTS, key=["remac", *AGENTS].index)))
def test_every_hyperparameter_of_the_command_line_reaches_the_agent(name):
    """Numbers by another number, so that one that is not passed on shows."""
    for key, one in hyperparameters(AGENTS[name]).items():
        if one.type is float and one.is_leaf:
            job = compose_job([f"agent={name}", "env=probe/action", f"agent.{key}=0.125"])
            assert getattr(job.agent, key) == 0.125 and job.config["agent"][key] == 0.125


def test_tuned_values_are_the_agents_then_all_agents_then_the_defaults():
    env = ["env=brax/hopper"]  # gamma and tau for all, learning rate and batch size for some, activation of the suite
    sac, remac, td3 = (compose_job([f"agent={name}", *env]).agent for name in ("sac", "remac", "td3"))
    for agent in (sac, remac, td3):
        assert (float(agent.gamma), agent.activation) == (pytest.approx(0.995), "tanh")
    assert (sac.batch_size, remac.batch_size, td3.batch_size) == (128, 512, 256)
    given = compose_job(["agent=td3", *env, "agent.gamma=0.5", "+env.tuned.protocol.td3.batch_size=7"]).agent
    assert (float(given.gamma), given.batch_size) == (0.5, 7)


def test_a_task_says_only_what_differs_from_what_all_tasks_have():
    for setting in ("protocol", "modern"):
        of_all = yaml.safe_load((ROOT / f"conf/tuned/{setting}/common.yaml").read_text())
        files = {path: yaml.safe_load(path.read_text()) for path in (ROOT / f"conf/tuned/{setting}").glob("*.yaml")}
        for path in (ROOT / "conf/env").glob("*/[a-z]*.yaml"):
            files[path] = yaml.safe_load(path.read_text())["env"].get("tuned", {}).get(setting, {})
        for path, owners in files.items():
            for owner, values in owners.items() if path.name != "common.yaml" else ():
                for key, value in values.items():
                    assert of_all.get(owner, {}).get(key) != value, f"{path}: {owner}.{key}"


def test_one_key_chooses_between_the_protocols_and_the_modern_values_on_every_suite():
    for task, retries in {"mujoco/half_cheetah": "remac", "brax/halfcheetah": "sac"}.items():
        protocol, modern = (
            compose_job([f"env={task}", f"agent={retries}", f"setting={setting}"]) for setting in ("protocol", "modern")
        )
        assert (protocol.agent.batch_size, protocol.agent.hidden_sizes) == (512, (64, 64))
        assert float(protocol.agent.gamma) == pytest.approx(0.98) and float(modern.agent.gamma) == pytest.approx(0.99)
        assert (protocol.config["num_envs"], protocol.config["prefill_env_steps"]) == (128, 10_000)
        assert protocol.agent.target_update_period == 128 and modern.agent.target_update_period == 1
        assert (protocol.config["updates_per_round"], modern.config["updates_per_round"]) == (128, 32)
    assert compose_job(["env=brax/halfcheetah"]).config["setting"] == "protocol"
    assert compose_job(["env=mujoco/half_cheetah"]).config["setting"] == "modern"
    of_task = compose_job(["env=mujoco/walker2d", "setting=protocol"]).config
    assert (of_task["prefill_env_steps"], of_task["replay_capacity"]) == (8192, 1048576)
    own = compose_job(["env=mujoco/walker2d", "num_envs=3"]).config
    assert (own["num_envs"], own["updates_per_round"]) == (3, 6)
    for setting in ("paper", "null"):
        with pytest.raises(InvalidValueError, match=r"setting=\S+: must be one of protocol, modern"):
            compose_job([f"setting={setting}"])


def test_a_setting_decides_by_agent_whether_first_episodes_are_staggered():
    def is_staggered(*overrides):
        return compose_job(overrides).config["env"]["options"]["stagger_first_episodes"]

    staggered = {name for name in AGENTS if is_staggered(f"agent={name}", "total_env_steps=1000000")}
    assert staggered == {"remac", "sac", "td3"}
    for others in ("setting=protocol", "env=brax/halfcheetah", "env.options.stagger_first_episodes=false"):
        assert is_staggered(others) is False
    assert is_staggered("env=mujoco/hopper") is True
    key = "env.tuned.modern.training.stagger_first_episodes"
    with pytest.raises(InvalidValueError, match=rf"{key}=3: must be true or false"):
        compose_job([f"{key}=3"])


def test_the_reference_pages_are_what_the_code_says():
    for name, text in pages().items():
        assert (ROOT / "docs" / name).read_text() == text, "run python -m experiments.reference"


def test_the_gradient_steps_of_a_round_are_whole():
    key = "env.tuned.modern.training.updates_per_env_step"
    job = compose_job([f"{key}=0.5"])
    assert job.config["updates_per_round"] == 8 and job.train_config.updates_per_round == 8
    for ratio in (0.3, 0.01):
        with pytest.raises(InvalidValueError, match=rf"{key}={ratio}: must make a whole number .* 16 of a round"):
            compose_job([f"{key}={ratio}"])


def test_a_value_that_an_agent_has_of_its_own_is_named_as_such():
    own = "env.tuned.modern.sac.training"
    with pytest.raises(InvalidValueError, match=rf"{re.escape(own)}\.updates_per_env_step=0\.3: must make a whole"):
        compose_job(["agent=sac", f"+{own}={{updates_per_env_step:0.3}}"])


def test_bad_tuned_values_are_named():
    with pytest.raises(InvalidValueError, match=r"env\.tuned\.modern\.all\.depth=3: no such key; .*gamma"):
        compose_job(["+env.tuned.modern.all.depth=3"])


def test_a_run_of_before_a_hyperparameter_was_declared_is_the_same_run():
    config = compose_job(["env=probe/action"]).config
    before = config | {"agent": {key: value for key, value in config["agent"].items() if key != "num_steps"}}
    before["env"] = {"suite": "probe", "task": "action", "options": config["env"]["options"], "remac": {"gamma": 0.9}}
    assert first_difference(before, config) is None
    changed = config | {"agent": config["agent"] | {"num_steps": 3}}
    assert first_difference(before, changed) == ("agent.num_steps", 1, 3)


def test_a_run_of_before_a_key_or_an_option_was_there_is_the_same_run():
    config = compose_job(["env=probe/action"]).config
    options = config["env"] | {"options": config["env"]["options"] | {"later": None}}
    before = {key: value for key, value in config.items() if key not in ("split_batch", "num_eval_retries")}
    assert first_difference(config | {"env": options}, before) is None
    assert first_difference(config | {"split_batch": True}, before) == ("split_batch", True, False)


def test_what_float32_and_int32_cannot_hold_is_refused():
    for override in (
        *("agent.target_update_period=3000000000", "agent.value_max=3e38", "agent.value_min=999.99999999"),
        "agent.actor_adam_epsilon=1e-40",  # 0 in a program
    ):
        with pytest.raises(InvalidValueError, match="must be"):
            compose_job(["agent=td3", "env=probe/action", "agent.value_min=-3e38", override])


def test_weights_that_float32_cannot_hold_are_refused():
    with pytest.raises(InvalidValueError, match=r"rank_weights=.*: must be finite in float32"):
        ReMAC.create(1, 1, objective=[1e39, 0.0], num_retries=2, num_samples=4)


def test_an_agent_of_ones_own_may_extend_any_other_with_whole_and_other_numbers():
    @struct.dataclass
    class Mine(ReMAC):
        weight: float = number(1, "a number whose default is whole", 0, 10).field()
        period: int = integer(3, "an integer", is_leaf=True).field()
        bonus: float = number(None, "what make_fields must make something of").field()
        ARGUMENTS: ClassVar[dict[str, Hyperparameter]] = {"courage": number(1.0, "what it is made from")}

        @classmethod
        def make_fields(cls, values):
            return super().make_fields(values) | {"bonus": values["bonus"] or values["courage"]}

    agent = Mine.create(3, 1, weight=0.5, courage=2.0, num_retries=2)
    assert (float(agent.weight), int(agent.period), float(agent.bonus)) == (0.5, 3, 2.0)
    assert agent.weight.dtype == np.float32 and agent.period.dtype == np.int32

    @struct.dataclass
    class Careless(SAC):
        bonus: float = number(None, "what nothing makes something of").field()

    with pytest.raises(InvalidValueError, match=r"bonus=None: Careless.make_fields must make a number of it"):
        Careless.create(3, 1)


@pytest.mark.slow
def test_a_new_agent_is_one_file_one_registry_line_and_one_yaml(tmp_path):
    """That which the page shows."""
    program, entries = (blocks(ROOT / "docs/agent.md", language)[0] for language in ("python", "yaml"))
    for folder in ("agents", "conf", "envs", "experiments", "remac"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("results", "__pycache__"))
    (tmp_path / "agents/mine.py").write_text(program)
    registry = tmp_path / "agents/__init__.py"
    line = 'AGENTS["mine"] = __import__("agents.mine", fromlist=["Mine"]).Mine'
    registry.write_text(registry.read_text() + line + "\n")
    (tmp_path / "conf/agent/mine.yaml").write_text(entries)

    def train(*arguments):
        command = [sys.executable, "-m", "experiments.train", "agent=mine", *TINY, *arguments]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    outcome = train("agent.boldness=0.25", "hydra.run.dir=run")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["agent"]
    assert (config["name"], config["boldness"], config["learning_rate"]) == ("mine", 0.25, 1e-3)
    refused = train("agent.boldness=-1")
    assert refused.returncode == 2 and re.search(r"agent\.boldness=-1(\.0)?: must be", refused.stderr)


def test_the_class_that_has_an_agents_name_now_is_the_one_whose_keys_are_known(monkeypatch):
    @struct.dataclass
    class Other(SAC):
        boldness: float = number(1.0, "of this test", 0, 1, is_leaf=False).field()

    bold = ["env=probe/action", "agent=sac", "agent.boldness=0.5"]
    with monkeypatch.context() as patch:
        patch.setitem(AGENTS, "sac", Other)
        assert compose_job(bold).agent.boldness == 0.5
    with pytest.raises(HydraException, match="boldness"):
        compose_job(bold)
