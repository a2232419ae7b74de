"""Runs jobs: those that differ in numbers only are one program, and one job is a population of one."""

import collections
import dataclasses
import functools
import gc
import json
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.checkpoints import SavedRun, UnusableError
from experiments.config import FREE_KEYS, Job, available_memory_bytes
from experiments.messages import one_line
from experiments.progress import ProgressBar
from experiments.recorder import Recorder
from experiments.resume import align, find_start, require_resumable
from experiments.run_directory import OutputError, RunDirectory, finished_summary, require_unused
from experiments.signals import StopSignals
from remac.loop import StoppedError, stack_members, train_population
from remac.snapshot import MisfitError
from remac.types import InvalidValueError, PyTree
from remac.validation import require_number

# What is left for the working memory of the programs, which is not known before they are compiled.
MEMORY_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class PlannedJob:
    """A job and where it goes.

    Attributes:
        job: What to run.
        directory: Its run directory, new or empty, or with ``job.resume`` one that holds the job's run.
        sweep: What it belongs to, which is W&B's group.
        overrides: What the command line changed, for tables and W&B's tags.
        start: The checkpoint that it continues from.
    """

    job: Job
    directory: Path
    sweep: str
    overrides: Sequence[str]
    start: SavedRun | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        directory: Its run directory.
        status: ``finished``, ``stopped`` (a metric became non-finite, or the simulation broke down) or ``crashed``, as
            in ``summary.json``.
        score: Final return with the mean action, or None if the job did not finish.
        reason: Why it did not finish, in one line.
        error: The exception behind the reason.
        summary: What ``summary.json`` holds.
    """

    directory: Path
    status: str
    score: float | None
    reason: str | None = None
    error: Exception | None = None
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)


def run_jobs(planned: Sequence[PlannedJob], *, memory_gib: float | None = None) -> list[Outcome]:
    """Trains every job; groups of jobs that differ in numbers only are one program each.

    A job that becomes non-finite, or a group that crashes, does not end the others. Jobs that are resumed go on from
    their checkpoints, and not at all if they have finished.

    Args:
        planned: The jobs.
        memory_gib: Memory that a group may take, or it is split; by default what the devices have left.

    Returns:
        What came of each job, in the order given.

    Raises:
        InvalidValueError: If a directory is in use or a single job does not fit the memory. Nothing is made then.
    """
    require_own_directories(planned)
    outcomes: dict[int, Outcome] = {}
    for index, one in enumerate(planned):
        if one.job.resume and (summary := finished_summary(one.directory)):
            print(f"{one.directory}: has finished already", flush=True)
            outcomes[index] = _outcome(one.directory, summary, None)
    waiting = [index for index in range(len(planned)) if index not in outcomes]
    if waiting:
        to_run = _with_starts([planned[index] for index in waiting])
        parts = group_jobs(to_run, memory_gib)
        print("\n".join(_announcement([to_run[place] for place in part]) for part in parts), flush=True)
        bar = ProgressBar(sum(one.job.train_config.total_env_steps for one in to_run))
        try:
            for part in parts:
                results = _run_part([to_run[place] for place in part], bar, is_only=len(parts) == 1)
                gc.collect()  # a training is part of reference cycles, and the next needs its memory
                outcomes |= zip([waiting[place] for place in part], results, strict=True)
        finally:
            bar.close()
    in_order = [outcomes[index] for index in range(len(planned))]
    print(_table(planned, in_order) if len(planned) > 1 else _report(planned[0], in_order[0]), flush=True)
    return in_order


def group_jobs(planned: Sequence[PlannedJob], memory_gib: float | None = None) -> list[list[int]]:
    """Groups jobs that differ in seed and in the agents' leaves only, and splits groups that need too much memory.

    Args:
        planned: The jobs.
        memory_gib: As in ``run_jobs``.

    Returns:
        Indices of the jobs of each program, in the order of their first jobs.

    Raises:
        InvalidValueError: If a single job does not fit.
    """
    if memory_gib is not None:
        require_number("hydra.launcher.memory_gib", memory_gib, 0, open_minimum=True)
    groups: dict[Any, list[int]] = {}
    for index, one in enumerate(planned):
        start = None if one.start is None else (one.start.run["rounds_done"], one.start.run["evaluated_round"])
        groups.setdefault((_structure(one.job), start), []).append(index)
    parts = []
    for group in groups.values():
        if len(group) == 1 and memory_gib is None:
            parts.append(group)  # that a job fits by itself has been checked with its configuration
            continue
        needed, memory = _member_bytes(planned[group[0]].job), _memory_bytes(memory_gib)
        if memory_gib is not None and needed > memory:
            raise InvalidValueError(
                "hydra.launcher.memory_gib", memory_gib, f"must be at least {needed / 2**30:.3g}, what one job needs"
            )
        num_parts = -(-len(group) // max(memory // needed, 1))
        parts += [[int(index) for index in part] for part in np.array_split(group, num_parts)]
    return parts


def _structure(job: Job) -> Any:
    """Returns what jobs of one program have in common."""
    leaves, structure = jax.tree.flatten(job.agent)
    env = {name: job.config["env"][name] for name in ("suite", "task", "options")}
    return (
        structure,
        tuple((np.shape(leaf), np.result_type(leaf)) for leaf in leaves),
        json.dumps([env, job.config["num_envs"]], sort_keys=True, default=str),
        job.train_config,
        job.config["checkpoint"]["replay"],
    )


def _member_bytes(job: Job) -> int:
    """Returns what one member needs: replay, agent, and the environments of suites on the device."""
    key = jax.random.key(0)
    held = [jax.eval_shape(job.agent.init, key)]
    if job.env.on_device:
        evaluation = job.env.for_evaluation(job.train_config.num_eval_episodes)
        both_modes = jax.eval_shape(lambda keys: jax.vmap(evaluation.reset)(keys), jax.random.split(key))
        held += [jax.eval_shape(job.env.reset, key), both_modes]
    return job.train_config.replay_bytes(job.env) + _num_bytes(held)


def _num_bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _memory_bytes(memory_gib: float | None) -> int:
    if memory_gib is not None:
        return int(memory_gib * 2**30)
    devices = jax.local_devices()
    # Host devices share the machine's memory.
    num_memories = 1 if devices[0].platform == "cpu" else len(devices)
    return int(available_memory_bytes() * num_memories * MEMORY_SHARE)


def _run_part(planned: Sequence[PlannedJob], bar: ProgressBar, *, is_only: bool) -> list[Outcome]:
    """Trains the jobs of one program, which may be the only one."""
    first = planned[0].job
    bar_end = bar.env_steps + len(planned) * first.train_config.total_env_steps
    runs = [
        RunDirectory(
            one.directory,
            one.job.config,
            origin={"sweep": one.sweep, "overrides": list(one.overrides)},
            keep=one.job.config["checkpoint"]["keep"],
            resume=one.job.resume,
            start=one.start,
        )
        for one in planned
    ]
    with StopSignals() as signals:
        loggers = [functools.partial(_make_logger, one, run) for one, run in zip(planned, runs, strict=True)]
        starts = [one.start for one in planned]
        recorder = Recorder(bar, [one.job for one in planned], runs, loggers, starts, signals)
        try:
            failures = _train(planned, recorder, is_only=is_only)
        finally:
            for run in runs:
                run.close()
        if signals.is_requested:
            signals.end()  # it came after the last moment of training
    bar.update(bar_end, "training")
    return [_outcome(run.path, recorder.summaries[index], failures.get(index)) for index, run in enumerate(runs)]


def _train(planned: Sequence[PlannedJob], recorder: Recorder, *, is_only: bool) -> dict[int, Exception]:
    """Trains the jobs of one program to their end; returns what stopped those that did not come to it."""
    first = planned[0].job
    failures: dict[int, Exception] = {}
    try:
        agents = stack_members([one.job.agent for one in planned])
        keys = jnp.stack([jax.random.key(one.job.config["seed"]) for one in planned])
        start = None
        if planned[0].start is not None:
            start = [one.start.arrays() for one in planned if one.start is not None]
        failures |= train_population(agents, first.env, first.train_config, keys, recorder, start).failures
        recorder.close("finished")
    except (UnusableError, MisfitError) as error:  # nothing has been written yet
        refusal = _refusal(planned, error)
        if is_only:
            raise refusal from None
        recorder.summaries |= {index: {"status": "crashed", "reason": str(refusal)} for index in range(len(planned))}
        failures |= dict.fromkeys(range(len(planned)), refusal)
    except StoppedError as error:
        _release(error)
        failures |= dict.fromkeys(range(len(planned)), error)  # each member's own words are in its summary
    except Exception as error:
        recorder.close("crashed", one_line(error))
        if len(planned) > 1 or not is_only:
            if not isinstance(error, OutputError):
                traceback.print_exception(error)
            _release(error)
        failures |= dict.fromkeys(range(len(planned)), error)
    except BaseException as error:
        recorder.close("interrupted", str(error))
        raise
    return failures


def _refusal(planned: Sequence[PlannedJob], error: UnusableError | MisfitError) -> InvalidValueError:
    """Names the job whose checkpoint does not fit."""
    starts = [one.start.path for one in planned if one.start is not None]
    place = error.member if isinstance(error, MisfitError) else starts.index(error.path.parent)
    allowed = f"{starts[place]} cannot be continued from ({error}); use the version of the code that made it"
    return InvalidValueError("resume", planned[place].directory, allowed)


def _release(error: BaseException) -> None:
    """Lets go of the frames that an error passed, which hold the training's arrays."""
    error.__traceback__ = error.__cause__ = error.__context__ = None


