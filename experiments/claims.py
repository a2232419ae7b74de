"""Checks the paper's claims against runs: ``python -m experiments.claims <directories> [json=<file>]``.

Each claim is judged per task, and then over all tasks: pass, fail, or not enough data. A claim about every M or every
epsilon passes only if all of the protocol's are there; one counterexample fails it. Returns are those of sampled actions.
A value of an arm is the mean over its finished seeds, of which there must be two. What other metrics would say stands
beside, and decides nothing.

| claim | statement | decided on |
|---|---|---|
| a | at epsilon 1e-8, the entropy of every M > 1 exceeds that of M = 1 | `actor/entropy`, last 10% |
| b | at epsilon 1e-8, the final standard deviation rises with M | `actor/pre_tanh_std`, last 10% |
| c | the entropy of M = 8 exceeds that of M = 1 at every epsilon | `actor/entropy`, last 10% |
| d (SAC) | the best M > 1 is at most one standard deviation of SAC's seeds below SAC | `eval/return_stochastic`, last 10% |
| d (PPO) | the best M > 1 is above PPO, on most tasks | `eval/return_stochastic`, last 10% |
| e | the share of updates that raise sigma grows with M | `actor/raises_std`, whole training |
| f (gradient) | the actor's gradient norm falls with M | `actor/grad_norm`, last 10% |
| f (update) | with Adam at epsilon 1e-8 the update norm does not: M = 8 is at most one standard deviation of M = 1's seeds below M = 1 | `actor/update_norm`, last 10% |

Where several arms fit (one M and epsilon, but other settings too), the one counts that deviates least from the task's
values and from the protocol's N: 16 for M = 8 and 8 below, and 16 for every M in b and e.

Exit statuses: 0 done, whatever the verdicts; 2 bad input (one line on stderr).
"""  # noqa: E501

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.arguments import command_of, exit_with, parse, require_folder
from experiments.runs import Cell, Run, Runs, load, value_text
from experiments.statistics import interquartile_interval, interquartile_mean

PASS, FAIL, NOT_ENOUGH = "pass", "fail", "not enough data"
RETRIES, EPSILONS, EPSILON = (1, 2, 4, 8), (1e-8, 1e-2, 1e-1, 1.0), 1e-8
FEWEST_SEEDS = 2
WINDOWS: dict[str, Callable[[Run, str], float]] = {"last 10%": Run.final, "whole training": Run.mean}


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

    def text(self) -> str:
        """Returns the numbers, what is wrong, and which differences are within the noise."""
        unsure = [
            f"{one['name']} {one['iqm']:.3g} [{one['low']:.3g}, {one['high']:.3g}]"
            for one in self.differences()
            if one["low"] <= 0 <= one["high"]
        ]
        parts = [", ".join(map(str, self.values)) or "no values", self.comment]
        if unsure:
            parts.append(f"95% interval of the paired difference holds 0: {', '.join(unsure)}")
        return "; ".join(filter(None, parts))


Judge = Callable[[Runs, str, str, Callable[[Run, str], float]], Judgement]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim and how it is decided.

    Attributes:
        name: Its letter, and part.
        statement: In words.
        metric: Decides.
        window: Over which part of training it is averaged, one of ``WINDOWS``.
        beside: Metrics and windows that are shown with it.
        judge: Takes the runs, the task, a metric and a window's function.
        most: Whether it need only hold on most tasks.
    """

    name: str
    statement: str
    metric: str
    window: str
    beside: tuple[tuple[str, str], ...]
    judge: Judge
    most: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """A claim on all tasks.

    Attributes:
        claim: The claim.
        verdict: Over all tasks.
        tasks: Task to judgement.
        beside: Task to the judgements of other metrics, by metric and window.
    """

    claim: Claim
    verdict: str
    tasks: dict[str, Judgement]
    beside: dict[str, dict[tuple[str, str], Judgement]]


def main(arguments: Sequence[str]) -> None:
    """Prints every claim's verdict."""
    paths, settings = parse(arguments, {"json": ""})
    file = Path(settings["json"]) if settings["json"] else None
    if file is not None:
        require_folder("json", file.parent)
    runs = load(paths)
    results = check_all(runs)
    print(as_text(results))
    for note in runs.notes:
        print(f"note: {note}")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = as_json(results, runs, command_of("experiments.claims", arguments))
        file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def check_all(runs: Runs) -> list[Result]:
    """Judges every claim on every task."""
    results = []
    for claim in CLAIMS:
        tasks = {task: claim.judge(runs, task, claim.metric, WINDOWS[claim.window]) for task in runs.tasks}
        beside = {
            task: {
                (metric, window): claim.judge(runs, task, metric, WINDOWS[window]) for metric, window in claim.beside
            }
            for task in runs.tasks
        }
        results.append(Result(claim, _overall([one.verdict for one in tasks.values()], claim.most), tasks, beside))
    return results


