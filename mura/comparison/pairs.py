"""Which arms are compared, on which extremities and seeds, and the same views of both, row by row.

Finished runs become an `ArmTable` for each model, arm and seed; every two arms of a model become a `Pair`; the views of
a pair are put into one order once (`Pairing`), whatever is then made of the probabilities.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mura.comparison.bootstrap import Cases, Floats
from mura.comparison.collect import FinishedRun, check_same_views, check_views, extremities_in, views_of
from mura.errors import MuraError
from mura.extremities import EXTREMITIES, data_name
from mura.metrics import LEVELS, OVERALL, VIEW_KEY, mean_of_views, study_table
from mura.runs.folder import PREDICTION_COLUMNS

ROUTED = "routed"
"""The data of a row that several runs of one arm answer together, each for its own extremity."""

Arms = Mapping[str, Sequence[pd.DataFrame]]
"""By the name of an arm, its predictions tables, one a trained model."""

Seeds = Mapping[str, Sequence[int]]
"""By the name of an arm, the seeds of its tables, in their order."""

Folds = Mapping[int, int]
"""By seed, the fold that its runs validated on, in all arms; none for a fold that is the same for all."""


@dataclass(frozen=True)
class ArmTable:
    """The `test` predictions of one arm with one seed, each extremity from the run that was trained for it.

    `validation` are the validation predictions of the same runs.
    """

    model: str
    arm: str
    seed: int
    runs: tuple[FinishedRun, ...]
    test: pd.DataFrame
    validation: pd.DataFrame

    @cached_property
    def extremities(self) -> tuple[str, ...]:
        return extremities_in(self.test)

    @property
    def fold(self) -> int:
        """The fold that its runs validated on, the same in all (`collect.check_folds`)."""
        return self.runs[0].fold

    @cached_property
    def studies(self) -> pd.DataFrame:
        """The test predictions by study."""
        return study_table(self.test)

    def views_of(self, extremities: Sequence[str]) -> pd.DataFrame:
        """Return the test predictions of these extremities."""
        return views_of(self.test, extremities)

    def validation_of(self, extremities: Sequence[str]) -> pd.DataFrame:
        """Return the validation predictions of these extremities, each from the run that answers for it."""
        return _concatenate(
            views_of(run.validation, [name for name in run.extremities if name in extremities]) for run in self.runs
        )

    def data_of(self, extremities: Sequence[str]) -> str:
        """Return the data set of the run that answers for these extremities, or ROUTED where several do."""
        names = {run.data for run in self.runs if set(run.extremities) & set(extremities)}
        return names.pop() if len(names) == 1 else ROUTED


@dataclass(frozen=True)
class Pair:
    """Two arms of one model on the extremities that both have; `notes` say what had to be left out.

    Two models of one arm are a pair too (`make_backbone_pairs`).
    """

    model: str
    a: str
    b: str
    extremities: tuple[str, ...]
    arms: dict[str, list[ArmTable]]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.a}-{self.b}"

    @property
    def scope(self) -> str:
        return scope_name(self.extremities)

    @property
    def groups(self) -> list[str]:
        """The rows of a table of this pair: its extremities and, where there are several, all of them together."""
        return [*self.extremities, *([self.scope] if len(self.extremities) > 1 else [])]

    @property
    def seeds(self) -> dict[str, list[int]]:
        return {arm: [table.seed for table in tables] for arm, tables in self.arms.items()}

    @property
    def common_seeds(self) -> list[int]:
        return sorted(set(self.seeds[self.a]) & set(self.seeds[self.b]))

    @property
    def folds(self) -> Folds:
        return {table.seed: table.fold for tables in self.arms.values() for table in tables}

    @property
    def splits(self) -> int:
        """How many ways of splitting the training set the pair was trained on."""
        return count_splits(self.folds)

    def runs_of(self, arm: str) -> list[FinishedRun]:
        """Return the runs of an arm that answer for the pair's extremities."""
        return [run for table in self.arms[arm] for run in table.runs if set(run.extremities) & set(self.extremities)]

    def tables(self) -> dict[str, list[pd.DataFrame]]:
        return {arm: [table.views_of(self.extremities) for table in tables] for arm, tables in self.arms.items()}


def scope_name(extremities: Sequence[str]) -> str:
    """Return OVERALL for the seven, else the names themselves: `finger+wrist`."""
    return OVERALL if len(extremities) == len(EXTREMITIES) else data_name(list(extremities))


def count_splits(folds: Folds) -> int:
    return max(1, len(set(folds.values())))


