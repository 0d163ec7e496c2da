"""Which arm serves which extremity better: prediction tables of the arms in, records with verdicts out.

An arm is a way to train (unified, specialised, ...) and a list of predictions tables, one a trained model, all of
the same test views; in the specialised arm a "model" is the seven, their tables put together. The statistics are
explained and tested in docs/statistics.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import bdtr, stdtr, stdtrit

from mura.comparison.bootstrap import METRICS, Cases, Floats, bootstrap, observed, permutation
from mura.errors import MuraError
from mura.extremities import EXTREMITIES, INDEX_OF
from mura.metrics import VIEW_KEY, check_predictions, study_table, view_name

RESAMPLES = 10_000
ALPHA = 0.05
POWER = 0.80
SEEDS_FOR_AN_APPROACH = 3
DEFINED = 0.95
"""The share of resamples in which a metric must be defined for its interval to mean anything."""

ALL = "all"
LEVELS = ("image", "study")
THESE_MODELS = "these trained models"
THE_APPROACHES = "the two approaches"
NO_DIFFERENCE = "no difference shown"
NOT_ASSESSABLE = "not assessable"

Arms = Mapping[str, Sequence[pd.DataFrame]]


@dataclass(frozen=True)
class Record:
    """A row of a result table, ready for JSON."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison(Record):
    """One row of comparison.json: arm a against arm b, in one metric, at one level, for one extremity or `all`.

    None stands for what is undefined. `n` counts views or studies, `seeds` the trained models an arm (the smaller
    number where they differ), and `scope` says what the verdict speaks of.
    """

    model: str
    comparison: str
    extremity: str
    level: str
    metric: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    verdict: str
    smallest_detectable: float | None
    n: int
    patients: int
    seeds: int
    scope: str


@dataclass(frozen=True)
class Agreement(Record):
    """How often two models are right together: the `run`-th (from 0) of arm a and the `run`-th of arm b."""

    model: str
    comparison: str
    extremity: str
    level: str
    run: int
    n: int
    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int


@dataclass(frozen=True)
class McNemar(Record):
    """McNemar's exact test on the studies that only one of two models calls rightly."""

    model: str
    comparison: str
    extremity: str
    run: int
    n: int
    only_a_right: int
    only_b_right: int
    statistic: int
    p: float


@dataclass(frozen=True)
class Estimate:
    """A metric in arm a and b and the difference; its 95 % interval, p, standard error and degrees of freedom.

    From `low` on None where not assessable; `degrees` are infinite where the interval isn't Student's.
    """

    a: float | None
    b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    error: float | None = None
    degrees: float = math.inf


@dataclass(frozen=True)
class Paired:
    """The predictions of all arms at one level; row by row the same views or studies.

    `rows` [N] has extremity, patient and label; `probability` [M, N] is of all trained models, of which `runs`
    says which belong to an arm.
    """

    level: str
    rows: pd.DataFrame
    probability: Floats
    runs: dict[str, list[int]]

    @property
    def groups(self) -> list[str]:
        """`all` and the extremities that occur, in their order."""
        present = set(self.rows["extremity"])
        return [ALL, *(name for name in EXTREMITIES if name in present)]

    def cases(self, group: str) -> Cases:
        """The cases of `all` or one extremity, with their patients numbered from 0."""
        chosen = np.full(len(self.rows), True) if group == ALL else (self.rows["extremity"] == group).to_numpy()
        patient, _ = pd.factorize(self.rows["patient"].to_numpy()[chosen])
        return Cases(patient, self.rows["label"].to_numpy(dtype=bool)[chosen], self.probability[:, chosen])


