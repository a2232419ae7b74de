"""The way in: Hydra's main with one-line errors, exit statuses, and checks before anything is made or compiled.

Exit statuses: 0 done, 1 crash, 2 bad input, 3 training stopped (a metric became non-finite, or the simulation diverged
too often), 130 SIGINT, 143 SIGTERM.
"""

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import hydra
import jax
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import envs
from envs import SimulatorError
from experiments.console.key_value import split_folders
from experiments.console.loading import imported
from experiments.console.messages import file_error, leave
from experiments.console.pasting import as_path, key_of, override, pasted
from experiments.console.pipes import outlive_readers
from experiments.records.files import is_begun
from experiments.records.run_directory import OutputError
from experiments.running import compilation_cache
from experiments.running.config import AUTO, CONFIG_DIRECTORY, register_schemas
from experiments.running.error_lines import BAD_INPUT, GROUPS, NotChecked, describe, groups_of, listing, no_such_file
from experiments.running.jax_settings import JAX_CONFIG
from remac.machine import available_cpus
from remac.training.loop import StoppedError
from remac.validation import InvalidValueError

LONG_FLAGS = (
    *("help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion"),
    *("config-path", "config-name", "config-dir", "info"),
)
FLAGS = (
    *(f"--{name}" for name in LONG_FLAGS),
    *(f"-{name}" for name in ("h", "c", "p", "r", "m", "sc", "cp", "cn", "cd", "i")),
)

# Of these Hydra takes one.
MODES = {"run": "r", "multirun": "m", "cfg": "c", "info": "i", "shell-completion": "sc"}
MODE_OF_FLAG = {flag: mode for mode, short in MODES.items() for flag in (f"--{mode}", f"-{short}")}
FLAGS_WITH_VALUES = (
    *("--cfg", "--package", "--config-path", "--config-name", "--config-dir"),
    *("-c", "-p", "-cp", "-cn", "-cd"),
)


def run(config_name: str, task: Callable[[DictConfig], Any], *, folders_key: str | None = None) -> NoReturn:
    """Runs a task under Hydra with the command line's overrides, and exits.

    Args:
        config_name: File in ``conf/`` without its ending.
        task: Takes the composed configuration; what it returns is the score that sweepers see.
        folders_key: The key that folders are meant for which are given without one.
    """
    imported()
    outlive_readers()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_help(config_name, sys.modules[task.__module__].__doc__ or ""))
        sys.exit(0)
    compilation_cache.enable()
    register_schemas()
    use_all_cpus()
    # Hydra's own report is several lines and always exits with 1; with this variable it raises instead.
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, _terminate)

    def exit_for(error: BaseException) -> NoReturn:
        if wants_traceback:
            traceback.print_exception(error)
        if isinstance(error, BAD_INPUT):
            leave(2, describe(error, sys.argv[1:], config_name))
        if isinstance(error, StoppedError):
            leave(3, str(error))
        if isinstance(error, OutputError | SimulatorError):
            leave(1, str(error))
        if line := file_error(error):
            leave(*line)
        if isinstance(error, KeyboardInterrupt):
            leave(130, "interrupted")
        raise error

    def job(config: DictConfig) -> Any:
        try:
            return task(config)
        except Exception as error:
            # In a sweep the other jobs go on, and Hydra raises the first error at the end.
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            exit_for(error)

    try:
        _check_arguments(sys.argv[1:])
        if folders_key is not None:
            sys.argv[1:] = _name_folders(sys.argv[1:], folders_key)
        sys.argv[1:] = _search_upwards(_run_where_resumed(_list_tasks(sys.argv[1:])))
        # Hydra's parser gives up on a flag between two overrides.
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name=config_name)(job)()
    except NotChecked as refused:
        exit_for(refused.__cause__ or refused)
    except (Exception, KeyboardInterrupt) as error:
        exit_for(error)
    sys.exit(0)


def _help(config_name: str, told: str) -> str:
    """Returns what a command's module says of it, and where its keys and their values are."""
    lines = [told]
    for group in groups_of(config_name):
        named = "python -m experiments.suites lists them" if group == "env" else listing(group)
        lines.append(f"{group}=<name>: {named}.")
    command = f"python -m experiments.{config_name}"
    return "\n".join([*lines, f"{command} --cfg job prints every key with its value, --hydra-help Hydra's own flags."])


def use_all_cpus() -> None:
    """Gives JAX one host device for each CPU that the process may use, so that members of a population share them.

    A single run is on one of these devices, and is the same bit for bit whatever their number. Nothing happens if JAX
    has started already, or if the number is set by ``JAX_NUM_CPU_DEVICES`` or in ``XLA_FLAGS``.
    """
    cpus = available_cpus()
    os.environ.setdefault("PJRT_NPROC", str(cpus))  # XLA's threads; by itself it knows of no cgroup
    if JAX_CONFIG.jax_num_cpu_devices < 0 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cpus)


