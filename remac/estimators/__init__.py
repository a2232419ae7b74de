"""Gradients, advantages and exact values of order statistics, and others; usable without the rest of this project."""

from remac.estimators.advantages import (
    expected_improvement,
    include_one,
    leave_one_out,
    leave_two_out_baseline,
    lstat_advantage,
    maxpo_advantage,
    pkpo,
    score_coefficients,
    score_function_loss,
)
from remac.estimators.exact import exact_advantage, exact_expected_improvement, expected_lstat, expected_max
from remac.estimators.generalized import generalized_advantages
from remac.estimators.group_coefficients import ESTIMATORS, gap_weights, group_coefficients
from remac.estimators.order_statistics import Objective, lstat, lstat_weights, max_at_k, rank_weights, sample_weights
from remac.estimators.sign_certificate import certificate_weights, sign_radii

__all__ = [
    "ESTIMATORS",
    "Objective",
    "certificate_weights",
    "exact_advantage",
    "exact_expected_improvement",
    "expected_improvement",
    "expected_lstat",
    "expected_max",
    "gap_weights",
    "generalized_advantages",
    "group_coefficients",
    "include_one",
    "leave_one_out",
    "leave_two_out_baseline",
    "lstat",
    "lstat_advantage",
    "lstat_weights",
    "max_at_k",
    "maxpo_advantage",
    "pkpo",
    "rank_weights",
    "sample_weights",
    "score_coefficients",
    "score_function_loss",
    "sign_radii",
]
