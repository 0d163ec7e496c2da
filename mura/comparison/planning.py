"""How many seeds does a difference take? A pilot's runs in, and what other numbers of seeds would show.

The variance of a difference has a part that falls with the number of seeds, and a floor that the test set's patients
leave. Both come from the estimates of the verdict itself, so that plan and verdict agree; n counts seeds an arm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.special import chdtri

from mura.comparison.bootstrap import COMPARED_METRICS, Bootstraps, Floats, observed
from mura.comparison.collect import collect, is_synthetic
from mura.comparison.estimates import ALPHA, Estimate, error_of_sum, smallest_detectable, why_not_detectable
from mura.comparison.pairs import Pair, make_arm_tables, make_pairs, pair_views
from mura.comparison.verdict import PRIMARY, RESAMPLES, SEEDS_FOR_PAIRS, Contrast, contrast_arms
from mura.errors import ConfigError, MuraError
from mura.metrics import OVERALL
from mura.runs.records import read_metrics
from mura.study.arms import ARMS

SEEDS_SHOWN = (2, 3, 5, 8, 10)
MOST_SEEDS = 1000
"""A target that takes more seeds than this an arm counts as out of reach."""


@dataclass(frozen=True)
class Parts:
    """The variance of a difference as a function of n: patients' `floor`, and what is divided by n.

    `patients_of_runs` is the patients' part that single runs have of their own. `between` are the variances between
    runs: of either arm or, with arms paired by seed, of their difference; `of_arms` are those of either arm, which
    count where there are too few pairs. `patients` counts them.
    """

    floor: float
    patients_of_runs: float
    between: tuple[float, ...]
    of_arms: tuple[float, ...]
    patients: int

    def error(self, n: float) -> tuple[float, float]:
        """Return the standard error of the difference with n seeds, and its degrees of freedom; 0 without variance."""
        between = self.between if n >= SEEDS_FOR_PAIRS else self.of_arms
        parts = np.array([max(0.0, self.floor + self.patients_of_runs / n), *(each / n for each in between)])
        freedom = np.array([self.patients - 1, *[n - 1] * len(between)])
        return error_of_sum(parts, freedom) if parts.sum() else (0.0, math.inf)

    def error_of_runs(self, n: int) -> float:
        """Return the part of the error that more seeds shrink."""
        return math.sqrt((self.patients_of_runs + sum(self.between)) / n)

    @property
    def error_of_patients(self) -> float:
        """The part that they don't."""
        return math.sqrt(max(0.0, self.floor))


@dataclass(frozen=True)
class GroupPlan:
    """What other numbers of seeds would show of an extremity, or of all; `why_not` says why nothing can be told."""

    extremity: str
    estimate: Estimate
    tests: int
    parts: Parts
    why_not: str | None

    def smallest(self, n: int) -> float | None:
        """Return the smallest difference that n seeds an arm show with POWER, as `smallest_detectable` defines it."""
        error, degrees = self.parts.error(n)
        return smallest_detectable(replace(self.estimate, error=error, degrees=degrees), self.tests)

    @cached_property
    def floor(self) -> float:
        """The smallest difference that any number of seeds would show."""
        at_best = replace(self.estimate, error=self.parts.error_of_patients, degrees=self.parts.patients - 1)
        return smallest_detectable(at_best, self.tests) or 0.0

    def seeds_for(self, target: float) -> int | None:
        """Return the least number of seeds an arm that shows a difference of `target`; None if MOST_SEEDS don't."""
        if self.floor >= target:
            return None
        figures = ((n, self.smallest(n)) for n in range(2, MOST_SEEDS + 1))
        return next((n for n, smallest in figures if smallest is not None and smallest <= target), None)


@dataclass(frozen=True)
class Spread:
    """The standard deviation of study accuracy between the runs of `name`, with its 95 % chi-square interval."""

    name: str
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class PairPlan:
    """The plan of two arms: `seeds` an arm in the pilot, a plan for each group, the spread between runs over all.

    `seconds` are those of all runs of one seed, both arms together; None where a run didn't count them.
    """

    pair: Pair
    seeds: int
    groups: list[GroupPlan]
    spreads: list[Spread]
    seconds: float | None


@dataclass(frozen=True)
class StudyPlan:
    """The plans of all pairs of arms of a study; `notes` say what can't be planned and what was left out."""

    pairs: list[PairPlan]
    notes: list[str]
    synthetic: bool


def check_target(target: float | None) -> None:
    """Raise ConfigError unless the target is None or a difference in points between 0 and 100."""
    if target is not None and not 0 < target < 100:
        raise ConfigError(f"--target {target:g}: must be a difference in points of accuracy, such as 4.")


def plan_study(directory: Path, resamples: int = RESAMPLES) -> StudyPlan:
    """Plan with the finished runs below a directory as the pilot.

    MuraError when no two arms of a model have two seeds each: the spread between runs is then unknown.
    """
    runs, _ = collect([directory])
    pairs, notes = make_pairs(make_arm_tables(runs))
    notes += [note for pair in pairs for note in pair.notes]
    known = [pair for pair in pairs if min(map(len, pair.arms.values())) > 1]
    unknown = [
        f"{pair.model}, {pair.a} and {pair.b}: with one seed the spread between training runs is unknown; "
        "a plan needs two seeds an arm at least."
        for pair in pairs
        if pair not in known
    ]
    if not known:
        raise MuraError(f"{directory}: {(unknown or notes)[0]}")
    return StudyPlan([plan_pair(pair, resamples) for pair in known], unknown + notes, any(map(is_synthetic, runs)))


