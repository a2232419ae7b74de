"""Virtual environments for what is compared or compiled, from the package index."""

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmark import timing

DIRECTORY = Path("runs", "benchmark", "environments")


def install(directory: Path, requirements: Sequence[str]) -> str | None:
    """Makes a virtual environment unless it is complete; returns the error's last line, if any."""
    complete = directory / "complete"
    if complete.exists():
        return None
    print(f"installing {' '.join(requirements)} into {directory}", file=sys.stderr)
    venv.create(directory, clear=True, with_pip=True)
    pip = [str(python(directory)), "-m", "pip"]
    outcome = subprocess.run([*pip, "install", "--quiet", *requirements], capture_output=True, text=True)
    if outcome.returncode:
        return timing.last_line(outcome.stderr)
    complete.write_text(subprocess.run([*pip, "freeze"], capture_output=True, text=True).stdout)
    return None


def python(directory: Path) -> Path:
    """Returns the interpreter of a virtual environment."""
    return directory / "bin" / "python"


def packages(directory: Path) -> str:
    """Returns where a virtual environment keeps its packages, for the search path of another interpreter."""
    return str(next(directory.glob("lib/python*/site-packages"), directory).resolve())
