"""What resampling and swapping return, case by case, against loops that do it by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from mura.comparison.bootstrap import Cases, SwappedPair, bootstrap, kappas, observed, permutation

Table = np.ndarray


@pytest.fixture
def few_abnormal() -> Cases:
    """18 cases of six patients, four of them abnormal, as two models see them: with ties, and often called abnormal."""
    rng = np.random.default_rng(11)
    label = np.zeros(18, dtype=bool)
    label[[0, 4, 5, 13]] = True
    return Cases(np.repeat(np.arange(6), 3), label, rng.random((2, 18)).round(1))


def swapped_by_hand(cases: Cases, swapped: tuple[bool, ...]) -> list[float]:
    """Swap the predictions of the patients that are marked, and take the metrics of both models anew."""
    marked = np.array(swapped)[cases.patient]
    called = np.where(marked, cases.called[::-1], cases.called)
    ranks = np.array([stats.rankdata(row) for row in cases.probability])
    ranks = np.where(marked, ranks[::-1], ranks)
    each = [
        (sk.accuracy_score(cases.label, c), sk.cohen_kappa_score(cases.label, c), sk.roc_auc_score(cases.label, r))
        for c, r in zip(called, ranks, strict=True)
    ]
    return list(np.subtract(*each))


def all_swaps(cases: Cases) -> tuple[Table, Table]:
    """Return every way to swap the patients, as signs [P, 2^P], and the differences by hand, [K, 2^P]."""
    ways = list(itertools.product([False, True], repeat=cases.patients))
    return np.where(np.array(ways).T, -1.0, 1.0), np.array([swapped_by_hand(cases, way) for way in ways]).T


def test_the_null_of_kappa_holds_where_few_cases_are_abnormal(few_abnormal: Cases) -> None:
    signs, by_hand = all_swaps(few_abnormal)
    assert SwappedPair(few_abnormal, 0, 1).differences(signs) == pytest.approx(by_hand, abs=1e-12)


def test_a_permutation_returns_the_swaps_done_by_hand_each_as_often(few_abnormal: Cases) -> None:
    _, by_hand = all_swaps(few_abnormal)
    n = 64 * 100 + 10
    returned = permutation(few_abnormal, [0], [1], n, np.random.default_rng(2))
    assert returned.shape == (3, n)
    ways, counts = np.unique(by_hand.round(9), axis=1, return_counts=True)
    theirs, times = np.unique(returned.round(9) + 0.0, axis=1, return_counts=True)
    assert theirs == pytest.approx(ways, abs=1e-8)
    assert times / n == pytest.approx(counts / 64, abs=0.02)


def test_a_permutation_swaps_every_model_of_one_arm_with_every_one_of_the_other(few_abnormal: Cases) -> None:
    rng = np.random.default_rng(3)
    cases = Cases(few_abnormal.patient, few_abnormal.label, rng.random((4, 18)))
    together = permutation(cases, [0, 2], [1, 3], 70, np.random.default_rng(5))
    each = [permutation(cases, [a], [b], 70, np.random.default_rng(5)) for a in (0, 2) for b in (1, 3)]
    assert together == pytest.approx(np.mean(each, axis=0))


def test_permutations_are_drawn_by_blocks_of_64_whatever_their_number(few_abnormal: Cases) -> None:
    more, fewer = (permutation(few_abnormal, [0], [1], n, np.random.default_rng(4)) for n in (130, 64))
    assert np.array_equal(more[:, :64], fewer)
    assert not np.array_equal(more[:, 64:128], fewer)


def test_a_model_swapped_with_itself_differs_by_nothing(few_abnormal: Cases) -> None:
    assert permutation(few_abnormal, [1], [1], 10, np.random.default_rng(0)) == pytest.approx(0.0)


def test_a_permutation_of_one_class_has_accuracies_and_nothing_else(few_abnormal: Cases) -> None:
    for label in (False, True):
        cases = Cases(few_abnormal.patient, np.full(18, label), few_abnormal.probability)
        accuracy, kappa, auroc = permutation(cases, [0], [1], 70, np.random.default_rng(0))
        assert np.isfinite(accuracy).all()
        assert np.isnan(kappa).all()
        assert np.isnan(auroc).all()


def test_every_resample_is_one_of_the_ways_to_draw_the_patients(few_abnormal: Cases) -> None:
    patient, label = np.repeat(np.arange(3), 3), np.array([1, 0, 0, 0, 1, 0, 1, 1, 0], dtype=bool)
    cases = Cases(patient, label, few_abnormal.probability[:, :9])
    by_hand = []
    for drawn in itertools.product(range(3), repeat=3):
        rows = np.concatenate([np.flatnonzero(patient == one) for one in drawn])
        by_hand.append(observed(Cases(np.repeat(np.arange(3), 3), label[rows], cases.probability[:, rows])).ravel())
    n = 64 * 100 + 6
    values = bootstrap(cases, n, np.random.default_rng(0)).reshape(6, n)
    ways, counts = np.unique(np.array(by_hand).T.round(9), axis=1, return_counts=True)
    ours, times = np.unique(values.round(9), axis=1, return_counts=True)
    assert ours == pytest.approx(ways, abs=1e-8)
    assert times / n == pytest.approx(counts / 27, abs=0.02)


@pytest.mark.parametrize(("abnormal", "defined"), [(0, False), (1, True), (9, True), (10, False)])
def test_kappa_of_counts_needs_one_case_of_each_class(abnormal: int, defined: bool) -> None:
    n, called, right = 10.0, 3.0, 6.0
    ours = kappas(np.array([n]), np.array([float(abnormal)]), np.array([called]), np.array([right]))
    assert np.isfinite(ours).all() == defined


def test_an_even_chance_is_not_called_abnormal_and_patients_are_counted_once() -> None:
    cases = Cases(np.array([0, 0, 1]), np.array([True, False, False]), np.array([[0.5, 0.5, np.nextafter(0.5, 1)]]))
    assert cases.called.tolist() == [[False, False, True]]
    assert cases.right.tolist() == [[False, True, False]]
    assert cases.patients == 2
