"""What the runs of a study say together: the results table, the comparisons, and the verdict in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from mura.comparison import collect, operating, transfer
from mura.comparison.collect import ArmTable, Pair, Run, Unfinished, scope_name
from mura.comparison.operating import POINTS, Fitted, Point
from mura.comparison.verdict import (
    ALL,
    LEVELS,
    Agreement,
    Comparison,
    McNemar,
    agreement,
    compare,
    mcnemar,
)
from mura.extremities import ALL_SEVEN
from mura.metrics import THRESHOLD, binary_metrics, summarise
from mura.study.arms import ARMS, SPECIALISED, UNIFIED

METRICS = ("accuracy", "kappa", "auroc", "sensitivity", "specificity", "f1", "brier", "ece")
OPERATING_COLUMNS = [
    "model", "arm", "seed", "point", "scope", "extremity", "fitted", "level", "metric", "value", "n",
]  # fmt: skip
RESAMPLES_AT_A_POINT = 2_000
RESULT_COLUMNS = ["model", "arm", "data", "seed", "extremity", "level", "metric", "value", "n"]
PRIMARY = ("study", "accuracy")
"""The level and metric of the verdict; the others stand beside it."""

SYNTHETIC = "Synthetic data: these pictures are drawn by the program. The figures say nothing about patients or MURA."


R = TypeVar("R", Comparison, Agreement, McNemar)


@dataclass(frozen=True)
class AtPoint:
    """Two arms at one operating point: the verdict's level and metric, extremity by extremity and last together, and
    the calibration of their views (mean over the seeds)."""

    point: Point
    records: list[Comparison]
    brier: tuple[float, float]
    ece: tuple[float, float]

    @property
    def main(self) -> Comparison:
        return self.records[-1]

    def differing(self, fixed: "AtPoint") -> list[str]:
        """The extremities whose verdict is another one than at the fixed point, with it."""
        pairs = zip(self.records[:-1], fixed.records[:-1], strict=True)
        return [f"{mine.extremity}: {mine.verdict}" for mine, other in pairs if mine.verdict != other.verdict]


@dataclass(frozen=True)
class Study:
    """Everything the report shows. `out` is where it is written."""

    out: Path
    runs: list[Run]
    unfinished: list[Unfinished]
    tables: list[ArmTable]
    pairs: list[Pair]
    results: pd.DataFrame
    comparisons: list[Comparison]
    agreements: list[Agreement]
    mcnemars: list[McNemar]
    fitted: list[Fitted]
    at_points: dict[tuple[str, str], list["AtPoint"]]
    transfer: pd.DataFrame
    notes: list[str]
    synthetic: bool

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(run.model for run in self.runs))

    def record(self, pair: Pair, extremity: str, level: str, metric: str) -> Comparison:
        wanted = (pair.model, pair.name, extremity, level, metric)
        return next(c for c in self.comparisons if (c.model, c.comparison, c.extremity, c.level, c.metric) == wanted)

    def groups(self, pair: Pair) -> list[str]:
        """The rows of a pair's table: its extremities, and last, where there are several, all of them together."""
        return [*pair.extremities, *([pair.scope] if len(pair.extremities) > 1 else [])]

    def mean(self, model: str, arm: str, extremity: str, level: str, metric: str) -> float | None:
        """Mean over the arm's seeds; None where a seed has no value, or there is none."""
        r = self.results
        chosen = r[(r["model"] == model) & (r["arm"] == arm) & (r["extremity"] == extremity)]
        values = chosen.loc[(chosen["level"] == level) & (chosen["metric"] == metric), "value"].astype(float)
        return float(values.mean()) if len(values) and values.notna().all() else None

    def in_kumars_row(self, model: str, row: str, level: str, metric: str) -> float | None:
        """Ours for a row of Kumar et al.'s table: a specialised model, or the unified one on all seven."""
        arm, extremity = (UNIFIED, ALL) if row == ALL_SEVEN else (SPECIALISED, row)
        return self.mean(model, arm, extremity, level, metric)


def summarise_study(directories: Sequence[Path], out: Path, resamples: int) -> Study:
    """Reads all runs below the directories and compares every two arms of every model."""
    runs, unfinished = collect.collect(directories)
    tables = collect.arm_tables(runs)
    pairs, notes = collect.pairs(tables)
    comparisons: list[Comparison] = []
    agreements: list[Agreement] = []
    mcnemars: list[McNemar] = []
    for pair in pairs:
        arms = pair.tables()
        comparisons += [_named(r, pair) for r in compare(arms, pair.model, resamples) if _counts(r.extremity, pair)]
        agreements += [_named(r, pair) for r in agreement(arms, pair.model) if _counts(r.extremity, pair)]
        mcnemars += [_named(r, pair) for r in mcnemar(arms, pair.model) if _counts(r.extremity, pair)]
        notes += pair.notes
    collect.check_transfer(runs)
    fitted = at_operating_points(tables)
    notes += [*collect.recipe_notes(runs), *_one_class(runs), *transfer.notes(runs), *operating.lacking(fitted)]
    notes += _without_points(tables)
    study = Study(
        out, runs, unfinished, tables, pairs, results_table(tables, pairs), comparisons, agreements, mcnemars, fitted,
        {}, transfer.transfer_table(runs), notes, synthetic=any(map(collect.is_synthetic, runs)),
    )  # fmt: skip
    for pair in pairs:
        study.at_points[pair.model, pair.name] = compare_at_points(study, pair, min(resamples, RESAMPLES_AT_A_POINT))
    return study


