"""Where metrics go besides the run directory: one entry for each ``conf/logger/<name>.yaml``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from experiments.records import tensorboard_logger, wandb_logger
from remac.validation import InvalidValueError, missing_package, require_one_of


class Logger(Protocol):
    """The log of one run. What it raises is a warning, and training goes on without it."""

    def log(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of one evaluation; a resumed run comes to some for the second time."""

    def finish(self, summary: Mapping[str, Any], plots: list[Path], exit_code: int) -> None:
        """Logs how the run ended, and closes the log."""


# Each takes the resolved configuration, the run directory and the run's origin, as ``RunDirectory.origin``.
LOGGERS: dict[str, Callable[[Mapping[str, Any], Path, Mapping[str, Any]], Logger | None]] = {
    "none": lambda config, directory, origin: None,
    "wandb": wandb_logger.make_logger,
    "tensorboard": tensorboard_logger.make_logger,
}
NEEDS = {"tensorboard": "tensorboardX"}  # packages that do not come with this one


def make_logger(config: Mapping[str, Any], directory: Path, origin: Mapping[str, Any]) -> Logger | None:
    """Returns the logger that a run's configuration asks for, started, or None if it asks for none.

    Args:
        config: The resolved configuration, as plain data.
        directory: The run directory.
        origin: As ``experiments.records.run_directory.RunDirectory.origin``.
    """
    return LOGGERS[config["logger"]["name"]](config, directory, origin)


def require_logger(name: str) -> None:
    """Requires that there is a logger of a name, and what it needs.

    Raises:
        InvalidValueError: With the names that there are, or the command that installs it.
    """
    require_one_of("logger.name", name, LOGGERS)
    if name in NEEDS and (reason := missing_package(NEEDS[name], extra=name)):
        raise InvalidValueError("logger", name, reason)
