"""What a run depends on besides its configuration: command, commit, device and versions."""

import datetime
import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "brax", "gymnasium", "hydra-core", "wandb", "remac")


def provenance() -> dict[str, Any]:
    """Returns what a run depends on besides its configuration."""
    device = jax.local_devices()[0]
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git_commit(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.local_device_count()},
        "machine": {"system": platform.platform(), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
    }


@functools.cache
def _git_commit() -> str | None:
    """Returns the commit of the source tree, marked if it has changes, or None where there is no git."""
    root = Path(__file__).resolve().parents[2]
    # Without its locks: a run that is killed must not leave one in the source tree.
    command = [
        "git",
        "--no-optional-locks",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def version(package: str = "remac") -> str | None:
    """Returns the version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
