"""The comparison of arms: against known values and independent libraries, and on what it must refuse."""

import importlib.util
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import ndtr
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

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
from mura.comparison.pairs import pair_views
from mura.comparison.verdict import (
    Estimate,
    compare,
    contrast,
    count_agreement,
    holm,
    of_these_models,
    over_training_runs,
    smallest_detectable,
    verdict,
)
from mura.errors import MuraError
from mura.metrics import binary_metrics, summarise

KEY = ["split", "extremity", "patient", "study", "view"]


def views(rng, patients=40, extremities=("elbow", "wrist")):
    """A test set: every patient with one study of two views, of one extremity or, one in four, of both."""
    rows = [
        ("test", extremity, f"patient{number:03}", "study1", f"image{view}", int(rng.integers(0, 2)))
        for number in range(patients)
        for place, extremity in enumerate(extremities)
        if number % 4 == 0 or number % len(extremities) == place
        for view in (1, 2)
    ]
    table = pd.DataFrame(rows, columns=[*KEY, "label"])
    table["label"] = table.groupby(KEY[:4])["label"].transform("first")
    return table.assign(path=table[KEY].agg("/".join, axis=1))


def predicted(table, rng, skill=1.0):
    """Predictions of a model: the more `skill`, the better."""
    logit = skill * (2 * table["label"] - 1) + rng.normal(size=len(table))
    return table.assign(logit=logit, probability=1 / (1 + np.exp(-logit)))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def arms(rng):
    table = views(rng)
    return {"unified": [predicted(table, rng, 1.5)], "specialised": [predicted(table, rng, 0.8)]}


def random_cases(rng, patients=12, models=2, ties=True):
    patient = np.sort(np.r_[np.arange(patients), rng.integers(0, patients, 2 * patients)])
    label = np.r_[True, False, rng.random(len(patient) - 2) < 0.5]
    probability = rng.random((models, len(patient)))
    return Cases(patient, label, probability.round(1) if ties else probability)


def one(records, **wanted):
    [record] = [r for r in records if all(getattr(r, name) == value for name, value in wanted.items())]
    return record


# --- resampling -------------------------------------------------------------------------------------------


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


def test_every_swap_within_patients_equals_the_swap_done_by_hand(rng):
    cases = random_cases(rng, patients=6)
    ranks = np.array([stats.rankdata(row) for row in cases.probability])
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=6))).T
    ours = SwappedPair(cases, 0, 1).differences(signs)
    for column, sign in enumerate(signs.T):
        first = np.where(sign[cases.patient] > 0, 0, 1)
        rows = np.arange(len(cases.label))
        by_hand = []
        for chosen in (first, 1 - first):
            called, rank = cases.called[chosen, rows], ranks[chosen, rows]
            accuracy = sk.accuracy_score(cases.label, called)
            kappa = sk.cohen_kappa_score(cases.label, called)
            by_hand.append([accuracy, kappa, sk.roc_auc_score(cases.label, rank)])
        assert ours[:, column] == pytest.approx(np.subtract(*by_hand), abs=1e-9)


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


def test_swapping_averages_over_the_models_of_an_arm(rng):
    cases = random_cases(rng, models=3)
    swapped = permutation(cases, [0, 1], [2], 10, np.random.default_rng(5))
    each = [permutation(cases, [model], [2], 10, np.random.default_rng(5)) for model in (0, 1)]
    assert swapped == pytest.approx(np.mean(each, axis=0))


# --- estimates, p values, verdicts --------------------------------------------------------------------------


def test_without_variance_between_patients_it_is_welch_s_t_test(rng):
    a, b = rng.normal(0.8, 0.02, 3), rng.normal(0.7, 0.01, 5)
    ours = over_training_runs(a, b, np.full(100, a.mean() - b.mean()), patients=50)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval()
    assert (ours.p, ours.degrees) == pytest.approx((theirs.pvalue, theirs.df))
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


def test_training_runs_that_differ_widen_the_interval(rng):
    drawn = rng.normal(0.05, 0.01, 5000)
    close, far = np.array([0.800, 0.801, 0.799]), np.array([0.83, 0.80, 0.77])
    narrow, wide = (over_training_runs(a, np.full(3, 0.75), drawn, 100) for a in (close, far))
    assert narrow.difference == pytest.approx(wide.difference)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.degrees < 4 < narrow.degrees


