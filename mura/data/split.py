"""Folds of the training set: one split by patient for all eight data sets, so that none leaks."""

import hashlib
import warnings

import numpy as np
import pandas as pd

from mura.errors import MuraError
from mura.runs.folder import FOLDS

TINY_CLASS = "The least populated class in y|The number of unique classes"


def assign_folds(index: pd.DataFrame, n_folds: int = FOLDS, seed: int = 0) -> pd.Series:
    """Return fold numbers 0 to n_folds - 1, int64, for the training rows of `index` (and labelled like them).

    All views of a patient are in one fold, over all extremities; each fold has the whole set's shares of
    extremities and labels. Raises MuraError when there are too few patients for it.
    """
    training = index[index["split"] == "train"]
    patients = training["patient"].nunique()
    if not 2 <= n_folds <= patients:
        raise MuraError(
            f"train/ holds {patients} patients, which can't be dealt to {n_folds} folds: "
            "a data set needs at least as many patients as folds, and at least 2."
        )
    folds = _deal(_strata(training, n_folds), training["patient"].to_numpy(), n_folds, seed)
    if len(np.unique(folds)) < n_folds:
        raise MuraError(
            f"train/ holds too few patients ({patients}) for {n_folds} folds: one stays empty; add patients."
        )
    return pd.Series(folds, index=training.index, name="fold")


def split_hash(index: pd.DataFrame, folds: pd.Series) -> str:
    """Return 32 hex characters over (path, fold) of every row of `folds`: equal hashes mean equal splits."""
    rows = zip(index.loc[folds.index, "path"], folds, strict=True)
    lines = "".join(f"{path}\t{fold}\n" for path, fold in rows)
    return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()


def _strata(training: pd.DataFrame, n_folds: int) -> np.ndarray:
    """Return extremity and label of each row as one word [N]; strata too small for the folds are thrown together."""
    strata = training["extremity"] + training["label"].map({0: " normal", 1: " abnormal"})
    return strata.where(strata.map(strata.value_counts()) >= n_folds, "rest").to_numpy(dtype=str)


def _deal(strata: np.ndarray, patients: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Return the fold of each row, int64 [N], for strata and patients [N]; scikit-learn's StratifiedGroupKFold."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second to import

    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    folds = np.zeros(len(strata), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", TINY_CLASS, UserWarning)
        for fold, (_, rows) in enumerate(splitter.split(strata, strata, patients)):
            folds[rows] = fold
    return folds
