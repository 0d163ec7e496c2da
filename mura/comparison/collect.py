"""Folders in, finished runs out: found, read, and checked to be comparable.

Every folder with metrics.json is a finished run; one with only config.yaml is unfinished and listed as such.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mura.errors import MuraError
from mura.extremities import BOXES, EXTREMITIES, TOP_FOLDER
from mura.metrics import OVERALL, VIEW_KEY, check_predictions, view_name
from mura.runs.folder import ADDED_LATER, EXPERIMENT_KEYS, RunFolder, find_runs, read_noted, read_planned_seeds
from mura.runs.heat import HeatMaps, read_heat
from mura.runs.records import MOST, read_config, read_metrics
from mura.runs.tables import read_table, refuse_rows
from mura.study.arms import ARM_KEYS, ARMS, UNION, arm_rank

MUST_MATCH = {"data_fingerprint": "data (fingerprint)", "split_hash": "split (hash)"}
VIEW_TEXTS, VIEW_NUMBERS = ("split", "extremity", "patient", "study", "path"), ("view", "label", "logit", "probability")
OF_THE_MACHINE = ("precision", "device")
LOSSES_AND_ACCURACIES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
LARGEST = 3.5e38
"""No logit and no loss is larger: they are computed in float32."""

SEED_KEYS = ("seed", "data.seed", "model.seed", "data.fold")
"""The settings of a run that may follow from its seed alone."""

OF_ITS_OWN = "its own"
"""Stands for the steps of a pooled run's epoch, which every other run may have or not."""


@dataclass(frozen=True)
class FinishedRun:
    """A run with results: its metrics.json, and its predictions of the validation views and of the test views."""

    folder: RunFolder
    metrics: dict[str, Any]
    validation: pd.DataFrame
    test: pd.DataFrame

    @property
    def model(self) -> str:
        return str(self.metrics["model"])

    @property
    def data(self) -> str:
        return str(self.metrics["data"])

    @property
    def seed(self) -> int:
        return int(self.metrics["seed"])

    @property
    def arm(self) -> str:
        """The way it was trained; unions of different extremities are different ways."""
        arm = str(self.metrics["arm"])
        return f"{UNION}({self.data})" if arm == UNION else arm

    @property
    def fold(self) -> int:
        """The fold of the training set that it validated on."""
        return int(self.metrics["fold"])

    @property
    def name(self) -> str:
        return f"{self.model}, {self.data}, seed {self.seed}"

    @cached_property
    def extremities(self) -> tuple[str, ...]:
        return extremities_in(self.test)

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_config(self.folder)

    @cached_property
    def parent(self) -> RunFolder | None:
        """The run that this one starts from; None if its arm starts from none, or the run lies nowhere.

        In a study that was moved it lies beside this one, and not where the config says.
        """
        origin = ARMS[self.arm].starts_from if self.arm in ARMS else None
        if origin is None:
            return None
        named = Path(str((self.config.get("model") or {}).get("weights"))).parent.parent
        beside = self.folder.path.parent.parent / ARMS[origin].data / self.folder.path.name
        return next((RunFolder(path) for path in (named, beside) if RunFolder(path).config.is_file()), None)

    @cached_property
    def steps_of_parent(self) -> int:
        """The optimiser steps of the run that this one starts from; 0 without one, or when it left no metrics."""
        if self.parent is None or not self.parent.finished:
            return 0
        return int(read_metrics(self.parent.metrics).get("steps") or 0)

    @property
    def steps_in_all(self) -> int | None:
        """The optimiser steps behind the model, its parent's included; None when the run didn't count them."""
        steps = self.metrics.get("steps")
        return None if steps is None else int(steps) + self.steps_of_parent

    @cached_property
    def planned_seeds(self) -> list[int] | None:
        """The seeds that its study was planned with; None when it is in no study that says so."""
        return read_planned_seeds(self.folder.path.parent.parent.parent)

    @cached_property
    def noted(self) -> dict[str, Any]:
        """What its study noted at its first start; empty when it is in none."""
        return read_noted(self.folder.path.parent.parent.parent)

    @cached_property
    def transfer(self) -> pd.DataFrame | None:
        """Predictions of the other extremities' test views; None when the run was not asked for them."""
        return read_predictions(self.folder.transfer) if self.folder.transfer.exists() else None

    @cached_property
    def heat(self) -> HeatMaps | None:
        """Where its model looked on the test views; None when it did not explain itself."""
        return read_heat(self.folder.heat) if self.folder.heat.exists() else None

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """The history.csv of the run; None when it left none."""
        return read_history(self.folder.history) if self.folder.history.exists() else None


