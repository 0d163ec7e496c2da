"""What is fitted on the validation views of a run: a temperature, and thresholds; stored beside its checkpoint.

Each is a change of the logits. What follows, the mean over a study's views, the threshold of 0.5 and every metric, then
keeps its one definition. Nothing applies them unless it is asked to.
Shapes: N views, S studies, C candidates.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from mura.calibration import reliability
from mura.errors import MuraError
from mura.files import read_file
from mura.metrics import PAPER_SPECIFICITY, STUDY_KEY, THRESHOLD
from mura.runs.records import POSITIVE, TREE, Rule, fault_in, whole, why_unreadable

Floats = NDArray[np.float64]

CANDIDATE_SHIFTS = 200
TEMPERATURE_BOUNDS = (0.05, 20.0)
"""Beyond these a fit has run away: on separable data any smaller temperature is better still."""

REMOVE = "restore it, or remove it and do without."
MOST_ACCURATE, SPECIFIC = "accuracy", "specificity"
SCHEMA = 1

_RATE = Rule(lambda value: type(value) is float and 0 < value < 1, "a number between 0 and 1")
_FACTOR = Rule(lambda value: POSITIVE.holds(value) and value > 0, "a number above 0")
FIT_RULES = {
    "temperature": _FACTOR.or_null,
    "thresholds": TREE,
    f"thresholds.{MOST_ACCURATE}": _RATE.or_null,
    f"thresholds.{SPECIFIC}": _RATE.or_null,
}
"""A fit: the temperature, and the thresholds by the name of their operating point; null where there was none."""

Fits = dict[str, dict[str, Any]]
"""Fits by the extremity whose pictures they are for, or under OVERALL for all."""

FITTED_RULES = {"schema": whole(SCHEMA, SCHEMA), "reliability": TREE, **FIT_RULES}
"""What of calibration.json is read; its other keys are for people."""


class StudiesAtShifts(NamedTuple):
    """Candidate `shifts` [C] of the logits, which studies are called `right` [C, S], and what these are, [S]."""

    shifts: Floats
    right: NDArray[np.bool_]
    abnormal: NDArray[np.bool_]
    patient: NDArray[np.intp]


Score = Callable[[StudiesAtShifts], Floats]


def accuracy(at: StudiesAtShifts) -> Floats:
    """Return the share of studies that are called rightly, [C]."""
    share: Floats = at.right.mean(axis=1)
    return share


def sensitivity_when_specific(at: StudiesAtShifts) -> Floats:
    """Return the sensitivity, [C], or -1 where the specificity is below PAPER_SPECIFICITY."""
    specificity = at.right[:, ~at.abnormal].mean(axis=1)
    return np.where(specificity >= PAPER_SPECIFICITY - 1e-12, at.right[:, at.abnormal].mean(axis=1), -1.0)


OPERATING_POINTS: dict[str, Score] = {MOST_ACCURATE: accuracy, SPECIFIC: sensitivity_when_specific}
"""The thresholds that are fitted, by name, with what each has most of among the validation studies."""


def fit_threshold(validation: pd.DataFrame, score: Score = accuracy) -> float | None:
    """Return the probability that best tells abnormal studies from normal ones, by `score`.

    The views' logits are shifted so that the threshold lies at 0.5, and a study's probability is the mean of its
    views', as everywhere. Of equally good thresholds the one nearest to 0.5. None when there are not both classes, or
    no candidate may be taken.
    """
    if validation["label"].nunique() < 2:
        return None
    at = studies_at_shifts(validation)
    scores = score(at)
    best = int(np.argmax(scores))
    return float(expit(at.shifts[best])) if scores[best] >= 0 else None


def studies_at_shifts(validation: pd.DataFrame) -> StudiesAtShifts:
    """Return how the studies of a predictions table are called at each candidate."""
    study, _ = pd.factorize(pd.MultiIndex.from_frame(validation[STUDY_KEY]))
    views = np.bincount(study)
    abnormal = np.bincount(study, weights=validation["label"]) > 0
    logit = validation["logit"].to_numpy(float)
    shifts = candidate_shifts(logit)
    right = [(np.bincount(study, weights=expit(logit - shift)) / views > THRESHOLD) == abnormal for shift in shifts]
    _, first = np.unique(study, return_index=True)
    patients = pd.factorize(validation["patient"].to_numpy()[first])[0]
    return StudiesAtShifts(shifts, np.array(right), abnormal, patients)


def candidate_shifts(logit: Floats) -> Floats:
    """Return zero and at most CANDIDATE_SHIFTS points halfway between neighbouring logits, nearest to zero first."""
    values = np.unique(logit)
    between = (values[1:] + values[:-1]) / 2
    if len(between) > CANDIDATE_SHIFTS:
        between = between[np.linspace(0, len(between) - 1, CANDIDATE_SHIFTS).round().astype(int)]
    shifts = np.r_[0.0, between]
    return shifts[np.argsort(np.abs(shifts), kind="stable")]


def fit_temperature(validation: pd.DataFrame) -> float | None:
    """Return the temperature that minimises the views' negative log-likelihood (Guo et al. 2017, section 4.2).

    It lies within TEMPERATURE_BOUNDS. None when there are not both classes.
    """
    if validation["label"].nunique() < 2:
        return None
    logit, label = validation["logit"].to_numpy(float), validation["label"].to_numpy(float)

    def loss(log_temperature: float) -> float:
        scaled = logit / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - label * scaled))

    low, high = np.log(TEMPERATURE_BOUNDS)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))


def at_threshold(logit_N: Floats, threshold: "float | Floats") -> Floats:
    """Return the logits, shifted so that the threshold lies at 0.5."""
    return logit_N - np.log(threshold / (1 - threshold))


def at_temperature(logit_N: Floats, temperature: "float | Floats") -> Floats:
    """Return the logits, divided by the temperature: calibrated, and called as before."""
    return logit_N / temperature


def fit_points(validation: pd.DataFrame) -> dict[str, Any]:
    """Return a fit (FIT_RULES) on the views of a predictions table."""
    thresholds = {name: fit_threshold(validation, score) for name, score in OPERATING_POINTS.items()}
    return {"temperature": fit_temperature(validation), "thresholds": thresholds}


def describe_fit(validation: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    """Return the content of calibration.json: the fit, and what the temperature does to the reliability of the views.

    Only the validation views have a say in the fit. `test` is empty where nobody may look at it yet.
    """
    fit = fit_points(validation)
    parts = {name: views for name, views in (("val", validation), ("test", test)) if len(views)}
    return {
        "schema": SCHEMA,
        "fitted_on": "the validation views",
        "patients": int(validation["patient"].nunique()),
        "studies": len(validation.drop_duplicates(STUDY_KEY)),
        "views": len(validation),
        **fit,
        "reliability": {name: _reliability(views, fit["temperature"]) for name, views in parts.items()},
    }


def _reliability(views: pd.DataFrame, temperature: float | None) -> dict[str, Any]:
    """Return how reliable the views' probabilities are, before and after the temperature; null without one."""
    label, logit = views["label"].to_numpy() == 1, views["logit"].to_numpy(float)
    after = None if temperature is None else reliability(label, expit(at_temperature(logit, temperature)))
    return {"before": reliability(label, expit(logit)), "after": after}


def read_fitted(file: Path) -> dict[str, Any] | None:
    """Return the content of a calibration.json; None when there is none. MuraError unless it keeps FITTED_RULES."""
    if not file.exists():
        return None
    try:
        content = json.loads(read_file(file).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MuraError(f"{file} can't be read ({why_unreadable(error)}); {REMOVE}") from None
    if fault := fault_in(content, FITTED_RULES):
        raise MuraError(f"{file} {fault}; {REMOVE}")
    fitted: dict[str, Any] = content
    return fitted
