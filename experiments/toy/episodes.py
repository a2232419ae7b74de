"""Gradients over whole episodes: what the estimators of max@K vary by on a task whose exact gradient is known."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from agents import OrderGrad
from envs.risk import CLIMBS, PRIZES
from experiments.comparing.drawing import COLOURS, MARKERS, Row, column, label, new_figure, select, unique
from remac.estimators import expected_lstat
from remac.estimators.order_statistics import Objective
from remac.policies.distributions import TanhGaussian
from remac.training.functions import make_steps
from remac.training.loop import stack_members
from remac.types import Array, EnvState, Key, PyTree, Transition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_ENVS = 256  # episodes of one gradient, whatever N is
OF_MAXIMUM = ("maxpo", "pkpo", "pkpo_leave_one_out", "pkpo_leave_one_out_minus_one")
OF_MEAN = ("rloo", "grpo")


def exact_gradient(agent: OrderGrad, policy: PyTree, objective: Objective, k: int) -> PyTree:
    """Returns the gradient of the expected order statistic of K episodes of ``risk/ladder`` by the policy's parameters.

    An episode has few outcomes: it stops or falls at a rung, or gets to the top.
    """

    def value(params: PyTree) -> Array:
        distribution = agent.policy_network.apply({"params": params}, jnp.eye(len(PRIZES)))
        assert isinstance(distribution, TanhGaussian)
        climb = jax.scipy.stats.norm.cdf(distribution.mean[:, 0] * jnp.exp(-distribution.log_std[:, 0]))
        reach, prizes, probabilities = jnp.ones(()), [], []
        for rung, holds in enumerate(CLIMBS):
            prizes += [PRIZES[rung], 0.0]
            probabilities += [reach * (1 - climb[rung]), reach * climb[rung] * (1 - holds)]
            reach = reach * climb[rung] * holds
        return expected_lstat(jnp.array([*prizes, PRIZES[-1]]), jnp.stack([*probabilities, reach]), objective, k)

    return jax.jit(jax.grad(value))(policy["params"])


def sampled_gradients(agents: Sequence[OrderGrad], state: Any, key: Key, num_envs: int, num_rounds: int) -> PyTree:
    """Returns what agents would follow in many rounds of ``risk/ladder``, all from the same episodes.

    Args:
        agents: They differ in numbers only.
        state: Of all of them.
        key: Consumed.
        num_envs: E of a round.
        num_rounds: R.

    Returns:
        Gradients of the policy's parameters, leaves `[R, agents, ...]`.
    """
    env = envs.make("risk/ladder", num_envs=num_envs)
    acting, stacked = agents[0], stack_members(list(agents))

    def gradients(key: Key) -> PyTree:
        reset_key, loss_key, act_key = jax.random.split(key, 3)

        def step(env_state: EnvState, key: Key) -> tuple[EnvState, Transition]:
            action, extras = acting.act(state, key, jnp.asarray(env_state.observation))
            after = env.step(env_state, action)
            return after, make_steps(env_state, action, extras, after).transition

        start = env.reset(reset_key, acting.num_samples)
        _, steps = jax.lax.scan(step, start, jax.random.split(act_key, len(CLIMBS)))

        def gradient(agent: OrderGrad) -> PyTree:
            rows, _ = agent.rows(state, steps)
            batch = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in (rows | steps.extras).items()}
            params = state.policy["params"], state.value["params"]
            return jax.grad(agent.loss, has_aux=True)(params, loss_key, batch)[0][0]

        return jax.vmap(gradient)(stacked)

    return jax.jit(lambda keys: jax.lax.map(gradients, keys))(jax.random.split(key, num_rounds))


def flat(tree: PyTree, num_axes: int = 0) -> np.ndarray:
    """Returns the numbers of a tree in one axis, behind ``num_axes`` that all leaves share."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(*leaf.shape[:num_axes], -1) for leaf in leaves], axis=-1)


def episode_estimators(size: str) -> list[Row]:
    """Measures the variance of each estimator's gradient over 256 episodes of ``risk/ladder`` by an untrained policy.

    Args:
        size: ``full`` uses 2,000 rounds, ``small`` 100.

    Returns:
        Rows of estimator, num_samples, num_retries, variance (summed over parameters), the squared norm of the exact
        gradient, and that of the mean's distance from it.
    """
    num_rounds, numbers = (2000, (4, 8, 16, 32)) if size == "full" else (100, (4, 8))
    rows = []
    for n in numbers:
        cases = [(name, k) for name in OF_MAXIMUM for k in (1, 2, 4, 8) if k < n] + [(name, 1) for name in OF_MEAN]
        agents = [
            OrderGrad.create(
                len(PRIZES),
                1,
                episode_length=len(CLIMBS),
                num_samples=n,
                num_retries=k,
                estimator=name,
                hidden_sizes=(16,),
            )
            for name, k in cases
        ]
        state = agents[0].init(jax.random.key(0))
        sampled = flat(sampled_gradients(agents, state, jax.random.key(n), NUM_ENVS, num_rounds), 2)
        for index, (name, k) in enumerate(cases):
            exact = -flat(exact_gradient(agents[index], state.policy, "mean" if name in OF_MEAN else "max", k))
            of_case = sampled[:, index].astype(np.float64)
            rows.append(
                {
                    "estimator": name,
                    "num_samples": n,
                    "num_retries": k,
                    "variance": float(of_case.var(0).sum()),
                    "squared_gradient": float(np.sum(exact.astype(np.float64) ** 2)),
                    "squared_bias": float(np.sum((of_case.mean(0) - exact) ** 2)),
                }
            )
    return rows


def plot_episode_estimators(rows: list[Row]) -> "Figure":
    """Draws the variance relative to the squared norm of the gradient, by N, for every K."""
    retries = unique(rows, "num_retries")
    figure, axes = new_figure(1, len(retries), panel=(2.9, 2.6))
    names = unique(rows, "estimator")
    for panel, k in zip(axes.flat, retries, strict=True):
        for i, name in enumerate(names):
            if chosen := select(rows, estimator=name, num_retries=k):
                ratio = np.asarray(column(chosen, "variance")) / np.asarray(column(chosen, "squared_gradient"))
                panel.plot(column(chosen, "num_samples"), ratio, marker=MARKERS[i], color=COLOURS[i], label=name)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        ticks = unique(rows, "num_samples")
        panel.set_xticks(ticks, [str(n) for n in ticks])
        label(panel, title=f"K = {k}", x="episodes from each start, N", y="variance / squared norm")
    axes.flat[0].legend(frameon=False, fontsize=6)
    return figure
