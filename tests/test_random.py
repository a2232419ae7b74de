import jax
import jax.numpy as jnp
import numpy as np
import pytest

from remac.random import unroll

KEYS = {"bits": (), "normal": (), "uniform": (), "randint": (0, 1000)}


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (8, 64, 6)])
@pytest.mark.parametrize("draw", KEYS)
def test_unrolled_keys_draw_the_same_numbers(draw, shape):
    arguments = KEYS[draw]
    function = jax.jit(lambda key: getattr(jax.random, draw)(key, shape, *arguments))
    np.testing.assert_array_equal(function(unroll(jax.random.key(3))), function(jax.random.key(3)))


def test_unrolled_keys_split_and_fold_the_same():
    key = jax.random.key(5)
    for derive in (lambda k: jax.random.split(k, 5), lambda k: jax.random.fold_in(k, 2**31 + 7)):
        np.testing.assert_array_equal(jax.random.key_data(derive(unroll(key))), jax.random.key_data(derive(key)))


def test_batches_of_keys_draw_what_each_key_draws():
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = jax.vmap(lambda key: jax.random.normal(key, (4,)))(unroll(keys))
    np.testing.assert_array_equal(drawn, jnp.stack([jax.random.normal(key, (4,)) for key in keys]))


def test_accelerators_keep_jaxs_own_form(monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    key = jax.random.key(0)
    assert unroll(key) is key
