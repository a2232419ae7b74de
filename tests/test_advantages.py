import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from presets import presets_of
from slow import fast_are

from remac.estimators.advantages import (
    expected_improvement,
    include_one,
    leave_one_out,
    leave_two_out_baseline,
    lstat_advantage,
    maxpo_advantage,
    pkpo,
    score_coefficients,
    score_function_loss,
)
from remac.estimators.order_statistics import lstat, lstat_weights, rank_weights
from remac.validation import InvalidValueError


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def groups_of(n):
    random = np.random.default_rng(n)
    return np.stack([random.normal(size=n), random.integers(0, 2, n).astype(float), np.full(n, 2.0)])


# --- brute force ---


def include_and_leave(values, k):
    """Mean order statistics of the k-subsets with and without each sample, `[2, N, k]`, by all subsets."""
    n = len(values)
    subsets = np.asarray(list(itertools.combinations(range(n), k)))
    ordered = np.sort(values[subsets], axis=-1)
    result = np.full((2, n, k), math.nan)
    for i in range(n):
        contains = (subsets == i).any(-1)
        result[0, i] = ordered[contains].mean(0)
        if k < n:
            result[1, i] = ordered[~contains].mean(0)
    return result


@pytest.mark.parametrize("n", fast_are(3, [2, 5, 8, 3]))
def test_every_preset_against_all_subsets(n):
    groups = groups_of(n)
    for k in range(1, n + 1):
        by_rank = np.stack([include_and_leave(group, k) for group in groups], axis=1)
        for objective in presets_of(k):
            included, left = by_rank @ lstat_weights(objective, k)
            close = {"atol": 1e-12, "err_msg": f"{objective} {k}"}
            np.testing.assert_allclose(include_one(groups, objective, k), included, **close)
            if k < n:
                np.testing.assert_allclose(leave_one_out(groups, objective, k), left, **close)
                np.testing.assert_allclose(lstat_advantage(groups, objective, k), included - left, **close)


def expected_improvement_by_subsets(values, k):
    n = len(values)
    improvements = []
    for i in range(n):
        others = [values[j] for j in range(n) if j != i]
        subsets = itertools.combinations(others, k - 1)
        improvements.append(np.mean([max(values[i] - max(s), 0.0) if s else values[i] for s in subsets]))
    return np.asarray(improvements)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 8])
def test_maxpo_against_its_definition(n):
    for values in groups_of(n):
        for k in range(1, n + 1):
            improvement = expected_improvement_by_subsets(values, k)
            np.testing.assert_allclose(expected_improvement(values, k), improvement, atol=1e-12)
            np.testing.assert_allclose(pkpo(values, k, "leave_one_out_minus_one"), k / n * improvement, atol=1e-12)
            if k == n:
                continue
            # Sample i left out: the mean improvement of the others among themselves.
            baseline = [expected_improvement_by_subsets(np.delete(values, i), k).mean() for i in range(n)]
            np.testing.assert_allclose(leave_two_out_baseline(values, k), baseline, atol=1e-12)
            np.testing.assert_allclose(maxpo_advantage(values, k), improvement - baseline, atol=1e-12)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_pkpo_against_all_subsets(n):
    for values in groups_of(n):
        for k in range(1, n + 1):
            include, leave = include_and_leave(values, k)[..., -1]
            np.testing.assert_allclose(pkpo(values, k, "none"), k / n * include, atol=1e-12)
            if k < n:
                expected = k / n * include - k / (n - 1) * leave
                np.testing.assert_allclose(pkpo(values, k, "leave_one_out"), expected, atol=1e-12)


def test_one_retry_is_reinforce_leave_one_out():
    values = groups_of(7)
    others = (values.sum(-1, keepdims=True) - values) / 6
    for objective in ("max", "min", "mean"):
        np.testing.assert_allclose(lstat_advantage(values, objective, 1), values - others, atol=1e-14)
    np.testing.assert_allclose(maxpo_advantage(values, 1), values - others, atol=1e-14)
    np.testing.assert_allclose(leave_two_out_baseline(values, 1), others, atol=1e-14)


# --- identities, against section 4's sums over ranks ---


