"""Resampling by patient, vectorised: predictions as arrays in, the distribution of each metric out.

Every metric is a function of sums over patients, so that a resample is a column of weights: how often each
patient was drawn. There is no loop over resamples, only over blocks of them that fit the processor's cache.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mura.metrics import THRESHOLD, auroc, cohen_kappa

Floats = NDArray[np.float64]

COMPARED_METRICS = ("accuracy", "kappa", "auroc")
BLOCK = 64
"""Resamples at a time: a block of weights over the views of MURA's test set stays in the cache."""


@dataclass(frozen=True)
class Cases:
    """The same N cases (views or studies) as several trained models, M, see them.

    `patient` [N] numbers 0 to P-1 (each occurs), `label` [N] bool, `probability` [M, N].
    """

    patient: NDArray[np.intp]
    label: NDArray[np.bool_]
    probability: Floats

    @property
    def patients(self) -> int:
        return int(self.patient.max()) + 1

    @property
    def both_classes(self) -> bool:
        return bool(self.label.any() and not self.label.all())

    @property
    def called(self) -> NDArray[np.bool_]:
        """[M, N]: called abnormal."""
        return self.probability > THRESHOLD

    @property
    def right(self) -> NDArray[np.bool_]:
        """[M, N]: called what they are."""
        return self.called == self.label


def observed(cases: Cases) -> Floats:
    """The metrics [3, M] of the cases as they are, in the order of COMPARED_METRICS; NaN where undefined."""
    n, abnormal = len(cases.label), int(cases.label.sum())
    values = [
        (
            right.mean(),
            cohen_kappa(n, abnormal, int(called.sum()), int(right.sum())),
            auroc(cases.label, probability),
        )
        for called, right, probability in zip(cases.called, cases.right, cases.probability, strict=True)
    ]
    return np.array(values, dtype=float).T


def bootstrap(cases: Cases, resamples: int, rng: np.random.Generator) -> Floats:
    """The metrics [3, M, R] in R resamples of the patients, with replacement; NaN where undefined.

    The cluster bootstrap (Field & Welsh 2007): a drawn patient brings all of its cases, and in every model the
    same ones, so that differences between models are paired.
    """
    counts = [patient_sums(cases, np.ones_like(cases.label)), patient_sums(cases, cases.label)]
    called, right = patient_sums(cases, cases.called), patient_sums(cases, cases.right)
    orders = [RankOrder(cases, probability) for probability in cases.probability]
    values = np.empty((len(COMPARED_METRICS), len(cases.probability), resamples))
    for start in range(0, resamples, BLOCK):
        block = slice(start, min(start + BLOCK, resamples))
        weights = patient_weights(cases.patients, block.stop - start, rng)
        n, abnormal = (count @ weights for count in counts)
        agreement = right @ weights
        values[0, :, block] = agreement / n
        values[1, :, block] = kappas(n, abnormal, called @ weights, agreement)
        values[2, :, block] = [order.auroc(weights) for order in orders]
    return values


def patient_weights(patients: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """How often each of P patients was drawn, [P, R], in R draws of P with replacement.

    Small whole numbers: float32 adds them up exactly as far as 16.7 million.
    """
    drawn = rng.integers(0, patients, size=(resamples, patients))
    drawn += patients * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * patients)
    return np.ascontiguousarray(counts.reshape(resamples, patients).T, dtype=np.float32)


def patient_sums(cases: Cases, values: NDArray[np.generic]) -> Floats:
    """Sums of `values` [..., N] over the cases of each patient: [..., P]."""
    rows = values.reshape(-1, values.shape[-1])
    sums = [np.bincount(cases.patient, weights=row, minlength=cases.patients) for row in rows]
    return np.array(sums, dtype=float).reshape(*values.shape[:-1], cases.patients)


def kappas(n: Floats, abnormal: Floats, called: Floats, right: Floats) -> Floats:
    """Cohen's kappa from arrays of counts that broadcast; NaN where only one class occurs."""
    chance = (abnormal * called + (n - abnormal) * (n - called)) / n**2
    room = np.where((abnormal > 0) & (abnormal < n), 1 - chance, np.nan)
    return (right / n - chance) / room


