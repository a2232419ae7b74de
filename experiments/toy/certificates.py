"""What sign certificates do to a policy that follows a critic with an error planted in its last layer."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from experiments.comparing.drawing import COLOURS, Row, column, label, new_figure, select, unique
from remac.estimators import certificate_weights, sign_radii
from remac.types import AnyArray, Array, Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CENTRES = np.linspace(-3.0, 3.0, 25)
WIDTH = 0.35
NUM_SAMPLES, NUM_STEPS, LEARNING_RATE = 64, 400, 0.02
QUANTILES = (None, 0.9, 0.7, 0.5, 0.3)
FALSE_PEAK, START = 2.0, 1.0


def features(action: AnyArray) -> Array:
    """Returns what goes into the last layer at actions `[...]`: bumps at 25 places, and 1, `[..., 26]`."""
    action = jnp.asarray(action)[..., None]
    centres = jnp.asarray(CENTRES, action.dtype).reshape((1,) * (action.ndim - 1) + (-1,))
    bumps = jnp.exp(-0.5 * ((action - centres) / WIDTH) ** 2)
    return jnp.concatenate([bumps, jnp.ones_like(action)], axis=-1)


def true_weights() -> np.ndarray:
    """Returns the last layer whose value is closest to -a^2 on [-3, 3]."""
    actions = np.linspace(-3.0, 3.0, 400)
    return np.linalg.lstsq(np.asarray(features(actions), np.float64), -(actions**2), rcond=1e-6)[0]


def planted(error: str, seed: int) -> np.ndarray:
    """Returns a last layer with an error: ``peak``, a false optimum at 2, 2 high; or ``noise``, in all weights."""
    weights = true_weights()
    if error == "peak":
        bump = np.append(np.exp(-0.5 * ((CENTRES - FALSE_PEAK) / 0.3) ** 2), 0.0)
        height = float(np.asarray(features(np.array(FALSE_PEAK))) @ bump)
        return weights + (2.0 + FALSE_PEAK**2) / height * bump
    return weights + np.append(np.random.default_rng(seed).normal(0.0, 0.6, len(CENTRES)), 0.0)


def follow(weights: Array, truth: Array, quantile: float | None, key: Key) -> dict[str, Array]:
    """Follows the critic from a = Normal(1, 0.5) by the score function, with the certificate on every sample.

    Returns:
        Of every step the mean and standard deviation of the policy, the critic's value and the true one, and the share
        of the weight that lies on samples whose advantage has the wrong sign, `[steps]` each.
    """

    def step(policy: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], dict[str, Array]]:
        mean, log_std = policy
        noise = jax.random.normal(key, (NUM_SAMPLES,))
        action = mean + jnp.exp(log_std) * noise
        rows = features(action)
        value, true_value = rows @ weights, rows @ truth
        advantage, true_advantage = value - jnp.mean(value), true_value - jnp.mean(true_value)
        certificate = jnp.ones_like(value)
        if quantile is not None:
            certificate = certificate_weights(sign_radii(rows, weights), quantile)
        coefficient = certificate * advantage / (jnp.std(value) + 1e-6)
        by_mean = jnp.mean(coefficient * noise) * jnp.exp(-log_std)
        by_log_std = jnp.mean(coefficient * (noise**2 - 1.0))
        moved = mean + LEARNING_RATE * by_mean, jnp.maximum(log_std + LEARNING_RATE * by_log_std, -3.0)
        wrong = certificate * jnp.abs(advantage) * (advantage * true_advantage < 0)
        return moved, {
            "mean": mean,
            "std": jnp.exp(log_std),
            "value": jnp.mean(value),
            "true_value": jnp.mean(true_value),
            "wrong_share": jnp.sum(wrong) / jnp.sum(certificate * jnp.abs(advantage)),
        }

    start = jnp.asarray(START), jnp.log(jnp.asarray(0.5))
    return jax.lax.scan(step, start, jax.random.split(key, NUM_STEPS))[1]


def sign_certificate(size: str) -> list[Row]:
    """Measures over-estimation and wrong signs along the way, for a false peak and for noise in the last layer.

    Args:
        size: ``full`` takes 20 seeds, ``small`` 4.

    Returns:
        Rows of error, quantile (0 without certificates), seed and step (every 10th): see ``follow``; and
        ``over_estimation``, the critic's value of the policy minus the true one.
    """
    rows = []
    run = jax.jit(jax.vmap(follow, in_axes=(0, None, None, 0)), static_argnums=2)
    truth = jnp.asarray(true_weights())
    seeds = range(20 if size == "full" else 4)
    for error in ("peak", "noise"):
        weights = jnp.stack([jnp.asarray(planted(error, seed)) for seed in seeds])
        keys = jax.vmap(jax.random.key)(jnp.asarray([*seeds]))
        for quantile in QUANTILES:
            found = {name: np.asarray(values) for name, values in run(weights, truth, quantile, keys).items()}
            found["over_estimation"] = found["value"] - found["true_value"]
            rows += [
                {"error": error, "quantile": quantile or 0.0, "seed": seed, "step": step}
                | {name: float(values[seed, step]) for name, values in found.items()}
                for seed in seeds
                for step in range(0, NUM_STEPS, 10)
            ]
    return rows


def plot_sign_certificate(rows: list[Row]) -> "Figure":
    """Draws means over seeds along the way: over-estimation, true value, and weight on wrong signs."""
    errors, shown = unique(rows, "error"), ("over_estimation", "true_value", "wrong_share")
    names = {"over_estimation": "over-estimation", "true_value": "true value", "wrong_share": "weight on wrong signs"}
    figure, axes = new_figure(len(errors), len(shown), panel=(3.2, 2.2))
    for line, error in enumerate(errors):
        for place, name in enumerate(shown):
            panel = axes[line, place]
            for index, quantile in enumerate(unique(rows, "quantile")):
                chosen = select(rows, error=error, quantile=quantile)
                steps = unique(chosen, "step")
                means = [np.mean(column(select(chosen, step=step), name)) for step in steps]
                text = f"share {quantile:g}" if quantile else "no certificate"
                panel.plot(steps, means, color=COLOURS[index], label=text)
            title = {"peak": "a false peak", "noise": "noise in all weights"}[error]
            label(panel, title=title, x="step", y=names[name])
    axes[0, 0].legend(frameon=False, fontsize=6)
    return figure
