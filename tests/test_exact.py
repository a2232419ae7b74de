import functools
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from presets import presets_of
from slow import fast_are

from remac.estimators.advantages import lstat_advantage
from remac.estimators.exact import exact_advantage, exact_expected_improvement, expected_lstat, expected_max
from remac.estimators.order_statistics import lstat_weights, max_at_k

# Rewards and probabilities: plain, with ties, with an atom of no probability at the bottom, and with all on one.
PROBLEMS = {
    "plain": ([0.3, -1.0, 2.0, 0.7], [0.1, 0.4, 0.2, 0.3]),
    "ties": ([1.0, 0.0, 1.0, 0.0], [0.1, 0.4, 0.2, 0.3]),
    "absent": ([0.3, -1.0, 2.0, 0.7], [0.5, 0.0, 0.2, 0.3]),
    "certain": ([0.3, -1.0, 2.0, 0.7], [0.0, 0.0, 0.0, 1.0]),
}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def order_statistics_by_tuples(rewards, probabilities, k):
    """E R_(j:k) for each j, by all k-tuples of draws."""
    draws = np.asarray(list(itertools.product(range(len(rewards)), repeat=k)))
    return probabilities[draws].prod(-1) @ np.sort(rewards[draws], axis=-1)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("k", fast_are(3, [1, 2, 5, 3]))
def test_every_preset_against_all_tuples_of_draws(kind, k):
    rewards, probabilities = map(np.asarray, PROBLEMS[kind])
    values = order_statistics_by_tuples(rewards, probabilities, k)
    included = []
    for b in range(4):
        draws = np.asarray(list(itertools.product(range(4), repeat=k - 1)), int)
        with_b = np.concatenate([draws, np.full((len(draws), 1), b)], axis=1)
        included.append(probabilities[draws].prod(-1) @ np.sort(rewards[with_b], axis=-1))
    for objective in presets_of(k):
        alpha = lstat_weights(objective, k)
        value = expected_lstat(rewards, probabilities, objective, k)
        assert float(value) == pytest.approx(values @ alpha, abs=1e-13), objective
        advantage = exact_advantage(rewards, probabilities, objective, k)
        expected = np.asarray(included) @ alpha - values @ alpha
        np.testing.assert_allclose(advantage, expected, atol=1e-13, err_msg=str(objective))
        assert float(jnp.sum(probabilities * advantage)) == pytest.approx(0, abs=1e-13)


@functools.partial(jax.jit, static_argnums=(2, 3))
def gradient_and_advantages(rewards, probabilities, objective, k):
    gradient = jax.grad(lambda p: expected_lstat(rewards, p, objective, k))(probabilities)
    return gradient, exact_advantage(rewards, probabilities, objective, k)


@jax.jit
def gradient_by_logits(rewards, logits):
    """Also by the advantages of four retries."""
    by_logit = jax.grad(lambda x: expected_lstat(rewards, jax.nn.softmax(x), "max", 4))(logits)
    policy = jax.nn.softmax(logits)
    scores = jax.jacobian(jax.nn.log_softmax)(logits)
    return by_logit, 4 * (policy * exact_advantage(rewards, policy, "max", 4)) @ scores


@pytest.mark.parametrize("kind", PROBLEMS)
def test_advantages_are_the_gradient(kind):
    # d J / d p_b = K abar_b, and through a softmax K sum_b p_b abar_b grad log p_b.
    rewards, probabilities = map(np.asarray, PROBLEMS[kind])
    for objective, k in (("max", 4), ("quantile:0.3", 3), ("l_moment:2", 4), ("max", 1)):
        by_probability, advantage = gradient_and_advantages(rewards, probabilities, objective, k)
        np.testing.assert_allclose(by_probability, k * np.asarray(advantage), atol=1e-12)
    np.testing.assert_allclose(*gradient_by_logits(rewards, np.asarray([0.1, -0.3, 0.8, 0.0])), atol=1e-12)


def test_derivatives_of_higher_order():
    rewards, logits = jnp.asarray(PROBLEMS["plain"][0]), jnp.asarray([0.1, -0.3, 0.8, 0.0])

    def value(rewards, logits):
        return expected_lstat(rewards, jax.nn.softmax(logits), "top_mean:2", 3)

    check_grads(jax.jit(value), (rewards, logits), order=2, modes=["rev"])


