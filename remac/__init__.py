"""Retry objectives (max@K and every other order statistic) for continuous control in JAX.

What stands in ``__all__`` is the public interface. Names are loaded when they are first used, so that the estimators
load little but JAX; ``agents`` and ``envs`` are packages beside this one, and in an installed wheel below it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remac import estimators
    from remac.policies.policy import Policy, load_policy, save_policy
    from remac.training.agent import Agent
    from remac.training.loop import (
        Checkpoint,
        Evaluation,
        Failure,
        Progress,
        Result,
        StoppedError,
        TrainConfig,
        stack_members,
        train,
        train_population,
    )
    from remac.training.snapshot import MisfitError, Snapshot
    from remac.types import Environment, EnvState, Transition
    from remac.validation import InvalidValueError

__version__ = "0.1.0"

_HOMES = {
    "remac.policies.policy": ("Policy", "load_policy", "save_policy"),
    "remac.training.agent": ("Agent",),
    "remac.training.loop": (
        *("Checkpoint", "Evaluation", "Failure", "Progress", "Result", "StoppedError", "TrainConfig"),
        *("stack_members", "train", "train_population"),
    ),
    "remac.training.snapshot": ("MisfitError", "Snapshot"),
    "remac.types": ("EnvState", "Environment", "Transition"),
    "remac.validation": ("InvalidValueError",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Agent",
    "Checkpoint",
    "EnvState",
    "Environment",
    "Evaluation",
    "Failure",
    "InvalidValueError",
    "MisfitError",
    "Policy",
    "Progress",
    "Result",
    "Snapshot",
    "StoppedError",
    "TrainConfig",
    "Transition",
    "estimators",
    "load_policy",
    "save_policy",
    "stack_members",
    "train",
    "train_population",
]


def __getattr__(name: str) -> Any:
    if name == "estimators":
        return importlib.import_module("remac.estimators")
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'remac' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
