"""Brax's own PPO on its tasks: ``python brax.py ppo <num_envs> <width> <task> speed <seconds>``."""

import contextlib
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

# This file has the name of the library, and Python looks beside the script first.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
from brax import envs  # noqa: E402
from brax.training.agents.ppo import networks, train  # noqa: E402
from flax import linen  # noqa: E402

ROUNDS, CALLS = 4, 100_000
UNROLL, MINIBATCH, STEPS = 4, 64, 128  # minibatches are of whole unrolls, so short ones make them as small as others'


class Finished(Exception):
    """Enough has been measured."""


def main() -> None:
    """Trains a few rounds at a time until the time is over, without evaluations."""
    _, _, _, task, _, seconds = sys.argv[1:]
    num_envs, width = map(int, sys.argv[2:4])
    round_steps = STEPS * num_envs
    ended_at: list[float] = []
    told: dict[str, Any] = {}

    def progress(env_steps: int, metrics: Any) -> None:
        ended_at.append(time.perf_counter())
        told.setdefault("first_step_at", time.time())
        elapsed = ended_at[-1] - ended_at[0]
        if elapsed >= float(seconds):
            told["env_steps_per_second"] = (len(ended_at) - 1) * ROUNDS * round_steps / elapsed
            raise Finished

    with contextlib.suppress(Finished):
        train.train(
            environment=envs.get_environment(task.removeprefix("brax/"), backend="generalized"),
            num_timesteps=CALLS * ROUNDS * round_steps,
            num_evals=CALLS + 1,
            run_evals=False,
            progress_fn=progress,
            episode_length=1000,
            num_envs=num_envs,
            unroll_length=UNROLL,
            batch_size=MINIBATCH // UNROLL,
            num_minibatches=round_steps // MINIBATCH,
            num_updates_per_batch=10,
            learning_rate=3e-4,
            discounting=0.99,
            clipping_epsilon=0.2,
            entropy_cost=0.0,
            normalize_observations=True,
            network_factory=functools.partial(
                networks.make_ppo_networks,
                policy_hidden_layer_sizes=(width, width),
                value_hidden_layer_sizes=(width, width),
                activation=linen.tanh,
            ),
        )
    print(json.dumps(told))


if __name__ == "__main__":
    main()
