"""Resampling by patient, vectorised: predictions as arrays in, the distribution of each metric out.

Every metric is a function of sums over patients, so that a resample is a column of weights: how often each patient was
drawn. There is no loop over resamples, only over blocks of them that fit the processor's cache.

Shapes, in brackets and as suffixes of names: K metrics (COMPARED_METRICS), M models, N cases, P patients, R resamples
or permutations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mura.metrics import THRESHOLD, auroc, cohen_kappa, mean_within

Floats = NDArray[np.float64]

COMPARED_METRICS = ("accuracy", "kappa", "auroc")
BLOCK = 64
"""Resamples at a time: a block of weights over the views of MURA's test set stays in the cache."""


@dataclass(frozen=True)
class Cases:
    """The same N cases (views or studies) as M trained models see them.

    `patient` [N] numbers 0 to P-1 (each occurs), `label` [N] bool, `probability` [M, N]. `extremity` [N] numbers the
    extremities; None where all cases are of one.
    """

    patient: NDArray[np.intp]
    label: NDArray[np.bool_]
    probability: Floats
    extremity: NDArray[np.intp] | None = None

    @cached_property
    def strata(self) -> list[NDArray[np.intp]]:
        """The places of each extremity's cases: only within them are scores ranked."""
        if self.extremity is None:
            return [np.arange(len(self.label))]
        return [np.flatnonzero(self.extremity == number) for number in np.unique(self.extremity)]

    @property
    def patients(self) -> int:
        return int(self.patient.max()) + 1

    @property
    def called(self) -> NDArray[np.bool_]:
        """Whether each case is called abnormal, [M, N]."""
        return self.probability > THRESHOLD

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each case is called what it is, [M, N]."""
        return self.called == self.label


def observed(cases: Cases) -> Floats:
    """Return the metrics [K, M] of the cases as they are; NaN where undefined."""
    n, abnormal = len(cases.label), int(cases.label.sum())
    extremity_N = np.zeros(n) if cases.extremity is None else cases.extremity
    values_MK = [
        (
            right_N.mean(),
            cohen_kappa(n, abnormal, int(called_N.sum()), int(right_N.sum())),
            mean_within(auroc, cases.label, probability_N, extremity_N),
        )
        for called_N, right_N, probability_N in zip(cases.called, cases.right, cases.probability, strict=True)
    ]
    return np.array(values_MK, dtype=float).T


def bootstrap(cases: Cases, resamples: int, rng: np.random.Generator, ranked: bool = True) -> Floats:
    """Return the metrics [K, M, R] in R resamples of the patients, with replacement; NaN where undefined.

    The cluster bootstrap (Field & Welsh 2007): a drawn patient brings all of its cases, and in every model the
    same ones, so that differences between models are paired. Unless `ranked`, AUROC is left out (NaN): it takes
    nine tenths of the time.
    """
    count_P, abnormal_P = patient_sums(cases, np.ones_like(cases.label)), patient_sums(cases, cases.label)
    called_MP, right_MP = patient_sums(cases, cases.called), patient_sums(cases, cases.right)
    orders = [RankOrders(cases, probability_N) for probability_N in cases.probability] if ranked else []
    values_KMR = np.empty((len(COMPARED_METRICS), len(cases.probability), resamples))
    for start in range(0, resamples, BLOCK):
        block = slice(start, min(start + BLOCK, resamples))
        weights_PR = patient_weights(cases.patients, block.stop - start, rng)
        n_R, abnormal_R, right_MR = count_P @ weights_PR, abnormal_P @ weights_PR, right_MP @ weights_PR
        values_KMR[0, :, block] = right_MR / n_R
        values_KMR[1, :, block] = kappas(n_R, abnormal_R, called_MP @ weights_PR, right_MR)
        values_KMR[2, :, block] = [order.auroc(weights_PR) for order in orders] if ranked else np.nan
    return values_KMR


class Bootstraps:
    """Bootstraps of models, each made once, however many comparisons it stands in.

    All draw from the same stream for the same cases, so a model's values are the same whatever others are beside it.
    """

    def __init__(self, resamples: int, ranked: bool = True) -> None:
        self.resamples, self.ranked = resamples, ranked
        self._values: dict[tuple[object, ...], Floats] = {}

    def of(self, cases: Cases, stream: Sequence[int]) -> Floats:
        """Return what `bootstrap` does, [K, M, R], with a generator that is seeded by `stream`."""
        extremity = None if cases.extremity is None else cases.extremity.tobytes()
        same = (*stream, cases.patient.tobytes(), cases.label.tobytes(), extremity)
        keys = [(*same, probability_N.tobytes()) for probability_N in cases.probability]
        new = {key: model for model, key in enumerate(keys) if key not in self._values}
        if new:
            alone = replace(cases, probability=cases.probability[list(new.values())])
            drawn_KMR = bootstrap(alone, self.resamples, np.random.default_rng(stream), self.ranked)
            self._values |= dict(zip(new, np.moveaxis(drawn_KMR, 1, 0), strict=True))
        return np.stack([self._values[key] for key in keys], axis=1)


def patient_weights(patients: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return how often each of P patients was drawn, [P, R], in R draws of P with replacement.

    Small whole numbers: float32 adds them up exactly as far as 16.7 million.
    """
    drawn_RP = rng.integers(0, patients, size=(resamples, patients))
    drawn_RP += patients * np.arange(resamples)[:, None]
    counts = np.bincount(drawn_RP.ravel(), minlength=resamples * patients)
    return np.ascontiguousarray(counts.reshape(resamples, patients).T, dtype=np.float32)


