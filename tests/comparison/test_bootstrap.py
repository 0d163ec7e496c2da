"""Resampling over several extremities: AUROC is ranked within each, against loops and scikit-learn."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from mura.comparison.bootstrap import (
    COMPARED_METRICS,
    Cases,
    RankOrders,
    SwappedPair,
    bootstrap,
    observed,
    patient_weights,
    permutation,
)
from mura.comparison.verdict import contrast

AUROC = COMPARED_METRICS.index("auroc")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def three_extremities(rng, patients=15, models=2):
    """Cases of three extremities, each with both classes; some patients have cases of several."""
    cases = 5 * patients
    patient = np.sort(np.r_[np.arange(patients), rng.integers(0, patients, cases - patients)])
    extremity = rng.permutation(np.arange(cases) % 3)
    label = rng.random(cases) < 0.4
    return Cases(patient, label, rng.random((models, cases)).round(1), extremity)


def mean_auc(cases, scores, weight=None):
    """AUROC within each extremity by scikit-learn, and their mean."""
    weight = np.ones(len(scores)) if weight is None else weight
    areas = []
    for number in range(3):
        own = (cases.extremity == number) & (weight > 0)
        if len(set(cases.label[own])) < 2:
            return np.nan
        areas.append(sk.roc_auc_score(cases.label[own], scores[own], sample_weight=weight[own]))
    return np.mean(areas)


def test_the_observed_auroc_is_the_mean_of_those_within_the_extremities(rng):
    cases = three_extremities(rng)
    expected = [mean_auc(cases, scores) for scores in cases.probability]
    assert observed(cases)[AUROC] == pytest.approx(expected, abs=1e-12)


def test_auroc_in_a_resample_equals_scikit_learn_within_each_extremity(rng):
    cases = three_extremities(rng, patients=8)
    drawn = bootstrap(cases, 100, np.random.default_rng(3))
    weights = patient_weights(cases.patients, 100, np.random.default_rng(3))[cases.patient]
    expected = [[mean_auc(cases, scores, weight) for weight in weights.T] for scores in cases.probability]
    assert drawn[AUROC] == pytest.approx(np.array(expected), abs=1e-9, nan_ok=True)


def test_a_resample_in_which_one_extremity_has_one_class_has_no_auroc():
    label = np.array([True, False, True, False])
    cases = Cases(np.arange(4), label, np.array([[0.9, 0.1, 0.8, 0.2]]), np.array([0, 0, 1, 1]))
    order = RankOrders(cases, cases.probability[0])
    weights = np.array([[1, 1, 1, 1], [2, 1, 0, 1], [2, 2, 0, 0]], dtype=np.float32).T
    assert order.auroc(weights) == pytest.approx([1.0, np.nan, np.nan], nan_ok=True)


def test_every_swap_of_patients_with_several_extremities_equals_the_swap_done_by_hand(rng):
    cases = three_extremities(rng, patients=6)
    ranks = np.empty(cases.probability.shape)
    for model, number in itertools.product((0, 1), range(3)):
        own = cases.extremity == number
        ranks[model, own] = stats.rankdata(cases.probability[model, own])
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=6))).T
    ours = SwappedPair(cases, 0, 1).differences(signs)[AUROC]
    rows = np.arange(len(cases.label))
    for column, sign in enumerate(signs.T):
        first = np.where(sign[cases.patient] > 0, 0, 1)
        by_hand = mean_auc(cases, ranks[first, rows]) - mean_auc(cases, ranks[1 - first, rows])
        assert ours[column] == pytest.approx(by_hand, abs=1e-9)


def test_an_extremity_with_one_class_leaves_the_mean_undefined_and_accuracy_as_it_is(rng):
    cases = three_extremities(rng)
    label = np.where(cases.extremity == 1, False, cases.label)
    cases = Cases(cases.patient, label, cases.probability, cases.extremity)
    assert np.isnan(observed(cases)[AUROC]).all()
    assert np.isnan(bootstrap(cases, 20, rng)[AUROC]).all()
    assert np.isnan(permutation(cases, [0], [1], 20, rng)[AUROC]).all()
    estimates = contrast(cases, [0], [1], bootstrap(cases, 200, rng), rng)
    assert estimates["auroc"].difference is None
    assert estimates["accuracy"].low is not None


def test_offsets_of_separately_trained_models_do_not_move_the_auroc(rng):
    cases = three_extremities(rng)
    squeezed = cases.probability / (2.0 + cases.extremity)  # another monotone scale in each extremity
    moved = Cases(cases.patient, cases.label, squeezed, cases.extremity)
    pooled, pooled_moved = (Cases(c.patient, c.label, c.probability) for c in (cases, moved))
    assert observed(moved)[AUROC] == pytest.approx(observed(cases)[AUROC])
    assert observed(pooled_moved)[AUROC] != pytest.approx(observed(pooled)[AUROC])


def test_one_extremity_is_as_none_told(rng):
    cases = three_extremities(rng)
    told = Cases(cases.patient, cases.label, cases.probability, np.full(len(cases.label), 4))
    plain = Cases(cases.patient, cases.label, cases.probability)
    one, other = (bootstrap(c, 50, np.random.default_rng(1)) for c in (told, plain))
    assert (one == other).all()