class RankOrder:
    """One model's cases in the order of their scores: what AUROC needs of them in every resample.

    AUROC is the share of pairs (abnormal, normal) in which the abnormal case scores higher, ties counting half.
    With the normal cases sorted, an abnormal one wins over those below it: a cumulated sum of weights.
    """

    def __init__(self, cases: Cases, score: Floats) -> None:
        positive = np.flatnonzero(cases.label)
        negative = np.flatnonzero(~cases.label)
        negative = negative[np.argsort(score[negative], kind="stable")]
        self.positive, self.negative = cases.patient[positive], cases.patient[negative]
        self.below = np.searchsorted(score[negative], score[positive], side="left")
        self.not_above = np.searchsorted(score[negative], score[positive], side="right")

    def auroc(self, weights: NDArray[np.float32]) -> Floats:
        """AUROC [R] with the patients weighted by `weights` [P, R]; NaN where only one class was drawn."""
        cumulated = np.zeros((len(self.negative) + 1, weights.shape[1]), dtype=np.float32)
        np.cumsum(weights[self.negative], axis=0, out=cumulated[1:])
        positive = weights[self.positive]
        twice_won = cumulated[self.below] + cumulated[self.not_above]
        wins = np.einsum("nr,nr->r", positive, twice_won, dtype=np.float64) / 2
        pairs = positive.sum(axis=0, dtype=np.float64) * cumulated[-1]
        return wins / np.where(pairs > 0, pairs, np.nan)


def permutation(cases: Cases, a: list[int], b: list[int], permutations: int, rng: np.random.Generator) -> Floats:
    """Differences [3, R] between models `a` and `b` when both are swapped within patients at random.

    All cases of a patient are swapped together, or none. Where an arm has several models, each of `a` is swapped
    with each of `b` and the differences are averaged. AUROC is swapped by each model's own ranks, so that two
    models need not share a scale (Venkatraman & Begg 1996). NaN where undefined.
    """
    pairs = [SwappedPair(cases, one, other) for one in a for other in b]
    values = np.empty((len(COMPARED_METRICS), permutations))
    for start in range(0, permutations, BLOCK):
        block = slice(start, min(start + BLOCK, permutations))
        signs = rng.choice(np.array([-1.0, 1.0]), size=(cases.patients, block.stop - start))
        values[:, block] = np.mean([pair.differences(signs) for pair in pairs], axis=0)
    return values


class SwappedPair:
    """Two models' cases, and their difference when they are swapped within some of the patients.

    With a sign a patient (1 as it is, -1 swapped), the cases called rightly by the first model are half the sum
    over both models plus half the signed sum of the patients' differences; so are those called abnormal. Kappa
    follows from the two counts; accuracy and AUROC differ by a signed sum itself (`auroc_shares`).
    """

    def __init__(self, cases: Cases, a: int, b: int) -> None:
        self.n, self.abnormal = np.full(1, float(len(cases.label))), np.full(1, float(cases.label.sum()))
        self.right, self.called = cases.right[[a, b]].sum() / 2, cases.called[[a, b]].sum() / 2
        by_patient = patient_sums(cases, np.stack([cases.right, cases.called]).astype(float))
        differences = by_patient[:, a] - by_patient[:, b]
        self.patients = np.stack([*differences, auroc_shares(cases, a, b)])

    def differences(self, signs: Floats) -> Floats:
        """First minus second model, [3, R], for `signs` [P, R]."""
        right, called, area = self.patients @ signs
        first = kappas(self.n, self.abnormal, self.called + called / 2, self.right + right / 2)
        second = kappas(self.n, self.abnormal, self.called - called / 2, self.right - right / 2)
        return np.stack([right / self.n, first - second, area])


def auroc_shares(cases: Cases, a: int, b: int) -> Floats:
    """What each patient [P] contributes to AUROC(a) - AUROC(b); swapping a patient turns its sign.

    Half of: the normal cases of both models below each of its abnormal ones, plus the abnormal cases of both
    above each of its normal ones, in model a, less the same in model b; over the number of pairs. The sum over
    patients is the difference itself, and, since a pair of two patients that are swapped apart counts once on
    either side, the difference after any swap is the signed sum.
    """
    positive = cases.label
    if not cases.both_classes:
        return np.full(cases.patients, np.nan)
    ranks = [np.asarray(pd.Series(cases.probability[model]).rank(), dtype=float) for model in (a, b)]
    above = [share_below(rank[positive], [r[~positive] for r in ranks]) for rank in ranks]
    below = [share_below(-rank[~positive], [-r[positive] for r in ranks]) for rank in ranks]
    contributions = np.empty(len(positive))
    contributions[positive] = (above[0] - above[1]) / positive.sum()
    contributions[~positive] = (below[0] - below[1]) / (~positive).sum()
    return patient_sums(cases, contributions)


def share_below(values: Floats, others: list[Floats]) -> Floats:
    """For each of `values`, half the shares of `others` below it, ties counting half, summed over `others`."""
    total = np.zeros(len(values))
    for other in map(np.sort, others):
        wins = np.searchsorted(other, values, side="left") + np.searchsorted(other, values, side="right")
        total += wins / (4 * len(other))
    return total