def at_operating_points(tables: Sequence[ArmTable]) -> list[Fitted]:
    """Every arm and seed at every operating point, but for those that nothing can be fitted for."""
    return [
        Fitted(table.model, table.arm, table.seed, point, *operating.fit(table.validation, table.table, point))
        for table in tables
        if _why_without_points(table) is None
        for point in POINTS
    ]


def _without_points(tables: Sequence[ArmTable]) -> list[str]:
    """A sentence for each arm that is left out of the operating points."""
    reasons = {(table.model, table.arm): why for table in tables if (why := _why_without_points(table)) is not None}
    return [f"{model}, {arm}: left out of the operating points, since {why}." for (model, arm), why in reasons.items()]


def _why_without_points(table: ArmTable) -> str | None:
    if table.arm in ARMS and not ARMS[table.arm].validates_what_it_tests:
        return "its models have no validation views of the extremity that they are tested on"
    return None if len(table.validation) else "its predictions hold no validation views"


def compare_at_points(study: Study, pair: Pair, resamples: int) -> list[AtPoint]:
    """The pair at every operating point, the fixed one first; empty when an arm has none."""
    at = {(f.model, f.arm, f.seed, f.point): f.test for f in study.fitted}
    found = []
    for point in POINTS:
        keys = {arm: [(pair.model, arm, table.seed, point) for table in tables] for arm, tables in pair.arms.items()}
        if not all(key in at for group in keys.values() for key in group):
            return []
        arms = {arm: [collect.of(at[key], pair.extremities) for key in group] for arm, group in keys.items()}
        if point.kind == operating.FIXED:
            records = [study.record(pair, group, *PRIMARY) for group in study.groups(pair)]
        else:
            compared = compare(arms, pair.model, resamples, levels=PRIMARY[:1])
            named = {r.extremity: r for r in (_named(r, pair) for r in compared) if r.metric == PRIMARY[1]}
            records = [named[group] for group in study.groups(pair)]
        found.append(AtPoint(point, records, *(_mean_of(arms, metric) for metric in ("brier", "ece"))))
    return found


def _mean_of(arms: Mapping[str, Sequence[pd.DataFrame]], metric: str) -> tuple[float, float]:
    """Of the views, for both arms, mean over the seeds."""
    a, b = (
        [binary_metrics(views["label"], views["probability"])[metric] or 0.0 for views in group]
        for group in arms.values()
    )
    return sum(a) / len(a), sum(b) / len(b)


def operating_table(fitted: Sequence[Fitted]) -> pd.DataFrame:
    """OPERATING_COLUMNS: every arm and seed at every operating point, by extremity and together."""
    rows = []
    for one in fitted:
        for_all = next(iter(one.values.values())) if one.point.scope == operating.SHARED else None
        for level, groups in summarise(one.test).items():
            for name, values in groups.items():
                value = one.values.get(name, for_all)
                who = (one.model, one.arm, one.seed, one.point.kind, one.point.scope, name, value, level)
                rows += [(*who, metric, values[metric], values["n"]) for metric in METRICS]
    return pd.DataFrame(rows, columns=OPERATING_COLUMNS)


def _counts(extremity: str, pair: Pair) -> bool:
    """Of a single extremity, `all` would say the same once more."""
    return extremity != ALL or len(pair.extremities) > 1


def _named(record: R, pair: Pair) -> R:
    """`all` means the seven; of fewer, the record says which."""
    return replace(record, extremity=pair.scope) if record.extremity == ALL else record


def _one_class(runs: Sequence[Run]) -> Iterator[str]:
    seen = set()
    for run in runs:
        for extremity, part in run.test.groupby("extremity"):
            if part["label"].nunique() == 1 and extremity not in seen:
                seen.add(extremity)
                what = "abnormal" if part["label"].iloc[0] else "normal"
                yield f"All test views of {extremity} are {what}: it has no kappa and no AUROC."


def results_table(tables: Sequence[ArmTable], pairs: Sequence[Pair]) -> pd.DataFrame:
    """RESULT_COLUMNS: every model, arm and seed, by extremity and over all that it or its comparisons have."""
    rows: list[tuple[object, ...]] = []
    for table in tables:
        compared = [pair.extremities for pair in pairs if pair.model == table.model and table.arm in (pair.a, pair.b)]
        together = dict.fromkeys(names for names in (table.extremities, *compared) if len(names) > 1)
        for names in ((name,) for name in table.extremities):
            rows += _result_rows(table, names)
        for several in together:
            if set(several) <= set(table.extremities):
                rows += _result_rows(table, several)
    return pd.DataFrame(rows, columns=RESULT_COLUMNS)


def _result_rows(table: ArmTable, extremities: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    scope = extremities[0] if len(extremities) == 1 else scope_name(extremities)
    who = (table.model, table.arm, table.data_of(extremities), table.seed, scope)
    measured = summarise(table.of(extremities))
    for level in LEVELS:
        values = measured[level][ALL]
        for metric in METRICS:
            yield (*who, level, metric, values[metric], values["n"])


def confidently_wrong(table: ArmTable, count: int = 5) -> pd.DataFrame:
    """The `count` wrongly called views of which the model was surest."""
    views = table.table
    wrong = views[(views["probability"] > THRESHOLD) != (views["label"] == 1)]
    surest = (wrong["probability"] - 0.5).abs().sort_values(ascending=False, kind="stable")
    return wrong.loc[surest.index[:count]]
