"""Single lines for people."""

import sys


def warn(message: str) -> None:
    """Says on standard error what went wrong without ending the program."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """Returns an exception's kind and message without line breaks, shortened."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
