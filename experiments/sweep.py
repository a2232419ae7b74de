"""Runs a preset: ``python -m experiments.sweep experiment=adam_epsilon scale=laptop``.

A preset, ``conf/experiment/<name>.yaml``, lists arms (named sets of overrides); every arm runs on every task with every
seed, and runs that differ in numbers only share one program. The same command again runs what is missing, and goes on
with what was stopped.
"""

import dataclasses
import json
import sys
from collections import Counter
from dataclasses import field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig

import envs
from experiments import plot
from experiments.console.key_value import require_folder
from experiments.console.messages import one_line, warn
from experiments.console.pasting import as_path, key_of
from experiments.records.files import PLAN
from experiments.records.run_directory import take_folder
from experiments.running import hydra_main
from experiments.running.config import AUTO, make_job, merge
from experiments.running.error_lines import BAD_INPUT, describe
from experiments.running.jax_settings import require_usable_jax
from experiments.running.jobs import run_jobs
from experiments.running.planning import PlannedJob, require_own_directories
from remac.files import write_whole
from remac.validation import InvalidValueError, require_number, require_one_of

# Keys of a run that the sweep decides itself.
OWN_KEYS = ("env", "seed", "arm", "experiment", "hydra.run.dir")


@dataclasses.dataclass
class Preset:
    """The runs of one figure: tasks by suite, arms as lists of overrides, and what is not as the scale has it.

    ``overrides`` are of scales, by name; they come after the scale's own.
    """

    tasks: dict[str, list[str]] = MISSING
    arms: dict[str, list[str]] = MISSING
    seeds: list[int] | None = None
    overrides: dict[str, list[str]] = field(default_factory=dict)


@dataclasses.dataclass
class Scale:
    """How much of a preset to run; ``agents`` has further overrides for the arms of an agent, by its name."""

    seeds: list[int] = MISSING
    num_tasks: int = MISSING
    overrides: list[str] = field(default_factory=list)
    agents: dict[str, list[str]] = field(default_factory=dict)


@dataclasses.dataclass
class SweepConfig:
    """One sweep; the fields are explained in ``conf/sweep.yaml``."""

    experiment: Preset = field(default_factory=Preset)
    scales: dict[str, Scale] = field(default_factory=dict)
    suite: str | None = None
    scale: str = MISSING
    directory: str | None = None
    tasks: list[str] | None = None
    arms: list[str] | None = None
    seeds: list[int] | None = None
    overrides: list[str] = field(default_factory=list)
    memory_gib: float | None = None


def main(config: DictConfig) -> None:
    """Runs or continues what is not finished of a sweep, and draws its figures."""
    require_usable_jax()
    name = HydraConfig.get().runtime.choices["experiment"]
    suite = _suite(config)
    directory = as_path(config.directory or f"runs/{name}_{suite}_{config.scale}")
    require_folder("directory", directory)
    planned = plan(config, name, directory)
    require_own_directories(planned)
    take_folder("directory", directory)
    write_plan(directory, planned, experiment=name, suite=suite, scale=config.scale)
    outcomes = run_jobs(planned, memory_gib=config.memory_gib)
    failed = [outcome for outcome in outcomes if outcome.score is None]
    if len(failed) < len(outcomes):
        try:
            plot.main([str(directory), f"out={directory / 'figures'}"])
        except Exception as error:
            warn(f"{directory}: no figures ({one_line(error)}); the runs are there")
    if failed:
        raise failed[0].error or RuntimeError(failed[0].reason)