def _with_starts(planned: Sequence[PlannedJob]) -> list[PlannedJob]:
    """Finds the checkpoints that jobs continue from; those that were one program get the same one where they can."""
    starts = [find_start(one.directory, one.job.config) if one.job.resume else None for one in planned]
    groups: dict[Any, list[int]] = {}
    for index, one in enumerate(planned):
        groups.setdefault(_structure(one.job), []).append(index)
    for group in groups.values():
        aligned = [starts[index] for index in group]
        align([planned[i].directory for i in group], [planned[i].job.config for i in group], aligned)
        for index, start in zip(group, aligned, strict=True):
            starts[index] = start
    return [dataclasses.replace(one, start=start) for one, start in zip(planned, starts, strict=True)]


def _outcome(directory: Path, summary: dict[str, Any], error: Exception | None) -> Outcome:
    status = summary["status"]
    score = summary["metrics"]["eval/return"] if status == "finished" else None
    return Outcome(directory, status, score, summary.get("reason"), error, summary)


def _make_logger(planned: PlannedJob, run: RunDirectory) -> Any | None:
    config = planned.job.config
    if config["logger"]["name"] != "wandb":
        return None
    from experiments.wandb_logger import WandbLogger

    overrides = run.origin["overrides"]
    told = [text for text in overrides if re.split(r"[=.]", text.lstrip("+"))[0] not in ("seed", *FREE_KEYS)]
    # A preset's arm is one of each task; an arm named by hand is among the overrides.
    arm = f"{planned.job.env.name} {config['arm']}" if config["experiment"] else ",".join(told) or "default"
    return WandbLogger(
        config["logger"],
        config,
        run.path,
        sweep=run.origin["sweep"],
        arm=arm,
        seed=config["seed"],
        overrides=overrides,
    )


