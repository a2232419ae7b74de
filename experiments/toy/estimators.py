"""Studies of the estimators: signal to noise, unbiasedness, baselines, and what each objective prefers.

Signal to noise is |E g|^2 / (sum of the variances of g), g the gradient from one batch (arXiv:2606.06096).
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.comparing.drawing import COLOURS, MARKERS, Row, column, label, new_figure, select, unique
from remac.estimators.advantages import expected_improvement, leave_two_out_baseline, lstat_advantage, pkpo
from remac.estimators.exact import exact_advantage
from remac.estimators.order_statistics import lstat, lstat_weights, rank_weights, sample_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATHWISE, SCORE_FUNCTION = "pathwise", "score function"
NUM_SAMPLES = 64


def arm_rewards(kind: str, num_arms: int) -> np.ndarray:
    """Returns the rewards of a bandit's arms, ascending: evenly spaced, doubling, or normal quantiles."""
    arms = np.arange(num_arms)
    if kind == "linear":
        return arms / (num_arms - 1)
    if kind == "exponential":
        return 2.0 ** (arms - num_arms + 1)
    from scipy.special import ndtri

    return ndtri((arms + 0.5) / num_arms)


def softmax_gradients(
    key: jax.Array, rewards: np.ndarray, repeats: int, num_samples: int, coefficients: Callable[[jax.Array], jax.Array]
) -> np.ndarray:
    """Draws gradients with respect to the logits of a uniform softmax policy.

    Args:
        key: Consumed.
        rewards: Rewards of the arms, `[A]`.
        repeats: Number of batches.
        num_samples: N.
        coefficients: Maps rewards `[repeats, N]` to the coefficients of grad log p_i.

    Returns:
        sum_i coefficient_i grad log p_i of each batch, `[repeats, A]`.
    """
    num_arms = len(rewards)
    draws = jax.random.randint(key, (repeats, num_samples), 0, num_arms)
    weights = coefficients(jnp.asarray(rewards)[draws])
    # d log p_i / d logit_a = 1{a_i = a} - 1/A.
    scores = jax.nn.one_hot(draws, num_arms, dtype=weights.dtype) - 1 / num_arms
    return np.asarray(jnp.einsum("bn,bna->ba", weights, scores))


def signal_to_noise(gradients: np.ndarray) -> float:
    """Computes |mean|^2 / sum of variances over the first axis."""
    return float(np.sum(gradients.mean(0) ** 2) / np.sum(gradients.var(0)))


# --- signal to noise ---

OMEGA = 4.0
RIPPLE = 0.2


@jax.jit
def landscape(action: jax.Array, *, ripple: float) -> jax.Array:
    """Computes -|z - 1|^2 + ripple sum sin(4 z) of actions `[..., D]`."""
    return -jnp.sum(jnp.square(action - 1), axis=-1) + ripple * jnp.sum(jnp.sin(OMEGA * action), axis=-1)


@jax.jit
def _pathwise_gradients(mean: jax.Array, noise: jax.Array, weights: jax.Array, ripple: float) -> jax.Array:
    def value(mean: jax.Array, noise: jax.Array) -> jax.Array:
        return lstat(landscape(mean[None] + noise, ripple=ripple), weights)

    return jax.vmap(jax.grad(value), in_axes=(None, 0))(mean, noise)


def gaussian_gradients(
    key: jax.Array, kind: str, dimension: int, k: int, repeats: int, *, ripple: float = RIPPLE
) -> np.ndarray:
    """Draws max@K gradients of `landscape` with respect to the mean of z ~ N(0.5, I).

    Args:
        key: Consumed.
        kind: `PATHWISE` or `SCORE_FUNCTION`.
        dimension: D.
        k: Number of retries.
        repeats: Number of batches.
        ripple: Of the reward.

    Returns:
        Gradients, `[repeats, D]`.
    """
    mean = jnp.full(dimension, 0.5)
    noise = jax.random.normal(key, (repeats, NUM_SAMPLES, dimension))
    if kind == PATHWISE:
        return np.asarray(_pathwise_gradients(mean, noise, rank_weights("max", k, NUM_SAMPLES), ripple))
    advantages = lstat_advantage(landscape(mean[None, None] + noise, ripple=ripple), "max", k)
    # d log N(z; mu, 1) / d mu = z - mu.
    return np.asarray(k / NUM_SAMPLES * jnp.einsum("bn,bnd->bd", advantages, noise))


