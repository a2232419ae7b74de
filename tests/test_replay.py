import jax
import jax.numpy as jnp
import numpy as np
import pytest

from remac.training import replay
from remac.types import Transition

EXAMPLE = Transition(jnp.zeros(3), jnp.zeros(2), jnp.zeros(()), jnp.zeros(()), jnp.zeros(3))


def rows(ids, num_members):
    """Transitions `[P, E, ...]` with the row's id and its member in every field."""
    code = np.asarray(ids, np.float32)[None] + 1e5 * np.arange(num_members, dtype=np.float32)[:, None]
    fields = [np.broadcast_to(code[(..., *[None] * leaf.ndim)], code.shape + leaf.shape) for leaf in EXAMPLE]
    return Transition(*(jnp.asarray(field) for field in fields))


@pytest.mark.parametrize(("capacity", "batch_size", "num_members"), [(7, 3, 1), (10, 4, 3), (5, 5, 2), (8, 1, 1)])
def test_keeps_the_newest_rows_whole(capacity, batch_size, num_members):
    """Ids in every field, at sizes that do not divide, over several wraps."""
    state = replay.init(EXAMPLE, capacity, num_members)
    add, sample = jax.jit(replay.add), jax.jit(replay.sample, static_argnums=3)
    for step in range(12):
        ids = np.arange(step * batch_size, (step + 1) * batch_size)
        state = add(state, rows(ids, num_members))
        newest = set(range(max(0, ids[-1] + 1 - capacity), ids[-1] + 1))
        assert int(state.size) == len(newest)
        for member in range(num_members):
            drawn = sample(state, jnp.array(member), jax.random.key(step), 200)
            code = np.asarray(drawn.reward)
            for field in drawn:
                np.testing.assert_array_equal(
                    np.asarray(field).reshape(200, -1), code[:, None].repeat(np.size(field) // 200, 1)
                )
            assert set(code - 1e5 * member) == newest


def test_draws_uniformly():
    state = replay.add(replay.init(EXAMPLE, 50), rows(np.arange(40), 1))
    drawn = np.asarray(replay.sample(state, jnp.array(0), jax.random.key(1), 40_000).reward).astype(int)
    counts = np.bincount(drawn, minlength=50)
    assert (counts[40:] == 0).all()
    statistic = ((counts[:40] - 1000) ** 2 / 1000).sum()
    assert statistic < 80, "chi-squared with 39 degrees of freedom exceeds 80 with probability 1e-4"


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="capacity=0"):
        replay.init(EXAMPLE, 0)
    with pytest.raises(ValueError, match=r"5 transitions .* 4 rows"):
        replay.add(replay.init(EXAMPLE, 4), rows(np.arange(5), 1))


def test_num_bytes_is_what_init_allocates():
    state = replay.init(EXAMPLE, 11, 3)
    assert replay.num_bytes(EXAMPLE, 11, 3) == sum(leaf.nbytes for leaf in state.storage) == 4 * 10 * 33
