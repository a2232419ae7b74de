import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from presets import PRESETS, presets_of

from remac.estimators.order_statistics import lstat, lstat_weights, max_at_k, rank_weights, sample_weights

PRESETS_OF_4 = {  # hand-worked, ascending ranks
    "max": [0, 0, 0, 1],
    "min": [1, 0, 0, 0],
    "mean": [0.25] * 4,
    "median": [0, 0.5, 0.5, 0],
    "rank:1": [0, 0, 0, 1],
    "rank:3": [0, 1, 0, 0],
    "top_mean:2": [0, 0, 0.5, 0.5],
    "bottom_mean:1": [1, 0, 0, 0],
    "mid_range:1": [0.5, 0, 0, 0.5],
    "mid_range:3": [1 / 6, 1 / 3, 1 / 3, 1 / 6],
    "trimmed_mean:1": [0, 0.5, 0.5, 0],
    "winsorized_mean:1": [0, 0.5, 0.5, 0],
    "winsorized_mean:0": [0.25] * 4,
    "upper_tail_mean:0.3": [0, 0, 0.5, 0.5],
    "lower_tail_mean:0.25": [1, 0, 0, 0],
    "cvar:0.5": [0.5, 0.5, 0, 0],
    "cvar:0": [1, 0, 0, 0],
    "upper_range_mean:0.25:0.75": [0, 0.5, 0.5, 0],
    "lower_range_mean:0:0.3": [0.5, 0.5, 0, 0],
    "upper_range_mean:0:0.3": [0, 0, 0.5, 0.5],
    "quantile:0.5": [0, 0.5, 0.5, 0],  # position 0.5 * 4 + 0.5 = 2.5
    "quantile:0.3": [0.3, 0.7, 0, 0],  # position 1.7
    "var:0.3": [0.3, 0.7, 0, 0],
    "quantile:0": [1, 0, 0, 0],
    "quantile:1": [0, 0, 0, 1],
    "quantile_weibull:0.25": [0.75, 0.25, 0, 0],  # position 1.25
    "quantile_blom:0.5": [0, 0.5, 0.5, 0],
    "quantile_blom:0.25": [0.5625, 0.4375, 0, 0],  # position 0.25 * 4.25 + 0.375
    "harrell_davis:0": [1, 0, 0, 0],
    "harrell_davis:1": [0, 0, 0, 1],
    "gini_mean_difference": [-0.5, -1 / 6, 1 / 6, 0.5],
    "l_moment:1": [0.25] * 4,
    "l_moment:2": [-0.25, -1 / 12, 1 / 12, 0.25],
    # (x1 - 2 x2 + x3) / 3, averaged over the four subsets of three
    "l_moment:3": [0.25, -0.25, -0.25, 0.25],
    "l_moment:4": [-0.25, 0.75, -0.75, 0.25],
    "[0, 0.25, 0, 2]": [0, 0.25, 0, 2],
}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


# --- weights of the objective ---


@pytest.mark.parametrize("objective", PRESETS_OF_4)
def test_preset_weights_of_four_retries(objective):
    weights = lstat_weights(objective, 4)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, PRESETS_OF_4[objective], atol=1e-15)


def test_decimal_fractions_round_as_written():
    # 0.07 * 100 is 7.000000000000001 in floating point.
    np.testing.assert_array_equal(np.count_nonzero(lstat_weights("upper_tail_mean:0.07", 100)), 7)


def test_harrell_davis_is_the_integral_of_a_beta_density():
    # I_x(1, 1) = x for k = 1; for k = 3 and q = 1/2 the density is Beta(2, 2), I_x = 3 x^2 - 2 x^3.
    cumulative = [3 * x**2 - 2 * x**3 for x in (0, 1 / 3, 2 / 3, 1)]
    np.testing.assert_allclose(lstat_weights("harrell_davis:0.5", 3), np.diff(cumulative), rtol=1e-14)
    assert lstat_weights("harrell_davis:0.5", 1).tolist() == [1]