def _check_arguments(arguments: list[str]) -> None:
    """Refuses what Hydra would answer with a usage message, a traceback, or not at all."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if argument.startswith("-") and key not in FLAGS:
            meant = f"keys have no dashes: {key.lstrip('-')}={value or '<value>'}"
            raise InvalidValueError(key, value, f"no such flag; {meant}; flags are {' '.join(FLAGS)}")
        if not key.strip("+~ "):
            raise InvalidValueError(key, value, "names no key; must be <key>=<value>")
        if (group := key.lstrip("+~")) in GROUPS and not _may_be_a_file(argument):
            raise InvalidValueError(group, value, no_such_file(group, value))
    modes = [flag for flag in (argument.partition("=")[0] for argument in arguments) if flag in MODE_OF_FLAG]
    for flag in modes[1:]:
        if MODE_OF_FLAG[flag] != MODE_OF_FLAG[modes[0]]:
            raise InvalidValueError(flag, "", f"does not go together with {modes[0]}")


def _name_folders(arguments: list[str], key: str) -> list[str]:
    """Gives the key to folders without one."""
    folders, others = split_folders(arguments, FLAGS_WITH_VALUES)
    if not folders:
        return arguments
    for argument in others:
        if key_of(argument) == key:
            raise InvalidValueError(key, argument.partition("=")[2], f"must be given once; {folders[0]} is another")
    values = [override(key, folder).removeprefix(f"{key}=") for folder in folders]
    return [f"{key}={values[0]}" if len(values) == 1 else f"{key}=[{','.join(values)}]", *others]


def _list_tasks(arguments: list[str]) -> list[str]:
    """Writes out ``env=glob(<pattern>)``: of tasks without a file of their own Hydra knows none."""
    return [_listed(argument) if argument.startswith("env=glob(") else argument for argument in arguments]


def _listed(argument: str) -> str:
    parsed = _parsed(argument)
    pattern = parsed.value() if parsed else None
    if not isinstance(pattern, Glob):
        return argument
    if tasks := pattern.filter(envs.names()):
        return f"env={','.join(tasks)}"
    raise InvalidValueError("env", argument.removeprefix("env="), f"matches no task; {envs.LIST} lists all")


def _parsed(argument: str) -> Override | None:
    """Returns an override as Hydra reads it; None if it cannot be read, which Hydra reports itself."""
    with contextlib.suppress(HydraException):
        return OverridesParser.create().parse_override(argument)
    return None


def _may_be_a_file(argument: str) -> bool:
    """Returns whether the value of a group can be a name; Hydra crashes on numbers, truth values and dictionaries."""
    parsed = _parsed(argument)
    if parsed is None or (parsed.is_delete() and parsed.value() is None):
        return True  # ~agent has no value
    return parsed.is_sweep_override() or (isinstance(parsed.value(), str) and bool(parsed.value()))


def _run_where_resumed(arguments: list[str]) -> list[str]:
    """Adds the run directory of ``resume=<run directory>`` as Hydra's."""
    given = None
    for argument in arguments:
        if not argument.startswith("~") and key_of(argument) == "resume":
            given = _parsed(argument) or given
    if given is None:
        return arguments
    if given.is_sweep_override():
        text = (given.input_line or "").partition("=")[2]
        raise InvalidValueError("resume", text, f"names several; a comma needs quotes: {pasted('resume', text)}")
    if (value := given.value()) in ("", None):
        return arguments
    own = {argument.partition("=")[0] for argument in arguments}
    is_sweep = bool({"-m", "--multirun"} & own)
    if value == AUTO:
        needed = "hydra.sweep.dir" if is_sweep else "hydra.run.dir"
        if needed not in own:
            raise InvalidValueError("resume", AUTO, f"needs {needed}=<directory>, since the default one is always new")
        return arguments
    if is_sweep:
        raise InvalidValueError("resume", value, "names one run; for a sweep it must be auto")
    if "hydra.run.dir" in own:
        raise InvalidValueError("resume", value, "says where the run is, so hydra.run.dir must be left out")
    text = str(OmegaConf.create({"resume": value}).resume)  # without the escapes of what would be references
    directory = as_path(text)
    if not is_begun(directory):
        raise InvalidValueError("resume", text, "must be auto, or a directory that holds a run")
    if "${" in str(directory):
        raise InvalidValueError("resume", text, "Hydra takes ${ in a directory's name for a reference; rename the run")
    expanded = [] if str(directory) == text else [override("resume", directory)]
    return [*arguments, *expanded, override("hydra.run.dir", directory)]


def _search_upwards(arguments: list[str]) -> list[str]:
    """Makes Optuna look for the highest return, past trials that fail.

    By itself it minimises, ends with the first failure, and without a search space repeats one job.
    """
    if not any(re.fullmatch(r"\+?hydra/sweeper=['\"]?optuna['\"]?", argument) for argument in arguments):
        return arguments
    keys = [key_of(argument) for argument in arguments if not argument.startswith("~")]
    if not any(key.startswith("hydra.sweeper.params") for key in keys):
        parser = OverridesParser.create()
        with contextlib.suppress(HydraException):  # which Hydra reports itself
            if not any(parser.parse_override(one).is_sweep_override() for one in arguments if not one.startswith("-")):
                example = "must come with what to search, such as 'agent.learning_rate=interval(1e-4,1e-2)'"
                raise InvalidValueError("hydra/sweeper", "optuna", example)
    ours = {"hydra.sweeper.direction": "maximize", "hydra.sweeper.max_failure_rate": "1"}
    return arguments + [f"{key}={value}" for key, value in ours.items() if key not in keys]


def _terminate(signal_number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + signal_number)
