"""Imports point one way: experiments -> agents, envs -> remac."""

import ast
import graphlib
import subprocess
import sys
import textwrap
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
COMMANDS = ROOT / "remac/__main__.py"  # only what ``python -m remac`` and the script start
MODULES = [path for package in ALLOWED for path in (ROOT / package).rglob("*.py") if path != COMMANDS]


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


# All that a training needs before its first step.
NEEDED = "jax, flax.linen, optax, chex, hydra, mujoco, numpy, scipy.special, tqdm, psutil"


def test_starting_loads_nothing_that_can_wait():
    """What costs seconds is imported where it is used."""
    heavy = ["brax", "wandb", "matplotlib", "orbax", "gymnasium", "scipy.stats"]
    program = f"""
    import sys, {NEEDED}
    needed = set(sys.modules)
    import experiments.train
    packages = lambda names: {{name.partition(".")[0] for name in names}}
    print(sorted(packages(sys.modules) - packages(needed) - set(sys.stdlib_module_names)))
    print([name for name in {heavy} if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == f"{sorted(ALLOWED)}\n[]"


# Each may import those before it; ``remac`` and the two packages below ``experiments`` are judged above.
ROOMS = {
    "remac": ["estimators", "policies", "training"],
    "experiments": ["console", "records", "comparing", "running"],
}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_those_below_them(package):
    rooms = ROOMS[package]
    for path in (ROOT / package).rglob("*.py"):
        room = path.relative_to(ROOT / package).parts[0]
        if room in rooms:
            above = [f"{package}.{name}" for name in rooms[rooms.index(room) + 1 :]]
            for name in imported(path):
                assert not any(name == other or name.startswith(f"{other}.") for other in above), f"{path}: {name}"


def test_no_imports_run_in_a_circle():
    """Those within functions count: what needs one to be late is in the wrong file."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}

    def files(path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in names else node.module for name in found)

    graph = {name: {other for other in files(path) if other in names} for name, path in names.items()}
    assert sum(map(len, graph.values())) > 400
    graphlib.TopologicalSorter(graph).prepare()  # raises if there is a circle