def estimator_snr(size: str) -> list[Row]:
    """Measures signal to noise by retries, arms and dimension, N = 64.

    Args:
        size: ``full`` uses 1,000 repeats, ``small`` 300.

    Returns:
        Rows of study (what the panel shows), series, x, and the signal-to-noise ratio.
    """
    repeats = 1000 if size == "full" else 300
    keys = iter(jax.random.split(jax.random.key(2), 128))
    rows: list[Row] = []

    def add(study: str, series: str, x: int, gradients: np.ndarray) -> None:
        rows.append({"study": study, "series": series, "x": x, "snr": signal_to_noise(gradients)})

    def bandit(study: str, series: str, x: int, num_arms: int, k: int) -> None:
        def coefficients(rewards: jax.Array) -> jax.Array:
            return k / NUM_SAMPLES * lstat_advantage(rewards, "max", k)

        rewards = arm_rewards(series, num_arms)
        add(study, series, x, softmax_gradients(next(keys), rewards, repeats, NUM_SAMPLES, coefficients))

    for kind in ("linear", "exponential", "Gaussian"):
        for k in range(1, 7):
            bandit("softmax, 8 arms: retries K", kind, k, 8, k)
        for num_arms in (4, 8, 16):
            bandit("softmax, K = 4: arms", kind, num_arms, num_arms, 4)
    for kind in (PATHWISE, SCORE_FUNCTION):
        for ripple in (RIPPLE, 0.0):
            series = kind + (", rippled" if ripple else ", smooth")
            for k in range(1, 7):
                gradients = gaussian_gradients(next(keys), kind, 2, k, repeats, ripple=ripple)
                add("Gaussian, D = 2: retries K", series, k, gradients)
            for dimension in (1, 2, 4, 8):
                gradients = gaussian_gradients(next(keys), kind, dimension, 4, repeats, ripple=ripple)
                add("Gaussian, K = 4: dimension D", series, dimension, gradients)
    return rows


SNR_STYLES: dict[str, dict[str, Any]] = {
    "linear": {"color": COLOURS[0], "marker": "o"},
    "exponential": {"color": COLOURS[1], "marker": "s"},
    "Gaussian": {"color": COLOURS[2], "marker": "^"},
    "pathwise, rippled": {"color": COLOURS[3], "marker": "D", "linestyle": "--"},
    "pathwise, smooth": {"color": COLOURS[3], "marker": "D"},
    "score function, rippled": {"color": COLOURS[4], "marker": "v", "linestyle": "--"},
    "score function, smooth": {"color": COLOURS[4], "marker": "v"},
}


def plot_estimator_snr(rows: list[Row]) -> "Figure":
    """Draws one panel per study."""
    studies = sorted(unique(rows, "study"))
    figure, axes = new_figure(1, 4, panel=(2.6, 2.7))
    for study, ax in zip(studies, axes[0], strict=True):
        for series in unique(select(rows, study=study), "series"):
            chosen = select(rows, study=study, series=series)
            ax.plot(column(chosen, "x"), column(chosen, "snr"), label=series, markersize=4, **SNR_STYLES[series])
        ax.set_yscale("log")
        ax.set_xticks(unique(select(rows, study=study), "x"))
        title, _, x = study.partition(": ")
        label(ax, title=title, x=x, y="signal to noise" if ax is axes[0, 0] else "")
        ax.legend(frameon=False, fontsize=6, handlelength=3)
    return figure


# --- unbiasedness and baselines ---

ESTIMATORS: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "no baseline (PKPO s)": lambda rewards, k: pkpo(rewards, k, "none"),
    "PKPO leave-one-out": lambda rewards, k: pkpo(rewards, k, "leave_one_out"),
    "PKPO leave-one-out minus one": lambda rewards, k: pkpo(rewards, k, "leave_one_out_minus_one"),
    "leave-one-out (OrderGrad)": lambda rewards, k: k / rewards.shape[-1] * lstat_advantage(rewards, "max", k),
    # By its definition, so that its agreement with the one above is measured and not assumed.
    "leave-two-out (MaxPO)": lambda rewards, k: (
        k / rewards.shape[-1] * (expected_improvement(rewards, k) - leave_two_out_baseline(rewards, k))
    ),
}


