"""Checks of settings: each raises one line that names the setting, its value and what is allowed."""

import math
from collections.abc import Iterable

from remac.types import InvalidValueError


def require_int(name: str, value: object, minimum: int, maximum: int | None = None, maximum_name: str = "") -> None:
    """Requires an integer of at least ``minimum`` and at most ``maximum``, which may be another setting's value."""
    allowed = f"must be an integer of at least {minimum}"
    if maximum is not None:
        allowed += f" and at most {f'{maximum_name}={maximum}' if maximum_name else maximum}"
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InvalidValueError(name, value, allowed)
    if maximum is not None and value > maximum:
        raise InvalidValueError(name, value, allowed)


def require_number(
    name: str,
    value: object,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    open_minimum: bool = False,
) -> None:
    """Requires a finite number in [minimum, maximum], or in (minimum, maximum] with ``open_minimum``."""
    low = "(" if open_minimum or minimum == -math.inf else "["
    high = ")" if maximum == math.inf else "]"
    allowed = f"must be a finite number in {low}{minimum:g}, {maximum:g}{high}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidValueError(name, value, allowed)
    if not minimum <= value <= maximum or (open_minimum and value == minimum):
        raise InvalidValueError(name, value, allowed)


def require_one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Requires one of the given names."""
    names = list(choices)
    if value not in names:
        raise InvalidValueError(name, value, f"must be one of {', '.join(names)}")
