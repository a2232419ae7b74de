"""Environments behind one interface (``remac.types.Environment``), one file per suite."""

import difflib
import importlib
import inspect
from typing import TYPE_CHECKING, Any

from remac.validation import InvalidValueError, missing_package, require_int

if TYPE_CHECKING:
    from remac.types import Environment

SUITES = ("brax", "dmc", "gymnasium", "mujoco", "playground", "probe", "risk")
# Those whose tasks cannot be listed: any name may be one, and the suite's ``make`` refuses what is none.
OPEN_SUITES = ("gymnasium",)
DEFAULT_SUITE = "mujoco"  # of sweeps that name none; its tasks are shown without it
OWN_METRIC = "diverged"  # of ``env/<name>``, what trainings record themselves: no environment's metric has this name
LIST = "python -m experiments.suites"  # the command that lists all

_LIKE, _MOST_CLOSE = 0.6, 4


class SimulatorError(RuntimeError):
    """An environment raised an exception; the message is one line that names it."""


def names(*suites: str) -> list[str]:
    """Returns every environment of some suites, or of all, whose tasks can be listed, as ``suite/task``."""
    listed = [suite for suite in suites or SUITES if suite not in OPEN_SUITES]
    return [f"{suite}/{task}" for suite in listed for task in _module(suite).TASKS]


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
        raise InvalidValueError("name", name, f"no such environment; {alternatives(name)}")
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


def alternatives(name: str, *suites: str) -> str:
    """Tells which names, of some suites or of all, are close to one that is no environment's, and how to list all."""
    if name in OPEN_SUITES:
        return f"must be {name}/<id>, any id that the suite's package knows"
    if name in SUITES:
        return f"must be {name}/<task>; {LIST} suite={name} lists them"

    def likeness(known: str) -> float:
        spellings = (known.lower(), known.lower().partition("/")[2])
        return max(difflib.SequenceMatcher(None, name.lower(), spelling).ratio() for spelling in spellings)

    like = [known for known in names(*suites) if likeness(known) > _LIKE]
    close = sorted(like, key=likeness, reverse=True)[:_MOST_CLOSE]
    told = f"close to it are {', '.join(close)}; " if close else ""
    return f"{told}{LIST}{f' suite={suites[0]}' if len(suites) == 1 else ''} lists all"


def ways_to_step(name: str) -> tuple[dict[str, str], ...]:
    """Returns the options by which an environment can be stepped in different ways, one empty if there is one way.

    They are the values of ``vectorization`` that the suite's module names in ``VECTORIZATIONS``.
    """
    ways = getattr(_module(name.partition("/")[0]), "VECTORIZATIONS", ())
    return tuple({"vectorization": way} for way in ways) or ({},)


def lacks(name: str) -> str | None:
    """Tells what an environment needs that is not on this machine, and the command that brings it.

    It is the package that the suite's module names in ``NEEDS``, and what its function ``missing`` tells of a task.
    """
    suite, _, task = name.partition("/")
    module = _module(suite)
    package = getattr(module, "NEEDS", None)
    if package is not None and (reason := missing_package(package, suite)):
        return reason
    return module.missing(task) if hasattr(module, "missing") else None


def require_installed(key: str, name: str) -> None:
    """Requires what an environment needs to be on this machine.

    Args:
        key: What the environment was given as.
        name: ``suite/task``.

    Raises:
        InvalidValueError: With the command that brings it.
    """
    if reason := lacks(name):
        raise InvalidValueError(key, name, reason)


def _module(suite: str) -> Any:
    return importlib.import_module(f"{__name__}.{suite}")
