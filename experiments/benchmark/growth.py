"""Suite ``growth``: time and memory of what grows, by its size; each measurement is a process of its own."""

import dataclasses
import itertools
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

import envs
from experiments.benchmark import checkpoint, timing, train
from experiments.comparing.drawing import Row, column, label, new_figure, select, unique
from experiments.records.files import CONFIG, SUMMARY, sums_of
from experiments.running import compilation_cache
from experiments.running.config import compose_job
from experiments.running.hydra_main import use_all_cpus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 1_000  # gradient steps of each member that are timed
JOBS = ("hydra/launcher=population", "agent=sac", "env=probe/action", "total_env_steps=2000", "agent.hidden_sizes=[8]")
# Three arms of a hundred evaluations, of which copies with these tasks and further seeds are compared.
COMPARED = (
    *("experiment=return_and_entropy", "suite=probe", "tasks=[action]", "arms=[sac,m1,m4]", "seeds=[0]"),
    "overrides=['total_env_steps=8000','eval_every_env_steps=80','num_eval_episodes=2','agent.hidden_sizes=[8]']",
)
TASKS = ("half_cheetah", "hopper", "walker2d", "ant", "humanoid")


class Growth(NamedTuple):
    """Something that grows.

    Attributes:
        title: What takes the time.
        by: What it grows by.
        sizes: What is measured.
        small: What is measured only to show that it works.
        measure: Takes a size, and a folder that holds as many runs where runs are compared; returns seconds.
    """

    title: str
    by: str
    sizes: tuple[int, ...]
    small: tuple[int, ...]
    measure: Callable[[int, Path], float]


def _train(num_members: int, capacity: int) -> float:
    """Returns the seconds of 1,000 gradient steps of every member, with full replays."""
    env = envs.make("mujoco/half_cheetah", num_envs=16)
    agent, config = train.settings("remac", env)
    config = dataclasses.replace(config, replay_capacity=capacity, prefill_env_steps=capacity)
    return STEPS * num_members / train.measure(agent, env, config, num_members, 3.0)["gradient_steps_per_second"]


def _command(name: str, arguments: Sequence[str], folder: Path) -> float:
    """Returns the seconds of a command, from the prompt to its end."""
    started = time.perf_counter()
    command = [sys.executable, "-m", f"experiments.{name}", *arguments]
    outcome = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if outcome.returncode:
        raise RuntimeError(f"{name}: {timing.last_line(outcome.stderr)}")
    return time.perf_counter() - started


def _save(transitions: int) -> float:
    """Returns the seconds of a checkpoint of the default command, the third."""
    return checkpoint.measure(compose_job(), transitions, 0.5, iter(range(3))).seconds[-1]


def _comparison(name: str) -> Callable[[int, Path], float]:
    """Returns the measurement of a command that compares runs."""
    return lambda _, folder: _command(name, RUNS, folder)


MANY, SMALL = (10_000, 100_000, 1_000_000), (1_000, 2_000)
COMPARING, RUNS = ("plot", "report", "claims"), ("runs",)  # commands, and what they are told
GROWTHS = {
    "population": Growth(
        "1,000 gradient steps of all", "members", (1, 4, 16, 64), (1, 2), lambda size, _: _train(size, 20_000)
    ),
    "replay": Growth("1,000 gradient steps", "transitions", MANY, SMALL, lambda size, _: _train(1, size)),
    "checkpoint": Growth("a checkpoint", "transitions", MANY, SMALL, lambda size, _: _save(size)),
    "sweep": Growth(
        "a sweep of short trainings",
        "jobs",
        (1, 10, 100),
        (1, 2),
        lambda size, folder: _command("train", ("-m", f"seed=range({size})", *JOBS), folder),
    ),
    **{name: Growth(name, "runs", (10, 100, 1_000), (6, 12), _comparison(name)) for name in COMPARING},
}


