"""How a claim about arms is judged on one task by one metric; the claims are in ``experiments.comparing.claims``.

Arms are compared only with arms that train as long and as often: of each task the longest training counts. Where
several arms fit (one M and epsilon, but other settings of the agent too), the one counts that deviates least from what
the agent declares, the task's values and the number of samples that the protocol has for the claim.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.comparing.runs import Cell, Run, Runs, as_ranges, value_text
from experiments.comparing.statistics import interquartile_interval, interquartile_mean

PASS, FAIL, NOT_ENOUGH = "pass", "fail", "not enough data"
RETRIES, EPSILONS, EPSILON = (1, 2, 4, 8), (1e-8, 1e-2, 1e-1, 1.0), 1e-8
FEWEST_SEEDS = 2
ROUNDS = ("num_envs", "updates_per_round", "prefill_env_steps", "replay_capacity")
Reduce = Callable[[Run, str], float]


@dataclasses.dataclass(frozen=True)
class Value:
    """What an arm reached.

    Attributes:
        name: In the claim's terms, for example ``M=4``.
        cell: The arm on its task.
        by_seed: A number per finished seed, at least ``FEWEST_SEEDS`` of them.
    """

    name: str
    cell: Cell
    by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(list(self.by_seed.values())))

    def mean_without(self, seed: int) -> float:
        """Mean over the other seeds."""
        return float(np.mean([number for other, number in self.by_seed.items() if other != seed]))

    @property
    def std(self) -> float:
        """Standard deviation over seeds, of a sample."""
        return float(np.std(list(self.by_seed.values()), ddof=1))

    def __str__(self) -> str:
        samples = self.cell.agent.get("num_samples")
        shown = self.name if samples is None else f"{self.name} (N={samples})"
        return f"{shown} {self.mean:.4g} ± {self.std:.2g} ({len(self.by_seed)} seeds)"

    def as_json(self) -> dict[str, Any]:
        """Returns plain data."""
        agent = self.cell.agent
        settings = {
            key: agent.get(key) for key in ("num_retries", "num_samples", "actor_adam_epsilon", "learning_rate")
        }
        numbers = {"mean": self.mean, "std": self.std, "values": {str(key): v for key, v in self.by_seed.items()}}
        return {"name": self.name, "arm": self.cell.arm, **settings, **numbers}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One claim on one task by one metric.

    Attributes:
        verdict: ``PASS``, ``FAIL`` or ``NOT_ENOUGH``.
        comment: Counterexamples, and what is missing.
        values: What it rests on.
        pairs: Those that were compared, the one that should be larger first.
    """

    verdict: str
    comment: str
    values: list[Value]
    pairs: list[tuple[Value, Value]]

    def differences(self) -> list[dict[str, Any]]:
        """Returns the paired differences on shared seeds, with their bootstrap intervals."""
        found = []
        for larger, smaller in self.pairs:
            shared = sorted(set(larger.by_seed) & set(smaller.by_seed))
            if len(shared) < FEWEST_SEEDS:
                continue
            values = np.array([larger.by_seed[seed] - smaller.by_seed[seed] for seed in shared])
            low, high = interquartile_interval(values)
            name = f"{larger.name} - {smaller.name}"
            iqm = float(interquartile_mean(values))
            found.append({"name": name, "seeds": shared, "iqm": iqm, "low": float(low), "high": float(high)})
        return found

    def unsure(self) -> str:
        """Tells the differences that are within the noise: their 95% interval holds 0."""
        return ", ".join(
            f"{one['name']} {one['iqm']:.3g} [{one['low']:.3g}, {one['high']:.3g}]"
            for one in self.differences()
            if one["low"] <= 0 <= one["high"]
        )

    def text(self) -> str:
        """Returns the numbers, what is wrong, and which differences are within the noise."""
        unsure = self.unsure()
        parts = [", ".join(map(str, self.values)) or "no values", self.comment]
        if unsure:
            parts.append(f"95% interval of the paired difference holds 0: {unsure}")
        return "; ".join(filter(None, parts))


def comparable(runs: Runs) -> tuple[Runs, dict[str, str]]:
    """Keeps of each task the arms that share all settings but the agent's; the longest finished training counts.

    A training that no arm has finished on ``FEWEST_SEEDS`` seeds counts only if there is no other. An agent of rollouts
    has other rounds; it is compared where everything but those is shared. A table of curves tells no settings.

    Returns:
        The runs, and for each task that lost some what was left out.
    """
    kept, left_out = [], {}
    for task in runs.tasks:
        cells = [cell for cell in runs.on(task) if not cell.runs[0].file]
        if untold := [cell.arm for cell in runs.on(task) if cell.runs[0].file]:
            left_out[task] = f"not judged, since a table of curves tells neither epsilon nor N: {', '.join(untold)}"
        if not cells:
            continue
        replaying = [cell for cell in cells if not _is_of_rollouts(cell)]
        groups: dict[str, list[Cell]] = {}
        for cell in replaying or cells:
            groups.setdefault(str(sorted(cell.training.items())), []).append(cell)
        best = max(groups.values(), key=_length)
        same = [id(cell) for cell in best]
        if replaying:
            of_rollouts = [cell for cell in cells if _is_of_rollouts(cell)]
            same += [id(cell) for cell in of_rollouts if _but_rounds(cell) == _but_rounds(best[0])]
        kept += [cell for cell in cells if id(cell) in same]
        if others := [cell for cell in cells if id(cell) not in same]:
            arms = ", ".join(cell.arm for cell in others)
            differently = f"left out, since they train differently: {arms}"
            left_out[task] = "; ".join(filter(None, (left_out.get(task), differently)))
    return dataclasses.replace(runs, cells=kept), left_out


