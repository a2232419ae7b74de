"""Agents: what is optimised. One file per agent; everything they share is in ``actor_critic``."""

from agents.remac import ReMAC
from agents.sac import SAC

AGENTS = {"remac": ReMAC, "sac": SAC}

__all__ = ["AGENTS", "SAC", "ReMAC"]