def patient_sums(cases: Cases, values: NDArray[np.generic]) -> Floats:
    """Return the sums of `values` [..., N] over the cases of each patient, [..., P]."""
    rows = values.reshape(-1, values.shape[-1])
    sums = [np.bincount(cases.patient, weights=row_N, minlength=cases.patients) for row_N in rows]
    return np.array(sums, dtype=float).reshape(*values.shape[:-1], cases.patients)


def kappas(n: Floats, abnormal: Floats, called: Floats, right: Floats) -> Floats:
    """Return Cohen's kappa from arrays of counts that broadcast; NaN where only one class occurs."""
    chance = (abnormal * called + (n - abnormal) * (n - called)) / n**2
    room = np.where((abnormal > 0) & (abnormal < n), 1 - chance, np.nan)
    return (right / n - chance) / room


class RankOrders:
    """One model's cases in the order of their scores, an extremity at a time."""

    def __init__(self, cases: Cases, score_N: Floats) -> None:
        self.orders = [RankOrder(cases, score_N, stratum) for stratum in cases.strata]

    def auroc(self, weights_PR: NDArray[np.float32]) -> Floats:
        """Return the mean over the extremities of AUROC [R]; NaN where some extremity was drawn with one class."""
        return np.mean([order.auroc(weights_PR) for order in self.orders], axis=0)


class RankOrder:
    """One model's cases of one extremity in the order of their scores: what AUROC needs of them in every resample.

    AUROC is the share of pairs (abnormal, normal) in which the abnormal case scores higher, ties counting half.
    With the normal cases sorted, an abnormal one wins over those below it: a cumulated sum of weights. A and B stand
    for the abnormal and the normal cases among those at `stratum` [A + B].
    """

    def __init__(self, cases: Cases, score_N: Floats, stratum: NDArray[np.intp]) -> None:
        positive_A = stratum[cases.label[stratum]]
        negative_B = stratum[~cases.label[stratum]]
        negative_B = negative_B[np.argsort(score_N[negative_B], kind="stable")]
        self.patient_A, self.patient_B = cases.patient[positive_A], cases.patient[negative_B]
        self.below_A = np.searchsorted(score_N[negative_B], score_N[positive_A], side="left")
        self.not_above_A = np.searchsorted(score_N[negative_B], score_N[positive_A], side="right")

    def auroc(self, weights_PR: NDArray[np.float32]) -> Floats:
        """Return AUROC [R] with the patients so weighted; NaN where only one class was drawn."""
        cumulated = np.zeros((len(self.patient_B) + 1, weights_PR.shape[1]), dtype=np.float32)
        np.cumsum(weights_PR[self.patient_B], axis=0, out=cumulated[1:])
        weights_AR = weights_PR[self.patient_A]
        twice_won_AR = cumulated[self.below_A] + cumulated[self.not_above_A]
        wins_R = np.einsum("nr,nr->r", weights_AR, twice_won_AR, dtype=np.float64) / 2
        pairs_R = weights_AR.sum(axis=0, dtype=np.float64) * cumulated[-1]
        return wins_R / np.where(pairs_R > 0, pairs_R, np.nan)


