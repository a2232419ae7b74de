"""Our SAC: ``python -m experiments.benchmark.peers.ours <num_envs> <seconds> <task>``."""

import json
import sys

import envs
from experiments.benchmark.train import measure, settings

if __name__ == "__main__":
    num_envs, seconds, task = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    env = envs.make(task, num_envs=num_envs)
    agent, config = settings("sac", env)
    print(json.dumps(measure(agent, env, config, 1, seconds)))
