"""SIGINT and SIGTERM during training: it is saved at the next moment at which it is whole, and then ends."""

import signal
import threading
from typing import Any, Self


class StopSignals:
    """Notes the first signal while it is active; a second one ends the process at once, as without this."""

    def __init__(self) -> None:
        """Is not active yet."""
        self._number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python answers signals in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    @property
    def is_requested(self) -> bool:
        """Whether a signal has come."""
        return self._number > 0

    def end(self) -> None:
        """Ends the process as the signal would have.

        Raises:
            KeyboardInterrupt: For SIGINT.
            SystemExit: For SIGTERM, with status 143.
        """
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._number)

    def _note(self, number: int, frame: Any) -> None:
        self._number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
