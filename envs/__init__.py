"""Environments behind one interface (``remac.types.Environment``), one file per suite."""

import importlib
import importlib.util
import inspect
from typing import TYPE_CHECKING, Any

from remac.validation import InvalidValueError, require_int, require_one_of

if TYPE_CHECKING:
    from remac.types import Environment

SUITES = ("brax", "dmc", "gymnasium", "mujoco", "probe", "risk")
# Those whose tasks cannot be listed: any name may be one, and the suite's ``make`` refuses what is none.
OPEN_SUITES = ("gymnasium",)


class SimulatorError(RuntimeError):
    """An environment raised an exception; the message is one line that names it."""


def names() -> list[str]:
    """Returns every environment of the suites whose tasks can be listed, as ``suite/task``."""
    return [f"{suite}/{task}" for suite in SUITES if suite not in OPEN_SUITES for task in _module(suite).TASKS]


def may_be(name: str) -> bool:
    """Whether a name is an environment's, or one that only its suite can judge."""
    suite, _, task = name.partition("/")
    if suite in OPEN_SUITES:
        return bool(task)
    return suite in SUITES and task in _module(suite).TASKS


def make(name: str, *, num_envs: int, **options: Any) -> "Environment":
    """Builds ``num_envs`` environments side by side.

    Args:
        name: ``suite/task``, for example ``mujoco/ant``; see ``names``.
        num_envs: E.
        **options: The suite's and the task's own; see the suite's module. All suites take
            ``stagger_first_episodes`` and ``episode_length``.

    Raises:
        InvalidValueError: If the name, an option or its value is not allowed.
    """
    if not may_be(name):
        require_one_of("name", name, [*names(), *(f"{suite}/<id>" for suite in OPEN_SUITES)])
    require_installed("name", name)
    require_int("num_envs", num_envs, 1)
    suite, _, task = name.partition("/")
    make_suite = _module(suite).make
    parameters = inspect.signature(make_suite).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in options:
        if option not in parameters and not takes_any:
            known = [option for option in parameters if option not in ("task", "num_envs")]
            raise InvalidValueError(option, options[option], f"no such option; there are {', '.join(known)}")
    return make_suite(task, num_envs=num_envs, **options)


def require_installed(key: str, name: str) -> None:
    """Requires the optional package that an environment needs, which its suite's module names in ``NEEDS``.

    Args:
        key: What the environment was given as.
        name: ``suite/task``.

    Raises:
        InvalidValueError: With the command that installs it.
    """
    suite = name.partition("/")[0]
    package = getattr(_module(suite), "NEEDS", None)
    if package is not None and importlib.util.find_spec(package) is None:
        install = f"pip install -c constraints.txt -e '.[{suite}]'"
        raise InvalidValueError(key, name, f"needs the package {package}, which is not installed; {install}")


def _module(suite: str) -> Any:
    return importlib.import_module(f"envs.{suite}")
