"""Which learning rate a tuning sweep chooses: for each task the one whose worst rank over all M is best."""

from typing import Any

import numpy as np

from experiments.comparing.runs import SAMPLED_RETURN, Cell, Runs


def learning_rates(runs: Runs) -> list[dict[str, Any]]:
    """Ranks learning rates per task, for ReMAC.

    Args:
        runs: Those of a tuning sweep.

    Returns:
        A row per task and learning rate: ``task``, ``learning_rate``, ``returns`` (M to mean final return over seeds),
        ``ranks`` (M to rank, 1 is best), ``worst`` rank, and whether it is ``chosen``: the least worst rank, then the
        least sum of ranks. A rate without finished seeds for some M, which another rate has, is not ranked.
    """
    rows = []
    for task in runs.tasks:
        cells = [cell for cell in runs.on(task) if cell.num_retries is not None and cell.by_seed(SAMPLED_RETURN)]
        retries = sorted({cell.num_retries for cell in cells if cell.num_retries is not None})
        rates = sorted({cell.agent["learning_rate"] for cell in cells})
        returns = {rate: _mean_returns(cells, rate) for rate in rates}
        complete = [rate for rate in rates if set(returns[rate]) == set(retries)]
        ranks: dict[float, dict[int, int]] = {rate: {} for rate in rates}
        for number in retries:
            for rank, rate in enumerate(sorted(complete, key=lambda rate: -returns[rate][number]), 1):
                ranks[rate][number] = rank
        best = min(complete, key=lambda rate: (max(ranks[rate].values()), sum(ranks[rate].values())), default=None)
        rows += [
            {"task": task, "learning_rate": rate, "returns": returns[rate], "ranks": ranks[rate]}
            | {"worst": max(ranks[rate].values(), default=None), "chosen": rate == best}
            for rate in rates
        ]
    return rows


def _mean_returns(cells: list[Cell], rate: float) -> dict[int, float]:
    return {
        cell.num_retries: float(np.mean(list(cell.by_seed(SAMPLED_RETURN).values())))
        for cell in cells
        if cell.agent["learning_rate"] == rate and cell.num_retries is not None
    }
