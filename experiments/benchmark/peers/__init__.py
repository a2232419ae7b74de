"""Suite ``peers``: the same training by other libraries, each in a virtual environment of its own.

Task, network (two layers of 64), batch (512), update-to-data ratio (1) and device are the same for all. Each script
here but ``ours`` runs in its peer's environment and imports nothing of this repository. A script takes the number of
environments and the seconds to measure, and prints one line of JSON with the environment steps per second, compilation
and prefill not counted.
"""

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np

from experiments.benchmark import timing
from experiments.comparing.drawing import Row

SCRIPTS = Path(__file__).parent
# What each peer's own instructions install, and gymnasium's MuJoCo tasks.
REQUIREMENTS = {
    "sbx": ["sbx-rl", "gymnasium[mujoco]"],
    "stable_baselines3": ["stable-baselines3", "gymnasium[mujoco]"],
    # With gymnax 1 rejax 0.1.2 does not step Brax's environments.
    "rejax": ["rejax==0.1.2", "gymnax<0.1", "brax"],
}
# Task of ours, number of environments, and who runs it.
COMPARISONS = (
    ("mujoco/half_cheetah", 128, ("sbx", "stable_baselines3")),
    ("mujoco/half_cheetah", 1, ("sbx", "stable_baselines3")),
    ("brax/halfcheetah", 128, ("rejax",)),
)


def run(
    size: str, repeats: int, only: tuple[str, ...] = tuple(REQUIREMENTS), directory: Path | None = None
) -> list[Row]:
    """Installs the peers that are not yet there, and runs them and ours in turn.

    Args:
        size: ``full`` measures 10 s each, ``small`` 1 s.
        repeats: Runs of each.
        only: The peers.
        directory: Where their environments are made.

    Returns:
        Rows with steps per second, and ``ours_over_peer``, the median over the turns of our rate over the peer's. A
        peer that does not install or run has its last line of output in ``error`` instead.
    """
    directory = directory or Path("runs", "benchmark", "environments")
    errors = {peer: install(peer, directory / peer) for peer in only}
    seconds = 10.0 if size == "full" else 1.0
    rows: list[Row] = []
    for task, num_envs, names in COMPARISONS:
        peers = [name for name in names if name in only]
        if not peers:
            continue
        rates: dict[str, list[float]] = {"ours": [], **{peer: [] for peer in peers}}
        for name in timing.turns(list(rates), repeats):
            if errors.get(name):
                continue
            python = sys.executable if name == "ours" else str(_python(directory / name))
            outcome = _measure(name, python, num_envs, seconds, task)
            if isinstance(outcome, float):
                rates[name].append(outcome)
            else:
                errors[name] = outcome
        for name, measured in rates.items():
            row: Row = {"task": task, "envs": num_envs, "who": name}
            if len(measured) == repeats and len(rates["ours"]) == repeats:
                ratios = np.array(rates["ours"]) / np.array(measured)
                row |= timing.summary(measured, "env_steps_per_second")
                row |= timing.summary(ratios.tolist(), "ours_over_peer")
            rows.append(row | {"error": errors.get(name) or ""})
    return rows


def install(peer: str, directory: Path) -> str | None:
    """Makes a peer's virtual environment unless it is complete; returns the error's last line, if any."""
    complete = directory / "complete"
    if complete.exists():
        return None
    print(f"installing {peer} into {directory}", file=sys.stderr)
    venv.create(directory, clear=True, with_pip=True)
    arguments = [str(_python(directory)), "-m", "pip", "install", "--quiet", *REQUIREMENTS[peer]]
    outcome = subprocess.run(arguments, capture_output=True, text=True)
    if outcome.returncode:
        return timing.last_line(outcome.stderr)
    frozen = subprocess.run([str(_python(directory)), "-m", "pip", "freeze"], capture_output=True, text=True)
    complete.write_text(frozen.stdout)
    return None


def _python(directory: Path) -> Path:
    return directory / "bin" / "python"


def _measure(name: str, python: str, num_envs: int, seconds: float, task: str) -> float | str:
    """Returns steps per second, or the last line of what went wrong."""
    script = ["-m", f"{__name__}.ours"] if name == "ours" else [str(SCRIPTS / f"{name}.py")]
    outcome = timing.measure_apart([python, *script, str(num_envs), str(seconds), task])
    return outcome if isinstance(outcome, str) else float(outcome["env_steps_per_second"])
