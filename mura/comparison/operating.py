"""Operating points: is a verdict an effect of the fixed threshold? Validation predictions fit, test predictions change.

An operating point is a change of the logits. What follows, the mean over a study's views, the threshold of 0.5, every
metric and the paired comparison, then keeps its one definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from mura.metrics import STUDY_KEY

Floats = NDArray[np.float64]

FIXED, THRESHOLDED, TEMPERED = "fixed", "threshold", "temperature"
SHARED, EACH = "shared", "extremity"
CANDIDATES = 200
TEMPERATURES = (0.05, 20.0)
"""Beyond these a fit has run away: on separable data any smaller temperature is better still."""


@dataclass(frozen=True)
class Point:
    """`kind` is fixed, threshold or temperature; `scope` says whether one value is fitted or one an extremity."""

    kind: str
    scope: str

    @property
    def words(self) -> str:
        how = {SHARED: "one for all", EACH: "one each"}
        return "threshold 0.5" if self.kind == FIXED else f"{self.kind} fitted, {how[self.scope]}"


POINTS = (
    Point(FIXED, SHARED), Point(THRESHOLDED, SHARED), Point(THRESHOLDED, EACH), Point(TEMPERED, SHARED),
    Point(TEMPERED, EACH),
)  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    """One arm with one seed at one operating point.

    `values` has the fitted threshold or temperature of each extremity, None where it could not be fitted and the fixed
    point stands; `test` are the test predictions as they are there.
    """

    model: str
    arm: str
    seed: int
    point: Point
    values: dict[str, float | None]
    test: pd.DataFrame


def fit(validation: pd.DataFrame, test: pd.DataFrame, point: Point) -> tuple[dict[str, float | None], pd.DataFrame]:
    """The values fitted on `validation` for the extremities of `test`, and `test` changed by them."""
    extremities = list(dict.fromkeys(test["extremity"]))
    values: dict[str, float | None]
    if point.kind == FIXED:
        return dict.fromkeys(extremities), test
    fitter = fit_threshold if point.kind == THRESHOLDED else fit_temperature
    if point.scope == SHARED:
        values = dict.fromkeys(extremities, fitter(validation))
    else:
        values = {name: fitter(validation[validation["extremity"] == name]) for name in extremities}
    return values, changed(test, point.kind, values)


def changed(test: pd.DataFrame, kind: str, values: dict[str, float | None]) -> pd.DataFrame:
    """The predictions with each extremity's threshold moved to 0.5, or its logits divided by its temperature."""
    fitted = pd.to_numeric(test["extremity"].map(values)).to_numpy(float)
    logit = test["logit"].to_numpy(float)
    moved = logit - np.log(fitted / (1 - fitted)) if kind == THRESHOLDED else logit / fitted
    moved = np.where(np.isnan(fitted), logit, moved)
    return test.assign(logit=moved, probability=expit(moved))


def fit_threshold(validation: pd.DataFrame) -> float | None:
    """The probability that best tells abnormal studies from normal ones: highest accuracy by study.

    The views' logits are shifted so that the threshold lies at 0.5, and a study's probability is the mean of its
    views', as everywhere. Of equally good thresholds the one nearest to 0.5. None when there are not both classes.
    """
    if validation["label"].nunique() < 2:
        return None
    study, _ = pd.factorize(pd.MultiIndex.from_frame(validation[STUDY_KEY]))
    views = np.bincount(study)
    abnormal = np.bincount(study, weights=validation["label"]) > 0
    logit = validation["logit"].to_numpy(float)
    shifts = candidate_shifts(logit)
    right = [np.mean((np.bincount(study, weights=expit(logit - s)) / views > 0.5) == abnormal) for s in shifts]
    return float(expit(shifts[int(np.argmax(right))]))


def candidate_shifts(logit: Floats) -> Floats:
    """Zero, and at most CANDIDATES points halfway between neighbouring logits; nearest to zero first."""
    values = np.unique(logit)
    between = (values[1:] + values[:-1]) / 2
    if len(between) > CANDIDATES:
        between = between[np.linspace(0, len(between) - 1, CANDIDATES).round().astype(int)]
    shifts = np.r_[0.0, between]
    return shifts[np.argsort(np.abs(shifts), kind="stable")]


def fit_temperature(validation: pd.DataFrame) -> float | None:
    """The temperature that minimises the negative log-likelihood of the views (Guo et al. 2017, section 4.2).

    Sought within TEMPERATURES. None when there are not both classes.
    """
    if validation["label"].nunique() < 2:
        return None
    logit, label = validation["logit"].to_numpy(float), validation["label"].to_numpy(float)

    def loss(log_temperature: float) -> float:
        scaled = logit / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - label * scaled))

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))


def lacking(fitted: Sequence[Fitted]) -> list[str]:
    """A sentence for each arm in which something could not be fitted."""
    notes = {}
    for one in fitted:
        names = [name for name, value in one.values.items() if value is None]
        if one.point.kind != FIXED and names:
            alone = "where each extremity has its own fit" if one.point.scope == EACH else "at every operating point"
            notes[one.model, one.arm] = (
                f"{one.model}, {one.arm}: nothing can be fitted on the validation views of {', '.join(names)} alone "
                f"(none, or not both classes); their predictions stay as they are {alone}."
            )
    return list(notes.values())
