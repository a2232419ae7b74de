"""Exact values and advantages of L-statistics when rewards have a known finite distribution.

As in `remac.estimators.advantages`, everything is a sum over the gaps d_t = r_(t+1) - r_(t) of the sorted rewards. With
F_t the probability of r_(t) or less and c ~ Bin(K-1, F_t),

    vbar   = r_(n) sum_j alpha_j - sum_t d_t sum_j alpha_j P(Bin(K, F_t) >= j)
    abar_b = sum_{t<b} d_t F_t g_t - sum_{t>=b} d_t (1 - F_t) g_t,    g_t = E alpha_{c+1}

which are those of Parmas et al. (2026, arXiv:2606.06096) with the cancellation done on paper. Both
expectations are polynomials in Bernstein form. 1 - F_t is summed from the top, not subtracted from one: F_t^K
needs it for large K.

Probabilities need to sum to one up to rounding, and are divided by their sum. So all values are functions of
p / sum(p), and the derivative of `expected_lstat` with respect to p_b is K abar_b.
"""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from remac.estimators.advantages import SortedGroup, check_concrete, check_samples
from remac.estimators.order_statistics import Objective, lstat_weights
from remac.validation import InvalidValueError


def expected_lstat(rewards: Array, probabilities: Array, objective: Objective, k: int) -> Array:
    """Computes J_alpha = E[sum_j alpha_j R_(j:K)] for k draws from a finite distribution.

    vbar of arXiv:2606.06096, differentiable in rewards and probabilities, to any order.

    Args:
        rewards: The reward of each atom, `[..., n]`.
        probabilities: The probability of each atom, `[..., n]`; broadcast against the rewards.
        objective: A preset or k weights, see `remac.estimators.order_statistics.lstat_weights`.
        k: Number of retries, a positive integer.

    Returns:
        The expectation, `[...]`; NaN where traced input is not valid.

    Raises:
        InvalidValueError: On a bad objective or k, an empty or mismatched shape, and, where the values are
            known, rewards that are not finite or probabilities that are negative or do not sum to one.
    """
    alpha = lstat_weights(objective, k)
    atoms = _sort_atoms(rewards, probabilities)
    # P(Bin(K, F) >= j), contracted with alpha, is the expectation of the first Bin(K, F) weights' sum.
    cumulative = tuple(np.concatenate([[0.0], np.cumsum(alpha)]).tolist())
    losses = atoms.group.gaps * _bernstein(cumulative, atoms.below, atoms.above)
    return atoms.group.values[..., -1] * math.fsum(alpha) - jnp.sum(losses, axis=-1)


def exact_advantage(rewards: Array, probabilities: Array, objective: Objective, k: int) -> Array:
    """Computes the exact advantage of each atom: its include-one value minus J_alpha.

    abar_b = sum_j alpha_j (qbar_{b,j} - vbar_j) (arXiv:2606.06096); grad J = K sum_b p_b abar_b grad log p_b
    and sum_b p_b abar_b = 0.

    Args:
        rewards: The reward of each atom, `[..., n]`.
        probabilities: The probability of each atom, `[..., n]`; broadcast against the rewards.
        objective: A preset or k weights, see `remac.estimators.order_statistics.lstat_weights`.
        k: Number of retries, a positive integer.

    Returns:
        Advantages in the order of the atoms, `[..., n]`; NaN where traced input is not valid.

    Raises:
        InvalidValueError: As `expected_lstat`.
    """
    alpha = lstat_weights(objective, k)
    atoms = _sort_atoms(rewards, probabilities)
    slope = _bernstein(tuple(alpha.tolist()), atoms.below, atoms.above)
    return atoms.group.gap_sums(atoms.below * slope, -atoms.above * slope)


def expected_max(rewards: Array, probabilities: Array, m: float | Array) -> Array:
    """Computes J_m, the expected maximum of m draws, for any real m > 0.

    J_m = r_(1) + sum_j (r_(j+1) - r_(j)) (1 - C_j)^m with r sorted descending and C_j the probability of the
    j best (Nishimori et al., 2026, arXiv:2606.00151). It agrees with max@K at integers.

    Args:
        rewards: The reward of each atom, `[..., n]`.
        probabilities: The probability of each atom, `[..., n]`; broadcast against the rewards.
        m: Number of retries, a positive real scalar; may be traced.

    Returns:
        The expectation, `[...]`; NaN where traced input is not valid.

    Raises:
        InvalidValueError: On an m known to be not positive and finite, and as `expected_lstat`.
    """
    exponent = _check_exponent(m)
    atoms = _sort_atoms(rewards, probabilities)
    exponent = exponent.astype(atoms.below.dtype)
    losses = atoms.group.gaps * _power(atoms.below, atoms.above, exponent)
    return atoms.group.values[..., -1] - jnp.sum(losses, axis=-1)


