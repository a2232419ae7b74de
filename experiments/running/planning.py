"""Which jobs there are, where they go, and which of them are one program."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.console.messages import warn
from experiments.records.checkpoints import SavedTraining
from experiments.records.run_directory import require_unused
from experiments.running.config import Job, available_memory_bytes
from experiments.running.resume import require_resumable
from remac.training.functions import structure_of
from remac.training.loop import round_bytes, stack_members, training_bytes
from remac.types import PyTree
from remac.validation import InvalidValueError, require_number

# What is left of the devices' memory for evaluations, and on the CPU, where members take turns with them, for the
# temporary arrays of the program that trains.
MEMORY_SHARE = 0.8
# Programs that by what is known without compiling take less than this share of the memory are not compiled before their
# turn: their temporary arrays are a small part of them.
COMPILED_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class PlannedJob:
    """A job and where it goes.

    Attributes:
        job: What to run.
        directory: Its run directory, new or empty, or with ``job.resume`` one that holds the job's run.
        sweep: What it belongs to, which is W&B's group.
        overrides: What the command line changed, for tables and W&B's tags.
        number: Its place in the sweep.
        start: The checkpoint that it continues from.
    """

    job: Job
    directory: Path
    sweep: str
    overrides: Sequence[str]
    number: int = 0
    start: SavedTraining | None = None


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
        groups.setdefault((structure(one.job), start), []).append(index)
    parts = []
    for group in groups.values():
        if len(group) == 1 and memory_gib is None:
            parts.append(group)  # that a job fits by itself has been checked with its configuration
            continue
        first = planned[group[0]].job
        needed, memory = needed_bytes(first), _memory_bytes(memory_gib, first)
        if memory_gib is not None and needed > memory:
            raise InvalidValueError(
                "hydra.launcher.memory_gib", memory_gib, f"must be at least {needed / 2**30:.3g}, what one job needs"
            )
        num_parts = -(-len(group) // max(memory // needed, 1))
        parts += _cut(group, num_parts)
    return parts


def split_to_fit(planned: Sequence[PlannedJob], group: list[int], memory_gib: float | None = None) -> list[list[int]]:
    """Splits a program once more if by the compiler's account it takes too much memory; compiles it for that.

    Args:
        planned: The jobs.
        group: Indices of those of one program, as ``group_jobs`` has found them.
        memory_gib: As in ``run_jobs``.

    Returns:
        Indices of the jobs of each program, in order.
    """
    first, on_cpu = planned[group[0]].job, jax.default_backend() == "cpu"
    memory, num_devices = _memory_bytes(memory_gib, first), len(jax.local_devices())
    is_small = on_cpu or len(group) * needed_bytes(first) < COMPILED_SHARE * memory
    if len(group) == 1 or (memory_gib is None and is_small):
        return [group]
    try:
        agents = stack_members([planned[index].job.agent for index in group])
        of_device, num_used = training_bytes(agents, first.env, first.train_config)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            return [group]  # fails again, and is told, where the program is used
        of_device, num_used = 2 * memory, 1
    # Devices of a CPU share its memory. Others have their own, which are taken to be as full as the fullest.
    taken, fewest = (of_device * num_used, 1) if on_cpu else (of_device * num_devices, num_devices)
    if taken <= memory or len(group) <= fewest:
        return [group]
    num_parts = min(-(-taken // memory), -(-len(group) // fewest))
    parts = _cut(group, num_parts)
    warn(
        f"{len(group)} members take {taken / 2**30:.3g} GiB, temporary arrays included, of {memory / 2**30:.3g} GiB; "
        f"going on with {' + '.join(str(len(part)) for part in parts)}, one program after the other"
    )
    return [piece for part in parts for piece in split_to_fit(planned, part, memory_gib)]


def _cut(group: list[int], num_parts: int) -> list[list[int]]:
    """Cuts a program's indices into parts of sizes as equal as can be."""
    return [[int(index) for index in part] for part in np.array_split(group, num_parts)]


def structure(job: Job) -> Any:
    """Returns what jobs of one program have in common."""
    env = {name: job.config["env"][name] for name in ("suite", "task", "options")}
    return (
        structure_of(job.agent),
        json.dumps([env, job.config["num_envs"]], sort_keys=True, default=str),
        # Of equal names, files may be different ones: one kept with a run, and one that was changed since.
        tuple((name, hashlib.sha256(content).hexdigest()) for name, content in job.inputs.items()),
        job.train_config,
        job.config["checkpoint"]["replay"],
    )


def member_bytes(job: Job) -> int:
    """Returns what one member is between rounds: replay, agent, and the environments of suites on the device."""
    key = jax.random.key(0)
    held = [jax.eval_shape(job.agent.init, key)]
    if job.env.on_device:
        evaluation = job.env.for_evaluation(job.train_config.num_eval_episodes)
        both_modes = jax.eval_shape(lambda keys: jax.vmap(evaluation.reset)(keys), jax.random.split(key))
        held += [jax.eval_shape(job.env.reset, key), both_modes]
    return job.train_config.replay_bytes(job.agent, job.env) + _num_bytes(held)


def needed_bytes(job: Job) -> int:
    """Returns what one member needs: itself, and a round."""
    return member_bytes(job) + round_bytes(job.agent, job.env)


def _num_bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _memory_bytes(memory_gib: float | None, job: Job) -> int:
    if memory_gib is not None:
        return int(memory_gib * 2**30)
    devices = jax.local_devices()
    # Host devices share the machine's memory; devices that share batches hold the same.
    num_memories = 1 if devices[0].platform == "cpu" or job.train_config.split_batch else len(devices)
    return int(available_memory_bytes() * num_memories * MEMORY_SHARE)


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
