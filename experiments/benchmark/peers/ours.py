"""What peers are compared with: ``python -m experiments.benchmark.peers.ours``, arguments as in ``_gymnasium.py``.

``split`` is ``speed`` with ``split_batch``.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import envs
from experiments.benchmark.train import measure, settings
from experiments.records.files import read_metrics
from experiments.running.hydra_main import use_all_cpus


def train(agent: str, num_envs: int, width: int, task: str, seed: int, env_steps: list[int]) -> dict[str, Any]:
    """Trains by ``experiments.train``; returns the return at each of these env steps, and the seconds."""
    with tempfile.TemporaryDirectory() as directory:
        overrides = [f"agent={agent}", f"env={task}", f"num_envs={num_envs}", f"seed={seed}", "num_eval_episodes=16"]
        overrides += [f"agent.hidden_sizes=[{width},{width}]"]
        overrides += [f"total_env_steps={env_steps[-1]}", f"eval_every_env_steps={env_steps[0]}"]
        command = [sys.executable, "-m", "experiments.train", *overrides, f"hydra.run.dir={directory}/run"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        at, returns = read_metrics(Path(directory, "run"))["eval/return"]
        seconds = json.loads(Path(directory, "run", "summary.json").read_text())["wall_seconds"]
    return {
        "returns": [next(r for s, r in zip(at, returns, strict=True) if s >= steps) for steps in env_steps],
        "seconds": seconds,
    }


if __name__ == "__main__":
    agent_name, _, _, task, what, *arguments = sys.argv[1:]
    num_envs, width = map(int, sys.argv[2:4])
    if what in ("speed", "split"):
        use_all_cpus()
        env = envs.make(task, num_envs=num_envs)
        agent, config = settings(agent_name, env, width)
        config = dataclasses.replace(config, split_batch=what == "split")
        called = time.time()
        row = measure(agent, env, config, 1, float(arguments[0]))
        print(json.dumps(row | {"first_step_at": called + row["first_step_seconds"]}))
    else:
        seed, *env_steps = map(int, arguments)
        print(json.dumps(train(agent_name, num_envs, width, task, seed, env_steps)))
