"""Calibration: do the probabilities mean what they say? Labels and probabilities in, numbers out.

`label` [N] is bool (True: abnormal), `probability` [N] that of "abnormal".
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

CALIBRATION_BINS = 15
ECE_VARIANT = f"{CALIBRATION_BINS} bins of equal width over [0, 1], of the probability of abnormal"
"""Which of the many expected calibration errors `calibration_error` is."""

SUREST = 1e-12
"""How near to 0 or 1 a probability is taken to come: the logit of 0 and 1 is infinite."""

CONVERGED = 1e-9
"""The largest step, in coefficients of the standardised logit, at which a fit has converged."""

MOST_STEPS = 100
SINGULAR = 1e14


class Calibration(NamedTuple):
    """Cox's (1958) calibration slope and intercept; where there are none, `why_none` says why."""

    slope: float | None
    intercept: float | None
    why_none: str | None = None


def calibration_bin(probability: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin [N] of each probability [N]: CALIBRATION_BINS of equal width over [0, 1]; 1 is in the last."""
    return np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def calibration_error(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> float | None:
    """Return the expected calibration error of the probability of "abnormal" (ECE_VARIANT); None in an empty group.

    In each bin it is the distance between the mean probability and the observed share of abnormal cases; over the
    bins, their mean, weighted by the cases in the bin.
    """
    if len(label) == 0:
        return None
    distance = np.bincount(calibration_bin(probability), weights=probability - label)
    return float(np.abs(distance).sum() / len(label))


def brier_score(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> float | None:
    """Return the mean squared error of the probability of "abnormal"; None in an empty group."""
    return float(np.mean((probability - label) ** 2)) if len(label) else None


def reliability(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> dict[str, Any]:
    """Return count, Brier score, ECE and the reliability curve: of each bin with cases, what is said and what is so."""
    which = calibration_bin(probability)
    curve = [
        {
            "from": number / CALIBRATION_BINS,
            "to": (number + 1) / CALIBRATION_BINS,
            "n": int((which == number).sum()),
            "probability": float(probability[which == number].mean()),
            "abnormal": float(label[which == number].mean()),
        }
        for number in np.unique(which).tolist()
    ]
    return {
        "n": len(label),
        "brier": brier_score(label, probability),
        "ece": calibration_error(label, probability),
        "curve": curve,
    }


def fit_calibration(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> Calibration:
    """Return slope and intercept of the logistic regression of the label on the logit of the probability.

    1 and 0 are perfect; a slope below 1 means probabilities that are too extreme. None where the likelihood has no
    single highest point: the reason says which case it is.
    """
    probability = np.clip(probability, SUREST, 1 - SUREST)
    logit = np.log(probability) - np.log1p(-probability)
    why_none = _why_not_fitted(label, logit)
    if why_none is not None:
        return Calibration(None, None, why_none)
    centre, scale = logit.mean(), logit.std()
    coefficients = _fit_logistic(label, (logit - centre) / scale)
    if coefficients is None:
        return Calibration(None, None, "a threshold all but separates the classes")
    intercept, slope = coefficients
    return Calibration(float(slope / scale), float(intercept - slope * centre / scale))


def _why_not_fitted(label: NDArray[np.bool_], logit: NDArray[np.float64]) -> str | None:
    """Return why a logistic regression on one variable has no finite solution (Albert & Anderson 1984)."""
    normal, abnormal = logit[~label], logit[label]
    if len(label) == 0:
        return "there are no cases"
    if len(normal) == 0 or len(abnormal) == 0:
        return "only one class occurs"
    if np.ptp(logit) < CONVERGED:
        return "all probabilities are alike"
    if normal.max() <= abnormal.min() or abnormal.max() <= normal.min():
        return "a threshold separates the classes"
    return None


def _fit_logistic(label: NDArray[np.bool_], x: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return intercept and slope of highest likelihood, by Newton's method; None if it doesn't converge.

    A step that overshoots is halved. The likelihood has one highest point, so there is nothing to choose.
    """
    design = np.stack([np.ones_like(x), x])

    def loss(coefficients: NDArray[np.float64]) -> float:
        linear = coefficients @ design
        return float(np.sum(np.logaddexp(0, linear) - label * linear))

    coefficients = np.zeros(2)
    for _ in range(MOST_STEPS):
        expected = expit(coefficients @ design)
        curvature = (design * (expected * (1 - expected))) @ design.T
        if not np.linalg.cond(curvature) < SINGULAR:
            return None
        step = np.linalg.solve(curvature, design @ (label - expected))
        while np.abs(step).max() > CONVERGED and loss(coefficients + step) > loss(coefficients):
            step /= 2
        coefficients = coefficients + step
        if np.abs(step).max() <= CONVERGED:
            return coefficients
    return None