def permutation(cases: Cases, a: list[int], b: list[int], permutations: int, rng: np.random.Generator) -> Floats:
    """Return differences [K, R] between models `a` and `b` when both are swapped within patients at random.

    All cases of a patient are swapped together, or none. Where an arm has several models, each of `a` is swapped
    with each of `b` and the differences are averaged. AUROC is swapped by each model's own ranks, so that two
    models need not share a scale (Venkatraman & Begg 1996). NaN where undefined.
    """
    pairs = [SwappedPair(cases, one, other) for one in a for other in b]
    values_KR = np.empty((len(COMPARED_METRICS), permutations))
    for start in range(0, permutations, BLOCK):
        block = slice(start, min(start + BLOCK, permutations))
        signs_PR = rng.choice(np.array([-1.0, 1.0]), size=(cases.patients, block.stop - start))
        values_KR[:, block] = np.mean([pair.differences(signs_PR) for pair in pairs], axis=0)
    return values_KR


class SwappedPair:
    """Two models' cases, and their difference when they are swapped within some of the patients.

    With a sign a patient (1 as it is, -1 swapped), the cases called rightly by the first model are half the sum
    over both models plus half the signed sum of the patients' differences; so are those called abnormal. Kappa
    follows from the two counts; accuracy and AUROC differ by a signed sum itself (`auroc_difference_by_patient`).
    """

    def __init__(self, cases: Cases, a: int, b: int) -> None:
        self.n, self.abnormal = np.full(1, float(len(cases.label))), np.full(1, float(cases.label.sum()))
        self.right, self.called = cases.right[[a, b]].sum() / 2, cases.called[[a, b]].sum() / 2
        by_patient = patient_sums(cases, np.stack([cases.right, cases.called]).astype(float))
        differences = by_patient[:, a] - by_patient[:, b]
        self.by_patient_KP = np.stack([*differences, auroc_difference_by_patient(cases, a, b)])

    def differences(self, signs_PR: Floats) -> Floats:
        """Return first minus second model, [K, R]."""
        right_R, called_R, area_R = self.by_patient_KP @ signs_PR
        first = kappas(self.n, self.abnormal, self.called + called_R / 2, self.right + right_R / 2)
        second = kappas(self.n, self.abnormal, self.called - called_R / 2, self.right - right_R / 2)
        return np.stack([right_R / self.n, first - second, area_R])


def auroc_difference_by_patient(cases: Cases, a: int, b: int) -> Floats:
    """Return what each patient contributes to AUROC(a) - AUROC(b), [P]; NaN where an extremity has only one class.

    AUROC is the mean over the extremities, and so is a contribution. Within an extremity, let r_m be the mid-ranks of
    the scores of model m, and s(x) = 1 for x > 0, 1/2 for x = 0, else 0. A patient contributes the sum, over both
    models k = a, b, of

        sum over its abnormal i and all normal j of  s(r_a[i] - r_k[j]) - s(r_b[i] - r_k[j])
        sum over its normal j and all abnormal i of  s(r_k[i] - r_a[j]) - s(r_k[i] - r_b[j])

    divided by 2 x abnormal cases x normal cases. The sum over patients is the difference itself. Swapping a patient's
    cases between the models turns the sign of its contribution; a pair (i, j) of two patients, only one of them
    swapped, is counted half on either side. So the difference after any swap is the signed sum.
    """
    contribution_N = np.empty(len(cases.label))
    for stratum in cases.strata:
        scores = cases.probability[[a, b]][:, stratum]
        contribution_N[stratum] = auroc_difference_by_case(cases.label[stratum], scores) / len(cases.strata)
    return patient_sums(cases, contribution_N)


def auroc_difference_by_case(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """Return what each case [N] of one extremity contributes, given two models' scores [2, N]; NaN with one class."""
    if positive.all() or not positive.any():
        return np.full(len(positive), np.nan)
    ranks = [np.asarray(pd.Series(score_N).rank(), dtype=float) for score_N in scores]
    above = [half_shares_below(rank_N[positive], [r[~positive] for r in ranks]) for rank_N in ranks]
    below = [half_shares_below(-rank_N[~positive], [-r[positive] for r in ranks]) for rank_N in ranks]
    contribution_N = np.empty(len(positive))
    contribution_N[positive] = (above[0] - above[1]) / positive.sum()
    contribution_N[~positive] = (below[0] - below[1]) / (~positive).sum()
    return contribution_N


def half_shares_below(values: Floats, others: list[Floats]) -> Floats:
    """Return, for each of `values`, half the share of each of `others` below it, summed; ties count half."""
    total = np.zeros(len(values))
    for other in map(np.sort, others):
        wins = np.searchsorted(other, values, side="left") + np.searchsorted(other, values, side="right")
        total += wins / (4 * len(other))
    return total
