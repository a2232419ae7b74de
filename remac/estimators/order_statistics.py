"""L-statistics of a group of samples, as unbiased and differentiable batch values.

The objective is J_alpha = E[sum_j alpha_j R_(j:K)]: K retries are drawn, sorted ascending, and weighted by
rank. `max` has alpha = (0, ..., 0, 1), the mean has alpha = 1/K. From N >= K samples its unbiased estimate of
least variance averages over all K-subsets, which is again an L-statistic, with N rank weights (Nishimori and
Parmas, 2026, arXiv:2606.05888, for the maximum; Parmas et al., 2026, arXiv:2606.06096, for general alpha).

All ranks are 1-based and ascending in formulas (rank 1 is the smallest), ties are broken by position (the
earlier sample has the lower rank), and weights are computed once in float64 with NumPy, outside any traced
code.
"""

import ast
import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from remac.validation import InvalidValueError, require_int

Objective = str | Sequence[float] | np.ndarray | jax.Array
"""A preset such as ``"max"`` or ``"top_mean:2"``, or K finite weights over ascending ranks."""

# Pairwise comparison costs N^2 but vectorises; a sort does not. On a 2-core CPU the comparison is 10 to 20
# times faster at N = 8 to 32, 4 times at 256, twice at 512, and level at 1,024.
_PAIRWISE_LIMIT = 512
# XLA keeps the comparisons in registers in reductions over at most 32; over more it writes all pairs to
# memory.
_PAIRWISE_BLOCK = 32
# Up to this many terms per rank weight, exact integers cost milliseconds; above, see `_subset_weights_dense`.
_EXACT_TERMS = 16
_EXACT_SIZE = 4096


def lstat_weights(objective: Objective, k: int) -> np.ndarray:
    """Returns the weights alpha of an L-statistic of k samples, over ascending ranks.

    Presets (``m`` and ``r`` integers, ``q``, ``lo`` and ``hi`` in [0, 1]): ``max``, ``min``, ``mean``,
    ``median``, ``rank:r`` (the r-th from the top), ``top_mean:m``, ``bottom_mean:m``, ``mid_range:m``,
    ``trimmed_mean:m``, ``winsorized_mean:m``, ``upper_tail_mean:q``, ``lower_tail_mean:q`` (``cvar:q`` is the
    same), ``upper_range_mean:lo:hi``, ``lower_range_mean:lo:hi``, ``quantile:q`` (Hazen; ``var:q`` is the
    same), ``quantile_weibull:q``, ``quantile_blom:q``, ``harrell_davis:q`` (Harrell and Davis, 1982),
    ``gini_mean_difference`` and ``l_moment:r`` (unbiased sample L-moments: Hosking, 1990).

    Args:
        objective: A preset, or k finite weights, which need not sum to one and may be text:
            ``"[0, 0.5, 0.5]"``.
        k: Number of retries, a positive integer.

    Returns:
        Weights over ascending ranks, float64 `[k]`.

    Raises:
        InvalidValueError: On an unknown preset, a wrong number of parameters, a parameter out of range, a
            weight that is not finite, a wrong number of weights, or a k that is not a positive integer.
    """
    return _lstat_weights(canonical_objective(objective), check_num_retries(k)).copy()


def rank_weights(objective: Objective, k: int, n: int) -> np.ndarray:
    """Returns the n rank weights of the average over all k-subsets of n samples.

    w = W alpha with W_{m,j} = C(m-1, j-1) C(n-m, k-j) / C(n, k), so that sum_m w_m R_(m) is the unbiased
    estimate of J_alpha (arXiv:2606.06096; for the maximum, w_m = C(m-1, k-1) / C(n, k): arXiv:2606.05888).
    Binomials are exact integers or products of ratios, never lgamma, which is off by 1e-11 at n = 4,096.

    Args:
        objective: As for `lstat_weights`.
        k: Number of retries, a positive integer.
        n: Number of samples, at least k.

    Returns:
        Weights over ascending ranks, float64 `[n]`; they sum to the sum of `lstat_weights(objective, k)`.

    Raises:
        InvalidValueError: As `lstat_weights`; also if k > n, or n is not a positive integer.
    """
    require_int("n", n, 1)
    k = check_num_retries(k, num_samples=n)
    return _rank_weights(canonical_objective(objective), k, int(n)).copy()


