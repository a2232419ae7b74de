"""Keeps long work responsive: control goes back to the caller at short intervals, whatever the work's speed."""

import time
from collections.abc import Callable
from typing import TypeVar

import jax

T = TypeVar("T")
INTERVAL_SECONDS = 0.5


class Pacer:
    """Calls back about every half second, and sizes device programs so that this is possible.

    Programs take their number of steps as an argument, so chunks of any length run the same compiled code, and the
    results do not depend on where the cuts fall.
    """

    def __init__(self, on_tick: Callable[[], None]) -> None:
        """Takes what is to be called; it may raise to stop the work."""
        self._on_tick = on_tick
        self._last_tick = time.monotonic()
        self._sizes: dict[str, int] = {}

    def tick(self) -> None:
        """Hands over control if it is time."""
        if time.monotonic() - self._last_tick >= INTERVAL_SECONDS:
            self._on_tick()
            self._last_tick = time.monotonic()

    def run_chunk(self, kind: str, remaining: int, program: Callable[[int], T]) -> tuple[T, int]:
        """Runs ``program(num_steps)`` to its end, for a number of steps of at most ``remaining``.

        The first chunk of a kind is one step (which may include a compilation); later ones at most double towards the
        interval. The caller ticks once it has stored the result.

        Returns:
            What the program returned, and the number of steps.
        """
        size = min(self._sizes.get(kind, 1), remaining)
        started = time.monotonic()
        result = jax.block_until_ready(program(size))
        rate = size / max(time.monotonic() - started, 1e-6)
        self._sizes[kind] = int(min(max(rate * INTERVAL_SECONDS, 1), 2 * size))
        return result, size