def test_harrell_davis_far_tail_keeps_its_relative_accuracy():
    low = lstat_weights("harrell_davis:0.3", 60)
    np.testing.assert_allclose(low, lstat_weights("harrell_davis:0.7", 60)[::-1], rtol=1e-10)
    assert (low > 0).all()


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 31])
def test_weights_of_averages_sum_to_one(k):
    for objective in PRESETS:
        assert lstat_weights(objective, k).sum() == pytest.approx(1, abs=1e-14), objective


def test_l_moments_of_a_uniform_sample_match_the_population():
    # Evenly spaced order statistics j / (k + 1) are the expectations of a uniform sample: 1/2, 1/6, 0, 0.
    k = 50
    spaced = np.arange(1, k + 1) / (k + 1)
    for r, expected in [(1, 1 / 2), (2, 1 / 6), (3, 0), (4, 0)]:
        assert lstat_weights(f"l_moment:{r}", k) @ spaced == pytest.approx(expected, abs=1e-13)
    np.testing.assert_allclose(2 * lstat_weights("l_moment:2", k), lstat_weights("gini_mean_difference", k), rtol=1e-13)


@pytest.mark.parametrize("form", [list, tuple, np.asarray, jnp.asarray, str])
def test_explicit_weights_in_any_form(form):
    assert lstat_weights(form([0.0, 0.5, 0.5]), 3).tolist() == [0, 0.5, 0.5]
    np.testing.assert_allclose(rank_weights(form([0.0, 0.5, 0.5]), 3, 5), rank_weights("top_mean:2", 3, 5))


def test_returned_weights_may_be_changed_by_the_caller():
    rank_weights("max", 3, 6)[:] = 7
    lstat_weights("max", 3)[:] = 7
    assert lstat_weights("max", 3).tolist() == [0, 0, 1]
    assert rank_weights("max", 3, 6)[-1] == 0.5


@pytest.mark.parametrize(
    ("objective", "k", "words"),
    [
        ("maximum", 4, ["maximum", "unknown", "max, mean"]),
        ("top_mean:5", 4, ["top_mean:5", "between 1 and 4"]),
        ("top_mean:0", 4, ["top_mean:0", "between 1 and 4"]),
        ("top_mean", 4, ["top_mean:m"]),
        ("max:2", 4, ["max:2"]),
        ("top_mean:two", 4, ["top_mean:two", "integer"]),
        ("top_mean:1.5", 4, ["integer"]),
        ("trimmed_mean:2", 4, ["between 0 and 1"]),
        ("winsorized_mean:-1", 4, ["between 0 and 1"]),
        ("cvar:1.5", 4, ["cvar:1.5", "between 0 and 1"]),
        ("cvar:nan", 4, ["between 0 and 1"]),
        ("quantile:-0.1", 4, ["between 0 and 1"]),
        ("upper_range_mean:0.5:0.5", 4, ["lo below hi"]),
        ("upper_range_mean:0.5", 4, ["upper_range_mean:lo:hi"]),
        ("rank:5", 4, ["between 1 and 4"]),
        ("l_moment:5", 4, ["between 1 and 4"]),
        ("gini_mean_difference", 1, ["at least 2"]),
        ([1.0, 2.0], 3, ["3 weights"]),
        ([1.0, math.nan], 2, ["finite"]),
        ([1.0, math.inf], 2, ["finite"]),
        ("[1, x]", 2, ["finite"]),
        ("[1, 2", 2, ["finite"]),
        ([[1.0, 2.0]], 2, ["vector"]),
        ([], 1, ["vector"]),
        (None, 2, ["preset"]),
        (3.0, 2, ["preset"]),
        ("max", 0, ["k=0", "positive"]),
        ("max", -1, ["k=-1", "positive"]),
        ("max", 2.5, ["k=2.5", "remac.estimators.exact"]),
        ("max", np.float64(2), ["remac.estimators.exact"]),
        ("max", "2", ["positive integer"]),
        ("max", True, ["positive integer"]),
    ],
)
def test_bad_objectives_are_refused(objective, k, words):
    with pytest.raises(ValueError) as error:
        lstat_weights(objective, k)
    for word in words:
        assert word in str(error.value)


# --- weights over the ranks of the batch ---