def test_without_any_variance_only_equal_arms_can_be_judged():
    same, half = np.full(3, 0.5), np.full(3, 1.0)
    assert over_training_runs(same, same, np.zeros(10), 9).p == 1.0
    assert over_training_runs(half, same, np.full(10, 0.5), 9).p is None


def test_holm_equals_statsmodels(rng):
    for _ in range(20):
        p_values = dict(zip("abcdefg", rng.random(7).round(1) ** 3, strict=True))
        expected = multipletests(list(p_values.values()), method="holm")[1]
        assert [holm(p_values)[name] for name in "abcdefg"] == pytest.approx(expected)
    assert holm({}) == {}


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "expected"),
    [
        (0.01, 0.05, 0.01, "unified better"),
        (-0.05, -0.01, 0.01, "specialised better"),
        (-0.01, 0.05, 0.2, "no difference shown"),
        (0.01, 0.05, 0.06, "no difference shown"),
        (-0.001, 0.05, 0.04, "no difference shown"),
        (None, None, None, "not assessable"),
        (0.01, 0.05, 0.05, "no difference shown"),
    ],
)
def test_the_verdict_needs_interval_and_p(low, high, p_holm, expected):
    estimate = Estimate(0.8, 0.7, 0.1, low, high, p_holm, 0.01)
    assert verdict("unified", "specialised", estimate, p_holm) == expected


@pytest.mark.parametrize(
    ("low", "high", "p", "p_holm", "expected"),
    [
        (0.01, 0.05, 0.025, 0.175, "not shown after correction"),
        (-0.05, -0.01, 0.025, 0.175, "not shown after correction"),
        (-0.001, 0.05, 0.049, 0.175, "no difference shown"),
        (0.01, 0.05, 0.051, 0.175, "no difference shown"),
    ],
)
def test_a_row_that_only_the_correction_stops_is_told_from_others(low, high, p, p_holm, expected):
    estimate = Estimate(0.8, 0.7, 0.1, low, high, p, 0.01)
    assert verdict("unified", "specialised", estimate, p_holm) == expected


def test_the_simultaneous_interval_is_bonferroni_s_from_the_draws_or_student_s_t(rng):
    drawn = rng.normal(0.05, 0.02, 5000)
    one_seed = of_these_models(np.array([0.8]), np.array([0.75]), drawn, rng.normal(0, 0.02, 500))
    assert one_seed.interval(0.05 / 7) == pytest.approx(tuple(np.quantile(drawn, [0.025 / 7, 1 - 0.025 / 7])))
    three = over_training_runs(rng.normal(0.8, 0.01, 3), rng.normal(0.7, 0.01, 3), drawn, 100)
    t = stats.t.interval(1 - 0.05 / 7, three.degrees, three.difference, three.error)
    assert three.interval(0.05 / 7) == pytest.approx(t)
    assert three.interval(0.05) == pytest.approx((three.low, three.high))


@pytest.mark.parametrize("seeds", [1, 3])
def test_simultaneous_intervals_are_wider_for_each_extremity_and_the_same_for_all(rng, seeds):
    table = views(rng, patients=80)
    records = compare({arm: [predicted(table, rng) for _ in range(seeds)] for arm in "ab"}, "cnn2", 400)
    for r in records:
        simultaneous, plain = (r.low_simultaneous, r.high_simultaneous), (r.low, r.high)
        if r.extremity == "all":
            assert (r.tests, simultaneous) == (1, plain)
        else:
            assert r.tests == 2
            assert simultaneous[0] < plain[0] < plain[1] < simultaneous[1]


def test_the_smallest_detectable_difference_is_the_usual_formula():
    estimate = Estimate(0.8, 0.7, 0.1, 0.0, 0.2, 0.05, error=0.01)
    assert smallest_detectable(estimate, 1) == pytest.approx((1.959964 + 0.841621) * 0.01)
    assert smallest_detectable(estimate, 7) > smallest_detectable(estimate, 1)
    assert smallest_detectable(Estimate(None, None, None), 1) is None


