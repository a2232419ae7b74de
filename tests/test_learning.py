"""Long trainings: that both agents learn a real task, by the median over seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.running.config import compose_job
from remac.training.loop import stack_members, train_population


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "least"), [("sac", 1500), ("remac", 1000)])
def test_half_cheetah_runs_after_40_000_steps(agent, least):
    job = compose_job([f"agent={agent}", "total_env_steps=40000"])
    keys = jnp.stack([jax.random.key(seed) for seed in (1, 2, 3)])
    result = train_population(stack_members([job.agent] * 3), job.env, job.train_config, keys)
    returns = [evaluation.metrics["eval/return"] for evaluation in result.evaluations]
    assert np.median(returns[0]) < 0
    assert np.median(returns[-1]) > least, returns