def _at(coefficients: Callable[[jax.Array, int], jax.Array], k: int) -> Callable[[jax.Array], jax.Array]:
    return lambda rewards: coefficients(rewards, k)


def exact_softmax_gradient(rewards: np.ndarray, k: int) -> np.ndarray:
    """Computes K sum_b p_b abar_b grad log p_b for a uniform softmax policy, `[A]`."""
    probabilities = np.full(len(rewards), 1 / len(rewards))
    advantages = exact_advantage(jnp.asarray(rewards), jnp.asarray(probabilities), "max", k)
    weighted = k * probabilities * np.asarray(advantages)
    return weighted - probabilities * weighted.sum()


def exact_gaussian_gradient(mu: float, sigma: float, k: int) -> np.ndarray:
    """Computes the max@K gradient of r(a) = -a^2 with respect to (mu, sigma) by quadrature.

    J_K = - int_0^inf 2 s P(|mu + sigma xi| > s)^K ds, xi ~ N(0, 1).
    """
    grid = jnp.linspace(0, abs(mu) + 12 * sigma, 20_001)

    def value(parameters: jax.Array) -> jax.Array:
        mu, sigma = parameters
        cdf = jax.scipy.special.ndtr
        beyond = cdf((-grid - mu) / sigma) + cdf((mu - grid) / sigma)
        return -jnp.trapezoid(2 * grid * beyond**k, grid)

    return np.asarray(jax.jit(jax.grad(value))(jnp.asarray([mu, sigma])))


def parabola_gradients(key: jax.Array, kind: str, mu: float, sigma: float, k: int, repeats: int) -> np.ndarray:
    """Draws max@K gradients of r(a) = -a^2 with respect to (mu, sigma), `[repeats, 2]`."""
    noise = jax.random.normal(key, (repeats, NUM_SAMPLES))
    actions = mu + sigma * noise
    if kind == PATHWISE:
        # dr/dmu = -2 a and dr/dsigma = -2 a xi, each with its sample's weight.
        weights = sample_weights(-jnp.square(actions), rank_weights("max", k, NUM_SAMPLES))
        slopes = jnp.stack([-2 * actions, -2 * actions * noise], axis=-1)
        return np.asarray(jnp.einsum("bn,bnd->bd", weights, slopes))
    advantages = lstat_advantage(-jnp.square(actions), "max", k)
    scores = jnp.stack([noise, jnp.square(noise) - 1], axis=-1) / sigma
    return np.asarray(k / NUM_SAMPLES * jnp.einsum("bn,bnd->bd", advantages, scores))


BANDIT, PARABOLA = "softmax, 8 arms", "Gaussian, reward $-a^2$"


def unbiasedness(size: str) -> list[Row]:
    """Follows the running mean of the gradient over 200 batches, N = 64, K = 6.

    On 8 arms with normal rewards, and for r(a) = -a^2 at (mu, sigma) = (-1.5, 1).

    Args:
        size: Both sizes use 200 batches; it takes a moment.

    Returns:
        Rows of problem, estimator, batches, error of the running mean relative to the exact gradient, the same
        expected from the standard errors, and the largest deviation of a coordinate in standard errors.
    """
    del size
    k, num_batches, rewards, point = 6, 200, arm_rewards("Gaussian", 8), (-1.5, 1.0)
    # The same batches for all estimators of a problem.
    key = jax.random.key(3)
    problems = {BANDIT: exact_softmax_gradient(rewards, k), PARABOLA: exact_gaussian_gradient(*point, k)}
    gradients = {
        (BANDIT, name): softmax_gradients(key, rewards, num_batches, NUM_SAMPLES, _at(coefficients, k))
        for name, coefficients in ESTIMATORS.items()
    }
    for kind in (PATHWISE, SCORE_FUNCTION):
        gradients[PARABOLA, kind] = parabola_gradients(key, kind, *point, k, num_batches)
    counts = np.arange(1, num_batches + 1)
    rows = []
    for (problem, name), samples in gradients.items():
        exact = problems[problem]
        errors = np.cumsum(samples, axis=0) / counts[:, None] - exact
        standard_errors = samples.std(0, ddof=1) / np.sqrt(counts[:, None])
        rows += [
            {
                "problem": problem,
                "estimator": name,
                "batches": int(count),
                "relative_error": float(np.linalg.norm(error) / np.linalg.norm(exact)),
                "expected_relative_error": float(np.linalg.norm(standard) / np.linalg.norm(exact)),
                "largest_deviation": float(np.abs(error / standard).max()),
            }
            for count, error, standard in zip(counts, errors, standard_errors, strict=True)
        ]
    return rows