def include_one_by_ranks(values, alpha):
    """q_t from the three binomial weights A, B and C, in the order of the samples."""
    n, k = len(values), len(alpha)
    order = np.argsort(values, kind="stable")
    total = math.comb(n - 1, k - 1)

    def choose(a, b):
        return math.comb(a, b) if 0 <= b <= a else 0

    result = np.empty(n)
    for t in range(1, n + 1):
        q = 0.0
        for j, weight in enumerate(alpha, 1):
            for m in range(1, n + 1):
                if m < t:
                    count = choose(m - 1, j - 1) * choose(n - m - 1, k - j - 1)
                elif m == t:
                    count = choose(m - 1, j - 1) * choose(n - m, k - j)
                else:
                    count = choose(m - 2, j - 2) * choose(n - m, k - j)
                q += weight * values[order[m - 1]] * count / total
        result[order[t - 1]] = q
    return result


@st.composite
def problems(draw):
    # Few sizes: every new one is compiled.
    n = draw(st.sampled_from([2, 5, 8]))
    k = draw(st.integers(1, n - 1))
    numbers = st.floats(-100, 100, allow_subnormal=False, width=32)
    values = draw(st.lists(numbers | st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))
    alpha = draw(st.lists(st.floats(-2, 2, width=16), min_size=k, max_size=k))
    return np.asarray(values, np.float64), np.asarray(alpha, np.float64), k


@settings(max_examples=40)
@given(problems(), st.randoms(use_true_random=False))
def test_identities(problem, random):
    values, alpha, k = problem
    n = len(values)
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        q, left = np.asarray(include_one(values, alpha, k)), np.asarray(leave_one_out(values, alpha, k))
        advantage = np.asarray(lstat_advantage(values, alpha, k))
        value = float(lstat(jnp.asarray(values), rank_weights(alpha, k, n)))
        close = {"atol": 1e-12 * max(1.0, 200 * np.abs(alpha).sum()), "rtol": 0}
        np.testing.assert_allclose(q, include_one_by_ranks(values, alpha), **close)
        np.testing.assert_allclose(k / n * q + (1 - k / n) * left, np.full(n, value), **close)
        np.testing.assert_allclose(advantage, q - left, **close)
        np.testing.assert_allclose(advantage, n / (n - k) * (q - value), **close)
        np.testing.assert_allclose(advantage.sum(), 0, **close)
        permutation = np.asarray(random.sample(range(n), n))
        # Samples that tie have equal advantages, so that a permutation moves advantages along.
        np.testing.assert_allclose(lstat_advantage(values[permutation], alpha, k), advantage[permutation], **close)
        np.testing.assert_allclose(lstat_advantage(values + 7, alpha, k), advantage, **close)
        np.testing.assert_allclose(lstat_advantage(-values, alpha[::-1], k), -advantage, **close)


@settings(max_examples=40)
@given(problems())
def test_maxpo_is_the_leave_one_out_advantage_of_the_maximum(problem):
    values, _, k = problem
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        advantage = np.asarray(lstat_advantage(values, "max", k))
        difference = expected_improvement(values, k) - leave_two_out_baseline(values, k)
        np.testing.assert_allclose(difference, advantage, atol=1e-12 * 200)
        np.testing.assert_array_equal(maxpo_advantage(values, k), advantage)
        if k > 1:
            below = leave_one_out(values, "max", k - 1)
            expected = np.asarray(include_one(values, "max", k)) - below
            np.testing.assert_allclose(expected_improvement(values, k), expected, atol=1e-12 * 200)


# --- unbiasedness, by all batches ---

REWARDS_OF_ACTIONS = {"distinct": [0.3, -1.0, 2.0], "ties": [1.0, 0.0, 1.0]}


def all_tuples(actions, size):
    return np.asarray(list(itertools.product(range(actions), repeat=size)))


def exact_gradients(distribution, theta, k):
    """Gradient of E R_(j:k) for each j, by all k-tuples; distribution(theta) is (log p, value) of each draw."""

    def order_statistics(theta):
        log_probs, values = distribution(theta)
        draws = all_tuples(3, k)
        return jnp.exp(log_probs[draws].sum(-1)) @ jnp.sort(values[draws], axis=-1)

    return jax.jit(jax.jacfwd(order_statistics))(theta)


