"""Predictions table in, metrics out: the one definition of every number, for validation, test and report.

A predictions table has a row a view: `split`, `extremity`, `patient`, `study`, `view`, `path`, `label` (0
normal, 1 abnormal), `logit`, `probability` (of "abnormal").
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mura.errors import MuraError
from mura.extremities import EXTREMITIES

THRESHOLD = 0.5
"""A view or a study is called abnormal when its probability is strictly above this."""

REPORTED_METRICS = ("accuracy", "kappa", "auroc", "sensitivity", "specificity", "f1", "brier", "ece")
"""The metrics of a results table, in their order."""

CALIBRATION_BINS = 15
LEVELS = ("image", "study")
OVERALL = "all"
"""The group of all views or studies, beside those of the single extremities."""

STUDY_KEY = ["split", "extremity", "patient", "study"]
VIEW_KEY = [*STUDY_KEY, "view"]

Metrics = dict[str, float | int | None]


def binary_metrics(label: ArrayLike, probability: ArrayLike, extremity: ArrayLike | None = None) -> Metrics:
    """Return the metrics of one group: `label` [N] in {0, 1}, `probability` [N] in [0, 1].

    `extremity` [N] tells the extremities of a group that has several: AUROC is then the mean of those within each
    (`mean_auroc`). All else counts each case by itself.

    `n` and `abnormal` are counts; `brier` is the mean squared error of the probability and `ece` the expected
    calibration error (`calibration_error`). What is undefined is None: everything in an empty group; kappa and the
    rate without cases when only one class occurs, AUROC when an extremity has only one; F1 without abnormal cases.
    """
    y = np.asarray(label).astype(bool)
    p = np.asarray(probability, dtype=float)
    called = p > THRESHOLD
    n, abnormal = len(y), int(y.sum())
    true_positive, true_negative = int((called & y).sum()), int((~called & ~y).sum())
    predicted = int(called.sum())
    agreement = _ratio(true_positive + true_negative, n)
    return {
        "n": n,
        "abnormal": abnormal,
        "accuracy": agreement,
        "kappa": cohen_kappa(n, abnormal, predicted, true_positive + true_negative),
        "auroc": auroc(y, p) if extremity is None else mean_auroc(y, p, np.asarray(extremity)),
        "sensitivity": _ratio(true_positive, abnormal),
        "specificity": _ratio(true_negative, n - abnormal),
        "f1": _ratio(2 * true_positive, predicted + abnormal) if abnormal else None,
        "brier": float(np.mean((p - y) ** 2)) if n else None,
        "ece": calibration_error(y, p),
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


def mean_auroc(
    label: NDArray[np.bool_], probability: NDArray[np.float64], extremity: NDArray[np.generic]
) -> float | None:
    """Return the mean over the extremities of the AUROC within each, all [N]; None unless each has both classes.

    The probabilities of separately trained models are never ranked against each other (docs/statistics.md).
    """
    areas = [auroc(label[extremity == name], probability[extremity == name]) for name in np.unique(extremity)]
    known = [area for area in areas if area is not None]
    return sum(known) / len(known) if known and len(known) == len(areas) else None


def roc_curve(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return false and true positive rate, each [1 + distinct probabilities], from (0, 0) to (1, 1).

    The threshold falls from point to point. Both classes must occur.
    """
    order = np.argsort(-probability, kind="stable")
    falls = np.flatnonzero(np.diff(probability[order], append=-np.inf))  # the last view at each threshold
    true_positive = np.concatenate([[0], np.cumsum(label[order])[falls]])
    false_positive = np.concatenate([[0], 1 + falls]) - true_positive
    return false_positive / false_positive[-1], true_positive / true_positive[-1]


def calibration_bin(probability: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin [N] of each probability [N]: CALIBRATION_BINS of equal width over [0, 1]; 1 is in the last."""
    return np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def calibration_error(label: NDArray[np.bool_], probability: NDArray[np.float64]) -> float | None:
    """Return the expected calibration error of the probability of "abnormal"; None in an empty group.

    In each bin it is the distance between the mean probability and the observed share of abnormal cases; over the
    bins, their mean, weighted by the cases in the bin.
    """
    if len(label) == 0:
        return None
    distance = np.bincount(calibration_bin(probability), weights=probability - label)
    return float(np.abs(distance).sum() / len(label))


def study_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row a study, sorted: `split`, `extremity`, `patient`, `study`, `label`, `probability`, `views`.

    A study's probability is the mean over its views (Rajpurkar et al. 2017).
    MuraError when the views of a study don't share one label, or a row can't be counted (`check_predictions`).
    """
    check_predictions(predictions)
    groups = predictions.groupby(STUDY_KEY, sort=True, observed=True)
    table = groups[["label", "probability"]].mean().assign(views=groups.size()).reset_index()
    mixed = table[~table["label"].isin([0, 1])]
    if len(mixed):
        first = "/".join(str(part) for part in mixed.iloc[0][STUDY_KEY])
        raise MuraError(f"The views of study {first} don't share one label ({len(mixed)} such studies).")
    return table.astype({"label": predictions["label"].dtype})


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
        name: binary_metrics(group["label"], group["probability"], group["extremity"]) for name, group in groups.items()
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
