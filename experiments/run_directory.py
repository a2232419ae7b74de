"""The files of one run: configuration, provenance, metrics, summary, plots and policy."""

import csv
import datetime
import functools
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import yaml

from remac.types import InvalidValueError

CONFIG, PROVENANCE, METRICS, SUMMARY = "config.yaml", "provenance.json", "metrics.csv", "summary.json"
PLOTS, POLICY = "plots", "policy"
METRIC_COLUMNS = ("env_steps", "gradient_steps", "wall_seconds", "name", "value")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "brax", "gymnasium", "hydra-core", "wandb", "remac")


def require_unused(directory: Path | str) -> None:
    """Requires that a run directory does not exist yet, or is empty.

    Raises:
        InvalidValueError: If it is neither.
    """
    path = Path(directory)
    if path.exists() and not path.is_dir():
        raise InvalidValueError("hydra.run.dir", directory, "is a file; must be a new or an empty directory")
    if path.is_dir() and any(path.iterdir()):
        what = "holds a run already" if (path / CONFIG).exists() else "holds other files"
        raise InvalidValueError("hydra.run.dir", directory, f"{what}; must be a new or an empty directory")


class RunDirectory:
    """Writes one run. Metrics are on disk after every evaluation."""

    def __init__(self, path: Path | str, config: Mapping[str, Any]) -> None:
        """Makes the directory, and writes what the run is.

        Raises:
            InvalidValueError: If the directory is in use.
        """
        require_unused(path)
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        (self.path / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False))
        self._write_json(PROVENANCE, provenance())
        with (self.path / METRICS).open("w", newline="") as file:
            csv.writer(file).writerow(METRIC_COLUMNS)

    def log(self, env_steps: int, gradient_steps: int, metrics: Mapping[str, float]) -> None:
        """Appends metrics, in the order given."""
        wall_seconds = f"{time.monotonic() - self._started:.3f}"
        with (self.path / METRICS).open("a", newline="") as file:
            csv.writer(file).writerows(
                (env_steps, gradient_steps, wall_seconds, name, repr(float(value))) for name, value in metrics.items()
            )

    def write_summary(self, status: str, metrics: Mapping[str, float], **details: Any) -> dict[str, Any]:
        """Writes how the run ended, and its last metrics; returns what it wrote."""
        summary = {
            "status": status,
            "wall_seconds": round(time.monotonic() - self._started, 3),
            **details,
            "metrics": {name: float(value) for name, value in metrics.items()},
        }
        self._write_json(SUMMARY, summary)
        return summary

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        (self.path / name).write_text(json.dumps(content, indent=2) + "\n")


def provenance() -> dict[str, Any]:
    """Returns what a run depends on besides its configuration."""
    device = jax.local_devices()[0]
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git_commit(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.local_device_count()},
        "machine": {"system": platform.platform(), "python": platform.python_version()},
        "versions": {name: _version(name) for name in PACKAGES},
    }


def read_metrics(directory: Path | str) -> dict[str, tuple[list[int], list[float]]]:
    """Reads ``metrics.csv``: for every name its env steps and values, in the order of writing."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    with (Path(directory) / METRICS).open(newline="") as file:
        for row in csv.DictReader(file):
            steps, values = series.setdefault(row["name"], ([], []))
            steps.append(int(row["env_steps"]))
            values.append(float(row["value"]))
    return series


@functools.cache
def _git_commit() -> str | None:
    """Returns the commit of the source tree, marked if it has changes, or None where there is no git."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
