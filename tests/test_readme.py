"""The README's Python blocks run as they stand, but for the length of the training."""

import re
from pathlib import Path

from remac.types import Environment

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "README.md").read_text(), re.DOTALL)


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 4
    namespace = {}
    for block in BLOCKS:
        short = block.replace("20_000", "1_100").replace("num_envs=16)", "num_envs=4, episode_length=20)", 1)
        short = short.replace("updates_per_round=16", "updates_per_round=1")
        exec(compile(short, "README.md", "exec"), namespace)
    assert namespace["action"].shape == (3,)
    assert capsys.readouterr().out.startswith("0 ")

    # The environment of the third block trains as well; that of the last one is batched and begins anew.
    env, agent = namespace["env"], namespace["ReMAC"].create(3, 1, batch_size=8, hidden_sizes=(8,))
    config = namespace["TrainConfig"](
        total_env_steps=64, updates_per_round=1, prefill_env_steps=16, eval_every_env_steps=64, num_eval_episodes=1
    )
    result = namespace["train"](agent, env, config, namespace["jax"].random.key(0))
    assert -4000 < result.evaluations[-1].metrics["eval/return"] < 0

    walk, jax, np = namespace["Walk"](num_envs=3), namespace["jax"], namespace["np"]
    state = walk.reset(jax.random.split(jax.random.key(0), 2), group_size=3)
    assert isinstance(walk, Environment) and len(np.unique(state.observation)) == 2
    for step in range(1, walk.episode_length + 1):
        state = walk.step(state, np.ones((2, 3, 1)))
        assert (state.truncation == (step == walk.episode_length)).all()
    assert (state.final_observation > 3).all() and (abs(state.observation) < 1).all()
    assert len(np.unique(state.observation)) == 6
