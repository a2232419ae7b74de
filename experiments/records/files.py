"""What the files of a run directory are called, and how they are read."""

import contextlib
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.records.checkpoints import sha256
from remac.validation import InvalidValueError

CONFIG, PROVENANCE, METRICS, SUMMARY = "config.yaml", "provenance.json", "metrics.csv", "summary.json"
PLOTS, POLICY, PLAN = "plots", "policy", "plan.json"
LOCK = ".lock"  # of a folder of runs: the process that holds it is at work there
FREE_KEYS = ("logger", "checkpoint", "resume")  # of the configuration, that may change when a run is resumed
METRIC_COLUMNS = ("env_steps", "gradient_steps", "wall_seconds", "name", "value")


def is_begun(directory: Path | str) -> bool:
    """Whether a directory holds a run, however far it came."""
    with contextlib.suppress(OSError):
        return (Path(directory) / CONFIG).stat().st_size > 0  # 0: a process was killed while it wrote its first file
    return False


def finished_summary(directory: Path | str) -> dict[str, Any] | None:
    """Returns the summary of a run that has finished, None for any other.

    Raises:
        InvalidValueError: If the summary cannot be read.
    """
    path = Path(directory) / SUMMARY
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text())
        return summary if summary["status"] == "finished" else None
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidValueError("resume", directory, f"{path} is damaged; restore or remove that file") from None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a configuration with dotted keys, as on the command line."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def metrics_fit(directory: Path | str, position: Mapping[str, Any]) -> bool:
    """Whether ``metrics.csv`` begins with what it was at a position that ``RunDirectory.position`` returned."""
    path, size = Path(directory) / METRICS, position["metrics_bytes"]
    return path.is_file() and path.stat().st_size >= size and sha256(path, size) == position["metrics_sha256"]


def read_records(directory: Path | str) -> tuple[list[tuple[int, int, float, str, float]], int]:
    """Reads ``metrics.csv``: its lines, in the order of ``METRIC_COLUMNS`` and of writing, and how many are damaged.

    A process that was killed can leave half a line.
    """
    records, damaged = [], 0
    with (Path(directory) / METRICS).open(newline="") as file:
        lines = csv.reader(file)
        next(lines, None)
        for line in lines:
            try:
                env_steps, gradient_steps, wall_seconds, name, value = line
                records.append((int(env_steps), int(gradient_steps), float(wall_seconds), name, float(value)))
            except ValueError:
                damaged += 1
    return records, damaged


def read_metrics(directory: Path | str) -> dict[str, tuple[list[int], list[float]]]:
    """Reads for every name of ``metrics.csv`` its env steps and values, in the order of writing."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for env_steps, _, _, name, value in read_records(directory)[0]:
        steps, values = series.setdefault(name, ([], []))
        steps.append(env_steps)
        values.append(value)
    return series


def read_config(directory: Path | str) -> dict[str, Any]:
    """Reads the configuration of a run.

    Raises:
        InvalidValueError: If there is none that can be read.
    """
    path = Path(directory) / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InvalidValueError("resume", directory, f"holds no run (no {path.name} in it)") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidValueError("resume", directory, f"{path} is damaged ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict):
        raise InvalidValueError("resume", directory, f"{path} is damaged; restore that file")
    return config
