"""Which arm serves which extremity better: prediction tables of the arms in, records with verdicts out.

An arm is a way to train (unified, specialised, ...) and a list of predictions tables, one a trained model, all of
the same test views; in the specialised arm a "model" is the seven, their tables put together. The statistics are
explained and tested in docs/statistics.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from scipy.special import bdtr

from mura.comparison.bootstrap import COMPARED_METRICS, Bootstraps, Cases, Floats
from mura.comparison.estimates import ALPHA, Estimate, contrast, smallest_detectable, why_not_detectable
from mura.comparison.pairs import Arms, Folds, Pair, PairedCases, Seeds, check_arms, pair_views
from mura.extremities import EXTREMITIES, INDEX_OF
from mura.metrics import OVERALL
from mura.study.arms import share_start

RESAMPLES = 10_000
SEEDS_FOR_AN_APPROACH = 3

PRIMARY = ("study", "accuracy")
"""The level and metric of the verdict; the others stand beside it."""

LARGEST = {"accuracy": 1.0, "kappa": 2.0, "auroc": 1.0}
"""How much two arms can differ in each of the COMPARED_METRICS, either way."""

THESE_MODELS = "these trained models"
THE_APPROACHES = "the two approaches"
ON_THIS_SPLIT = "on this split"
"""What the approaches are spoken of as long as all runs validated on one fold."""

SEEDS_FOR_PAIRS = 3
"""Two pairs of runs say next to nothing of the spread of their difference."""

AS_INDEPENDENT = ", their seeds counted as independent"
"""Added to the scope of arms that share a start or splits and fewer than SEEDS_FOR_PAIRS seeds."""

NO_DIFFERENCE = "no difference shown"
NOT_AFTER_CORRECTION = "not shown after correction"
NOT_ASSESSABLE = "not assessable"


@dataclass(frozen=True)
class Record:
    """A row of a table on two arms, named as in `unified-specialised`: at one level, for one extremity or all."""

    model: str
    comparison: str
    extremity: str
    level: str

    def to_dict(self) -> dict[str, Any]:
        """Return the row, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison(Record):
    """One row of comparison.json: arm a against arm b in one metric.

    None stands for what is undefined. `n` counts views or studies, `seeds` the trained models an arm (the smaller
    number where they differ; the common ones where the arms are paired by seed), and `scope` says what the verdict
    speaks of. `tests` is the size of the family that p_holm and the simultaneous interval are corrected for.
    The 90 % interval answers to the `margin` (`mura.comparison.equivalence`).
    """

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
    why_not_detectable: str | None = None
    tests: int = 1
    low_simultaneous: float | None = None
    high_simultaneous: float | None = None
    low_90: float | None = None
    high_90: float | None = None
    margin: float | None = None
    equivalence: str | None = None


@dataclass(frozen=True)
class Agreement(Record):
    """How often two models of one `seed` are right together."""

    seed: int
    n: int
    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int

    @property
    def mcnemar_statistic(self) -> int:
        """The smaller number of the cases that only one of the two calls rightly."""
        return min(self.only_a_right, self.only_b_right)

    @property
    def mcnemar_p(self) -> float:
        """The p value of McNemar's (1947) exact test.

        It takes cases for independent, as is customary; the verdict doesn't rest on it.
        """
        discordant = self.only_a_right + self.only_b_right
        return min(1.0, 2 * float(bdtr(self.mcnemar_statistic, discordant, 0.5)))


R = TypeVar("R", bound=Record)


def in_scope(records: Iterable[R], pair: Pair) -> list[R]:
    """Return the records with OVERALL under the name of what the pair has of the seven.

    In a pair of a single extremity, OVERALL would say the same once more and is left out.
    """
    told = [record for record in records if record.extremity != OVERALL or len(pair.extremities) > 1]
    return [replace(record, extremity=pair.scope) if record.extremity == OVERALL else record for record in told]


def compare(
    arms: Arms,
    model: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    seeds: Seeds | None = None,
    folds: Folds | None = None,
) -> list[Comparison]:
    """Return the comparison of every pair of arms, in the order given, at both levels (`compare_cases`).

    `seeds` are those of the tables, their places by default, and `folds` what they validated on, if not all on one;
    `seed` is that of the resampling. The same arguments give the same records. MuraError when the
    tables can't be paired (`check_arms`).
    """
    check_arms(arms)
    levels = pair_views(arms, seeds, folds).levels(arms)
    made = Bootstraps(resamples)
    return [record for paired in levels.values() for record in compare_cases(paired, model, made, seed)]


def compare_cases(paired: PairedCases, model: str, made: Bootstraps, seed: int = 0) -> list[Comparison]:
    """Return a record for every pair of arms in all COMPARED_METRICS, for all cases and for each extremity."""
    contrasts = contrast_arms(paired, made, seed, combinations(paired.models, 2))
    return [record for each in contrasts for record in each.records(model)]


