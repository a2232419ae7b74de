"""Trains one agent on one task: ``python -m experiments.train agent=sac env=mujoco/hopper seed=3``.

With ``-m`` a key takes several values, ``agent=remac,sac 'seed=range(0,5)'``, and with ``hydra/launcher=population``
runs that differ in numbers only are one program. ``resume=<run directory>`` continues what was stopped. What a run
leaves, the other keys and the agents' hyperparameters have pages of their own.

Exit statuses: 0 done, 1 crash, 2 bad input (one line on stderr), 3 diverged, 130 and 143 for signals.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.running import hydra_main
from experiments.running.config import make_job, task_overrides
from experiments.running.hydra_launcher import checked, register_launcher
from experiments.running.jobs import run_jobs
from experiments.running.planning import PlannedJob


def main(config: DictConfig) -> float:
    """Runs one of Hydra's jobs, and returns the final deterministic return."""
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    is_sweep = hydra_config.mode is not None and hydra_config.mode.name == "MULTIRUN"
    sweep = Path(hydra_config.sweep.dir).name if is_sweep else directory.name
    overrides = task_overrides(hydra_config)
    number = 0 if OmegaConf.is_missing(hydra_config.job, "num") else hydra_config.job.num
    _, job = checked.pop((number, tuple(overrides)), (None, None))
    job = job or make_job(config, overrides, directory)  # in a process that a launcher started, nothing was checked
    (outcome,) = run_jobs([PlannedJob(job, directory, sweep, overrides)])
    if outcome.score is None:
        raise outcome.error or RuntimeError(outcome.reason)
    return outcome.score


if __name__ == "__main__":
    register_launcher()
    hydra_main.run("train", main)
