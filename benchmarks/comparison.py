"""The comparison of a study of MURA's size against a straightforward loop over resamples with scikit-learn."""

import time
import warnings

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, cohen_kappa_score, roc_auc_score

from benchmarks.measure import Plan, Row, median_of
from mura.comparison.verdict import RESAMPLES, compare
from mura.extremities import EXTREMITIES
from mura.metrics import LEVELS, OVERALL, study_table

PATIENTS, STUDIES, VIEWS = 783, 1199, 3197  # MURA's test set


def arms(seed: int = 0) -> dict[str, list[pd.DataFrame]]:
    """Return two arms' predictions for a test set of MURA's size: normal deviates, no radiographs."""
    rng = np.random.default_rng(seed)
    patient = np.r_[np.arange(PATIENTS), rng.integers(0, PATIENTS, STUDIES - PATIENTS)]
    study = np.sort(np.r_[np.arange(STUDIES), rng.integers(0, STUDIES, VIEWS - STUDIES)])
    extremity = rng.integers(0, 7, STUDIES)
    label = rng.integers(0, 2, STUDIES)
    views = pd.DataFrame({
        "split": "test", "extremity": np.array(EXTREMITIES)[extremity[study]],
        "patient": [f"patient{number:05d}" for number in patient[study]], "study": [f"study{s}" for s in study],
        "view": pd.Series(study).groupby(study).cumcount() + 1, "label": label[study],
    })  # fmt: skip
    shared = rng.normal(0, 1, STUDIES)[study]
    tables = {}
    for name in ("unified", "specialised"):
        logit = 1.2 * (2 * views["label"] - 1) + shared + rng.normal(0, 1, VIEWS)
        tables[name] = [views.assign(logit=logit, probability=1 / (1 + np.exp(-logit)))]
    return tables


def straightforward(tables: dict[str, list[pd.DataFrame]], resamples: int) -> float:
    """Return the seconds that so many resamples of all that `compare` resamples take, one after the other."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for level in LEVELS:
        both = [group[0] if level == "image" else study_table(group[0]) for group in tables.values()]
        for group in (OVERALL, *EXTREMITIES):
            parts = [table if group == OVERALL else table[table["extremity"] == group] for table in both]
            rows_of = list(parts[0].reset_index(drop=True).groupby("patient").indices.values())
            label = parts[0]["label"].to_numpy()
            scores = [part["probability"].to_numpy() for part in parts]
            for _ in range(resamples):
                drawn = np.concatenate([rows_of[p] for p in rng.integers(0, len(rows_of), len(rows_of))])
                for score in scores:
                    y, p = label[drawn], score[drawn]
                    accuracy_score(y, p > 0.5)
                    cohen_kappa_score(y, p > 0.5)
                    roc_auc_score(y, p)
    return time.perf_counter() - start


def comparison(plan: Plan) -> list[Row]:
    """Return how many times faster `compare` is than the loop."""
    tables = arms()
    tried = 5 if plan.quick else 20
    ours, theirs = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(plan.rounds):
            start = time.perf_counter()
            compare(tables, "none")
            ours.append(time.perf_counter() - start)
            theirs.append(straightforward(tables, tried) * RESAMPLES / tried)
    detail = (
        f"ours {median_of(ours, 's')} (with as many permutations), the loop {median_of(theirs, 's', 0)}, extrapolated "
        f"from {tried} resamples"
    )
    row = Row(
        f"{RESAMPLES:,} resamples of the whole comparison", "a loop with scikit-learn, extrapolated",
        [b / a for a, b in zip(ours, theirs, strict=True)], 100, detail=detail,
    )  # fmt: skip
    return [row]