def _is_of_rollouts(cell: Cell) -> bool:
    return bool({"rollout_length", "episode_length"} & cell.agent.keys())


def _but_rounds(cell: Cell) -> dict[str, Any]:
    return {key: value for key, value in cell.training.items() if key not in ROUNDS}


def _length(cells: Sequence[Cell]) -> tuple[bool, int, int]:
    enough = [cell for cell in cells if len(cell.finished) >= FEWEST_SEEDS]
    steps = [run.env_steps for cell in enough or cells for run in cell.finished]
    return bool(enough), max(steps, default=0), len(steps)


Judge = Callable[[Runs, str, str, Reduce], Judgement]


def _pick(cells: Sequence[Cell], num_samples: int | None = None) -> Cell | None:
    """Returns the cell that deviates least from the agent on its task and a number of samples, if it has seeds."""
    if len(cells) == 1:  # what the agents declare is not asked for where it decides nothing
        return cells[0]

    def deviations(cell: Cell) -> tuple[bool, int, int, str]:
        run = cell.runs[0]
        plain = run.defaults | run.tuned | ({} if num_samples is None else {"num_samples": num_samples})
        count = sum(cell.agent.get(key) != value for key, value in plain.items())
        return len(cell.finished) < FEWEST_SEEDS, count, -len(cell.finished), cell.arm

    return min(cells, key=deviations, default=None)


def _retry_cell(runs: Runs, task: str, retries: int, epsilon: float, num_samples: int) -> Cell | None:
    wanted = {"name": "remac", "num_retries": retries, "objective": "max", "gradient": "pathwise"}
    wanted |= {"num_retries_end": None, "actor_optimizer": "adam"}
    fitting = [
        cell
        for cell in runs.on(task)
        if all(cell.agent.get(key, value) == value for key, value in wanted.items())
        and math.isclose(cell.agent.get("actor_adam_epsilon", EPSILON), epsilon, rel_tol=1e-6)
    ]
    return _pick(fitting, num_samples)


def _value(name: str, cell: Cell | None, metric: str, reduce: Reduce) -> Value | None:
    by_seed = cell.by_seed(metric, reduce) if cell is not None else {}
    return Value(name, cell, by_seed) if cell is not None and len(by_seed) >= FEWEST_SEEDS else None


def _by_retries(
    runs: Runs, task: str, metric: str, reduce: Reduce, num_samples: int | None = None
) -> dict[int, Value | None]:
    """Returns the value of every M of the protocol and of the runs, at epsilon 1e-8."""
    of_remac = (cell.num_retries for cell in runs.on(task) if cell.kind == "remac")
    present = {retries for retries in of_remac if retries is not None}
    values: dict[int, Value | None] = {}
    for retries in sorted({*RETRIES, *present}):
        samples = num_samples or (16 if retries >= 8 else 8)
        value = _value(f"M={retries}", _retry_cell(runs, task, retries, EPSILON, samples), metric, reduce)
        if value is not None or retries in RETRIES:
            values[retries] = value
    return values


def _judge_pairs(values: Mapping[Any, Value | None], pairs: Sequence[tuple[Value, Value]]) -> Judgement:
    """Judges that the first of each pair exceeds the second, and that nothing is missing."""
    wrong = [f"{first.name} does not exceed {second.name}" for first, second in pairs if first.mean <= second.mean]
    missing = [str(name) for name, value in values.items() if value is None]
    comment = "; ".join(filter(None, (", ".join(wrong), _missing(missing))))
    present = [value for value in values.values() if value is not None]
    verdict = FAIL if wrong else NOT_ENOUGH if missing else PASS
    return Judgement(verdict, comment, present, list(pairs))


def _missing(names: Sequence[str]) -> str:
    return f"fewer than {FEWEST_SEEDS} finished seeds with this metric: {', '.join(names)}" if names else ""


def _named(values: Mapping[int, Value | None]) -> dict[str, Value | None]:
    return {f"M={retries}": value for retries, value in values.items()}


def above_one(runs: Runs, task: str, metric: str, reduce: Reduce) -> Judgement:
    """Judges whether every M > 1 exceeds M = 1, at epsilon 1e-8."""
    values = _by_retries(runs, task, metric, reduce)
    one = values[1]
    pairs = [(value, one) for retries, value in values.items() if retries > 1 and value and one]
    return _judge_pairs(_named(values), pairs)


