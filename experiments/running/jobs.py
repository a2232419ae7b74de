"""Runs jobs: those that differ in numbers only are one program, and one job is a population of one."""

import contextlib
import dataclasses
import functools
import gc
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.console.messages import one_line, warn
from experiments.console.progress import ProgressBar
from experiments.console.signals import StopSignals
from experiments.records.checkpoints import UnusableError
from experiments.records.files import find_damage, finished_summary
from experiments.records.loggers import make_logger
from experiments.records.run_directory import OutputError, RunDirectory
from experiments.running.planning import (
    Outcome,
    PlannedJob,
    group_jobs,
    require_own_directories,
    split_to_fit,
    structure,
)
from experiments.running.recorder import Recorder
from experiments.running.resume import align, find_start
from experiments.running.tables import announcement, report, table
from remac.training.evaluation import close
from remac.training.loop import StoppedError, stack_members, train_population
from remac.training.snapshot import MisfitError
from remac.validation import InvalidValueError


def run_jobs(planned: Sequence[PlannedJob], *, memory_gib: float | None = None) -> list[Outcome]:
    """Trains every job; groups of jobs that differ in numbers only are one program each.

    A job that becomes non-finite, or a group that crashes or whose directories cannot be made when its turn comes, does
    not end the others. Jobs that are resumed go on from their checkpoints, and not at all if they have finished.

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
            for problem in find_damage(one.directory, summary).values():
                warn(problem)
            outcomes[index] = _outcome(one.directory, summary, None)
    waiting = [index for index in range(len(planned)) if index not in outcomes]
    if waiting:
        to_run = _with_starts([planned[index] for index in waiting])
        groups = group_jobs(to_run, memory_gib)
        jobs_of = [[to_run[place] for place in group] for group in groups]
        runs = _open_directories(jobs_of[0])  # before anything is said: another process may have come first
        print("\n".join(map(announcement, jobs_of)), flush=True)
        name = to_run[0].directory.name if len(to_run) == 1 else f"{to_run[0].sweep}, {len(to_run)} runs"
        bar = ProgressBar(sum(one.job.train_config.total_env_steps for one in to_run), name=name)
        try:
            for group in groups:
                parts = split_to_fit(to_run, group, memory_gib)
                for part in parts:
                    opened, runs = runs[: len(part)], runs[len(part) :]
                    is_only = len(groups) == len(parts) == 1
                    results = _run_part([to_run[place] for place in part], opened, bar, is_only=is_only)
                    gc.collect()  # a training is part of reference cycles, and the next needs its memory
                    outcomes |= zip([waiting[place] for place in part], results, strict=True)
        finally:
            bar.close()
            for run in runs:
                run.close()
    in_order = [outcomes[index] for index in range(len(planned))]
    print(table(planned, in_order) if len(planned) > 1 else report(planned[0], in_order[0]), flush=True)
    return in_order


def _open_directories(planned: Sequence[PlannedJob]) -> list[RunDirectory]:
    """Opens all run directories of a program, or none."""
    with contextlib.ExitStack() as opened:
        runs = []
        for one in planned:
            run = RunDirectory(
                one.directory,
                one.job.config,
                origin={"sweep": one.sweep, "overrides": list(one.overrides)},
                keep=one.job.config["checkpoint"]["keep"],
                resume=one.job.resume,
                start=one.start,
                inputs=one.job.inputs,
            )
            opened.callback(run.close)
            runs.append(run)
        opened.pop_all()
    return runs


def _run_part(
    planned: Sequence[PlannedJob], runs: Sequence[RunDirectory], bar: ProgressBar, *, is_only: bool
) -> list[Outcome]:
    """Trains the jobs of one program, which may be the only one; opens their directories if nobody has."""
    try:
        runs = runs or _open_directories(planned)
    except (OSError, InvalidValueError) as error:
        warn(f"{one_line(error)}; going on without the jobs of that directory's program")
        return [Outcome(one.directory, "crashed", None, one_line(error), error) for one in planned]
    first = planned[0].job
    bar_end = bar.env_steps + len(planned) * first.train_config.total_env_steps
    with StopSignals() as signals:
        loggers = [
            functools.partial(make_logger, one.job.config, run.path, run.origin)
            for one, run in zip(planned, runs, strict=True)
        ]
        starts = [one.start for one in planned]
        recorder = Recorder(bar, [one.job for one in planned], runs, loggers, starts, signals)
        try:
            failures = _train(planned, recorder, is_only=is_only)
        finally:
            for run in runs:
                run.close()
        if signals.is_requested:  # it came after the last moment of training
            if is_only:
                bar.say_last("the training had ended when the signal came")
            else:
                recorder.say_how_to_continue("stopped between two programs")
            signals.end()
    bar.skip_to(bar_end)
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
    except BaseException as error:  # of a signal
        recorder.close("interrupted", {KeyboardInterrupt: "SIGINT", SystemExit: "SIGTERM"}.get(type(error)))
        raise
    finally:
        close(first.env)
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
        groups.setdefault(structure(one.job), []).append(index)
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
