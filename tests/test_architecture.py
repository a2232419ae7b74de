"""Imports point one way: experiments -> agents, envs -> remac."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "remac": {"remac"},
    "agents": {"agents", "remac"},
    "envs": {"envs", "remac"},
    "experiments": {"experiments", "agents", "envs", "remac"},
}
FORBIDDEN_OUTSIDE_EXPERIMENTS = {"hydra", "omegaconf", "wandb", "tqdm", "matplotlib"}
MODULES = [path for package in ALLOWED for path in (ROOT / package).rglob("*.py")]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in set(ALLOWED) - ALLOWED[package], f"imports {name}"
        assert package == "experiments" or top not in FORBIDDEN_OUTSIDE_EXPERIMENTS, f"imports {name}"
        assert not (package == "remac" and top in ("brax", "mujoco", "gymnasium")), f"imports {name}"
        assert not name.startswith("jax._src"), f"imports {name}"


def test_starting_is_quick():
    """What costs seconds is imported where it is used."""
    heavy = ["brax", "wandb", "matplotlib", "orbax", "gymnasium", "scipy.stats"]
    program = f"import sys, experiments.train; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"

    def seconds(modules):
        times = []
        for _ in range(2):
            started = time.monotonic()
            subprocess.run([sys.executable, "-c", f"import {modules}"], cwd=ROOT, check=True)
            times.append(time.monotonic() - started)
        return min(times)

    needed = seconds("jax, flax.linen, optax, hydra, mujoco, numpy, scipy.special")
    assert seconds("experiments.train") < 1.5 * needed + 1
