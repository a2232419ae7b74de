"""Checks every job of a run or a sweep before anything is made or compiled."""

import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from experiments.console.messages import leave
from experiments.running.config import make_job, task_overrides
from experiments.running.error_lines import BAD_INPUT, describe
from experiments.running.planning import PlannedJob, group_jobs, require_own_directories


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
            planned = []
            for job in jobs():
                path = Path(directory(job))
                planned.append(PlannedJob(make_job(job, task_overrides(job.hydra), path), path, "", ()))
            require_own_directories(planned)
            if "memory_gib" in config.hydra.launcher:
                group_jobs(planned, config.hydra.launcher.memory_gib)
        except BAD_INPUT as error:
            leave(2, describe(error, sys.argv[1:]))
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