def test_batch_advantages_approach_the_exact_ones():
    # A group with each atom in proportion to its probability is the distribution, up to 1/N.
    rewards, counts = np.asarray([0.3, -1.0, 2.0, 0.7]), [400, 1600, 800, 1200]
    batch = lstat_advantage(np.repeat(rewards, counts), "top_mean:2", 5)[np.cumsum(counts) - 1]
    exact = exact_advantage(rewards, np.asarray(counts) / 4000, "top_mean:2", 5)
    np.testing.assert_allclose(batch, exact, atol=5e-3)


# --- real numbers of retries ---


def test_expected_max_by_hand():
    # Two outcomes: 1 with probability p, else 0.
    for m in (0.3, 1.0, 2.5, 7.0):
        value = expected_max([0.0, 1.0], [0.8, 0.2], m)
        assert float(value) == pytest.approx(1 - 0.8**m, abs=1e-15)
        improvement = exact_expected_improvement([1.0, 0.0], [0.2, 0.8], m)
        np.testing.assert_allclose(improvement, [0.8 ** (m - 1), 0], atol=1e-15)


value_and_advantages = jax.jit(
    lambda r, p, m: (expected_lstat(r, p, "max", m), exact_advantage(r, p, "max", m)), static_argnums=2
)
real_value, real_improvement = jax.jit(expected_max), jax.jit(exact_expected_improvement)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_real_retries_agree_with_integers_and_are_continuous_across_them(kind):
    rewards, probabilities = map(np.asarray, PROBLEMS[kind])
    for m in (1, 2, 3, 8, 100):
        exact, advantage = value_and_advantages(rewards, probabilities, m)
        exact = float(exact)
        assert float(real_value(rewards, probabilities, float(m))) == pytest.approx(exact, abs=1e-10)
        for near in (m - 1e-9, m + 1e-9):
            assert float(real_value(rewards, probabilities, near)) == pytest.approx(exact, abs=1e-8)
        improvement = np.asarray(real_improvement(rewards, probabilities, float(m)))
        if m > 1:
            # Against the definition: the improvement on the best of m - 1 draws.
            if m <= 3:
                draws = np.asarray(list(itertools.product(range(4), repeat=m - 1)))
                gains = np.maximum(rewards[:, None] - rewards[draws].max(-1), 0)
                np.testing.assert_allclose(improvement, gains @ probabilities[draws].prod(-1), atol=1e-13)
            nearby = real_improvement(rewards, probabilities, m - 1e-9)
            np.testing.assert_allclose(nearby, improvement, atol=1e-8)
        present = probabilities > 0
        shift = (improvement - np.asarray(advantage))[present]
        # The two gradients are the same: advantages of the atoms that exist differ by one constant.
        np.testing.assert_allclose(shift, np.full(present.sum(), shift[0]), atol=1e-13)


def test_expected_improvement_is_the_gradient():
    rewards, logits = jnp.asarray([0.3, -1.0, 2.0, 0.7, 0.7]), jnp.asarray([0.1, -0.3, 0.8, 0.0, 0.2])
    scores = jax.jacobian(jax.nn.log_softmax)(logits)

    @jax.jit
    def both(m):
        gradient = jax.grad(lambda x: expected_max(rewards, jax.nn.softmax(x), m))(logits)
        policy = jax.nn.softmax(logits)
        return gradient, m * (policy * exact_expected_improvement(rewards, policy, m)) @ scores

    for m in (0.4, 1.0, 1.7, 6.2):
        np.testing.assert_allclose(*both(m), atol=1e-13)


def test_many_retries_at_a_rare_success_keep_float32_digits():
    # 1 - (1 - p)^m with m p of order one: the rounding of 1 - p alone would cost m * 6e-8.
    p = np.asarray([1 - 3e-4, 3e-4], np.float32)
    rare = float(p[1]) / (float(p[0]) + float(p[1]))
    for m in (1000.0, 4096.5):
        exact = -math.expm1(m * math.log1p(-rare))
        value = expected_max(np.asarray([0, 1], np.float32), p, m)
        assert value.dtype == jnp.float32
        assert float(value) == pytest.approx(exact, rel=3e-6)


def test_atoms_without_probability_below_all_others_change_nothing():
    rewards, probabilities = map(np.asarray, PROBLEMS["absent"])
    present = probabilities > 0
    for m in (0.5, 1.0, 2.5):
        improvement = exact_expected_improvement(rewards, probabilities, m)
        alone = exact_expected_improvement(rewards[present], probabilities[present], m)
        np.testing.assert_allclose(improvement[present], alone, atol=1e-14)


