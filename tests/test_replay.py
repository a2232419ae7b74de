import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import fast_are

from remac.training import replay
from remac.types import Transition

EXAMPLE = Transition(jnp.zeros(3), jnp.zeros(2), jnp.zeros(()), jnp.zeros(()), jnp.zeros(3))


def rows(ids, num_members):
    """Transitions `[P, E, ...]` with the row's id and its member in every field."""
    code = np.asarray(ids, np.float32)[None] + 1e5 * np.arange(num_members, dtype=np.float32)[:, None]
    fields = [np.broadcast_to(code[(..., *[None] * leaf.ndim)], code.shape + leaf.shape) for leaf in EXAMPLE[:5]]
    return Transition(*(jnp.asarray(field) for field in fields))


def draw_and_take(state, member, key, batch_size):
    return replay.take(state, member, replay.draw(state, key, batch_size))


@pytest.mark.parametrize(("capacity", "batch_size", "num_members"), [(7, 3, 1), (10, 4, 3), (5, 5, 2), (8, 1, 1)])
def test_keeps_the_newest_rows_whole(capacity, batch_size, num_members):
    """Ids in every field, at sizes that do not divide, over several wraps."""
    state = replay.init(EXAMPLE, capacity, num_members)
    add, sample = jax.jit(replay.add), jax.jit(draw_and_take, static_argnums=3)
    for step in range(12):
        ids = np.arange(step * batch_size, (step + 1) * batch_size)
        state = add(state, rows(ids, num_members))
        newest = set(range(max(0, ids[-1] + 1 - capacity), ids[-1] + 1))
        assert int(state.size) == len(newest)
        for member in range(num_members):
            drawn = sample(state, jnp.array(member), jax.random.key(step), 200)
            code = np.asarray(drawn.reward)
            for field in drawn[:5]:
                np.testing.assert_array_equal(
                    np.asarray(field).reshape(200, -1), code[:, None].repeat(np.size(field) // 200, 1)
                )
            assert set(code - 1e5 * member) == newest


def test_draws_uniformly():
    state = replay.add(replay.init(EXAMPLE, 50), rows(np.arange(40), 1))
    drawn = np.asarray(draw_and_take(state, jnp.array(0), jax.random.key(1), 40_000).reward).astype(int)
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
    assert replay.num_bytes(EXAMPLE, 11, 3) == sum(leaf.nbytes for leaf in state.storage[:5]) == 4 * 10 * 33


@pytest.mark.parametrize(
    ("capacity", "num_envs", "num_steps"), fast_are(2, [(23, 3, 4), (40, 1, 5), (12, 4, 3), (9, 3, 2)])
)
def test_spans_are_those_of_a_second_writing(capacity, num_envs, num_steps):
    """Over several wraps of the ring, with terminations and truncations: nothing leaks over either's end."""
    rng, gamma = np.random.default_rng(capacity), 0.9
    example = EXAMPLE._replace(truncation=jnp.zeros((), bool))
    state = replay.init(example, capacity, 2)
    add = jax.jit(replay.add)
    draw = jax.jit(
        lambda state, member, key: replay.take_spans(
            state,
            member,
            replay.draw(state, key, 300),
            num_steps=num_steps,
            num_envs=num_envs,
            gamma=jnp.float32(gamma),
        )
    )
    steps = []  # of every environment, in order: (id, reward, discount, truncation)
    for time in range(3 * capacity // num_envs):
        ids = (np.arange(num_envs) + time * num_envs).astype(np.float32)
        reward, kind = rng.normal(size=num_envs).astype(np.float32), rng.choice(3, num_envs, p=[0.7, 0.15, 0.15])
        discount, truncation = (kind != 1).astype(np.float32), kind == 2
        steps.append((ids, reward, discount, truncation))
        one = rows(ids, 2)._replace(
            reward=jnp.stack([reward, -reward]),
            discount=jnp.stack([discount] * 2),
            truncation=jnp.stack([truncation] * 2),
        )
        state = add(state, one)
    newest = len(steps) - 1
    for member, sign in ((0, 1.0), (1, -1.0)):
        drawn = draw(state, jnp.array(member), jax.random.key(member))
        for row in range(300):
            first = int(drawn.observation[row, 0] - 1e5 * member)
            time, env = divmod(first, num_envs)
            total, factor = 0.0, 1.0
            for last in range(time, min(time + num_steps, newest + 1)):
                _, reward, discount, truncation = (field[env] for field in steps[last])
                total += factor * sign * reward
                if discount == 0 or truncation or last == min(time + num_steps - 1, newest):
                    break
                factor *= gamma
            np.testing.assert_allclose(drawn.reward[row], total, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(drawn.discount[row], factor * discount, rtol=1e-6)
            assert drawn.next_observation[row, 0] - 1e5 * member == last * num_envs + env
            assert drawn.truncation[row] == truncation


def test_a_span_of_one_step_is_a_plain_transition():
    state = replay.init(EXAMPLE._replace(truncation=jnp.zeros((), bool)), 50)
    state = replay.add(state, rows(np.arange(40), 1)._replace(truncation=jnp.zeros((1, 40), bool)))
    arguments = (state, jnp.array(0), replay.draw(state, jax.random.key(1), 16))
    plain = replay.take(*arguments)
    span = replay.take_spans(*arguments, num_steps=1, num_envs=8, gamma=0.5)
    jax.tree.map(np.testing.assert_array_equal, plain, span)