def exact_expected_improvement(rewards: Array, probabilities: Array, m: float | Array) -> Array:
    """Computes the expected improvement of each atom over m-1 draws, for any real m > 0.

    EI_m(R) = v_(1) + sum_j (v_(j+1) - v_(j)) (1 - C_j)^(m-1) with v_i = (R - r_i)_+ in descending order of r
    (arXiv:2606.00151); grad J_m = m E[EI_m(R) grad log pi].

    Note: where 1 - C_j is zero (atoms of no probability below all others), 0^(m-1) counts as zero for every
    m, its limit from above one. That moves all atoms of positive probability by one constant, which no
    gradient sees.

    Args:
        rewards: The reward of each atom, `[..., n]`.
        probabilities: The probability of each atom, `[..., n]`; broadcast against the rewards.
        m: Number of retries, a positive real scalar; may be traced.

    Returns:
        Improvements in the order of the atoms, `[..., n]`; NaN where traced input is not valid.

    Raises:
        InvalidValueError: On an m known to be not positive and finite, and as `expected_lstat`.
    """
    exponent = _check_exponent(m)
    atoms = _sort_atoms(rewards, probabilities)
    exponent = exponent.astype(atoms.below.dtype)
    present = atoms.below > 0
    below = jnp.where(present, atoms.below, jnp.ones_like(atoms.below))
    above = jnp.where(present, atoms.above, jnp.zeros_like(atoms.above))
    slope = jnp.where(present, _power(below, above, exponent - 1), jnp.zeros_like(below))
    return atoms.group.gap_sums(slope, jnp.zeros_like(slope))


class _Atoms(NamedTuple):
    """Atoms in ascending order of their rewards.

    Attributes:
        group: Sorted rewards, gaps, and the way back.
        below: F_t, probability of the atoms below each gap, `[..., n-1]`.
        above: 1 - F_t, probability of the atoms above each gap, `[..., n-1]`.
    """

    group: SortedGroup
    below: Array
    above: Array


def _sort_atoms(rewards: Array, probabilities: Array) -> _Atoms:
    rewards, probabilities = check_samples("rewards", rewards), check_samples("probabilities", probabilities)
    if rewards.shape[-1] != probabilities.shape[-1]:
        raise InvalidValueError(
            "probabilities", f"shape {probabilities.shape}", f"must be one per reward, {rewards.shape[-1]}"
        )
    check_concrete("probabilities", probabilities, lambda p: p >= 0, "must not be negative")
    dtype = jnp.result_type(rewards.dtype, probabilities.dtype)
    # Wide enough for a softmax in this precision, too narrow for a typing error.
    tolerance = 1e-8 if dtype == jnp.float64 else max(1e-4, probabilities.shape[-1] * float(jnp.finfo(dtype).eps))
    if not isinstance(probabilities, jax.core.Tracer):
        check_concrete(
            "sum of probabilities",
            np.asarray(probabilities, np.float64).sum(-1),
            lambda total: np.abs(total - 1) <= tolerance,
            f"must be one within {tolerance}",
        )
    try:
        shape = np.broadcast_shapes(rewards.shape, probabilities.shape)
    except ValueError:
        raise InvalidValueError(
            "probabilities", f"shape {probabilities.shape}", f"must broadcast against rewards {rewards.shape}"
        ) from None
    rewards = jnp.broadcast_to(rewards.astype(dtype), shape)
    probabilities = jnp.broadcast_to(probabilities.astype(dtype), shape)
    group = SortedGroup(rewards)
    total = jnp.sum(probabilities, axis=-1, keepdims=True)
    valid = jnp.all(probabilities >= 0, axis=-1, keepdims=True) & (jnp.abs(total - 1) <= tolerance)
    # Multiplied, not selected, so that gradients are NaN too. On the rewards too: a single atom has no gaps.
    poison = jnp.where(valid, jnp.ones((), dtype), jnp.nan)
    group.values, group.gaps = group.values * poison, group.gaps * poison
    ordered = jnp.take_along_axis(probabilities, group.order, axis=-1)
    axis = ordered.ndim - 1
    below = lax.cumsum(ordered[..., :-1], axis=axis)
    above = lax.cumsum(ordered[..., 1:], axis=axis, reverse=True)
    return _Atoms(group, below / (below + above), above / (below + above))


