"""What is known of runs: their files as read, and their order in cells of one task and one arm."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.records.files import FINISHED, FREE_KEYS, LATER_KEYS, STAGGER, SUMMARY, Record, flatten

AGENT_TITLES = {"remac": "ReMAC", "sac": "SAC", "td3": "TD3", "ppo": "PPO", "ordergrad": "OrderGrad"}
UNFINISHED, DAMAGED = "unfinished", "damaged"
FINAL_FRACTION = 0.1
X_AXES = {"env_steps": "env steps", "gradient_steps": "gradient steps", "wall_clock": "wall clock (s)"}
# What may differ between the seeds of one arm: names (``setting`` is that of values, which count), where records go,
# when a run gives up, and how it is measured and drawn.
NOT_SETTINGS = (
    *("seed", "experiment", "arm", "agent", "env", "setting", "max_diverged_fraction", "drawn_as", "place"),
    *FREE_KEYS,
)
SAMPLED_RETURN, MEAN_RETURN = "eval/return_stochastic", "eval/return"  # of sampled actions, and of the mean action
SPEED, MEMBERS = "time/env_steps_per_second", "time/num_members"
MEASUREMENT = ("eval_seed", "eval_every_env_steps", "num_eval_episodes", "num_eval_retries")


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric of one run, T records long.

    Attributes:
        env_steps: `[T]`, strictly increasing.
        gradient_steps: `[T]`.
        wall_clock: Seconds since the start of the run, `[T]`.
        values: `[T]`; may hold non-finite numbers.
    """

    env_steps: np.ndarray
    gradient_steps: np.ndarray
    wall_clock: np.ndarray
    values: np.ndarray


def make_series(records: Sequence[Record]) -> dict[str, Series]:
    """Sorts records into series; of two of one step the later one counts."""
    *steps, names, values = zip(*records, strict=True) if records else ((),) * 5
    table = np.asarray([*steps, values], float).T
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return {name: series_of(table[rows]) for name, rows in places.items()}


