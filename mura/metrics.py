"""Predictions table in, metrics out: the one definition of every number, for validation, test and report.

A predictions table has a row a view: `split`, `extremity`, `patient`, `study`, `view`, `path`, `label` (0
normal, 1 abnormal), `logit`, `probability` (of "abnormal").
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from mura.calibration import brier_score, calibration_error, fit_calibration
from mura.errors import MuraError
from mura.extremities import EXTREMITIES

THRESHOLD = 0.5
"""A view or a study is called abnormal when its probability is strictly above this."""

CALIBRATION_METRICS = ("calibration_slope", "calibration_intercept")
REPORTED_METRICS = (
    "accuracy", "kappa", "auroc", "sensitivity", "specificity", "sensitivity_at_specificity", "f1", "brier", "ece",
    *CALIBRATION_METRICS,
)  # fmt: skip
"""The metrics of a results table, in their order."""

PAPER_SPECIFICITY = 0.887
"""Of `sensitivity_at_specificity`: the specificity of the MURA paper's model (Rajpurkar et al. 2017)."""

RATES = ("sensitivity", "specificity")
"""The metrics that have 95 % intervals, `<name>_low` and `<name>_high`."""

LEVELS = ("image", "study")
OVERALL = "all"
"""The group of all views or studies, beside those of the single extremities."""

STUDY_KEY = ["split", "extremity", "patient", "study"]
VIEW_KEY = [*STUDY_KEY, "view"]

Metrics = dict[str, Any]
"""By name: a count, a number, None where it is undefined; `why_no_calibration` is a reason in words, or None."""


