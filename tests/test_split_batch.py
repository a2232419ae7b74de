"""split_batch=true: devices share every batch, and hold the same agent."""

import os
import subprocess
import sys

import jax
import pytest
from waiting import DEADLINE_SECONDS

from agents import PPO, SAC
from remac.training.loop import TrainConfig
from remac.validation import InvalidValueError

CONFIG = TrainConfig(
    total_env_steps=160, updates_per_round=4, prefill_env_steps=40, eval_every_env_steps=160, num_eval_episodes=2
)

TWO_DEVICES = """
import dataclasses
import jax
import numpy as np
import envs
from agents import ReMAC, SAC, TD3
from remac.training.loop import Checkpoint, Evaluation, TrainConfig, train
from test_split_batch import CONFIG

assert len(jax.local_devices()) == 2
split = dataclasses.replace(CONFIG, split_batch=True)
sizes = {"hidden_sizes": (8,), "batch_size": 16}

# Without chance in an update, the mean of both parts' gradients is the whole batch's, to rounding.
env = envs.make("probe/action", num_envs=4)
agent = TD3.create(env.observation_size, env.action_size, target_noise=0.0, **sizes)
whole, parts = (train(agent, env, config, jax.random.key(0)).agent_state for config in (CONFIG, split))
for one, other in zip(jax.tree.leaves(whole.policy), jax.tree.leaves(parts.policy), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4)
untrained = agent.init(jax.random.key(0)).policy
moved = [np.abs(one - other).max() for one, other in zip(*map(jax.tree.leaves, (whole.policy, untrained)))]
assert max(moved) > 1e-2, "it has learned more than it may differ"

# With chance, norms and a temperature that is learned, both devices hold the same, and going on is going on.
for name, kind in {"probe/truncation": SAC, "mujoco/reacher": ReMAC}.items():
    env = envs.make(name, num_envs=4)
    agent = kind.create(env.observation_size, env.action_size, critic_norm="batch", actor_update_period=2, **sizes)
    saved = []

    def callback(event):
        if isinstance(event, Checkpoint):
            for leaf in jax.tree.leaves(event.snapshot.state.agent):
                first, second = (np.asarray(jax.random.key_data(shard.data) if jax.dtypes.issubdtype(
                    leaf.dtype, jax.dtypes.prng_key) else shard.data) for shard in leaf.addressable_shards)
                np.testing.assert_array_equal(first, second)
            saved.append(event.snapshot.member(0))

    config = dataclasses.replace(split, checkpoint_every_env_steps=80)
    result = train(agent, env, config, jax.random.key(1), callback)
    again = train(agent, env, config, jax.random.key(1), start=saved[0])
    jax.tree.map(np.testing.assert_array_equal, again.agent_state, result.agent_state)
    assert np.isfinite(list(result.evaluations[-1].metrics.values())).all()
    assert result.evaluations[-1].metrics["critic/loss"] > 0
"""


@pytest.mark.slow
def test_devices_share_batches():
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("agent", "allowed"),
    [
        (PPO.create(1, 1), "must be false for an agent without a replay"),
        (SAC.create(1, 1, batch_size=7), "needs a batch_size that the number of devices, 3, divides; it is 7"),
    ],
)
def test_what_cannot_be_split_is_refused(monkeypatch, agent, allowed):
    monkeypatch.setattr(jax, "local_devices", lambda: [None] * 3)
    config = TrainConfig(split_batch=True)
    with pytest.raises(InvalidValueError, match=allowed) as error:
        config.validate(16, agent.experience)
    assert str(error.value).startswith("split_batch=True: ")


def test_one_device_trains_as_without(monkeypatch):
    """Of one part, a batch is whole."""
    from remac.training.devices import MemberSplit, own_keys, own_part

    rows, keys = jax.numpy.arange(6.0), jax.random.split(jax.random.key(0), 2)
    assert own_part(rows, 1) is rows and own_keys(keys, 1) is keys
    assert MemberSplit(3, split_batch=True).batch_parts == len(jax.local_devices()) == 1
    assert MemberSplit(3, split_batch=True).num_places == 3