def compare(
    arms: Arms, model: str, resamples: int = RESAMPLES, seed: int = 0, levels: Sequence[str] = LEVELS
) -> list[Comparison]:
    """Every pair of arms, in the order given, at both levels, in all METRICS, for `all` and each extremity.

    The same arms and `seed` give the same records. MuraError when the tables can't be paired (`pair_arms`).
    """
    records = []
    for paired in (paired for paired in pair_arms(arms) if paired.level in levels):
        cases = {group: paired.cases(group) for group in paired.groups}
        draws = {group: bootstrap(cases[group], resamples, _generator(seed, group, 0)) for group in cases}
        for a, b in combinations(paired.runs, 2):
            runs = paired.runs[a], paired.runs[b]
            estimates = {
                group: contrast(cases[group], *runs, draws[group], _generator(seed, group, 1)) for group in cases
            }
            seeds = min(map(len, runs))
            for metric in METRICS:
                family = {group: estimates[group][metric] for group in cases}
                names = {"model": model, "level": paired.level, "metric": metric}
                records += [_record(names, (a, b), group, family, cases[group], seeds) for group in cases]
    return records


def _generator(seed: int, group: str, purpose: int) -> np.random.Generator:
    """A stream of its own for each group, the same whatever other groups and arms there are."""
    return np.random.default_rng([seed, INDEX_OF.get(group, len(EXTREMITIES)), purpose])


def contrast(cases: Cases, a: list[int], b: list[int], draws: Floats, rng: np.random.Generator) -> dict[str, Estimate]:
    """Models `a` against models `b` of the cases, in every metric, from bootstrap `draws` [3, M, R].

    With a single model in an arm it is about these models (`of_these_models`); from two on, training is a source
    of chance too (`over_training_runs`).
    """
    values = observed(cases)
    single = min(len(a), len(b)) == 1
    swapped = permutation(cases, a, b, draws.shape[-1], rng) if single else np.empty((len(METRICS), 0))
    estimates = {}
    for row, metric in enumerate(METRICS):
        of_a, of_b = values[row, a], values[row, b]
        drawn = draws[row, a].mean(axis=0) - draws[row, b].mean(axis=0)
        drawn = drawn[np.isfinite(drawn)]
        if cases.patients < 2 or len(drawn) < DEFINED * draws.shape[-1]:
            estimates[metric] = _point(of_a, of_b)
        elif single:
            estimates[metric] = of_these_models(of_a, of_b, drawn, swapped[row])
        else:
            estimates[metric] = over_training_runs(of_a, of_b, drawn, cases.patients)
    return estimates


def _point(of_a: Floats, of_b: Floats) -> Estimate:
    """What can be said without an interval."""
    a, b = float(of_a.mean()), float(of_b.mean())
    return Estimate(None, None, None) if math.isnan(a - b) else Estimate(a, b, a - b)