def test_expected_max_is_differentiable_in_everything():
    rewards, logits = jnp.asarray([0.3, -1.0, 2.0, 0.7]), jnp.asarray([0.1, -0.3, 0.8, 0.0])
    check_grads(
        jax.jit(lambda r, x, m: expected_max(r, jax.nn.softmax(x), m)),
        (rewards, logits, 2.3),
        order=1,
        modes=["fwd", "rev"],
    )
    # At atoms of no probability nothing is NaN.
    gradients = jax.jit(jax.grad(expected_max, argnums=(0, 1, 2)))(*map(jnp.asarray, PROBLEMS["absent"]), 2.5)
    assert all(np.isfinite(g).all() for g in gradients)


# --- against rational arithmetic ---


def exact_values(rewards, counts, objective, k):
    """Value and advantages by the definition of section 7, from integers; p = counts / sum(counts)."""
    total = sum(counts)
    order = sorted(range(len(rewards)), key=lambda i: rewards[i])
    r = [Fraction(float(rewards[i])) for i in order]
    below = list(itertools.accumulate(counts[i] for i in order))
    alpha = [Fraction(float(a)) for a in lstat_weights(objective, k)]
    ranks = [j for j in range(1, k + 1) if alpha[j - 1]]

    def tails(draws, t):
        # P(Bin(draws, F_t) >= s) for s = 0..draws + 1, over total^draws
        f, g = below[t], total - below[t]
        pmf = [math.comb(draws, c) * f**c * g ** (draws - c) for c in range(draws + 1)]
        sums = list(itertools.accumulate(reversed(pmf)))[::-1]
        return [*sums, 0]

    def at_least(tail, s):
        return tail[max(s, 0)] if s < len(tail) else 0

    n = len(r)
    full, short = [tails(k, t) for t in range(n)], [tails(k - 1, t) for t in range(n)]
    value = sum(
        alpha[j - 1] * r[t] * (at_least(full[t], j) - (at_least(full[t - 1], j) if t else 0))
        for j in ranks
        for t in range(n)
    ) / Fraction(total**k)
    advantages = np.empty(n)
    for b in range(n):
        included = sum(
            alpha[j - 1]
            * r[t]
            * (at_least(short[t], j - (b <= t)) - (at_least(short[t - 1], j - (b <= t - 1)) if t else 0))
            for j in ranks
            for t in range(n)
        ) / Fraction(total ** (k - 1))
        advantages[order[b]] = float(included - value)
    return float(value), advantages


@pytest.mark.parametrize(
    ("objective", "k", "n", "shift"),
    fast_are(
        4,
        [
            ("max", 64, 12, 1000),
            ("quantile:0.9", 256, 6, 0),
            ("harrell_davis:0.3", 24, 8, 0),
            ("l_moment:2", 16, 8, 0),
            ("max", 64, 12, 0),
            ("mean", 40, 10, 1000),
            ("lower_tail_mean:0.25", 24, 12, 0),
        ],
    ),
)
def test_errors_against_rational_arithmetic(objective, k, n, shift):
    random = np.random.default_rng(n)
    counts = random.multinomial(2**12 - n, random.dirichlet(np.ones(n))) + 1
    for dtype, limit in ((np.float32, 1e-5), (np.float64, 1e-12)):
        rewards = (random.normal(size=n) + shift).astype(dtype)
        value, advantage = exact_values(rewards, counts.tolist(), objective, k)
        actual = jax.jit(lambda r, p: (expected_lstat(r, p, objective, k), exact_advantage(r, p, objective, k)))(
            rewards, (counts / 2**12).astype(dtype)
        )
        assert abs(float(actual[0]) - value) / np.abs(rewards).max() < limit
        errors = np.asarray(actual[1], np.float64) - advantage
        assert np.abs(errors).max() / np.abs(advantage).max() < limit


