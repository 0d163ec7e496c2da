"""What the runs of a study say together: the results table, and for every two arms all that is said of them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pandas as pd

from mura.comparison import operating, transfer, tuning
from mura.comparison.backbones import ComparedBackbones, chosen_primary, compare_backbones
from mura.comparison.bootstrap import Bootstraps
from mura.comparison.collect import (
    FinishedRun,
    UnfinishedRun,
    check_transfer,
    collect,
    declared,
    is_synthetic,
    recipe_notes,
    sort_key,
)
from mura.comparison.equivalence import apply_margin, check_margin
from mura.comparison.heat import HeatAgreement, heat_agreements
from mura.comparison.operating import AtPoint, Fitted, compare_at_points
from mura.comparison.pairs import ArmTable, Pair, make_arm_tables, make_pairs, pair_views, scope_name
from mura.comparison.verdict import PRIMARY, RESAMPLES, Agreement, Comparison, compare_cases, count_agreement, in_scope
from mura.comparison.warnings import warnings_beside
from mura.errors import MuraError
from mura.extremities import ALL_SEVEN, EXTREMITIES
from mura.metrics import (
    CALIBRATION_METRICS,
    LEVELS,
    OVERALL,
    REPORTED_METRICS,
    THRESHOLD,
    Metrics,
    binary_metrics,
    summarise,
)
from mura.study.arms import SPECIALISED, UNIFIED

RESULT_COLUMNS = [
    "model", "arm", "data", "seed", "extremity", "level", "metric", "value", "n", "val_value", "val_n", "low", "high",
    "why_undefined",
]  # fmt: skip
Summary = dict[str, dict[str, Metrics]]
SYNTHETIC = "Synthetic data: these pictures are drawn by the program. The figures say nothing about patients or MURA."


@dataclass(frozen=True)
class ComparedPair:
    """Two arms and all that is said of them; `agreements` are by study, `points` empty where none could be fitted."""

    pair: Pair
    comparisons: list[Comparison]
    agreements: list[Agreement]
    points: list[AtPoint]

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, str], Comparison]:
        return {(record.extremity, record.level, record.metric): record for record in self.comparisons}

    def record(self, extremity: str, level: str, metric: str) -> Comparison:
        return self._by_key[extremity, level, metric]

    def records(self, level: str, metric: str) -> list[Comparison]:
        """Return a record for each extremity and, last, for all of them together."""
        return [self.record(group, level, metric) for group in self.pair.groups]

    @cached_property
    def warnings(self) -> list[str]:
        """What must be known beside the verdict, one sentence each."""
        return warnings_beside(self.pair)

    @property
    def main(self) -> Comparison:
        """The record that decides: the verdict's level and metric, all extremities together."""
        return self.record(self.pair.groups[-1], *PRIMARY)


@dataclass(frozen=True)
class Study:
    """Everything the report shows. `out` is where it is written.

    `before` are the pairs of the recipe's own runs of the `searches`: what would be said without tuning.
    """

    out: Path
    runs: list[FinishedRun]
    unfinished: list[UnfinishedRun]
    tables: list[ArmTable]
    pairs: list[ComparedPair]
    backbones: list[ComparedBackbones]
    primary: str | None
    results: pd.DataFrame
    fitted: list[Fitted]
    transfer: pd.DataFrame
    heat: list[HeatAgreement]
    notes: list[str]
    synthetic: bool
    searches: list[tuning.StudySearch]
    before: list[ComparedPair]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(run.model for run in self.runs))

    @property
    def comparisons(self) -> list[Comparison]:
        """The rows of comparison.json."""
        of_arms = [record for compared in self.pairs for record in compared.comparisons]
        return of_arms + [record for compared in self.backbones for record in compared.comparisons]

    @cached_property
    def _values(self) -> dict[tuple[str, ...], list[float | None]]:
        """The seeds' values by model, arm, extremity, level and metric."""
        values: dict[tuple[str, ...], list[float | None]] = defaultdict(list)
        for *key, value in self.results[["model", "arm", "extremity", "level", "metric", "value"]].to_numpy():
            values[tuple(key)].append(value)
        return values

    def mean(self, model: str, arm: str, extremity: str, level: str, metric: str) -> float | None:
        """Return the mean over the arm's seeds; None where a seed has no value, or there is none."""
        values = self._values.get((model, arm, extremity, level, metric), [])
        known = [value for value in values if not pd.isna(value)]
        return float(np.mean(known)) if known and len(known) == len(values) else None

    def beside_kumar(self, model: str, row: str, level: str, metric: str) -> float | None:
        """Return ours for a row of the published table: the unified model, a specialised one, or else all seven."""
        if row == ALL_SEVEN:
            return self.mean(model, UNIFIED, OVERALL, level, metric)
        return self.mean(model, SPECIALISED, row if row in EXTREMITIES else OVERALL, level, metric)


