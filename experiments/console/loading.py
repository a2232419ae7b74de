"""Says on a terminal that a command is being loaded, which takes seconds."""

import contextlib
import sys

_WORD = "importing"


def say_importing() -> None:
    """Writes the word where a terminal's next text replaces it."""
    _write(f"{_WORD}\r")


def imported() -> None:
    """Takes the word back; what is printed next may be shorter than it."""
    _write(f"{' ' * len(_WORD)}\r")


def _write(text: str) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
        if sys.stderr.isatty():
            sys.stderr.write(text)
            sys.stderr.flush()