def plan_pair(pair: Pair, resamples: int) -> PairPlan:
    """Return the plan of two arms, from the estimates that their verdict in PRIMARY rests on."""
    arms = pair.tables()
    level, metric = PRIMARY
    paired = pair_views(arms, pair.seeds, pair.folds).levels(arms)[level]
    [contrast] = contrast_arms(paired, Bootstraps(resamples), 0, combinations(paired.models, 2))
    groups = [_plan_group(contrast, name, metric) for name in (*pair.extremities, OVERALL)]
    groups = [replace(each, extremity=pair.scope) if each.extremity == OVERALL else each for each in groups]
    shown = groups if len(pair.extremities) > 1 else groups[:-1]
    names = [f"{pair.a} minus {pair.b}"] if contrast.by_seed else [pair.a, pair.b]
    sources = _by_source(observed(paired.cases[OVERALL])[COMPARED_METRICS.index(metric)], contrast)
    spreads = [_spread(name, values) for name, values in zip(names, sources, strict=True)]
    return PairPlan(pair, min(map(len, contrast.models)), shown, spreads, seconds_a_seed(pair))


def _plan_group(contrast: Contrast, group: str, metric: str) -> GroupPlan:
    estimate, cases = contrast.estimates[group][metric], contrast.paired.cases[group]
    row = COMPARED_METRICS.index(metric)
    of_models = observed(cases)[row]
    draws = _by_source(contrast.draws[group][row], contrast)
    parts = split_variance(_by_source(of_models, contrast), draws, cases.patients)
    parts = replace(parts, of_arms=_between(_of_arms(of_models, contrast)))
    why_not = "not assessable" if estimate.p is None else why_not_detectable(*contrast.arms, estimate)
    return GroupPlan(group, estimate, contrast.tests(group, metric), parts, why_not)


def _by_source(values_M: Floats, contrast: Contrast) -> list[Floats]:
    """Return what varies from run to run, of all M models: either arm's values or, paired by seed, the differences."""
    a, b = _of_arms(values_M, contrast)
    return [a - b] if contrast.by_seed else [a, b]


def _of_arms(values_M: Floats, contrast: Contrast) -> list[Floats]:
    return [values_M[models] for models in contrast.models]


def _between(values: Sequence[Floats]) -> tuple[float, ...]:
    """Return each source's variance between its runs."""
    return tuple(float(values_S.var(ddof=1)) for values_S in values)


def split_variance(values: Sequence[Floats], draws: Sequence[Floats], patients: int) -> Parts:
    """Return the parts of a difference's variance, from each source's values [S] and its resampled values [S, R].

    A resample moves all runs of a source together, and each a little for itself: the spread of the runs about their
    mean, resample by resample, is the latter. The variance of the mean over n runs is then floor + own / n.
    """
    of_means = [draws_SR.mean(axis=0) for draws_SR in draws]
    difference = of_means[0] - of_means[1] if len(draws) > 1 else of_means[0]
    own = [
        float((draws_SR - mean_R).var(axis=1).sum()) / (len(draws_SR) - 1)
        for draws_SR, mean_R in zip(draws, of_means, strict=True)
    ]
    averaged_out = sum(each / len(draws_SR) for each, draws_SR in zip(own, draws, strict=True))
    between = _between(values)
    return Parts(float(difference.var()) - averaged_out, sum(own), between, between, patients)


def _spread(name: str, values: Floats) -> Spread:
    deviation = float(values.std(ddof=1))
    low, high = spread_factors(len(values))
    return Spread(name, deviation, low * deviation, high * deviation)


def spread_factors(runs: int) -> tuple[float, float]:
    """Return the factors from a standard deviation of so many runs to the ends of its 95 % chi-square interval."""
    degrees = runs - 1
    low, high = (math.sqrt(degrees / float(chdtri(degrees, tail))) for tail in (ALPHA / 2, 1 - ALPHA / 2))
    return low, high


def seconds_a_seed(pair: Pair) -> float | None:
    """Return the seconds of all runs of one seed, with those that they start from; None if a run counted none."""
    of_a, of_b = _seconds_of_arm(pair, pair.a, pair.b), _seconds_of_arm(pair, pair.b, pair.a)
    return None if of_a is None or of_b is None else of_a + of_b


def _seconds_of_arm(pair: Pair, arm: str, other: str) -> float | None:
    """Return an arm's seconds a seed; the runs that it starts from count unless the other arm is theirs."""
    runs = pair.runs_of(arm)
    known = {run.folder.path: run.metrics for run in runs}
    if arm in ARMS and ARMS[arm].starts_from != other:
        parents = [run.parent for run in runs if run.parent is not None and run.parent.finished]
        known |= {parent.path: read_metrics(parent.metrics) for parent in parents}
    seconds = [metrics["speed"]["wall_seconds"] for metrics in known.values()]
    counted = [float(each) for each in seconds if each is not None]
    return sum(counted) / len(pair.arms[arm]) if len(counted) == len(seconds) else None