def summarise_study(
    directories: Sequence[Path],
    out: Path,
    resamples: int,
    margin: float | None = None,
    primary: str | None = None,
    skip_damaged: bool = False,
) -> Study:
    """Read all runs below the directories; compare every two arms of each model, and every two models of each arm.

    `margin` is the difference in accuracy within which two arms count as equivalent, and `primary` the only model that
    others are compared with; by default those that the study declared at its first start. With `skip_damaged` a note
    names each run that can't be read. MuraError for a bad margin or primary model, when there is no finished run, or
    when the runs can't be read or are not comparable.
    """
    check_margin(margin)
    left_out: list[MuraError] | None = [] if skip_damaged else None
    runs, unfinished = collect(directories, left_out)
    margin = declared(runs, "margin") if margin is None else margin
    primary = chosen_primary(primary, declared(runs, "primary"), {run.model for run in runs})
    check_margin(margin)
    check_transfer(runs)
    tables = make_arm_tables(runs)
    pairs, notes = make_pairs(tables)
    fitted = operating.fit_all(tables)
    notes += [note for pair in pairs for note in pair.notes]
    notes = [f"A run is left out: {error}" for error in left_out or ()] + notes
    searches = tuning.searches_of(runs)
    notes += tuning.notes(searches)
    notes += [
        *recipe_notes(runs, {key for search in searches for key in search.keys}),
        *_one_class_notes(runs),
        *transfer.notes(runs),
        *operating.notes(tables, fitted),
    ]
    return Study(
        out=out,
        runs=runs,
        unfinished=unfinished,
        tables=tables,
        pairs=compare_pairs(pairs, fitted, resamples, margin),
        backbones=compare_backbones(tables, resamples, margin, primary),
        primary=primary,
        results=results_table(tables, pairs),
        fitted=fitted,
        transfer=transfer.transfer_table(runs),
        heat=heat_agreements(runs),
        notes=notes,
        synthetic=any(map(is_synthetic, runs)),
        searches=searches,
        before=_compare_recipes(searches, resamples, margin),
    )


def _compare_recipes(
    searches: Sequence[tuning.StudySearch], resamples: int, margin: float | None
) -> list[ComparedPair]:
    """Return the pairs of arms as they are without tuning."""
    tables = make_arm_tables(sorted(tuning.recipe_runs(searches), key=sort_key))
    pairs = make_pairs(tables)[0]
    return compare_pairs(pairs, operating.fit_all(tables), resamples, margin)


def compare(
    folder: str | Path, *others: str | Path, margin: float | None = None, primary: str | None = None
) -> pd.DataFrame:
    """Return the rows of comparison.json for all runs below the folders, as `mura report` writes them.

    `margin` and `primary` are explained at `summarise_study`, which raises MuraError.
    """
    directories = [Path(each) for each in (folder, *others)]
    study = summarise_study(directories, directories[0], RESAMPLES, margin, primary)
    return pd.DataFrame([record.to_dict() for record in study.comparisons])


def compare_pairs(
    pairs: Sequence[Pair], fitted: Sequence[Fitted], resamples: int, margin: float | None = None
) -> list[ComparedPair]:
    """Return all that is said of every two arms; an arm is resampled once for all pairs of a model that it is in."""
    compared = []
    for _, of_model in groupby(pairs, key=lambda pair: pair.model):
        made, at_points = Bootstraps(resamples), operating.bootstraps_at_points(resamples)
        compared += [_compare_pair(pair, fitted, made, at_points, margin) for pair in of_model]
    return compared


