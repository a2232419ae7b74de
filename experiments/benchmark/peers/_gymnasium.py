"""What the scripts of Stable-Baselines3 and SBX share: both have the same interface.

Their arguments are the agent, the number of environments, the width of both layers, the task of Gymnasium, and either
``speed`` and the seconds to measure, or ``returns``, the seed, and the environment steps after which to evaluate.
"""

import json
import sys
import time
from types import ModuleType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

PREFILL, WARM_ROUNDS, EVAL_EPISODES = 1_024, 3, 16


def options(agent: str, num_envs: int, width: int) -> dict[str, Any]:
    """Returns the settings that are ours as well; others are the library's own defaults, and ours."""
    networks = {"policy_kwargs": {"net_arch": [width, width]}, "learning_rate": 3e-4}
    if agent == "sac":
        return networks | {
            "batch_size": 512,
            "buffer_size": 100_000,
            "learning_starts": PREFILL,
            "train_freq": 1,
            "gradient_steps": num_envs,
        }
    return networks | {"n_steps": 128, "batch_size": 64, "n_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95}


class _Timer(BaseCallback):
    """Stops a training some seconds after its first rounds with gradient steps."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.rounds, self.started, self.rate = seconds, 0, 0.0, 0.0
        self.steps_before = 0

    def _on_rollout_start(self) -> None:
        # Called before steps of all environments, after the gradient steps.
        if self.num_timesteps <= PREFILL:
            return
        self.rounds += 1
        if self.rounds == WARM_ROUNDS + 1:
            self.started, self.steps_before = time.perf_counter(), self.num_timesteps
        elapsed = time.perf_counter() - self.started
        if self.rounds > WARM_ROUNDS + 1 and elapsed >= self.seconds and not self.rate:
            self.rate = (self.num_timesteps - self.steps_before) / elapsed

    def _on_step(self) -> bool:
        return not self.rate


class _Evaluations(BaseCallback):
    """Evaluates the mean action between rollouts, in environments of its own with the moments of those that train.

    Prints the returns so far, with the seconds, after each.
    """

    def __init__(self, task: str, env_steps: list[int]) -> None:
        super().__init__()
        self.env_steps, self.returns, self.created = env_steps, [float("nan")] * len(env_steps), time.perf_counter()
        self.env = VecNormalize(
            make_vec_env(task, n_envs=EVAL_EPISODES, seed=10**6), training=False, norm_obs=True, norm_reward=False
        )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._evaluate()

    def _on_training_end(self) -> None:
        self._evaluate()

    def _evaluate(self) -> None:
        for index, at in enumerate(self.env_steps):
            if self.num_timesteps >= at and self.returns[index] != self.returns[index]:
                training_env = self.model.get_vec_normalize_env()
                assert training_env is not None
                self.env.obs_rms = training_env.obs_rms
                mean, _ = evaluate_policy(self.model, self.env, EVAL_EPISODES, deterministic=True, warn=False)
                self.returns[index] = float(mean)
                seconds = time.perf_counter() - self.created
                print(json.dumps({"returns": self.returns, "seconds": seconds}), flush=True)


def main(library: ModuleType) -> None:
    """Trains as the command line says, and prints the speed, or the returns with the seconds of the whole training."""
    agent, _, _, task, what, *arguments = sys.argv[1:]
    num_envs, width = map(int, sys.argv[2:4])
    seed = int(arguments[0]) if what == "returns" else None
    env: Any = make_vec_env(task, n_envs=num_envs, seed=seed)
    if agent == "ppo":
        env = VecNormalize(env, norm_obs=True, norm_reward=False)
    algorithm = getattr(library, agent.upper())
    model = algorithm("MlpPolicy", env, device="cpu", seed=seed, **options(agent, num_envs, width))
    if what == "speed":
        timer = _Timer(float(arguments[0]))
        model.learn(total_timesteps=10**8, callback=timer)
        print(json.dumps({"env_steps_per_second": timer.rate}))
        return
    env_steps = [int(steps) for steps in arguments[1:]]
    model.learn(total_timesteps=env_steps[-1], callback=_Evaluations(task, env_steps))
