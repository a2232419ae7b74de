"""The files of one run: configuration, provenance, metrics, summary, plots, policy and checkpoints."""

import contextlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from experiments.console.messages import warn
from experiments.console.pasting import pasted
from experiments.records.checkpoints import Checkpoints, SavedTraining, sha256, sums
from experiments.records.files import (
    CONFIG,
    FINISHED,
    INPUTS,
    LOCK,
    METRIC_COLUMNS,
    METRICS,
    PROVENANCE,
    SUMMARY,
    csv_text,
    is_begun,
    read_json,
    sums_of,
)
from experiments.records.provenance import provenance
from remac.files import is_too_long, sync, write_whole
from remac.validation import InvalidValueError

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes in one run directory go unnoticed
    fcntl = None  # type: ignore[assignment]


class OutputError(OSError):
    """A file that a run cannot do without could not be written; the message is one line."""


def require_unused(directory: Path | str) -> None:
    """Requires that a run directory does not exist yet, or is empty.

    Raises:
        InvalidValueError: If it is neither.
    """
    path = Path(directory)
    require_makeable(path)
    if path.exists() and not path.is_dir():
        raise InvalidValueError("hydra.run.dir", directory, "is a file; must be a new or an empty directory")
    if is_begun(path):
        require_unlocked(path)
        allowed = "holds a run already; must be a new or an empty directory, or resume=auto to continue"
        raise InvalidValueError("hydra.run.dir", directory, allowed)
    if path.is_dir() and any(entry.name not in (CONFIG, LOCK) for entry in path.iterdir()):
        allowed = "holds other files; must be a new or an empty directory"
        raise InvalidValueError("hydra.run.dir", directory, allowed)


def require_makeable(path: Path) -> None:
    """Requires that a directory exists, or can be made.

    Raises:
        InvalidValueError: If neither is so.
    """
    if is_too_long(path):
        raise InvalidValueError("hydra.run.dir", path, "cannot be made (File name too long)")
    above = next((parent for parent in path.absolute().parents if parent.exists()), path)
    if not path.exists() and (not above.is_dir() or not os.access(above, os.W_OK)):
        raise InvalidValueError("hydra.run.dir", path, f"cannot be made in {above}; must be a new directory")


