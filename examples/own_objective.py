"""Other objectives than the best: one's own weights over ranks, on a task of chance with a known answer.

Run: ``python examples/own_objective.py [env steps]``. OrderGrad plays groups of whole episodes from one start and
follows the gradient of any order statistic of their returns; on ``risk/lottery`` each statistic prefers another action.
"""

import sys

import jax

from experiments.running.config import compose_job
from remac import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 64_000
for objective in ("cvar:0.25", "median", "mean", "max", "[0,0,0,0,0,0,0.5,0.5]"):  # the last: mean of the two best of 8
    lengths = [f"total_env_steps={steps}", f"eval_every_env_steps={steps}", "num_eval_episodes=256"]
    agent = ["agent=ordergrad", "agent.num_retries=8", f"agent.objective={objective}"]
    job = compose_job(["env=risk/lottery", *agent, *lengths])
    metrics = train(job.agent, job.env, job.train_config, jax.random.key(0)).evaluations[-1].metrics
    print(
        f"{objective:>24}: mean {metrics['eval/return_stochastic']:6.2f}, median {metrics['eval/median']:6.2f}, "
        f"worst quarter {metrics['eval/cvar_25']:6.2f}, best of 8 {metrics['eval/max_at_8']:6.2f}"
    )
