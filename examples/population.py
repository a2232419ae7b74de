"""A population: agents that differ in numbers alone train side by side in one program, each as if it were alone.

Run: ``python examples/population.py [env steps]``.
"""

import sys

import jax
import numpy as np

import envs
from agents import ReMAC
from remac import TrainConfig, stack_members, train, train_population

env = envs.make("probe/action", num_envs=16)
retries = (1, 2, 4, 8)
agents = [
    ReMAC.create(env.observation_size, env.action_size, num_retries=m, num_samples=8, learning_rate=1e-3)
    for m in retries
]
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 8_000
config = TrainConfig(
    total_env_steps=steps,
    updates_per_round=8,
    prefill_env_steps=160,
    eval_every_env_steps=steps // 2,
    num_eval_episodes=16,
)
keys = jax.random.split(jax.random.key(0), len(agents))
together = train_population(stack_members(agents), env, config, keys)
for m, std in zip(retries, together.evaluations[-1].metrics["actor/pre_tanh_std"], strict=True):
    print(f"M = {m}: standard deviation {std:.3f}")

# On the CPU a member is bit for bit what it is alone.
alone = train(agents[2], env, config, keys[2])
assert np.array_equal(alone.evaluations[-1].metrics["eval/return"], together.evaluations[-1].metrics["eval/return"][2])
print("M = 4 by itself: the same")