def plan(config: DictConfig, name: str, directory: Path) -> list[PlannedJob]:
    """Composes and checks every run of a sweep; nothing is made on disk.

    Args:
        config: A composed ``SweepConfig``.
        name: The preset's name.
        directory: The sweep's folder; a run's own is ``<task>/<arm>/seed<seed>`` in it.

    Raises:
        InvalidValueError: Naming the key, its value and what is allowed.
        omegaconf.errors.OmegaConfBaseException: If an override does not fit.
    """
    preset, scales = config.experiment, config.scales
    suite = _suite(config)
    for key in ("tasks", "arms", "seeds"):
        if config[key] is not None and not config[key]:
            raise InvalidValueError(key, "[]", "must name at least one")
        if twice := [one for one, number in Counter(config[key] or ()).items() if number > 1]:
            raise InvalidValueError(key, list(config[key]), f"must name each once, not {twice[0]} twice")
    require_one_of("scale", config.scale, scales)
    if config.memory_gib is not None:
        require_number("memory_gib", config.memory_gib, 0, open_minimum=True)
    scale = scales[config.scale]
    named = [task.removeprefix(f"{suite}/") for task in config.tasks or []]
    tasks = named or preset.tasks.get(suite, [])[: scale.num_tasks]
    if not tasks:
        raise InvalidValueError("tasks", None, f"must be given, since {name} names none of {suite}")
    for task in tasks:
        if not envs.may_be(f"{suite}/{task}"):
            told = envs.alternatives(f"{suite}/{task}", suite)
            raise InvalidValueError("tasks", task, f"no such task of {suite}; {told}")
    for arm in config.arms or []:
        require_one_of("arms", arm, preset.arms)
    seeds = config.seeds or preset.seeds or scale.seeds
    for override in config.overrides:
        if (key := key_of(override)) in OWN_KEYS:
            raise InvalidValueError("overrides", override, f"the sweep sets {key} itself")
    planned: list[PlannedJob] = []
    for task in tasks:
        for arm in config.arms or preset.arms:
            start = (f"env={suite}/{task}", *preset.arms[arm])
            try:
                of_scale = (*scale.overrides, *preset.overrides.get(config.scale, []))
                overrides = (*start, *of_scale, *config.overrides)
                if scale.agents:
                    of_agent = scale.agents.get(hydra.compose("train", [*start, *config.overrides]).agent.name, [])
                    overrides = (*start, *of_scale, *of_agent, *config.overrides)
                composed = hydra.compose("train", list(overrides))
            except BAD_INPUT as error:  # of the run's keys, not of this command's
                line = describe(error, list(overrides))
                raise InvalidValueError("overrides", " ".join(config.overrides) or "none", line) from None
            for seed in seeds:
                run = directory / task / arm / f"seed{seed}"
                settings = merge(composed, {"experiment": name, "arm": arm, "seed": seed, "resume": AUTO})
                job = make_job(settings, directory=run)
                typed = (*overrides, f"seed={seed}")
                planned.append(PlannedJob(job, run, directory.name, typed, len(planned)))
    return planned


def _suite(config: DictConfig) -> str:
    """Returns the suite that is asked for, or the preset's."""
    tasks = config.experiment.tasks
    if config.suite is None:
        return envs.DEFAULT_SUITE if envs.DEFAULT_SUITE in tasks else next(iter(tasks))
    require_one_of("suite", config.suite, envs.SUITES)
    return config.suite


def write_plan(directory: Path, planned: list[PlannedJob], **names: Any) -> None:
    """Writes what was planned, and keeps what earlier commands had planned in the same folder.

    Raises:
        InvalidValueError: If what they wrote cannot be read.
    """
    file = directory / PLAN
    try:
        before = json.loads(file.read_text())["runs"] if file.is_file() else []
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError("directory", directory, f"{file} is damaged ({error}); remove that file") from None
    cells = [
        {"directory": str(one.directory.relative_to(directory)), "task": one.job.env.name}
        | {key: one.job.config[key] for key in ("arm", "seed")}
        for one in planned
    ]
    directory.mkdir(parents=True, exist_ok=True)
    content = names | {
        "command": ["python -m experiments.sweep", *sys.argv[1:]],
        "runs": [cell for cell in before if cell not in cells] + cells,
    }
    write_whole(file, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    ConfigStore.instance().store(name="sweep_schema", node=SweepConfig)
    hydra_main.run("sweep", main)
