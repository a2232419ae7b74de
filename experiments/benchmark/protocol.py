"""One training of suite ``accelerator``, which is measured when it is asked to be.

``python -m experiments.benchmark.protocol <members> <seconds> <overrides>`` trains with these overrides of
``experiments.train``, and says so in a line of JSON once all programs are compiled and run at their pace. Then it waits
for lines on standard input: ``measure`` is answered by the rates over so many seconds, ``profile`` by the share of time
that the device spends in kernels, each a line of JSON. It ends with its input.
"""

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark import timing
from experiments.benchmark.accelerator import SPEED_ROWS
from experiments.benchmark.train import Finished
from experiments.running import compilation_cache
from experiments.running.config import compose_job
from remac.training.loop import Progress, stack_members, train_population

SETTLING_REPORTS = 4  # until the programs' lengths have grown to what is reported every half second


class _Served:
    """The callback of a training that stands still between requests."""

    def __init__(self, num_members: int, seconds: float) -> None:
        self._num_members, self._seconds = num_members, seconds
        self._created = time.perf_counter()
        self._reports: list[tuple[float, Progress]] = []
        self._request = ""
        self._trace = tempfile.TemporaryDirectory()
        self._profile = contextlib.ExitStack()

    def __call__(self, event: Any) -> None:
        if not isinstance(event, Progress) or event.evaluating or not event.gradient_steps:
            return
        self._reports.append((time.perf_counter(), event))
        (first, before), (last, after) = self._reports[0], self._reports[-1]
        gradient_steps = after.gradient_steps - before.gradient_steps
        if not self._request:
            if len(self._reports) == SETTLING_REPORTS:
                self._stand_still({"first_step_seconds": first - self._created})
        elif self._request == "profile":
            if gradient_steps:
                self._profile.close()
                self._stand_still(timing.kernel_summary(Path(self._trace.name), gradient_steps))
        elif last - first >= self._seconds:
            rate = self._num_members / (last - first)
            env_steps = after.env_steps - before.env_steps
            rates = {"env_steps_per_second": rate * env_steps, "gradient_steps_per_second": rate * gradient_steps}
            self._stand_still(rates)

    def _stand_still(self, answer: dict[str, float]) -> None:
        print(json.dumps(answer), flush=True)
        self._request = sys.stdin.readline().strip()
        if not self._request:
            raise Finished
        if self._request == "profile":
            self._profile.enter_context(timing.device_trace(Path(self._trace.name)))
        self._reports = [(time.perf_counter(), self._reports[-1][1])]


def main(num_members: int, seconds: float, overrides: list[str]) -> None:
    """Trains until the input ends."""
    compilation_cache.enable()
    job = compose_job(overrides)
    config = dataclasses.replace(
        job.train_config,
        replay_capacity=SPEED_ROWS,
        total_env_steps=10**8,
        eval_every_env_steps=10**8,
        checkpoint_every_env_steps=None,
    )
    keys = jax.random.split(jax.random.key(0), num_members)
    with contextlib.suppress(Finished):
        train_population(stack_members([job.agent] * num_members), job.env, config, keys, _Served(num_members, seconds))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