@pytest.mark.parametrize("kind", REWARDS_OF_ACTIONS)
def test_score_function_gradients_are_unbiased(kind):
    rewards, logits, n = jnp.asarray(REWARDS_OF_ACTIONS[kind]), jnp.asarray([0.2, -0.5, 0.4]), 4
    batches = all_tuples(3, n)
    probabilities = jnp.exp(jax.nn.log_softmax(logits)[batches].sum(-1))

    @jax.jit
    def mean_gradient(coefficients):
        # Sum over all batches of P(batch) sum_i coefficient_i grad log p_i.
        def surrogate(theta):
            log_probs = jax.nn.log_softmax(theta)[batches]
            return probabilities @ jnp.sum(coefficients * log_probs, axis=-1)

        return jax.grad(surrogate)(logits)

    for k in range(1, n):
        exact = exact_gradients(lambda theta: (jax.nn.log_softmax(theta), rewards), logits, k)
        for objective in presets_of(k):
            estimate = mean_gradient(k / n * lstat_advantage(rewards[batches], objective, k))
            np.testing.assert_allclose(
                estimate, lstat_weights(objective, k) @ exact, atol=1e-12, err_msg=f"{objective} {k}"
            )
        for baseline in ("none", "leave_one_out", "leave_one_out_minus_one"):
            estimate = mean_gradient(pkpo(rewards[batches], k, baseline))
            np.testing.assert_allclose(estimate, exact[-1], atol=1e-12, err_msg=f"{baseline} {k}")


def test_descending_the_loss_ascends_the_objective():
    # The sign: the loss is minimised, its gradient is minus the unbiased one, averaged over leading axes.
    rewards, logits, k, n = jnp.asarray([0.3, -1.0, 2.0]), jnp.asarray([0.2, -0.5, 0.4]), 2, 4
    batches = all_tuples(3, n)
    probabilities = jnp.exp(jax.nn.log_softmax(logits)[batches].sum(-1))

    def loss(theta, batch):
        return score_function_loss(jax.nn.log_softmax(theta)[batch], rewards[batch], "max", k)

    gradients = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(logits, batches)
    exact = exact_gradients(lambda theta: (jax.nn.log_softmax(theta), rewards), logits, k)[-1]
    np.testing.assert_allclose(-probabilities @ gradients, exact, atol=1e-13)
    pair = np.asarray([17, 66])
    gradient = jax.jit(jax.grad(loss))(logits, batches[pair])
    np.testing.assert_allclose(gradient, gradients[pair].mean(0), atol=1e-14)


def test_no_gradient_of_the_loss_flows_into_the_rewards():
    rewards, log_probs = jnp.asarray([0.3, -1.0, 2.0]), jnp.asarray([-1.0, -2.0, -0.5])
    gradient = jax.grad(lambda r: score_function_loss(log_probs, r, "max", 2))(rewards)
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_pathwise_gradients_are_unbiased():
    noise, theta, n = jnp.asarray([-1.0, 0.3, 1.4]), jnp.asarray([0.5, 0.8]), 4
    log_probs = jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
    batches = all_tuples(3, n)

    def rewards(theta):
        return -((theta[0] + theta[1] * noise - 1.0) ** 2)

    probabilities = jnp.exp(log_probs[batches].sum(-1))

    @jax.jit
    def mean_gradient(weights):
        return jax.grad(lambda theta: probabilities @ lstat(rewards(theta)[batches], weights))(theta)

    for k in range(1, n + 1):
        exact = exact_gradients(lambda theta: (log_probs, rewards(theta)), theta, k)
        for objective in presets_of(k):
            np.testing.assert_allclose(
                mean_gradient(rank_weights(objective, k, n)),
                lstat_weights(objective, k) @ exact,
                atol=1e-12,
                err_msg=f"{objective} {k}",
            )


# --- against rational arithmetic ---

SCALE = 2**140


