"""Calibration slope and intercept: known values, what holds at the highest likelihood, and when there are none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from mura.calibration import CALIBRATION_BINS, ECE_VARIANT, Calibration, calibration_bin, fit_calibration, reliability

CASES = st.lists(
    st.tuples(st.booleans(), st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))),
    min_size=2,
    max_size=60,
)


def cases_with_shares(*groups: tuple[float, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of groups of cases: probability, how many are abnormal, of how many."""
    label = np.concatenate([np.arange(n) < abnormal for _, abnormal, n in groups])
    return label, np.concatenate([np.full(n, probability) for probability, _, n in groups])


def test_with_two_probabilities_the_line_goes_through_the_observed_log_odds() -> None:
    fitted = fit_calibration(*cases_with_shares((0.1, 6, 20), (0.8, 24, 40)))
    slope = (logit(0.6) - logit(0.3)) / (logit(0.8) - logit(0.1))
    assert fitted.slope == pytest.approx(slope, abs=1e-9)
    assert fitted.intercept == pytest.approx(logit(0.6) - slope * logit(0.8), abs=1e-9)
    assert fitted.why_none is None


def test_probabilities_that_come_true_have_slope_one_and_intercept_zero() -> None:
    perfect = fit_calibration(*cases_with_shares((0.1, 10, 100), (0.5, 20, 40), (0.75, 60, 80)))
    assert perfect == pytest.approx((1, 0, None), abs=1e-9)


def test_logits_twice_too_large_have_slope_one_half_and_a_shift_shows_in_the_intercept() -> None:
    label, probability = cases_with_shares((0.1, 10, 100), (0.5, 20, 40), (0.75, 60, 80))
    assert fit_calibration(label, expit(2 * logit(probability))) == pytest.approx((0.5, 0, None), abs=1e-9)
    assert fit_calibration(label, expit(logit(probability) + 0.7)) == pytest.approx((1, -0.7, None), abs=1e-9)
    assert fit_calibration(label, 1 - probability) == pytest.approx((-1, 0, None), abs=1e-9)


@given(CASES)
def test_the_fit_has_the_highest_likelihood_or_a_reason(cases: list[tuple[bool, float]]) -> None:
    label, probability = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    fitted = fit_calibration(label, probability)
    if fitted.why_none is not None:
        assert (fitted.slope, fitted.intercept) == (None, None)
        return
    x = logit(np.clip(probability, 1e-12, 1 - 1e-12))
    missed = label - expit(fitted.intercept + fitted.slope * x)
    assert missed.sum() == pytest.approx(0, abs=1e-5)
    assert (missed * (x - x.mean()) / x.std()).sum() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("label", "probability", "why"),
    [
        ([], [], "there are no cases"),
        ([0, 0, 0], [0.1, 0.6, 0.9], "only one class occurs"),
        ([1, 1, 1], [0.1, 0.6, 0.9], "only one class occurs"),
        ([0, 1, 1], [0.3, 0.3, 0.3], "all probabilities are alike"),
        ([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9], "a threshold separates the classes"),
        ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9], "a threshold separates the classes"),
        ([1, 1, 0, 0], [0.1, 0.5, 0.5, 0.9], "a threshold separates the classes"),
        ([0, 0, 1, 1], [0.0, 0.0, 1.0, 1.0], "a threshold separates the classes"),
        ([1, 0, 0], [0.5 + 1e-12, 1.0, 0.5], "a threshold all but separates the classes"),
    ],
)
def test_without_a_single_best_line_the_reason_is_given(label: list[int], probability: list[float], why: str) -> None:
    assert fit_calibration(np.array(label, bool), np.array(probability, float)) == Calibration(None, None, why)


def test_probabilities_of_zero_and_one_count_as_very_sure_and_not_as_infinite() -> None:
    label, probability = cases_with_shares((0.0, 1, 10), (1.0, 8, 10))
    slope = (logit(0.8) - logit(0.1)) / (2 * logit(1 - 1e-12))
    assert fit_calibration(label, probability).slope == pytest.approx(slope, rel=1e-4)


def test_the_calibration_error_is_named_as_it_is_computed() -> None:
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    assert calibration_bin(middle).tolist() == list(range(15))
    assert calibration_bin(np.array([0.0, 1.0])).tolist() == [0, 14]
    assert ECE_VARIANT.startswith("15 bins of equal width")


def test_each_bin_of_the_reliability_curve_has_its_edges_and_what_is_said_and_so_in_it() -> None:
    curve = reliability(np.array([False, True, True]), np.array([0.02, 0.04, 0.97]))["curve"]
    assert [(each["from"], each["to"], each["n"]) for each in curve] == [(0, 1 / 15, 2), (14 / 15, 1, 1)]
    assert [(each["probability"], each["abnormal"]) for each in curve] == [(pytest.approx(0.03), 0.5), (0.97, 1.0)]
