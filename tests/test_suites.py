"""What the suites are listed by, and what is said of a name that is in none."""

import importlib.util
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import envs
from experiments import suites
from remac.validation import InvalidValueError


def test_the_command_lists_every_task_by_what_it_lacks(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dm_control" else find(name))
    monkeypatch.setattr("envs.brax.missing", lambda task: "needs wings" if task == "ant" else None, raising=False)
    suites.main([])
    blocks = re.findall(
        r"^(\S+?)/<task>, (1(?= task\b)|(?!1 )\d+(?= tasks\b)) tasks?(.*):\n((?:  .*\n)+)",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    listed = {
        f"{suite}/{task}": (reason, int(number)) for suite, number, reason, found in blocks for task in found.split()
    }
    assert sorted(listed) == sorted(envs.names())
    assert listed["brax/ant"] == ("; needs wings", 1) and listed["brax/hopper"] == ("", len(envs.names("brax")) - 1)
    reason, number = listed["dmc/dog-run"]
    assert "pip install -c constraints.txt -e '.[dmc]'" in reason and number == len(envs.names("dmc"))
    suites.main(["suite=gymnasium"])
    assert capsys.readouterr().out == "gymnasium/<id>: whatever is registered\n"


def test_what_can_be_stepped_in_several_ways_says_so():
    assert envs.ways_to_step("gymnasium/Pendulum-v1") == ({"vectorization": "sync"}, {"vectorization": "processes"})
    assert envs.ways_to_step("probe/action") == ({},)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("mujoco/cheetah", "mujoco/half_cheetah"),
        ("HalfCheetah", "brax/halfcheetah"),
        ("playground/CartpoleBalnce", "playground/CartpoleBalance"),
        ("dmc/walker_walk", "dmc/walker-walk"),
        ("dmc", "must be dmc/<task>; python -m experiments.suites suite=dmc"),
        ("atari/zzz", "no such environment; python -m experiments.suites lists all"),
    ],
)
def test_an_unknown_name_is_refused_in_one_short_line(name, close):
    with pytest.raises(InvalidValueError) as error:
        envs.make(name, num_envs=1)
    line = str(error.value)
    assert line.startswith(f"name={name}: no such environment") and close in line and len(line) < 250


def test_a_suite_as_the_guide_writes_it_refuses_options_that_it_does_not_know(monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "environment.md").read_text()
    module = types.ModuleType("envs.my")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if block.startswith("TASKS"))
    exec(compile(code, "a page", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "envs.my", module)
    monkeypatch.setattr(envs, "SUITES", (*envs.SUITES, "my"))
    with pytest.raises(InvalidValueError, match="foo=1: no such option; there are episode_length, stagger_first"):
        envs.make("my/pendulum", num_envs=1, foo=1)


def test_mujoco_simulates_where_what_it_would_render_with_is_not_there():
    program = "import envs, os; env = envs.make('mujoco/hopper', num_envs=1); print(os.environ['MUJOCO_GL'], env.dt)"
    environment = os.environ | {"MUJOCO_GL": "nowhere", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.returncode == 0 and run.stdout.startswith("nowhere 0.008"), run.stderr