def exact_group(values, objective, k):
    """Batch value, include-one, leave-one-out and advantage by their sums over ranks, rounded once."""
    n = len(values)
    order = np.argsort(values, kind="stable")
    rewards = [int(Fraction(float(values[i])) * SCALE) for i in order]
    alpha = [Fraction(float(a)) for a in lstat_weights(objective, k)]
    common = math.lcm(*(a.denominator for a in alpha))

    def table(r):
        # C(m, r) for m = 0..n
        out, value = [0] * (n + 1), 1
        for m in range(max(r, 0), n + 1) if r >= 0 else ():
            value = value * m // (m - r) if m > r else 1
            out[m] = value
        return out

    before, at, after, without = ([0] * (n + 1) for _ in range(4))
    for j, a in enumerate(alpha, 1):
        weight = int(a * common)
        if not weight:
            continue
        j1, kj, kj1, j2 = table(j - 1), table(k - j), table(k - j - 1), table(j - 2)
        for m in range(1, n + 1):
            before[m] += weight * j1[m - 1] * (kj1[n - m - 1] if m < n else 0)
            at[m] += weight * j1[m - 1] * kj[n - m]
            after[m] += weight * (j2[m - 2] if m > 1 else 0) * kj[n - m]
            without[m] += weight * j1[m - 1] * (kj[n - 1 - m] if m < n else 0)
    ranked = list(enumerate(rewards, 1))
    # The counts of `at` are also those of all k-subsets.
    value = sum(r * at[m] for m, r in ranked) / (math.comb(n, k) * common * SCALE)
    included, left, advantages = np.empty(n), np.empty(n), np.empty(n)
    above = sum(r * after[m] for m, r in ranked)
    below = 0
    above_left = sum(r * without[m - 1] for m, r in ranked)
    below_left = 0
    subsets, subsets_left = math.comb(n - 1, k - 1), math.comb(n - 1, k)
    for t, r in ranked:
        above -= r * after[t]
        above_left -= r * without[t - 1]
        q, v = below + r * at[t] + above, below_left + above_left
        position = order[t - 1]
        included[position] = q / (subsets * common * SCALE)
        left[position] = v / (subsets_left * common * SCALE)
        advantages[position] = (q * subsets_left - v * subsets) / (subsets * subsets_left * common * SCALE)
        below += r * before[t]
        below_left += r * without[t]
    return value, included, left, advantages


CASES = [
    ("max", 1024, 4096),
    ("l_moment:3", 8, 600),
    ("quantile:0.9", 1024, 4096),
    ("max", 4095, 4096),
    ("harrell_davis:0.7", 24, 600),
    ("max", 1, 4096),
    ("max", 8, 4096),
    ("min", 1024, 4096),
    ("mid_range:2", 1024, 4096),
    ("lower_tail_mean:0.25", 8, 4096),
    ("gini_mean_difference", 4, 4096),
    ("mean", 64, 600),
    ("top_mean:20", 40, 600),
]


def reward_groups(n):
    random = np.random.default_rng(n)
    return np.stack(
        [random.normal(size=n), random.standard_exponential(n) ** 2, random.integers(0, 5, n).astype(float)]
    )


def worst_errors(groups, objective, k):
    """The largest error of each result, relative to its group's largest value or advantage."""
    n = groups.shape[-1]
    actual = jax.jit(  # one program, where each operation by itself would be one
        lambda groups: [
            lstat(groups, rank_weights(objective, k, n))[:, None],
            include_one(groups, objective, k),
            leave_one_out(groups, objective, k),
            lstat_advantage(groups, objective, k),
        ]
    )(groups)
    errors = []
    for g, group in enumerate(groups):
        expected = exact_group(group, objective, k)
        # Many ties at the top of many retries leave advantages that this precision cannot represent.
        advantage = max(np.abs(expected[3]).max(), float(np.finfo(groups.dtype).tiny) * 1e9)
        scales = [np.abs(group).max()] * 3 + [advantage]
        for a, e, scale in zip(actual, expected, scales, strict=True):
            assert a.dtype == groups.dtype
            errors.append(np.abs(np.asarray(a[g], np.float64) - e).max() / scale)
    return np.asarray(errors)


