"""An environment of one's own in pure JAX, trained on: a mass on a spring that has to swing.

Run: ``python examples/own_environment.py [env steps]``.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp

from agents import SAC, ReMAC
from envs.device import DeviceEnvironment
from remac import TrainConfig, train


@dataclasses.dataclass(frozen=True)
class Swing:
    """A mass on a spring, pushed by the action. Its distance from 0 pays: pushed it stays at 0.6, swung it goes far."""

    observation_size: int = 2
    action_size: int = 1

    def start(self, key):
        position = 0.05 * jax.random.normal(key)
        return (position, jnp.zeros(())), self.observe(position, jnp.zeros(()))

    def advance(self, physics, action):
        position, velocity = physics
        velocity = velocity + 0.1 * (0.6 * action[0] - position - 0.05 * velocity)
        position = position + 0.1 * velocity
        reward = jnp.abs(position)
        broken = jnp.zeros((), bool)  # no state ends the episode
        return (position, velocity), self.observe(position, velocity), reward, broken, {"reached": position > 1.0}

    def observe(self, position, velocity):
        return jnp.stack([position, velocity])


env = DeviceEnvironment("own/swing", Swing(), num_envs=16, episode_length=100)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 16_000
config = TrainConfig(
    total_env_steps=steps,
    updates_per_round=8,
    prefill_env_steps=800,
    eval_every_env_steps=steps // 4,
    num_eval_episodes=16,
)
for agent in (SAC.create(2, 1), ReMAC.create(2, 1, num_retries=4)):
    result = train(agent, env, config, jax.random.key(0))
    for event in result.evaluations:
        print(
            f"{type(agent).__name__}, {event.env_steps:>6,} env steps: return {event.metrics['eval/return']:.1f}, "
            f"beyond 1 in {event.metrics['eval/env/reached']:.0%} of all steps"
        )
