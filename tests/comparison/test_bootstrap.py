"""Resampling and swapping, against loops, scikit-learn and SciPy; over several extremities AUROC is ranked within."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from mura.comparison.bootstrap import (
    COMPARED_METRICS,
    Bootstraps,
    Cases,
    RankOrders,
    SwappedPair,
    bootstrap,
    observed,
    patient_weights,
    permutation,
)
from mura.comparison.estimates import contrast
from mura.metrics import binary_metrics

AUROC = COMPARED_METRICS.index("auroc")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


# --- several extremities ------------------------------------------------------------------------------------


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


def test_a_model_is_resampled_alike_whatever_models_are_beside_it_and_only_once(rng, monkeypatch):
    cases, made = three_extremities(rng), Bootstraps(100)
    first, second = (replace(cases, probability=cases.probability[models]) for models in ([0], [1, 0]))
    np.testing.assert_array_equal(made.of(first, [3]), bootstrap(first, 100, np.random.default_rng([3])))
    np.testing.assert_array_equal(made.of(second, [3]), bootstrap(second, 100, np.random.default_rng([3])))
    monkeypatch.setattr("mura.comparison.bootstrap.bootstrap", lambda *_: pytest.fail("resampled again"))
    np.testing.assert_array_equal(made.of(cases, [3])[:, [1, 0]], made.of(second, [3]))


def test_cases_that_differ_in_their_extremities_alone_are_resampled_apart(rng):
    cases, made = three_extremities(rng), Bootstraps(100)
    for other in (cases, replace(cases, extremity=None), replace(cases, extremity=cases.extremity[::-1].copy())):
        np.testing.assert_array_equal(made.of(other, [3]), bootstrap(other, 100, np.random.default_rng([3])))


def test_without_ranks_the_other_metrics_stay_and_auroc_is_left_out(rng):
    cases = three_extremities(rng)
    ranked, plain = (bootstrap(cases, 50, np.random.default_rng(1), each) for each in (True, False))
    np.testing.assert_array_equal(ranked[:AUROC], plain[:AUROC])
    assert np.isnan(plain[AUROC]).all()


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


# --- one extremity ------------------------------------------------------------------------------------------


def random_cases(rng, patients=12, models=2, ties=True):
    patient = np.sort(np.r_[np.arange(patients), rng.integers(0, patients, 2 * patients)])
    label = np.r_[True, False, rng.random(len(patient) - 2) < 0.5]
    probability = rng.random((models, len(patient)))
    return Cases(patient, label, probability.round(1) if ties else probability)


def test_observed_metrics_are_those_of_the_metrics_module(rng):
    cases = random_cases(rng)
    for model in (0, 1):
        expected = binary_metrics(cases.label, cases.probability[model])
        assert observed(cases)[:, model] == pytest.approx([expected[name] for name in COMPARED_METRICS], abs=1e-12)


def test_a_resample_equals_scikit_learn_with_the_patients_as_weights(rng):
    cases = random_cases(rng)
    drawn = bootstrap(cases, 50, np.random.default_rng(3))
    weights = patient_weights(cases.patients, 50, np.random.default_rng(3))[cases.patient]
    for resample, model in itertools.product(range(50), (0, 1)):
        weight, called = weights[:, resample], cases.called[model]
        expected = (
            sk.accuracy_score(cases.label, called, sample_weight=weight),
            sk.cohen_kappa_score(cases.label, called, sample_weight=weight),
            sk.roc_auc_score(cases.label, cases.probability[model], sample_weight=weight),
        )
        assert drawn[:, model, resample] == pytest.approx(expected, abs=1e-9)


def test_every_resample_draws_as_many_patients_as_there_are(rng):
    weights = patient_weights(30, 500, rng)
    assert set(weights.sum(axis=0)) == {30.0}
    assert weights.mean(axis=1) == pytest.approx(1.0, abs=0.25)


def test_a_resample_with_one_class_is_undefined_but_for_accuracy(rng):
    cases = Cases(np.array([0, 1]), np.array([True, False]), np.array([[0.9, 0.2]]))
    drawn = bootstrap(cases, 100, rng)[:, 0]
    assert np.isfinite(drawn[0]).all()
    assert np.isnan(drawn[1:]).any(axis=1).tolist() == [True, True]
    assert RankOrders(cases, cases.probability[0]).auroc(np.array([[2], [0]], dtype=np.float32)) == pytest.approx(
        [np.nan], nan_ok=True
    )


def test_permuted_p_equals_scipy_s_where_every_patient_has_one_case(rng):
    cases = Cases(np.arange(14), rng.random(14) < 0.5, rng.random((2, 14)))
    right = cases.right.astype(float)
    exact = stats.permutation_test(
        (right[0], right[1]), lambda a, b: a.mean() - b.mean(), permutation_type="samples", n_resamples=np.inf
    )
    draws = bootstrap(cases, 20_000, rng)
    assert contrast(cases, [0], [1], draws, rng)["accuracy"].p == pytest.approx(exact.pvalue, abs=0.02)


def test_interval_equals_scipy_s_bootstrap_where_every_patient_has_one_case(rng):
    cases = Cases(np.arange(200), rng.random(200) < 0.5, rng.random((2, 200)))
    right = cases.right.astype(float)
    theirs = stats.bootstrap(
        (right[0] - right[1],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    )
    ours = contrast(cases, [0], [1], bootstrap(cases, 20_000, rng), rng)["accuracy"]
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.006)
    assert ours.error == pytest.approx(theirs.standard_error, rel=0.03)


def test_copies_of_a_patient_s_views_add_nothing(rng):
    cases = random_cases(rng, ties=False)
    copied = Cases(np.repeat(cases.patient, 10), np.repeat(cases.label, 10), np.repeat(cases.probability, 10, axis=1))
    once, ten = (
        contrast(c, [0], [1], bootstrap(c, 500, np.random.default_rng(1)), np.random.default_rng(2))
        for c in (cases, copied)
    )
    for metric in COMPARED_METRICS:
        for name in ("a", "b", "low", "high", "p", "error"):
            assert getattr(ten[metric], name) == pytest.approx(getattr(once[metric], name), abs=1e-9)