def rises(num_samples: int | None, sign: int = 1) -> Judge:
    """Returns a judge of whether a metric rises (or falls, with -1) from each M to the next."""

    def judge(runs: Runs, task: str, metric: str, reduce: Reduce) -> Judgement:
        values = _by_retries(runs, task, metric, reduce, num_samples)
        present = [value for value in values.values() if value is not None]
        steps = list(zip(present[1:], present, strict=False))
        if sign < 0:
            steps = [(second, first) for first, second in steps]
        return _judge_pairs(_named(values), steps)

    return judge


def above_one_at_every_epsilon(runs: Runs, task: str, metric: str, reduce: Reduce) -> Judgement:
    """Judges whether M = 8 exceeds M = 1 at every epsilon."""
    present = {cell.agent.get("actor_adam_epsilon") for cell in runs.on(task) if cell.kind == "remac"}
    values: dict[str, Value | None] = {}
    pairs = []
    for epsilon in sorted({*EPSILONS, *(one for one in present if one is not None)}):
        names = [f"M={retries} at epsilon {value_text(epsilon)}" for retries in (1, 8)]
        one, eight = (
            _value(name, _retry_cell(runs, task, retries, epsilon, 16 if retries == 8 else 8), metric, reduce)
            for name, retries in zip(names, (1, 8), strict=True)
        )
        if epsilon in EPSILONS or (one and eight):
            values |= dict(zip(names, (one, eight), strict=True))
        if one and eight:
            pairs.append((eight, one))
    return _judge_pairs(values, pairs)


def best_against(agent: str, slack: float) -> Judge:
    """Returns a judge of the best M > 1 against an agent's mean less some of its standard deviations.

    Which M is best is chosen on other seeds than it is judged on: for every seed, the M with the highest mean over the
    other seeds, and the mean over seeds of what these Ms reached is judged. The highest of several means over the same
    seeds would be above the true mean of every M by the noise alone.

    Note:
        Leaving one seed out keeps as many seeds as can be for the choice, of which there are often three. The choice is
        that of one seed fewer, so it is a little worse than the best M is.
    """

    def judge(runs: Runs, task: str, metric: str, reduce: Reduce) -> Judgement:
        rivals = [
            cell for cell in runs.on(task) if cell.kind == agent and cell.agent.get("temperature", "auto") == "auto"
        ]
        rival = _value(agent.upper(), _pick(rivals), metric, reduce)
        values = {r: value for r, value in _by_retries(runs, task, metric, reduce).items() if r > 1}
        present = [value for value in values.values() if value is not None]
        missing = [f"M={retries}" for retries, value in values.items() if value is None]
        if rival is None or not present:
            return Judgement(
                NOT_ENOUGH,
                _missing(([] if rival else [agent.upper()]) + missing),
                [*([rival] if rival else []), *present],
                [],
            )
        best, chosen = _best_on_other_seeds(present)
        bound = rival.mean - slack * rival.std
        counts = ", ".join(f"{name} for {as_ranges(seeds)}" for name, seeds in chosen.items())
        comment = f"the best on the other seeds ({counts}) has {best.mean:.4g}, the bound {bound:.4g}"
        if best.mean > bound or (slack and best.mean == bound):
            return Judgement(PASS, comment, [rival, *present], [(best, rival)])
        # An M that is missing could be the best one.
        verdict = NOT_ENOUGH if missing else FAIL
        return Judgement(verdict, "; ".join(filter(None, (comment, _missing(missing)))), [rival, *present], [])

    return judge


def _best_on_other_seeds(values: Sequence[Value]) -> tuple[Value, dict[str, list[int]]]:
    """Returns for every seed what the value with the highest mean over the other seeds has; and whose seeds those are.

    Args:
        values: At least one; each has at least ``FEWEST_SEEDS`` seeds, so there is always another.
    """
    by_seed: dict[int, float] = {}
    chosen: dict[str, list[int]] = {}
    for seed in sorted({seed for value in values for seed in value.by_seed}):
        best = max((value for value in values if seed in value.by_seed), key=lambda value: value.mean_without(seed))
        by_seed[seed] = best.by_seed[seed]
        chosen.setdefault(best.name, []).append(seed)
    most = max(values, key=lambda value: len(chosen.get(value.name, [])))
    return Value("best M", most.cell, by_seed), chosen


def does_not_fall(runs: Runs, task: str, metric: str, reduce: Reduce) -> Judgement:
    """Judges whether M = 8 is at most one standard deviation of M = 1's seeds below M = 1, at epsilon 1e-8."""
    values = _by_retries(runs, task, metric, reduce)
    one, eight = values[1], values[8]
    present = [value for value in values.values() if value is not None]
    if one is None or eight is None:
        missing = [f"M={retries}" for retries in (1, 8) if values[retries] is None]
        return Judgement(NOT_ENOUGH, _missing(missing), present, [])
    bound = one.mean - one.std
    comment = f"M=8 is {eight.mean / one.mean:.3g} of M=1, the bound {bound:.4g}" if one.mean else f"bound {bound:.4g}"
    return Judgement(PASS if eight.mean >= bound else FAIL, comment, present, [])
