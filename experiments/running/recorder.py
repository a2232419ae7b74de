"""Takes the events of a population's training to the bar, the run directories, the checkpoints and the loggers."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparing.run_plots import plot_run
from experiments.console.messages import one_line, warn
from experiments.console.pasting import pasted
from experiments.console.progress import ProgressBar
from experiments.console.signals import StopSignals
from experiments.records.checkpoints import SavedTraining
from experiments.records.files import BEST_POLICY, POLICY
from experiments.records.provenance import training_code
from experiments.records.run_directory import RunDirectory
from experiments.running.config import Job
from remac.policies.policy import save_policy
from remac.training.loop import Checkpoint, Evaluation, Failure, Progress, member
from remac.training.snapshot import Snapshot


class Recorder:
    """Records a population's training; each member has its own run directory, checkpoints and logger.

    Only metrics are indispensable: whatever else fails, such as a picture, a logger, or the disk under a policy, a
    checkpoint or a summary, is a warning, and training goes on without.
    """

    def __init__(
        self,
        bar: ProgressBar,
        jobs: Sequence[Job],
        runs: Sequence[RunDirectory],
        loggers: Sequence[Callable[[], Any | None]],
        starts: Sequence[SavedTraining | None],
        signals: StopSignals,
    ) -> None:
        """Takes the bar, which may have moved already, and what each member has; all start at the same step.

        Nothing is written, and no logger made, before the first event: by then checkpoints have been read.
        """
        self._jobs, self._runs, self._bar, self._signals = jobs, runs, bar, signals
        self._make_loggers: Sequence[Callable[[], Any | None]] = loggers
        self._loggers: list[Any | None] = [None] * len(runs)
        self._bar_start = bar.env_steps
        self._keeps_best = [job.config["checkpoint"]["keep_best"] for job in jobs]
        self._best: list[float] = [-math.inf if start is None else start.run.get("best", -math.inf) for start in starts]
        self._latest: list[dict[str, float]] = [{} if start is None else dict(start.run["latest"]) for start in starts]
        first = {"env_steps": 0, "gradient_steps": 0} if starts[0] is None else starts[0].run["evaluated"]
        self._evaluated: dict[str, int] = dict(first)
        self._timed_from = 0 if starts[0] is None else starts[0].env_steps
        self._saved = None if starts[0] is None else (starts[0].run["rounds_done"], starts[0].run["evaluated_round"])
        self._saved_env_steps = self._timed_from
        self._training_since = self._evaluating_since = time.monotonic()
        self._evaluating = self._has_evaluated = False
        self._starts, self._has_begun = starts, False
        self._first_gradient_steps: int | None = None
        self._has_learned = False  # since when steps are at the pace of training
        self.summaries: dict[int, dict[str, Any]] = {}

    def __call__(self, event: Progress | Evaluation | Checkpoint | Failure) -> None:
        """Records an event; ends training where a signal asks for it."""
        if not self._has_begun:
            self._begin()
        if isinstance(event, Evaluation):
            self._record(event)
        elif isinstance(event, Checkpoint):
            self._save(event.env_steps, event.snapshot)
        elif isinstance(event, Failure):
            self._summarize([event.member], "stopped", str(event.error))
        else:
            if event.evaluating and not self._evaluating:
                self._evaluating_since = time.monotonic()
            self._evaluating = event.evaluating
            env_steps = self._bar_start + event.env_steps * len(self._runs)
            if self._first_gradient_steps is None:
                self._first_gradient_steps = event.gradient_steps
            # Programs are compiled where they are first used; that of gradient steps takes longer than the prefill.
            if event.evaluating:
                phase = "evaluating" if self._has_evaluated else "compiling the evaluation"
            else:
                phase = "training" if event.gradient_steps > self._first_gradient_steps else "compiling the training"
            self._has_evaluated |= event.evaluating
            move = self._bar.update if self._has_learned else self._bar.skip_to
            move(env_steps)
            self._bar.phase(phase)
            self._has_learned |= phase == "training"
            if self._signals.is_requested and not event.within_round:
                if (snapshot := event.snapshot) is not None:
                    if not snapshot.rounds_done:
                        self.say_how_to_continue("stopped before the first step")
                    elif self._save(event.env_steps, snapshot):
                        self.say_how_to_continue(f"saved at {event.env_steps:,} env steps")
                self._signals.end()

    def close(self, status: str, reason: str | None = None) -> None:
        """Ends the members that have not failed; ``summaries`` then holds every member's."""
        self._summarize(self._going_on(), status, reason)

    def _begin(self) -> None:
        for run, start in zip(self._runs, self._starts, strict=True):
            if start is not None:
                run.begin()
        for index in range(len(self._runs)):
            self._try("log", self._runs[index], self._make_logger, index)
        self._training_since = time.monotonic()  # making them may have taken seconds
        self._bar.skip_to(self._bar_start + self._timed_from * len(self._runs))
        self._has_begun = True

    def _make_logger(self, index: int) -> None:
        self._loggers[index] = self._make_loggers[index]()

    def _going_on(self) -> list[int]:
        return [index for index in range(len(self._runs)) if index not in self.summaries]

    def _record(self, event: Evaluation) -> None:
        now = time.monotonic()
        timing = {
            "time/evaluation_seconds": now - self._evaluating_since,
            "time/num_members": len(self._runs),  # that share this clock
        }
        if event.env_steps > self._timed_from:
            elapsed = self._evaluating_since - self._training_since
            timing["time/env_steps_per_second"] = (event.env_steps - self._timed_from) / max(elapsed, 1e-9)
        self._evaluated = {"env_steps": event.env_steps, "gradient_steps": event.gradient_steps}
        going_on = self._going_on()
        for index in going_on:
            values = {name: float(value[index]) for name, value in event.metrics.items()}
            if np.isnan(values.get("train/episode_return", 0.0)):
                del values["train/episode_return"]  # no episode of this member has ended
            values |= timing
            self._latest[index] = values
            run = self._runs[index]
            run.log(event.env_steps, event.gradient_steps, values)
            policy = member(event.policies, index)
            self._try("policy", run, save_policy, policy, run.path / POLICY, env_steps=event.env_steps)
            if self._keeps_best[index] and values["eval/return"] > self._best[index]:
                self._best[index] = values["eval/return"]
                self._try("best policy", run, save_policy, policy, run.path / BEST_POLICY, env_steps=event.env_steps)
            logger = self._loggers[index]
            if logger is not None and not self._try("log", run, logger.log, event.env_steps, values):
                self._loggers[index] = None
        self._bar.show(**{name: np.mean(event.metrics[f"eval/{name}"][going_on]) for name in ("return", "entropy")})
        self._training_since, self._timed_from, self._evaluating = time.monotonic(), event.env_steps, False

    def _save(self, env_steps: int, snapshot: Snapshot) -> bool:
        """Saves every member that goes on, if anything has happened since the last time; returns whether all are."""
        place = (snapshot.rounds_done, snapshot.evaluated_round)
        if place == self._saved or not snapshot.rounds_done:
            return place == self._saved
        self._bar.phase("saving")
        are_saved = [
            self._try("checkpoint", self._runs[index], self._save_member, index, env_steps, snapshot)
            for index in self._going_on()
        ]
        self._saved, self._saved_env_steps = (place if all(are_saved) else None), env_steps
        return all(are_saved)

    def say_how_to_continue(self, where: str) -> None:
        """Keeps for the end how to go on from where training was stopped."""
        run, config = self._runs[0], self._jobs[0].config
        how = pasted("resume", run.path)
        if config["experiment"]:
            how = "the same command"
        elif run.origin["sweep"] != run.path.name:
            folder = next((path for path in run.path.parents if path.name == run.origin["sweep"]), run.path.parent)
            how = f"the same command, {pasted('hydra.sweep.dir', folder)} and resume=auto"
        self._bar.say_last(f"{where}; continue with {how}")

    def _save_member(self, index: int, env_steps: int, snapshot: Snapshot) -> None:
        config = self._jobs[index].config
        run = {
            "code": training_code(),
            "config": config,
            "rounds_done": snapshot.rounds_done,
            "evaluated_round": snapshot.evaluated_round,
            "evaluated": self._evaluated,
            "latest": self._latest[index],
            **({"best": self._best[index]} if self._keeps_best[index] else {}),
            **self._runs[index].position(),
        }
        arrays = snapshot.member(index, replay=config["checkpoint"]["replay"])
        self._runs[index].checkpoints.save(env_steps, arrays, run)

    def _summarize(self, indices: Sequence[int], status: str, reason: str | None) -> None:
        """Writes the summaries of some members, and then draws their pictures and ends their loggers.

        The summary comes first, since these may take long, or the process with them. A run that says it has finished
        is never resumed.
        """
        details = self._evaluated | ({} if reason is None else {"reason": reason})
        if status == "interrupted" and self._saved is not None:
            details["saved_env_steps"] = self._saved_env_steps
        for index in indices:
            run = self._runs[index]
            self.summaries[index] = summary = run.summary(status, self._latest[index], **details)
            if self._try("summary", run, run.write_summary, summary) and status == "finished":
                self._try("end of the checkpoints", run, run.checkpoints.remove)
        self._bar.phase("drawing")
        for index in indices:
            run, plots = self._runs[index], list[Path]()
            self._try("plots", run, lambda run=run, plots=plots: plots.extend(plot_run(run.path)))
            if (logger := self._loggers[index]) is not None:
                exit_code = 0 if status == "finished" else 1
                self._try("end of the log", run, logger.finish, self.summaries[index], plots, exit_code)

    def _try(self, what: str, run: RunDirectory, write: Callable[..., Any], *arguments: Any, **options: Any) -> bool:
        """Writes something that training can go on without; returns whether it is written."""
        try:
            write(*arguments, **options)
            return True
        except Exception as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            warn(f"{run.path}: {what} not written ({why}); going on without")
            return False
