"""split_batch=true: devices share every batch, and hold the same agent."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from waiting import DEADLINE_SECONDS

import envs
from agents import PPO, SAC, OrderGrad
from remac.training.devices import BATCH_AXIS, MemberSplit, mean_over_parts, own_keys, own_part
from remac.training.loop import TrainConfig, train
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
others = {"critic_norm": "batch", "actor_update_period": 2}, {"critic_head": "categorical", "num_steps": 3}
for name, kind, options in (("probe/truncation", SAC, others[1]), ("mujoco/reacher", ReMAC, others[0])):
    env = envs.make(name, num_envs=4)
    agent = kind.create(env.observation_size, env.action_size, **options, **sizes)
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


@pytest.mark.parametrize("agent", [PPO.create(1, 1), OrderGrad.create(1, 1, episode_length=4)])
def test_agents_that_learn_from_whole_batches_are_refused(agent):
    with pytest.raises(InvalidValueError, match="split_batch=True: must be false: this agent learns"):
        dataclasses.replace(CONFIG, split_batch=True, total_env_steps=4096).validate(32, agent.experience)


def test_so_many_devices_share_a_batch_as_divide_it(monkeypatch):
    split = dataclasses.replace(CONFIG, split_batch=True)
    for number, batch_size, parts in ((6, 256, 4), (3, 7, 1), (64, 96, 48), (1, 8, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "local_devices", lambda number=number: [None] * number)
            assert split.batch_parts(SAC.create(1, 1, batch_size=batch_size).experience) == parts


def test_on_one_device_it_is_the_training_without():
    env = envs.make("probe/action", num_envs=4)
    agent = SAC.create(env.observation_size, env.action_size, hidden_sizes=(8,), batch_size=16)
    whole, parts = (
        train(agent, env, dataclasses.replace(CONFIG, split_batch=split), jax.random.key(0)) for split in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, whole.agent_state, parts.agent_state)
    assert whole.evaluations[-1].metrics == parts.evaluations[-1].metrics


def test_every_device_has_all_members_and_its_own_rows_and_keys():
    assert MemberSplit(3, 2).num_places == 3 and MemberSplit(3, 2).num_devices == 1
    assert MemberSplit(3, 2).parts == 2 and MemberSplit(3).parts == 1
    rows, keys = jnp.arange(12.0).reshape(2, 6), jax.random.split(jax.random.key(0), 2)

    def part(_):
        mean = mean_over_parts({"a": own_part(rows).sum(), "b": jnp.ones((2,), jnp.int32)})
        return own_part(rows), jax.random.key_data(own_keys(keys)), mean

    of_parts, of_keys, mean = jax.vmap(part, axis_name=BATCH_AXIS)(jnp.arange(3))
    np.testing.assert_array_equal(jnp.concatenate(of_parts, axis=1), rows)
    assert len({key.tobytes() for key in np.asarray(of_keys).reshape(6, -1)}) == 6
    np.testing.assert_allclose(mean["a"], rows.sum() / 3)
    np.testing.assert_array_equal(mean["b"], np.ones((3, 2), np.int32))
