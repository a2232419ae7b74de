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
from hydra.plugins.plugin import Plugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.running.config import Job, make_job, task_overrides
from experiments.running.error_lines import BAD_INPUT
from experiments.running.jobs import run_jobs
from experiments.running.planning import PlannedJob

# Hydra takes plugins only from below this package.
MODULE = "hydra_plugins.remac_population"


@dataclasses.dataclass
class PopulationLauncherConfig:
    """Settings of the launcher; ``memory_gib`` is what one program may take, by default what the devices have."""

    _target_: str = f"{MODULE}.PopulationLauncher"
    memory_gib: float | None = None


# Jobs that were checked before the first began, by number and overrides: what Hydra composed, and the job.
checked: dict[tuple[int, tuple[str, ...]], tuple[DictConfig, Job]] = {}


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
        configs, planned, returns = [], [], dict[int, JobReturn]()
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config, job = checked.pop((number, tuple(overrides)), (None, None))
            if config is None:
                config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
                config.hydra.sweep.dir = self.config.hydra.sweep.dir  # the one taken, with a number if there was one
            sweep, overrides = Path(config.hydra.sweep.dir), task_overrides(config.hydra)
            directory = (sweep / str(config.hydra.sweep.subdir)).absolute()
            try:
                job = job or make_job(config, overrides, directory)
            except BAD_INPUT as error:  # a sweeper that chooses values as it goes can come to such ones
                returns[number] = _job_return(config, JobStatus.FAILED, error)
                continue
            configs.append(config)
            planned.append(PlannedJob(job, directory, sweep.name, overrides, number))
        if planned:
            outcomes = run_jobs(planned, memory_gib=self.memory_gib)
            for config, outcome in zip(configs, outcomes, strict=True):
                if outcome.score is None:
                    value = outcome.error or RuntimeError(outcome.reason)
                    returns[config.hydra.job.num] = _job_return(config, JobStatus.FAILED, value)
                else:
                    returns[config.hydra.job.num] = _job_return(config, JobStatus.COMPLETED, outcome.score)
        # The Optuna sweeper writes there after the last batch.
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        return [returns[number] for number in sorted(returns)]


def _job_return(config: DictConfig, status: JobStatus, value: float | Exception) -> JobReturn:
    return JobReturn(
        overrides=task_overrides(config.hydra),
        cfg=OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]),
        hydra_cfg=OmegaConf.masked_copy(config, ["hydra"]),
        working_dir=str(Path.cwd()),
        task_name=config.hydra.job.name,
        status=status,
        _return_value=value,
    )


def register_launcher() -> None:
    """Makes the launcher known to Hydra, from whatever folder the program runs."""
    register_plugin(PopulationLauncher)
    ConfigStore.instance().store(
        group="hydra/launcher", name="population", node=PopulationLauncherConfig, provider="remac"
    )


def register_plugin(plugin: type[Plugin]) -> str:
    """Makes a plugin known to Hydra; returns its ``_target_``."""
    plugins = Plugins.instance()
    module = sys.modules.setdefault(MODULE, types.ModuleType(MODULE))
    setattr(module, plugin.__name__, plugin)
    package = MODULE.partition(".")[0]
    if package not in sys.modules and importlib.util.find_spec(package) is None:  # it comes with any other plugin
        sys.modules[package] = types.ModuleType(package)
    setattr(importlib.import_module(package), MODULE.partition(".")[2], module)
    plugin.__module__ = MODULE
    plugins.register(plugin)
    return f"{MODULE}.{plugin.__name__}"
