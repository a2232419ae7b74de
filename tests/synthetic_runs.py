"""Run directories with numbers that are set and not trained, in the protocol's settings."""

import json

import numpy as np

from experiments.records.run_directory import RunDirectory

STEPS = range(0, 1001, 100)


def write_run(
    directory,
    *,
    retries=None,
    seed=1,
    task="mujoco/hopper",
    final=None,
    status="finished",
    steps=STEPS,
    provenance=None,
    top=None,
    reason=None,
    start=0.0,
    **agent,
):
    """Writes one run; each metric goes from its start to its final value, and has it over the last tenth.

    Args:
        directory: Where.
        retries: M; None for SAC.
        seed: The seed.
        task: Suite and task.
        final: Metric to final value.
        status: Of the summary; None writes no summary.
        steps: Env steps of the records.
        provenance: Entries that replace those of provenance.json.
        top: Entries of the configuration's top level.
        reason: Of a failure.
        start: First value of every metric.
        **agent: The agent's settings.
    """
    suite, name = task.split("/")
    tuned = {"learning_rate": 3e-4, "batch_size": 256, "gamma": 0.99}
    defaults = {"name": "sac"} if retries is None else {"name": "remac", "num_retries": retries}
    if retries is not None:
        defaults |= {"num_samples": 16 if retries == 8 else 8, "objective": "max", "gradient": "pathwise"}
    config = {
        "agent": {**defaults, **tuned, "actor_adam_epsilon": 1e-8, "actor_optimizer": "adam", **agent},
        "env": {"suite": suite, "task": name, "options": {}, "tuned": {"all": tuned}},
        "experiment": None,
        "arm": None,
        "seed": seed,
        "total_env_steps": max(steps),
        **(top or {}),
    }
    run = RunDirectory(directory, config)
    (run.path / "provenance.json").write_text(
        json.dumps(
            {
                "command": ["train.py", f"seed={seed}"],
                "started": "2026-01-01T00:00:00+00:00",
                "commit": "0123456789abcdef",
                "device": {"platform": "cpu", "kind": "cpu", "count": 1},
                "machine": {"system": "Linux", "python": "3.11"},
                "versions": {"jax": "0.10.2"},
                **(provenance or {}),
            }
        )
    )
    for step in steps:
        share = min(1.0, step / (0.95 * max(steps)))
        run.log(step, step, {metric: start + share * (value - start) for metric, value in (final or {}).items()})
    if status is not None:
        run.write_summary(run.summary(status, {}, **({"reason": reason} if reason else {})))
    run.close()
    return run.path


def write_sweep(folder, arms, seeds=(1, 2, 3), tasks=("mujoco/hopper",), noise=0.0, **common):
    """Writes a run per arm, task and seed.

    Args:
        folder: Above all runs.
        arms: Each the keyword arguments of `write_run`.
        seeds: The seeds.
        tasks: The tasks.
        noise: Standard deviation over seeds of each final value, as a share of it.
        **common: Arguments of every run.
    """
    for number, arm in enumerate(arms):
        for task in tasks:
            for seed in seeds:
                rng = np.random.default_rng([number, seed])
                final = {name: value * (1 + noise * rng.normal()) for name, value in arm["final"].items()}
                settings = {**common, **arm, "final": final, "task": task, "seed": seed}
                write_run(folder / f"{number}_{task.replace('/', '_')}_{seed}", **settings)
    return folder