def series_of(rows: np.ndarray) -> Series:
    """Returns the series of one metric's records, `[T, 4]` in the order of ``Series`` and of writing."""
    _, last = np.unique(rows[::-1, 0], return_index=True)
    return Series(*rows[::-1][last].T)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        directory: Where it is.
        config: Its resolved configuration.
        provenance: Command, commit, device and versions; empty if the file is missing.
        summary: How it ended; None while it is going, or if it was killed.
        metrics: Name to series.
        damage: What is wrong with the files of a run that has finished, if that leaves its numbers in doubt.
    """

    directory: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    summary: dict[str, Any] | None
    metrics: dict[str, Series]
    damage: str = ""

    @property
    def task(self) -> str:
        """Suite and task, with the options that make it another one."""
        env = self.config["env"]
        options = flatten(env.get("options") or {})
        if options.get(STAGGER) == self._tuned_stagger:  # as if it were not there, which it is not in every suite
            del options[STAGGER]
        shown = [f"{key}={value_text(value)}" for key, value in options.items() if value not in (None, {})]
        return " ".join([f"{env['suite']}/{env['task']}", *shown])

    @property
    def file(self) -> str | None:
        """The file of curves that it was read from, which tells no settings; None for a run directory."""
        return self.config.get("file")

    @property
    def seed(self) -> int:
        """The seed."""
        return self.config["seed"]

    @property
    def agent(self) -> dict[str, Any]:
        """The agent's settings."""
        return self.config["agent"]

    @property
    def _tuned_by_owner(self) -> dict[str, Any]:
        """The task's own values in the setting of the run, by whose they are; older runs have no settings."""
        tuned = self.config["env"].get("tuned") or {}
        return tuned.get(self.config.get("setting"), tuned)

    @property
    def tuned(self) -> dict[str, Any]:
        """The task's own values for the agent, in the setting of the run; older runs have them in other places."""
        tuned, name = self._tuned_by_owner, self.agent["name"]
        return {**(self.config["env"].get(name) or {}), **(tuned.get("all") or {}), **(tuned.get(name) or {})}

    @property
    def _tuned_stagger(self) -> bool:
        """Whether the setting of the run staggers first episodes; before settings did, none were."""
        training = self._tuned_by_owner.get("training") or {}
        return {STAGGER: False, **training, **(self.tuned.get("training") or {})}[STAGGER]

    @property
    def defaults(self) -> dict[str, Any]:
        """What the agent declares, if it is still known by its name."""
        from agents import AGENTS  # takes seconds, and is rarely needed
        from remac.hyperparameters import defaults

        return defaults(AGENTS[self.agent["name"]]) if self.agent["name"] in AGENTS else {}

    @property
    def num_retries(self) -> int | None:
        """M, or None for an agent that has none."""
        return self.agent.get("num_retries")

    @property
    def drawn_as(self) -> tuple[str, int | None]:
        """Agent and M that title and colour are of; a file of curves may tell these and nothing else."""
        agent = self.config.get("drawn_as") or self.agent
        return agent["name"], agent.get("num_retries")

    @property
    def base_label(self) -> str:
        """The agent's name, or M."""
        name, num_retries = self.drawn_as
        if num_retries is None:
            return name.upper()
        return self.retries_label if name == "remac" else f"{name.upper()} {self.retries_label}"

    @property
    def agent_title(self) -> str:
        """The agent as people write it, with M or K."""
        agent, num_retries = self.drawn_as
        name = AGENT_TITLES.get(agent, agent)
        return name if num_retries is None else f"{name} {self.retries_label}"

    @property
    def retries_label(self) -> str:
        """The number of retries: M of actions, as ReMAC's paper has it, or K of episodes."""
        name, num_retries = self.drawn_as
        return f"{'M' if name == 'remac' else 'K'}={num_retries}"

    @property
    def experiment(self) -> str | None:
        """Name of the preset that it belongs to."""
        return self.config.get("experiment")

    @property
    def status(self) -> str:
        """``finished``, ``unfinished`` (no summary: going or killed), ``damaged``, or how it failed."""
        if self.damage:
            return DAMAGED
        return self.summary.get("status", UNFINISHED) if self.summary else UNFINISHED

    @property
    def reason(self) -> str:
        """Why it is not finished, in words."""
        if self.damage:
            return self.damage
        if self.summary is None:
            return f"no {SUMMARY}: still going, or killed"
        return " ".join(str(self.summary.get("reason") or self.status).split())

    @functools.cached_property
    def env_steps(self) -> int:
        """Env steps of its last record."""
        return max((int(series.env_steps[-1]) for series in self.metrics.values()), default=0)

    @property
    def settings(self) -> dict[str, Any]:
        """What two runs must share to be seeds of one arm, with dotted keys."""
        return {**flatten(self.agent), **self.training}

    @property
    def training(self) -> dict[str, Any]:
        """The settings besides the agent's: how long and how often it trains."""
        config = LATER_KEYS | self.config
        return flatten(
            {key: value for key, value in config.items() if key not in NOT_SETTINGS and key not in MEASUREMENT}
        )

    def has(self, x: str) -> bool:
        """Whether any record says where it is on an axis, of ``X_AXES``."""
        return any(np.isfinite(getattr(series, x)).any() for series in self.metrics.values())

    def final(self, metric: str) -> float:
        """Returns the mean of a metric over the last tenth of training; NaN if it is missing or not finite there."""
        if metric not in self.metrics:
            return math.nan
        series = self.metrics[metric]
        # A record at step t is about the steps before t, so the border's own record belongs to the nine tenths.
        window = series.values[series.env_steps > (1 - FINAL_FRACTION) * self.env_steps]
        return float(np.mean(window)) if window.size and np.isfinite(window).all() else math.nan

    def mean(self, metric: str) -> float:
        """Returns the mean of a metric over all gradient steps; NaN if it is missing or not finite somewhere."""
        if metric not in self.metrics:
            return math.nan
        series = self.metrics[metric]
        weights = np.diff(series.gradient_steps, prepend=0)
        if not np.isfinite(series.values).all() or weights.sum() <= 0:
            return math.nan
        return float(np.average(series.values, weights=weights))