@pytest.mark.parametrize(("objective", "k", "n"), fast_are(2, CASES))
def test_errors_against_rational_arithmetic(objective, k, n):
    groups = reward_groups(n)
    assert worst_errors(groups, objective, k).max() < 1e-12
    # 1,000 added: the rounded sums are the data, and nothing but differences of rewards may be lost.
    shifted = np.stack([groups[0] + 1000, groups[1] + 1000, groups[2]]).astype(np.float32)
    assert worst_errors(shifted, objective, k).max() < 1e-5
    if k < 1000:
        assert worst_errors(groups.astype(np.float32), objective, k).max() < 1e-5


def test_mean_of_many_retries_against_its_closed_form():
    # Replacing one of k: (R_i - mean of the others) / k, a thousandth of the rewards.
    n, k = 4096, 1024
    for dtype, shift, limit in (
        (np.float64, 0, 1e-12),
        (np.float32, 0, 1e-5),
        (np.float32, 1000, 1e-5),
    ):
        rewards = (reward_groups(n)[0] + shift).astype(dtype)
        exact = [Fraction(float(r)) for r in rewards]
        total = sum(exact)
        expected = np.asarray([float((r - (total - r) / (n - 1)) / k) for r in exact])
        error = np.abs(np.asarray(lstat_advantage(rewards, "mean", k), np.float64) - expected).max()
        assert error / np.abs(expected).max() < limit


