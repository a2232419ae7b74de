import csv
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from slow import fast_are

from experiments.comparing.drawing import column, save, select, unique
from experiments.console.key_value import exit_with
from experiments.toy.__main__ import STUDIES, compute, main, read_settings
from experiments.toy.estimators import ESTIMATORS, PATHWISE, exact_gaussian_gradient
from experiments.toy.gaussian import (
    DENOMINATOR_OPTIMISERS,
    OPTIMISERS,
    RETRIES,
    SIGN_CHANGES,
    UNDAMPED,
    mean_norms,
)

pytestmark = pytest.mark.optimized  # they run longer than they compile

# The studies of optimisation are parts of one run of all optimisers.
TABLES = {"distance": "damping", "optimisation_paths": "damping", "adam_denominator": "damping"}


@pytest.fixture(scope="module")
def tables():
    cache = {}

    def table(study):
        study = TABLES.get(study, study)
        if study not in cache:
            cache[study] = compute(study, "small")
        return cache[study]

    return table


@pytest.mark.slow
def test_vector_field_signs_panel_by_panel(tables):
    rows = tables("vector_field")
    assert len(rows) == 4 * 13 * 13
    for panel in unique(rows, "panel"):
        chosen = select(rows, panel=panel)
        mu, sigma, d_mu, d_sigma = (np.asarray(column(chosen, n)) for n in ("mu", "sigma", "d_mu", "d_sigma"))
        k, bonus = chosen[0]["num_retries"], chosen[0]["entropy_bonus"]
        # The mean moves to the optimum everywhere, in every panel. (For narrow policies beyond doubt.)
        far = np.abs(mu) > 0.5 * sigma
        assert (np.sign(d_mu) == -np.sign(mu))[far].all(), panel
        if k == 1 and not bonus:
            assert (d_sigma < 0).all(), panel
        elif bonus:
            # 0.5 / sigma - 2 sigma, whatever the mean is; away from the noise around its zero at 0.5.
            sure = np.abs(sigma - 0.5) > 0.2
            assert (np.sign(d_sigma) == np.sign(0.5 - sigma))[sure].all(), panel
            assert (d_sigma > 0)[sigma < 0.3].sum() == 26
        else:
            wide = sigma > 1.25 * SIGN_CHANGES[k] * np.abs(mu)
            narrow = sigma < 0.75 * SIGN_CHANGES[k] * np.abs(mu)
            assert (d_sigma < 0)[wide].all(), panel
            assert (d_sigma > 0)[narrow].all(), panel
            assert wide.sum() > 20, panel
            assert narrow.sum() > 20, panel


# Mean final distances of 5 seeds from another implementation: (lowest, highest) accepted.
FINAL_DISTANCES = {
    "Adam, epsilon 1e-8": [1e-4, 1e-4, 1e-4, 1.1e-4],
    "Adam, epsilon 0.1": [1e-4, 1e-4, 1.07e-4, 3.7e-2],
    "Adam, epsilon 1": [1.2e-4, 8.1e-3, 0.236, 0.881],
    "momentum only": [1e-4, 6e-4, 0.131, 0.765],
    "SGD": [1e-4, 1e-3, 0.138, 0.766],
}


def final_distances(rows):
    """Returns the mean over seeds of the last distance, for each optimiser and number of retries."""
    last = max(column(rows, "step"))
    return {
        (optimiser, k): float(np.mean(column(select(rows, optimiser=optimiser, num_retries=k, step=last), "distance")))
        for optimiser in unique(rows, "optimiser")
        for k in unique(rows, "num_retries")
    }


@pytest.mark.slow
def test_final_distances_are_those_of_another_implementation(tables):
    distances = final_distances(tables("distance"))
    for optimiser, expected in FINAL_DISTANCES.items():
        for k, value in zip(RETRIES, expected, strict=True):
            assert distances[optimiser, k] == pytest.approx(value, rel=0.15), (optimiser, k)


def test_retries_slow_the_collapse_unless_adam_divides_it_away(tables):
    distances = final_distances(tables("distance"))
    for optimiser in ("Adam, epsilon 1", "momentum only", "SGD"):
        values = [distances[optimiser, k] for k in RETRIES]
        assert all(a * 2 < b for a, b in itertools.pairwise(values)), optimiser
    for k in (4, 8):
        by_epsilon = [distances[f"Adam, epsilon {e}", k] for e in ("1e-8", "0.1", "1")]
        assert by_epsilon == sorted(by_epsilon), k
    assert distances["Adam, epsilon 1e-8", 8] < 2e-4


