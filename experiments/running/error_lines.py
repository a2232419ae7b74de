"""What is said of bad input: one line that names the key, its value and what is allowed."""

import dataclasses
import re
import shlex
import types
import typing
from pathlib import Path

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

import envs
from experiments.console.key_value import refusal
from experiments.console.pasting import key_of, pasted
from experiments.records.files import flatten
from experiments.running.config import CONFIG_DIRECTORY, as_dict, causes, hydra_anew
from remac.validation import InvalidValueError, close_to

GROUPS = ("agent", "env", "logger", "experiment")
KEYS_OF_PATHS = {"train": "resume", "evaluate": "run", "export": "run", "sweep": "directory"}  # by configuration
TYPES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a dictionary {<key>: <value>}",
}

# OmegaConf's words, and ours.
REASONS = {
    "does not support deletion": "cannot be taken away; must have a value",
    "Cannot merge DictConfig with ListConfig": "must be of its own kind, a list [<value>] or keys {<key>: <value>}",
}

BAD_INPUT = (InvalidValueError, HydraException, OmegaConfBaseException)


class NotChecked(BaseException):
    """What a check came to, its cause, on its way out of Hydra, which turns exceptions of callbacks into warnings."""


def describe(error: BaseException, arguments: list[str], config_name: str = "train") -> str:
    """Returns one line that names the key, its value and what is allowed.

    Args:
        error: One of ``BAD_INPUT``.
        arguments: The command line, in which the value of a refused key is found.
        config_name: The configuration whose keys are listed.
    """
    if isinstance(error, InvalidValueError):
        return refusal(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        file = str(error.missing_cfg_file)
        if file.startswith("hydra/"):  # of Hydra's own, some of which come with packages
            group, _, option = file.rpartition("/")
            with hydra_anew():
                there = ", ".join(GlobalHydra.instance().config_loader().get_group_options(group))
            more = "; others come with pip install -c constraints.txt -e '.[launchers]'"
            return f"{group}={option}: no such choice; there are {there}{more}"
        group, _, option = file.partition("/")
        return f"{group}={option}: {no_such_file(group, option)}"
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        hint = f", and with quotes around what holds a = itself: {pasted(key, value)}" if "=" in value else ""
        if not value and config_name in KEYS_OF_PATHS and Path(key).exists():
            hint = f": {pasted(KEYS_OF_PATHS[config_name], key)}"
        return f"{error.override}: cannot be read ({str(error).splitlines()[0]}); must be <key>=<value>{hint}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: has no value; must be given, as {error.full_key}=<value>"
    chain = [error, *causes(error)]
    lines = [line.strip() for cause in chain for line in str(cause).splitlines() if line.strip()]
    keys = [match for line in lines for match in re.findall(r"full_key: (\S+)", line)]
    if keys:
        key = keys[-1]
        given = _argument_of(key, arguments)
        if any("is not in struct" in line or "not in '" in line for line in lines):
            hint = (
                f" (the task's own are given as {shlex.quote(f'+{given}')})" if key.startswith("env.options.") else ""
            )
            return f"{given}: no such key; {_siblings(config_name, key, arguments)}{hint}"
        reason = next((line for line in reversed(lines) if not re.match(r"(full_key|\w+_type)", line)), "")
        reason = next((line for line in lines if line.startswith(("Value ", "field "))), reason)
        reason = next((ours for theirs, ours in REASONS.items() if theirs in reason), reason)
        allowed = next(filter(None, map(_allowed_type, chain)), "")
        if allowed and given != key:
            return f"{given}: must be {allowed}"
        return f"{given}: {reason}" + (f"; must be {allowed}" if allowed else "")
    if lines and lines[0].startswith("Ambiguous value"):
        choices = "add -m for a sweep over these values, or write [...] for a list"
        for argument in arguments:
            key, _, value = argument.partition("=")
            if value and argument in lines[0]:
                choices += f"; a text with a comma needs quotes: {pasted(key, value)}"
        return f"{lines[0]}; {choices}"
    if lines and (taken := re.match(r"Could not append to config. An item is already at '([^']+)'", lines[0])):
        given = _argument_of(taken[1], arguments)
        return f"{given}: there is such a key; given as {shlex.quote(given.lstrip('+'))}, without the +"
    if lines and (unknown := re.match(r"Could not override '([^'@]+)", lines[0])):
        given = _argument_of(unknown[1], arguments)
        if unknown[1] == "experiment":
            presets = f"presets are run by python -m experiments.sweep, and are {listing('experiment')}"
            return f"{given}: no such key; {presets}"
        return f"{given}: no such key; {_siblings(config_name, unknown[1], arguments)}"
    if lines and (missing := re.match(r"You must specify '(\w+)'", lines[0])):
        group = missing[1]
        return f"{group}: must be given, as {group}=<name>; there are {listing(group)}"
    return lines[0] if lines else type(error).__name__


def _allowed_type(error: BaseException) -> str:
    """Returns the type that a schema wants where a value was refused, in words, or nothing."""
    if not isinstance(error, ValidationError):
        return ""
    if dataclasses.is_dataclass(error.object_type) and isinstance(error.object_type, type):
        return _in_words(typing.get_type_hints(error.object_type).get(str(error.key)))
    return _in_words(error.ref_type)  # of an element, its list's


def _in_words(kind: typing.Any) -> str:
    """Returns what values of a type are called, or nothing for one of which nothing is known."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        words = [_in_words(argument) for argument in arguments if argument is not types.NoneType]
        return " or ".join([*words, "null"]) if all(words) else ""
    if origin is list:
        return "a list of " + _in_words(arguments[0]).partition(" ")[2] + "s"
    if dataclasses.is_dataclass(kind):
        return f"given key by key; its keys are {', '.join(field.name for field in dataclasses.fields(kind))}"
    return TYPES.get(origin or kind, "")


def _argument_of(key: str, arguments: list[str]) -> str:
    """Returns the argument that sets a key, or an element of its list, or the key itself."""
    key = key.partition("[")[0]
    return next((argument for argument in reversed(arguments) if key_of(argument) == key), key)


def _siblings(config_name: str, key: str, arguments: list[str]) -> str:
    """Tells which keys may be meant, and those beside a key, for the agent, environment and logger that are given."""
    parent = key.rpartition(".")[0]
    groups = groups_of(config_name)
    choices = [argument.split(",")[0] for argument in arguments if argument.partition("=")[0] in groups]
    with hydra_anew():  # the process ends after this line, so nobody needs the old one
        config = hydra.compose(config_name, choices)
    node = OmegaConf.select(config, parent) if parent else config
    names = (", ".join(str(name) for name in node) if isinstance(node, DictConfig) else "") or "none"
    plain = as_dict(config)
    others = [other for other in flatten(plain) if not other.startswith("env.")]
    meant = [other for other in others if other.endswith(f".{key}")]
    if not meant:  # mistyped
        close = close_to(key.rpartition(".")[2], [other.rpartition(".")[2] for other in others])
        meant = [other for other in others if other.rpartition(".")[2] in close]
    return (f"did you mean {' or '.join(meant)}? " if meant else "") + f"there are {names}"


def no_such_file(group: str, value: str) -> str:
    """Tells what a value of a configuration group, which is a file there, can be instead."""
    if group == "env":
        return f"no such environment; {envs.alternatives(value)}"
    return f"no such {group}; there are {listing(group)}"


def groups_of(config_name: str) -> list[str]:
    """Returns those of ``GROUPS`` that a configuration takes."""
    defaults = yaml.safe_load((CONFIG_DIRECTORY / f"{config_name}.yaml").read_text(encoding="utf-8"))["defaults"]
    return [group for one in defaults if isinstance(one, dict) for group in one if group in GROUPS]


def listing(group: str) -> str:
    """Lists the files of a configuration group."""
    folder = CONFIG_DIRECTORY / group
    names = sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.yaml")
        if not path.name.startswith("_")
    )
    return ", ".join(names)
