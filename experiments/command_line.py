"""The way in: Hydra's main with one-line errors, exit statuses, and checks before anything is made or compiled.

Exit statuses: 0 done, 1 crash, 2 bad input, 3 training stopped (a metric became non-finite, or the simulation diverged
too often), 130 SIGINT, 143 SIGTERM.
"""

import contextlib
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
import jax
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from experiments import compilation_cache
from experiments.config import AUTO, CONFIG_DIRECTORY, make_job, register_schemas, task_overrides
from experiments.population import PlannedJob, group_jobs, require_own_directories
from experiments.run_directory import OutputError, flatten, is_begun
from remac.loop import StoppedError
from remac.machine import available_cpus
from remac.types import InvalidValueError

LONG_FLAGS = (
    *("help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion"),
    *("config-path", "config-name", "config-dir", "experimental-rerun", "info"),
)
FLAGS = (
    *(f"--{name}" for name in LONG_FLAGS),
    *(f"-{name}" for name in ("h", "c", "p", "r", "m", "sc", "cp", "cn", "cd", "i")),
)
GROUPS = ("agent", "env", "logger", "experiment")
BAD_INPUT = (InvalidValueError, HydraException, OmegaConfBaseException)


def run(config_name: str, task: Callable[[DictConfig], Any]) -> NoReturn:
    """Runs a task under Hydra with the command line's overrides, and exits.

    Args:
        config_name: File in ``conf/`` without its ending.
        task: Takes the composed configuration; what it returns is the score that sweepers see.
    """
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
            _exit(2, describe(error, sys.argv[1:], config_name))
        if isinstance(error, StoppedError):
            _exit(3, str(error))
        if isinstance(error, OutputError):
            _exit(1, str(error))
        if isinstance(error, KeyboardInterrupt):
            _exit(130, "interrupted")
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
        sys.argv[1:] = _search_upwards(_run_where_resumed(sys.argv[1:]))
        # Hydra's parser gives up on a flag between two overrides.
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name=config_name)(job)()
    except (*BAD_INPUT, StoppedError, OutputError, KeyboardInterrupt) as error:
        exit_for(error)
    sys.exit(0)


def use_all_cpus() -> None:
    """Gives JAX one host device for each CPU that the process may use, so that members of a population share them.

    A single run is on one of these devices, and is the same bit for bit whatever their number. Nothing happens if JAX
    has started already, or if the number is set by ``JAX_NUM_CPU_DEVICES`` or in ``XLA_FLAGS``.
    """
    cpus = available_cpus()
    os.environ.setdefault("PJRT_NPROC", str(cpus))  # XLA's threads; by itself it knows of no cgroup
    if jax.config.jax_num_cpu_devices < 0 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cpus)


