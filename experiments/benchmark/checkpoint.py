"""Suite ``checkpoint``: the share of a run's time that saving it takes."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.benchmark import timing
from experiments.benchmark.train import Finished
from experiments.comparing.drawing import Row
from experiments.records.checkpoints import Checkpoints
from experiments.running.config import Job, compose_job
from remac.training.loop import Progress, stack_members, train_population

SMALL = ("env=probe/action", "agent.batch_size=8", "agent.hidden_sizes=[8]")


def run(size: str, repeats: int) -> list[Row]:
    """Fills the replay of the default command, then trains a while and saves, in turn.

    Returns:
        One row: transitions held, size on disk, seconds of a save, training speed, and ``stall_share``: seconds of a
        save over those of a save and the training between two at the default interval.
    """
    full = size == "full"
    job = compose_job(() if full else SMALL)
    transitions = 1_000_000 if full else 1_000
    turns = timing.turns(["save"], repeats)
    saved = measure(job, transitions, 5.0 if full else 0.1, turns)
    interval = job.config["checkpoint"]["every_env_steps"]
    shares = [
        save / (save + interval / rate) for save, rate in zip(saved.seconds, saved.env_steps_per_second, strict=True)
    ]
    return [
        {"command": "the default" if full else " ".join(SMALL), "transitions": transitions, "mib": saved.mib}
        | timing.summary(saved.seconds, "save_seconds")
        | timing.summary(saved.env_steps_per_second, "env_steps_per_second")
        | timing.summary(shares, "stall_share")
    ]


class Saved(NamedTuple):
    """What saving took.

    Attributes:
        seconds: Of each save.
        env_steps_per_second: Of the training before each.
        mib: On disk.
    """

    seconds: list[float]
    env_steps_per_second: list[float]
    mib: float


def measure(job: Job, transitions: int, seconds: float, turns: Iterator[Any]) -> Saved:
    """Fills a replay, then trains a while and saves, once for each turn.

    Args:
        job: What trains.
        transitions: Rows of the replay.
        seconds: Of training before each save.
        turns: One for every save.
    """
    config = dataclasses.replace(
        job.train_config,
        total_env_steps=10**8,
        eval_every_env_steps=10**8,
        num_eval_episodes=1,
        replay_capacity=transitions,
        prefill_env_steps=transitions,
    )
    saves: list[float] = []
    rates: list[float] = []
    begun: tuple[float, int] | None = None
    mib = 0.0
    next(turns)

    def callback(event: Any) -> None:
        nonlocal begun, mib
        if not isinstance(event, Progress) or not event.gradient_steps or event.evaluating:
            return
        now = time.perf_counter()
        started, before = begun = begun or (now, event.env_steps)
        if now - started < seconds:
            return
        begun = None
        rates.append((event.env_steps - before) / (now - started))
        assert event.snapshot is not None
        checkpoints.save(event.env_steps, event.snapshot.member(0, replay=True), {"config": job.config})
        saves.append(time.perf_counter() - now)
        if next(turns, None) is None:
            mib = sum(path.stat().st_size for path in checkpoints.all()[0].iterdir()) / 2**20
            raise Finished

    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(Finished):
        checkpoints = Checkpoints(Path(directory), job.config["checkpoint"]["keep"])
        agents = stack_members([job.agent])
        train_population(agents, job.env, config, jax.random.split(jax.random.key(0), 1), callback)
    return Saved(saves, rates, mib)
