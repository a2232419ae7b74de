"""Single lines for people."""

import sys
from typing import NoReturn


def warn(message: str) -> None:
    """Says on standard error what went wrong without ending the program."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """Returns an exception's kind and message without line breaks, shortened."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def leave(status: int, message: str) -> NoReturn:
    """Ends the program with one line on standard error."""
    # What was typed may hold line breaks and other characters that do not show.
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in message), file=sys.stderr)
    sys.exit(status)