def plot_unbiasedness(rows: list[Row]) -> "Figure":
    """Draws the error of the running means, and what their standard errors make expect (dashed)."""
    figure, axes = new_figure(1, 2, panel=(3.4, 3.0))
    for problem, ax in zip(unique(rows, "problem"), axes[0], strict=True):
        for i, name in enumerate(unique(select(rows, problem=problem), "estimator")):
            chosen = select(rows, problem=problem, estimator=name)
            batches, colour = column(chosen, "batches"), COLOURS[i]
            # MaxPO's line coincides with OrderGrad's, and is drawn on top of it.
            width = 3.0 if "OrderGrad" in name else 1.2
            ax.plot(batches, column(chosen, "relative_error"), color=colour, label=name, linewidth=width)
            ax.plot(batches, column(chosen, "expected_relative_error"), "--", color=colour, linewidth=0.8)
        ax.set(xscale="log", yscale="log")
        text = "relative error of the mean gradient" if ax is axes[0, 0] else ""
        label(ax, title=problem, x="batches", y=text)
        ax.legend(frameon=False, fontsize=6.5)
    return figure


def baselines(size: str) -> list[Row]:
    """Measures the variance of each estimator of the max@K gradient, N = 32, 8 arms, rewards around 1.

    Args:
        size: ``full`` uses 4,000 batches, ``small`` 1,000.

    Returns:
        Rows of estimator, num_retries, variance (summed over coordinates), the squared norm of the exact gradient,
        and the error of the mean in standard errors.
    """
    num_samples, repeats, rewards = 32, 4000 if size == "full" else 1000, arm_rewards("Gaussian", 8) + 1
    rows = []
    for k in (1, 2, 4, 8, 16):
        exact = exact_softmax_gradient(rewards, k)
        for name, coefficients in ESTIMATORS.items():
            gradients = softmax_gradients(jax.random.key(4), rewards, repeats, num_samples, _at(coefficients, k))
            error = (gradients.mean(0) - exact) / (gradients.std(0) / math.sqrt(repeats))
            rows.append(
                {
                    "estimator": name,
                    "num_retries": k,
                    "variance": float(gradients.var(0).sum()),
                    "squared_gradient": float(np.sum(exact**2)),
                    "largest_deviation": float(np.abs(error).max()),
                }
            )
    return rows


def plot_baselines(rows: list[Row]) -> "Figure":
    """Draws the variance relative to the squared norm of the gradient, by number of retries."""
    figure, axes = new_figure(1, 1, panel=(3.8, 3.0))
    ax = axes[0, 0]
    for i, name in enumerate(unique(rows, "estimator")):
        chosen = select(rows, estimator=name)
        ratio = np.asarray(column(chosen, "variance")) / np.asarray(column(chosen, "squared_gradient"))
        style = {"linewidth": 3.5, "markersize": 8, "alpha": 0.6} if "OrderGrad" in name else {"linewidth": 1.4}
        ax.plot(column(chosen, "num_retries"), ratio, marker=MARKERS[i], color=COLOURS[i], label=name, **style)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ticks = unique(rows, "num_retries")
    ax.set_xticks(ticks, [str(k) for k in ticks])
    label(ax, x="number of retries K", y="variance / squared norm of the gradient")
    ax.legend(frameon=False, fontsize=7)
    return figure


# --- objectives ---

PREFERENCES = (
    "max",
    "quantile:0.9",
    "top_mean:4",
    "mean",
    "trimmed_mean:2",
    "median",
    "quantile:0.25",
    "lower_tail_mean:0.25",
    "min",
)
LARGEST_RISK = 4.5
RETRIES_OF_OBJECTIVES = 8