class ValidateJobs(Callback):
    """Checks every job of a run or a sweep before the first directory is made."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the only job."""
        self._check(lambda: iter([config]), lambda job: job.hydra.run.dir, config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks every job of the sweep."""
        if config.hydra.launcher._target_.endswith(("JoblibLauncher", "LocalLauncher")):
            # Its jobs are processes that share the device, and this one only waits for them.
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        sweep = config.hydra.sweep.dir  # once for all jobs: it may hold the time
        self._check(lambda: sweep_jobs(config), lambda job: f"{sweep}/{job.hydra.sweep.subdir}", config)

    def _check(
        self, jobs: Callable[[], Iterator[DictConfig]], directory: Callable[[DictConfig], str], config: DictConfig
    ) -> None:
        try:
            planned = [
                PlannedJob(make_job(job, task_overrides(job.hydra)), Path(directory(job)), "", ()) for job in jobs()
            ]
            require_own_directories(planned)
            if "memory_gib" in config.hydra.launcher:
                group_jobs(planned, config.hydra.launcher.memory_gib)
        except BAD_INPUT as error:
            _exit(2, describe(error, sys.argv[1:]))
        except Exception as error:
            # Hydra turns an ordinary exception of a callback into a warning, and goes on.
            traceback.print_exception(error)
            sys.exit(1)


def sweep_jobs(config: DictConfig) -> Iterator[DictConfig]:
    """Composes the jobs of a multirun, in the order in which Hydra's own sweeper numbers them.

    Other sweepers choose the values as they go, so for them it is the one job without the swept keys.
    """
    is_grid = config.hydra.sweeper._target_.endswith("BasicSweeper")
    arguments = task_overrides(config.hydra)
    if is_grid and config.hydra.sweeper.params:
        arguments = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()] + arguments
    choices = []
    loader = GlobalHydra.instance().config_loader()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(arguments):
        if not override.is_sweep_override():
            choices.append([override.input_line])
        elif is_grid:
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    for number, overrides in enumerate(itertools.product(*choices)):
        job = loader.load_sweep_config(config, list(overrides))
        with open_dict(job):
            job.hydra.job.id, job.hydra.job.num = str(number), number
        yield job


def describe(error: BaseException, arguments: list[str], config_name: str = "train") -> str:
    """Returns one line that names the key, its value and what is allowed.

    Args:
        error: One of ``BAD_INPUT``.
        arguments: The command line, in which the value of a refused key is found.
        config_name: The configuration whose keys are listed.
    """
    if isinstance(error, InvalidValueError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).partition("/")
        return f"{group}={option}: no such file in {CONFIG_DIRECTORY.name}/{group}; there are {listing(group)}"
    if isinstance(error, OverrideParseException):
        hint = ", and with quotes around what holds a = itself" if str(error.override).count("=") > 1 else ""
        return f"{error.override}: cannot be read ({str(error).splitlines()[0]}); must be <key>=<value>{hint}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: has no value; must be given, as {error.full_key}=<value>"
    chain = [error, *_causes(error)]
    lines = [line.strip() for cause in chain for line in str(cause).splitlines() if line.strip()]
    keys = [match for line in lines for match in re.findall(r"full_key: (\S+)", line)]
    if keys:
        key = keys[-1]
        given = _argument_of(key, arguments)
        if any("is not in struct" in line or "not in '" in line for line in lines):
            hint = f" (the task's own flags are given as +{given})" if key.startswith("env.options.") else ""
            return f"{given}: no such key; there are {_siblings(config_name, key, arguments)}{hint}"
        reason = next((line for line in reversed(lines) if not re.match(r"(full_key|object_type)", line)), "")
        reason = next((line for line in lines if line.startswith(("Value ", "field "))), reason)
        return f"{given}: {reason}"
    if lines and lines[0].startswith("Ambiguous value"):
        return f"{lines[0]}; add -m for a sweep over these values, or write [...] for a list"
    return lines[0] if lines else type(error).__name__


def _argument_of(key: str, arguments: list[str]) -> str:
    """Returns the argument that sets a key, or the key itself."""
    names = (key, f"+{key}", f"++{key}", f"~{key}")
    return next((argument for argument in reversed(arguments) if argument.split("=")[0] in names), key)


def _siblings(config_name: str, key: str, arguments: list[str]) -> str:
    """Lists the keys beside a key, for the agent, environment and logger that were asked for."""
    parent = key.rpartition(".")[0]
    choices = [argument.split(",")[0] for argument in arguments if argument.split("=")[0] in GROUPS]
    GlobalHydra.instance().clear()  # the process ends after this line, so nobody needs the old one
    with hydra.initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        config = hydra.compose(config_name, choices)
    node = OmegaConf.select(config, parent) if parent else config
    names = ", ".join(str(name) for name in node) if isinstance(node, DictConfig) else "none"
    plain: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    meant = [other for other in flatten(plain) if other.endswith(f".{key}") and not other.startswith("env.")]
    return f"{names} (and {', '.join(meant)})" if meant else names


def listing(group: str) -> str:
    """Lists the files of a configuration group."""
    folder = CONFIG_DIRECTORY / group
    names = sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.yaml")
        if not path.name.startswith("_")
    )
    return ", ".join(names)


def _causes(error: BaseException) -> Iterator[BaseException]:
    while (cause := error.__cause__ or error.__context__) is not None:
        yield cause
        error = cause


def _check_arguments(arguments: list[str]) -> None:
    """Refuses what Hydra would answer with a usage message, a traceback, or not at all."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if argument.startswith("-") and key not in FLAGS:
            known = f"no such flag; there are {' '.join(FLAGS)}; keys have no dashes: {key.lstrip('-')}=<value>"
            raise InvalidValueError(key, value or None, known)
        if not key.strip("+~ "):
            raise InvalidValueError(key, value, "names no key; must be <key>=<value>")
        if (group := key.lstrip("+~")) in GROUPS and not _may_be_a_file(argument):
            raise InvalidValueError(group, value, f"no such file in conf/{group}; there are {listing(group)}")


def _may_be_a_file(argument: str) -> bool:
    """Returns whether the value of a group can be a name; Hydra crashes on numbers, truth values and dictionaries."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return True  # a syntax error, which Hydra reports itself
    if override.is_delete() and override.value() is None:
        return True  # ~agent, without a value
    return override.is_sweep_override() or (isinstance(override.value(), str) and bool(override.value()))


def _run_where_resumed(arguments: list[str]) -> list[str]:
    """Adds the run directory of ``resume=<run directory>`` as Hydra's."""
    given = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith("resume=")]
    if not given or given[-1] in ("", "null", "none"):
        return arguments
    own = {argument.partition("=")[0] for argument in arguments}
    is_sweep = bool({"-m", "--multirun"} & own)
    if given[-1] == AUTO:
        needed = "hydra.sweep.dir" if is_sweep else "hydra.run.dir"
        if needed not in own:
            raise InvalidValueError("resume", AUTO, f"needs {needed}=<directory>, since the default one is always new")
        return arguments
    if is_sweep:
        raise InvalidValueError("resume", given[-1], "names one run; for a sweep it must be auto")
    if "hydra.run.dir" in own:
        raise InvalidValueError("resume", given[-1], "says where the run is, so hydra.run.dir must be left out")
    if not is_begun(given[-1]):
        raise InvalidValueError("resume", given[-1], "must be auto, or a directory that holds a run")
    quoted = given[-1].replace("\\", "\\\\").replace("'", "\\'")
    return [*arguments, f"hydra.run.dir='{quoted}'"]


def _search_upwards(arguments: list[str]) -> list[str]:
    """Makes Optuna look for the highest return; by itself it minimises, and without a search space repeats one job."""
    if not any(re.fullmatch(r"\+?hydra/sweeper=['\"]?optuna['\"]?", argument) for argument in arguments):
        return arguments
    keys = [argument.partition("=")[0].lstrip("+") for argument in arguments]
    if not any(key.startswith("hydra.sweeper.params") for key in keys):
        parser = OverridesParser.create()
        with contextlib.suppress(HydraException):  # which Hydra reports itself
            if not any(parser.parse_override(one).is_sweep_override() for one in arguments if not one.startswith("-")):
                example = "must come with what to search, such as 'agent.learning_rate=interval(1e-4,1e-2)'"
                raise InvalidValueError("hydra/sweeper", "optuna", example)
    return arguments if "hydra.sweeper.direction" in keys else [*arguments, "hydra.sweeper.direction=maximize"]


def _terminate(signal_number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + signal_number)


def _exit(status: int, message: str) -> NoReturn:
    # What was typed may hold line breaks and other characters that do not show.
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in message), file=sys.stderr)
    sys.exit(status)
