"""Operating points: is a verdict an effect of the fixed threshold? Validation predictions fit, test predictions change.

An operating point is a change of the logits. What follows, the mean over a study's views, the threshold of 0.5, every
metric and the paired comparison, then keeps its one definition.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from scipy.special import expit

from mura.comparison.bootstrap import Bootstraps, patient_weights
from mura.comparison.collect import views_of
from mura.comparison.equivalence import apply_margin
from mura.comparison.pairs import Arms, ArmTable, Pair, Pairing
from mura.comparison.verdict import PRIMARY, Comparison, compare_cases, in_scope
from mura.metrics import REPORTED_METRICS, STUDY_KEY, binary_metrics, summarise
from mura.runs.fitted import at_temperature, at_threshold, fit_temperature, fit_threshold, studies_at_shifts
from mura.study.arms import ARMS

FIXED, THRESHOLDED, TEMPERED = "fixed", "threshold", "temperature"
ONE_FOR_ALL, ONE_EACH = "shared", "extremity"
RESAMPLES_AT_A_POINT = 2_000
RESAMPLES_OF_A_FIT = 500
OPERATING_COLUMNS = [
    "model", "arm", "seed", "point", "scope", "extremity", "fitted", "level", "metric", "value", "n", "fitted_error",
    "fitted_studies",
]  # fmt: skip


@dataclass(frozen=True)
class Point:
    """An operating point: `kind` is fixed, threshold or temperature, `scope` says whose value is fitted."""

    kind: str
    scope: str

    @property
    def description(self) -> str:
        how = {ONE_FOR_ALL: "one for all", ONE_EACH: "one each"}
        return "threshold 0.5" if self.kind == FIXED else f"{self.kind} fitted, {how[self.scope]}"


POINTS = (
    Point(FIXED, ONE_FOR_ALL), Point(THRESHOLDED, ONE_FOR_ALL), Point(THRESHOLDED, ONE_EACH),
    Point(TEMPERED, ONE_FOR_ALL), Point(TEMPERED, ONE_EACH),
)  # fmt: skip


class Basis(NamedTuple):
    """What a fitted threshold rests on: its standard error, and the number of validation `studies`."""

    error: float | None
    studies: int | None


NO_BASIS = Basis(None, None)
"""That of what is no fitted threshold."""


@dataclass(frozen=True)
class Fitted:
    """One arm with one seed at one operating point.

    `values` has the fitted threshold or temperature of each extremity, None where it could not be fitted and the fixed
    point stands; `test` are the test predictions as they are there. `bases` has what each threshold rests on.
    """

    model: str
    arm: str
    seed: int
    point: Point
    values: dict[str, float | None]
    test: pd.DataFrame
    bases: dict[str, Basis] = field(default_factory=dict)


@dataclass(frozen=True)
class AtPoint:
    """Two arms at one operating point.

    `records` have the verdict's level and metric, extremity by extremity and last together; `brier` and `ece` are the
    calibration of each arm's views, means over the seeds. `bases` is what each arm's thresholds rest on.
    """

    point: Point
    records: list[Comparison]
    brier: tuple[float, float]
    ece: tuple[float, float]
    bases: dict[str, list[Basis]] = field(default_factory=dict)

    @property
    def main(self) -> Comparison:
        return self.records[-1]

    def other_verdicts(self, fixed: "AtPoint") -> list[str]:
        """Return the extremities with another verdict than at the fixed point, each with its verdict here."""
        pairs = zip(self.records[:-1], fixed.records[:-1], strict=True)
        return [f"{mine.extremity}: {mine.verdict}" for mine, other in pairs if mine.verdict != other.verdict]


def fit_all(tables: Sequence[ArmTable]) -> list[Fitted]:
    """Return every arm and seed at every operating point, but for those that nothing can be fitted for."""
    return [_fit_table(table, point) for table in tables if _why_without_points(table) is None for point in POINTS]


def _fit_table(table: ArmTable, point: Point) -> Fitted:
    values, test = fit(table.validation, table.test, point)
    bases = threshold_bases(table.validation, table.extremities, point)
    return Fitted(table.model, table.arm, table.seed, point, values, test, bases)


def _why_without_points(table: ArmTable) -> str | None:
    if table.arm in ARMS and not ARMS[table.arm].validates_what_it_tests:
        return "its models have no validation views of the extremity that they are tested on"
    return None if len(table.validation) else "its predictions hold no validation views"


def fit(validation: pd.DataFrame, test: pd.DataFrame, point: Point) -> tuple[dict[str, float | None], pd.DataFrame]:
    """Return the values fitted on `validation` for the extremities of `test`, and `test` changed by them."""
    extremities = list(dict.fromkeys(test["extremity"]))
    values: dict[str, float | None]
    if point.kind == FIXED:
        return dict.fromkeys(extremities), test
    fitter = fit_threshold if point.kind == THRESHOLDED else fit_temperature
    if point.scope == ONE_FOR_ALL:
        values = dict.fromkeys(extremities, fitter(validation))
    else:
        values = {name: fitter(validation[validation["extremity"] == name]) for name in extremities}
    return values, apply_values(test, point.kind, values)


def apply_values(test: pd.DataFrame, kind: str, values: dict[str, float | None]) -> pd.DataFrame:
    """Return the predictions with each extremity's threshold moved to 0.5, or its logits divided by its temperature."""
    fitted = pd.to_numeric(test["extremity"].map(values)).to_numpy(float)
    logit = test["logit"].to_numpy(float)
    moved = (at_threshold if kind == THRESHOLDED else at_temperature)(logit, fitted)
    moved = np.where(np.isnan(fitted), logit, moved)
    return test.assign(logit=moved, probability=expit(moved))