def of_these_models(of_a: Floats, of_b: Floats, drawn: Floats, swapped: Floats) -> Estimate:
    """The difference between trained models, with chance only from the patients.

    Percentile interval of the bootstrapped differences `drawn` [R] (Efron & Tibshirani 1993); p from the
    differences `swapped` [R] of the permutation, counting the observed one (Phipson & Smyth 2010).
    """
    a, b = float(of_a.mean()), float(of_b.mean())
    low, high = np.percentile(drawn, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    as_extreme = int((np.abs(swapped) >= abs(a - b) - 1e-12).sum())  # equal but for rounding is as extreme
    p = (1 + as_extreme) / (1 + len(swapped))
    return Estimate(a, b, a - b, float(low), float(high), p, float(drawn.std()))


def over_training_runs(of_a: Floats, of_b: Floats, drawn: Floats, patients: int) -> Estimate:
    """The difference between two ways to train, with chance from patients and from training runs.

    The variance is the patients' (of `drawn` [R], the bootstrapped difference of means over the runs) plus that
    of each mean over runs, `of_a` [Sa] and `of_b` [Sb]: seeds of two arms share no training noise, so they count
    as independent. Interval and p are Student's with Welch-Satterthwaite degrees of freedom: few seeds, wide
    interval. Resampling three seeds instead would see only two thirds of their variance.
    """
    a, b = float(of_a.mean()), float(of_b.mean())
    parts = np.array([drawn.var(), of_a.var(ddof=1) / len(of_a), of_b.var(ddof=1) / len(of_b)])
    freedom = np.array([patients - 1, len(of_a) - 1, len(of_b) - 1])
    variance = float(parts.sum())
    if variance == 0:  # no two patients or runs differ: equal arms, or nothing to judge a difference by
        return Estimate(a, b, a - b, 0.0, 0.0, 1.0, 0.0) if a == b else Estimate(a, b, a - b)
    error, degrees = math.sqrt(variance), variance**2 / float((parts**2 / freedom).sum())
    half_width = error * float(stdtrit(degrees, 1 - ALPHA / 2))
    p = 2 * float(stdtr(degrees, -abs(a - b) / error))
    return Estimate(a, b, a - b, a - b - half_width, a - b + half_width, p, error, degrees)


def _record(
    names: Mapping[str, str],
    arms: tuple[str, str],
    group: str,
    family: Mapping[str, Estimate],
    cases: Cases,
    seeds: int,
) -> Comparison:
    """The record of one group, given the estimates of all: the extremities are one family for Holm."""
    extremities = {name: e.p for name, e in family.items() if name != ALL and e.p is not None}
    estimate = family[group]
    p_holm = estimate.p if group == ALL else holm(extremities).get(group)
    return Comparison(
        **names,
        comparison="-".join(arms),
        extremity=group,
        a=estimate.a,
        b=estimate.b,
        difference=estimate.difference,
        low=estimate.low,
        high=estimate.high,
        p=estimate.p,
        p_holm=p_holm,
        verdict=verdict(*arms, estimate, p_holm),
        smallest_detectable=smallest_detectable(estimate, 1 if group == ALL else len(extremities)),
        n=len(cases.label),
        patients=cases.patients,
        seeds=seeds,
        scope=THE_APPROACHES if seeds >= SEEDS_FOR_AN_APPROACH else THESE_MODELS,
    )


def verdict(a: str, b: str, estimate: Estimate, p_holm: float | None) -> str:
    """An arm is better when Holm's p is below 5 % and the 95 % interval leaves out zero: both, or nothing."""
    if p_holm is None or estimate.low is None or estimate.high is None:
        return NOT_ASSESSABLE
    if p_holm < ALPHA and estimate.low > 0:
        return f"{a} better"
    if p_holm < ALPHA and estimate.high < 0:
        return f"{b} better"
    return NO_DIFFERENCE


def smallest_detectable(estimate: Estimate, tests: int) -> float | None:
    """The true difference that would be shown in 80 of 100 such studies, given the error of this one.

    (t at 1 - alpha / 2 + t at 0.80) x standard error, with alpha = 5 % / `tests`, Holm's first and strictest step.
    """
    if estimate.error is None:
        return None
    quantiles = stdtrit(estimate.degrees, [1 - ALPHA / tests / 2, POWER])
    return float(quantiles.sum()) * estimate.error


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) step-down adjustment of the p values of one family."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return adjusted


def agreement(arms: Arms, model: str) -> list[Agreement]:
    """Both right, only one, both wrong: each pair of arms, run by run, both levels, `all` and each extremity."""
    return [
        Agreement(model, f"{a}-{b}", group, paired.level, run, *_joint_counts(paired.cases(group), one, other))
        for paired in pair_arms(arms)
        for a, b in combinations(paired.runs, 2)
        for run, (one, other) in enumerate(zip(paired.runs[a], paired.runs[b], strict=False))
        for group in paired.groups
    ]


def _joint_counts(cases: Cases, one: int, other: int) -> tuple[int, int, int, int, int]:
    """n, both right, only the first right, only the second, both wrong."""
    a, b = cases.right[one], cases.right[other]
    return len(a), int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())