def test_with_one_seed_the_smallest_detectable_difference_has_the_error_of_the_permutation(rng):
    swapped, drawn = rng.normal(0, 0.03, 5000), rng.normal(0.2, 0.01, 5000)
    estimate = of_these_models(np.array([0.8]), np.array([0.6]), drawn, swapped)
    assert estimate.error == pytest.approx(np.sqrt(np.mean(swapped**2)))
    assert smallest_detectable(estimate, 1) == pytest.approx(2.8016 * 0.03, rel=0.03)


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_arm_that_always_answers_alike_has_no_smallest_detectable_difference_but_a_reason(rng, seeds):
    table = views(rng, patients=120)
    constant = predicted(table, rng).assign(probability=0.3)
    arms = {"unified": [predicted(table, rng, 1.5) for _ in range(seeds)], "specialised": [constant] * seeds}
    for r in compare(arms, "cnn2", 200):
        assert (r.smallest_detectable, r.why_not_detectable) == (None, "specialised always gives the same answer")
    both = one(
        compare(arms | {"unified": [constant] * seeds}, "cnn2", 200), level="study", metric="accuracy", extremity="all"
    )
    assert both.verdict == "no difference shown"
    assert both.why_not_detectable == "unified and specialised always give the same answer"


def test_arms_that_never_differ_have_no_smallest_detectable_difference(rng):
    table = predicted(views(rng), rng)
    for r in compare({"a": [table], "b": [table]}, "cnn2", 200):
        assert (r.smallest_detectable, r.why_not_detectable) == (None, "the arms never differ")


def test_the_observed_difference_counts_among_the_permutations():
    never_as_large = of_these_models(np.array([0.9]), np.array([0.5]), np.full(9, 0.4), np.zeros(99))
    assert never_as_large.p == pytest.approx(1 / 100)


# --- compare ------------------------------------------------------------------------------------------------


def test_records_have_both_levels_all_metrics_and_every_group_in_order(arms):
    records = compare(arms, "cnn2", resamples=200)
    assert [(r.level, r.metric, r.extremity) for r in records] == list(
        itertools.product(("image", "study"), COMPARED_METRICS, ("all", "elbow", "wrist"))
    )
    assert {(r.model, r.comparison, r.seeds, r.scope) for r in records} == {
        ("cnn2", "unified-specialised", 1, "these trained models")
    }
    json.dumps([r.to_dict() for r in records], allow_nan=False)


def test_values_are_those_of_the_summary_and_the_difference_is_a_less_b(arms):
    summaries = {arm: summarise(tables[0]) for arm, tables in arms.items()}
    for r in compare(arms, "cnn2", resamples=200):
        a, b = (summaries[arm][r.level][r.extremity] for arm in ("unified", "specialised"))
        assert (r.a, r.b) == pytest.approx((a[r.metric], b[r.metric]))
        assert r.difference == pytest.approx(r.a - r.b)
        assert r.n == a["n"]
        assert r.low <= r.difference <= r.high


def test_patients_are_counted_once_over_extremities(arms):
    records = compare(arms, "cnn2", resamples=200)
    patients = {r.extremity: r.patients for r in records}
    assert patients["all"] == 40
    assert patients["elbow"] + patients["wrist"] == 40 + 10


