"""Score-function (likelihood-ratio) advantages of L-statistics, and the published max@K estimators.

Everything works on the last axis (N samples of one group), with any leading axes, and costs one sort and two
prefix sums per group.

The form that is computed differs from the one in the papers. With the gaps d_m = R_(m+1) - R_(m) and w' the
rank weights of K-subsets of N-1 samples, the advantage of the sample at rank t is

    a_t = (1/K) (sum_{m<t} m w'_m d_m - sum_{m>=t} (N-m) w'_m d_m).

Proof: an L-statistic of a set S is sum_j alpha_j R_(1) + sum_m d_m A(c_m), with c_m the number of elements of
S of rank m or less and A(c) = sum_{j>c} alpha_j. Draw K-1 others, then either the sample at rank t or one
more of the others: c_m is the same, or differs by one, and A then differs by one alpha; counting gives w'.
The definition q_t - v^(-t) subtracts numbers as large as the rewards. Here rewards enter as differences only,
and for alpha >= 0 both sums have terms of one sign and are at most the advantage of the largest sample and
minus that of the smallest: the error is a few roundings of the largest advantage, whatever is added to all
rewards.

Rewards are data. A group with a NaN or an infinity in it is refused where its values are known, and gives NaN
for the whole group where they are traced.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from remac.estimators.order_statistics import (
    Objective,
    as_floating,
    binomials,
    check_num_retries,
    lstat_weights,
    rank_weights,
)
from remac.validation import InvalidValueError


def include_one(rewards: Array, objective: Objective, k: int) -> Array:
    """Computes the mean L-statistic over the k-subsets that contain a sample, for each sample.

    q_t = sum_j alpha_j q_{t,j} (Parmas et al., 2026, arXiv:2606.06096), from v = (K/N) q_t + (1-K/N) v^(-t)
    as q_t = v + (1-K/N) a_t.

    Args:
        rewards: `[..., N]`.
        objective: A preset or k weights, see `remac.estimators.order_statistics.lstat_weights`.
        k: Number of retries, 1 <= k <= N.

    Returns:
        Values in the order of the samples, `[..., N]`.

    Raises:
        InvalidValueError: On a bad objective, k > N, an empty group, or rewards known to be not finite.
    """
    rewards = check_samples("rewards", rewards)
    n = rewards.shape[-1]
    check_num_retries(k, num_samples=n)
    group = SortedGroup(rewards)
    value = _batch_value(group, objective, k)
    if k == n:
        return jnp.broadcast_to(value, rewards.shape)
    return value + (1 - k / n) * _lstat_advantage(group, objective, k)


def leave_one_out(rewards: Array, objective: Objective, k: int) -> Array:
    """Computes the mean L-statistic over the k-subsets that leave a sample out, for each sample.

    v^(-t): the batch value of the N-1 other samples (arXiv:2606.06096), from v = (K/N) q_t + (1-K/N) v^(-t)
    as v^(-t) = v - (K/N) a_t.

    Args:
        rewards: `[..., N]`.
        objective: A preset or k weights, see `remac.estimators.order_statistics.lstat_weights`.
        k: Number of retries, 1 <= k < N.

    Returns:
        Values in the order of the samples, `[..., N]`.

    Raises:
        InvalidValueError: On a bad objective, k >= N, an empty group, or rewards known to be not finite.
    """
    rewards = check_samples("rewards", rewards)
    n = rewards.shape[-1]
    require_below(k, n)
    group = SortedGroup(rewards)
    return _batch_value(group, objective, k) - (k / n) * _lstat_advantage(group, objective, k)


def lstat_advantage(rewards: Array, objective: Objective, k: int) -> Array:
    """Computes the leave-one-out advantage of each sample for an L-statistic.

    a_t = q_t - v^(-t) (arXiv:2606.06096), so that (K/N) sum_i a_i grad log p_i is an unbiased estimate of
    grad J_alpha. They sum to zero over the group. With k = 1 it is REINFORCE leave-one-out (Kool et al.,
    2019).

    Note: computed in the form that the module's docstring derives.

    Args:
        rewards: `[..., N]`.
        objective: A preset or k weights, see `remac.estimators.order_statistics.lstat_weights`.
        k: Number of retries, 1 <= k < N.

    Returns:
        Advantages in the order of the samples, `[..., N]`.

    Raises:
        InvalidValueError: On a bad objective, k >= N, an empty group, or rewards known to be not finite.
    """
    rewards = check_samples("rewards", rewards)
    require_below(k, rewards.shape[-1])
    return _lstat_advantage(SortedGroup(rewards), objective, k)


def expected_improvement(rewards: Array, k: int) -> Array:
    """Computes how much each sample is expected to improve on the maximum of k-1 others.

    S_i = E (R_i - max R_T)_+ over the (K-1)-subsets T of the others (Takashiro et al., 2026,
    arXiv:2606.06080), here as sum_{m<t} d_m C(m, K-1) / C(N-1, K-1) over the gaps d_m below the rank t of the
    sample.

    Note: for k = 1 the maximum over nothing counts as 0, without the positive part: S_i = R_i.

    Args:
        rewards: `[..., N]`.
        k: Number of retries, 1 <= k <= N.

    Returns:
        Improvements in the order of the samples, `[..., N]`; not negative for k > 1.

    Raises:
        InvalidValueError: If k > N, on an empty group, or on rewards known to be not finite.
    """
    rewards = check_samples("rewards", rewards)
    n = rewards.shape[-1]
    check_num_retries(k, num_samples=n)
    group = SortedGroup(rewards)
    below = _subset_probabilities(np.arange(1, n), k - 1, n - 1)
    return _improvement(group, below, np.zeros(n - 1), k)


def leave_two_out_baseline(rewards: Array, k: int) -> Array:
    """Computes MaxPO's baseline: the mean expected improvement of the others, a sample left out.

    b_i = 1/(N-1) sum_{j != i} E (R_j - max R_T)_+ over the (K-1)-subsets T of the samples without i and j
    (arXiv:2606.06080). Over gaps, with t the rank of sample i:
    b_i = (sum_{m<t} d_m (N-m-1) C(m, K-1) + sum_{m>=t} d_m (N-m) C(m-1, K-1)) / ((N-1) C(N-2, K-1)).

    Note: for k = 1 it is the mean of the others, see `expected_improvement`.

    Args:
        rewards: `[..., N]`.
        k: Number of retries, 1 <= k < N.

    Returns:
        Baselines in the order of the samples, `[..., N]`.

    Raises:
        InvalidValueError: If k >= N, on an empty group, or on rewards known to be not finite.
    """
    rewards = check_samples("rewards", rewards)
    n = rewards.shape[-1]
    require_below(k, n)
    # The share of the other samples that lie above gap m, when the sample left out lies above (below) it.
    # C(m, K-1) at m = N-1 would exceed the number of subsets, and its share is zero.
    m = np.arange(1, n)
    below = (n - m - 1) / (n - 1) * _subset_probabilities(np.append(m[:-1], 0), k - 1, n - 2)
    above = (n - m) / (n - 1) * _subset_probabilities(m - 1, k - 1, n - 2)
    return _improvement(SortedGroup(rewards), below, above, k)


def maxpo_advantage(rewards: Array, k: int) -> Array:
    """Computes MaxPO's advantage S_i - b_i (arXiv:2606.06080).

    It equals the leave-one-out advantage of max@K, q_i - v^(-i), ties included, and is computed as that: as
    the difference of `expected_improvement` and `leave_two_out_baseline` it would cancel.

    Args:
        rewards: `[..., N]`.
        k: Number of retries, 1 <= k < N.

    Returns:
        Advantages in the order of the samples, `[..., N]`; (K/N) sum_i A_i grad log p_i is unbiased.

    Raises:
        InvalidValueError: If k >= N, on an empty group, or on rewards known to be not finite.
    """
    return lstat_advantage(rewards, "max", k)


def pkpo(
    rewards: Array,
    k: int,
    baseline: Literal["none", "leave_one_out", "leave_one_out_minus_one"] = "leave_one_out_minus_one",
) -> Array:
    """Computes the max@K coefficients of grad log p_i of PKPO (Walder and Karkhanis, 2025, arXiv:2505.15201).

    All are unbiased when summed over the batch, without any further factor; none of them sums to zero:
    `none`: (K/N) q_i; `leave_one_out`: (K/N) q_i - K/(N-1) v^(-i)_K; `leave_one_out_minus_one`: (K/N) S_i,
    with S_i of `expected_improvement`.

    Args:
        rewards: `[..., N]`.
        k: Number of retries, 1 <= k <= N, and k < N for `leave_one_out`.
        baseline: Which of the three.

    Returns:
        Coefficients in the order of the samples, `[..., N]`.

    Raises:
        InvalidValueError: On an unknown baseline, k out of range, an empty group, or rewards known to be not
            finite.
    """
    rewards = check_samples("rewards", rewards)
    n = rewards.shape[-1]
    if baseline == "none":
        return (k / n) * include_one(rewards, "max", k)
    if baseline == "leave_one_out":
        without = leave_one_out(rewards, "max", k)
        return (k / n) * include_one(rewards, "max", k) - (k / (n - 1)) * without
    if baseline == "leave_one_out_minus_one":
        return (k / n) * expected_improvement(rewards, k)
    raise InvalidValueError("baseline", baseline, "must be one of none, leave_one_out, leave_one_out_minus_one")


def score_coefficients(rewards: Array, weights: Array) -> Array:
    """Computes the coefficient (K/N) a_i of grad log p_i from weights that may be traced.

    Args:
        rewards: `[..., N]`, of any type; a group with a value that is not finite gives NaN.
        weights: Rank weights of K-subsets of N-1 samples, `rank_weights(objective, K, N-1)` of
            `remac.estimators.order_statistics`, `[N-1]`.

    Returns:
        Coefficients in the order of the samples, `[..., N]`; sum_i coefficient_i grad log p_i is unbiased.

    Raises:
        InvalidValueError: If the weights are not `[N-1]`.
    """
    rewards = as_floating(rewards)
    n = rewards.shape[-1]
    if np.shape(weights) != (n - 1,):
        raise InvalidValueError("weights", f"shape {np.shape(weights)}", f"must have the shape ({n - 1},)")
    group = SortedGroup(rewards)
    below, above = (
        jnp.asarray(count, rewards.dtype) * weights / n for count in (np.arange(1, n), -np.arange(n - 1, 0, -1))
    )
    shape = (1,) * (rewards.ndim - 1) + (n - 1,)
    return group.gap_sums(below.reshape(shape), above.reshape(shape))


def score_function_loss(log_probs: Array, rewards: Array, objective: Objective, k: int) -> Array:
    """Computes a loss to be minimised, whose gradient is minus an unbiased estimate of grad J_alpha.

    loss = - mean over leading axes of (K/N) sum_i stop_gradient(a_i) log p_i (arXiv:2606.06096), a_i of
    `lstat_advantage`. Its value means nothing; no gradient flows into the rewards.

    Args:
        log_probs: log p of each sample under the policy that drew it, `[..., N]`.
        rewards: Rewards of the samples, `[..., N]`.
        objective: A preset or k weights, see `remac.estimators.order_statistics.lstat_weights`.
        k: Number of retries, 1 <= k < N.

    Returns:
        The loss, a scalar.

    Raises:
        InvalidValueError: If the shapes differ, and as `lstat_advantage` does.
    """
    if np.shape(log_probs) != np.shape(rewards):
        raise InvalidValueError(
            "log_probs", f"shape {np.shape(log_probs)}", f"must have the shape of rewards, {np.shape(rewards)}"
        )
    advantages = lax.stop_gradient(lstat_advantage(rewards, objective, k))
    return -jnp.mean(jnp.sum((k / advantages.shape[-1]) * advantages * log_probs, axis=-1))


# --- groups sorted, and sums over their gaps; also used by remac.estimators.exact ---------------------------------


class SortedGroup:
    """Groups of samples in ascending order.

    Attributes:
        order: Positions of the samples, ascending by value, ties by position, `[..., N]`.
        values: The samples in that order, `[..., N]`; all NaN where a group has a value that is not finite.
        gaps: Differences of neighbours in that order, `[..., N-1]`.
    """

    def __init__(self, values: Array) -> None:
        """Sorts the last axis of `values`."""
        self.order = jnp.argsort(lax.stop_gradient(values), axis=-1, stable=True)
        # Multiplied, not selected: the gradient of a group that is not finite has to be NaN as well.
        finite = jnp.all(jnp.isfinite(values), axis=-1, keepdims=True)
        poison = jnp.where(finite, jnp.ones((), values.dtype), jnp.nan)
        self.values = jnp.take_along_axis(values, self.order, axis=-1) * poison
        self.gaps = jnp.diff(self.values, axis=-1)

    def unsort(self, by_rank: Array) -> Array:
        """Puts `by_rank [..., N]`, in ascending order of the samples, back into the order of the samples."""
        return jnp.put_along_axis(jnp.zeros_like(by_rank), self.order, by_rank, axis=-1, inplace=False)

    def gap_sums(self, below: Array, above: Array) -> Array:
        """Computes sum_{m<t} below_m d_m + sum_{m>=t} above_m d_m, for the rank t of each sample.

        Args:
            below: Weights of the gaps below a sample, `[..., N-1]`.
            above: Weights of the gaps above a sample, `[..., N-1]`.

        Returns:
            Sums in the order of the samples, `[..., N]`.
        """
        none = jnp.zeros_like(self.values[..., :1])
        axis = self.gaps.ndim - 1
        up = jnp.concatenate([none, lax.cumsum(self.gaps * below, axis=axis)], axis=-1)
        down = jnp.concatenate([lax.cumsum(self.gaps * above, axis=axis, reverse=True), none], axis=-1)
        return self.unsort(up + down)

    def constant(self, weights: np.ndarray) -> Array:
        """Returns a vector as an array that broadcasts against the groups, in their type."""
        return jnp.asarray(weights, self.values.dtype).reshape((1,) * (self.values.ndim - 1) + (-1,))


def check_samples(name: str, values: Array) -> Array:
    """Returns values as a floating array `[..., N]`, or says what is wrong with them.

    Args:
        name: What they are, for the message.
        values: Samples.

    Raises:
        InvalidValueError: If they have no axis, if groups are empty, or if they are known to be not finite.
    """
    check_concrete(name, values, np.isfinite, "must be finite")
    values = as_floating(values)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise InvalidValueError(name, f"shape {values.shape}", "must be groups of at least one sample")
    return values


def check_concrete(name: str, values: Array, test: Callable[[np.ndarray], np.ndarray], allowed: str) -> None:
    """Raises if values that are known (not traced) fail a test.

    Args:
        name: What they are, for the message.
        values: Values, traced or not.
        test: Says for each value whether it is allowed.
        allowed: What is allowed, in words.

    Raises:
        InvalidValueError: With the first value that is not allowed.
    """
    if isinstance(values, jax.core.Tracer):
        return
    known = np.atleast_1d(np.asarray(values, np.float64))
    bad = known[~test(known)]
    if bad.size:
        raise InvalidValueError(name, float(bad.flat[0]), allowed)


def require_below(k: int, n: int) -> None:
    """Raises unless k retries are fewer than n samples."""
    if check_num_retries(k) >= n:
        raise InvalidValueError("k", k, f"must be below the number of samples, n={n}")


def _batch_value(group: SortedGroup, objective: Objective, k: int) -> Array:
    """Computes the batch value v, `[..., 1]`, with the largest sample subtracted first."""
    weights = rank_weights(objective, k, group.values.shape[-1])
    total = math.fsum(lstat_weights(objective, k))
    largest = group.values[..., -1:]
    shifted = jnp.sum(group.constant(weights) * (group.values - largest), axis=-1, keepdims=True)
    return shifted + total * largest


def _lstat_advantage(group: SortedGroup, objective: Objective, k: int) -> Array:
    n = group.values.shape[-1]
    m = np.arange(1, n)
    weights = rank_weights(objective, k, n - 1) / k
    return group.gap_sums(group.constant(m * weights), group.constant(-(n - m) * weights))


def _improvement(group: SortedGroup, below: np.ndarray, above: np.ndarray, k: int) -> Array:
    sums = group.gap_sums(group.constant(below), group.constant(above))
    return sums + group.values[..., :1] if k == 1 else sums


def _subset_probabilities(sizes: np.ndarray, k: int, n: int) -> np.ndarray:
    """Returns C(s, k) / C(n, k), the chance that a k-subset of n lies within s given ones, for sizes s."""
    table = binomials(n, k)
    # Division of Python integers rounds correctly, whatever their size.
    return np.asarray([table[s] / table[n] for s in sizes.tolist()])
