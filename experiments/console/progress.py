"""Progress: env steps, their rate, the time left, and the latest return and entropy."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

REFRESH_SECONDS = 1.0
# Between two lines where there is no terminal; the share is of the time so far.
LINE_SECONDS, LINE_SHARE = 30.0, 0.05
_NUMBERS = "{n_fmt}/{total_fmt} env steps [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_BAR, _LINE = "{desc} {percentage:3.0f}%|{bar}| " + _NUMBERS, "{desc} {percentage:3.0f}% " + _NUMBERS


class ProgressBar:
    """Progress on standard error: on a terminal a bar, elsewhere a line now and then, and for what is done first.

    Processes that a launcher has started may share one terminal, on which each would draw over the others' bars; they
    write lines as well. A thread refreshes it, so that it moves also while programs compile. What Python writes
    meanwhile to a standard stream that is a terminal comes above the bar, line by line. The steps of all members count.
    Where standard error cannot be written to, nothing happens.
    """

    def __init__(
        self,
        total_env_steps: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        name: str = "",
        phase: str = "compiling",
    ) -> None:
        """Starts at 0.

        Args:
            total_env_steps: The end.
            clock: In seconds; decides when a line is due.
            name: Begins every line, since several processes may write to one place.
            phase: The word for what is going on first.
        """
        self._prefix = f"{name}: " if name else ""
        self._clock, self._begin = clock, clock()
        self._stream, self._made = _Unfailing(sys.stderr), contextlib.ExitStack()
        self._is_terminal = _is_terminal(sys.stderr) and _is_first_process()
        self._bar = tqdm(
            file=self._stream if self._is_terminal else _Unfailing(None),
            total=total_env_steps,
            unit="step",
            bar_format=_BAR if self._is_terminal else _LINE,
            dynamic_ncols=_has_width(sys.stderr),
            smoothing=0.1,
            desc=phase,
        )
        if self._is_terminal:
            for stream in (sys.stdout, sys.stderr):
                if _is_terminal(stream):
                    self._made.enter_context(self._above(stream))
        self._told: set[str] = set()
        self._last_words = ""
        self.phase(phase)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh_regularly, daemon=True, name="progress")
        self._thread.start()

    @property
    def env_steps(self) -> int:
        """Where it stands."""
        return int(self._bar.n)

    def update(self, env_steps: int) -> None:
        """Moves to a number of env steps."""
        self._bar.update(min(env_steps, self._bar.total) - self._bar.n)

    def set_total(self, total_env_steps: int) -> None:
        """Moves the end, where more turns out to be to do, or less."""
        self._bar.total = total_env_steps

    def skip_to(self, env_steps: int) -> None:
        """Moves to a number of env steps that say nothing of the rate, nor does the time until now.

        They were done earlier, or while programs compiled, or never.
        """
        skipped = min(env_steps, self._bar.total) - self._bar.n
        self._bar.n += skipped
        self._bar.initial += skipped
        self._bar.last_print_n += skipped
        self._bar.last_print_t = time.time()

    def phase(self, phase: str) -> None:
        """Changes the word for what is going on."""
        self._bar.set_description_str(phase, refresh=False)
        if not self._is_terminal and phase not in self._told:
            self._told.add(phase)
            self._write_line()

    def show(self, **values: float) -> None:
        """Replaces the numbers at the end."""
        self._bar.set_postfix({name: f"{value:.1f}" for name, value in values.items()}, refresh=False)

    def refresh(self) -> None:
        """Redraws the bar, or writes a line if one is due."""
        if self._is_terminal:
            self._bar.refresh()
        elif self._clock() >= self._due:
            self._write_line()

    def say_last(self, line: str) -> None:
        """Keeps a line for the end, after all else that this writes."""
        self._last_words = f"{line}\n"

    def close(self) -> None:
        """Leaves the bar, or a last line, as it stands."""
        self._stop.set()
        self._thread.join()
        if not self._is_terminal:
            self._write_line()
        self._bar.close()
        self._made.close()
        self._stream.write(self._last_words)
        self._stream.flush()

    def _write_line(self) -> None:
        now = self._clock()
        self._due = now + max(LINE_SECONDS, LINE_SHARE * (now - self._begin))
        self._stream.write(f"{self._prefix}{self._bar}\n")
        self._stream.flush()

    def _refresh_regularly(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            self.refresh()

    @contextlib.contextmanager
    def _above(self, stream: Any) -> Iterator[None]:
        """Makes a stream write whole lines, above the bar; also for those, such as loggers, who hold it already."""
        write_as_before, held = stream.write, ""

        def write(text: str) -> int:
            nonlocal held
            with self._bar.get_lock():
                lines, newline, held = (held + text).rpartition("\n")
                if newline:
                    self._bar.clear(nolock=True)
                    write_as_before(lines + newline)
                    stream.flush()
                    self._bar.refresh(nolock=True)
            return len(text)

        try:
            stream.write = write
        except AttributeError:  # a stream of somebody else's
            yield
            return
        try:
            yield
        finally:
            stream.write = write_as_before
            _Unfailing(stream).write(held)


class _Unfailing:
    """A stream as it is now, that takes what it cannot write as written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._write: Callable[[str], object] | None = getattr(stream, "write", None)

    def write(self, text: str) -> int:
        if self._write is not None:
            with contextlib.suppress(OSError, ValueError):  # ValueError: closed
                self._write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _has_width(stream: Any) -> bool:
    """Whether a bar can be as wide as the terminal: one that does not know its width would be shown nothing."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns > 0
    return True


def _is_terminal(stream: Any) -> bool:
    with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
        return stream.isatty()
    return False


def _is_first_process() -> bool:
    from multiprocessing import current_process  # at a start it can wait

    return current_process().name == "MainProcess"