def make_new(path: Path) -> Path:
    """Makes a directory that did not exist, with a number behind its name where others have been there first.

    Raises:
        OSError: If it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}_{number}")
        with contextlib.suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError


_taken: dict[Path, IO[bytes]] = {}  # until the process ends


def take_folder(key: str, path: Path | str) -> None:
    """Makes the folder of a sweep, and takes it for this process as long as that lives.

    Args:
        key: What names the folder on the command line.
        path: The folder.

    Raises:
        InvalidValueError: If another process has it.
        OSError: If it cannot be made.
    """
    folder = Path(path).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _taken:
        _taken[folder] = _lock(folder, LOCK, key)


def require_unlocked(directory: Path | str) -> None:
    """Requires that no other process is at work on a run.

    Raises:
        InvalidValueError: If one is.
    """
    _lock(Path(directory), CONFIG).close()


class RunDirectory:
    """Writes one run. Metrics are on disk after every evaluation.

    While it is open, no other process can open it; the lock is on ``config.yaml`` and ends with the process at the
    latest.

    Attributes:
        path: The directory.
        checkpoints: Its checkpoints.
        origin: What the run is known by: a random ``id``, the ``sweep`` it belongs to, and the ``overrides`` of its
            first command line. Those that were begun before there were ids have none.
    """

    def __init__(
        self,
        path: Path | str,
        config: Mapping[str, Any],
        *,
        origin: Mapping[str, Any] | None = None,
        keep: int = 2,
        resume: bool = False,
        start: SavedTraining | None = None,
        inputs: Mapping[str, bytes] | None = None,
    ) -> None:
        """Makes the directory and writes what the run is, or goes back to a checkpoint.

        Args:
            path: The directory.
            config: The resolved configuration.
            origin: See the class; an earlier one is kept.
            keep: Number of checkpoints to keep.
            resume: Whether the directory may hold this run already.
            start: The checkpoint to continue from; without one, the run starts again.
            inputs: Files that the run needs and that are not part of the code, by name; earlier ones are kept.

        Raises:
            InvalidValueError: If the directory is in use.
        """
        if not resume:
            require_unused(path)
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path, CONFIG)
        if not resume and is_begun(self.path):  # by another process, in the meantime
            raise InvalidValueError("hydra.run.dir", path, "holds a run already; must be a new or an empty directory")
        self.checkpoints = Checkpoints(self.path, keep)
        self._started = time.monotonic()
        content = yaml.safe_dump(dict(config), sort_keys=False).encode()
        if not is_begun(self.path):
            (self.path / CONFIG).write_bytes(content)  # in place, since this is the file that is locked
        self._start, self._known, self._inputs = start, self._read_provenance(), dict(inputs or {})
        # Drawn, so that no two runs have one, and kept: it is the same wherever the directory is moved to.
        self.origin = dict(self._known.get("origin") or {"id": secrets.token_hex(8), **(origin or {})})
        if start is None:
            self.begin()
        else:
            self._started -= start.run["wall_seconds"]
            self.checkpoints.find_damaged()

    def begin(self) -> None:
        """Makes the files fit the start of training; with a checkpoint, to be called once that has been read.

        Raises:
            OSError: If they cannot be written.
        """
        now = provenance()
        if self._known:
            place = {"env_steps": 0 if self._start is None else self._start.env_steps}
            now = self._known | {"resumed": [*self._known.get("resumed", []), place | now]}
        if self._inputs and "inputs" not in now:
            now |= {"inputs": self._keep_inputs()}
        self._write_json(PROVENANCE, now | {"origin": self.origin})
        if self._start is None:
            self._write(METRICS, csv_text([METRIC_COLUMNS]))
        else:
            os.truncate(self.path / METRICS, self._start.run["metrics_bytes"])

    def close(self) -> None:
        """Lets other processes have it."""
        self._lock.close()

    def log(self, env_steps: int, gradient_steps: int, metrics: Mapping[str, float]) -> None:
        """Appends metrics, in the order given.

        Raises:
            OutputError: If they cannot be written; the file then ends as before.
        """
        wall_seconds = f"{self.wall_seconds:.3f}"
        rows = csv_text(
            [(env_steps, gradient_steps, wall_seconds, name, repr(float(value))) for name, value in metrics.items()]
        )
        path = self.path / METRICS
        size = path.stat().st_size
        try:
            with path.open("ab") as file:
                file.write(rows)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise OutputError(
                f"{path}: cannot be written ({error.strerror or error}); make room, and continue with "
                f"{pasted('resume', self.path)}"
            ) from error

    @property
    def wall_seconds(self) -> float:
        """Time spent on the run so far, in all processes that got it here."""
        return time.monotonic() - self._started

    def position(self) -> dict[str, Any]:
        """Returns where the files stand, for a checkpoint; metrics are on the disk afterwards."""
        path = self.path / METRICS
        sync(path)
        return {
            "wall_seconds": self.wall_seconds,
            "metrics_bytes": path.stat().st_size,
            "metrics_sha256": sha256(path),
        }

    def summary(self, status: str, metrics: Mapping[str, float], **details: Any) -> dict[str, Any]:
        """Returns how the run ended, and its last metrics."""
        return {
            "status": status,
            "wall_seconds": round(self.wall_seconds, 3),
            **details,
            "metrics": {name: float(value) for name, value in metrics.items()},
        }

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes how the run ended; once it has finished also the sums of its files, so that damage is noticed.

        Raises:
            OSError: If it cannot be written.
        """
        files = {"files": sums_of(self.path)} if summary["status"] == FINISHED else {}
        self._write_json(SUMMARY, {**summary, **files})

    def _keep_inputs(self) -> dict[str, Any]:
        folder = self.path / INPUTS
        folder.mkdir(exist_ok=True)
        for name, content in self._inputs.items():
            write_whole(folder / name, content)
        return {name: sums(folder / name) for name in self._inputs}

    def _read_provenance(self) -> dict[str, Any]:
        known, problem = read_json(self.path / PROVENANCE)
        if problem:
            warn(f"{problem}; what the run began with is not known any more")
        return known or {}

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, (json.dumps(content, indent=2) + "\n").encode())

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.path / name, content)


def _lock(directory: Path, name: str, key: str = "hydra.run.dir") -> IO[bytes]:
    """Opens the file that stands for a directory, for this process alone."""
    file = (directory / name).open("ab")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        allowed = "is in use by another process; wait for it to end, or choose another directory"
        raise InvalidValueError(key, directory, allowed) from None
    except OSError as error:
        warn(f"{directory}: cannot be locked ({error.strerror}), so do not train in it twice")
    return file