def lstat(values: Array, weights: Array | np.ndarray, axis: int = -1) -> Array:
    """Computes sum_m weights_m values_(m), differentiable in the values.

    Each sample's weight is a constant found from its rank, so value and gradient are those of the sorted sum
    (the permutation is locally constant), and no values are sorted (arXiv:2606.05888; arXiv:2606.06096).

    A NaN anywhere in a group makes the value and the gradients of that group NaN. Infinities count as what
    they are, the largest and smallest of values: a sample whose weight is exactly zero does not count (so the
    maximum of (-inf, 0, 1) is 1), an infinite sample with a weight makes the value infinite, and two that
    oppose make it NaN.

    Args:
        values: Samples, `[..., N, ...]` with N on `axis`.
        weights: Rank weights over ascending ranks, `[N]`. May be traced (vmapped over, for instance). Treated
            as constant: no gradient flows to the weights.
        axis: The axis of the samples.

    Returns:
        The values without `axis`, `[...]`, in the (floating) type of `values`.

    Raises:
        InvalidValueError: If the weights are not a vector as long as that axis, or if that axis is empty.
    """
    values = as_floating(values)
    sample = sample_weights(values, weights, axis)
    # 0 * inf would be NaN. The weight of a group with a NaN is NaN, not zero, so NaN is not lost here.
    return jnp.sum(jnp.where(sample == 0, jnp.zeros_like(values), sample * values), axis=axis)


def max_at_k(values: Array, k: int, axis: int = -1) -> Array:
    """Computes the unbiased estimate of E[max of k samples] from N >= k samples.

    sum_m C(m-1, k-1) / C(N, k) values_(m) (arXiv:2606.05888), differentiable as `lstat` is.

    Args:
        values: Samples, `[..., N, ...]` with N on `axis`.
        k: Number of retries, 1 <= k <= N.
        axis: The axis of the samples.

    Returns:
        The estimate for each group, `[...]`.

    Raises:
        InvalidValueError: If k is not an integer in 1..N, or the axis is empty.
    """
    values = as_floating(values)
    return lstat(values, rank_weights("max", k, _group_size(values, axis)), axis)


def sample_weights(values: Array, weights: Array | np.ndarray, axis: int = -1) -> Array:
    """Returns the weight of each sample, weights[rank of the sample], without gradients.

    Args:
        values: Samples, `[..., N, ...]` with N on `axis`.
        weights: Rank weights over ascending ranks, `[N]`; may be traced.
        axis: The axis of the samples.

    Returns:
        Weights in the shape and type of `values`; NaN for every sample of a group that has a NaN in it.

    Raises:
        InvalidValueError: If the weights are not a vector as long as that axis, or if that axis is empty.
    """
    values = lax.stop_gradient(as_floating(values))
    n = _group_size(values, axis)
    if np.shape(weights) != (n,):
        raise InvalidValueError("weights", f"shape {np.shape(weights)}", f"must have the shape ({n},)")
    by_rank = lax.stop_gradient(jnp.asarray(weights, values.dtype))
    last = jnp.moveaxis(values, axis, -1)
    by_size = _weights_by_comparison if n <= _PAIRWISE_LIMIT else _weights_by_sort
    chosen = by_size(last, by_rank)
    # A NaN has no rank, and comparisons with it are false: what they say about the others is worthless too.
    has_nan = jnp.any(jnp.isnan(last), axis=-1, keepdims=True)
    return jnp.moveaxis(jnp.where(has_nan, jnp.nan, chosen), -1, axis)