def test_the_same_seed_gives_the_same_records_and_another_seed_others(arms):
    shuffled = {arm: [tables[0].sample(frac=1, random_state=1)] for arm, tables in arms.items()}
    first = compare(arms, "cnn2", resamples=200, seed=0)
    assert first == compare(shuffled, "cnn2", resamples=200, seed=0)
    assert first != compare(arms, "cnn2", resamples=200, seed=1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_exchanging_the_arms_turns_the_sign_and_nothing_else(rng, seeds):
    table = views(rng)
    a, b = ([predicted(table, rng, skill) for _ in range(seeds)] for skill in (1.5, 0.8))
    forth = compare({"a": a, "b": b}, "cnn2", resamples=200)
    back = compare({"b": b, "a": a}, "cnn2", resamples=200)
    for one_way, other_way in zip(forth, back, strict=True):
        assert one_way.difference == pytest.approx(-other_way.difference)
        assert (one_way.low, one_way.high) == pytest.approx((-other_way.high, -other_way.low))
        assert (one_way.p, one_way.p_holm) == pytest.approx((other_way.p, other_way.p_holm))
        assert one_way.verdict == other_way.verdict


def test_identical_arms_show_no_difference(rng):
    table = predicted(views(rng), rng)
    for seeds in (1, 3):
        for r in compare({"a": [table] * seeds, "b": [table] * seeds}, "cnn2", resamples=200):
            assert (r.difference, r.p, r.verdict) == (0.0, 1.0, "no difference shown")


def test_a_clear_difference_is_found_and_named(rng):
    table = views(rng, patients=200)
    for seeds in (1, 3):
        good, bad = ([predicted(table, rng, skill) for _ in range(seeds)] for skill in (4.0, 0.0))
        records = compare({"unified": bad, "specialised": good}, "cnn2", resamples=1000)
        assert {r.verdict for r in records} == {"specialised better"}


@pytest.mark.parametrize(
    ("seeds", "scope"),
    [(1, "these trained models"), (2, "these trained models"), (3, "the two approaches on this split")],
)
def test_the_verdict_speaks_of_the_approaches_only_from_three_seeds_on(rng, seeds, scope):
    table = views(rng)
    arms = {"a": [predicted(table, rng) for _ in range(seeds)], "b": [predicted(table, rng) for _ in range(3)]}
    records = compare(arms, "cnn2", resamples=100)
    assert {(r.seeds, r.scope) for r in records} == {(seeds, scope)}


def test_every_pair_of_arms_is_compared_and_a_third_arm_changes_nothing_for_two(arms, rng):
    third = {"shared": [predicted(arms["unified"][0], rng)]}
    records = compare(arms | third, "cnn2", resamples=200)
    assert list(dict.fromkeys(r.comparison for r in records)) == [
        "unified-specialised",
        "unified-shared",
        "specialised-shared",
    ]
    pair = [r for r in records if r.comparison == "unified-specialised"]
    assert pair == compare(arms, "cnn2", resamples=200)


def test_holm_corrects_over_the_extremities_and_leaves_all_alone(arms):
    records = compare(arms, "cnn2", resamples=500)
    overall = one(records, level="image", metric="accuracy", extremity="all")
    assert overall.p_holm == overall.p
    p = {e: one(records, level="image", metric="accuracy", extremity=e) for e in ("elbow", "wrist")}
    assert {e: r.p_holm for e, r in p.items()} == pytest.approx(holm({e: r.p for e, r in p.items()}))


def test_one_class_only_in_an_extremity_is_not_assessable_there_and_harms_nothing_else(rng):
    table = views(rng).assign(label=lambda t: t["label"].where(t["extremity"] == "wrist", 0))
    arms = {"a": [predicted(table, rng, 1.5)], "b": [predicted(table, rng, 0.8)]}
    records = compare(arms, "cnn2", resamples=200)
    for metric in ("kappa", "auroc"):
        elbow = one(records, level="study", metric=metric, extremity="elbow")
        assert (elbow.verdict, elbow.a, elbow.difference, elbow.p_holm) == ("not assessable", None, None, None)
        wrist = one(records, level="study", metric=metric, extremity="wrist")
        assert wrist.p_holm == wrist.p
    assert one(records, level="study", metric="accuracy", extremity="elbow").low is not None


def test_one_patient_is_not_assessable(arms):
    single = {arm: [tables[0].query("patient == 'patient000'")] for arm, tables in arms.items()}
    records = compare(single, "cnn2", resamples=100)
    assert {r.verdict for r in records} == {"not assessable"}
    assert one(records, level="image", metric="accuracy", extremity="all").a is not None


# --- agreement and McNemar ----------------------------------------------------------------------------------


def agreement(arms):
    return [r for paired in pair_views(arms).levels(arms).values() for r in count_agreement(paired, "cnn2")]


def test_agreement_counts_every_case_once_and_gives_the_accuracies(arms):
    records = compare(arms, "cnn2", resamples=100)
    for r in agreement(arms):
        assert r.both_right + r.only_a_right + r.only_b_right + r.both_wrong == r.n
        compared = one(records, level=r.level, metric="accuracy", extremity=r.extremity)
        assert (r.both_right + r.only_a_right) / r.n == pytest.approx(compared.a)
        assert (r.both_right + r.only_b_right) / r.n == pytest.approx(compared.b)


def test_mcnemar_equals_statsmodels(arms):
    counts = [r for r in agreement(arms) if r.level == "study"]
    assert [r.extremity for r in counts] == ["all", "elbow", "wrist"]
    for r in counts:
        theirs = statsmodels_mcnemar([[r.both_right, r.only_a_right], [r.only_b_right, r.both_wrong]], exact=True)
        assert (r.mcnemar_statistic, r.mcnemar_p) == pytest.approx((theirs.statistic, theirs.pvalue))
        json.dumps(r.to_dict())


def test_agreement_is_counted_by_seed_number_and_not_by_place(rng):
    table = views(rng)
    arms = {"a": [predicted(table, rng) for _ in range(3)], "b": [predicted(table, rng) for _ in range(2)]}
    seeds = {"a": [0, 4, 7], "b": [7, 0]}
    counts = count_agreement(pair_views(arms, seeds).levels(arms)["image"], "cnn2")
    assert {r.seed for r in counts} == {0, 7}
    alone = count_agreement(pair_views({"a": arms["a"][2:], "b": arms["b"][:1]}).levels(
        {"a": arms["a"][2:], "b": arms["b"][:1]})["image"], "cnn2")  # fmt: skip
    assert [r.both_right for r in counts if r.seed == 7] == [r.both_right for r in alone]


# --- arms that share a start --------------------------------------------------------------------------------


def test_paired_by_seed_it_is_the_paired_t_test(rng):
    a = rng.normal(0.8, 0.02, 4)
    b = a - rng.normal(0.03, 0.005, 4)
    ours = over_training_runs(a, b, np.full(100, (a - b).mean()), patients=50, by_seed=True)
    theirs = stats.ttest_rel(a, b)
    assert (ours.p, ours.degrees) == pytest.approx((theirs.pvalue, theirs.df))


def test_pairing_by_seed_has_more_power_where_runs_correlate(rng):
    covariance = 0.02**2 * np.array([[1, 0.8], [0.8, 1]])
    shown = np.zeros(2)
    for _ in range(300):
        a, b = rng.multivariate_normal([0.85, 0.80], covariance, 3).T
        drawn = rng.normal((a - b).mean(), 0.006, 200)
        shown += [over_training_runs(a, b, drawn, 780, by_seed).p < 0.05 for by_seed in (False, True)]
    independent, paired = shown / 300
    assert paired > independent + 0.15


def test_a_finetuned_arm_is_compared_with_unified_on_their_common_seeds(rng):
    table = views(rng)
    unified = [predicted(table, rng, 1.5) for _ in range(4)]
    finetuned = [predicted(table, rng, 0.8) for _ in range(3)]
    arms, seeds = {"unified": unified, "finetuned": finetuned}, {"unified": [0, 1, 2, 3], "finetuned": [2, 0, 9]}
    records = compare(arms, "cnn2", 200, seeds=seeds)
    common = {"unified": [unified[0], unified[2]], "finetuned": [finetuned[1], finetuned[0]]}
    again = compare(common, "cnn2", 200)
    assert {(r.seeds, r.scope) for r in records} == {(2, "these trained models")}
    for one_way, other_way in zip(records, again, strict=True):
        assert (one_way.a, one_way.b, one_way.p) == pytest.approx((other_way.a, other_way.b, other_way.p))
    others = compare({"unified": common["unified"], "shared": common["finetuned"]}, "cnn2", 200)
    assert [r.low for r in others] != pytest.approx([r.low for r in again])


def test_with_fewer_than_two_common_seeds_they_count_as_independent_and_the_scope_says_so(rng):
    table = views(rng)
    arms = {arm: [predicted(table, rng) for _ in range(3)] for arm in ("unified", "finetuned")}
    records = compare(arms, "cnn2", 200, seeds={"unified": [0, 1, 2], "finetuned": [2, 3, 4]})
    as_others = compare({"unified": arms["unified"], "shared": arms["finetuned"]}, "cnn2", 200)
    assert {r.scope for r in records} == {"the two approaches on this split, their seeds counted as independent"}
    assert [(r.low, r.p) for r in records] == [(r.low, r.p) for r in as_others]


def test_arms_whose_seeds_have_splits_of_their_own_are_paired_by_seed(rng):
    table = views(rng)
    tables = [[predicted(table, rng, skill) for _ in range(3)] for skill in (1.5, 0.8)]
    arms = dict(zip(("unified", "specialised"), tables, strict=True))
    rotated = compare(arms, "cnn2", 200, folds={0: 0, 1: 1, 2: 2})
    by_seed = compare(dict(zip(("unified", "finetuned"), tables, strict=True)), "cnn2", 200)
    assert {(r.seeds, r.scope) for r in rotated} == {(3, "the two approaches over 3 splits")}
    assert [(r.low, r.high, r.p) for r in rotated] == [(r.low, r.high, r.p) for r in by_seed]
    on_one = compare(arms, "cnn2", 200, folds={0: 4, 1: 4, 2: 4})
    assert {(r.seeds, r.scope) for r in on_one} == {(3, "the two approaches on this split")}
    assert [r.low for r in on_one] == [r.low for r in compare(arms, "cnn2", 200)]
    assert [r.low for r in on_one] != pytest.approx([r.low for r in rotated])


def test_a_split_that_is_harder_for_both_arms_widens_no_interval_of_rotated_folds(rng):
    table = views(rng, patients=200)
    sign = 2 * table["label"] - 1

    def on_a_split(skill, luck):
        logit = skill * sign + luck  # the same mistakes on every split: only its difficulty differs
        return table.assign(logit=logit, probability=1 / (1 + np.exp(-logit)))

    arms = {
        arm: [on_a_split(skill, luck) for skill in (0.4, 1.2, 2.0)]
        for arm, luck in zip(("unified", "specialised"), rng.normal(size=(2, len(table))), strict=True)
    }
    rotated = compare(arms, "cnn2", 400, folds={0: 0, 1: 1, 2: 2})
    fixed = compare(arms, "cnn2", 400)
    for one_way, other_way in zip(rotated, fixed, strict=True):
        if one_way.extremity == "all":
            assert one_way.high - one_way.low < 0.5 * (other_way.high - other_way.low)


# --- bad input ----------------------------------------------------------------------------------------------


def spoilt(arms, spoil):
    return arms | {"specialised": [spoil(arms["specialised"][0].reset_index(drop=True))]}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.iloc[1:], r"specialised \(table 1 of 1\) lacks 1 of the test views of unified"),
        (lambda t: pd.concat([t, t.iloc[[3]]]), r"is doubled in specialised \(table 1 of 1\) \(1 such"),
        (
            lambda t: pd.concat([t, t.iloc[[0]].assign(patient="stranger", path="stranger.png")]),
            r"unified \(table 1 of 1\) lacks 1 of the test views of specialised.*stranger\.png",
        ),
        (lambda t: t.assign(label=t["label"].where(t["patient"] != "patient000", 1 - t["label"])), "label of view"),
        (lambda t: t.assign(probability=np.nan), "probability of view .* is nan in specialised"),
        (lambda t: t.assign(split=["val", *["test"] * (len(t) - 1)]), "has val and test"),
        (lambda t: t.iloc[:0], "no predictions in specialised"),
        (lambda t: t.drop(columns="probability"), "column is missing in specialised"),
    ],
)
def test_tables_that_cannot_be_paired_are_refused_in_a_sentence(arms, spoil, message):
    with pytest.raises(MuraError, match=message) as refused:
        compare(spoilt(arms, spoil), "cnn2", resamples=100)
    assert "\n" not in str(refused.value)


