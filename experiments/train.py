"""Trains one agent on one task: ``python -m experiments.train agent=sac env=mujoco/hopper seed=3``."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments import command_line
from experiments.config import Job, LoggerConfig, make_job
from experiments.progress import ProgressBar
from experiments.run_directory import POLICY, RunDirectory
from experiments.run_plots import plot_run
from remac.loop import Evaluation, NonFiniteError, Progress, member, stack_members, train_population
from remac.policy import save_policy
from remac.types import Metrics


def main(config: DictConfig) -> float:
    """Runs one of Hydra's jobs, and returns the final deterministic return."""
    hydra_config = HydraConfig.get()
    job = make_job(config)
    run = RunDirectory(hydra_config.runtime.output_dir, job.config)
    logger = _make_logger(job, run, hydra_config)
    return train_jobs([job], [run], [logger])[0]


def train_jobs(jobs: Sequence[Job], runs: Sequence[RunDirectory], loggers: Sequence[Any | None]) -> list[float]:
    """Trains jobs that differ in numbers only as one population, each with its own directory and logger.

    Args:
        jobs: P jobs; the first one's environment and lengths are everyone's.
        runs: Their directories.
        loggers: Their W&B loggers, or None.

    Returns:
        Each job's final deterministic return.
    """
    first = jobs[0]
    print(_announcement(jobs), flush=True)
    recorder = Recorder(first.train_config.total_env_steps, runs, loggers)
    agents = stack_members([job.agent for job in jobs])
    keys = jnp.stack([jax.random.key(job.config["seed"]) for job in jobs])
    try:
        train_population(agents, first.env, first.train_config, keys, recorder)
    except BaseException as error:
        recorder.close(_status(error), reason=str(error))
        raise
    summaries = recorder.close("finished")
    for job, run, summary in zip(jobs, runs, summaries, strict=True):
        print(_report(job, run, summary))
    return [summary["metrics"]["eval/return"] for summary in summaries]


LOGGER_KEYS = ("logger", *(f"logger.{spec.name}" for spec in dataclasses.fields(LoggerConfig)))


class Recorder:
    """Takes the events of a training to the bar, the run directories and the loggers."""

    def __init__(self, total_env_steps: int, runs: Sequence[RunDirectory], loggers: Sequence[Any | None]) -> None:
        """Starts the bar."""
        self._runs, self._loggers = runs, loggers
        self._bar = ProgressBar(total_env_steps)
        self._latest: list[Metrics] = [{} for _ in runs]
        self._env_steps = self._gradient_steps = 0
        self._training_since = self._evaluating_since = time.monotonic()
        self._evaluating = False

    def __call__(self, event: Progress | Evaluation) -> None:
        """Records an event."""
        if isinstance(event, Evaluation):
            self._record(event)
            return
        if event.evaluating and not self._evaluating:
            self._evaluating_since = time.monotonic()
        self._evaluating = event.evaluating
        self._bar.update(event.env_steps, "evaluating" if event.evaluating else "training")

    def close(self, status: str, **details: Any) -> list[dict[str, Any]]:
        """Ends the bar, the pictures and the loggers; returns each run's summary."""
        self._bar.close()
        details = {"env_steps": self._env_steps, "gradient_steps": self._gradient_steps, **details}
        summaries = []
        for run, logger, latest in zip(self._runs, self._loggers, self._latest, strict=True):
            summaries.append(run.write_summary(status, latest, **details))
            plots = plot_run(run.path)
            if logger is not None:
                logger.finish(summaries[-1], plots, exit_code=0 if status == "finished" else 1)
        return summaries

    def _record(self, event: Evaluation) -> None:
        now = time.monotonic()
        timing = {"time/evaluation_seconds": now - self._evaluating_since}
        if event.env_steps > self._env_steps:
            elapsed = self._evaluating_since - self._training_since
            timing["time/env_steps_per_second"] = (event.env_steps - self._env_steps) / max(elapsed, 1e-9)
        self._env_steps, self._gradient_steps = event.env_steps, event.gradient_steps
        for index, (run, logger) in enumerate(zip(self._runs, self._loggers, strict=True)):
            values = {name: float(value[index]) for name, value in event.metrics.items()}
            if np.isnan(values.get("train/episode_return", 0.0)):
                del values["train/episode_return"]  # no episode of this member has ended
            values |= timing
            self._latest[index] = values
            run.log(event.env_steps, event.gradient_steps, values)
            save_policy(member(event.policies, index), run.path / POLICY)
            if logger is not None:
                logger.log(event.env_steps, values)
        self._bar.show(**{name: float(np.mean(event.metrics[f"eval/{name}"])) for name in ("return", "entropy")})
        self._training_since, self._evaluating = time.monotonic(), False


def _make_logger(job: Job, run: RunDirectory, hydra_config: Any) -> Any | None:
    settings = job.config["logger"]
    if settings["name"] != "wandb":
        return None
    from experiments.wandb_logger import WandbLogger

    is_sweep = hydra_config.mode is not None and hydra_config.mode.name == "MULTIRUN"
    sweep = Path(hydra_config.sweep.dir).name if is_sweep else run.path.name
    overrides = list(hydra_config.overrides.task)
    arm = job.config["arm"] or (
        ",".join(o for o in overrides if o.lstrip("+").split("=")[0] not in ("seed", *LOGGER_KEYS)) or "default"
    )
    return WandbLogger(
        settings, job.config, run.path, sweep=sweep, arm=arm, seed=job.config["seed"], overrides=overrides
    )


def _status(error: BaseException) -> str:
    if isinstance(error, NonFiniteError):
        return "stopped"
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "crashed"


def _announcement(jobs: Sequence[Job]) -> str:
    first, device = jobs[0], jax.local_devices()[0]
    config = first.train_config
    mebibytes = config.replay_bytes(first.env, len(jobs)) / 2**20
    return (
        f"{first.config['agent']['name']} on {first.env.name}, {device.platform} ({device.device_kind}), "
        f"{len(jobs)} member{'s' * (len(jobs) > 1)}: {config.total_env_steps:,} env steps each; "
        f"replay of {config.replay_rows:,} rows a member, {mebibytes:,.1f} MiB in all"
    )


def _report(job: Job, run: RunDirectory, summary: dict[str, Any]) -> str:
    metrics, config = summary["metrics"], job.config
    minutes, seconds = divmod(round(summary["wall_seconds"]), 60)
    return (
        f"{config['agent']['name']} on {job.env.name}, seed {config['seed']}: {summary['env_steps']:,} env steps and "
        f"{summary['gradient_steps']:,} gradient steps in {minutes} min {seconds} s\n"
        f"return {metrics['eval/return']:.1f} (mean action), {metrics['eval/return_stochastic']:.1f} (sampled action); "
        f"entropy {metrics['eval/entropy']:.2f} nats; "
        f"standard deviation before tanh {metrics.get('actor/pre_tanh_std', float('nan')):.3f}\n"
        f"run directory: {run.path}"
    )


if __name__ == "__main__":
    command_line.run("train", main)