def as_text(results: Sequence[Result]) -> str:
    """Writes the results for a terminal."""
    lines = []
    for result in results:
        claim = result.claim
        lines += ["", f"{claim.name}. {claim.statement}: {result.verdict.upper()}"]
        lines.append(f"   decided on {claim.metric}, {claim.window}; mean ± standard deviation over seeds")
        for task, judgement in result.tasks.items():
            lines.append(f"   {task}: {judgement.verdict}: {judgement.text()}")
            for (metric, window), other in result.beside[task].items():
                if other.values:
                    lines.append(f"      beside, {metric}, {window}: {other.verdict}: {other.text()}")
    return "\n".join(lines[1:])


def as_json(results: Sequence[Result], runs: Runs, command: str) -> dict[str, Any]:
    """Returns the results as plain data."""

    def plain(judgement: Judgement) -> dict[str, Any]:
        return {
            "verdict": judgement.verdict,
            "comment": judgement.comment,
            "values": [value.as_json() for value in judgement.values],
            "differences": judgement.differences(),
        }

    claims = [
        {
            "claim": result.claim.name,
            "statement": result.claim.statement,
            "metric": result.claim.metric,
            "window": result.claim.window,
            "verdict": result.verdict,
            "tasks": {
                task: plain(judgement)
                | {
                    "beside": [
                        {"metric": metric, "window": window, **plain(other)}
                        for (metric, window), other in result.beside[task].items()
                    ]
                }
                for task, judgement in result.tasks.items()
            },
        }
        for result in results
    ]
    commits = sorted({str(run.provenance.get("commit")) for run in runs.used})
    return {"command": command, "commits": commits, "claims": claims, "notes": runs.notes}


def _overall(verdicts: Sequence[str], most: bool) -> str:
    if most and verdicts and NOT_ENOUGH not in verdicts:
        return PASS if verdicts.count(PASS) > len(verdicts) / 2 else FAIL
    if FAIL in verdicts and not most:
        return FAIL
    return NOT_ENOUGH if NOT_ENOUGH in verdicts or not verdicts else PASS


def _pick(cells: Sequence[Cell], num_samples: int | None = None) -> Cell | None:
    """Returns the cell that deviates least from the task's own values and from a number of samples."""

    def deviations(cell: Cell) -> tuple[int, int, str]:
        tuned = cell.runs[0].config["env"].get(cell.kind) or {}
        count = sum(cell.agent.get(key) != value for key, value in tuned.items())
        count += num_samples is not None and cell.agent.get("num_samples") != num_samples
        return count, -len(cell.finished), cell.arm

    return min(cells, key=deviations, default=None)


def _retry_cell(runs: Runs, task: str, retries: int, epsilon: float, num_samples: int) -> Cell | None:
    wanted = {"name": "remac", "num_retries": retries, "objective": "max", "gradient": "pathwise"}
    wanted["actor_optimizer"] = "adam"
    fitting = [
        cell
        for cell in runs.on(task)
        if all(cell.agent.get(key, value) == value for key, value in wanted.items())
        and math.isclose(cell.agent.get("actor_adam_epsilon", EPSILON), epsilon, rel_tol=1e-6)
    ]
    return _pick(fitting, num_samples)


def _value(name: str, cell: Cell | None, metric: str, reduce: Callable[[Run, str], float]) -> Value | None:
    by_seed = cell.by_seed(metric, reduce) if cell is not None else {}
    return Value(name, cell, by_seed) if cell is not None and len(by_seed) >= FEWEST_SEEDS else None


def _by_retries(
    runs: Runs, task: str, metric: str, reduce: Callable[[Run, str], float], num_samples: int | None = None
) -> dict[int, Value | None]:
    """Returns the value of every M of the protocol and of the runs, at epsilon 1e-8."""
    present = {cell.num_retries for cell in runs.on(task) if cell.num_retries is not None}
    values = {}
    for retries in sorted({*RETRIES, *present}):
        samples = num_samples or (16 if retries >= 8 else 8)
        value = _value(f"M={retries}", _retry_cell(runs, task, retries, EPSILON, samples), metric, reduce)
        if value is not None or retries in RETRIES:
            values[retries] = value
    return values


def _judge_pairs(values: Mapping[Any, Value | None], pairs: Sequence[tuple[Value, Value]], words: str) -> Judgement:
    """Judges that the first of each pair exceeds the second, and that nothing is missing."""
    wrong = [f"{first.name} {words} {second.name}" for first, second in pairs if first.mean <= second.mean]
    missing = [str(name) for name, value in values.items() if value is None]
    comment = "; ".join(filter(None, (", ".join(wrong), _missing(missing))))
    present = [value for value in values.values() if value is not None]
    verdict = FAIL if wrong else NOT_ENOUGH if missing else PASS
    return Judgement(verdict, comment, present, list(pairs))


def _missing(names: Sequence[str]) -> str:
    return f"fewer than {FEWEST_SEEDS} finished seeds with this metric: {', '.join(names)}" if names else ""


def _named(values: Mapping[int, Value | None]) -> dict[str, Value | None]:
    return {f"M={retries}": value for retries, value in values.items()}


