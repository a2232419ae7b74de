"""What a run depends on besides its configuration: command, commit, code, device and versions."""

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

# Another version of these can give other numbers.
NUMERICAL_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "brax", "gymnasium"),
    *("dm-control", "mujoco-mjx", "playground", "warp-lang", "gymnasium-robotics"),  # those of optional suites
)
PACKAGES = (*NUMERICAL_PACKAGES, "hydra-core", "wandb", "remac")
TRAINING_SOURCES = ("remac", "agents", "envs")
ROOT = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).resolve().relative_to(ROOT)
# Variables by which whoever calls, such as a hook of git's, names a repository that is not this one.
_CALLERS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE")


def provenance() -> dict[str, Any]:
    """Returns what a run depends on besides its configuration."""
    device = jax.local_devices()[0]
    commit, reason = _own_commit()
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        **({} if reason is None else {"no_commit": reason}),
        "code": training_code()["code"],
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.local_device_count()},
        "machine": {"system": platform.platform(), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
    }


@functools.cache
def training_code() -> dict[str, str | None]:
    """Returns what a training's numbers come from besides its configuration.

    Returns:
        ``code``, the SHA-256 sum (its first 16 digits) of the sources of ``TRAINING_SOURCES``, and the version of each
        of ``NUMERICAL_PACKAGES``.
    """
    total = hashlib.sha256()
    for path in sorted(training_sources()):
        content = path.read_bytes()
        total.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return {"code": total.hexdigest()[:16], **{name: version(name) for name in NUMERICAL_PACKAGES}}


def training_sources() -> set[Path]:
    """Returns the files that a training's numbers come from, in a repository or an installed wheel."""
    if (ROOT / "remac").is_dir():
        return {path for folder in TRAINING_SOURCES for path in (ROOT / folder).rglob("*.py")}
    return set(ROOT.rglob("*.py")) - set((ROOT / "experiments").rglob("*.py"))  # a wheel: all is below remac


@functools.cache
def _own_commit() -> tuple[str | None, str | None]:
    return commit_of(ROOT)


def commit_of(root: Path) -> tuple[str | None, str | None]:
    """Finds the commit of a source tree or of an installation, never that of a repository around it.

    Args:
        root: The folder that holds the packages: a repository's, or that of the library in an installed wheel.

    Returns:
        The commit, marked if the tree has changes, and None; or None, and why.
    """
    # git looks at this folder alone, since above it is somebody else's. A run that is killed must not leave a lock.
    environment = {name: value for name, value in os.environ.items() if name not in _CALLERS}
    environment |= {"GIT_CEILING_DIRECTORIES": str(root.parent), "LC_ALL": "C"}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=environment)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", str(_HERE))  # in a repository of something else it is not
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"), None
    except FileNotFoundError:
        reason = "git is not installed"
    except subprocess.CalledProcessError as error:
        reason = next(iter(error.stderr.splitlines()), f"git ended with status {error.returncode}")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
    installed = _installed_commit(root)
    return installed, None if installed else reason


def _installed_commit(root: Path) -> str | None:
    """Returns the commit that an installer fetched the package from, if it noted one."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        installed = importlib.metadata.distribution("remac")
        if Path(str(installed.locate_file("remac"))).resolve() == root:  # where a wheel has everything
            commit = json.loads(installed.read_text("direct_url.json") or "{}")["vcs_info"]["commit_id"]
            return commit if isinstance(commit, str) else None
    return None


def version(package: str = "remac") -> str | None:
    """Returns the version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
