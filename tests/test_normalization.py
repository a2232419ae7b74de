import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from remac.policies import normalization

update = jax.jit(normalization.update)


def test_batches_give_the_moments_of_all_data():
    """Against NumPy in float64 on the concatenation, with batches of unequal sizes and a large offset."""
    rng = np.random.default_rng(0)
    batches = [rng.normal([1000.0, -3.0], [2.0, 0.1], (size, 2)) for size in (1, 7, 64, 300)]
    statistics = normalization.init(2)
    for batch in batches:
        statistics = update(statistics, jnp.asarray(batch, jnp.float32))
    data = np.concatenate(batches)
    np.testing.assert_allclose(statistics.mean, data.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(statistics.sum_squares / statistics.count), data.std(axis=0), rtol=2e-3)
    normalized = normalization.normalize(statistics, jnp.asarray(data, jnp.float32))
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=5e-3)
    np.testing.assert_allclose(normalized.std(axis=0), 1, rtol=5e-3)


def test_without_data_it_is_the_identity():
    observation = jnp.array([[3.0, -2.0]])
    np.testing.assert_array_equal(normalization.normalize(normalization.init(2), observation), observation)


def test_a_constant_dimension_maps_to_zero_and_its_first_move_stays_bounded():
    for constant in (0.0, 5.0, 8.907, -1234.5):
        statistics = normalization.init(1)
        for _ in range(500):
            statistics = update(statistics, jnp.full((16, 1), constant))
        still = normalization.normalize(statistics, jnp.full((4, 1), constant))
        np.testing.assert_allclose(still, np.zeros((4, 1)), atol=0.05)
        moved = normalization.normalize(statistics, jnp.full((4, 1), constant + 300.0))
        np.testing.assert_array_equal(moved, np.full((4, 1), normalization.CLIP))


@pytest.mark.parametrize("count", [2**24, 10**8])
def test_one_of_very_many_observations_counts(count):
    """10,000 observations of 3 after ``count`` with mean 2 and variance 1, one at a time, against float64."""
    full = jnp.full((1,), 2.0)
    start = dataclasses.replace(
        normalization.init(1), count=jnp.int32(count), mean=full, sum_squares=jnp.full((1,), float(count))
    )
    step = lambda statistics, _: (normalization.update(statistics, jnp.full((1, 1), 3.0)), None)  # noqa: E731
    after, _ = jax.jit(lambda start: jax.lax.scan(step, start, length=10_000))(start)
    assert int(after.count) == count + 10_000
    moved = np.float64(after.mean[0]) - 2 + np.float64(after.mean_rest[0])
    np.testing.assert_allclose(moved, 10_000 / (count + 10_000), rtol=1e-5)
    grown = np.float64(after.sum_squares[0]) - count + np.float64(after.sum_squares_rest[0])
    np.testing.assert_allclose(grown, 10_000 * count / (count + 10_000), rtol=1e-5)


def test_the_count_stays_within_its_type():
    statistics = dataclasses.replace(normalization.init(1), count=jnp.int32(2**31 - 3))
    for _ in range(3):
        statistics = update(statistics, jnp.ones((16, 1)))
    assert int(statistics.count) == 2**31 - 1 and statistics.mean[0] + statistics.mean_rest[0] > 0