@pytest.mark.parametrize("n", range(1, 9))
def test_rank_weights_are_the_average_over_all_subsets(n):
    values = np.sort(np.random.default_rng(n).normal(size=n))
    for k in range(1, n + 1):
        subsets = np.asarray([values[list(c)] for c in itertools.combinations(range(n), k)])
        for objective in presets_of(k):
            expected = (subsets @ lstat_weights(objective, k)).mean()
            assert rank_weights(objective, k, n) @ values == pytest.approx(expected, abs=1e-13), (
                objective,
                k,
            )


def test_max_weights_by_hand():
    np.testing.assert_allclose(rank_weights("max", 2, 4), [0, 1 / 6, 2 / 6, 3 / 6], rtol=1e-15)
    np.testing.assert_allclose(rank_weights("max", 1, 4), [0.25] * 4)
    assert rank_weights("max", 4, 4).tolist() == [0, 0, 0, 1]


def exact_rank_weights(alpha, n):
    """W alpha by rationals, from the definition."""
    k = len(alpha)
    total = math.comb(n, k)
    return [
        sum(Fraction(float(a)) * math.comb(m - 1, j - 1) * math.comb(n - m, k - j) for j, a in enumerate(alpha, 1) if a)
        / total
        for m in range(1, n + 1)
    ]


@pytest.mark.parametrize(
    ("objective", "k", "n"),
    [
        ("max", 1024, 4096),
        ("max", 8, 4096),
        ("quantile:0.9", 1000, 2000),
        ("top_mean:30", 60, 120),
        ("harrell_davis:0.2", 40, 200),
        ("lower_tail_mean:0.5", 100, 128),
        (tuple(np.linspace(1, 2, 150).tolist()), 150, 160),
    ],
)
def test_rank_weights_against_rational_arithmetic(objective, k, n):
    exact = exact_rank_weights(lstat_weights(objective, k), n)
    actual = rank_weights(objective, k, n)
    for w, e in zip(actual, exact, strict=True):
        # Below 1e-290 neighbours of the smallest floats lose digits that no sum can see.
        assert abs(Fraction(float(w)) - e) <= Fraction(4, 10**15) * abs(e) + Fraction(1, 10**290)