@dataclass(frozen=True)
class UnfinishedRun:
    """A run folder without results, and the last line of its log."""

    folder: RunFolder
    last_words: str


def views_of(views: pd.DataFrame, extremities: Sequence[str]) -> pd.DataFrame:
    """Return the rows of these extremities."""
    return views[views["extremity"].isin(extremities)]


def extremities_in(views: pd.DataFrame) -> tuple[str, ...]:
    """Return the extremities that occur, in their order."""
    occurring = set(views["extremity"])
    return tuple(name for name in EXTREMITIES if name in occurring)


def collect(
    directories: Sequence[Path], left_out: list[MuraError] | None = None
) -> tuple[list[FinishedRun], list[UnfinishedRun]]:
    """Return every run below the directories, each once, ordered by model, arm, seed and extremity.

    What is wrong with a run that can't be read is added to the list `left_out`; without one, it is raised. MuraError
    also when there is no finished run, or when they can't stand in one table.
    """
    finished, unfinished = find_runs(directories)
    runs = []
    for folder in finished:
        try:
            runs.append(read_run(folder))
        except MuraError as error:
            if left_out is None:
                raise
            left_out.append(error)
    if not runs:
        where = ", ".join(map(str, directories))
        others = {"unfinished": len(unfinished), "left out": len(left_out or ())}
        counts = ", ".join(f"{number} {what}" for what, number in others.items() if number)
        raise MuraError(
            f"There is no finished run (a folder with metrics.json) below {where}{f' ({counts})' if counts else ''}."
        )
    runs.sort(key=sort_key)
    check_comparable(runs)
    return runs, [UnfinishedRun(folder, last_words(folder)) for folder in unfinished]


def sort_key(run: FinishedRun) -> tuple[Any, ...]:
    """Return the key that sorts runs: by model, arm, seed and extremity."""
    return run.model, arm_rank(run.arm), run.seed, [EXTREMITIES.index(name) for name in run.extremities]


def read_run(folder: RunFolder) -> FinishedRun:
    """Return the run; MuraError, with the file at fault, when one of its files, or its parent's, can't be used."""
    metrics = read_metrics(folder.metrics)
    if metrics["test"] is None:
        raise MuraError(folder.how_to_test())
    predictions = read_predictions(folder.predictions)
    validation, test = (predictions[predictions["split"] == split].reset_index(drop=True) for split in ("val", "test"))
    expected = metrics["test"]["image"][OVERALL]["n"]
    if len(test) != expected:
        raise MuraError(
            f"{folder.predictions} has {len(test)} test views, but the run's metrics.json counted {expected}."
        )
    run = FinishedRun(folder, metrics, validation, test)
    _ = (
        run.transfer,
        run.heat,
        run.history,
        run.config,
        run.steps_of_parent,
    )  # read now, while it is known whose they are
    if run.parent is not None:
        read_config(run.parent)
    return run


def read_predictions(file: Path) -> pd.DataFrame:
    """Return a predictions.csv or transfer.csv; MuraError unless each view is there once, with a probability."""
    table = read_table(file, VIEW_TEXTS, VIEW_NUMBERS)
    refuse_rows(file, table["split"], ~table["split"].isin(("val", "test")), "val or test")
    refuse_rows(file, table["view"], ~_is_whole(table["view"]), "a whole number from 0")
    refuse_rows(file, table["logit"], ~table["logit"].abs().le(LARGEST), f"a number within {LARGEST:g}")
    check_views(table, str(file))
    return table


