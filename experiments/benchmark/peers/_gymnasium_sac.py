"""What the scripts of Stable-Baselines3 and SBX share: both have the same interface."""

import json
import sys
import time
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

PREFILL, WARM_ROUNDS = 1_024, 3


class _Timer(BaseCallback):
    """Stops a training some seconds after its first rounds with gradient steps."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.rounds, self.started, self.rate = seconds, 0, 0.0, 0.0
        self.steps_before = 0

    def _on_step(self) -> bool:
        # Called after a step of all environments, before its gradient steps.
        if self.num_timesteps <= PREFILL:
            return True
        self.rounds += 1
        if self.rounds == WARM_ROUNDS + 1:
            self.started, self.steps_before = time.perf_counter(), self.num_timesteps
        elapsed = time.perf_counter() - self.started
        if self.rounds > WARM_ROUNDS + 1 and elapsed >= self.seconds:
            self.rate = (self.num_timesteps - self.steps_before) / elapsed
            return False
        return True


def main(algorithm: Any) -> None:
    """Trains SAC on HalfCheetah-v5 and prints its speed."""
    num_envs, seconds = int(sys.argv[1]), float(sys.argv[2])
    model = algorithm(
        "MlpPolicy",
        make_vec_env("HalfCheetah-v5", n_envs=num_envs),
        learning_rate=3e-4,
        batch_size=512,
        buffer_size=100_000,
        learning_starts=PREFILL,
        train_freq=1,
        gradient_steps=num_envs,
        policy_kwargs={"net_arch": [64, 64]},
    )
    timer = _Timer(seconds)
    model.learn(total_timesteps=10**8, callback=timer)
    print(json.dumps({"env_steps_per_second": timer.rate}))