def _above_one(runs: Runs, task: str, metric: str, reduce: Callable[[Run, str], float]) -> Judgement:
    values = _by_retries(runs, task, metric, reduce)
    one = values[1]
    pairs = [(value, one) for retries, value in values.items() if retries > 1 and value and one]
    return _judge_pairs(_named(values), pairs, "does not exceed")


def _rises(num_samples: int | None, sign: int = 1) -> Judge:
    """Returns a judge of whether a metric rises (or falls, with -1) from each M to the next."""

    def judge(runs: Runs, task: str, metric: str, reduce: Callable[[Run, str], float]) -> Judgement:
        values = _by_retries(runs, task, metric, reduce, num_samples)
        present = [value for value in values.values() if value is not None]
        steps = list(zip(present[1:], present, strict=False))
        if sign < 0:
            steps = [(second, first) for first, second in steps]
        return _judge_pairs(_named(values), steps, "does not exceed")

    return judge


def _above_one_at_every_epsilon(runs: Runs, task: str, metric: str, reduce: Callable[[Run, str], float]) -> Judgement:
    present = {cell.agent.get("actor_adam_epsilon") for cell in runs.on(task) if cell.num_retries is not None}
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
    return _judge_pairs(values, pairs, "does not exceed")


def _best_against(agent: str, slack: float) -> Judge:
    """Returns a judge of the best M > 1 against an agent's mean less some of its standard deviations."""

    def judge(runs: Runs, task: str, metric: str, reduce: Callable[[Run, str], float]) -> Judgement:
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
        best = max(present, key=lambda value: value.mean)
        bound = rival.mean - slack * rival.std
        comment = f"the best is {best.name}, the bound {bound:.4g}"
        if best.mean > bound or (slack and best.mean == bound):
            return Judgement(PASS, comment, [rival, *present], [(best, rival)])
        # An M that is missing could be the best one.
        verdict = NOT_ENOUGH if missing else FAIL
        return Judgement(verdict, "; ".join(filter(None, (comment, _missing(missing)))), [rival, *present], [])

    return judge


def _does_not_fall(runs: Runs, task: str, metric: str, reduce: Callable[[Run, str], float]) -> Judgement:
    values = _by_retries(runs, task, metric, reduce)
    one, eight = values[1], values[8]
    present = [value for value in values.values() if value is not None]
    if one is None or eight is None:
        missing = [f"M={retries}" for retries in (1, 8) if values[retries] is None]
        return Judgement(NOT_ENOUGH, _missing(missing), present, [])
    bound = one.mean - one.std
    comment = f"M=8 is {eight.mean / one.mean:.3g} of M=1, the bound {bound:.4g}" if one.mean else f"bound {bound:.4g}"
    return Judgement(PASS if eight.mean >= bound else FAIL, comment, present, [])


_LAST, _WHOLE = "last 10%", "whole training"
_OTHER_ENTROPIES = (("actor/gaussian_entropy", _LAST), ("eval/entropy", _LAST))
CLAIMS = (
    Claim(
        "a",
        "At epsilon 1e-8, the entropy of every M > 1 exceeds that of M = 1",
        "actor/entropy",
        _LAST,
        _OTHER_ENTROPIES,
        _above_one,
    ),
    Claim(
        "b",
        "At epsilon 1e-8, the final standard deviation of the policy rises with M",
        "actor/pre_tanh_std",
        _LAST,
        (),
        _rises(16),
    ),
    Claim(
        "c",
        "The entropy of M = 8 exceeds that of M = 1 at every epsilon",
        "actor/entropy",
        _LAST,
        _OTHER_ENTROPIES,
        _above_one_at_every_epsilon,
    ),
    Claim(
        "d (SAC)",
        "The best M > 1 is at most one standard deviation of SAC's seeds below SAC",
        "eval/return_stochastic",
        _LAST,
        (("eval/return", _LAST),),
        _best_against("sac", 1.0),
    ),
    Claim(
        "d (PPO)",
        "The best M > 1 is above PPO on most tasks",
        "eval/return_stochastic",
        _LAST,
        (("eval/return", _LAST),),
        _best_against("ppo", 0.0),
        most=True,
    ),
    Claim(
        "e",
        "The share of updates that raise sigma grows with M",
        "actor/raises_std",
        _WHOLE,
        (("actor/raises_std", _LAST),),
        _rises(16),
    ),
    Claim(
        "f (gradient)",
        "The actor's gradient norm falls with M",
        "actor/grad_norm",
        _LAST,
        (("actor/grad_norm", _WHOLE),),
        _rises(None, sign=-1),
    ),
    Claim(
        "f (update)",
        "With Adam at epsilon 1e-8 the update norm does not fall with M: that of M = 8 is at most one standard "
        "deviation of M = 1's seeds below that of M = 1",
        "actor/update_norm",
        _LAST,
        (("actor/update_norm", _WHOLE),),
        _does_not_fall,
    ),
)


if __name__ == "__main__":
    exit_with(main)
