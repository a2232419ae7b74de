"""Command lines of directories and ``key=value`` settings."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from experiments.console.signals import raise_on_interrupt
from remac.validation import InvalidValueError


def parse(arguments: Sequence[str], defaults: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Splits a command line into directories and settings.

    Args:
        arguments: Command line without the program. A folder whose name holds ``=`` is a directory.
        defaults: Every key with its default.

    Returns:
        The directories, and a value for every key.

    Raises:
        InvalidValueError: On an unknown key, one given twice, one without a value, or if there is no directory.
    """
    directories, settings = [], dict(defaults)
    given = set()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise InvalidValueError(key, value or "''", f"no such key; there are {_listing(defaults)}")
        if not equals or Path(argument).exists() or not re.fullmatch(r"\w*", key):
            directories.append(argument)
            continue
        if key not in defaults:
            raise InvalidValueError(key or "''", value or "''", f"no such key; there are {_listing(defaults)}")
        if key in given:
            raise InvalidValueError(key, value, "must be given once")
        if not value:
            raise InvalidValueError(key, "''", "has no value")
        given.add(key)
        settings[key] = value
    if not directories:
        raise InvalidValueError("directories", "none", "must name at least one run directory or folder of some")
    return directories, settings


def parse_settings(arguments: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """Reads a command line of ``key=value`` settings alone.

    Args:
        arguments: Command line without the program.
        defaults: Every key with its default.

    Returns:
        A value for every key, and the keys that were given.

    Raises:
        InvalidValueError: On an unknown key, or one given twice.
    """
    settings, given = dict(defaults), set[str]()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in settings or not equals:
            raise InvalidValueError(key or "''", value or "''", f"no such key; there are {', '.join(settings)}")
        if key in given:
            raise InvalidValueError(key, value, "must be given once")
        given.add(key)
        settings[key] = value
    return settings, given


def require_folder(key: str, path: Path) -> None:
    """Requires that a folder exists or can be made.

    Raises:
        InvalidValueError: If it or one above it is a file.
    """
    for candidate in (path, *path.parents):
        if candidate.exists() and not candidate.is_dir():
            raise InvalidValueError(key, path, f"must be a folder, and {candidate} is a file")


def command_of(module: str, arguments: Sequence[str]) -> str:
    """Returns the command line as a person would type it."""
    return " ".join(("python -m", module, *arguments))


def exit_with(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs a command and exits: 0 done, 2 bad input (one line on stderr), 130 interrupted, or what it returns.

    With ``--help`` it prints the docstring of the command's module.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(sys.modules[main.__module__].__doc__)
        sys.exit(0)
    raise_on_interrupt()
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except InvalidValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _listing(keys: Mapping[str, str]) -> str:
    return ", ".join(f"{key}=" for key in keys)
