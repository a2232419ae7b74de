"""Suite ``start``: seconds from the shell's prompt to the first gradient step of the default command."""

import io
import os
import re
import subprocess
import sys
import tempfile
import time

from experiments.benchmark import timing
from experiments.comparing.drawing import Row

SMALL = ("env=probe/action", "prefill_env_steps=1000", "agent.hidden_sizes=[8,8]")
# The default command has prefilled the replay by then, and made its first gradient steps.
TRAINING = 1_024


def run(size: str, repeats: int) -> list[Row]:
    """Starts the default command with an empty compilation cache, and again with the cache that this filled.

    Returns:
        One row for the first and one for the second start. The progress bar tells the moment, which moves once a
        second, so the seconds are too large by up to one.
    """
    overrides = () if size == "full" else SMALL
    seconds: dict[str, list[float]] = {"empty": [], "filled": []}
    for _ in timing.turns(["start"], repeats):
        with tempfile.TemporaryDirectory() as cache:
            for measured in seconds.values():
                measured.append(_first_step_seconds(cache, overrides))
    return [{"cache": name} | timing.summary(measured, "first_step_seconds") for name, measured in seconds.items()]


def _first_step_seconds(cache: str, overrides: tuple[str, ...]) -> float:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # which would win
        command = [sys.executable, "-m", "experiments.train", f"hydra.run.dir={directory}/run", *overrides]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        assert isinstance(process.stderr, io.BufferedReader)
        told = b""
        try:
            while chunk := process.stderr.read1():
                told += chunk
                if any(int(env_steps) >= TRAINING for env_steps in re.findall(rb"(\d+)/\d+ env steps", told)):
                    return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()
    raise RuntimeError(told.decode(errors="replace"))
