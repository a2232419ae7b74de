"""The Hydra launcher that runs a sweep as few programs: ``hydra/launcher=population``."""

import dataclasses
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.running.config import make_job, task_overrides
from experiments.running.jobs import run_jobs
from experiments.running.planning import Outcome, PlannedJob

# Hydra takes plugins only from below this package.
MODULE = "hydra_plugins.remac_population"


@dataclasses.dataclass
class PopulationLauncherConfig:
    """Settings of the launcher; ``memory_gib`` is what one program may take, by default what the devices have."""

    _target_: str = f"{MODULE}.PopulationLauncher"
    memory_gib: float | None = None


class PopulationLauncher(Launcher):
    """Runs the jobs of a sweep that differ in numbers only as one program."""

    def __init__(self, memory_gib: float | None = None) -> None:
        """Takes what one program may take, in GiB."""
        self.memory_gib = memory_gib

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra has composed; the task is always training."""
        self.config, self.hydra_context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch of jobs, numbered from ``initial_job_idx``."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        configs, planned = [], []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
            sweep, overrides = Path(config.hydra.sweep.dir), task_overrides(config.hydra)
            directory = (sweep / str(config.hydra.sweep.subdir)).absolute()
            configs.append(config)
            planned.append(PlannedJob(make_job(config, overrides, directory), directory, sweep.name, overrides))
        outcomes = run_jobs(planned, memory_gib=self.memory_gib)
        # The Optuna sweeper writes there after the last batch.
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        return [_job_return(*both) for both in zip(configs, outcomes, strict=True)]


def _job_return(config: DictConfig, outcome: Outcome) -> JobReturn:
    task_config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    failed = outcome.score is None
    return JobReturn(
        overrides=task_overrides(config.hydra),
        cfg=task_config,
        hydra_cfg=OmegaConf.masked_copy(config, ["hydra"]),
        working_dir=str(Path.cwd()),
        task_name=config.hydra.job.name,
        status=JobStatus.FAILED if failed else JobStatus.COMPLETED,
        _return_value=outcome.error or RuntimeError(outcome.reason) if failed else outcome.score,
    )


def register_launcher() -> None:
    """Makes the launcher known to Hydra, from whatever folder the program runs."""
    plugins = Plugins.instance()
    module = types.ModuleType(MODULE)
    module.PopulationLauncher = PopulationLauncher  # type: ignore[attr-defined]
    sys.modules[MODULE] = module
    package = MODULE.partition(".")[0]
    if importlib.util.find_spec(package) is None:  # it comes with any other plugin
        sys.modules[package] = types.ModuleType(package)
    setattr(importlib.import_module(package), MODULE.partition(".")[2], module)
    PopulationLauncher.__module__ = MODULE
    plugins.register(PopulationLauncher)
    ConfigStore.instance().store(
        group="hydra/launcher", name="population", node=PopulationLauncherConfig, provider="remac"
    )
