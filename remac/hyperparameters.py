"""Declares an agent's hyperparameters, each once: type, default, what is allowed, and what it means.

Typed configurations, checks, the names in refusals and the reference table are made from these declarations. A field of
an agent is declared by assigning what a function of this module returns; an argument of ``create`` that fields are
made from is declared in the class's ``ARGUMENTS``.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from flax import struct

from remac.validation import InvalidValueError, require_bool, require_int, require_number, require_one_of

WIDEST = 2**14  # of layers; what two of them hold can be counted in int32
_KEY = "hyperparameter"


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter.

    Attributes:
        default: What it is unless something else is given.
        meaning: In one line.
        type: Of the value, as a configuration gives it.
        allowed: In words.
        check: Raises InvalidValueError for a name and a value that is not allowed.
        is_leaf: Whether agents that differ in it alone are one program.
    """

    default: Any
    meaning: str
    type: Any
    allowed: str
    check: Callable[[str, Any], None]
    is_leaf: bool

    def field(self) -> Any:
        """Returns the dataclass field that it declares."""
        return struct.field(pytree_node=self.is_leaf, default=self.default, metadata={_KEY: self})


def number(
    default: float | None,
    meaning: str,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    open_minimum: bool = False,
    is_leaf: bool = True,
) -> Hyperparameter:
    """A number in [minimum, maximum], or above ``minimum``. With None as default, None is allowed."""

    def check(name: str, value: Any) -> None:
        if value is not None or default is not None:
            require_number(name, value, minimum, maximum, open_minimum=open_minimum)

    low = "-inf" if minimum == -math.inf else f"{minimum:g}"
    high = "inf" if maximum == math.inf else f"{maximum:g}"
    allowed = (
        f"{'(' if open_minimum or minimum == -math.inf else '['}{low}, {high}{')' if maximum == math.inf else ']'}"
    )
    kind = float if default is not None else float | None
    return Hyperparameter(default, meaning, kind, allowed + _or_null(default), check, is_leaf)


def integer(default: int | None, meaning: str, minimum: int = 1, *, is_leaf: bool = False) -> Hyperparameter:
    """An integer of at least ``minimum``; as a leaf, of at most 2^31 - 1. With None as default, None is allowed."""
    most = 2**31 - 1 if is_leaf else None

    def check(name: str, value: Any) -> None:
        if value is not None or default is not None:
            require_int(name, value, minimum, most)

    kind = int if default is not None else int | None
    return Hyperparameter(default, meaning, kind, f"integer >= {minimum}" + _or_null(default), check, is_leaf)


def flag(default: bool, meaning: str) -> Hyperparameter:
    """True or false; static."""
    return Hyperparameter(default, meaning, bool, "true, false", require_bool, False)


def choice(default: str | None, meaning: str, choices: Iterable[str], *, is_leaf: bool = False) -> Hyperparameter:
    """One of some names; static, unless fields made from it are not. With None as default, None is allowed."""
    names = list(choices)

    def check(name: str, value: Any) -> None:
        if value is not None or default is not None:
            require_one_of(name, value, names)

    kind = str if default is not None else str | None
    return Hyperparameter(default, meaning, kind, ", ".join(names) + _or_null(default), check, is_leaf)


def widths(default: tuple[int, ...] | None, meaning: str) -> Hyperparameter:
    """The widths of layers, at least one; static. With None as default, None is allowed."""

    def check(name: str, value: Any) -> None:
        if value is None and default is None:
            return
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InvalidValueError(name, value, "must be a list of integers")
        if not value:
            raise InvalidValueError(name, "[]", "must name at least one layer")
        for width in value:
            require_int(name, width, 1, WIDEST)

    kind = list[int] if default is not None else list[int] | None
    allowed = f"list of integers from 1 to {WIDEST}" + _or_null(default)
    return Hyperparameter(default, meaning, kind, allowed, check, False)


def anything(default: Any, meaning: str, allowed: str, *, is_leaf: bool = False) -> Hyperparameter:
    """A value that ``make_fields`` checks."""
    return Hyperparameter(default, meaning, Any, allowed, lambda name, value: None, is_leaf)


def redeclared(agent_class: type, name: str, default: Any) -> Any:
    """Returns the field of a hyperparameter that an agent's base declares, with another default."""
    return dataclasses.replace(hyperparameters(agent_class)[name], default=default).field()


def hyperparameters(agent_class: type) -> dict[str, Hyperparameter]:
    """Returns what an agent declares, by name: its fields, then the arguments that other fields are made from."""
    declared = {field.name: field.metadata[_KEY] for field in dataclasses.fields(agent_class) if _KEY in field.metadata}
    for base in reversed(inspect.getmro(agent_class)):
        declared |= vars(base).get("ARGUMENTS", {})
    return declared


def defaults(agent_class: type) -> dict[str, Any]:
    """Returns the default of every hyperparameter as a configuration has it: tuples as lists."""
    values = {name: one.default for name, one in hyperparameters(agent_class).items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def check(agent_class: type, given: dict[str, Any]) -> dict[str, Any]:
    """Returns a value for every hyperparameter, given or the default; lists as tuples, NumPy's scalars as Python's.

    Raises:
        InvalidValueError: Naming the hyperparameter, its value and what is allowed.
    """
    declared = hyperparameters(agent_class)
    for name, value in given.items():
        if name not in declared:
            raise InvalidValueError(name, value, f"no such hyperparameter; there are {', '.join(sorted(declared))}")
    values = {name: one.default for name, one in declared.items()} | given
    for name, one in declared.items():
        one.check(name, values[name])
    return {
        name: tuple(map(_plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else _plain(value)
        for name, value in values.items()
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _or_null(default: Any) -> str:
    return " or null" if default is None else ""
