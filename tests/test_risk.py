"""Tasks of chance: what they pay, how often, and which behaviour each objective prefers."""

import jax
import numpy as np
import pytest

import envs
from envs.risk import CLIMBS, LOTS, PRIZES, TASKS
from remac.estimators import expected_lstat
from remac.validation import InvalidValueError

# Objective over K = 8 tries, and the row of the module's tables that is best for it.
OBJECTIVES = {"lottery": {"median": 0, "lower_tail_mean:0.25": 1, "mean": 2, "max": 3},
              "ladder": {"lower_tail_mean:0.25": 0, "median": 2, "mean": 3, "max": 4}}  # fmt: skip


def outcomes(task, row):
    """Returns prizes and their probabilities."""
    if task == "lottery":
        lot = LOTS[row]
        return [lot.prize, lot.otherwise], [lot.probability, 1 - lot.probability]
    reached = np.prod(CLIMBS[:row])
    return [PRIZES[row], 0.0], [reached, 1 - reached]


@pytest.mark.parametrize("task", list(OBJECTIVES))
def test_each_objective_prefers_another_row(task):
    num_rows = len(LOTS if task == "lottery" else PRIZES)
    for objective, best in OBJECTIVES[task].items():
        values = [float(expected_lstat(*map(np.array, outcomes(task, row)), objective, 8)) for row in range(num_rows)]
        assert np.argmax(values) == best
        assert sorted(values)[-1] - sorted(values)[-2] > 0.04, "by a margin"


def play(task, actions, num_envs):
    """Returns the returns of first episodes by actions `[T]`, `[E]`."""
    env = envs.make(f"risk/{task}", num_envs=num_envs)

    def step(carry, action):
        state, total, alive = carry
        state = env.step(state, np.full((num_envs, 1), 1.0, np.float32) * action)
        total = total + alive * state.reward
        return (state, total, alive * ~(state.termination | state.truncation)), ()

    @jax.jit
    def run(key, actions):
        state = env.reset(key)
        zeros = np.zeros(num_envs, np.float32)
        return jax.lax.scan(step, (state, zeros, zeros + 1), actions)[0][1:]

    total, alive = run(jax.random.key(1), np.asarray(actions, np.float32))
    assert not alive.any(), "all episodes have ended"
    return np.asarray(total)


@pytest.mark.parametrize("task", list(OBJECTIVES))
def test_rows_pay_what_the_tables_say(task):
    count = 20_000
    for row in range(len(LOTS if task == "lottery" else PRIZES)):
        actions = [[-0.75, -0.25, 0.25, 1.0][row]] if task == "lottery" else [0.1] * row + [-0.1] * (4 - row)
        returns = play(task, actions, count)
        prizes, probabilities = outcomes(task, row)
        for prize in set(prizes):
            share = sum(chance for value, chance in zip(prizes, probabilities, strict=True) if value == prize)
            found = np.mean(np.isclose(returns, prize))
            assert abs(found - share) <= 4.5 * np.sqrt(share * (1 - share) / count), (row, prize)


@pytest.mark.parametrize(("task", "limit"), [("half_cheetah", 0.05), ("hopper", 0.0), ("reacher", 0.15)])
def test_a_rare_event_is_added_to_the_plain_task(task, limit):
    """Beside the plain environment with the same starts and actions: all steps, over the ends of episodes."""
    options = {"num_envs": 64, "episode_length": 30, "num_threads": 1}
    risky = envs.make(f"risk/{task}", **options, probability=0.4, amount=-7.0, limit=limit)
    plain = envs.make(f"mujoco/{task}", **options)
    state, other = (env.reset(jax.random.key(4)) for env in (risky, plain))
    drawn_before, happened, drawn, returns = None, 0, [], np.zeros(64)
    rng = np.random.default_rng(2)
    x = np.array(other.physics.position)
    for _ in range(75):
        action = rng.uniform(-1, 1, (64, risky.action_size))
        state, other = risky.step(state, action), plain.step(other, action)
        np.testing.assert_array_equal(state.observation, other.observation)
        extra = np.asarray(state.reward - other.reward)
        event = state.metrics["rare_event"]
        np.testing.assert_allclose(extra, -7.0 * event, atol=1e-5)
        x = x + risky.dt * other.metrics.get("forward_velocity", 0.0)
        if task == "reacher":
            is_beyond = other.metrics["distance"] < limit
        else:
            is_beyond = (x if task == "hopper" else other.metrics["forward_velocity"]) > limit
        assert not event[~is_beyond].any()
        # Within an episode, all steps beyond the limit or none.
        if drawn_before is None:
            drawn_before = np.full(64, -1)
        known = is_beyond & (drawn_before >= 0)
        np.testing.assert_array_equal(event[known], drawn_before[known])
        drawn_before = np.where(is_beyond, event, drawn_before)
        returns += state.reward
        np.testing.assert_allclose(state.episode_return, returns, rtol=1e-4, atol=1e-4)
        ended = state.termination | state.truncation
        drawn += list(drawn_before[ended & (drawn_before >= 0)])
        drawn_before[ended], returns[ended] = -1, 0
        x = np.where(ended, other.physics.position, x)
        happened += event.sum()
    assert happened > 20 and len(drawn) > 60
    assert abs(np.mean(drawn) - 0.4) < 4.5 * np.sqrt(0.24 / len(drawn))


def test_evaluation_environments_are_of_the_same_risk():
    env = envs.make("risk/hopper", num_envs=2, probability=1.0, limit=-5.0, amount=3.0).for_evaluation(4)
    state = env.step(env.reset(jax.random.key(0)), np.zeros((4, 3)))
    assert state.metrics["rare_event"].tolist() == [1.0] * 4 and env.event.amount == 3.0


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("hopper", {"probability": 1.5}, "probability=1.5: must be a finite number in"),
        ("hopper", {"amount": 1e25}, "amount=1e.25: must be"),
        ("hopper", {"amount": "much"}, "amount=much: must be"),
        (
            "hopper",
            {"nothing": 1},
            "nothing=1: risk/hopper has no such option; its options are amount, .*limit",
        ),
        ("lottery", {"probability": 0.5}, "probability=0.5: "),
    ],
)
def test_bad_options_are_refused(task, options, message):
    with pytest.raises(InvalidValueError, match=message):
        envs.make(f"risk/{task}", num_envs=2, **options)


def test_all_tasks_are_listed():
    assert {f"risk/{task}" for task in TASKS} <= set(envs.names())
