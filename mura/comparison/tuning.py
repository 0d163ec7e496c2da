"""A study's search for good settings, read from its folder: what was tried, what was chosen, and how sure that is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mura.comparison.bootstrap import Floats
from mura.comparison.collect import FinishedRun, check_comparable, read_predictions, read_run
from mura.errors import MuraError
from mura.metrics import VIEW_KEY
from mura.runs.folder import COMPLETE, SEARCH_FILE, SEARCH_FOLDER, RunFolder, trial_runs
from mura.runs.records import read_metrics, read_search
from mura.study.arms import arm_rank

RESAMPLES = 1000


@dataclass(frozen=True)
class ArmSearch:
    """The finished search of one model and data set.

    `elsewhere` is the loss to be expected of a choice like this on patients that didn't choose; None where it can't be
    said. `trials` are as in search.json.
    """

    model: str
    data: str
    arm: str
    trials: list[dict[str, Any]]
    chosen: dict[str, Any]
    importance: dict[str, float]
    elsewhere: float | None

    @property
    def recipe(self) -> dict[str, Any]:
        return self.trials[0]

    def count(self, state: str) -> int:
        return sum(trial["state"] == state for trial in self.trials)


@dataclass(frozen=True)
class StudySearch:
    """The search of a study in `folder`: its terms as in search.json, its finished searches, and the others' names."""

    folder: Path
    terms: dict[str, Any]
    arms: list[ArmSearch]
    unfinished: list[str]

    @property
    def keys(self) -> list[str]:
        """The settings that were searched."""
        return list(self.terms["space"])


def searches_of(runs: Sequence[FinishedRun]) -> list[StudySearch]:
    """Return the search of each study that the runs belong to and that has one. MuraError for a damaged file."""
    studies = dict.fromkeys(run.folder.path.parent.parent.parent for run in runs)
    folders = [study / SEARCH_FOLDER for study in studies]
    return [_read(folder) for folder in folders if (folder / SEARCH_FILE).is_file()]


def _read(folder: Path) -> StudySearch:
    noted = read_search(folder)
    arms, unfinished = [], []
    for name, search in noted["searches"].items():
        by_number = {trial["number"]: trial for trial in search["trials"]}
        if by_number.get(search.get("chosen")) is None or 0 not in by_number:
            unfinished.append(name)
            continue
        trials = [by_number[number] for number in sorted(by_number)]
        about = search["model"], search["data"], search["arm"], trials, by_number[search["chosen"]]
        elsewhere = expected_elsewhere(folder / name, noted, trials)
        arms.append(ArmSearch(*about, search.get("importance") or {}, elsewhere))
    arms.sort(key=lambda arm: (arm.model, arm_rank(arm.arm), arm.data))
    return StudySearch(folder, noted, arms, unfinished)


def expected_elsewhere(folder: Path, terms: dict[str, Any], trials: Sequence[dict[str, Any]]) -> float | None:
    """Return the log loss to be expected, on other patients, of the best of these trials; None for another judge.

    The best of many looks better than it is, since luck helped to make it the best. The validation patients are
    resampled, the best is chosen on those that are drawn, and its loss is measured on those that are not (bootstrap
    bias correction, Tsamardinos et al. 2018). None too when the trials' predictions are not all there.
    """
    if terms["monitor"] != "val_loss":
        return None
    try:
        losses = [
            pd.concat([view_losses(run) for run in trial_runs(folder, trial["number"], terms["folds"])])
            for trial in trials
            if trial["state"] == COMPLETE
        ]
    except MuraError:
        return None
    table = pd.concat(losses, axis=1)
    if table.isna().to_numpy().any():
        return None
    of_patients = table.groupby(level="patient")
    return _best_out_of_bag(of_patients.sum().to_numpy(float).T, np.asarray(of_patients.size(), dtype=float))


def view_losses(run: RunFolder) -> "pd.Series[float]":
    """Return the log loss of each validation view of a run, by VIEW_KEY."""
    views = read_predictions(run.predictions)
    views = views[views["split"] == "val"].set_index(VIEW_KEY).sort_index()
    signed = views["logit"] * (1 - 2 * views["label"])
    return pd.Series(np.logaddexp(0, signed.to_numpy(float)), index=views.index)


def _best_out_of_bag(sums: Floats, sizes: Floats) -> float | None:
    """Return the mean loss, out of the bag, of what is best in it; `sums` [T, P] are losses, `sizes` [P] views."""
    rng = np.random.default_rng(0)
    number = len(sizes)
    drawn = rng.multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    left = drawn == 0
    usable = left.any(axis=1)
    if not usable.any():
        return None
    drawn, left = drawn[usable], left[usable]
    inside = (drawn @ sums.T) / (drawn @ sizes)[:, None]
    outside = (left @ sums.T) / (left @ sizes)[:, None]
    return float(outside[np.arange(len(inside)), inside.argmin(axis=1)].mean())


def recipe_runs(searches: Sequence[StudySearch]) -> list[FinishedRun]:
    """Return the recipe's own trials, tested after everything was chosen; empty unless all of a search are there."""
    runs = []
    for search in searches:
        of_arms = [trial_runs(search.folder / arm.model / arm.data, 0, search.terms["folds"])[0] for arm in search.arms]
        if not all(run.finished and read_metrics(run.metrics)["test"] is not None for run in of_arms):
            return []
        runs += [read_run(run) for run in of_arms]
    if runs:
        check_comparable(runs)
    return runs


def notes(searches: Sequence[StudySearch]) -> Iterator[str]:
    """Yield what must be known of the searches: which settings differ by design, and what is not finished."""
    for search in searches:
        yield f"Tuned for each model and data set, with equal chances: {', '.join(search.keys)} (see Tuning)."
        if search.unfinished:
            yield f"The search of {', '.join(search.unfinished)} is not finished."