def require_own_directories(planned: Sequence[PlannedJob]) -> None:
    """Requires that every job has a directory of its own, new or empty, or with the run that it resumes.

    Raises:
        InvalidValueError: If one has not.
    """
    seen: set[Path] = set()
    for one in planned:
        if one.job.resume:
            require_resumable(one.directory, one.job.config)
        else:
            require_unused(one.directory)
        path = Path(one.directory).absolute()
        if path in seen:
            raise InvalidValueError("hydra.sweep.subdir", one.directory, "is the directory of two jobs")
        seen.add(path)


def _announcement(planned: Sequence[PlannedJob]) -> str:
    first, count = planned[0].job, len(planned)
    devices = jax.local_devices()
    config = first.train_config
    mebibytes = config.replay_bytes(first.env, count) / 2**20
    memory = f"replay of {config.replay_rows:,} rows a member, {mebibytes:,.1f} MiB in all"
    settings = first.config["checkpoint"]
    if config.checkpoint_every_env_steps is not None and config.checkpoint_every_env_steps < config.total_env_steps:
        size = count * (_member_bytes(first) - (0 if settings["replay"] else config.replay_bytes(first.env)))
        memory += f"; checkpoints of up to {size / 2**20:,.1f} MiB, of which {settings['keep']} are kept"
    if (start := planned[0].start) is not None:
        memory += f"; continuing at {start.env_steps:,} env steps"
    if count > 1:
        memory += f"; with agents and environments {count * _member_bytes(first) / 2**20:,.1f} MiB"
    return (
        f"{first.config['agent']['name']} on {first.env.name}, {devices[0].platform} ({devices[0].device_kind}), "
        f"{count} member{'s' * (count > 1)}: {config.total_env_steps:,} env steps each; {memory}"
    )


def _report(planned: PlannedJob, outcome: Outcome) -> str:
    summary, config = outcome.summary, planned.job.config
    if outcome.status != "finished":
        return f"run directory: {outcome.directory}"
    metrics = summary["metrics"]
    minutes, seconds = divmod(round(summary["wall_seconds"]), 60)
    return (
        f"{config['agent']['name']} on {planned.job.env.name}, seed {config['seed']}: "
        f"{summary['env_steps']:,} env steps and "
        f"{summary['gradient_steps']:,} gradient steps in {minutes} min {seconds} s\n"
        f"return {metrics['eval/return']:.1f} (mean action), {metrics['eval/return_stochastic']:.1f} (sampled action); "
        f"entropy {metrics['eval/entropy']:.2f} nats; "
        f"standard deviation before tanh {metrics.get('actor/pre_tanh_std', float('nan')):.3f}\n"
        f"run directory: {outcome.directory}"
    )


def _table(planned: Sequence[PlannedJob], outcomes: Sequence[Outcome]) -> str:
    """Returns one line a job, and one that counts what became of them."""
    in_all = set.intersection(*(set(one.overrides) for one in planned))
    rows = [("job", "status", "return", "entropy", "what differs", "run directory")]
    for number, (one, outcome) in enumerate(zip(planned, outcomes, strict=True)):
        numbers = ["-", "-"]
        if outcome.score is not None:
            numbers = [f"{outcome.summary['metrics'][name]:.1f}" for name in ("eval/return", "eval/entropy")]
        differs = " ".join(text for text in one.overrides if text not in in_all) or "-"
        where = str(outcome.directory) + (f" ({outcome.reason})" if outcome.reason else "")
        rows.append((str(number), outcome.status, *numbers, differs, where))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]]) for row in rows
    ]
    counts = collections.Counter(outcome.status for outcome in outcomes)
    return "\n".join([*lines, ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))])