@dataclasses.dataclass(frozen=True)
class Cell:
    """The seeds of one arm on one task.

    Attributes:
        task: The task.
        arm: The arm's label.
        runs: One per seed, in the order of the seeds.
        variant: The settings, besides M, in which arms of this agent differ.
    """

    task: str
    arm: str
    runs: tuple[Run, ...]
    variant: dict[str, Any]

    @property
    def kind(self) -> str:
        """Name of the agent."""
        return self.runs[0].agent["name"]

    @property
    def num_retries(self) -> int | None:
        """M, or None for an agent that has none."""
        return self.runs[0].num_retries

    @property
    def agent(self) -> dict[str, Any]:
        """The agent's settings."""
        return self.runs[0].agent

    @property
    def base_label(self) -> str:
        """The agent's name, or M; the arm's name where a file of curves tells no more of its settings."""
        return self.arm if self.runs[0].file else self.runs[0].base_label

    @property
    def drawn_as(self) -> tuple[str, int | None]:
        """Agent and M that title and colour are of."""
        return self.runs[0].drawn_as

    @property
    def more(self) -> str:
        """What tells it from other arms of its agent and M."""
        run = self.runs[0]
        if run.file:
            named = next((name for name in (run.base_label, run.agent_title) if self.arm.startswith(name)), "")
            return self.arm.removeprefix(named).strip()
        return ", ".join(f"{key} {value_text(value)}" for key, value in self.variant.items())

    @property
    def title(self) -> str:
        """The arm in a figure: the agent as people write it, with M or K; the arm's name where it says more."""
        is_named = self.drawn_as[0] not in AGENT_TITLES or self.more
        return self.arm if is_named else self.runs[0].agent_title

    @property
    def training(self) -> dict[str, Any]:
        """The settings besides the agent's: how long and how often it trains."""
        return self.runs[0].training

    @property
    def order(self) -> tuple[Any, ...]:
        """What sorts the cells of a task: agents without retries, then by M, then by variant."""
        variant = [value if isinstance(value, int | float) else 0 for value in self.variant.values()]
        (name, num_retries), place = self.drawn_as, self.runs[0].config.get("place", 0)
        return (num_retries is not None, name, num_retries or 0, variant, place, self.arm)

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs whose numbers count."""
        return tuple(run for run in self.runs if run.status == FINISHED)

    def by_seed(self, metric: str, reduce: Callable[[Run, str], float] = Run.final) -> dict[int, float]:
        """Returns one number per finished seed, without those that do not have it."""
        values = {run.seed: reduce(run, metric) for run in self.finished}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def speeds(self) -> list[tuple[float, int]]:
        """Returns the env steps a second of each program that trained finished runs, and how many runs it trained.

        Runs of one program have one clock, thus the same speed to the last digit; the program's is that of all of them.
        Where their number was not recorded it is taken to be 1.
        """
        speeds = self.by_seed(SPEED)
        members = {seed: round(number) for seed, number in self.by_seed(MEMBERS).items()}
        programs = dict.fromkeys((speed, members.get(seed, 1)) for seed, speed in speeds.items())
        return [(speed * number, number) for speed, number in programs]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep set out to run.

    Attributes:
        folder: Where it is.
        experiment: Name of the preset.
        scale: Suite and scale.
        command: What started it.
        runs: Each with ``directory`` (absolute), ``task``, ``arm`` and ``seed``.
    """

    folder: Path
    experiment: str
    scale: str
    command: list[str]
    runs: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Runs:
    """All that was found.

    Attributes:
        cells: In the order of tasks, agents, M and variants.
        plans: The plans of the sweeps among the directories.
        all: Every run, also those that no cell holds.
        notes: A line for each thing that was left out or needs to be known.
    """

    cells: list[Cell]
    plans: list[Plan]
    all: list[Run]
    notes: list[str]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def arms(self) -> list[str]:
        """Labels of the arms."""
        return list(dict.fromkeys(cell.arm for cell in sorted(self.cells, key=lambda cell: cell.order)))

    @property
    def used(self) -> list[Run]:
        """The runs that are in a cell."""
        return [run for cell in self.cells for run in cell.runs]

    def on(self, task: str) -> list[Cell]:
        """Returns the cells of a task."""
        return [cell for cell in self.cells if cell.task == task]


def value_text(value: Any) -> str:
    """Writes a setting's value shortly."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_ranges(numbers: Iterable[int]) -> str:
    """Writes whole numbers shortly: ``1-5, 8``."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
