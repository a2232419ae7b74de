"""Long trainings: that both agents learn a real task, by the median over seeds."""

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments.config import CONFIG_DIRECTORY, make_job, register_schemas
from remac.loop import stack_members, train_population


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "least"), [("sac", 1500), ("remac", 1000)])
def test_half_cheetah_runs_after_40_000_steps(agent, least):
    register_schemas()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        job = make_job(hydra.compose("train", [f"agent={agent}", "total_env_steps=40000"]))
    keys = jnp.stack([jax.random.key(seed) for seed in (1, 2, 3)])
    result = train_population(stack_members([job.agent] * 3), job.env, job.train_config, keys)
    returns = [evaluation.metrics["eval/return"] for evaluation in result.evaluations]
    assert np.median(returns[0]) < 0
    assert np.median(returns[-1]) > least, returns
