"""Checks of settings: each raises one line that names the setting, its value and what is allowed."""

import difflib
import importlib.util
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np


class InvalidValueError(ValueError):
    """A setting with a value that is not allowed.

    Attributes:
        name: The setting, for example ``num_retries``.
        value: The value that was given.
        allowed: What is allowed, in words.
    """

    def __init__(self, name: str, value: object, allowed: str) -> None:
        """Stores the three parts; the message is one line made of them."""
        super().__init__(f"{name}={value}: {allowed}")
        self.name, self.value, self.allowed = name, value, allowed

    def __reduce__(self) -> tuple[Any, ...]:
        """Says what it is made of, for pickling it."""
        return type(self), (self.name, self.value, self.allowed)


NAME_OF_A_METRIC = "must be of printable ASCII, without commas and quotes"


def is_metric_name(name: str) -> bool:
    """Returns whether metrics of that name are read everywhere that they are written."""
    return bool(name) and name.isascii() and name.isprintable() and not set(name) & set(",'\"")


def require_int(name: str, value: object, minimum: int, maximum: int | None = None, maximum_name: str = "") -> None:
    """Requires an integer of at least ``minimum`` and at most ``maximum``, which may be another setting's value."""
    allowed = f"must be an integer of at least {minimum}"
    if maximum is not None:
        allowed += f" and at most {f'{maximum_name}={maximum}' if maximum_name else maximum}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < minimum:
        raise InvalidValueError(name, value, allowed)
    if maximum is not None and int(value) > maximum:
        raise InvalidValueError(name, value, allowed)


def require_divisor(name: str, value: object, total: int, total_name: str) -> None:
    """Requires an integer that divides another setting's value."""
    require_int(name, value, 1, total, total_name)
    if total % int(value):  # type: ignore[call-overload]  # it is an integer
        raise InvalidValueError(name, value, f"must divide {total_name}={total}")


def require_number(
    name: str,
    value: object,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    open_minimum: bool = False,
) -> None:
    """Requires a number, finite in float32, in [minimum, maximum]; above ``minimum`` with ``open_minimum``.

    What is closer to 0 than normal numbers of float32 are is 0, as it is in programs.
    """
    low = "(" if open_minimum or minimum == -math.inf else "["
    high = ")" if maximum == math.inf else "]"
    allowed = f"must be a finite number in {low}{minimum:g}, {maximum:g}{high}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidValueError(name, value, allowed)
    with np.errstate(over="ignore", under="ignore"):
        used = float(np.float32(value))  # the precision in which it is used
    used = 0.0 if abs(used) < np.finfo(np.float32).tiny else used
    if not math.isfinite(used) or not minimum <= used <= maximum or (open_minimum and used == minimum):
        raise InvalidValueError(name, value, allowed)


def require_range(name: str, value: object, *, may_be_point: bool = False) -> None:
    """Requires two numbers, the lower bound first; with ``may_be_point`` they may be equal."""
    bounds = list(value) if isinstance(value, tuple | list) else []
    are_numbers = all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds)
    if len(bounds) == 2 and are_numbers and (bounds[0] < bounds[1] or (may_be_point and bounds[0] == bounds[1])):
        return
    raise InvalidValueError(name, value, "must be two numbers, the lower bound first")


def require_bool(name: str, value: object) -> None:
    """Requires true or false."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidValueError(name, value, "must be true or false")


def require_one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Requires one of the given names; those like what was given are named first."""
    names = list(choices)
    if value not in names:
        raise InvalidValueError(name, value, f"must be one of {', '.join(nearest_first(value, names))}")


def nearest_first(given: object, names: Iterable[str]) -> list[str]:
    """Returns names in their order, but for those that may be meant by one that is mistyped: they come first."""
    names = list(names)
    meant = close_to(given, names)
    return [*meant, *(name for name in names if name not in meant)]


def close_to(given: object, names: Iterable[str]) -> list[str]:
    """Returns the names, at most two, that may be meant by one that is mistyped."""
    return difflib.get_close_matches(str(given), list(names), 2, 0.75)


def missing_package(package: str, extra: str) -> str | None:
    """Tells that an optional package is not installed, and the command that brings it; None if it is there."""
    if importlib.util.find_spec(package) is None:
        return f"needs the package {package}, which is not installed; pip install -c constraints.txt -e '.[{extra}]'"
    return None
