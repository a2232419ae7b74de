"""SIGINT and SIGTERM: training is saved at the next moment at which it is whole, and then ends."""

import os
import signal
import threading
from typing import Any, NoReturn, Self


def end_at_once_on_interrupt() -> None:
    """Makes SIGINT end the process with status 130 where there is nothing to save.

    An exception would be lost, or crash the process, where it comes while a library calls back into Python.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and is not ignored, as in a script's background
        signal.signal(signal.SIGINT, _end_at_once)


def raise_on_interrupt() -> None:
    """Takes that back: from here on SIGINT raises KeyboardInterrupt, so that what is open is closed."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(number: int, frame: Any) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


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
