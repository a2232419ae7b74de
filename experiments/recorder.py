"""Takes the events of a population's training to the bar, the run directories and the loggers."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.progress import ProgressBar
from experiments.run_directory import POLICY, RunDirectory
from experiments.run_plots import plot_run
from remac.loop import Evaluation, Failure, Progress, member
from remac.policy import save_policy
from remac.types import Metrics


class Recorder:
    """Records a population's training; each member has its own run directory and logger."""

    def __init__(self, bar: ProgressBar, runs: Sequence[RunDirectory], loggers: Sequence[Any | None]) -> None:
        """Takes the bar, which may have moved already, and the members' directories and loggers."""
        self._runs, self._loggers, self._bar = runs, loggers, bar
        self._bar_start = bar.env_steps
        self._latest: list[Metrics] = [{} for _ in runs]
        self._steps = {"env_steps": 0, "gradient_steps": 0}
        self._training_since = self._evaluating_since = time.monotonic()
        self._evaluating = False
        self.summaries: dict[int, dict[str, Any]] = {}

    def __call__(self, event: Progress | Evaluation | Failure) -> None:
        """Records an event."""
        if isinstance(event, Evaluation):
            self._record(event)
        elif isinstance(event, Failure):
            self._summarize([event.member], "stopped", str(event.error))
        else:
            if event.evaluating and not self._evaluating:
                self._evaluating_since = time.monotonic()
            self._evaluating = event.evaluating
            env_steps = self._bar_start + event.env_steps * len(self._runs)
            self._bar.update(env_steps, "evaluating" if event.evaluating else "training")

    def close(self, status: str, reason: str | None = None) -> None:
        """Ends the members that have not failed; ``summaries`` then holds every member's."""
        self._summarize([index for index in range(len(self._runs)) if index not in self.summaries], status, reason)

    def _record(self, event: Evaluation) -> None:
        now = time.monotonic()
        timing = {"time/evaluation_seconds": now - self._evaluating_since}
        if event.env_steps > self._steps["env_steps"]:
            elapsed = self._evaluating_since - self._training_since
            timing["time/env_steps_per_second"] = (event.env_steps - self._steps["env_steps"]) / max(elapsed, 1e-9)
        self._steps = {"env_steps": event.env_steps, "gradient_steps": event.gradient_steps}
        going_on = [index for index in range(len(self._runs)) if index not in self.summaries]
        for index in going_on:
            values = {name: float(value[index]) for name, value in event.metrics.items()}
            if np.isnan(values.get("train/episode_return", 0.0)):
                del values["train/episode_return"]  # no episode of this member has ended
            values |= timing
            self._latest[index] = values
            self._runs[index].log(event.env_steps, event.gradient_steps, values)
            save_policy(member(event.policies, index), self._runs[index].path / POLICY)
            if (logger := self._loggers[index]) is not None:
                logger.log(event.env_steps, values)
        self._bar.show(**{name: np.mean(event.metrics[f"eval/{name}"][going_on]) for name in ("return", "entropy")})
        self._training_since, self._evaluating = time.monotonic(), False

    def _summarize(self, indices: Sequence[int], status: str, reason: str | None) -> None:
        """Writes the summaries of some members, then draws their pictures and ends their loggers."""
        details = self._steps | ({} if reason is None else {"reason": reason})
        for index in indices:
            self.summaries[index] = self._runs[index].write_summary(status, self._latest[index], **details)
        self._bar.phase("drawing")
        for index in indices:
            plots = plot_run(self._runs[index].path)
            if (logger := self._loggers[index]) is not None:
                with self._bar.hidden():
                    logger.finish(self.summaries[index], plots, exit_code=0 if status == "finished" else 1)