def read_history(file: Path) -> pd.DataFrame | None:
    """Return a history.csv; None when it has no epoch. MuraError unless its epochs rise and its values are numbers."""
    history = read_table(file, (), ("epoch", *LOSSES_AND_ACCURACIES))
    rising = history["epoch"].diff().fillna(1) > 0
    refuse_rows(file, history["epoch"], ~(_is_whole(history["epoch"]) & rising), "a whole number above the last")
    for name in LOSSES_AND_ACCURACIES:
        refuse_rows(file, history[name], history[name].abs() > LARGEST, f"a number within {LARGEST:g}")
    return history if len(history) else None


def _is_whole(numbers: pd.Series) -> "pd.Series[bool]":
    return numbers.between(0, MOST) & (np.floor(numbers.astype(float)) == numbers)


def check_views(views: pd.DataFrame, source: str) -> None:
    """Raise MuraError, naming `source`, unless every row can be counted and every view is there once."""
    check_predictions(views, source)
    doubled = views[views.duplicated(VIEW_KEY)]
    if len(doubled):
        raise MuraError(f"View {view_name(doubled.iloc[0])} is doubled in {source} ({len(doubled)} such views).")


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Raise MuraError, naming two runs and what differs, unless all can stand in one table."""
    first = runs[0]
    check_folds(runs)
    cells: dict[tuple[str, str, int, str], FinishedRun] = {}
    views: dict[str, tuple[Path, pd.DataFrame]] = {}
    for run in runs:
        for key, what in MUST_MATCH.items():
            if run.metrics[key] != first.metrics[key]:
                raise MuraError(
                    f"These runs can't be compared: the {what} of {run.folder.path} is {run.metrics[key]}, "
                    f"that of {first.folder.path} is {first.metrics[key]}."
                )
        for extremity, part in run.test.groupby("extremity"):
            twin = cells.setdefault((run.model, run.arm, run.seed, str(extremity)), run)
            if twin is not run:
                raise MuraError(
                    f"Two finished runs answer for {extremity} ({run.model}, {run.arm}, seed {run.seed}): "
                    f"{twin.folder.path} and {run.folder.path}; name only one of them."
                )
            mine = run.folder.predictions, part
            check_same_views(*mine, *views.setdefault(str(extremity), mine))


def check_folds(runs: Sequence[FinishedRun]) -> None:
    """Raise MuraError, naming two runs, unless all runs of a seed validated on the same fold."""
    of_seed: dict[int, FinishedRun] = {}
    for run in runs:
        other = of_seed.setdefault(run.seed, run)
        if run.fold != other.fold:
            raise MuraError(
                f"These runs can't be compared: both have seed {run.seed}, but the validation fold of "
                f"{run.folder.path} is {run.fold}, that of {other.folder.path} is {other.fold}; train all with "
                "folds=rotate, or all on one fold."
            )


def check_transfer(runs: Sequence[FinishedRun]) -> None:
    """Raise MuraError unless every transfer.csv has the other extremities' test views as they are, and only those."""
    answers = {name: run for run in reversed(runs) for name in run.extremities}
    expected = {name: views_of(run.test, [name]) for name, run in answers.items()}
    for run in runs:
        if run.transfer is None:
            continue
        for extremity, part in run.transfer.groupby("extremity"):
            name = str(extremity)
            if name in run.extremities:
                raise MuraError(f"{run.folder.transfer} holds views of {name}, which the run itself answers for.")
            if name in answers:
                check_same_views(run.folder.transfer, part, answers[name].folder.predictions, expected[name])


