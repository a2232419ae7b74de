"""On the CPU a member of a population is bitwise the same run alone: every metric, and all that its agent learned."""

import dataclasses
import functools
import itertools
import subprocess
import sys
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

import envs
from agents import PPO, SAC, TD3, OrderGrad, ReMAC
from remac.hyperparameters import hyperparameters
from remac.training.devices import MemberSplit
from remac.training.evaluation import Outcomes, summarize
from remac.training.loop import TrainConfig, member, stack_members, train, train_population

pytestmark = pytest.mark.optimized

# Populations: members, and the devices that they are split over.
POPULATIONS = ((2, 1), (3, 2), (8, 1), (2, 2), (3, 1), (8, 2))
SCORE = {"gradient": "score_function", "num_retries": 2}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained; the rest of it is tiny."""

    env: str
    agent: type = ReMAC
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_envs: int = 1
    updates_per_round: int = 2
    episode_length: int = 3


# Every agent, optimiser, gradient, aggregate and probe, and sizes of one, in pairs with each other.
EPISODES = {"episode_length": 3, "num_samples": 3, "num_retries": 2, "baseline": "value"}
WIDE = {"hidden_sizes": (400, 256), "num_critics": 5}
MEAN, SGD, ONE_CRITIC = {"critic_aggregate": "mean"}, {"actor_optimizer": "sgd"}, {"num_critics": 1}
SETTINGS = {
    "retries of one": Setting("probe/one_step", options=ONE_CRITIC | {"num_samples": 1, "num_retries": 1}),
    "one of all": Setting("probe/action", SAC, ONE_CRITIC | {"batch_size": 1, "hidden_sizes": (1,)}, 1, 1),
    "one update": Setting("probe/discounting", ReMAC, MEAN | SGD, 1, 1),
    "fixed temperature": Setting("probe/termination", SAC, {"temperature": "fixed:0.2", "hidden_sizes": (1, 8)}, 4),
    "score": Setting("probe/truncation", ReMAC, SCORE | {"batch_size": 1}),
    "score and mean": Setting("probe/narrow_peak", ReMAC, SCORE | MEAN | ONE_CRITIC, 3),
    "TD3": Setting("mujoco/hopper", TD3, MEAN),
    "sgd": Setting("mujoco/inverted_pendulum", SAC, SGD | {"batch_size": 1}, 2),
    "CrossQ": Setting("mujoco/hopper", ReMAC, {"critic_norm": "batch", "actor_update_period": 2}, 2),
    "other length": Setting("probe/action", ReMAC, {"gradient_length": "mean", "policy_norm": "batch"} | ONE_CRITIC, 2),
    "SAC of layer norm": Setting("mujoco/hopper", SAC, {"critic_norm": "layer", "actor_update_period": 3}),
    "usual sizes": Setting("mujoco/half_cheetah", ReMAC, {"hidden_sizes": (64, 64), "batch_size": 256}, 1, 1),
    # On one device: split over several, the last bits of categorical critics depend on how many.
    "categories": Setting("probe/one_step", ReMAC, {"critic_head": "categorical", "num_atoms": 11, "num_steps": 3}),
    "PPO": Setting("mujoco/hopper", PPO, {"rollout_length": 2, "num_epochs": 2, "num_minibatches": 2}, 3, 1),
    "OrderGrad": Setting("mujoco/hopper", OrderGrad, EPISODES | {"num_epochs": 2, "num_minibatches": 2}, 6, 1),
    "OrderGrad on the device": Setting("risk/ladder", OrderGrad, EPISODES, 3, 1),
    "widest": Setting("probe/action", SAC, WIDE | {"batch_size": 512}, 1, 1),
    "widest of retries": Setting("mujoco/hopper", ReMAC, WIDE | {"batch_size": 256, "critic_norm": "batch"}, 1, 1),
    "Brax": Setting("brax/halfcheetah"),
}


def assert_members_equal_runs(setting, populations):
    """Compares the first and the last member of each population with the same runs alone."""
    MemberSplit.program.cache_clear()
    env = envs.make(setting.env, num_envs=setting.num_envs, episode_length=setting.episode_length)
    values = {"prefill_env_steps": 2 * setting.num_envs, "updates_per_round": setting.updates_per_round}
    config = TrainConfig(
        total_env_steps=6 * setting.num_envs,
        eval_every_env_steps=4 * setting.num_envs,
        num_eval_episodes=3,
        **values | setting.agent.TRAINING,
    )
    options = {"hidden_sizes": (8,)} | setting.options
    if "batch_size" in hyperparameters(setting.agent):
        options = {"batch_size": 8} | options
    agents = [
        setting.agent.create(env.observation_size, env.action_size, learning_rate=3e-3 * (1 + index), **options)
        for index in range(max(populations)[0])
    ]
    keys = jax.random.split(jax.random.key(0), len(agents))
    alone = functools.cache(lambda index: train(agents[index], env, config, keys[index]))
    local_devices = jax.local_devices()
    for num_members, num_devices in populations:
        with mock.patch("jax.local_devices", lambda count=num_devices: local_devices[:count]):
            assert len(jax.local_devices()) == num_devices
            together = train_population(stack_members(agents[:num_members]), env, config, keys[:num_members])
            assert MemberSplit(num_members).num_devices == min(num_devices, num_members)
        for index in (0, num_members - 1):
            own = alone(index)
            assert_same_bits(member(together.agent_state, index), own.agent_state)
            for of_all, of_one in zip(together.evaluations, own.evaluations, strict=True):
                of_member = {name: of_all.metrics[name][index] for name in of_one.metrics}
                assert_same_bits(of_member, of_one.metrics)


def assert_same_bits(one, other):
    different = [
        f"{jax.tree_util.keystr(path)}: {a} and {b}"
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes()
    ]
    assert not different, f"{len(different)} differ: {different[:5]}"


@pytest.mark.slow
def test_a_member_is_the_run_alone_where_sizes_are_one():
    assert_members_equal_runs(SETTINGS["one of all"], [(2, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("names", [tuple(SETTINGS)[:-1], ("Brax",)], ids=["tiny", "Brax"])
def test_members_are_runs_alone_in_every_setting_and_on_two_devices(names):
    done = subprocess.run([sys.executable, __file__, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == list(names)


def test_evaluations_are_reduced_alike_however_many_members_there_are():
    rng = np.random.default_rng(0)
    for num_members, num_episodes in itertools.product((2, 3, 8), (1, 2, 9, 16, 128)):
        shape = (num_members, 2, num_episodes)
        numbers = rng.normal(50, 20, (3, *shape)).astype(np.float32)
        length = rng.integers(1, 1000, shape).astype(np.int32)
        episodes = Outcomes(np.zeros(shape, bool), numbers[0], length, numbers[1], {"speed": numbers[2]})
        together = summarize(episodes)
        # The same numbers, laid out otherwise.
        turned = jax.tree.map(lambda leaf: np.asfortranarray(leaf), episodes)
        for index in range(num_members):
            alone = summarize(jax.tree.map(lambda leaf, one=index: leaf[one : one + 1], episodes))
            for all_of_them in (together, summarize(turned)):
                assert_same_bits({name: values[index] for name, values in all_of_them.items()},
                                 {name: values[0] for name, values in alone.items()})  # fmt: skip


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    for place, name in enumerate(sys.argv[1:]):
        chosen = [POPULATIONS[place % 6], POPULATIONS[(place + 2) % 6]] if name != "Brax" else [(2, 1), (3, 2)]
        assert_members_equal_runs(SETTINGS[name], chosen)
        jax.clear_caches()
        print(name, flush=True)
