"""Trains ReMAC from Python, saves the policy, and acts with it.

Run: ``python examples/train.py [env steps]``. With 20,000 it takes about a minute on two cores.
"""

import sys

import jax
import numpy as np

from experiments.running.config import compose_job
from remac import Evaluation, Progress, load_policy, save_policy, train

# What `python -m experiments.train env=mujoco/inverted_pendulum ...` would run: agent, environment and lengths.
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
job = compose_job(
    [
        "env=mujoco/inverted_pendulum",
        f"total_env_steps={steps}",
        f"eval_every_env_steps={steps // 4}",
        "num_eval_episodes=4",
    ]
)


def callback(event):
    if isinstance(event, Evaluation):
        print(f"{event.env_steps:>7,} env steps: return {event.metrics['eval/return'][0]:.1f}")  # of one member
    elif isinstance(event, Progress):
        pass  # about twice a second; raise StoppedError to stop


result = train(job.agent, job.env, job.train_config, jax.random.key(0), callback)

save_policy(job.agent.policy(result.agent_state), "pendulum_policy")
policy = load_policy("pendulum_policy")
observation = np.zeros(job.env.observation_size)
print(f"mean action where the pole stands still: {policy(observation)}")
print(f"a sampled one: {policy(observation, jax.random.key(1))}")