@dataclass(frozen=True)
class Contrast:
    """Two arms at one level: `estimates` by group (OVERALL and the extremities), then by metric.

    `models` are those of either arm that are compared, `by_seed` whether they are paired by it, and `draws` [K, M, R]
    the resampled metrics of each group.
    """

    arms: tuple[str, str]
    paired: PairedCases
    models: tuple[list[int], list[int]]
    by_seed: bool
    scope: str
    draws: dict[str, Floats]
    estimates: dict[str, dict[str, Estimate]]

    def p_values(self, group: str, metric: str) -> dict[str, float]:
        """Return the p values that a group's is corrected with: the extremities' are one family, OVERALL's its own."""
        family = {
            name: each[metric].p for name, each in self.estimates.items() if (name == OVERALL) == (group == OVERALL)
        }
        return {name: p for name, p in family.items() if p is not None}

    def tests(self, group: str, metric: str) -> int:
        """Return the size of the group's family."""
        return max(1, len(self.p_values(group, metric)))

    def records(self, model: str) -> list[Comparison]:
        """Return a record for each metric and group."""
        return [
            self.record(model, group, metric, holm(self.p_values(group, metric)).get(group), self.tests(group, metric))
            for metric in COMPARED_METRICS
            for group in self.estimates
        ]

    def record(self, model: str, group: str, metric: str, p_holm: float | None, tests: int) -> Comparison:
        """Return the record of one group in one metric, given p corrected for so many tests."""
        estimate, cases = self.estimates[group][metric], self.paired.cases[group]
        low, high = within(LARGEST[metric], (estimate.low, estimate.high))
        low_simultaneous, high_simultaneous = within(LARGEST[metric], estimate.interval(ALPHA / tests))
        low_90, high_90 = within(LARGEST[metric], estimate.interval(2 * ALPHA))
        return Comparison(
            model=model,
            comparison="-".join(self.arms),
            extremity=group,
            level=self.paired.level,
            metric=metric,
            a=estimate.a,
            b=estimate.b,
            difference=estimate.difference,
            low=low,
            high=high,
            p=estimate.p,
            p_holm=p_holm,
            verdict=verdict(*self.arms, estimate, p_holm),
            smallest_detectable=smallest_detectable(estimate, tests),
            n=len(cases.label),
            patients=cases.patients,
            seeds=min(map(len, self.models)),
            scope=self.scope,
            why_not_detectable=why_not_detectable(*self.arms, estimate),
            tests=tests,
            low_simultaneous=low_simultaneous,
            high_simultaneous=high_simultaneous,
            low_90=low_90,
            high_90=high_90,
        )


def contrast_arms(
    paired: PairedCases, made: Bootstraps, seed: int, pairs: Iterable[tuple[str, str]]
) -> Iterator[Contrast]:
    """Yield the estimates of each pair of arms; they share the resamples."""
    draws = {group: made.of(cases, _stream(seed, group, 0)) for group, cases in paired.cases.items()}
    for a, b in pairs:
        models, by_seed, scope = _models_to_compare(paired, a, b)
        estimates = {
            group: contrast(cases, *models, draws[group], np.random.default_rng(_stream(seed, group, 1)), by_seed)
            for group, cases in paired.cases.items()
        }
        yield Contrast((a, b), paired, models, by_seed, scope, draws, estimates)


def _models_to_compare(paired: PairedCases, a: str, b: str) -> tuple[tuple[list[int], list[int]], bool, str]:
    """Return the models of two arms, whether they are paired by seed, and what the verdict speaks of.

    Arms that share a start, or the splits that their seeds were trained on, are paired by seed where they have two in
    common: then only on these.
    """
    models, by_seed, note = (paired.models[a], paired.models[b]), False, ""
    if share_start(a, b) or paired.splits > 1:
        matched = paired.matched(a, b)
        by_seed = len(matched) >= SEEDS_FOR_PAIRS
        if by_seed:
            models = [one for _, one, _ in matched], [other for _, _, other in matched]
        elif min(map(len, models)) > 1:
            note = AS_INDEPENDENT
    approaches = f"{THE_APPROACHES} {describe_splits(paired.splits)}"
    scope = approaches if min(map(len, models)) >= SEEDS_FOR_AN_APPROACH else THESE_MODELS
    return models, by_seed, scope + note


def describe_splits(splits: int) -> str:
    """Return what of: `on this split`, or `over 3 splits`."""
    return ON_THIS_SPLIT if splits == 1 else f"over {splits} splits"


def within(largest: float, interval: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    """Return an interval of a difference, cut off at what the difference can be: few seeds reach beyond."""
    low, high = interval
    return (None, None) if low is None or high is None else (max(low, -largest), min(high, largest))


def _stream(seed: int, group: str, purpose: int) -> list[int]:
    """Return the seed of a generator for each group, the same whatever other groups and arms there are."""
    return [seed, INDEX_OF.get(group, len(EXTREMITIES)), purpose]


def verdict(a: str, b: str, estimate: Estimate, p_holm: float | None) -> str:
    """Return which arm is better: Holm's p must be below 5 % and the 95 % interval leave out zero, both.

    Where only the correction stands between, it is NOT_AFTER_CORRECTION.
    """
    if p_holm is None or estimate.p is None or estimate.low is None or estimate.high is None:
        return NOT_ASSESSABLE
    if estimate.low <= 0 <= estimate.high or estimate.p >= ALPHA:
        return NO_DIFFERENCE
    if p_holm >= ALPHA:
        return NOT_AFTER_CORRECTION
    return f"{a if estimate.low > 0 else b} better"


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p values of one family after Holm's (1979) step-down adjustment."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return adjusted


def count_agreement(paired: PairedCases, model: str) -> list[Agreement]:
    """Return the joint counts of each pair of arms, for each common seed, for all cases and for each extremity."""
    return [
        Agreement(model, f"{a}-{b}", group, paired.level, seed, *_joint_counts(cases, one, other))
        for a, b in combinations(paired.models, 2)
        for seed, one, other in paired.matched(a, b)
        for group, cases in paired.cases.items()
    ]


def _joint_counts(cases: Cases, one: int, other: int) -> tuple[int, int, int, int, int]:
    """Return n, both right, only the first right, only the second, both wrong."""
    a, b = cases.right[one], cases.right[other]
    return len(a), int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())
