"""Objectives that the tests of all estimators go through."""

import numpy as np

# These exist for every k.
PRESETS = [
    "max",
    "min",
    "mean",
    "median",
    "rank:1",
    "top_mean:1",
    "bottom_mean:1",
    "mid_range:1",
    "trimmed_mean:0",
    "winsorized_mean:0",
    "upper_tail_mean:0.4",
    "lower_tail_mean:0.4",
    "cvar:0.25",
    "upper_range_mean:0.2:0.7",
    "lower_range_mean:0.2:0.7",
    "quantile:0.7",
    "var:0.1",
    "quantile_weibull:0.7",
    "quantile_blom:0.7",
    "harrell_davis:0.6",
    "l_moment:1",
]
# These for k of at least 3.
PRESETS_FROM_3 = [
    "gini_mean_difference",
    "l_moment:2",
    "l_moment:3",
    "trimmed_mean:1",
    "winsorized_mean:1",
    "top_mean:2",
    "rank:2",
]


def presets_of(k):
    """All presets that exist for k, and k weights."""
    return PRESETS + (PRESETS_FROM_3 if k >= 3 else []) + [tuple(np.linspace(-1, 2, k).tolist())]
