"""What each of a group's samples counts in a score-function gradient, for every published estimator in one form.

The coefficient of grad log p of the sample at rank t (ascending) is, for all of them, of the form

    c_t = first R_(1) + sum_{m<t} below_m d_m + sum_{m>=t} above_m d_m,      d_m = R_(m+1) - R_(m),

so that estimators, objectives and numbers of retries differ in numbers only, and one program computes them all. The
forms are those of `remac.estimators.advantages`, where each has its source; summed over a group of N samples

| estimator | c_t | what the sum of c_t grad log p_t estimates |
|---|---|---|
| ordergrad | (K/N) (q_t - v^(-t)), arXiv 2606.06096 | the gradient of the objective over K draws |
| maxpo | (K/N) (S_t - b_t), arXiv 2606.06080 | the gradient of max@K; equal to ordergrad with that objective |
| pkpo | (K/N) q_t, arXiv 2505.15201 | the gradient of max@K |
| pkpo_leave_one_out | (K/N) q_t - K/(N-1) v^(-t), same | the gradient of max@K |
| pkpo_leave_one_out_minus_one | (K/N) S_t, same | the gradient of max@K |
| rloo | (R_t - mean of the others) / N (Kool et al., 2019) | the gradient of the mean |
| mean | (R_t - mean) / N (Liu et al., 2025, arXiv 2503.20783) | (N-1)/N of the gradient of the mean |
| grpo | (R_t - mean) / (N std) (Shao et al., 2024, arXiv 2402.03300) | biased: the deviation is the group's own |
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from remac.estimators.advantages import SortedGroup, check_samples, require_below
from remac.estimators.order_statistics import Objective, binomials, rank_weights
from remac.validation import InvalidValueError, require_one_of

ESTIMATORS = (
    "ordergrad", "maxpo", "pkpo", "pkpo_leave_one_out", "pkpo_leave_one_out_minus_one", "rloo", "mean", "grpo",
)  # fmt: skip
UNBIASED = ESTIMATORS[:6]
_SMALLEST_STD = 1e-8


class GapWeights(NamedTuple):
    """An estimator as numbers.

    Attributes:
        below: Of the gaps below a sample, `[N-1]`.
        above: Of the gaps above a sample, `[N-1]`.
        first: Of the smallest sample.
        by_deviation: 1 if coefficients are divided by the group's standard deviation, otherwise 0.
    """

    below: Array | np.ndarray
    above: Array | np.ndarray
    first: Array | np.ndarray | float
    by_deviation: Array | np.ndarray | float


def own_objective(estimator: str) -> str:
    """Returns the objective of an estimator unless another is given."""
    return "mean" if estimator in ("rloo", "mean", "grpo") else "max"


def gap_weights(estimator: str, objective: Objective | None, k: int, n: int) -> GapWeights:
    """Returns an estimator's numbers, in float64.

    Args:
        estimator: One of ``ESTIMATORS``.
        objective: What `ordergrad` maximises, see `remac.estimators.order_statistics.lstat_weights`; None for the
            maximum. All others have their own, max@K or the mean, and take that or None.
        k: Number of retries K, 1 <= k < n.
        n: Number of samples N in a group.

    Raises:
        InvalidValueError: On an unknown estimator, an objective that it does not have, or k >= n.
    """
    require_one_of("estimator", estimator, ESTIMATORS)
    own = own_objective(estimator)
    objective = own if objective is None else objective
    if estimator != "ordergrad" and not (isinstance(objective, str) and objective == own):
        raise InvalidValueError("objective", objective, f"must be {own} or null for estimator={estimator}")
    require_below(k, n)
    m = np.arange(1, n)
    inner = rank_weights(objective, k, n - 1)  # K w'_m, of K-subsets of the others
    advantage = m * inner / n, -(n - m) * inner / n  # K/N times the leave-one-out advantage's
    if estimator in ("ordergrad", "maxpo", "rloo"):
        return GapWeights(*advantage, 0.0, 0.0)
    if estimator in ("mean", "grpo"):
        return GapWeights(m / n**2, (m - n) / n**2, 0.0, float(estimator == "grpo"))
    if estimator == "pkpo_leave_one_out_minus_one":
        subsets = binomials(n - 1, k - 1)
        below = np.asarray([k / n * (subsets[size] / subsets[n - 1]) for size in m.tolist()])
        return GapWeights(below, np.zeros(n - 1), (k == 1) / n, 0.0)
    # The batch value is the smallest sample and every gap times the weight of the ranks above it.
    value = k / n * np.cumsum(rank_weights("max", k, n)[:0:-1])[::-1]
    if estimator == "pkpo":
        below, above = (value + (1 - k / n) * part for part in advantage)
        return GapWeights(below, above, k / n, 0.0)
    # v^(-t) = v - (K/N) a_t
    rest = n / (n - 1)
    below, above = ((1 - rest) * value + (1 - k / n + rest * k / n) * part for part in advantage)
    return GapWeights(below, above, k / n - k / (n - 1), 0.0)


def group_coefficients(rewards: Array, weights: GapWeights) -> Array:
    """Computes what every sample counts.

    Args:
        rewards: `[..., N]`.
        weights: Of ``gap_weights``, known or traced.

    Returns:
        c in the order of the samples, `[..., N]`; sum_i c_i grad log p_i estimates what the module says.

    Raises:
        InvalidValueError: If the numbers of samples differ, or on rewards known to be not finite.
    """
    rewards = check_samples("rewards", rewards)
    if weights.below.shape[-1] != rewards.shape[-1] - 1:
        allowed = f"must be groups of {weights.below.shape[-1] + 1} samples"
        raise InvalidValueError("rewards", f"shape {rewards.shape}", allowed)
    group = SortedGroup(rewards)
    shape = (1,) * (rewards.ndim - 1) + (-1,)
    below, above = (jnp.asarray(part, rewards.dtype).reshape(shape) for part in weights[:2])
    sums = group.gap_sums(below, above) + weights.first * group.values[..., :1]
    shifted = group.values - group.values[..., :1]  # what all have is taken off, since it costs digits
    deviation = jnp.sqrt(jnp.mean((shifted - jnp.mean(shifted, axis=-1, keepdims=True)) ** 2, axis=-1, keepdims=True))
    return sums / jnp.where(weights.by_deviation > 0, deviation + _SMALLEST_STD, 1.0)
