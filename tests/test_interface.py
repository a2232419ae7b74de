import subprocess
import sys
from pathlib import Path

import remac
from experiments.__main__ import commands

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