@pytest.mark.parametrize("k", [2, 1024])
def test_improvement_and_pkpo_against_rational_arithmetic(k):
    n = 4096
    rewards = reward_groups(n)[0]
    for dtype, limit in ((np.float64, 1e-12), (np.float32, 1e-5)):
        group = rewards.astype(dtype)
        _, included, left, advantage = exact_group(group, "max", k)
        order = np.argsort(group, kind="stable")
        counts = [math.comb(k - 2, k - 2)]
        for m in range(k - 1, n - 1):
            counts.append(counts[-1] * m // (m - k + 2))
        weights = [0] * (k - 2) + counts  # C(l-1, k-2), l = 1..n-1
        total, improvement, mass, moment = math.comb(n - 1, k - 1), np.empty(n), 0, 0
        for t, position in enumerate(order):
            r = int(Fraction(float(group[position])) * SCALE)
            improvement[position] = (r * mass - moment) / (total * SCALE)
            if t < n - 1:
                mass, moment = mass + weights[t], moment + weights[t] * r
        actual = np.asarray(expected_improvement(group, k), np.float64)
        assert np.abs(actual - improvement).max() / np.abs(improvement).max() < limit
        baseline = np.asarray(leave_two_out_baseline(group, k), np.float64)
        scale = np.abs(improvement).max()
        assert np.abs(baseline - (improvement - advantage)).max() / scale < limit
        for name, expected in (
            ("none", k / n * included),
            ("leave_one_out", k / n * included - k / (n - 1) * left),
        ):
            error = np.abs(np.asarray(pkpo(group, k, name), np.float64) - expected).max()
            assert error / (k / n * np.abs(group).max()) < 2 * limit


# --- the toy problem r(a) = -a^2 with a Gaussian policy: gradients by quadrature ---

RETRIES = (1, 2, 4, 8)
ANCHORS = {
    (-1.5, 1.0): [(3, -2), (1.9099, -0.2306), (1.0894, 0.2910), (0.5306, 0.2808)],
    (-2.0, 0.5): [(4, -1), (3.4358, 1.2568), (2.9706, 2.5662), (2.5764, 3.2949)],
    (-0.5, 1.0): [(1, -2), (0.4127, -0.7147), (0.1471, -0.2347), (0.0464, -0.0711)],
    (0.0, 1.0): [(0, -2), (0, -0.7268), (0, -0.2414), (0, -0.0736)],
}
SIGN_CHANGES = {2: 0.574, 4: 0.8263, 8: 0.934}


def pathwise_gradients(key, mu, sigma, k, groups=20_000, n=16):
    weights = rank_weights("max", k, n)
    noise = jax.random.normal(key, (groups, n))

    def value(parameters, xi):
        return lstat(-jnp.square(parameters[0] + parameters[1] * xi), weights)

    return jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(jnp.asarray([mu, sigma]), noise)


def score_function_gradients(key, mu, sigma, k, groups=20_000, n=16):
    noise = jax.random.normal(key, (groups, n))
    actions = mu + sigma * noise

    def loss(parameters, actions):
        log_probs = jax.scipy.stats.norm.logpdf(actions, parameters[0], parameters[1])
        return score_function_loss(log_probs, -jnp.square(actions), "max", k)

    return -jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(jnp.asarray([mu, sigma]), actions)


@pytest.mark.parametrize("gradients", [pathwise_gradients, score_function_gradients])
@pytest.mark.parametrize("k", fast_are(1, RETRIES[::-1]))
def test_monte_carlo_gradients_of_the_toy_problem(gradients, k):
    keys = jax.random.split(jax.random.key(k), len(ANCHORS))
    for key, ((mu, sigma), expected) in zip(keys, ANCHORS.items(), strict=True):
        samples = gradients(key, mu, sigma, k)
        error = np.asarray(samples.mean(0)) - np.asarray(expected[RETRIES.index(k)])
        standard_error = np.asarray(samples.std(0)) / math.sqrt(len(samples))
        assert (np.abs(error) < 4 * standard_error + 1e-4).all(), (mu, sigma, error / standard_error)


@pytest.mark.parametrize("k", fast_are(1, list(SIGN_CHANGES)[::-1]))
def test_retries_widen_the_policy_below_a_ratio_and_narrow_it_above(k):
    for factor, sign in ((0.85, 1), (1.15, -1)):
        samples = pathwise_gradients(jax.random.key(9), -1.0, factor * SIGN_CHANGES[k], k)[:, 1]
        assert sign * samples.mean() > 4 * samples.std() / math.sqrt(len(samples))
    assert pathwise_gradients(jax.random.key(10), -1.0, 0.1, 1)[:, 1].mean() < 0


# --- transformations ---

FUNCTIONS = {
    "include_one": lambda r: include_one(r, "top_mean:2", 3),
    "leave_one_out": lambda r: leave_one_out(r, "top_mean:2", 3),
    "lstat_advantage": lambda r: lstat_advantage(r, "top_mean:2", 3),
    "expected_improvement": lambda r: expected_improvement(r, 3),
    "leave_two_out_baseline": lambda r: leave_two_out_baseline(r, 3),
    "maxpo_advantage": lambda r: maxpo_advantage(r, 3),
    "pkpo": lambda r: pkpo(r, 3, "leave_one_out"),
}


def all_functions(rewards):
    return jnp.stack([function(rewards) for function in FUNCTIONS.values()])


def test_jit_vmap_grad_and_leading_axes():
    rewards = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)))
    for function in FUNCTIONS.values():
        for dtype in (jnp.float32, jnp.float64):
            result = jax.eval_shape(function, jax.ShapeDtypeStruct(rewards.shape, dtype))
            assert (result.shape, result.dtype) == (rewards.shape, dtype)
    # All other tests call the functions as they are; this compares with one of them.
    expected = jax.jit(all_functions)(rewards)
    np.testing.assert_allclose(lstat_advantage(rewards, "top_mean:2", 3), expected[2], atol=1e-14)
    mapped = jax.jit(jax.vmap(jax.vmap(all_functions, out_axes=1), out_axes=1))(rewards)
    np.testing.assert_allclose(mapped, expected, atol=1e-14)
    check_grads(jax.jit(all_functions), (rewards[0, 0],), order=1, modes=["rev"])


def test_traced_groups_that_are_not_finite_give_nan_in_value_and_gradient():
    rewards = np.random.default_rng(0).normal(size=(5, 6))
    rewards[1, 2], rewards[2, 0], rewards[4, 5] = math.nan, math.inf, -math.inf
    bad = np.asarray([False, True, True, False, True])[:, None].repeat(6, 1)
    values = jax.jit(all_functions)(rewards)
    gradients = jax.jit(jax.jacrev(lambda r: jnp.sum(jnp.square(all_functions(r)), axis=(1, 2))))(rewards)
    for name, value, gradient in zip(FUNCTIONS, values, gradients, strict=True):
        np.testing.assert_array_equal(np.isnan(value), bad, err_msg=name)
        np.testing.assert_array_equal(np.isnan(gradient), bad, err_msg=name)


