"""Studies of r(a) = -a^2 under a Gaussian policy, a = mu + sigma xi: why retries keep a policy wide, and for how long.

The gradient is the pathwise one of max@M (arXiv:2606.05888) with respect to (mu, sigma). The studies of
optimisation start at (-1.5, 1) and keep sigma at 1e-4 or more; the distance to the optimum is sqrt(mu^2 + sigma^2).
"""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.comparing.drawing import COLOURS_OF_RETRIES, Row, column, label, new_figure, select, unique
from remac.estimators.order_statistics import lstat, rank_weights
from remac.estimators.rescaling import with_length_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RETRIES = (1, 2, 4, 8)
# Below this sigma / |mu| the exact gradient widens the policy.
SIGN_CHANGES = {2: 0.574, 4: 0.8263, 8: 0.934}
LEARNING_RATE = 0.01
SMALLEST_SIGMA = 1e-4
OPTIMISERS = {
    "Adam, epsilon 1e-8": optax.adam(LEARNING_RATE, eps=1e-8),
    "Adam, epsilon 0.1": optax.adam(LEARNING_RATE, eps=0.1),
    "Adam, epsilon 1": optax.adam(LEARNING_RATE, eps=1.0),
    # Adam without its denominator.
    "momentum only": optax.chain(optax.ema(0.9, debias=True), optax.scale(-LEARNING_RATE)),
    "SGD": optax.sgd(LEARNING_RATE),
}
UNDAMPED = "\nlength of M = 1"


def objective(parameters: jax.Array, noise: jax.Array, weights: jax.Array) -> jax.Array:
    """Computes the batch value of an L-statistic of r(mu + sigma xi).

    Args:
        parameters: (mu, sigma), `[2]`.
        noise: Standard normal draws, `[..., N]`.
        weights: Rank weights, `[N]`.

    Returns:
        Values, `[...]`.
    """
    return lstat(-jnp.square(parameters[0] + parameters[1] * noise), weights)


# --- vector field ---

ENTROPY_BONUS = 0.5
PANELS = ((1, 0.0), (1, ENTROPY_BONUS), (4, 0.0), (8, 0.0))


def vector_field(size: str) -> list[Row]:
    """Computes the mean gradient on a 13 x 13 grid of (mu, sigma), N = 16.

    Args:
        size: ``full`` averages 100 repeats, ``small`` 40.

    Returns:
        Rows of panel, num_retries, entropy_bonus, mu, sigma, and the two derivatives.
    """
    num_samples, repeats = 16, 100 if size == "full" else 40
    grid = jnp.stack(jnp.meshgrid(jnp.linspace(-2, 2, 13), jnp.linspace(0.1, 2, 13)), axis=-1).reshape(-1, 2)
    noise = jax.random.normal(jax.random.key(0), (len(grid), repeats, num_samples))

    @jax.jit
    def field(weights: jax.Array, bonus: jax.Array) -> jax.Array:
        def value(parameters: jax.Array, noise: jax.Array) -> jax.Array:
            entropy = 0.5 * jnp.log(2 * math.pi * math.e * jnp.square(parameters[1]))
            return jnp.mean(objective(parameters, noise, weights)) + bonus * entropy

        return jax.vmap(jax.grad(value))(grid, noise)

    rows = []
    for num_retries, bonus in PANELS:
        gradients = np.asarray(field(jnp.asarray(rank_weights("max", num_retries, num_samples)), jnp.asarray(bonus)))
        panel = f"M = {num_retries}" + (f", entropy bonus {bonus:g}" if bonus else "")
        rows += [
            {
                "panel": panel,
                "num_retries": num_retries,
                "entropy_bonus": bonus,
                "mu": float(mu),
                "sigma": float(sigma),
                "d_mu": float(d_mu),
                "d_sigma": float(d_sigma),
            }
            for (mu, sigma), (d_mu, d_sigma) in zip(np.asarray(grid), gradients, strict=True)
        ]
    return rows