def binary_metrics(label: ArrayLike, probability: ArrayLike, extremity: ArrayLike | None = None) -> Metrics:
    """Return the metrics of one group: `label` [N] in {0, 1}, `probability` [N] in [0, 1].

    `extremity` [N] tells the extremities of a group that has several: what ranks the cases, AUROC and
    `sensitivity_at_specificity`, is then the mean of those within each (`mean_within`). All else counts each case by
    itself.

    `n` and `abnormal` are counts; `brier` is the mean squared error of the probability; for `ece` and the calibration
    slope and intercept see `mura.calibration`. What is undefined is None: everything in an empty group; kappa and the
    rate without cases when only one class occurs, what ranks when an extremity has only one; F1 without abnormal cases.
    """
    y = np.asarray(label).astype(bool)
    p = np.asarray(probability, dtype=float)
    called = p > THRESHOLD
    n, abnormal = len(y), int(y.sum())
    true_positive, true_negative = int((called & y).sum()), int((~called & ~y).sum())
    predicted = int(called.sum())
    agreement = _ratio(true_positive + true_negative, n)
    extremities = np.zeros(n) if extremity is None else np.asarray(extremity)
    calibration = fit_calibration(y, p)
    return {
        "n": n,
        "abnormal": abnormal,
        "accuracy": agreement,
        "kappa": cohen_kappa(n, abnormal, predicted, true_positive + true_negative),
        "auroc": mean_within(auroc, y, p, extremities),
        "sensitivity": _ratio(true_positive, abnormal),
        "specificity": _ratio(true_negative, n - abnormal),
        "sensitivity_at_specificity": mean_within(sensitivity_at_specificity, y, p, extremities),
        "f1": _ratio(2 * true_positive, predicted + abnormal) if abnormal else None,
        "brier": brier_score(y, p),
        "ece": calibration_error(y, p),
        "calibration_slope": calibration.slope,
        "calibration_intercept": calibration.intercept,
        "why_no_calibration": calibration.why_none,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def cohen_kappa(n: int, abnormal: int, predicted: int, right: int) -> float | None:
    """Return Cohen's kappa (1960) from counts: cases, abnormal ones, those called abnormal, those called rightly.

    None when only one class occurs: the agreement expected by chance then equals the agreement seen.
    """
    if abnormal in (0, n):
        return None
    expected = (abnormal * predicted + (n - abnormal) * (n - predicted)) / n**2
    return (right / n - expected) / (1 - expected)


def auroc(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> float | None:
    """Return the area under the ROC curve: the Mann-Whitney statistic, with mid-ranks for ties. None with one class."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return None
    wins = pd.Series(probability).rank().to_numpy()[label].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def mean_within(
    metric: Callable[[NDArray[np.bool_], NDArray[np.float64]], float | None],
    label: NDArray[np.bool_],
    probability: NDArray[np.float64],
    extremity: NDArray[np.generic],
) -> float | None:
    """Return the mean over the extremities of a metric within each, all [N]; None unless it is defined in each.

    The probabilities of separately trained models are never ranked against each other (docs/statistics.md).
    """
    values = [metric(label[extremity == name], probability[extremity == name]) for name in np.unique(extremity)]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def sensitivity_at_specificity(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> float | None:
    """Return the highest sensitivity of a threshold whose specificity is PAPER_SPECIFICITY or more.

    It is a point of the ROC curve, not between two of them. None with one class.
    """
    if label.all() or not label.any():
        return None
    false_positive, true_positive = roc_curve(label, probability)
    return float(true_positive[1 - false_positive >= PAPER_SPECIFICITY - 1e-12].max())


def roc_curve(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return false and true positive rate, each [1 + distinct probabilities], from (0, 0) to (1, 1).

    The threshold falls from point to point. Both classes must occur.
    """
    order = np.argsort(-probability, kind="stable")
    falls = np.flatnonzero(np.diff(probability[order], append=-np.inf))  # the last view at each threshold
    true_positive = np.concatenate([[0], np.cumsum(label[order])[falls]])
    false_positive = np.concatenate([[0], 1 + falls]) - true_positive
    return false_positive / false_positive[-1], true_positive / true_positive[-1]


def rate_intervals(label: ArrayLike, probability: ArrayLike, patient: ArrayLike) -> Metrics:
    """Return the 95 % intervals of RATES, each over its own class: `sensitivity_low`, `sensitivity_high`, and so on."""
    y, who = np.asarray(label).astype(bool), np.asarray(patient)
    right = (np.asarray(probability, dtype=float) > THRESHOLD) == y
    intervals = {name: share_interval(right[of], who[of]) for name, of in zip(RATES, (y, ~y), strict=True)}
    ends = {name: (f"{name}_low", f"{name}_high") for name in RATES}
    return {key: end for name in RATES for key, end in zip(ends[name], intervals[name], strict=True)}


def share_interval(right: NDArray[np.bool_], patient: NDArray[np.generic]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the share of `right` [N], whose cases come in clusters, the `patient` [N].

    Wilson's (1927) interval, with Student's t for the patients and with the number of independent cases that would
    have the share's cluster-robust variance: at most N, and where no patient differs from the share, as many as there
    are patients. None with fewer than two patients.
    """
    _, number = np.unique(patient, return_inverse=True)
    cases_P, right_P = np.bincount(number), np.bincount(number, weights=right)
    n, patients = len(right), len(cases_P)
    if patients < 2:
        return None, None
    share = float(right.mean())
    variance = patients / (patients - 1) * float(np.square(right_P - share * cases_P).sum()) / n**2
    independent = patients if variance < 1e-15 else min(n, share * (1 - share) / variance)
    width = float(stdtrit(patients - 1, 0.975)) ** 2 / independent
    centre = (share + width / 2) / (1 + width)
    half = (width * share * (1 - share) + width**2 / 4) ** 0.5 / (1 + width)
    return max(0.0, centre - half), min(1.0, centre + half)


def study_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row a study, sorted: `split`, `extremity`, `patient`, `study`, `label`, `probability`, `views`.

    A study's probability is the mean over its views (Rajpurkar et al. 2017).
    MuraError when the views of a study don't share one label, or a row can't be counted (`check_predictions`).
    """
    check_predictions(predictions)
    groups = predictions.groupby(STUDY_KEY, sort=True, observed=True)
    table = mean_of_views(groups[["label", "probability"]]).assign(views=groups.size()).reset_index()
    mixed = table[~table["label"].isin([0, 1])]
    if len(mixed):
        first = "/".join(str(part) for part in mixed.iloc[0][STUDY_KEY])
        raise MuraError(f"The views of study {first} don't share one label ({len(mixed)} such studies).")
    return table.astype({"label": predictions["label"].dtype})


def mean_of_views(groups: Any) -> Any:
    """Return the mean of each group; of values that are all alike exactly their value.

    Rounded means would else rank the studies of a constant model by their number of views.
    """
    least = groups.min()
    return groups.mean().where(least != groups.max(), least)


def summarise(predictions: pd.DataFrame) -> dict[str, dict[str, Metrics]]:
    """Return the metrics of the rows of one split, by level, then by OVERALL and each extremity that occurs."""
    studies = study_table(predictions)
    splits = predictions["split"].unique()
    if len(splits) > 1:
        raise MuraError(f"Metrics are of one split at a time, not of {' and '.join(map(str, splits))} together.")
    return dict(zip(LEVELS, map(_by_extremity, (predictions, studies)), strict=True))


def _by_extremity(table: pd.DataFrame) -> dict[str, Metrics]:
    parts = dict(list(table.groupby("extremity", observed=True)))
    groups = {OVERALL: table} | {name: parts[name] for name in EXTREMITIES if name in parts}
    return {
        name: binary_metrics(group["label"], group["probability"], group["extremity"])
        | rate_intervals(group["label"], group["probability"], group["patient"])
        for name, group in groups.items()
    }


def check_predictions(predictions: pd.DataFrame, source: str = "the predictions") -> None:
    """Raise MuraError, naming `source` and the first view at fault, unless every row can be counted.

    Labels are 0 or 1, probabilities numbers in [0, 1], extremities among the seven.
    """
    missing = [name for name in (*VIEW_KEY, "label", "probability") if name not in predictions.columns]
    if missing:
        raise MuraError(f"A column is missing in {source}: {', '.join(missing)}.")
    faults = {
        "probability": ~predictions["probability"].between(0, 1),  # NaN is between nothing
        "label": ~predictions["label"].isin([0, 1]),
        "extremity": ~predictions["extremity"].isin(EXTREMITIES),
    }
    for column, faulty in faults.items():
        if faulty.any():
            row = predictions[faulty].iloc[0]
            count = int(faulty.sum())
            raise MuraError(f"The {column} of view {view_name(row)} is {row[column]} in {source} ({count} such views).")


def view_name(row: pd.Series) -> str:
    """Return how a message names a view: by its path where there is one, else by its key."""
    return str(row["path"]) if "path" in row.index else "/".join(str(row[part]) for part in VIEW_KEY)