def _check_exponent(m: float | Array) -> Array:
    if not isinstance(m, jax.core.Tracer):
        if isinstance(m, bool) or not isinstance(m, (numbers.Real, np.ndarray, jax.Array)):
            raise InvalidValueError("m", m, "must be a positive real number")
        check_concrete("m", m, lambda x: np.isfinite(x) & (x > 0), "must be positive and finite")
    exponent = jnp.asarray(m, jnp.result_type(float))
    if exponent.ndim:
        raise InvalidValueError("m", f"shape {exponent.shape}", "must be a scalar")
    return jnp.where((exponent > 0) & jnp.isfinite(exponent), exponent, jnp.nan)


# --- polynomials and powers of a probability that comes with its complement ---------------------------------


def _bernstein(coefficients: tuple[float, ...], below: Array, above: Array) -> Array:
    """Computes E[coefficients_c] for c ~ Bin(len(coefficients) - 1, below), with above = 1 - below.

    Args:
        coefficients: One per outcome.
        below: Probability of success, `[...]`.
        above: Its complement, accurate on its own, `[...]`.

    Returns:
        Expectations, `[...]`.
    """
    return _bernstein_with_derivative(coefficients, below, above)


def _bernstein_value(coefficients: tuple[float, ...], below: Array, above: Array) -> Array:
    degree = len(coefficients) - 1
    c = np.arange(degree)
    shape = (1,) * below.ndim + (degree,)

    def constant(x: np.ndarray, size: int) -> Array:
        return jnp.asarray(x, below.dtype).reshape((1,) * below.ndim + (size,))

    # Probabilities as products of ratios of neighbours, outwards from the mode, then divided by their sum.
    # (Powers underflow, and logarithms lose digits: log C(1024, 512) is 708.)
    up = jnp.expand_dims(below, -1) * constant(degree - c, degree)
    down = jnp.expand_dims(above, -1) * constant(c + 1, degree)
    one = jnp.ones((*below.shape, 1), below.dtype)
    axis = len(shape) - 1
    rising = lax.cumprod(jnp.minimum(up / down, jnp.ones((), below.dtype)), axis=axis)
    falling = lax.cumprod(jnp.minimum(down / up, jnp.ones((), below.dtype)), axis=axis, reverse=True)
    weights = jnp.concatenate([one, rising], -1) * jnp.concatenate([falling, one], -1)
    weighted = jnp.sum(weights * constant(np.asarray(coefficients), degree + 1), axis=-1)
    return weighted / jnp.sum(weights, axis=-1)


_bernstein_with_derivative = jax.custom_jvp(_bernstein_value, nondiff_argnums=(0,))


@_bernstein_with_derivative.defjvp
def _bernstein_jvp(
    coefficients: tuple[float, ...], primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The derivative of a Bernstein polynomial is one of a degree less, in the differences."""
    below, above = primals
    value = _bernstein(coefficients, below, above)
    degree = len(coefficients) - 1
    if degree == 0:
        return value, jnp.zeros_like(value)
    # `above` is a function of `below`, so that its tangent says nothing new.
    slope = _bernstein(tuple((degree * np.diff(coefficients)).tolist()), below, above)
    return value, slope * tangents[0]


def _log(below: Array, above: Array) -> Array:
    """Computes log(below), accurate near one."""
    return jnp.where(above < 0.5, jnp.log1p(-jnp.minimum(above, 0.5)), jnp.log(jnp.minimum(below, 0.5)))


@jax.custom_jvp
def _power(below: Array, above: Array, exponent: Array) -> Array:
    """Computes below^exponent, with above = 1 - below; 0^0 is 1."""
    exponent = jnp.broadcast_to(exponent, below.shape)
    power = jnp.exp(exponent * _log(below, above))
    return jnp.where(exponent == 0, jnp.ones_like(power), power)


@_power.defjvp
def _power_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    below, above, exponent = primals
    value = _power(below, above, exponent)
    # x^m log x has the limit 0 at x = 0.
    at_zero = below == 0
    logarithm = jnp.where(at_zero, jnp.zeros_like(below), _log(jnp.where(at_zero, jnp.ones_like(below), below), above))
    # A constant's slope is 0, also at x = 0, where 1 / x is infinite.
    is_constant = exponent == 0
    safe = jnp.where(is_constant & at_zero, jnp.ones_like(below), below)
    slope = exponent * _power(safe, above, exponent - 1)
    return value, slope * tangents[0] + value * logarithm * tangents[2]
