"""Finds out where a run stands: not begun, finished, or at a checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.console.messages import warn
from experiments.records.checkpoints import Checkpoints, SavedTraining
from experiments.records.files import CONFIG, LOCK, METRICS, is_begun, metrics_fit, read_config
from experiments.records.provenance import training_code
from experiments.records.run_directory import require_makeable, require_unlocked
from experiments.running.config import first_difference
from remac.validation import InvalidValueError


def require_resumable(directory: Path | str, config: Mapping[str, Any]) -> None:
    """Requires that a directory holds nothing, or this run with no other process at work on it.

    Raises:
        InvalidValueError: If it does not.
    """
    path = Path(directory)
    require_makeable(path)
    if path.exists() and not path.is_dir():
        raise InvalidValueError("hydra.run.dir", directory, "is a file; must be a directory")
    if not is_begun(path):
        if path.is_dir() and any(entry.name not in (CONFIG, LOCK) for entry in path.iterdir()):
            raise InvalidValueError(
                "hydra.run.dir", directory, "holds other files; must be a run or an empty directory"
            )
        return
    require_unlocked(path)
    if difference := first_difference(config, read_config(path)):
        key, value, before = difference
        allowed = f"the run in {directory} has {before}; give the same command again, or choose another directory"
        raise InvalidValueError(key, value, allowed)


def find_start(directory: Path, config: Mapping[str, Any], env_steps: int | None = None) -> SavedTraining | None:
    """Finds the newest checkpoint that a run can go on from; says on standard error what is wrong with newer ones.

    Args:
        directory: The run directory.
        config: The run's configuration.
        env_steps: If given, only a checkpoint at this number of steps will do.

    Returns:
        The checkpoint, or None if the run has not come to its first.

    Raises:
        InvalidValueError: If there are checkpoints and none can be used, or the one to use was made by other code and
            the configuration does not insist.
    """
    checkpoints, problems = Checkpoints(directory, keep=1), list[str]()
    for saved in checkpoints.usable(problems):
        if problem := _problem(directory, saved, config):
            problems.append(problem)
        elif env_steps is None or saved.env_steps == env_steps:
            _require_same_code(saved, config)
            if env_steps is None:
                for line in problems:
                    warn(f"{line}; continuing from {saved.path}")
            return saved
    if env_steps is None and problems:
        allowed = (
            f"no checkpoint can be used: {'; '.join(problems)}; restore these files, "
            f"or remove {checkpoints.path} to start again"
        )
        raise InvalidValueError("resume", directory, allowed)
    return None


def align(
    directories: Sequence[Path], configs: Sequence[Mapping[str, Any]], starts: list[SavedTraining | None]
) -> None:
    """Moves the starts of runs that were one population to a checkpoint that all of them have, if there is one.

    A process that was killed while it saved leaves some members one checkpoint ahead.
    """
    steps = {start.env_steps for start in starts if start is not None}
    if len(steps) < 2:
        return
    least = min(steps)
    for index, start in enumerate(starts):
        if start is not None and start.env_steps > least:
            starts[index] = find_start(directories[index], configs[index], least) or start


def _problem(directory: Path, saved: SavedTraining, config: Mapping[str, Any]) -> str | None:
    """Returns why a whole checkpoint is not one of this run."""
    if difference := first_difference(config, saved.run["config"]):
        key, value, before = difference
        return f"{saved.path}: is of another configuration ({key}={before}, and not {value})"
    if not metrics_fit(directory, saved.run):
        return f"{directory / METRICS}: does not begin with what {saved.path} was saved with"
    return None


def _require_same_code(saved: SavedTraining, config: Mapping[str, Any]) -> None:
    """Requires that a checkpoint was made by the code and the packages that go on from it, or that this is wanted."""
    before, now = saved.run.get("code"), training_code()
    before = before if isinstance(before, Mapping) else {"code": "unknown"}  # from before it was recorded
    names = [name for name in now if name in before and before[name] != now[name]]
    if not names:
        return
    made_by, this = (", ".join(f"{name} {of[name]}" for name in names) for of in (before, now))
    if config["checkpoint"].get("other_code"):
        warn(f"{saved.path}: was made by {made_by}; continuing with {this}")
        return
    allowed = (
        f"{saved.path} was made by {made_by}, and this is {this}; checkpoint.other_code=true continues all the same"
    )
    raise InvalidValueError("checkpoint.other_code", False, allowed)
