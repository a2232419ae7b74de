"""Environments behind one interface (``remac.types.Environment``), one file per suite."""

import importlib
import inspect
from typing import Any

from remac.types import Environment
from remac.validation import InvalidValueError, require_int, require_one_of

SUITES = ("brax", "mujoco", "probe", "risk")


def names() -> list[str]:
    """Returns every environment, as ``suite/task``."""
    return [f"{suite}/{task}" for suite in SUITES for task in _module(suite).TASKS]


def make(name: str, *, num_envs: int, **options: Any) -> Environment:
    """Builds ``num_envs`` environments side by side.

    Args:
        name: ``suite/task``, for example ``mujoco/ant``; see ``names``.
        num_envs: E.
        **options: The suite's and the task's own; see the suite's module. All suites take
            ``stagger_first_episodes`` and ``episode_length``.

    Raises:
        InvalidValueError: If the name, an option or its value is not allowed.
    """
    require_one_of("name", name, names())
    require_int("num_envs", num_envs, 1)
    suite, task = name.split("/")
    make_suite = _module(suite).make
    parameters = inspect.signature(make_suite).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in options:
        if option not in parameters and not takes_any:
            known = [option for option in parameters if option not in ("task", "num_envs")]
            raise InvalidValueError(option, options[option], f"no such option; there are {', '.join(known)}")
    return make_suite(task, num_envs=num_envs, **options)


def _module(suite: str) -> Any:
    return importlib.import_module(f"envs.{suite}")