def check_num_retries(k: int, *, num_samples: int | None = None) -> int:
    """Returns k as a Python int, or says why it is not a number of retries.

    Args:
        k: Number of retries.
        num_samples: If given, the N that k may not exceed.

    Raises:
        InvalidValueError: If k is not an integer, not positive, or above num_samples.
    """
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, (int, np.integer)):
        if isinstance(k, (float, np.floating)):
            raise InvalidValueError(
                "k",
                k,
                "must be a positive integer (real K is only defined for the maximum: see remac.estimators.exact)",
            )
        raise InvalidValueError("k", k, "must be a positive integer, known before tracing")
    if k < 1:
        raise InvalidValueError("k", k, "must be a positive integer")
    if num_samples is not None and k > num_samples:
        raise InvalidValueError("k", k, f"must be at most the number of samples, n={num_samples}")
    return int(k)


def canonical_objective(objective: Objective) -> str | tuple[float, ...]:
    """Returns an objective in a form that can be hashed: the preset as text, or a tuple of weights.

    Args:
        objective: A preset, or weights over ascending ranks, or such weights as text (``"[0, 0.5, 0.5]"``).

    Raises:
        InvalidValueError: If it is neither text nor a vector of finite numbers. Preset names are checked
            later.
    """
    if isinstance(objective, str):
        text = objective.strip()
        if not text.startswith(("[", "(")):
            return text
        try:
            objective = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise InvalidValueError("objective", text, "must be a list of finite numbers") from None
    if isinstance(objective, jax.core.Tracer):
        raise InvalidValueError("objective", objective, "must be known before tracing")
    try:
        # `list` first: sequence types of configuration libraries are not lists, and NumPy would wrap them
        # whole.
        weights = np.asarray(list(objective), dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidValueError("objective", objective, "must be a preset or a vector of finite weights") from None
    if weights.ndim != 1 or weights.size == 0 or not np.all(np.isfinite(weights)):
        raise InvalidValueError("objective", objective, "must be a vector of finite numbers")
    return tuple(weights.tolist())


# --- ranks ----------------------------------------------------------------------------------------


def as_floating(values: Any) -> Array:
    """Returns values as an array; whole numbers and truth values become floating ones."""
    values = jnp.asarray(values)
    return values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(jnp.result_type(float))


def _group_size(values: Array, axis: int) -> int:
    if not -values.ndim <= axis < values.ndim:
        raise InvalidValueError("axis", axis, f"must be an axis of values, which have shape {values.shape}")
    if values.shape[axis] == 0:
        raise InvalidValueError("values", f"shape {values.shape}", "must hold at least one sample")
    return values.shape[axis]


def _weights_by_comparison(values: Array, weights: Array) -> Array:
    """Looks up weights `[N]` by the rank of each of `values [..., N]`, found by counting smaller samples."""
    chex.assert_rank(weights, 1)
    n, axis = values.shape[-1], values.ndim - 1
    ranks = jnp.zeros(values.shape, jnp.int32)
    own = jnp.expand_dims(values, -2)
    for start in range(0, n, _PAIRWISE_BLOCK):
        # Counting over the axis before the last keeps the inner loop on contiguous samples.
        others = jnp.expand_dims(values[..., start : start + _PAIRWISE_BLOCK], -1)
        shape = (1,) * axis + (others.shape[-2], n)
        earlier = lax.broadcasted_iota(jnp.int32, shape, axis) + start < lax.broadcasted_iota(
            jnp.int32, shape, axis + 1
        )
        below = jnp.where(earlier, others <= own, others < own)
        ranks = ranks + jnp.sum(below, axis=-2, dtype=jnp.int32)
    return weights[ranks]


def _weights_by_sort(values: Array, weights: Array) -> Array:
    """Like `_weights_by_comparison`, in O(N log N) time and O(N) memory per group."""
    chex.assert_rank(weights, 1)
    order = jnp.argsort(values, axis=-1, stable=True)
    by_rank = jnp.broadcast_to(weights.reshape((1,) * (values.ndim - 1) + weights.shape), values.shape)
    return jnp.put_along_axis(jnp.zeros_like(values), order, by_rank, axis=-1, inplace=False)


# --- weights over the ranks of n samples ----------------------------------------------------------


# Presets that are averages over smaller subsets: averaging those of all k-subsets of n gives the same preset
# of n.
_SUBSET_AVERAGES = ("mean", "gini_mean_difference", "l_moment")


@functools.lru_cache(maxsize=1024)
def _rank_weights(objective: str | tuple[float, ...], k: int, n: int) -> np.ndarray:
    alpha = _lstat_weights(objective, k)
    if k == n:
        return alpha
    if isinstance(objective, str) and objective.split(":")[0] in _SUBSET_AVERAGES:
        return _lstat_weights(objective, n)
    if np.count_nonzero(alpha) <= _EXACT_TERMS or k * n <= _EXACT_SIZE:
        return _subset_weights_exact(alpha, n)
    return _subset_weights_dense(alpha, n)


def _subset_weights_exact(alpha: np.ndarray, n: int) -> np.ndarray:
    """Computes W alpha with each W_{m,j} rounded once, from exact integers."""
    k = alpha.size
    total = math.comb(n, k)
    ranks = [int(j) for j in np.flatnonzero(alpha) + 1]
    columns = []
    for j in ranks:
        below, above = binomials(n - 1, j - 1), binomials(n - 1, k - j)
        # Division of Python integers rounds correctly, whatever their size.
        columns.append([below[m] * above[n - 1 - m] / total for m in range(n)])
    chosen = alpha[np.asarray(ranks, int) - 1].tolist()
    return np.asarray([math.fsum(a * column[m] for a, column in zip(chosen, columns, strict=True)) for m in range(n)])


def binomials(largest: int, r: int) -> list[int]:
    """Returns C(m, r) for m = 0..largest, as exact integers, each from the one before.

    Args:
        largest: The largest m.
        r: Size of the subsets, at least 0.

    Returns:
        largest + 1 integers; much faster than as many calls of math.comb.
    """
    values = [0] * min(r, largest + 1)
    if r <= largest:
        values.append(1)
        for m in range(r + 1, largest + 1):
            values.append(values[-1] * m // (m - r))
    return values


def _subset_weights_dense(alpha: np.ndarray, n: int) -> np.ndarray:
    """Computes W alpha for many ranks, in O(n k) time, a block of rows of W at a time.

    Row m of W is, up to its sum k/n, a hypergeometric distribution in j. It is built by multiplying ratios of
    neighbours outwards from its mode, so that entries of any weight are few products away from one.
    """
    k = alpha.size
    j = np.arange(1, k)
    weights = np.empty(n)
    block = max(1, 2**19 // k)
    for start in range(0, n, block):
        m = np.arange(start + 1, min(start + block, n) + 1)[:, None]
        # W_{m,j+1} / W_{m,j}, zero beyond either end of the support (where W is zero).
        up = (np.maximum(m - j, 0) * (k - j)).astype(np.float64)
        down = (np.maximum(n - m - k + j + 1, 0) * j).astype(np.float64)
        rising = np.ones((m.size, k))
        falling = np.ones((m.size, k))
        with np.errstate(divide="ignore", under="ignore"):
            np.cumprod(np.minimum(up / down, 1.0), axis=1, out=rising[:, 1:])
            falling[:, :-1] = np.cumprod(np.minimum(down / up, 1.0)[:, ::-1], axis=1)[:, ::-1]
            row = rising * falling
        weights[m[:, 0] - 1] = (row * alpha).sum(axis=1) / row.sum(axis=1) * (k / n)
    return weights


# --- presets --------------------------------------------------------------------------------------


class _Preset(NamedTuple):
    """A named family of weights.

    Attributes:
        parameters: Names of the parameters; integers are ``m`` and ``r``, the others are fractions.
        weights: Makes the weights from k and the parameters, or raises ValueError with the allowed range.
    """

    parameters: tuple[str, ...]
    weights: Callable[..., np.ndarray]


_INTEGER_PARAMETERS = ("m", "r")


@functools.lru_cache(maxsize=1024)
def _lstat_weights(objective: str | tuple[float, ...], k: int) -> np.ndarray:
    if not isinstance(objective, str):
        if len(objective) != k:
            raise InvalidValueError("objective", list(objective), f"needs {k} weights, one per retry")
        return np.asarray(objective)
    name, *texts = (part.strip() for part in objective.split(":"))
    if name not in _PRESETS:
        forms = sorted(":".join((known, *preset.parameters)) for known, preset in _PRESETS.items())
        raise InvalidValueError("objective", objective, f"unknown; there are {', '.join(forms)}")
    preset = _PRESETS[name]
    form = ":".join((name, *preset.parameters))
    if len(texts) != len(preset.parameters):
        raise InvalidValueError("objective", objective, f"must have the form {form}")
    try:
        arguments = [
            _integer(symbol, text) if symbol in _INTEGER_PARAMETERS else _fraction(symbol, text)
            for symbol, text in zip(preset.parameters, texts, strict=True)
        ]
        return preset.weights(k, *arguments)
    except InvalidValueError:
        raise
    except ValueError as error:
        raise InvalidValueError("objective", objective, f"{form} needs {error}") from None


def _integer(symbol: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"an integer {symbol}") from None


def _fraction(symbol: str, text: str) -> Fraction:
    """Reads a decimal number in [0, 1] exactly, so that ceil(0.07 * 100) is 7 and not 8."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"{symbol} between 0 and 1")
    return Fraction(repr(value))


def _between(symbol: str, value: int, low: int, high: int, k: int) -> None:
    if not low <= value <= high:
        # An empty range means that this k is too small for the preset.
        raise ValueError(f"{symbol} between {low} and {high} when k={k}" if low <= high else f"a k above {k}")


def _uniform(k: int, first: int, last: int) -> np.ndarray:
    """Returns equal weights on ascending ranks first..last."""
    weights = np.zeros(k)
    weights[first - 1 : last] = 1.0 / (last - first + 1)
    return weights


def _rank(k: int, r: int) -> np.ndarray:
    _between("r", r, 1, k, k)
    return _uniform(k, k + 1 - r, k + 1 - r)


def _top_mean(k: int, m: int) -> np.ndarray:
    _between("m", m, 1, k, k)
    return _uniform(k, k - m + 1, k)


def _mid_range(k: int, m: int) -> np.ndarray:
    return (_top_mean(k, m) + _top_mean(k, m)[::-1]) / 2


def _trimmed_mean(k: int, m: int) -> np.ndarray:
    _between("m", m, 0, (k - 1) // 2, k)
    return _uniform(k, m + 1, k - m)


def _winsorized_mean(k: int, m: int) -> np.ndarray:
    _between("m", m, 0, (k - 1) // 2, k)
    weights = np.zeros(k)
    weights[m : k - m] = 1.0 / k
    weights[m] += m / k
    weights[k - m - 1] += m / k
    return weights


def _upper_tail_mean(k: int, q: Fraction) -> np.ndarray:
    return _top_mean(k, max(1, math.ceil(q * k)))


def _lower_range_mean(k: int, lo: Fraction, hi: Fraction) -> np.ndarray:
    if lo >= hi:
        raise ValueError("lo below hi")
    return _uniform(k, math.floor(lo * k) + 1, math.ceil(hi * k))


def _quantile(k: int, q: Fraction, c: Fraction) -> np.ndarray:
    """Interpolates between the two ranks around position q (k + 1 - 2c) + c (Hyndman and Fan, 1996)."""
    position = min(max(q * (k + 1 - 2 * c) + c, Fraction(1)), Fraction(k))
    below = math.floor(position)
    weights = np.zeros(k)
    weights[below - 1] = float(below + 1 - position)
    if below < k:
        weights[below] = float(position - below)
    return weights


def _harrell_davis(k: int, q: Fraction) -> np.ndarray:
    """I_{j/k}(a, b) - I_{(j-1)/k}(a, b), a = (k+1) q, b = (k+1)(1-q) (Harrell and Davis, 1982)."""
    if q in (0, 1):
        # The limit of a point mass: a Beta distribution with a zero parameter has no density.
        return _rank(k, k if q == 0 else 1)
    a, b = float((k + 1) * q), float((k + 1) * (1 - q))
    edges = np.arange(k + 1) / k
    from scipy.special import betainc, betaincc  # takes a third of a second, and is rarely needed

    below, above = betainc(a, b, edges), betaincc(a, b, edges)
    # Differences of the smaller tail do not cancel.
    return np.where(below[1:] < 0.5, np.diff(below), -np.diff(above))


def _gini_mean_difference(k: int) -> np.ndarray:
    if k < 2:
        raise ValueError("a k of at least 2")
    return 2.0 * (2 * np.arange(1, k + 1) - (k + 1)) / (k * (k - 1))


def _l_moment(k: int, r: int) -> np.ndarray:
    """Averages (1/r) sum_p (-1)^p C(r-1, p) R_(r-p:r) over r-subsets: the sample L-moment (Hosking, 1990)."""
    _between("r", r, 1, k, k)
    signs = [(-1) ** (r - j) * math.comb(r - 1, j - 1) for j in range(1, r + 1)]
    tables = [binomials(k - 1, j) for j in range(r)]
    total = r * math.comb(k, r)

    def weight(m: int) -> float:
        # Alternating sums cancel: integers do not.
        return sum(signs[j] * tables[j][m] * tables[r - 1 - j][k - 1 - m] for j in range(r)) / total

    return np.asarray([weight(m) for m in range(k)])


_PRESETS: dict[str, _Preset] = {
    "max": _Preset((), lambda k: _rank(k, 1)),
    "min": _Preset((), lambda k: _rank(k, k)),
    "mean": _Preset((), lambda k: _uniform(k, 1, k)),
    "rank": _Preset(("r",), _rank),
    "median": _Preset((), lambda k: _uniform(k, (k + 1) // 2, k // 2 + 1)),
    "top_mean": _Preset(("m",), _top_mean),
    "bottom_mean": _Preset(("m",), lambda k, m: _top_mean(k, m)[::-1]),
    "mid_range": _Preset(("m",), _mid_range),
    "trimmed_mean": _Preset(("m",), _trimmed_mean),
    "winsorized_mean": _Preset(("m",), _winsorized_mean),
    "upper_tail_mean": _Preset(("q",), _upper_tail_mean),
    "lower_tail_mean": _Preset(("q",), lambda k, q: _upper_tail_mean(k, q)[::-1]),
    "cvar": _Preset(("q",), lambda k, q: _upper_tail_mean(k, q)[::-1]),
    "upper_range_mean": _Preset(("lo", "hi"), lambda k, lo, hi: _lower_range_mean(k, lo, hi)[::-1]),
    "lower_range_mean": _Preset(("lo", "hi"), _lower_range_mean),
    "quantile": _Preset(("q",), lambda k, q: _quantile(k, q, Fraction(1, 2))),
    "var": _Preset(("q",), lambda k, q: _quantile(k, q, Fraction(1, 2))),
    "quantile_weibull": _Preset(("q",), lambda k, q: _quantile(k, q, Fraction(0))),
    "quantile_blom": _Preset(("q",), lambda k, q: _quantile(k, q, Fraction(3, 8))),
    "harrell_davis": _Preset(("q",), _harrell_davis),
    "gini_mean_difference": _Preset((), _gini_mean_difference),
    "l_moment": _Preset(("r",), _l_moment),
}