def test_fewer_than_two_arms_or_an_arm_without_tables_is_refused(arms):
    for too_few in ({}, {"unified": arms["unified"]}, arms | {"specialised": []}):
        with pytest.raises(MuraError, match="two arms"):
            compare(too_few, "cnn2")


# --- coverage -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coverage():
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_simulated_truth_is_that_of_the_normal_distribution(coverage):
    setting = coverage.Setting("humerus", gap=0.45, between_runs=0.0714)
    sigma = np.sqrt(np.square([*setting.shared, *setting.arm, *setting.run, setting.between_runs]).sum())
    expected = ndtr((setting.mean + setting.gap) / sigma) - ndtr(setting.mean / sigma)
    true = coverage.truth(setting, np.random.default_rng(0))
    assert true["image"][0] == pytest.approx(expected, abs=0.005)


def test_offsets_of_seven_models_favour_the_unified_one_only_where_auroc_is_pooled(coverage):
    rows = coverage.offset_rows(1.0, 1, 12, 100, np.random.default_rng(0))
    difference = {(level, estimator): float(points) for _, _, level, estimator, points, _ in rows}
    for level in ("image", "study"):
        assert difference[level, coverage.POOLED] > 1
        assert abs(difference[level, coverage.WITHIN]) < 1


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_the_truth_and_the_test_seldom_finds_what_is_not_there(coverage, seeds):
    setting = coverage.Setting("humerus", seeds=seeds, between_runs=0.0 if seeds == 1 else 0.0714)
    outcomes = coverage.run(setting, simulations=100, resamples=400, rng=np.random.default_rng(0))
    for level in ("image", "study"):
        low, high, shown, _ = np.stack(outcomes[coverage.OURS, level], axis=1)
        assert ((low <= 0) & (high >= 0)).mean(axis=0).min() >= 0.88
        assert shown.mean(axis=0).max() <= 0.13
