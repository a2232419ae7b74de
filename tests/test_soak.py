"""A long training leaves no trace in memory, open files and threads."""

import os

import jax
import numpy as np
import psutil
import pytest

import envs
from agents import ReMAC
from experiments.records.checkpoints import Checkpoints
from remac.training.loop import Checkpoint, Evaluation, TrainConfig, stack_members, train_population

EVALUATIONS = int(os.environ.get("SOAK_EVALUATIONS", "80"))  # about two minutes


@pytest.mark.slow
def test_four_members_for_long_leave_memory_files_and_threads_as_they_were(tmp_path):
    """Evaluations and checkpoints all the time; the first quarter, in which programs compile, does not count."""
    env = envs.make("probe/action", num_envs=16)
    agents = [
        ReMAC.create(1, 1, hidden_sizes=(32, 32), batch_size=64, num_retries=retries, num_samples=8)
        for retries in (1, 2, 4, 8)
    ]
    config = TrainConfig(
        total_env_steps=10**9, updates_per_round=4, prefill_env_steps=512, eval_every_env_steps=4_000,
        num_eval_episodes=8, replay_capacity=20_000, checkpoint_every_env_steps=8_000,
    )  # fmt: skip
    checkpoints = [Checkpoints(tmp_path / str(index), keep=2) for index in range(4)]
    for store in checkpoints:
        store.path.parent.mkdir()
    process, samples, counts = psutil.Process(), [], {Evaluation: 0, Checkpoint: 0}

    class OverError(Exception):
        pass

    def callback(event):
        if type(event) in counts:
            counts[type(event)] += 1
        if isinstance(event, Checkpoint):
            for index, store in enumerate(checkpoints):
                store.save(event.env_steps, event.snapshot.member(index), {})
        elif isinstance(event, Evaluation):
            samples.append((process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()))
            if len(samples) == EVALUATIONS:
                raise OverError

    with pytest.raises(OverError):
        train_population(stack_members(agents), env, config, jax.random.split(jax.random.key(0), 4), callback)
    memory, files, threads = np.array(samples[EVALUATIONS // 4 :]).T
    print(f"{counts}; RSS {memory[0]:.0f} to {memory[-1]:.0f} MiB, at most {memory.max():.0f}; {files[-1]:.0f} files, "
          f"{threads[-1]:.0f} threads")  # fmt: skip
    assert min(counts.values()) > 5
    half = len(memory) // 2
    assert np.median(memory[half:]) < np.median(memory[:half]) + 20
    assert files[half:].max() <= files[:half].max() and threads[half:].max() <= threads[:half].max()
