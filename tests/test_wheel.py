"""The wheel holds `remac` and nothing else, and works beside a package that has the repository's other names."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("agents", "envs", "experiments", "conf")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt")
# From the repository nothing may be found by accident.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command, cwd, status=0):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def build(kind, source):
    """Makes ``wheel`` or ``sdist`` with the backend that installers call; its requirements are installed here."""
    program = f"import setuptools.build_meta as backend; backend.build_{kind}('dist')"
    run(sys.executable, "-c", program, cwd=source)
    return next(Path(source, "dist").glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the repository, since building leaves files."""
    folder = tmp_path_factory.mktemp("sources")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in ("remac", *NAMES):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    return folder


@pytest.fixture(scope="module")
def wheel(sources):
    return build("wheel", sources)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A wheel of somebody's with the same names, and with modules and files that have the names of ours."""
    folder = tmp_path_factory.mktemp("theirs")
    for name in NAMES:
        (folder / name).mkdir()
        for module in ("__init__", "base", "probe", "train"):
            (folder / name / f"{module}.py").write_text('WHOSE = "theirs"\n')
    (folder / "conf/train.yaml").write_text("whose: theirs\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "theirs"\nversion = "1"\n[tool.setuptools]\npackages = {list(NAMES)}\n'
        'package-data = { conf = ["*.yaml"] }\n'
    )
    return build("wheel", folder)


def content(archive):
    with zipfile.ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_all_of_it_is_below_remac(sources, wheel):
    files = content(wheel)
    assert {name.split("/")[0] for name in files} == {"remac", "remac-0.1.0.dist-info"}
    assert files["remac-0.1.0.dist-info/top_level.txt"] == b"remac\n"
    for name in NAMES:
        kept = [path.relative_to(sources) for path in (sources / name).rglob("*") if path.is_file()]
        assert len(kept) > 5 and {f"remac/{path}" for path in kept} <= set(files)
    modules = {name.removesuffix(".py").removesuffix("/__init__") for name in files if name.endswith(".py")}
    for name in files:
        for node in ast.walk(ast.parse(files[name]) if name.endswith(".py") else ast.Module([])):
            for imported in imports(node):
                package = imported.split(".")[0]
                assert package not in NAMES, f"{name} imports {imported}"
                assert package != "remac" or imported.replace(".", "/") in modules, f"{name} imports {imported}"


def imports(node):
    """Returns the modules that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return [node.module]
    return [one.name for one in node.names] if isinstance(node, ast.Import) else []


def test_an_sdist_gives_the_same_wheel(sources, wheel, tmp_path):
    with tarfile.open(build("sdist", sources)) as file:
        file.extractall(tmp_path, filter="data")
    assert content(build("wheel", tmp_path / "remac-0.1.0")) == content(wheel)


@pytest.fixture
def site(tmp_path):
    """An empty virtual environment that sees what is installed here; returns its folder of programs."""
    venv.create(tmp_path / "venv", with_pip=True)
    paths = {base: str(tmp_path / "venv") for base in ("base", "platbase")}
    packages = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    Path(sysconfig.get_path("purelib", vars=paths), "dependencies.pth").write_text("\n".join(packages))
    return tmp_path / "venv/bin"


BOTH = """
import sys
import agents, envs, experiments, conf, agents.base, envs.probe, experiments.train
from pathlib import Path
for module in (agents, envs, experiments, conf, agents.base, envs.probe, experiments.train):
    assert module.WHOSE == "theirs", module
assert Path(conf.__file__).with_name("train.yaml").read_text() == "whose: theirs\\n"
assert sorted(path.name for path in Path(agents.__file__).parent.glob("*.py")) == [
    "__init__.py", "base.py", "probe.py", "train.py"]
if sys.argv[1:]:
    from remac import envs
    from remac.agents import ReMAC
    from remac.experiments.running.config import compose_job
    assert type(compose_job(["env=probe/action"]).agent) is ReMAC
    assert envs.make("probe/action", num_envs=2).action_size == 1
    assert Path(envs.__file__).is_relative_to(sys.prefix)
"""

# All but the scripts that run where another library is installed.
EVERY_MODULE = """
import importlib, pkgutil, sys, remac
found = [one.name for one in pkgutil.walk_packages(remac.__path__, "remac.") if ".peers." not in one.name]
for name in found:
    importlib.import_module(name)
assert len(found) > 100 and not {"agents", "envs", "experiments", "conf"} & set(sys.modules)
from remac.experiments.records.provenance import ROOT, training_sources
folders = {path.relative_to(ROOT).parts[0] for path in training_sources()}
assert {"agents", "envs", "training"} <= folders and not {"experiments", "conf"} & folders
"""


@pytest.mark.slow
def test_it_is_safe_beside_packages_of_the_same_names(site, wheel, theirs, sources, tmp_path):
    python, remac, away = site / "python", site / "remac", tmp_path / "away"
    away.mkdir()

    def pip(*arguments):
        # What is installed where these tests run may hold another remac, which must count for nothing.
        quiet = ("--disable-pip-version-check", "--no-index", "--no-deps")
        run(python, "-m", "pip", "install", *quiet, "--no-build-isolation", "--ignore-installed", *arguments, cwd=away)

    def remove(package):
        run(python, "-m", "pip", "uninstall", "-y", package, cwd=away)

    pip(theirs)
    pip(wheel)
    run(python, "-c", BOTH, "ours", cwd=away)
    remove("remac")
    run(python, "-c", BOTH, cwd=away)
    remove("theirs")
    pip(wheel)
    pip(theirs)
    run(python, "-c", BOTH, "ours", cwd=away)
    run(python, "-c", EVERY_MODULE, cwd=away)

    listed = run(remac, "--help", cwd=away).stdout
    assert "train" in listed and "evaluate" in listed
    short = ("env=probe/action", "total_env_steps=256", "prefill_env_steps=128", "num_eval_episodes=2")
    run(remac, "train", *short, "hydra.run.dir=run", cwd=away)
    assert (away / "run/policy").is_dir()
    assert "return" in run(remac, "evaluate", "run=run", "num_episodes=2", cwd=away).stdout
    told = run(remac, "train", "env=nothing", cwd=away, status=2).stderr
    assert "remac suites" in told and "experiments" not in told
    as_module = run(python, "-m", "remac.experiments.train", "agent.num_retries=17", cwd=away, status=2)
    assert "agent.num_retries=17" in as_module.stderr
    assert sorted(path.name for path in away.iterdir()) == ["run"]

    # An editable installation has the names of the repository.
    remove("theirs")
    remove("remac")
    remove("setuptools")  # an old one, which Python 3.11 gives every environment
    pip("-e", sources)
    where = "import agents, envs, experiments.train; print(agents.__file__, envs.__file__, experiments.train.__file__)"
    assert run(python, "-c", where, cwd=away).stdout.count(str(sources)) == 3
    assert "train" in run(remac, "--help", cwd=away).stdout
    assert "num_retries=17" in run(remac, "train", "agent.num_retries=17", cwd=away, status=2).stderr
