"""Agents: what is optimised. One file per agent; what off-policy actor-critics share is in ``actor_critic``."""

from agents.remac import ReMAC
from agents.sac import SAC
from agents.td3 import TD3

AGENTS = {"remac": ReMAC, "sac": SAC, "td3": TD3}

__all__ = ["AGENTS", "SAC", "TD3", "ReMAC"]
