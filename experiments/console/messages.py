"""Single lines for people."""

import contextlib
import errno
import hashlib
import io
import sys
from typing import NoReturn

# What the machine, and not the program, is to blame for.
_OUTER_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}


def escape_what_cannot_be_written() -> None:
    """Lets both standard streams take any text: characters that their encoding does not have are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def warn(message: str) -> None:
    """Says on standard error what went wrong without ending the program, even if nobody can be told."""
    with contextlib.suppress(OSError, ValueError):
        print(f"warning: {message}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """Returns an exception's kind and message without line breaks, shortened."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def file_error(error: BaseException) -> tuple[int, str] | None:
    """Returns the exit status and the line for an error of the file system; None for others, the program's own."""
    if not isinstance(error, OSError) or error.errno not in _OUTER_ERRORS:
        return None
    line = str(error.strerror) if error.filename is None else f"{error.filename}: {error.strerror}"
    return 2 if error.errno == errno.ENAMETOOLONG else 1, line


def counted(number: int, noun: str) -> str:
    """Returns a number of things: 1 run, 2 runs."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def shorten(text: str, length: int) -> str:
    """Cuts a text that is too long, and keeps it different from others with the same beginning."""
    if len(text) <= length:
        return text
    return f"{text[: length - 9]}~{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:8]}"


def leave(status: int, message: str) -> NoReturn:
    """Ends the program with one line on standard error."""
    # What was typed may hold line breaks and other characters that do not show.
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in message), file=sys.stderr)
    sys.exit(status)