def test_large_groups_need_no_matrix_of_all_pairs():
    program = jax.jit(lambda r: lstat_advantage(r, "max", 8)).lower(jnp.zeros(4096)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4096 * 8 * 100


# --- bad input ---

GOOD = np.asarray([0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: include_one(GOOD, "max", 4), ["k=4", "n=3"]),
        (lambda: expected_improvement(GOOD, 4), ["k=4", "n=3"]),
        (lambda: leave_one_out(GOOD, "max", 3), ["k=3", "below", "n=3"]),
        (lambda: lstat_advantage(GOOD, "max", 3), ["k=3", "below", "n=3"]),
        (lambda: leave_two_out_baseline(GOOD, 3), ["k=3", "below", "n=3"]),
        (lambda: maxpo_advantage(GOOD, 3), ["k=3", "below", "n=3"]),
        (lambda: pkpo(GOOD, 3, "leave_one_out"), ["k=3", "below", "n=3"]),
        (lambda: pkpo(GOOD, 4, "none"), ["k=4", "n=3"]),
        (lambda: score_function_loss(GOOD, GOOD, "max", 3), ["k=3", "below", "n=3"]),
        (lambda: pkpo(GOOD, 2, "mean"), ["baseline=mean", "leave_one_out_minus_one"]),
        (lambda: lstat_advantage(GOOD, "best", 2), ["best", "unknown"]),
        (lambda: lstat_advantage(GOOD, "top_mean:3", 2), ["top_mean:3", "between 1 and 2"]),
        (lambda: lstat_advantage(GOOD, "max", 2.5), ["k=2.5", "remac.estimators.exact"]),
        (lambda: lstat_advantage(GOOD, "max", 0), ["k=0", "positive"]),
        (lambda: maxpo_advantage(GOOD, 0), ["k=0", "positive"]),
        (lambda: expected_improvement(GOOD, 1.5), ["k=1.5"]),
        (lambda: lstat_advantage(np.asarray([0.0, math.nan]), "max", 1), ["rewards=nan", "finite"]),
        (lambda: include_one(np.asarray([0.0, -math.inf]), "max", 1), ["rewards=-inf", "finite"]),
        (lambda: maxpo_advantage([0.0, math.inf], 1), ["rewards=inf", "finite"]),
        (lambda: lstat_advantage(np.zeros((3, 0)), "max", 1), ["rewards", "at least one"]),
        (lambda: include_one(np.zeros(0), "max", 1), ["rewards", "at least one"]),
        (lambda: include_one(1.0, "max", 1), ["rewards", "at least one"]),
        (lambda: score_function_loss(GOOD[:2], GOOD, "max", 1), ["log_probs", "(3,)"]),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_bad_shapes_and_retries_are_refused_while_tracing():
    for call in (lambda r: lstat_advantage(r, "max", 3), lambda r: score_function_loss(r, r, "max", 3)):
        with pytest.raises(ValueError, match="below"):
            jax.jit(call)(GOOD)


def test_score_coefficients_of_successes_and_failures():
    rewards = np.array([False, True, True, False, True])
    weights = rank_weights("max", 2, 4)
    expected = score_coefficients(jnp.asarray(rewards, jnp.float32), jnp.asarray(weights))
    for kind in (rewards, rewards.astype(int), rewards.tolist()):
        np.testing.assert_array_equal(score_coefficients(kind, weights), expected)
    np.testing.assert_allclose(
        expected, 2 / 5 * lstat_advantage(jnp.asarray(rewards, jnp.float32), "max", 2), rtol=1e-6
    )
    for wrong in (rank_weights("max", 1, 1), rank_weights("max", 2, 5)):
        with pytest.raises(InvalidValueError, match=r"weights=shape .*: must have the shape \(4,\)"):
            score_coefficients(rewards, wrong)
    for n in (4.7, "5", 0):
        with pytest.raises(InvalidValueError, match=f"n={n}: must be an integer"):
            rank_weights("max", 1, n)
