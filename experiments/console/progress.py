"""The progress bar: env steps, their rate, the time left, and the latest return and entropy."""

import contextlib
import threading
from collections.abc import Iterator

from tqdm import tqdm

REFRESH_SECONDS = 1.0
_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} env steps [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressBar:
    """A bar on standard error that also moves while programs compile, since a thread redraws it.

    The steps of all members count.
    """

    def __init__(self, total_env_steps: int) -> None:
        """Starts the bar at 0."""
        self._bar = tqdm(
            total=total_env_steps, unit="step", bar_format=_FORMAT, desc="compiling", dynamic_ncols=True, smoothing=0.1
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._redraw, daemon=True, name="progress")
        self._thread.start()

    @property
    def env_steps(self) -> int:
        """Where it stands."""
        return int(self._bar.n)

    def update(self, env_steps: int, phase: str) -> None:
        """Moves the bar to a number of env steps, with a word for what is going on."""
        self.phase(phase)
        self._bar.update(min(env_steps, self._bar.total) - self._bar.n)

    def phase(self, phase: str) -> None:
        """Changes the word for what is going on."""
        self._bar.set_description_str(phase, refresh=False)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Makes way for lines that are printed meanwhile."""
        with self._bar.external_write_mode():
            yield

    def show(self, **values: float) -> None:
        """Replaces the numbers behind the bar."""
        self._bar.set_postfix({name: f"{value:.1f}" for name, value in values.items()}, refresh=False)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._stop.set()
        self._thread.join()
        self._bar.close()

    def _redraw(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            self._bar.refresh()