def check_same_views(source: Path | str, views: pd.DataFrame, other_source: Path | str, others: pd.DataFrame) -> None:
    """Raise MuraError, naming a view and both sources, unless both tables have the same views with the same labels."""
    mine, other = (dict(zip(_keys(table), table["label"], strict=True)) for table in (views, others))
    if mine == other:
        return
    for lacker, lacks, holder, held in ((source, mine, other_source, others), (other_source, other, source, views)):
        missing = held[[key not in lacks for key in _keys(held)]]
        if len(missing):
            row = missing.iloc[0]
            raise MuraError(
                f"{lacker} lacks {len(missing)} of the {row['split']} views of {holder}, such as {view_name(row)}: "
                "only the same views can be compared."
            )
    relabelled = views[[mine[key] != other[key] for key in _keys(views)]]
    raise MuraError(
        f"The label of view {view_name(relabelled.iloc[0])} differs between {source} and {other_source} "
        f"({len(relabelled)} such views)."
    )


def _keys(views: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    return views[VIEW_KEY].itertuples(index=False, name=None)


def recipe_notes(runs: Sequence[FinishedRun], tuned: Collection[str] = ()) -> Iterator[str]:
    """Yield a sentence for each setting that isn't the same in all runs of a model, and for different code.

    Those that were `tuned` by a search differ by design.
    """
    by_model: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_model.setdefault(run.model, []).append(run)
    for model, group in by_model.items():
        recipes = [_recipe(run) for run in group]
        for key in sorted(set().union(*recipes)):
            values = {json.dumps(recipe.get(key)) for recipe in recipes if recipe.get(key) != OF_ITS_OWN}
            if len(values) > 1 and not any(key == each or key.startswith(f"{each}.") for each in tuned):
                yield f"{model}: {key} is not the same in all runs ({', '.join(sorted(values))})."
    commits = {(run.metrics.get("git") or {}).get("commit") or "unknown" for run in runs}
    if len(commits) > 1:
        yield f"The runs were made with different versions of the code: {', '.join(sorted(c[:10] for c in commits))}."


def _recipe(run: FinishedRun) -> dict[str, Any]:
    """Return the settings that make an experiment, without those that follow from the run's arm or seed.

    Precision and device are those that were used: the settings may say `auto`.
    """
    flat = ADDED_LATER | dict(_flat(run.config, "")) | {key: run.metrics.get(key) for key in OF_THE_MACHINE}
    arm = ARMS.get(run.arm)
    if arm is not None and arm.starts_from:  # as the run that it starts from began
        flat["model.weights"] = _initial_weights(run)
    if arm is not None and arm.is_pooled and flat.get("data.steps_like") is None:  # the others have as many as it has
        flat["data.steps_like"] = OF_ITS_OWN
    return {key: value for key, value in flat.items() if _is_of_a_recipe(key)}


def _is_of_a_recipe(key: str) -> bool:
    """Return whether runs with different values of this setting have different recipes."""
    makes_an_experiment = any(key == name or key.startswith(f"{name}.") for name in (*EXPERIMENT_KEYS, *OF_THE_MACHINE))
    return makes_an_experiment and key not in (*ARM_KEYS, *SEED_KEYS)


def _initial_weights(run: FinishedRun) -> Any:
    """Return the weights with which the run began whose checkpoint a fine-tuned one starts from; None if unknown."""
    return (read_config(run.parent).get("model") or {}).get("weights") if run.parent else None


def _flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def declared(runs: Sequence[FinishedRun], key: str) -> Any:
    """Return what the studies of the runs noted under a key at their first start; None unless all noted the same."""
    values = {run.noted.get(key) for run in runs}
    return values.pop() if len(values) == 1 else None


def is_synthetic(run: FinishedRun) -> bool:
    """Return whether the run's data are this program's own drawings.

    The run says so itself; one that was made before runs did is known by its data folder, where that still lies.
    """
    if run.metrics["synthetic"] is not None:
        return bool(run.metrics["synthetic"])
    root = (run.config.get("data") or {}).get("root")
    if not isinstance(root, str):
        return False
    top = Path(root).expanduser()
    return any((place / BOXES).is_file() for place in (top, top / TOP_FOLDER, top / TOP_FOLDER / TOP_FOLDER))


def last_words(folder: RunFolder) -> str:
    """Return the last line that an unfinished run left in a log; empty when there is none."""
    logs = sorted(folder.path.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)
    for log in logs:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        if any(lines):
            return [line for line in lines if line][-1]
    return ""
