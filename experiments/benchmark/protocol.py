"""One measurement of suite ``accelerator``.

``python -m experiments.benchmark.protocol <members> <seconds> <overrides>`` prints one line of JSON: the rates of a
training with these overrides of ``experiments.train``, and the share of time that the device spends in kernels.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax

from experiments.benchmark.accelerator import kernel_share
from experiments.benchmark.train import measure
from experiments.running import compilation_cache
from experiments.running.config import compose_job


def main(num_members: int, seconds: float, overrides: list[str]) -> None:
    """Measures twice: the profiler, which is on the second time only, costs time itself."""
    compilation_cache.enable()
    job = compose_job(overrides)
    training = job.agent, job.env, job.train_config, num_members, seconds
    result = measure(*training)
    with tempfile.TemporaryDirectory() as trace:
        measure(*training, recording=jax.profiler.trace(trace))
        share = kernel_share(Path(trace))
    print(json.dumps(result | ({} if share is None else {"kernel_share": share})))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
