"""Waiting for what happens elsewhere, on a machine of any speed."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

LIBRARIES = ("jaxlib", "ml_dtypes", "msgpack", "libmujoco")  # of a training that starts, in their order
DEADLINE_SECONDS = 1200  # only ends a test that would hang


def wait_until(happened: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Waits until something has happened, at most as long as the process lives from which it must come.

    Args:
        happened: Asked again and again.
        process: Its end, before it has happened, fails the test.

    Raises:
        AssertionError: If the process ends, or nothing happens for ``DEADLINE_SECONDS``.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not happened():
        assert process is None or process.poll() is None or happened(), f"ended first, with {process.returncode}"
        assert time.monotonic() < deadline, f"has not happened in {DEADLINE_SECONDS} s"
        time.sleep(0.02)


def has_loaded(process: subprocess.Popen, library: str) -> bool:
    """Returns whether a process has loaded a library whose path holds these letters."""
    return library in Path("/proc", str(process.pid), "maps").read_text()


def end(process: subprocess.Popen) -> tuple[str, str]:
    """Waits for the end of a process, and returns what it printed; kills it if it does not come."""
    try:
        return process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
