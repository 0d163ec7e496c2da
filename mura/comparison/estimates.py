"""One difference between two arms: bootstrap draws in, its interval, p value and standard error out.

Shapes, in brackets: K metrics (COMPARED_METRICS), M models, R resamples or permutations, Sa and Sb models of an arm.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from mura.comparison.bootstrap import COMPARED_METRICS, Cases, Floats, observed, permutation

ALPHA = 0.05
POWER = 0.80
DEFINED = 0.95
"""The share of resamples in which a metric must be defined for its interval to mean anything."""

FEW_DEGREES = 4
"""Below so many degrees of freedom of the spread between runs, Welch and Satterthwaite's are too many."""


@dataclass(frozen=True)
class Estimate:
    """A metric in arm a and b and the difference; its 95 % interval, p, standard error and degrees of freedom.

    From `low` on None where not assessable. `error` is that of the test that gives p; `degrees` are infinite where
    it isn't Student's. `always_alike` says of either arm whether each of its models gives one answer to all cases.
    `drawn` are the resampled differences [R] that a percentile interval comes from.
    """

    a: float | None
    b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    error: float | None = None
    degrees: float = math.inf
    always_alike: tuple[bool, bool] = (False, False)
    drawn: Floats | None = field(default=None, repr=False, compare=False)

    def interval(self, alpha: float) -> tuple[float | None, float | None]:
        """Return the interval of level 1 - `alpha`, from the resamples or Student's t; None where not assessable."""
        if self.difference is None or self.error is None:
            return None, None
        if self.drawn is not None:
            low, high = np.percentile(self.drawn, [100 * alpha / 2, 100 * (1 - alpha / 2)])
            return float(low), float(high)
        half_width = self.error * float(stdtrit(self.degrees, 1 - alpha / 2))
        return self.difference - half_width, self.difference + half_width


def contrast(
    cases: Cases, a: list[int], b: list[int], draws: Floats, rng: np.random.Generator, by_seed: bool = False
) -> dict[str, Estimate]:
    """Return models `a` against models `b` of the cases in every metric, from bootstrap `draws` [K, M, R].

    With a single model in an arm it is about these models (`of_these_models`); from two on, training is a source
    of chance too (`over_training_runs`). With `by_seed`, the models at the same place of `a` and `b` share a seed.
    """
    values = observed(cases)
    single = min(len(a), len(b)) == 1
    swapped = permutation(cases, a, b, draws.shape[-1], rng) if single else np.empty((len(COMPARED_METRICS), 0))
    estimates = {}
    for row, metric in enumerate(COMPARED_METRICS):
        of_a, of_b = values[row, a], values[row, b]
        drawn = draws[row, a].mean(axis=0) - draws[row, b].mean(axis=0)
        drawn = drawn[np.isfinite(drawn)]
        if cases.patients < 2 or len(drawn) < DEFINED * draws.shape[-1]:
            estimates[metric] = _point(of_a, of_b)
        elif single:
            estimates[metric] = of_these_models(of_a, of_b, drawn, swapped[row])
        else:
            estimates[metric] = over_training_runs(of_a, of_b, drawn, cases.patients, by_seed)
        always_alike = answers_alike(cases, a, metric), answers_alike(cases, b, metric)
        estimates[metric] = replace(estimates[metric], always_alike=always_alike)
    return estimates


def answers_alike(cases: Cases, models: list[int], metric: str) -> bool:
    """Return whether each model calls all cases alike or, for AUROC, gives all of an extremity one score."""
    if metric == "auroc":
        scores = [cases.probability[models][:, stratum] for stratum in cases.strata]
        return all(bool((score == score[:, :1]).all()) for score in scores)
    called = cases.called[models]
    return bool((called == called[:, :1]).all())


def _point(of_a: Floats, of_b: Floats) -> Estimate:
    """Return what can be said without an interval."""
    a, b = float(of_a.mean()), float(of_b.mean())
    return Estimate(None, None, None) if math.isnan(a - b) else Estimate(a, b, a - b)


