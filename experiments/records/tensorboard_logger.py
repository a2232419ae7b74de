"""Logs a run to TensorBoard's files, without TensorFlow."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

FOLDER = "tensorboard"  # in the run directory


def make_logger(config: Mapping[str, Any], directory: Path, origin: Mapping[str, Any]) -> "TensorBoardLogger":
    """Returns the logger of a run, started."""
    return TensorBoardLogger(config, directory / FOLDER)


class TensorBoardLogger:
    """The event files of one run, one for each process that trained it.

    TensorBoard shows what a resumed run comes to for the second time once: a later file says from which step on what
    was before it is void.

    Note:
        Not ``tensorboardX.SummaryWriter``, whose ``flush`` does not wait for what was added, and which takes a thread
        and a pipe for every member of a population.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        """Takes the resolved configuration, and the folder of the files; nothing is written yet."""
        self._config, self._folder = config, folder
        self._writer: Any = None

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of one evaluation at its env steps; they are in the file afterwards."""
        from tensorboardX.proto.summary_pb2 import Summary

        if self._writer is None:
            self._start(env_steps)
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._write(env_steps, summary=Summary(value=values))
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any], plots: Sequence[Path], exit_code: int) -> None:
        """Writes how the run ended."""
        from tensorboardX.summary import text

        if self._writer is not None:
            ended = text("summary", _as_code(json.dumps(summary, indent=2)))
            self._write(summary.get("env_steps", 0), summary=ended)
            self._writer.close()

    def _start(self, env_steps: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import text

        self._folder.mkdir(exist_ok=True)
        number = len(list(self._folder.glob("events.*")))
        # By the number, two of one second have different names.
        self._writer = EventsWriter(str(self._folder / "events"), f".{number}")
        if number:
            self._write(env_steps, session_log=SessionLog(status=SessionLog.START))
        config = text("config", _as_code(yaml.safe_dump(dict(self._config), sort_keys=False)))
        self._write(env_steps, summary=config)

    def _write(self, env_steps: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=env_steps, **what))


def _as_code(text: str) -> str:
    """Returns a text as Markdown shows it letter for letter."""
    return "".join(f"    {line}\n" for line in text.splitlines())
