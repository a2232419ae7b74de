"""What the compiled programs do with memory, and what passes between host and device."""

import dataclasses

import jax
import numpy as np
import pytest

import envs
from agents import SAC, ReMAC
from remac.training import functions as training
from remac.training import loop
from remac.training.loop import TrainConfig, stack_members

pytestmark = [pytest.mark.optimized, pytest.mark.slow]

CONFIG = TrainConfig(
    total_env_steps=20_000,
    updates_per_round=2,
    prefill_env_steps=32,
    eval_every_env_steps=20_000,
    num_eval_episodes=2,
    replay_capacity=20_000,
)


@pytest.fixture(params=[SAC, ReMAC])
def running(request):
    env = envs.make("probe/truncation", num_envs=8)
    options = {"hidden_sizes": (8, 8), "batch_size": 16}
    agents = [request.param.create(env.observation_size, env.action_size, **options) for _ in range(2)]
    running = loop._Loop(stack_members(agents), env, CONFIG, 2, lambda event: None)
    running.begin(jax.random.split(jax.random.key(0), 2))
    return running


def test_the_replay_is_never_copied(running):
    """Both programs write into the donated storage: what they need beside it is a fraction of its size."""
    replay_bytes = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(running.state.replay.storage)) // running.split.num_devices
    )
    action, _, _ = running._act(running.agents, running.state.agent, running.state.key, running.env_state.observation)
    new = jax.tree.map(
        lambda leaf: leaf[:, None], training.make_steps(running.env_state, action, (), running.env_state)
    )
    programs = {
        "learn": running._learn(2).lower(running.agents, running.state, new),
        "epoch": running._epoch(2).lower(running.agents, running.state, running.env_state, 3),
    }
    for name, lowered in programs.items():
        memory = lowered.compile().memory_analysis()
        assert memory.alias_size_in_bytes >= replay_bytes, f"{name}: the replay is not donated"
        assert memory.temp_size_in_bytes < 0.25 * replay_bytes, f"{name}: the replay is copied"


def test_nothing_passes_between_host_and_device_within_an_epoch(running):
    """The lengths of the chunks go in explicitly, and nothing else."""
    running.run_rounds(4, 0)
    running.run_rounds(1, 2)
    with jax.transfer_guard("disallow"):
        running.run_rounds(8, 2)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            jax.jit(lambda x: x + 1)(np.ones(3))
    assert running.rounds_done == 13 and dataclasses.is_dataclass(running.state)