def _compare_pair(
    pair: Pair, fitted: Sequence[Fitted], made: Bootstraps, at_points: Bootstraps, margin: float | None
) -> ComparedPair:
    """Return all that is said of two arms; their views are paired once."""
    arms = pair.tables()
    pairing = pair_views(arms, pair.seeds, pair.folds)
    levels = pairing.levels(arms)
    comparisons = [record for paired in levels.values() for record in compare_cases(paired, pair.model, made)]
    comparisons = in_scope(apply_margin(comparisons, margin), pair)
    agreements = in_scope(count_agreement(levels["study"], pair.model), pair)
    main = {record.extremity: record for record in comparisons if (record.level, record.metric) == PRIMARY}
    fixed = [main[group] for group in pair.groups]
    return ComparedPair(pair, comparisons, agreements, compare_at_points(pair, pairing, fixed, fitted, at_points))


def _one_class_notes(runs: Sequence[FinishedRun]) -> Iterator[str]:
    """Yield a sentence for each extremity whose test views are all normal, or all abnormal."""
    labels = {str(extremity): part["label"] for run in runs for extremity, part in run.test.groupby("extremity")}
    for extremity, label in labels.items():
        if label.nunique() == 1:
            what = "abnormal" if label.iloc[0] else "normal"
            yield (
                f"All test views of {extremity} are {what}: it has no kappa and no AUROC, "
                "and no group with it has an AUROC."
            )


def results_table(tables: Sequence[ArmTable], pairs: Sequence[Pair]) -> pd.DataFrame:
    """Return RESULT_COLUMNS: every model, arm and seed, by extremity and over all that it or its comparisons have.

    `value` and `n` are of the test views, `val_value` and `val_n` of the validation views of the same runs. `low` and
    `high` are the 95 % interval of `value`, for sensitivity and specificity; `why_undefined` is said of a calibration
    slope and intercept that the test views don't have.
    """
    rows: list[tuple[object, ...]] = []
    for table in tables:
        compared = [pair.extremities for pair in pairs if pair.model == table.model and table.arm in pair.arms]
        whole = summarise(table.test), summarise(table.validation_of(table.extremities))
        for name in table.extremities:
            rows += _result_rows(table, (name,), name, *whole)
        for names in dict.fromkeys(names for names in (table.extremities, *compared) if len(names) > 1):
            if names == table.extremities:
                rows += _result_rows(table, names, OVERALL, *whole)
            elif set(names) <= set(table.extremities):
                part = summarise(table.views_of(names)), summarise(table.validation_of(names))
                rows += _result_rows(table, names, OVERALL, *part)
    return pd.DataFrame(rows, columns=RESULT_COLUMNS)


def _result_rows(
    table: ArmTable, names: tuple[str, ...], group: str, test: Summary, validation: Summary
) -> Iterator[tuple[object, ...]]:
    """Yield the rows of some extremities of a table, whose metrics stand under `group` in either summary."""
    scope = names[0] if len(names) == 1 else scope_name(names)
    who = (table.model, table.arm, table.data_of(names), table.seed, scope)
    for level, metric in product(LEVELS, REPORTED_METRICS):
        measured, validated = test[level][group], validation[level].get(group) or binary_metrics((), ())
        interval = measured.get(f"{metric}_low"), measured.get(f"{metric}_high")
        why = measured["why_no_calibration"] if metric in CALIBRATION_METRICS else None
        values = measured[metric], measured["n"], validated[metric], validated["n"]
        yield (*who, level, metric, *values, *interval, why or "")


def surest_mistakes(table: ArmTable, count: int = 5) -> pd.DataFrame:
    """Return the `count` wrongly called views of which the model was surest."""
    views = table.test
    wrong = views[(views["probability"] > THRESHOLD) != (views["label"] == 1)]
    surest = (wrong["probability"] - 0.5).abs().sort_values(ascending=False, kind="stable")
    return wrong.loc[surest.index[:count]]