@pytest.mark.parametrize("k", fast_are(1, [8, 1024]))
def test_the_maximum_over_many_atoms_against_integers(k):
    n, total = 4096, 2**20
    random = np.random.default_rng(0)
    counts = random.multinomial(total, random.dirichlet(np.ones(n))).tolist()
    for dtype, limit in ((np.float32, 1e-5), (np.float64, 1e-12)):
        rewards = random.normal(size=n).astype(dtype)
        order = np.argsort(rewards)
        r = [int(Fraction(float(rewards[i])) * 2**120) for i in order]
        below = [0, *itertools.accumulate(counts[i] for i in order)]
        full, short = [f**k for f in below], [f ** (k - 1) for f in below]
        value = sum(x * (full[t + 1] - full[t]) for t, x in enumerate(r)) / (total**k * 2**120)
        included, above = np.empty(n), 0
        for t in reversed(range(n)):
            # Minus the value, and only then rounded.
            q = r[t] * short[t + 1] + above
            included[order[t]] = q / (total ** (k - 1) * 2**120)
            above += r[t] * (short[t + 1] - short[t])
        advantage = included - value
        actual = jax.jit(
            lambda r, p: (
                expected_lstat(r, p, "max", k),
                expected_max(r, p, float(k)),
                exact_advantage(r, p, "max", k),
                exact_expected_improvement(r, p, float(k)),
            )
        )(rewards, (np.asarray(counts) / total).astype(dtype))
        for result in actual[:2]:
            assert abs(float(result) - value) / np.abs(rewards).max() < limit
        errors = np.asarray(actual[2], np.float64) - advantage
        assert np.abs(errors).max() / np.abs(advantage).max() < limit
        # The improvement differs from the advantage by a constant, and is zero for the worst atom that exists.
        improvement = np.asarray(actual[3], np.float64)
        worst = advantage[np.asarray(counts) > 0].min()
        present = np.asarray(counts) > 0
        assert np.abs(improvement - (advantage - worst))[present].max() / improvement.max() < limit


# --- transformations ---


def test_leading_axes_broadcasting_jit_vmap_and_types():
    random = np.random.default_rng(0)
    rewards, probabilities = random.normal(size=(2, 3, 5)), random.dirichlet(np.ones(5), size=(2, 3))

    @jax.jit
    def everything(rewards, probabilities):
        return (
            expected_lstat(rewards, probabilities, "top_mean:2", 3),
            expected_max(rewards, probabilities, 2.5),
            exact_advantage(rewards, probabilities, "top_mean:2", 3),
            exact_expected_improvement(rewards, probabilities, 2.5),
        )

    expected = everything(rewards, probabilities)
    assert [x.shape for x in expected] == [(2, 3), (2, 3), (2, 3, 5), (2, 3, 5)]
    single = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
    assert {x.dtype for x in jax.eval_shape(everything, single, single)} == {jnp.dtype(jnp.float32)}
    alone = everything(rewards[1, 2], probabilities[1, 2])
    mapped = jax.jit(jax.vmap(jax.vmap(everything)))(rewards, probabilities)
    shared = everything(rewards, probabilities[1, 2])
    for whole, one, each, common in zip(expected, alone, mapped, shared, strict=True):
        np.testing.assert_allclose(one, whole[1, 2], atol=1e-14)
        np.testing.assert_allclose(each, whole, atol=1e-14)
        np.testing.assert_allclose(common[1, 2], whole[1, 2], atol=1e-14)


def test_retries_may_be_traced_and_swept():
    rewards, probabilities = PROBLEMS["plain"]
    sweep = jax.jit(jax.vmap(lambda m: expected_max(jnp.asarray(rewards), jnp.asarray(probabilities), m)))
    values = np.asarray(sweep(jnp.asarray([0.5, 1.0, 3.0, -1.0, math.nan, math.inf])))
    np.testing.assert_allclose(values[:3], [expected_max(rewards, probabilities, m) for m in (0.5, 1, 3)])
    assert np.isnan(values[3:]).all()


@pytest.mark.parametrize(
    ("rewards", "probabilities"),
    [
        ([0.0, math.nan], [0.5, 0.5]),
        ([0.0, math.inf], [0.5, 0.5]),
        ([0.0, 1.0], [0.5, 0.6]),
        ([0.0, 1.0], [1.5, -0.5]),
        ([0.0, 1.0], [math.nan, 0.5]),
        ([1.0], [0.5]),
    ],
)
def test_traced_input_that_is_not_valid_gives_nan(rewards, probabilities):
    for function in (
        lambda r, p: expected_lstat(r, p, "max", 2),
        lambda r, p: exact_advantage(r, p, "max", 2),
        lambda r, p: expected_max(r, p, 2.5),
        lambda r, p: exact_expected_improvement(r, p, 2.5),
    ):
        if len(rewards) > 1 or function(jnp.ones(1), jnp.ones(1)).ndim == 0:
            assert np.isnan(jax.jit(function)(jnp.asarray(rewards), jnp.asarray(probabilities))).all()