def run(size: str, repeats: int, kinds: Collection[str] = tuple(GROWTHS)) -> list[Row]:
    """Measures everything at all of its sizes, in turn.

    Args:
        size: The larger sizes or the smaller ones.
        repeats: How often each is measured.
        kinds: Of ``GROWTHS``.

    Returns:
        A row for each: what grows, its size, seconds, peak memory of the process, and ``exponent``, that of the power
        law from the size before, which is 1 where time is in proportion and less where there is a constant in it.
    """
    cases = [
        (what, number)
        for what, growth in GROWTHS.items()
        if what in kinds
        for number in (growth.sizes if size == "full" else growth.small)
    ]
    measured: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        of_runs = {number for what, number in cases if what in COMPARING}
        if of_runs:
            _command("sweep", (*COMPARED, "directory=trained"), folder)
        for number in of_runs:
            _copy_runs(folder / "trained", folder.joinpath(str(number), *RUNS), number)
        for what, number in timing.turns(cases, repeats):
            place = folder / str(number) if what in COMPARING else Path(tempfile.mkdtemp(dir=folder))
            arguments = (sys.executable, "-m", "experiments.benchmark.growth", what, str(number), str(place))
            outcome = timing.measure_apart(arguments)
            if isinstance(outcome, str):
                raise RuntimeError(f"{what} of {number}: {outcome}")
            measured[what, number].append(outcome)
    rows: list[Row] = []
    for (what, number), outcomes in measured.items():
        row: Row = {"what": what, "title": GROWTHS[what].title, "by": GROWTHS[what].by, "size": number}
        for name in ("seconds", "mib"):
            row |= timing.summary([outcome[name] for outcome in outcomes], name)
        row["exponent"] = ""
        if rows and (before := rows[-1])["what"] == what:
            row["exponent"] = math.log(row["seconds"] / before["seconds"]) / math.log(number / before["size"])
        rows.append(row)
    return rows


def plot(rows: list[Row]) -> "Figure":
    """Draws seconds above MiB, by size, with a line of what is in proportion through the largest."""
    kinds = unique(rows, "what")
    figure, axes = new_figure(2, len(kinds), panel=(1.9, 2.0), sharex="col")
    for number, what in enumerate(kinds):
        of_kind = select(rows, what=what)
        sizes = column(of_kind, "size")
        for panel, name in zip(axes[:, number], ("seconds", "mib"), strict=True):
            values, low, high = (column(of_kind, f"{name}{ending}") for ending in ("", "_min", "_max"))
            panel.fill_between(sizes, low, high, alpha=0.25, linewidth=0)
            panel.plot(sizes, values, marker="o", markersize=3)
            panel.plot(sizes, [values[-1] * size / sizes[-1] for size in sizes], ":", color="#888888", linewidth=1)
            panel.set(xscale="log", yscale="log", ylim=(0.5 * min(values), 2 * max(values)))
        label(axes[0, number], title=of_kind[0]["title"], y="" if number else "seconds")
        label(axes[1, number], x=of_kind[0]["by"], y="" if number else "peak memory (MiB)")
    return figure


def _copy_runs(trained: Path, folder: Path, number: int) -> None:
    """Makes runs of those that were trained, with other tasks and seeds in their configurations."""
    templates = sorted(path.parent for path in trained.rglob(CONFIG))
    for index, (seed, task, template) in enumerate(itertools.product(range(number), TASKS, templates)):
        if index == number:
            break
        run = folder / str(index)
        shutil.copytree(template, run, ignore=shutil.ignore_patterns("checkpoints", "policy"))
        config = yaml.safe_load((run / CONFIG).read_bytes())
        config["seed"], config["env"]["suite"], config["env"]["task"] = seed, "mujoco", task
        (run / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        summary = json.loads((run / SUMMARY).read_bytes()) | {"files": sums_of(run)}
        (run / SUMMARY).write_text(json.dumps(summary))


def main(what: str, number: int, folder: Path) -> None:
    """Makes one measurement, and prints it and the most memory that it or what it started has taken."""
    compilation_cache.enable()
    use_all_cpus()
    seconds = GROWTHS[what].measure(number, folder)
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"seconds": seconds, "mib": max(peaks) / 2**10}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
