"""Runs that have been made: the task and the policy of each."""

from pathlib import Path
from typing import Any

import yaml

import envs
from experiments.records.files import CONFIG, POLICY, SUMMARY, find_damage, kept_inputs, read_json
from experiments.running.config import with_inputs
from remac.policies.policy import Policy, load_policy
from remac.types import Environment
from remac.validation import InvalidValueError


def load_run(directory: Path, num_episodes: int) -> tuple[Environment, Policy]:
    """Loads what a run trained on and what it learned.

    Raises:
        InvalidValueError: If the directory is not that of a run with a policy.
    """
    if not (directory / CONFIG).is_file():
        raise InvalidValueError("run", directory, f"is not a run directory (no {CONFIG} in it)")
    damage = find_damage(directory, read_json(directory / SUMMARY)[0])
    for name, problem in damage.items():
        if name == CONFIG or name.startswith(f"{POLICY}/"):
            raise InvalidValueError("run", directory, f"{problem}; restore that file")
    kept = kept_inputs(directory)
    try:
        policy = load_policy(directory)
        config: dict[str, Any] = yaml.safe_load((directory / CONFIG).read_text())["env"]
        env = envs.make(f"{config['suite']}/{config['task']}", num_envs=1, **with_inputs(config["options"], kept))
    except (FileNotFoundError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError("run", directory, f"is not a finished run ({reason})") from None
    return env.for_evaluation(num_episodes), policy