def plot_vector_field(rows: list[Row]) -> "Figure":
    """Draws unit arrows coloured by the norm of the gradient, and where the exact d/dsigma changes sign."""
    from matplotlib.colors import LogNorm

    panels = unique(rows, "panel")
    figure, axes = new_figure(1, len(panels), panel=(2.6, 2.7), sharey=True)
    norms = np.hypot(column(rows, "d_mu"), column(rows, "d_sigma"))
    scale = LogNorm(norms.min(), norms.max())
    for panel, ax in zip(panels, axes[0], strict=True):
        chosen = select(rows, panel=panel)
        mu, sigma, d_mu, d_sigma = (np.asarray(column(chosen, name)) for name in ("mu", "sigma", "d_mu", "d_sigma"))
        norm = np.hypot(d_mu, d_sigma)
        arrows = ax.quiver(
            *(mu, sigma, d_mu / norm, d_sigma / norm, norm),
            **{"norm": scale, "cmap": "viridis", "angles": "xy", "pivot": "mid", "scale": 15, "width": 0.008},
        )
        change = SIGN_CHANGES.get(chosen[0]["num_retries"])
        if change:
            edge = np.asarray([-2.0, 0.0, 2.0])
            ax.plot(edge, change * np.abs(edge), "--", color="0.4", linewidth=1, zorder=0)
        elif chosen[0]["entropy_bonus"]:
            # d/dsigma of -sigma^2 + bonus log(sigma) is zero here, whatever mu is.
            ax.axhline(math.sqrt(chosen[0]["entropy_bonus"] / 2), linestyle="--", color="0.4", linewidth=1, zorder=0)
        ax.plot(0, 0, marker="*", color="#D55E00", markersize=9, clip_on=False)
        ax.set(xlim=(-2.3, 2.3), ylim=(0, 2.2))
        label(ax, title=panel, x="policy mean $\\mu$", y="standard deviation $\\sigma$" if ax is axes[0, 0] else "")
    bar = figure.colorbar(arrows, ax=list(axes[0]), pad=0.01)
    bar.set_label("norm of the gradient", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


# --- optimisation ---


@partial(jax.jit, static_argnames=("optimiser", "num_steps"))
def optimise(key: jax.Array, weights: jax.Array, *, optimiser: str, num_steps: int) -> dict[str, jax.Array]:
    """Ascends from (-1.5, 1) with fresh samples in every step.

    Args:
        key: Consumed.
        weights: Rank weights, `[N]`.
        optimiser: One of `OPTIMISERS`, with `UNDAMPED` behind it for a gradient as long as that of M = 1.
        num_steps: Number of steps.

    Returns:
        mu, sigma, distance (each before the step), gradient_norm and update_norm, `[num_steps + 1]`; the norms of
        the last entry are those of a step that is not taken.
    """
    transformation = OPTIMISERS[optimiser.removesuffix(UNDAMPED)]
    uniform = jnp.full_like(weights, 1 / len(weights))
    start = jnp.asarray([-1.5, 1.0])

    def step(carry: tuple[jax.Array, Any], key: jax.Array) -> tuple[tuple[jax.Array, Any], dict[str, jax.Array]]:
        parameters, state = carry
        noise = jax.random.normal(key, (weights.shape[0],))
        gradient = -jax.grad(objective)(parameters, noise, weights)
        if optimiser.endswith(UNDAMPED):
            of_mean = jax.grad(objective)(parameters, noise, uniform)
            gradient = with_length_of(gradient[None], of_mean[None])[0]
        update, state = transformation.update(gradient, state, parameters)
        record = {
            "mu": parameters[0],
            "sigma": parameters[1],
            "distance": jnp.linalg.norm(parameters),
            "gradient_norm": jnp.linalg.norm(gradient),
            "update_norm": jnp.linalg.norm(update),
        }
        moved = parameters + update
        return (moved.at[1].max(SMALLEST_SIGMA), state), record

    return jax.lax.scan(step, (start, transformation.init(start)), jax.random.split(key, num_steps + 1))[1]


def optimisation(size: str, optimisers: tuple[str, ...]) -> list[Row]:
    """Runs optimisers for each number of retries, N = 64, 1,000 steps.

    Args:
        size: ``full`` runs 5 seeds, ``small`` 2.
        optimisers: As `optimise` takes them.

    Returns:
        Rows of optimiser, num_retries, seed, step and what `optimise` records, each fifth step.
    """
    num_samples, num_steps, num_seeds = 64, 1000, 5 if size == "full" else 2
    weights = jnp.asarray(np.stack([rank_weights("max", k, num_samples) for k in RETRIES]))
    keys = jax.random.split(jax.random.key(1), num_seeds)
    rows = []
    for optimiser in optimisers:
        run = partial(optimise, optimiser=optimiser, num_steps=num_steps)
        records = jax.vmap(jax.vmap(run, in_axes=(0, None)), in_axes=(None, 0))(keys, weights)
        records = {name: np.asarray(values) for name, values in records.items()}
        rows += [
            {"optimiser": optimiser, "num_retries": k, "seed": seed, "step": step}
            | {name: float(values[i, seed, step]) for name, values in records.items()}
            for i, k in enumerate(RETRIES)
            for seed in range(num_seeds)
            for step in range(0, num_steps + 1, 5)
        ]
    return rows


MAIN_OPTIMISERS = ("Adam, epsilon 1e-8", "Adam, epsilon 0.1", "Adam, epsilon 1", "SGD")
DENOMINATOR_OPTIMISERS = ("Adam, epsilon 1e-8", "Adam, epsilon 1", "momentum only", "SGD")


def distance(size: str) -> list[Row]:
    """Runs Adam with three epsilons, and SGD."""
    return optimisation(size, MAIN_OPTIMISERS)


def adam_denominator(size: str) -> list[Row]:
    """Runs Adam with and without its denominator."""
    return optimisation(size, DENOMINATOR_OPTIMISERS)


def damping(size: str) -> list[Row]:
    """Runs all optimisers, for the norms of their gradients and updates."""
    return optimisation(size, tuple(OPTIMISERS))


def undamped(size: str) -> list[Row]:
    """Runs what epsilon matters to, with gradients as they are and as long as those of M = 1."""
    names = ("Adam, epsilon 1e-8", "Adam, epsilon 1", "SGD")
    return optimisation(size, tuple(name + suffix for name in names for suffix in ("", UNDAMPED)))


def _over_seeds(rows: list[Row], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns steps, and the mean, smallest and largest of a column over seeds."""
    values = np.asarray([column(select(rows, seed=seed), name) for seed in unique(rows, "seed")])
    return np.asarray(unique(rows, "step")), values.mean(0), values.min(0), values.max(0)


def _draw_curves(rows: list[Row], names: dict[str, str]) -> "Figure":
    """Draws quantities (rows) by step for each optimiser (columns), one line per number of retries."""
    optimisers = unique(rows, "optimiser")
    figure, axes = new_figure(len(names), len(optimisers), sharex=True, sharey="row")
    for row, (name, text) in enumerate(names.items()):
        for i, optimiser in enumerate(optimisers):
            ax = axes[row, i]
            for k in RETRIES:
                steps, mean, low, high = _over_seeds(select(rows, optimiser=optimiser, num_retries=k), name)
                ax.plot(steps, mean, color=COLOURS_OF_RETRIES[k], label=f"M = {k}", linewidth=1.4)
                ax.fill_between(steps, low, high, color=COLOURS_OF_RETRIES[k], alpha=0.2, linewidth=0)
            ax.set_yscale("log")
            title = optimiser if row == 0 else ""
            label(ax, title=title, x="step" if row == len(names) - 1 else "", y=text if i == 0 else "")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure


DISTANCE = "distance $\\sqrt{\\mu^2 + \\sigma^2}$"


def plot_distance(rows: list[Row]) -> "Figure":
    """Draws the distance to the optimum by step; bands span the seeds."""
    return _draw_curves(rows, {"distance": DISTANCE})


def plot_adam_denominator(rows: list[Row]) -> "Figure":
    """Draws distance and size of the updates by step: only Adam's denominator undoes the damping."""
    return _draw_curves(rows, {"distance": DISTANCE, "update_norm": "norm of the update"})


def plot_optimisation_paths(rows: list[Row]) -> "Figure":
    """Draws the first seed's path in the plane of (mu, sigma)."""
    optimisers = unique(rows, "optimiser")
    figure, axes = new_figure(1, len(optimisers), panel=(2.5, 2.6), sharex=True, sharey=True)
    for optimiser, ax in zip(optimisers, axes[0], strict=True):
        for k in RETRIES:
            path = select(rows, optimiser=optimiser, num_retries=k, seed=0)
            mu, sigma = column(path, "mu"), column(path, "sigma")
            ax.plot(mu, sigma, color=COLOURS_OF_RETRIES[k], linewidth=1.4, label=f"M = {k}")
            ax.plot(mu[-1], sigma[-1], marker="o", color=COLOURS_OF_RETRIES[k], markersize=5, markeredgecolor="white")
        ax.plot(-1.5, 1.0, marker="s", color="0.5", markersize=5)
        ax.plot(0, 0, marker="*", color="#009E73", markersize=9, zorder=0)
        label(ax, title=optimiser, x="$\\mu$", y="$\\sigma$" if ax is axes[0, 0] else "")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure


def mean_norms(rows: list[Row], num_steps: int = 100) -> dict[tuple[str, int], tuple[float, float]]:
    """Returns mean gradient and update norms over the first steps, for each optimiser and number of retries."""
    result: dict[tuple[str, int], tuple[float, float]] = {}
    for optimiser in unique(rows, "optimiser"):
        for k in unique(rows, "num_retries"):
            early = [row for row in select(rows, optimiser=optimiser, num_retries=k) if row["step"] < num_steps]
            gradient, update = (float(np.mean(column(early, f"{x}_norm"))) for x in ("gradient", "update"))
            result[optimiser, k] = gradient, update
    return result


def plot_damping(rows: list[Row]) -> "Figure":
    """Draws the norms of gradients and updates over the first 100 steps against the number of retries."""
    from experiments.comparing.drawing import COLOURS, MARKERS

    norms = mean_norms(rows)
    figure, axes = new_figure(1, 2, panel=(3.2, 2.8))
    for i, (ax, text) in enumerate(zip(axes[0], ("norm of the gradient", "norm of the update"), strict=True)):
        for j, optimiser in enumerate(unique(rows, "optimiser")):
            values = [norms[optimiser, k][i] for k in RETRIES]
            ax.plot(RETRIES, values, marker=MARKERS[j], color=COLOURS[j], label=optimiser, linewidth=1.4, markersize=5)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(RETRIES, [str(k) for k in RETRIES])
        label(ax, x="number of retries M", y=text)
    axes[0, 1].legend(frameon=False, fontsize=7)
    return figure