# --- bad input ---

R, P = [0.0, 1.0], [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: f([0.0, math.nan], P), ["rewards=nan", "finite"]),
        (lambda f: f([0.0, -math.inf], P), ["rewards=-inf", "finite"]),
        (lambda f: f(R, [0.5, 0.6]), ["sum of probabilities=1.1", "one"]),
        (lambda f: f(R, [0.5, 0.49]), ["sum of probabilities=0.99", "one"]),
        (lambda f: f(R, [1.5, -0.5]), ["probabilities=-0.5", "negative"]),
        (lambda f: f(R, [math.nan, 0.5]), ["probabilities=nan", "finite"]),
        (lambda f: f(R, [0.2, 0.3, 0.5]), ["probabilities", "one per reward"]),
        (lambda f: f(np.zeros((3, 2)), np.full((2, 2), 0.5)), ["probabilities", "broadcast"]),
        (lambda f: f([], []), ["rewards", "at least one"]),
        (lambda f: f(1.0, 1.0), ["rewards", "at least one"]),
    ],
)
def test_bad_distributions_are_refused(call, words):
    for function in (
        lambda r, p: expected_lstat(r, p, "max", 2),
        lambda r, p: exact_advantage(r, p, "max", 2),
        lambda r, p: expected_max(r, p, 2.5),
        lambda r, p: exact_expected_improvement(r, p, 2.5),
    ):
        with pytest.raises(ValueError) as error:
            call(function)
        for word in words:
            assert word in str(error.value)


@pytest.mark.parametrize("m", [0, -1.0, math.nan, math.inf, "2", True, np.ones(2), None])
def test_bad_real_retries_are_refused(m):
    for function in (expected_max, exact_expected_improvement):
        with pytest.raises(ValueError, match="m="):
            function(R, P, m)


@pytest.mark.parametrize(
    ("objective", "k", "words"),
    [
        ("max", 2.5, ["k=2.5", "remac.estimators.exact"]),
        ("max", 0, ["k=0"]),
        ("best", 2, ["unknown"]),
        ([1.0], 2, ["2 weights"]),
    ],
)
def test_bad_objectives_are_refused(objective, k, words):
    for function in (expected_lstat, exact_advantage):
        with pytest.raises(ValueError) as error:
            function(R, P, objective, k)
        for word in words:
            assert word in str(error.value)


def test_a_softmax_of_any_precision_is_a_distribution():
    for dtype in (jnp.bfloat16, jnp.float16):
        for seed in range(20):
            key, other = jax.random.split(jax.random.key(seed))
            probabilities = jax.nn.softmax(jax.random.normal(key, (16,), dtype))
            rewards = jax.random.normal(other, (16,), dtype)
            for value in (expected_max(rewards, probabilities, 2), jax.jit(expected_max)(rewards, probabilities, 2)):
                exact = expected_max(
                    np.float32(rewards), np.float32(probabilities) / np.float32(probabilities).sum(), 2
                )
                np.testing.assert_allclose(np.float32(value), exact, atol=0.05)


def test_one_retry_has_second_derivatives_where_the_lowest_has_no_probability():
    hessian = jax.hessian(lambda p: expected_max(jnp.arange(3.0), p, 1))(jnp.array([0.0, 0.5, 0.5]))
    np.testing.assert_allclose(
        hessian,
        jax.hessian(lambda p: expected_lstat(jnp.arange(3.0), p, "max", 1))(jnp.array([0.0, 0.5, 0.5])),
        atol=1e-6,
    )


def test_estimators_work_where_jax_looks_for_nan():
    values, probabilities = jnp.array([1.0, 3.0, 2.0, 0.0]), jnp.full(4, 0.25)
    with jax.debug_nans(True):
        np.testing.assert_allclose(max_at_k(values, 2), 14 / 6, rtol=1e-6)  # of six pairs
        jax.grad(lambda x: max_at_k(x, 2))(values)
        lstat_advantage(values, "max", 2)
        expected_max(values, probabilities, 2)