def threshold_bases(validation: pd.DataFrame, extremities: Sequence[str], point: Point) -> dict[str, Basis]:
    """Return what the threshold of each extremity rests on at a point; empty where no threshold is fitted."""
    if point.kind != THRESHOLDED:
        return {}
    if point.scope == ONE_FOR_ALL:
        return dict.fromkeys(extremities, threshold_basis(validation))
    return {name: threshold_basis(validation[validation["extremity"] == name]) for name in extremities}


def threshold_basis(validation: pd.DataFrame) -> Basis:
    """Return what `fit_threshold` rests on: its spread over resamples of the patients, and the number of studies.

    In each of RESAMPLES_OF_A_FIT resamples, the best of the same candidates is taken. The spread is None where nothing
    is fitted, and for a single patient.
    """
    studies = len(validation.drop_duplicates(STUDY_KEY))
    if validation["label"].nunique() < 2 or validation["patient"].nunique() < 2:
        return Basis(None, studies)
    at = studies_at_shifts(validation)
    patients = int(at.patient.max()) + 1
    right_CP = np.stack([np.bincount(at.patient, weights=each, minlength=patients) for each in at.right])
    weights_PR = patient_weights(patients, RESAMPLES_OF_A_FIT, np.random.default_rng(0))
    chosen_R = np.argmax(right_CP @ weights_PR, axis=0)
    return Basis(float(expit(at.shifts[chosen_R]).std(ddof=1)), studies)


def bootstraps_at_points(resamples: int) -> Bootstraps:
    """Return what all pairs at their operating points share; of accuracy alone, which is what is shown of them."""
    return Bootstraps(min(resamples, RESAMPLES_AT_A_POINT), ranked=PRIMARY[1] == "auroc")