@pytest.mark.parametrize("objective", ["mean", "gini_mean_difference", "l_moment:3"])
def test_averages_over_smaller_subsets_do_not_depend_on_k(objective):
    explicit = tuple(lstat_weights(objective, 40).tolist())
    np.testing.assert_allclose(rank_weights(explicit, 40, 300), rank_weights(objective, 40, 300), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n", [9, 64, 1000])
def test_rank_weights_sum_to_the_sum_of_the_objective(n):
    for k in (1, 4, n // 2, n):
        for objective in presets_of(k):
            total = lstat_weights(objective, k).sum()
            assert rank_weights(objective, k, n).sum() == pytest.approx(total, abs=1e-13)


def test_more_retries_than_samples_are_refused():
    for call in (lambda: rank_weights("max", 5, 4), lambda: max_at_k(jnp.ones(4), 5)):
        with pytest.raises(ValueError, match=r"k=5.*at most.*n=4"):
            call()


# --- values ---


def brute_force(values, objective, k):
    alpha = lstat_weights(objective, k)
    return np.mean([np.sort(c) @ alpha for c in itertools.combinations(np.asarray(values, np.float64), k)])


VALUES = {
    "distinct": [0.3, -1.2, 2.5, 0.7, -0.1, 1.9, -3.0, 0.4],
    "ties": [1.0, 0.0, 1.0, 1.0, 0.0, -2.0, 1.0, 0.0],
    "constant": [2.0] * 8,
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("n", [1, 3, 6, 8])
def test_values_against_all_subsets(kind, n, float64):
    values = VALUES[kind][:n]
    cases = [(objective, k) for k in range(1, n + 1) for objective in presets_of(k)]
    weights = jnp.asarray([rank_weights(objective, k, n) for objective, k in cases])
    actual = jax.jit(jax.vmap(lstat, in_axes=(None, 0)))(jnp.asarray(values), weights)
    assert actual.dtype == jnp.float64
    expected = [brute_force(values, objective, k) for objective, k in cases]
    np.testing.assert_allclose(actual, expected, atol=1e-13)


@pytest.mark.parametrize("n", [8, 33, 512, 513])
def test_gradient_is_the_rank_weight_of_each_sample(n):
    weights = rank_weights("top_mean:2", 4, n).astype(np.float32)
    values = np.random.default_rng(n).normal(size=(3, n)).astype(np.float32)
    values[:, n // 2] = values[:, 0]  # a tie in every group
    order = np.argsort(values, axis=-1, kind="stable")
    expected = np.empty_like(values)
    np.put_along_axis(expected, order, np.broadcast_to(weights, (3, n)), axis=-1)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda v: lstat(v, weights))))(values)
    np.testing.assert_array_equal(gradient, expected)
    np.testing.assert_allclose(value, np.sort(values, -1) @ weights, rtol=1e-5)
    if n in (8, 513):
        mapped_inside = jax.grad(lambda v: jnp.sum(jax.jit(jax.vmap(lambda x: lstat(x, weights)))(v)))(values)
        np.testing.assert_array_equal(mapped_inside, expected)
        np.testing.assert_array_equal(sample_weights(jnp.asarray(values), weights), expected)


@pytest.mark.parametrize("n", [4, 600])
def test_ties_go_to_the_earlier_sample_as_the_lower_rank(n):
    weights = np.arange(n, dtype=np.float32)
    np.testing.assert_array_equal(sample_weights(jnp.zeros(n), weights), weights)
    zeros = jnp.asarray([0.0, -0.0] * (n // 2))
    np.testing.assert_array_equal(sample_weights(zeros, weights), weights)


def test_gradient_agrees_with_finite_differences_and_with_sorting(float64):
    values, weights = jnp.asarray(VALUES["distinct"]), rank_weights("harrell_davis:0.7", 5, 8)
    check_grads(lambda v: lstat(v, weights), (values,), order=1, modes=["fwd", "rev"])
    gradient = jax.grad(lambda v: lstat(v, weights))(values)
    np.testing.assert_allclose(gradient, jax.grad(lambda v: jnp.sort(v) @ weights)(values), rtol=1e-14)


@pytest.mark.parametrize("n", [6, 600])
def test_any_axis_and_any_leading_axes(n):
    values = jnp.asarray(np.random.default_rng(n).normal(size=(2, n, 3)), jnp.float32)
    weights = rank_weights("max", 3, n)

    @jax.jit
    def along_every_axis(values):
        last = jnp.moveaxis(values, 1, -1)
        return (
            (lstat(last, weights), lstat(values, weights, axis=1), lstat(values, weights, axis=-2)),
            (sample_weights(last, weights), jnp.moveaxis(sample_weights(values, weights, axis=1), 1, -1)),
        )

    sums, samples = along_every_axis(values)
    assert sums[0].shape == (2, 3)
    for other in sums[1:]:
        np.testing.assert_array_equal(other, sums[0])
    np.testing.assert_array_equal(samples[1], samples[0])
    np.testing.assert_allclose(max_at_k(values, 3, axis=1), sums[0], rtol=1e-6)


def test_weights_may_be_traced_and_swept():
    values = jax.random.normal(jax.random.key(2), (5, 8))
    sweep = jnp.asarray(np.stack([rank_weights("max", k, 8) for k in (1, 2, 4, 8)]), jnp.float32)
    loss = jax.jit(jax.vmap(jax.value_and_grad(lambda v, w: jnp.sum(lstat(v, w))), in_axes=(None, 0)))
    swept, gradients = loss(values, sweep)
    for i, k in enumerate((1, 2, 4, 8)):
        np.testing.assert_allclose(swept[i], jnp.sum(max_at_k(values, k)), rtol=1e-6)
        np.testing.assert_allclose(gradients[i], jax.grad(lambda v, k=k: jnp.sum(max_at_k(v, k)))(values))
    np.testing.assert_array_equal(jax.grad(lambda w: jnp.sum(lstat(values, w)))(sweep[2]), np.zeros(8))


@pytest.mark.parametrize("n", [5, 600])
def test_one_retry_is_the_mean_and_all_retries_are_the_maximum(n):
    values = jax.random.normal(jax.random.key(3), (4, n))
    np.testing.assert_allclose(max_at_k(values, 1), values.mean(-1), atol=1e-6)
    np.testing.assert_array_equal(max_at_k(values, n), values.max(-1))


def test_integers_are_taken_as_floats():
    assert float(max_at_k(jnp.asarray([1, 5, 3]), 1)) == pytest.approx(3)
    assert float(max_at_k(np.asarray([1, 5, 3]), 2)) == pytest.approx((5 + 5 + 3) / 3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_type_of_the_values_is_kept(dtype):
    values = jax.ShapeDtypeStruct((2, 4), dtype)
    assert jax.eval_shape(lambda v: max_at_k(v, 2), values).dtype == dtype
    assert jax.eval_shape(jax.grad(lambda v: jnp.sum(max_at_k(v, 2))), values).dtype == dtype


# --- values that are not finite ---


@pytest.mark.parametrize("n", [6, 600])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_nan_makes_its_own_group_nan_and_no_other(n, k):
    weights = rank_weights("max", k, n)
    for position in (0, n // 2, n - 1):
        values = jax.random.normal(jax.random.key(4), (3, n)).at[1, position].set(jnp.nan)
        value, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda v: lstat(v, weights))))(values)
        np.testing.assert_array_equal(np.isnan(value), [False, True, False])
        np.testing.assert_array_equal(np.isnan(gradient), np.asarray([[False], [True], [False]]).repeat(n, 1))


@pytest.mark.parametrize("pad", [0, 600])
def test_infinities_are_the_extreme_values_they_are(pad):
    inf, zeros = math.inf, [0.0] * pad

    def value(values, objective, k):
        return float(lstat(jnp.asarray(values + zeros), rank_weights(objective, k, len(values) + pad)))

    # With k = 2 the smallest sample is never the maximum, so that one -inf does not count.
    assert value([-inf, 0.0, 0.0], "max", 2) == 0
    assert value([inf, 0.0, 0.0], "max", 2) == inf
    assert value([inf, 0.0, 0.0], "min", 2) == 0
    assert value([-inf, -inf, 0.0], "max", 2) == -inf
    assert math.isnan(value([-inf, inf, 0.0], "mean", 2))
    weights = rank_weights("max", 2, 3)
    gradient = jax.grad(lambda v: lstat(v, weights))(jnp.asarray([-inf, 0.0, 1.0]))
    np.testing.assert_allclose(gradient, [0, 1 / 3, 2 / 3], rtol=1e-6)


# --- shapes ---


@pytest.mark.parametrize(
    ("values", "weights", "axis"),
    [
        (np.ones((2, 4)), np.ones(3), -1),
        (np.ones((2, 4)), np.ones((2, 4)), -1),
        (np.ones((2, 0)), np.ones(0), -1),
        (np.ones((2, 4)), np.ones(4), 2),
        (np.float32(1), np.ones(1), -1),
    ],
)
def test_shapes_that_do_not_fit_are_refused(values, weights, axis):
    for function in (lstat, sample_weights):
        with pytest.raises(ValueError, match=r"values|weights|axis"):
            function(jnp.asarray(values), weights, axis)


@pytest.mark.parametrize("n", [77, 5000])
def test_no_matrix_of_all_pairs_in_memory(n):
    program = jax.jit(jax.grad(lambda v: jnp.sum(max_at_k(v, 4)))).lower(jnp.zeros((3, n)))
    assert f"{n}x{n}" not in program.as_text()
    assert program.compile().memory_analysis().temp_size_in_bytes < 3 * n * 200


def test_nothing_leaks_and_no_key_is_used_twice():
    weights = rank_weights("max", 2, 4)
    with jax.check_tracer_leaks(), jax.debug_key_reuse(True):
        jax.jit(jax.vmap(jax.grad(lambda v: lstat(v, weights))))(jax.random.normal(jax.random.key(5), (2, 4)))
