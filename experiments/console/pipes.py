"""Standard output and error whose reader may go away: ``train | head -1`` trains to its end."""

import errno
import io
import os
import sys
from typing import Any

from experiments.console.messages import warn


def outlive_readers() -> None:
    """Makes what is printed from here on never raise, so that the work does not depend on who looks on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Anything else, such as what a test looks into, has no reader that could go away.
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _surviving(stream, name))


def _surviving(stream: io.TextIOWrapper, name: str) -> io.TextIOWrapper:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Survivor(stream.fileno(), name)),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="",  # Python's own streams write line feeds as they are
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Survivor(io.RawIOBase):
    """Writes to a file descriptor; what cannot be written is dropped."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__()
        self._descriptor, self.name, self._has_failed = descriptor, name, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EPIPE:
                # For good, and for child processes too.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._descriptor)
                os.close(nowhere)
            elif self.name != "stderr" and not self._has_failed:
                self._has_failed = True
                warn(f"standard output cannot be written ({error.strerror}); going on without")
            return len(data)