def make_arm_tables(runs: Sequence[FinishedRun]) -> list[ArmTable]:
    """Return one table a model, arm and seed, in that order; `runs` as they come from `collect`."""
    groups: dict[tuple[str, str, int], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((run.model, run.arm, run.seed), []).append(run)
    return [
        ArmTable(*key, tuple(group), _concatenate(run.test for run in group), _concatenate(r.validation for r in group))
        for key, group in groups.items()
    ]


def _concatenate(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return one table, without the empty ones: they would turn the others' columns into objects."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=PREDICTION_COLUMNS)


def make_pairs(tables: Sequence[ArmTable]) -> tuple[list[Pair], list[str]]:
    """Return every two arms of a model that share an extremity and a split, and a note for each two that don't."""
    pairs, notes = [], []
    by_arm: dict[str, dict[str, list[ArmTable]]] = {}
    for table in tables:
        by_arm.setdefault(table.model, {}).setdefault(table.arm, []).append(table)
    for model, arms in by_arm.items():
        if len(arms) < 2:
            notes.append(f"{model}: only the arm {next(iter(arms))} has finished runs, so nothing can be compared.")
        for a, b in combinations(arms, 2):
            pair = _make_pair(model, {a: arms[a], b: arms[b]})
            if isinstance(pair, str):
                notes.append(f"{model}: {a} and {b} share no {pair}, so they can't be compared.")
            else:
                pairs.append(pair)
    return pairs, notes


def make_backbone_pairs(tables: Sequence[ArmTable], primary: str | None) -> list[Pair]:
    """Return every two models of an arm that share an extremity, arm by arm; with a `primary`, only those with it.

    In such a pair, `model` is the arm that both have, and `a` and `b` are the models.
    """
    by_model: dict[str, dict[str, list[ArmTable]]] = {}
    for table in tables:
        by_model.setdefault(table.arm, {}).setdefault(table.model, []).append(table)
    pairs = []
    for arm, models in by_model.items():
        first = sorted(models, key=lambda name: name != primary)  # stable: the primary, then the others in their order
        both = [{a: models[a], b: models[b]} for a, b in combinations(first, 2) if primary in (None, a)]
        pairs += [pair for each in both if isinstance(pair := _make_pair(arm, each), Pair)]
    return pairs


def _make_pair(model: str, arms: dict[str, list[ArmTable]]) -> Pair | str:
    """Return two arms on the extremities of the highest score, with the seeds that have them all.

    Without any, return what the arms don't share.
    """

    def seeds_with(extremities: set[str]) -> dict[str, list[ArmTable]]:
        return _on_same_splits(
            {arm: [t for t in tables if extremities <= set(t.extremities)] for arm, tables in arms.items()}
        )

    def score(extremities: set[str]) -> tuple[bool, int, int]:
        """Return the number of extremities, and of seeds in the arm that has fewer: extremities count first."""
        seeds = min(map(len, seeds_with(extremities).values()))
        return seeds > 0, len(extremities), seeds

    candidates = [set(one.extremities) & set(other.extremities) for one, other in product(*arms.values())]
    chosen = max(candidates, key=score)
    if not chosen:
        return "extremity"
    kept = seeds_with(chosen)
    if not all(kept.values()):
        return "seed, and their folds differ"
    extremities = tuple(name for name in EXTREMITIES if name in chosen)
    notes = [*_extremities_left_out(arms, chosen), *_seeds_left_out(arms, kept, extremities)]
    left_out = f"is left out of the comparison of {' and '.join(arms)}"
    a, b = arms
    return Pair(model, a, b, extremities, kept, [f"{model}: {what} {left_out}{why}." for what, why in notes])


def _on_same_splits(arms: dict[str, list[ArmTable]]) -> dict[str, list[ArmTable]]:
    """Return the tables of the seeds that all arms have, if seeds have folds of their own; else all tables."""
    if len({table.fold for tables in arms.values() for table in tables}) < 2:
        return arms
    common = set.intersection(*({table.seed for table in tables} for tables in arms.values()))
    return {arm: [table for table in tables if table.seed in common] for arm, tables in arms.items()}


def _extremities_left_out(arms: dict[str, list[ArmTable]], chosen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield each extremity that some arm has and the comparison doesn't, and why."""
    covered = {arm: {name for table in tables for name in table.extremities} for arm, tables in arms.items()}
    for extremity in EXTREMITIES:
        lacking = [arm for arm in arms if extremity not in covered[arm]]
        if extremity not in chosen and len(lacking) < len(arms):
            why = f"{lacking[0]} has no finished run of it" if lacking else "no seed has it together with the others"
            yield extremity, f", since {why}"


def _seeds_left_out(
    arms: dict[str, list[ArmTable]], kept: dict[str, list[ArmTable]], extremities: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield each seed of an arm that the comparison does without, and what it lacks."""
    for arm, tables in arms.items():
        for table in tables:
            if table not in kept[arm]:
                lacks = ", ".join(name for name in extremities if name not in table.extremities)
                why = f"it lacks {lacks}" if lacks else "the other arm has no run on its fold"
                yield f"seed {table.seed} of {arm}", f": {why}"


@dataclass(frozen=True)
class PairedCases:
    """The N views or studies of one `level` as all M models of some arms see them.

    `rows` [N] has extremity, patient and label; `probability` [M, N]; `models` says which of the M an arm has, `seeds`
    theirs, and `folds` on what split each seed was trained.
    """

    level: str
    rows: pd.DataFrame
    probability: Floats
    models: dict[str, list[int]]
    seeds: Seeds
    folds: Folds

    @property
    def splits(self) -> int:
        return count_splits(self.folds)

    def matched(self, a: str, b: str) -> list[tuple[int, int, int]]:
        """Return each seed that two arms have in common, and its model in either."""
        models_of_a, models_of_b = (dict(zip(self.seeds[arm], self.models[arm], strict=True)) for arm in (a, b))
        return [(seed, models_of_a[seed], models_of_b[seed]) for seed in models_of_a if seed in models_of_b]

    @cached_property
    def cases(self) -> dict[str, Cases]:
        """The cases of OVERALL and of each extremity that occurs, their patients numbered from 0."""
        extremity, patients = self.rows["extremity"].to_numpy(), self.rows["patient"].to_numpy()
        label = self.rows["label"].to_numpy(dtype=bool)
        cases = {}
        for group in (OVERALL, *extremities_in(self.rows)):
            chosen = np.full(len(label), True) if group == OVERALL else extremity == group
            patient, _ = pd.factorize(patients[chosen])
            numbers, _ = pd.factorize(extremity[chosen])
            cases[group] = Cases(patient, label[chosen], self.probability[:, chosen], numbers)
        return cases


@dataclass(frozen=True)
class Pairing:
    """The N views that all M models of some arms have, in one order, and where each model's table holds them.

    `orders` [M][N] are the views' places in the tables; `models`, `seeds` and `folds` are as in PairedCases.
    Probabilities are no part of it, so that one pairing serves every operating point.
    """

    views: pd.DataFrame
    orders: list[NDArray[np.intp]]
    models: dict[str, list[int]]
    seeds: Seeds
    folds: Folds

    @cached_property
    def studies(self) -> pd.DataFrame:
        return study_table(self.views)

    def levels(self, arms: Arms) -> dict[str, PairedCases]:
        """Return the cases by level, with the probabilities of `arms`: tables with the same rows as were paired."""
        tables = [table for tables in arms.values() for table in tables]
        by_table = [table["probability"].to_numpy(float) for table in tables]
        of_views = np.stack([values[order] for values, order in zip(by_table, self.orders, strict=True)])
        study = np.repeat(np.arange(len(self.studies)), self.studies["views"])
        of_studies = mean_of_views(pd.DataFrame(of_views.T).groupby(study)).to_numpy().T
        cases = zip(LEVELS, (self.views, self.studies), (of_views, np.ascontiguousarray(of_studies)), strict=True)
        return {
            level: PairedCases(level, rows, probability, self.models, self.seeds, self.folds)
            for level, rows, probability in cases
        }


def pair_views(arms: Arms, seeds: Seeds | None = None, folds: Folds | None = None) -> Pairing:
    """Return the common order of the arms' views; the tables have the same ones (`check_arms`, `check_comparable`).

    Without `seeds` a table's place in its arm is its seed; without `folds` all were trained on one split.
    """
    tables = [table.reset_index(drop=True) for tables in arms.values() for table in tables]
    orders = [table[VIEW_KEY].sort_values(VIEW_KEY).index.to_numpy() for table in tables]
    starts = np.cumsum([0, *map(len, arms.values())])
    models = {arm: list(range(start, start + len(arms[arm]))) for arm, start in zip(arms, starts, strict=False)}
    seeds = seeds or {arm: range(len(tables)) for arm, tables in arms.items()}
    return Pairing(tables[0].iloc[orders[0]].reset_index(drop=True), orders, models, seeds, folds or {})


def check_arms(arms: Arms) -> None:
    """Raise MuraError unless the arms can be compared.

    That takes two arms with tables, all of one split and of exactly the same views, each once and with the same label,
    and rows that can be counted.
    """
    empty = [arm for arm, group in arms.items() if len(group) == 0]
    if len(arms) < 2 or empty:
        lacking = " or ".join(empty) if empty else "a second one"
        raise MuraError(f"A comparison needs predictions of two arms at least; there are none of {lacking}.")
    tables = [
        (f"{arm} (table {number} of {len(group)})", table)
        for arm, group in arms.items()
        for number, table in enumerate(group, start=1)
    ]
    for name, table in tables:
        if len(table) == 0:
            raise MuraError(f"There are no predictions in {name}.")
        check_views(table, name)
        if table["split"].nunique() > 1:
            splits = " and ".join(map(str, table["split"].unique()))
            raise MuraError(f"A comparison is made on one split, but {name} has {splits}.")
        check_same_views(name, table, *tables[0])
