"""Agents: what is optimised. One file per agent.

What all kinds share is in ``base``, what off-policy actor-critics do in ``actor_critic``, and what agents do that learn
from their own last steps in ``on_policy``.
"""

from agents.base import BaseAgent
from agents.ordergrad import OrderGrad
from agents.ppo import PPO
from agents.remac import ReMAC
from agents.sac import SAC
from agents.td3 import TD3

AGENTS: dict[str, type[BaseAgent]] = {"remac": ReMAC, "sac": SAC, "td3": TD3, "ppo": PPO, "ordergrad": OrderGrad}

__all__ = ["AGENTS", "PPO", "SAC", "TD3", "OrderGrad", "ReMAC"]