def mcnemar(arms: Arms, model: str) -> list[McNemar]:
    """McNemar's (1947) exact test on studies, for every study-level `agreement`.

    It takes studies for independent, as is customary; the verdict doesn't rest on it.
    """
    return [_mcnemar(counts) for counts in agreement(arms, model) if counts.level == "study"]


def _mcnemar(counts: Agreement) -> McNemar:
    discordant = counts.only_a_right + counts.only_b_right
    fewer = min(counts.only_a_right, counts.only_b_right)
    return McNemar(
        model=counts.model,
        comparison=counts.comparison,
        extremity=counts.extremity,
        run=counts.run,
        n=counts.n,
        only_a_right=counts.only_a_right,
        only_b_right=counts.only_b_right,
        statistic=fewer,
        p=min(1.0, 2 * float(bdtr(fewer, discordant, 0.5))),
    )


def pair_arms(arms: Arms) -> tuple[Paired, Paired]:
    """All arms' predictions, view by view and study by study.

    MuraError when there are no two arms with tables, when a table isn't of exactly the views of the first one,
    each once and with the same label, or when a row can't be counted (`check_predictions`).
    """
    tables = [
        (f"{arm} (table {number} of {len(group)})", table)
        for arm, group in arms.items()
        for number, table in enumerate(group, start=1)
    ]
    empty = [arm for arm, group in arms.items() if len(group) == 0]
    if len(arms) < 2 or empty:
        lacking = " or ".join(empty) if empty else "a second one"
        raise MuraError(f"A comparison needs predictions of two arms at least; there are none of {lacking}.")
    views = [_sorted_views(name, table) for name, table in tables]
    for (name, _), table in zip(tables[1:], views[1:], strict=True):
        _check_same_views(tables[0][0], views[0], name, table)
    counts = [len(group) for group in arms.values()]
    starts = np.cumsum([0, *counts])
    runs = {arm: list(range(start, start + n)) for arm, start, n in zip(arms, starts, counts, strict=False)}
    return _paired("image", views, runs), _paired("study", [study_table(table) for table in views], runs)


def _paired(level: str, tables: Sequence[pd.DataFrame], runs: dict[str, list[int]]) -> Paired:
    return Paired(level, tables[0], np.stack([table["probability"].to_numpy(float) for table in tables]), runs)


def _sorted_views(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table in the order of its views, when each occurs once, all of one split, and can be counted."""
    if len(table) == 0:
        raise MuraError(f"There are no predictions in {name}.")
    check_predictions(table, source=name)
    doubled = table[table.duplicated(VIEW_KEY)]
    if len(doubled):
        raise MuraError(f"View {view_name(doubled.iloc[0])} is doubled in {name} ({len(doubled)} such views).")
    if table["split"].nunique() > 1:
        splits = " and ".join(map(str, table["split"].unique()))
        raise MuraError(f"A comparison is made on one split, but {name} has {splits}.")
    return table.sort_values(VIEW_KEY, ignore_index=True)


def _check_same_views(first_name: str, first: pd.DataFrame, name: str, table: pd.DataFrame) -> None:
    """Raise MuraError, naming one view, unless both sorted tables have the same views and labels."""
    expected, found = (pd.MultiIndex.from_frame(views[VIEW_KEY]) for views in (first, table))
    missing, foreign = first[~expected.isin(found)], table[~found.isin(expected)]
    for rows, holder, lacker in ((missing, first_name, name), (foreign, name, first_name)):
        if len(rows):
            raise MuraError(
                f"{lacker} lacks {len(rows)} of the views of {holder}, such as {view_name(rows.iloc[0])}: "
                "arms are compared on the same views only."
            )
    other = first[first["label"].to_numpy() != table["label"].to_numpy()]
    if len(other):
        view = view_name(other.iloc[0])
        raise MuraError(f"The label of view {view} differs between {first_name} and {name} ({len(other)} such views).")