def test_without_its_denominator_adam_is_as_slow_as_sgd(tables):
    rows = tables("adam_denominator")
    assert set(DENOMINATOR_OPTIMISERS) <= set(unique(rows, "optimiser"))
    distances = final_distances(rows)
    for k in (4, 8):
        assert distances["momentum only", k] == pytest.approx(distances["SGD", k], rel=0.1)
        assert distances["momentum only", k] > 500 * distances["Adam, epsilon 1e-8", k]


def test_first_step_of_momentum_is_that_of_sgd(tables):
    # The bias correction of Adam's first moment stays; only the denominator goes.
    first = {
        name: column(select(tables("adam_denominator"), optimiser=name, step=0), "update_norm")
        for name in ("momentum only", "SGD")
    }
    np.testing.assert_allclose(first["momentum only"], first["SGD"], rtol=1e-12)


def test_paths_of_many_retries_first_widen_the_policy(tables):
    rows = tables("optimisation_paths")
    for optimiser in OPTIMISERS:
        peaks = [max(column(select(rows, optimiser=optimiser, num_retries=k), "sigma")) for k in RETRIES]
        assert peaks[:2] == [1, 1], optimiser
        assert 1.02 < peaks[2] < peaks[3], optimiser
        assert min(column(select(rows, optimiser=optimiser), "sigma")) >= 1e-4


def test_retries_damp_gradients_but_not_the_updates_of_adam(tables):
    norms = mean_norms(tables("damping"))
    for optimiser in OPTIMISERS:
        gradients = [norms[optimiser, k][0] for k in RETRIES]
        assert gradients == sorted(gradients, reverse=True)
        assert gradients[0] > 4 * gradients[-1]
    share = {optimiser: norms[optimiser, 8][1] / norms[optimiser, 1][1] for optimiser in OPTIMISERS}
    assert share["Adam, epsilon 1e-8"] > 0.6
    assert share["SGD"] < 0.25
    assert share["momentum only"] < 0.25
    assert share["Adam, epsilon 1e-8"] > share["Adam, epsilon 0.1"] > share["Adam, epsilon 1"] > share["SGD"]


@pytest.mark.slow
def test_with_the_length_of_one_retrys_gradient_nothing_depends_on_epsilon(tables):
    """M = 8 then ends within a factor of 6 of M = 1, where it ends thousands of times farther away without."""
    distances = final_distances(tables("undamped"))
    for optimiser in ("Adam, epsilon 1", "SGD"):
        plain, undamped = (distances[optimiser + suffix, 8] / distances[optimiser, 1] for suffix in ("", UNDAMPED))
        assert plain > 5000 and undamped < 6, optimiser
    for optimiser in ("Adam, epsilon 1e-8", "Adam, epsilon 1", "SGD"):
        assert distances[optimiser + UNDAMPED, 1] == pytest.approx(distances[optimiser, 1], rel=1e-6)


@pytest.mark.slow
def test_signal_to_noise_orders_pathwise_and_score_function(tables):
    rows = tables("estimator_snr")

    def snr(study, series):
        chosen = select(rows, study=study, series=series)
        return {row["x"]: row["snr"] for row in chosen}

    for surface in ("smooth", "rippled"):
        path = snr("Gaussian, D = 2: retries K", f"pathwise, {surface}")
        score = snr("Gaussian, D = 2: retries K", f"score function, {surface}")
        # With one retry pathwise is far better; its signal falls with every retry, and the order turns.
        assert path[1] > 2 * score[1]
        assert all(path[k] > path[k + 1] for k in range(1, 6))
        assert path[6] < 0.5 * score[6]
        path = snr("Gaussian, K = 4: dimension D", f"pathwise, {surface}")
        score = snr("Gaussian, K = 4: dimension D", f"score function, {surface}")
        # The score function loses with dimension, pathwise does not.
        assert path[1] < 0.6 * score[1]
        assert path[8] > 1.3 * score[8]
        assert score[2] > 1.5 * score[8]
        assert path[8] > 1.5 * path[1]
    for kind in ("linear", "exponential", "Gaussian"):
        by_arms = snr("softmax, K = 4: arms", kind)
        assert by_arms[4] > by_arms[8] > by_arms[16]
    by_retries = snr("softmax, 8 arms: retries K", "exponential")
    assert by_retries[6] > 1.5 * by_retries[1]


@pytest.mark.slow
def test_signal_to_noise_of_the_plain_gradient_is_known(tables):
    # K = 1, no ripple, D = 2: the mean of 64 slopes -2 (z - 1) has mean 1 and variance 4 / 64 per coordinate.
    rows = select(tables("estimator_snr"), study="Gaussian, D = 2: retries K", series="pathwise, smooth", x=1)
    assert rows[0]["snr"] == pytest.approx(16, rel=0.2)


