"""Checks every job of a run or a sweep before anything is made or compiled."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from experiments.console import pasting
from experiments.records.run_directory import make_new, take_folder
from experiments.running.config import as_dict, make_job, task_overrides
from experiments.running.error_lines import NotChecked
from experiments.running.hydra_launcher import checked, register_plugin
from experiments.running.jax_settings import require_usable_jax
from experiments.running.planning import PlannedJob, group_jobs, require_own_directories
from remac.validation import InvalidValueError


class ValidateJobs(Callback):
    """Checks every job of a run or a sweep before the first directory is made, and then takes the directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the only job."""
        self._check(config, "run", lambda: iter([config]), lambda job: job.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks every job of the sweep."""
        if config.hydra.launcher._target_.endswith(("JoblibLauncher", "LocalLauncher")):
            # Its jobs are processes that share the device, and this one only waits for them.
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        sweep = config.hydra.sweep.dir  # once for all jobs: it may hold the time
        self._check(config, "sweep", lambda: sweep_jobs(config), lambda job: f"{sweep}/{job.hydra.sweep.subdir}")
        if config.hydra.sweeper._target_.endswith(".OptunaSweeper"):
            from experiments.running.hydra_search import OptunaSearch

            config.hydra.sweeper._target_ = register_plugin(OptunaSearch)

    def _check(
        self,
        config: DictConfig,
        mode: str,
        jobs: Callable[[], Iterator[DictConfig]],
        directory: Callable[[DictConfig], str],
    ) -> None:
        try:
            require_usable_jax()
            if config.hydra.output_subdir is not None:  # it would stand in the run directory before the run does
                allowed = "must be null; a run's directory has its configuration"
                raise InvalidValueError("hydra.output_subdir", config.hydra.output_subdir, allowed)
            checked.clear()
            planned = []
            for number, composed in enumerate(jobs()):
                path, overrides = Path(directory(composed)), task_overrides(composed.hydra)
                job = make_job(composed, overrides, path)
                planned.append(PlannedJob(job, path, "", ()))
                checked[number, tuple(overrides)] = composed, job
            if mode == "run" or _is_grid(config):  # other sweepers have yet to say what is in which directory
                require_own_directories(planned)
            if "memory_gib" in config.hydra.launcher:
                group_jobs(planned, config.hydra.launcher.memory_gib)
            _take_directory(config, mode)
        except Exception as error:
            raise NotChecked from error


def _take_directory(config: DictConfig, mode: str) -> None:
    """Makes a directory that nobody else has if its name holds the time, and locks that of a sweep."""
    node = config.hydra[mode]
    path = Path(node.dir)
    if "${now:" in as_dict(node, resolve=False)["dir"] and config.get("resume") is None:
        path = make_new(path)
        node.dir = str(path)
        # From these Hydra composes the jobs of a sweep.
        config.hydra.overrides.hydra.append(pasting.override(f"hydra.{mode}.dir", path))
    if mode == "sweep":
        take_folder("hydra.sweep.dir", path)


def sweep_jobs(config: DictConfig) -> Iterator[DictConfig]:
    """Composes the jobs of a multirun, in the order in which Hydra's own sweeper numbers them.

    Other sweepers choose the values as they go, so for them it is the one job without the swept keys.
    """
    is_grid = _is_grid(config)
    arguments = task_overrides(config.hydra)
    if is_grid and config.hydra.sweeper.params:
        arguments = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()] + arguments
    choices: list[list[str]] = []
    loader = GlobalHydra.instance().config_loader()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(arguments):
        if not override.is_sweep_override():
            choices.append([override.input_line or ""])
        elif is_grid:
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
            if not choices[-1]:
                given = (override.input_line or "").partition("=")[2]
                raise InvalidValueError(key, given, "stands for no value, so that the sweep would have no job")
    for number, overrides in enumerate(itertools.product(*choices)):
        job = loader.load_sweep_config(config, list(overrides))
        with open_dict(job):
            job.hydra.job.id, job.hydra.job.num = str(number), number
        yield job


def _is_grid(config: DictConfig) -> bool:
    return config.hydra.sweeper._target_.endswith("BasicSweeper")