def of_these_models(of_a: Floats, of_b: Floats, drawn: Floats, swapped: Floats) -> Estimate:
    """Return the difference between trained models, with chance only from the patients.

    Percentile interval of the bootstrapped differences `drawn` [R] (Efron & Tibshirani 1993); p from the
    differences `swapped` [R] of the permutation, counting the observed one (Phipson & Smyth 2010). The error is
    that of the permutation: the spread of differences that chance alone makes.
    """
    a, b = float(of_a.mean()), float(of_b.mean())
    as_extreme = int((np.abs(swapped) >= abs(a - b) - 1e-12).sum())  # equal but for rounding is as extreme
    p = (1 + as_extreme) / (1 + len(swapped))
    return _with_interval(Estimate(a, b, a - b, p=p, error=math.sqrt(np.square(swapped).mean()), drawn=drawn))


def _with_interval(estimate: Estimate) -> Estimate:
    low, high = estimate.interval(ALPHA)
    return replace(estimate, low=low, high=high)


def over_training_runs(of_a: Floats, of_b: Floats, drawn: Floats, patients: int, by_seed: bool = False) -> Estimate:
    """Return the difference between two ways to train, with chance from patients and from training runs.

    The variance is the patients' (of `drawn` [R], the bootstrapped difference of means over the runs) plus that
    of each mean over runs, `of_a` [Sa] and `of_b` [Sb]: seeds of two arms share no training noise, so they count
    as independent. Interval and p are Student's with the degrees of freedom of `error_of_sum`: few seeds, wide
    interval. Resampling three seeds instead would see only two thirds of their variance. With `by_seed` the runs of
    a seed share their start, and the variance is that of their differences.
    """
    a, b = float(of_a.mean()), float(of_b.mean())
    sources = [of_a - of_b] if by_seed else [of_a, of_b]
    parts = np.array([drawn.var(), *(values.var(ddof=1) / len(values) for values in sources)])
    freedom = np.array([patients - 1, *(len(values) - 1 for values in sources)])
    if parts.sum() == 0:  # no two patients or runs differ: equal arms, or nothing to judge a difference by
        return Estimate(a, b, a - b, 0.0, 0.0, 1.0, 0.0) if a == b else Estimate(a, b, a - b)
    error, degrees = error_of_sum(parts, freedom)
    p = 2 * float(stdtr(degrees, -abs(a - b) / error))
    return _with_interval(Estimate(a, b, a - b, p=p, error=error, degrees=degrees))


def error_of_sum(parts: Floats, freedom: Floats) -> tuple[float, float]:
    """Return the root of a sum of variances, the patients' first, then the runs', and its degrees of freedom.

    They are Welch and Satterthwaite's, but half of them (never fewer than those of a source of runs) where an arm has
    two runs, or all sources of runs together fewer than FEW_DEGREES: the approximation would then reject a true null
    too often (docs/statistics.md).
    """
    variance, of_runs = float(parts.sum()), freedom[1:]
    degrees = variance**2 / float((parts**2 / freedom).sum())
    if of_runs.min() == 1 or of_runs.sum() < FEW_DEGREES:
        degrees = max(float(of_runs.min()), degrees / 2)
    return math.sqrt(variance), degrees


def smallest_detectable(estimate: Estimate, tests: int) -> float | None:
    """Return the true difference that would be shown in 80 of 100 such studies, given the error of this one.

    (t at 1 - alpha / 2 + t at 0.80) x standard error, with alpha = 5 % / `tests`, Holm's first and strictest step.
    None where the error says nothing about other data (`why_not_detectable`).
    """
    if not estimate.error or any(estimate.always_alike):
        return None
    quantiles = stdtrit(estimate.degrees, [1 - ALPHA / tests / 2, POWER])
    return float(quantiles.sum()) * estimate.error


def why_not_detectable(a: str, b: str, estimate: Estimate) -> str | None:
    """Return why no smallest detectable difference can be given; None where it is, or nothing is assessable."""
    if estimate.error is None:
        return None
    alike = [arm for arm, is_alike in zip((a, b), estimate.always_alike, strict=True) if is_alike]
    if alike:
        return f"{' and '.join(alike)} always {'give' if len(alike) == 2 else 'gives'} the same answer"
    return "the arms never differ" if estimate.error == 0 else None
