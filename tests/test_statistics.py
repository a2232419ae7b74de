import numpy as np
import pytest
from scipy.stats import trim_mean

from experiments.comparing.statistics import describe, interquartile_interval, interquartile_mean


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 2.0, 9.0], 4.0),  # a quarter of three, rounded down, is none
        ([100.0, 2.0, 3.0, -100.0], 2.5),
        ([1.0, 2.0, 3.0, 4.0, 1000.0], 3.0),
        ([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0], 2.5),
    ],
)
def test_interquartile_mean_by_hand(values, expected):
    assert interquartile_mean(np.array(values)) == pytest.approx(expected)


def test_interquartile_mean_is_scipys_trimmed_mean_along_any_axis():
    values = np.random.default_rng(0).normal(size=(6, 11))
    np.testing.assert_array_equal(interquartile_mean(values, 1), [trim_mean(row, 0.25) for row in values])
    np.testing.assert_array_equal(interquartile_mean(values, 0), [trim_mean(row, 0.25) for row in values.T])


@pytest.mark.parametrize(("seeds", "coverage"), [(3, 0.75), (5, 0.91), (10, 0.94)])
def test_intervals_cover_as_often_as_documented(seeds, coverage):
    values = np.random.default_rng(1).normal(size=(1500, seeds))
    low, high = interquartile_interval(values, resamples=500)
    # The standard error of such a share is 0.011 or less.
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(coverage, abs=0.035)


def test_strata_are_resampled_apart():
    """Strata without spread leave no spread, however far apart they are; together they would."""
    near, far = np.zeros(4), np.full(4, 10.0)
    assert interquartile_interval(near, far) == (5.0, 5.0)
    low, high = interquartile_interval(np.concatenate([near, far]))
    assert low < 2 and high > 8


def test_stratified_intervals_cover():
    rng = np.random.default_rng(2)
    low, high = interquartile_interval(rng.normal(-1, 1, (1000, 8)), rng.normal(1, 1, (1000, 8)), resamples=500)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.9, abs=0.03)


def test_too_few_values_have_no_interval():
    assert np.isnan(interquartile_interval(np.array([1.0]))).all()
    assert describe([])["n"] == 0 and np.isnan(describe([])["mean"])
    one = describe([2.0])
    assert (one["n"], one["mean"], one["iqm"]) == (1, 2.0, 2.0) and np.isnan([one["std"], one["low"]]).all()


def test_equal_values_give_equal_intervals():
    values = np.random.default_rng(3).normal(size=5)
    assert interquartile_interval(values) == interquartile_interval(values)
    described = describe(values.tolist())
    assert described["std"] == pytest.approx(np.std(values, ddof=1))
    assert described["low"] < described["iqm"] < described["high"]
