"""The paper's claims, and how runs decide them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments.comparing.judgements import (
    FAIL,
    FEWEST_SEEDS,
    NOT_ENOUGH,
    PASS,
    Judge,
    Judgement,
    Reduce,
    above_one,
    above_one_at_every_epsilon,
    best_against,
    comparable,
    does_not_fall,
    rises,
)
from experiments.comparing.runs import Run, Runs

WINDOWS: dict[str, Reduce] = {"last 10%": Run.final, "whole training": Run.mean}


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


def check_all(runs: Runs) -> list[Result]:
    """Judges every claim on every task, among arms that train alike."""
    names = runs.tasks
    runs, left_out = comparable(runs)
    results = []
    for claim in CLAIMS:
        tasks = {task: claim.judge(runs, task, claim.metric, WINDOWS[claim.window]) for task in names}
        for task, note in left_out.items():
            comment = "; ".join(filter(None, (tasks[task].comment, note)))
            tasks[task] = dataclasses.replace(tasks[task], comment=comment)
        beside = {
            task: {
                (metric, window): claim.judge(runs, task, metric, WINDOWS[window]) for metric, window in claim.beside
            }
            for task in names
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
    if any(judgement.verdict == NOT_ENOUGH for result in results for judgement in result.tasks.values()):
        lines += [
            "",
            f"An arm counts with {FEWEST_SEEDS} finished seeds; its sweep's command with more seeds=[...] adds them.",
        ]
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


_LAST, _WHOLE = "last 10%", "whole training"


_OTHER_ENTROPIES = (("actor/gaussian_entropy", _LAST), ("eval/entropy", _LAST))


CLAIMS = (
    Claim(
        "a",
        "At epsilon 1e-8, the entropy of every M > 1 exceeds that of M = 1",
        "actor/entropy",
        _LAST,
        _OTHER_ENTROPIES,
        above_one,
    ),
    Claim(
        "b",
        "At epsilon 1e-8, the final standard deviation of the policy rises with M",
        "actor/pre_tanh_std",
        _LAST,
        (),
        rises(16),
    ),
    Claim(
        "c",
        "The entropy of M = 8 exceeds that of M = 1 at every epsilon",
        "actor/entropy",
        _LAST,
        _OTHER_ENTROPIES,
        above_one_at_every_epsilon,
    ),
    Claim(
        "d (SAC)",
        "The best M > 1 (for each seed that of the others) is at most one standard deviation of SAC's seeds below SAC",
        "eval/return_stochastic",
        _LAST,
        (("eval/return", _LAST),),
        best_against("sac", 1.0),
    ),
    Claim(
        "d (PPO)",
        "The best M > 1 (for each seed that of the others) is above PPO on most tasks",
        "eval/return_stochastic",
        _LAST,
        (("eval/return", _LAST),),
        best_against("ppo", 0.0),
        most=True,
    ),
    Claim(
        "e",
        "The share of updates that raise sigma grows with M",
        "actor/raises_std",
        _WHOLE,
        (("actor/raises_std", _LAST),),
        rises(16),
    ),
    Claim(
        "f (gradient)",
        "The actor's gradient norm falls with M",
        "actor/grad_norm",
        _LAST,
        (("actor/grad_norm", _WHOLE),),
        rises(None, sign=-1),
    ),
    Claim(
        "f (update)",
        "With Adam at epsilon 1e-8 the update norm does not fall with M: that of M = 8 is at most one standard "
        "deviation of M = 1's seeds below that of M = 1",
        "actor/update_norm",
        _LAST,
        (("actor/update_norm", _WHOLE),),
        does_not_fall,
    ),
)
