"""Command lines of directories and ``key=value`` settings."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from experiments.console.loading import imported
from experiments.console.messages import file_error, leave
from experiments.console.pipes import outlive_readers
from experiments.console.signals import raise_on_interrupt
from remac.files import is_too_long
from remac.validation import InvalidValueError, nearest_first

_TYPED = {None: "null", True: "true", False: "false"}


def parse(
    arguments: Sequence[str], defaults: Mapping[str, str], *, with_directories: bool = True
) -> tuple[list[str], dict[str, str]]:
    """Splits a command line into directories and settings.

    Args:
        arguments: Command line without the program. A folder whose name holds ``=`` is a directory.
        defaults: Every key with its default.
        with_directories: Whether there must be directories, or may be none.

    Returns:
        The directories, and a value for every key.

    Raises:
        InvalidValueError: On an unknown key, one given twice, one without a value, or if directories are missing.
    """
    directories, settings = [], dict(defaults)
    given = set()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_setting = equals and re.fullmatch(r"\w*", key) and not (with_directories and os.path.lexists(argument))
        if with_directories and not argument:
            raise InvalidValueError("directories", "''", "must name a run directory or folder of some")
        if with_directories and not is_setting and not argument.startswith("-"):
            directories.append(argument)
            continue
        if key not in defaults or not equals:
            raise InvalidValueError(key or "''", value or "''", f"no such key; there are {_listing(key, defaults)}")
        if key in given:
            raise InvalidValueError(key, value, "must be given once")
        if not value:
            raise InvalidValueError(key, "''", "has no value")
        given.add(key)
        settings[key] = value
    if with_directories and not directories:
        raise InvalidValueError("directories", "none", "must name at least one run directory or folder of some")
    return directories, settings


def split_folders(arguments: Sequence[str], flags: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Splits a command line into folders and the rest.

    A folder is what is given without a key, and what exists as one though its name holds ``=``; what follows one of the
    flags, which take a value, is none.
    """
    folders: list[str] = []
    others: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_key = "=" in argument or argument.startswith("-") or re.match("~[^/]*$", argument)
        is_folder = (os.path.isdir(argument) or not is_key) and before not in flags
        (folders if is_folder else others).append(argument)
    return folders, others


def require_folder(key: str, path: Path) -> None:
    """Requires that a folder exists or can be made.

    Raises:
        InvalidValueError: If it or one above it is a file, or its name is too long.
    """
    for candidate in (path, *path.parents):
        if os.path.exists(candidate) and not candidate.is_dir():
            raise InvalidValueError(key, path, f"must be a folder, and {candidate} is a file")
    _require_nameable(key, path)


def require_not_read(key: str, value: Path, files: Iterable[Path], read: Iterable[Path | str]) -> None:
    """Requires that files to be written are none of those that are read.

    Raises:
        InvalidValueError: Naming the first that is.
    """
    inputs = {Path(path).resolve() for path in read}
    for file in files:
        if file.resolve() in inputs:
            raise InvalidValueError(key, value, f"would replace {file}, which is read; must be another place")


def require_file(key: str, path: Path) -> None:
    """Requires that a file can be made, or written anew.

    Raises:
        InvalidValueError: If it is a folder, one above it is a file, or its name is too long.
    """
    if os.path.isdir(path):
        raise InvalidValueError(key, path, "is a folder; must be the name of a file")
    require_folder(key, path.parent)
    _require_nameable(key, path)


def _require_nameable(key: str, path: Path) -> None:
    if is_too_long(path):
        raise InvalidValueError(key, path, "cannot be made (File name too long)")


def refusal(error: InvalidValueError) -> str:
    """Returns the line about a value that is not allowed, with the value as it is typed on a command line."""
    if error.value is None or isinstance(error.value, bool):
        return str(InvalidValueError(error.name, _TYPED[error.value], error.allowed))
    return str(error)


def command_of(module: str, arguments: Sequence[str]) -> str:
    """Returns the command line as a person would type it."""
    return f"python -m {module} {shlex.join(arguments)}".rstrip()


def exit_with(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs a command and exits: 0 done, 1 a file cannot be written, 2 bad input, 130 interrupted, or what it returns.

    The reason is one line on stderr.

    With ``--help`` it prints the docstring of the command's module.
    """
    imported()
    outlive_readers()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(sys.modules[main.__module__].__doc__)
        sys.exit(0)
    raise_on_interrupt()
    try:
        sys.exit(main(sys.argv[1:]) or 0)
    except InvalidValueError as error:
        leave(2, refusal(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if (line := file_error(error)) is None:
            raise
        leave(*line)


def _listing(given: str, keys: Mapping[str, str]) -> str:
    return ", ".join(f"{key}=" for key in nearest_first(given, keys))
