import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remac.selection import median

NUMBERS = st.floats(0, allow_nan=False, allow_infinity=True, width=32)


@given(st.lists(NUMBERS | st.sampled_from([0.0, 1.0, 1e-45]), min_size=1, max_size=6))
def test_the_median_is_numpys(values):
    with np.errstate(over="ignore"):
        expected = np.median(np.array(values, np.float32))
    assert jax.jit(median)(jnp.array(values, jnp.float32)) == pytest.approx(
        expected, rel=1e-6, abs=1.2e-38
    )  # subnormal means are flushed


@pytest.mark.parametrize("size", [5771, 5772])
def test_the_median_of_many_small_numbers(size):
    values = np.abs(np.random.default_rng(0).normal(size=size)).astype(np.float32) * 1e-9
    assert jax.jit(median)(jnp.array(values)) == pytest.approx(np.median(values), rel=1e-6)


def test_a_nan_gives_nan_and_members_are_mapped():
    assert jnp.isnan(median(jnp.array([1.0, jnp.nan, 2.0])))
    np.testing.assert_array_equal(jax.vmap(median)(jnp.array([[1.0, 3.0, 2.0], [5.0, 4.0, 0.0]])), [2.0, 4.0])
