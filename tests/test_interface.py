import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import remac
from agents import AGENTS
from experiments.__main__ import commands
from remac.policies import normalization
from remac.policies.networks import PolicyParameters
from remac.policies.policy import Policy

ROOT = Path(__file__).resolve().parent.parent


def test_every_public_name_is_there_and_loaded_when_it_is_used():
    for name in remac.__all__:
        assert getattr(remac, name) is not None
    assert set(remac.__all__) <= set(dir(remac))
    try:
        remac.nothing  # noqa: B018
    except AttributeError as error:
        assert "nothing" in str(error)
    else:
        raise AssertionError("a name that is not there")


def test_the_estimators_load_little_but_jax():
    heavy = ["flax", "scipy", "mujoco", "brax", "optax", "gymnasium", "hydra", "matplotlib"]
    program = (
        "import sys, remac.estimators as e, remac.estimators.rescaling, jax.numpy as jnp; "
        "print(e.max_at_k(jnp.arange(3.0), 2)); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    value, modules = found.stdout.split("\n")[:2]
    assert abs(float(value) - (0 / 3 + 1 / 3 + 2 * 2 / 3)) < 1e-6 and modules == "[]"


def test_one_command_lists_and_runs_the_others():
    assert {"train", "evaluate", "sweep", "plot", "report", "claims", "toy", "benchmark"} <= set(commands())
    assert all(commands().values())
    listed = subprocess.run([sys.executable, "-m", "experiments", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert listed.returncode == 0 and all(name in listed.stdout for name in commands())
    refused = subprocess.run([sys.executable, "-m", "experiments", "fly"], capture_output=True, text=True, cwd=ROOT)
    assert refused.returncode == 2 and "command=fly: no such command; there are benchmark" in refused.stderr
    one = [sys.executable, "-m", "experiments", "claims"]
    run = subprocess.run(one, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 2 and "directories=none" in run.stderr


def test_the_console_script_finds_modules_where_the_person_stands(tmp_path):
    """As python -m does; a script's own first place for modules is the folder that it is in."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/remac").write_text("from experiments.__main__ import main\n\nmain()\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/my_tasks.py").write_text("")
    command = [sys.executable, str(tmp_path / "bin/remac"), "train", "env=gymnasium/my_tasks:Mine-v0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "here", env=environment)
    assert run.returncode == 2 and "env=gymnasium/my_tasks:Mine-v0: is not registered" in run.stderr


def test_sizes_from_numpy_are_plain_numbers(tmp_path):
    given = {"hidden_sizes": (np.int64(4),), "normalize_observations": np.bool_(True), "mean_max": np.float32(2)}
    agent = AGENTS["sac"].create(np.int64(3), np.prod((2, 1)), **given)
    assert agent == AGENTS["sac"].create(3, 2, hidden_sizes=(4,), normalize_observations=True, mean_max=2.0)
    policy = agent.policy(agent.init(jax.random.key(0)))
    remac.save_policy(policy, tmp_path)
    observation = np.ones(3)
    np.testing.assert_array_equal(remac.load_policy(tmp_path)(observation), policy(observation))


def test_policies_of_a_population_are_saved_one_by_one(tmp_path):
    agent = AGENTS["sac"].create(3, 2, hidden_sizes=(4,))
    policies = jax.vmap(lambda key: agent.policy(agent.init(key)))(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(ValueError, match=r"of a population, save one member at a time, such as jax.tree.map"):
        remac.save_policy(policies, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
    remac.save_policy(jax.tree.map(lambda leaf: leaf[0], policies), tmp_path / "policy")


def test_a_saved_policy_acts_with_jax_alone(tmp_path):
    """Of every head and norm; its bits are those that it had where it was trained."""
    observation = np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)
    settings = {"none": {"mean_max": 2.0}, "layer": {}, "batch": {}}
    expected = []
    for name, norm in [("remac", "none"), ("sac", "layer"), ("td3", "batch")]:
        agent = AGENTS[name].create(3, 2, hidden_sizes=(8,), policy_norm=norm, **settings[norm])
        network = agent.policy_network
        variables = PolicyParameters(network).init(jax.random.key(0), observation)
        policy = Policy(variables, normalization.init(3), 3, network, True)
        remac.save_policy(policy, tmp_path / name)
        expected.append(np.asarray(jax.jit(Policy.__call__)(policy, observation)).tobytes().hex())
    heavy = ["flax", "optax", "scipy", "mujoco", "brax", "gymnasium", "hydra", "agents", "envs"]
    program = (
        "import sys, jax, numpy as np, remac\n"
        "observation = np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)\n"
        "for name in ('remac', 'sac', 'td3'):\n"
        f"    policy = remac.load_policy(f'{tmp_path}/{{name}}')\n"
        "    print(np.asarray(jax.jit(lambda policy, one: policy(one))(policy, observation)).tobytes().hex())\n"
        "assert policy(observation, jax.random.key(0)).shape == (4, 2)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.splitlines() == [*expected, "[]"]