def risk_value(location: float | np.ndarray, risk: float | np.ndarray) -> float | np.ndarray:
    """Computes J of the policy that takes risk a: 0.3 a - 0.25 a^2 + a L, L the objective's value of the noise."""
    return 0.3 * risk - 0.25 * risk**2 + risk * location


def noise_location(objective: str, skew: int, k: int) -> float:
    """Computes an objective's exact value of skew * (exponential - 1).

    The j-th smallest of k exponentials has the mean sum_{i<j} 1 / (k - i) (Renyi, 1953).
    """
    ascending = np.cumsum(1 / (k - np.arange(k))) - 1
    return float(lstat_weights(objective, k) @ (ascending if skew > 0 else -ascending[::-1]))


def objectives(size: str) -> list[Row]:
    """Finds the risk that each objective prefers when rewards are skewed, K = 8.

    A policy is a risk a in [0, 4.5]; its reward is 0.3 a - 0.25 a^2 + a X, where X has mean zero and is an exponential
    minus one (many small losses, few large gains) or its mirror image.

    Args:
        size: ``full`` uses 4,000 batches of N = 64, ``small`` 1,000.

    Returns:
        Rows of noise, objective, risk, its exact and its estimated value, and the preferred risk by each.
    """
    num_samples, repeats = 64, 4000 if size == "full" else 1000
    risks = np.linspace(0, LARGEST_RISK, 91)
    draws = jax.random.exponential(jax.random.key(5), (repeats, num_samples)) - 1
    rows = []
    for skew, noise in ((1, "gains are rare"), (-1, "losses are rare")):
        for objective in PREFERENCES:
            k = RETRIES_OF_OBJECTIVES
            weights = rank_weights(objective, k, num_samples)
            # Rewards of one policy are increasing in X: one estimate of the noise serves all of them.
            estimated = float(jnp.mean(lstat(skew * draws, weights)))
            exact = noise_location(objective, skew, k)
            preferred = {
                name: float(np.clip((0.3 + location) / 0.5, 0, LARGEST_RISK))
                for name, location in (("preferred", exact), ("preferred_estimated", estimated))
            }
            rows += [
                {
                    "noise": noise,
                    "objective": objective,
                    "risk": float(risk),
                    "value": float(risk_value(exact, risk)),
                    "estimated_value": float(risk_value(estimated, risk)),
                    **preferred,
                }
                for risk in risks
            ]
    return rows


def plot_objectives(rows: list[Row]) -> "Figure":
    """Draws values by risk with their maxima (left), and preferred risks (right)."""
    figure, axes = new_figure(1, 3, panel=(2.9, 2.9))
    noises = unique(rows, "noise")
    shown = ("max", "mean", "median", "lower_tail_mean:0.25")
    for noise, ax in zip(noises, axes[0], strict=False):
        for i, objective in enumerate(shown):
            chosen = select(rows, noise=noise, objective=objective)
            ax.plot(column(chosen, "risk"), column(chosen, "value"), color=COLOURS[i], label=objective, linewidth=1.4)
            estimated = column(chosen, "estimated_value")
            ax.plot(column(chosen, "risk")[::9], estimated[::9], ".", color=COLOURS[i], markersize=4)
            best = chosen[0]["preferred"]
            ax.plot(best, np.interp(best, column(chosen, "risk"), column(chosen, "value")), "*", color=COLOURS[i])
        ax.set_ylim(-3, 4.5)
        label(ax, title=noise, x="risk a", y="objective (line: exact, dots: estimated)" if ax is axes[0, 0] else "")
    axes[0, 0].legend(frameon=False, fontsize=7)
    names = unique(rows, "objective")[::-1]
    heights = np.arange(len(names))
    for i, noise in enumerate(noises):
        preferred = [select(rows, noise=noise, objective=name)[0]["preferred"] for name in names]
        position = heights + (0.15, -0.15)[i]
        colour = ("#0072B2", "#E69F00")[i]
        axes[0, 2].hlines(position, 0, preferred, color=colour, linewidth=2)
        axes[0, 2].plot(preferred, position, MARKERS[i], color=colour, markersize=5, label=noise, clip_on=False)
    axes[0, 2].set_yticks(heights, names)
    axes[0, 2].legend(frameon=False, fontsize=7, loc="lower right")
    label(axes[0, 2], title="K = 8", x="preferred risk")
    return figure
