"""What is said of jobs before and after they run."""

import collections
import os
from collections.abc import Sequence

import jax

from experiments.running.planning import Outcome, PlannedJob, member_bytes, needed_bytes


def announcement(planned: Sequence[PlannedJob]) -> str:
    """Returns what a program is about to run, where, and what memory it takes."""
    first, count = planned[0].job, len(planned)
    devices = jax.local_devices()
    config = first.train_config
    mebibytes = config.replay_bytes(first.agent, first.env, count) / 2**20
    memory = f"replay of {config.replay_rows:,} rows a member, {mebibytes:,.1f} MiB in all"
    if not mebibytes:
        memory = f"rollouts of {first.agent.experience.steps_per_round:,} steps in each environment"
    settings = first.config["checkpoint"]
    if config.checkpoint_every_env_steps is not None and config.checkpoint_every_env_steps < config.total_env_steps:
        size = count * (
            member_bytes(first) - (0 if settings["replay"] else config.replay_bytes(first.agent, first.env))
        )
        memory += f"; checkpoints of up to {size / 2**20:,.1f} MiB, of which {settings['keep']} are kept"
    if (start := planned[0].start) is not None:
        memory += f"; continuing at {start.env_steps:,} env steps"
    if count > 1:
        memory += f"; with agents and environments {count * needed_bytes(first) / 2**20:,.1f} MiB"
    platform, kind = devices[0].platform, devices[0].device_kind
    machine = platform if platform == kind else f"{platform} ({kind})"
    steps, directory = f"{config.total_env_steps:,} env steps", f"run directory: {planned[0].directory}"
    if count > 1:
        steps = f"{count} members of {steps} each"
        directory = f"run directories: {count} in {os.path.commonpath([one.directory.parent for one in planned])}"
    line = f"{first.config['agent']['name']} on {first.env.name}, {machine}: {steps}; {memory}"
    return "\n".join([line, directory, *first.remarks])


def report(planned: PlannedJob, outcome: Outcome) -> str:
    """Returns what came of a job that ran alone."""
    summary, config = outcome.summary, planned.job.config
    if outcome.status != "finished":
        return f"run directory: {outcome.directory}"
    metrics = summary["metrics"]
    std = metrics.get("actor/pre_tanh_std")
    spread = "" if std is None else f"; standard deviation before tanh {std:.3f}"
    minutes, seconds = divmod(round(summary["wall_seconds"]), 60)
    return (
        f"{config['agent']['name']} on {planned.job.env.name}, seed {config['seed']}: "
        f"{summary['env_steps']:,} env steps and "
        f"{summary['gradient_steps']:,} gradient steps in {minutes} min {seconds} s\n"
        f"return {metrics['eval/return']:.1f} (mean action), {metrics['eval/return_stochastic']:.1f} (sampled action); "
        f"entropy {metrics['eval/entropy']:.2f} nats{spread}\n"
        f"run directory: {outcome.directory}"
    )


def table(planned: Sequence[PlannedJob], outcomes: Sequence[Outcome]) -> str:
    """Returns one line a job, and one that counts what became of them."""
    in_all = set.intersection(*(set(one.overrides) for one in planned))
    rows: list[tuple[str, ...]] = [("job", "status", "return", "entropy", "what differs", "run directory")]
    for one, outcome in zip(planned, outcomes, strict=True):
        numbers = ["-", "-"]
        if outcome.score is not None:
            numbers = [f"{outcome.summary['metrics'][name]:.1f}" for name in ("eval/return", "eval/entropy")]
        differs = " ".join(text for text in one.overrides if text not in in_all) or "-"
        where = str(outcome.directory) + (f" ({outcome.reason})" if outcome.reason else "")
        rows.append((str(one.number), outcome.status, *numbers, differs, where))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]]) for row in rows
    ]
    counts = collections.Counter(outcome.status for outcome in outcomes)
    return "\n".join([*lines, ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))])