def compare_at_points(
    pair: Pair, pairing: Pairing, fixed: list[Comparison], fitted: Sequence[Fitted], made: Bootstraps
) -> list[AtPoint]:
    """Return the pair at every operating point, the fixed one first; empty when an arm has none.

    `fixed` are its records at the fixed point, in the order of the pair's groups.
    """
    test = {(one.model, one.arm, one.seed, one.point): one.test for one in fitted}
    points = []
    for point in POINTS:
        keys = {arm: [(pair.model, arm, table.seed, point) for table in tables] for arm, tables in pair.arms.items()}
        if not all(key in test for group in keys.values() for key in group):
            return []
        arms = {arm: [views_of(test[key], pair.extremities) for key in group] for arm, group in keys.items()}
        records = fixed
        if point.kind != FIXED:
            level, metric = PRIMARY
            compared = compare_cases(pairing.levels(arms)[level], pair.model, made)
            compared = in_scope(apply_margin(compared, fixed[-1].margin), pair)
            by_group = {record.extremity: record for record in compared if record.metric == metric}
            records = [by_group[group] for group in pair.groups]
        brier, ece = _calibration(arms)
        points.append(AtPoint(point, records, brier, ece, _bases(pair, point, fitted)))
    return points


def _bases(pair: Pair, point: Point, fitted: Sequence[Fitted]) -> dict[str, list[Basis]]:
    """Return what the thresholds of either arm rest on, of the pair's extremities and seeds."""
    bases: dict[str, list[Basis]] = {pair.a: [], pair.b: []}
    for one in fitted:
        if one.model == pair.model and one.point == point and one.seed in pair.seeds.get(one.arm, ()):
            bases[one.arm] += dict.fromkeys(one.bases[name] for name in pair.extremities if name in one.bases)
    return bases


def _calibration(arms: Arms) -> Iterator[tuple[float, float]]:
    """Yield Brier score and calibration error of the views, each for both arms, means over the seeds."""
    metrics = [[binary_metrics(t["label"], t["probability"]) for t in tables] for tables in arms.values()]
    for name in ("brier", "ece"):
        a, b = (sum(cast(float, values[name]) for values in group) / len(group) for group in metrics)
        yield a, b


def operating_table(fitted: Sequence[Fitted]) -> pd.DataFrame:
    """Return OPERATING_COLUMNS: every arm and seed at every operating point, by extremity and together."""
    rows = []
    for one in fitted:
        is_for_all = one.point.scope == ONE_FOR_ALL
        for_all = next(iter(one.values.values())) if is_for_all else None
        basis_for_all = next(iter(one.bases.values()), NO_BASIS) if is_for_all else NO_BASIS
        for level, groups in summarise(one.test).items():
            for name, metrics in groups.items():
                value = one.values.get(name, for_all)
                who = (one.model, one.arm, one.seed, one.point.kind, one.point.scope, name, value, level)
                basis = one.bases.get(name, basis_for_all)
                rows += [(*who, metric, metrics[metric], metrics["n"], *basis) for metric in REPORTED_METRICS]
    return pd.DataFrame(rows, columns=OPERATING_COLUMNS)


def notes(tables: Sequence[ArmTable], fitted: Sequence[Fitted]) -> list[str]:
    """Return a sentence for each arm in which something could not be fitted, or nothing at all."""
    reasons = {(table.model, table.arm): why for table in tables if (why := _why_without_points(table)) is not None}
    left_out = [f"{model}, {arm}: left out of the operating points, since {w}." for (model, arm), w in reasons.items()]
    return [*notes_on_fits(fitted), *left_out]


def notes_on_fits(fitted: Sequence[Fitted]) -> list[str]:
    """Return a sentence for each arm in which something could not be fitted."""
    sentences = {}
    for one in fitted:
        names = [name for name, value in one.values.items() if value is None]
        if one.point.kind != FIXED and names:
            each = one.point.scope == ONE_EACH
            alone = "where each extremity has its own fit" if each else "at every operating point"
            sentences[one.model, one.arm] = (
                f"{one.model}, {one.arm}: nothing can be fitted on the validation views of {', '.join(names)} alone "
                f"(none, or not both classes); their predictions stay as they are {alone}."
            )
    return list(sentences.values())
