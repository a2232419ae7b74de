"""Runs that have been made: where they are, and the task and the policy of each."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from experiments.console.messages import warn
from experiments.records.files import BEST_POLICY, CONFIG, POLICY, SUMMARY, find_damage, kept_inputs, read_json, walk
from experiments.running.config import make_environment
from remac.policies.policy import Policy, load_policy, saved_env_steps
from remac.types import Environment
from remac.validation import InvalidValueError, require_one_of

POLICIES = {"last": POLICY, "best": BEST_POLICY}  # of the last evaluation, and of the best one


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """What a run trained on and what it learned.

    Attributes:
        directory: The run directory.
        env: The task, one environment of it.
        policy: The policy.
        env_steps: How long it was trained; None where that was not recorded.
    """

    directory: Path
    env: Environment
    policy: Policy
    env_steps: int | None


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Returns the run directories at and below some paths, each once.

    Of folders, runs that have no policy yet are left out, which is said on standard error.

    Raises:
        InvalidValueError: If there is none at or below a path.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        directories, notes = list[Path](), list[str]()
        for folder, subfolders, files in walk(path, set(), notes):
            if CONFIG in files:
                directories.append(Path(folder))
                subfolders.clear()
        if not directories:
            allowed = f"is not a run directory (no {CONFIG} in it), nor a folder that holds some"
            raise InvalidValueError("run", path, allowed)
        for note in notes:
            warn(note)
        for directory in directories:
            if directory != path and not (directory / POLICY).is_dir():
                warn(f"{directory}: holds no policy yet, left out")
            else:
                found.setdefault(directory.resolve(), directory)
    if not found:
        raise InvalidValueError("run", ",".join(map(str, paths)), "holds no run with a policy")
    return list(found.values())


def load_run(directory: Path, which: str = "last", options: Mapping[str, Any] | None = None) -> SavedRun:
    """Loads a run.

    Args:
        directory: The run directory.
        which: Of ``POLICIES``.
        options: Of the environment, in the place of the run's own.

    Raises:
        InvalidValueError: If the directory is not that of a run with a policy, or an option is not allowed.
    """
    require_one_of("policy", which, POLICIES)
    options, folder = dict(options or {}), POLICIES[which]
    if not (directory / CONFIG).is_file():
        raise InvalidValueError("run", directory, f"is not a run directory (no {CONFIG} in it)")
    summary, problem = read_json(directory / SUMMARY)
    if problem is not None:  # it is what tells whether the policy is the one that was written
        raise InvalidValueError("run", directory, f"{problem}; restore that file, or remove it")
    damage = find_damage(directory, summary)
    for name, problem in damage.items():
        if name == CONFIG or name.startswith(f"{folder}/"):
            raise InvalidValueError("run", directory, f"{problem}; restore that file")
    if which == "best" and not (directory / folder).is_dir():
        allowed = f"{directory} keeps none; must be last, or a run of checkpoint.keep_best=true"
        raise InvalidValueError("policy", which, allowed)
    kept = {option: path for option, path in kept_inputs(directory).items() if option not in options}
    try:
        policy, env_steps = load_policy(directory / folder), saved_env_steps(directory / folder)
        task: dict[str, Any] = yaml.safe_load((directory / CONFIG).read_text())["env"]
        own = {"suite": task["suite"], "task": task["task"], "options": task["options"]}
        if not options:
            env = make_environment(own, 1, kept).for_evaluation(1)  # without what critics alone see
    except InvalidValueError:  # of the environment: a package that is missing, for example
        raise
    except (FileNotFoundError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError("run", directory, f"is not a finished run ({reason})") from None
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(policy.parameters)):
        raise InvalidValueError("run", directory, f"{directory / folder} holds parameters that are not finite")
    if options:
        env = make_environment(own | {"options": own["options"] | options}, 1, kept).for_evaluation(1)
    for name, has, takes in (
        ("observations", env.observation_size, policy.observation_size),
        ("actions", env.action_size, policy.network.action_size),
    ):
        if has != takes:
            allowed = f"gives {name} of {has} numbers, and the policy of {directory} has {takes}"
            raise InvalidValueError("env.options", options, allowed)
    return SavedRun(directory, env, policy, env_steps)