@pytest.mark.slow
def test_running_means_approach_the_exact_gradient(tables):
    rows = select(tables("unbiasedness"), batches=200)
    assert {row["estimator"] for row in rows} > set(ESTIMATORS) | {PATHWISE}
    for row in rows:
        assert row["largest_deviation"] < 4, row
        assert row["relative_error"] < 3 * row["expected_relative_error"], row


def test_exact_gradients_of_the_parabola_are_the_known_ones():
    import jax

    with jax.enable_x64(True):
        np.testing.assert_allclose(exact_gaussian_gradient(-1.5, 1.0, 1), [3, -2], rtol=1e-6)
        np.testing.assert_allclose(exact_gaussian_gradient(-1.5, 1.0, 8), [0.5306, 0.2808], atol=6e-5)


@pytest.mark.slow
def test_baselines_order_by_variance_and_none_is_biased(tables):
    rows = tables("baselines")
    assert max(column(rows, "largest_deviation")) < 4
    for k in unique(rows, "num_retries"):
        variance = {row["estimator"]: row["variance"] for row in select(rows, num_retries=k)}
        plain, loo, minus_one, order_grad, maxpo = variance.values()
        assert maxpo == pytest.approx(order_grad, rel=1e-9)
        assert order_grad < loo
        if k == 1:
            assert minus_one == pytest.approx(plain, rel=1e-9)
        else:
            assert plain > 5 * max(loo, minus_one, order_grad)
    # Minus one has no baseline for one retry, but falls below the others for many.
    many = {row["estimator"]: row["variance"] for row in select(rows, num_retries=8)}
    assert many["PKPO leave-one-out minus one"] < many["leave-one-out (OrderGrad)"]


@pytest.mark.slow
def test_objectives_prefer_risk_by_their_attitude_to_it(tables):
    rows = tables("objectives")
    best = {(row["noise"], row["objective"]): row["preferred"] for row in rows}
    for row in rows:
        assert row["preferred_estimated"] == pytest.approx(row["preferred"], abs=0.05)
        # The best risk is the best on the grid, up to its width.
        values = column(select(rows, noise=row["noise"], objective=row["objective"]), "value")
        assert 0.05 * np.argmax(values) == pytest.approx(row["preferred"], abs=0.05)
    for noise in unique(rows, "noise"):
        assert best[noise, "max"] > best[noise, "top_mean:4"] > best[noise, "mean"] > best[noise, "min"] == 0
        assert best[noise, "mean"] == pytest.approx(0.6)
        assert best[noise, "lower_tail_mean:0.25"] == 0
    # The median ignores rare gains and rare losses; the mean does not.
    assert best["gains are rare", "median"] < 0.6 < best["losses are rare", "median"]
    assert best["gains are rare", "max"] > best["losses are rare", "max"]


@pytest.mark.parametrize("study", fast_are(1, sorted(STUDIES, key=["distance", *STUDIES].index)))
def test_figures_and_numbers_are_written(study, tables, tmp_path):
    rows = tables(study)
    files = save(tmp_path, study, rows, STUDIES[study].plot(rows))
    assert [path.name for path in files] == [f"{study}.{ending}" for ending in ("csv", "png", "pdf")]
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert files[2].read_bytes().startswith(b"%PDF")
    with files[0].open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(rows)
    assert list(written[0]) == list(rows[0])


def test_command_line(tmp_path, capsys):
    out = tmp_path / "new" / "directory"
    main(["study=objectives", "size=small", f"out={out}"])
    assert sorted(path.suffix for path in out.iterdir()) == [".csv", ".pdf", ".png"]
    assert str(out / "objectives.csv") in capsys.readouterr().out
    assert read_settings(["study=distance"]) == ("distance", "full", Path("runs/toy/distance"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["study=", "vector_field"]),
        (["study=vectors"], ["study=vectors", "vector_field", "objectives"]),
        (["study=distance", "size=huge"], ["size=huge", "full, small"]),
        (["study=distance", "seed=3"], ["seed=3", "study=, size=, out="]),
        (["distance"], ["distance", "study=, size=, out="]),
        (["study=distance", "study=damping"], ["study=damping", "once"]),
        (["study=distance", "out="], ["out=", "no value"]),
        (["study=distance", f"out={__file__}"], ["out=", "file"]),
        (["study=distance", f"out={__file__}/below"], ["out=", "file"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["toy", *arguments])
    with pytest.raises(SystemExit) as stop:
        exit_with(main)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
