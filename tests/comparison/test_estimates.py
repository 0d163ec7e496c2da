"""Estimates, verdicts and the fields of a record where they meet their limits."""

import math
from dataclasses import astuple, replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mura.comparison.bootstrap import COMPARED_METRICS, Bootstraps, Cases, bootstrap
from mura.comparison.estimates import (
    Estimate,
    answers_alike,
    contrast,
    error_of_sum,
    of_these_models,
    over_training_runs,
    smallest_detectable,
)
from mura.comparison.pairs import pair_views
from mura.comparison.verdict import (
    NO_DIFFERENCE,
    NOT_AFTER_CORRECTION,
    NOT_ASSESSABLE,
    RESAMPLES,
    Comparison,
    compare,
    compare_cases,
    holm,
    verdict,
)
from mura.extremities import EXTREMITIES


def predictions(
    rng: np.random.Generator, patients: int = 60, extremities: tuple[str, ...] = ("elbow", "wrist"), skill: float = 1.0
) -> pd.DataFrame:
    """Return predictions of one view a patient, the extremities and labels dealt in turn."""
    number = np.arange(patients * len(extremities))
    label = number // len(extremities) % 2
    logit = skill * (2 * label - 1) + rng.normal(size=len(number))
    table = pd.DataFrame({"split": "test", "extremity": [extremities[n % len(extremities)] for n in number]})
    names = [f"patient{n:05}" for n in number]
    table = table.assign(patient=names, study="study1", view="image1", path=names, label=label, logit=logit)
    return table.assign(probability=1 / (1 + np.exp(-logit)))


def record(records: list[Comparison], extremity: str, metric: str = "accuracy", level: str = "study") -> Comparison:
    [one] = [r for r in records if (r.extremity, r.metric, r.level) == (extremity, metric, level)]
    return one


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# --- what decides -------------------------------------------------------------------------------------------


def test_a_p_of_exactly_five_percent_shows_nothing() -> None:
    below = math.nextafter(0.05, 0)
    for sign, better in ((1, "a better"), (-1, "b better")):
        low, high = sorted((sign * 0.01, sign * 0.2))
        estimate = Estimate(0.8, 0.8 - sign * 0.1, sign * 0.1, low, high, 0.05, 0.03)
        assert verdict("a", "b", estimate, 0.05) == NO_DIFFERENCE
        assert verdict("a", "b", replace(estimate, p=below), 0.05) == NOT_AFTER_CORRECTION
        assert verdict("a", "b", replace(estimate, p=below), below) == better


def test_an_interval_that_ends_at_zero_shows_nothing() -> None:
    for low, high in ((0.0, 0.2), (-0.2, 0.0)):
        assert verdict("a", "b", Estimate(0.8, 0.7, 0.1, low, high, 0.01, 0.05), 0.01) == NO_DIFFERENCE


@pytest.mark.parametrize(("p_holm", "low", "high"), [(None, 0.1, 0.2), (0.01, None, 0.2), (0.01, 0.1, None)])
def test_whatever_is_missing_makes_a_row_not_assessable(
    p_holm: float | None, low: float | None, high: float | None
) -> None:
    assert verdict("a", "b", Estimate(0.8, 0.7, 0.1, low, high, 0.01, 0.05), p_holm) == NOT_ASSESSABLE


def test_the_number_of_resamples_is_what_the_document_says() -> None:
    assert RESAMPLES == 10_000


# --- one trained model an arm -------------------------------------------------------------------------------


def test_the_interval_of_trained_models_is_of_percentiles_and_the_error_that_of_the_permutation() -> None:
    drawn, swapped = np.arange(1001) / 1000, np.array([0.3, -0.4, 0.0])
    ours = of_these_models(np.array([0.75]), np.array([0.25]), drawn, swapped)
    assert (ours.a, ours.b, ours.difference) == (0.75, 0.25, 0.5)
    assert (ours.low, ours.high) == pytest.approx((0.025, 0.975))
    assert ours.error == pytest.approx(math.sqrt((0.09 + 0.16) / 3))
    assert ours.degrees == math.inf


def test_a_permuted_difference_as_large_as_the_observed_one_counts_and_so_does_its_mirror() -> None:
    a, b = np.array([0.7]), np.array([0.4])
    observed = 0.7 - 0.4
    swapped = np.array([observed, -observed, observed - 1e-14, observed + 0.1, observed - 0.01, 0.0, -0.2])
    assert of_these_models(a, b, np.zeros(5), swapped).p == pytest.approx((1 + 4) / (1 + 7))


# --- several trained models an arm --------------------------------------------------------------------------


def test_without_variance_between_runs_the_degrees_of_freedom_are_the_patients(rng: np.random.Generator) -> None:
    drawn = rng.normal(0.1, 0.04, 500)
    ours = over_training_runs(np.full(3, 0.75), np.full(3, 0.5), drawn, patients=9)
    assert ours.degrees == pytest.approx(8)
    assert ours.error == pytest.approx(drawn.std())
    assert (ours.low, ours.high) == pytest.approx(stats.t.interval(0.95, 8, 0.25, drawn.std()))
    assert ours.p == pytest.approx(2 * stats.t.sf(0.25 / drawn.std(), 8))


def test_variance_and_degrees_of_freedom_have_a_part_from_patients_and_one_from_each_arm() -> None:
    a, b, drawn = np.array([0.80, 0.78, 0.85]), np.array([0.70, 0.74, 0.71]), np.array([0.05, 0.15, 0.10, 0.12])
    ours = over_training_runs(a, b, drawn, patients=30)
    parts = drawn.var(), a.var(ddof=1) / 3, b.var(ddof=1) / 3
    assert ours.error == pytest.approx(math.sqrt(sum(parts)))
    assert ours.degrees == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 29 + parts[1] ** 2 / 2 + parts[2] ** 2 / 2))


@pytest.mark.parametrize(
    ("parts", "freedom", "halved"),
    [
        ((4.0, 1.0, 1.0), (29, 1, 1), True),
        ((4.0, 1.0, 1.0), (29, 1, 9), True),
        ((4.0, 1.0, 1.0), (29, 2, 2), False),
        ((4.0, 1.0), (29, 2), True),
        ((4.0, 1.0), (29, 3), True),
        ((4.0, 1.0), (29, 4), False),
    ],
)
def test_where_few_runs_tell_the_spread_the_degrees_of_freedom_are_halved(parts, freedom, halved):
    welch = sum(parts) ** 2 / sum(part**2 / degrees for part, degrees in zip(parts, freedom, strict=True))
    _, degrees = error_of_sum(np.array(parts), np.array(freedom))
    assert degrees == pytest.approx(welch / 2 if halved else welch)


def test_the_halved_degrees_of_freedom_are_never_fewer_than_the_runs():
    assert error_of_sum(np.array([0.0, 1.0]), np.array([29, 3]))[1] == pytest.approx(3)
    assert error_of_sum(np.array([0.0, 1.0, 0.01]), np.array([29, 1, 1]))[1] == pytest.approx(1)


def test_an_estimate_without_variance_is_judged_only_when_the_arms_are_equal() -> None:
    equal = over_training_runs(np.full(3, 0.5), np.full(2, 0.5), np.zeros(10), 9)
    assert (equal.difference, equal.low, equal.high, equal.p, equal.error) == (0.0, 0.0, 0.0, 1.0, 0.0)
    other = over_training_runs(np.full(3, 1.0), np.full(2, 0.5), np.full(10, 0.5), 9)
    assert astuple(other)[:7] == (1.0, 0.5, 0.5, None, None, None, None)


@pytest.mark.parametrize("extremities", [("wrist",), ("elbow", "wrist"), ("elbow", "hand", "wrist")])
def test_the_smallest_detectable_difference_counts_the_assessable_extremities_as_tests(
    rng: np.random.Generator, extremities: tuple[str, ...]
) -> None:
    a, b = (predictions(rng, 40, extremities, skill) for skill in (1.0, 0.6))
    records = compare({"a": [a] * 3, "b": [b] * 3}, "cnn2", resamples=400)  # like runs: the patients' variance alone
    for group, tests in {"all": 1, **dict.fromkeys(extremities, len(extremities))}.items():
        r = record(records, group)
        student = stats.t(r.patients - 1)
        error = (r.high - r.low) / 2 / student.ppf(0.975)
        needed = student.ppf(1 - 0.05 / tests / 2) + student.ppf(0.8)
        assert r.smallest_detectable == pytest.approx(needed * error)
        assert r.tests == tests
        assert (r.low_90, r.high_90) == pytest.approx(stats.t.interval(0.9, r.patients - 1, r.difference, error))


def test_an_extremity_that_is_not_assessable_is_no_test_of_the_family(rng: np.random.Generator) -> None:
    arms = {}
    for arm, skill in (("a", 1.0), ("b", 0.6)):
        table = predictions(rng, 40, EXTREMITIES[:3], skill)
        arms[arm] = [table.assign(label=table["label"].where(table["extremity"] != EXTREMITIES[0], 0))] * 3
    records = compare(arms, "cnn2", resamples=400)
    r = record(records, EXTREMITIES[1], "kappa")
    student = stats.t(r.patients - 1)
    error = (r.high - r.low) / 2 / student.ppf(0.975)
    assert r.smallest_detectable == pytest.approx((student.ppf(1 - 0.05 / 2 / 2) + student.ppf(0.8)) * error)
    assert record(records, EXTREMITIES[0], "kappa").smallest_detectable is None


def test_the_smallest_detectable_difference_follows_student_where_the_interval_does() -> None:
    estimate = Estimate(0.8, 0.7, 0.1, 0.0, 0.2, 0.05, error=0.02, degrees=4)
    assert smallest_detectable(estimate, 7) == pytest.approx(
        (stats.t.ppf(1 - 0.05 / 7 / 2, 4) + stats.t.ppf(0.8, 4)) * 0.02
    )


# --- against formulas and libraries -------------------------------------------------------------------------


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


def test_holm_equals_statsmodels(rng):
    for _ in range(5):
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


def test_the_observed_difference_counts_among_the_permutations():
    never_as_large = of_these_models(np.array([0.9]), np.array([0.5]), np.full(9, 0.4), np.zeros(99))
    assert never_as_large.p == pytest.approx(1 / 100)


# --- not assessable -----------------------------------------------------------------------------------------

ABSENT = (
    "low", "high", "p", "p_holm", "smallest_detectable", "why_not_detectable", "low_simultaneous", "high_simultaneous",
    "low_90", "high_90", "margin", "equivalence",
)  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_record_of_a_single_patient_holds_its_values_and_no_inference(rng: np.random.Generator, seeds: int) -> None:
    tables = [predictions(rng, 4, ("wrist",)).assign(patient="patient1", study=list("abcd")) for _ in range(2)]
    records = compare({"a": tables[:1] * seeds, "b": tables[1:] * seeds}, "cnn2", resamples=50)
    r = record(records, "wrist")
    right = [float(((t["probability"] > 0.5) == t["label"]).mean()) for t in tables]
    assert (r.a, r.b, r.difference) == pytest.approx((*right, right[0] - right[1]))
    assert [getattr(r, name) for name in ABSENT] == [None] * len(ABSENT)
    assert (r.verdict, r.n, r.patients, r.seeds, r.tests) == (NOT_ASSESSABLE, 4, 1, seeds, 1)
    assert (r.model, r.comparison, r.level, r.metric) == ("cnn2", "a-b", "study", "accuracy")
    assert r.scope == ("these trained models" if seeds == 1 else "the two approaches on this split")


def test_the_record_of_an_undefined_metric_holds_counts_and_nothing_else(rng: np.random.Generator) -> None:
    tables = [predictions(rng, 12, ("wrist",)).assign(label=1) for _ in range(2)]
    records = compare({"a": tables[:1], "b": tables[1:]}, "cnn2", resamples=50)
    for metric in ("kappa", "auroc"):
        r = record(records, "wrist", metric)
        assert [getattr(r, name) for name in ("a", "b", "difference", *ABSENT)] == [None] * (3 + len(ABSENT))
        assert (r.verdict, r.n, r.patients, r.seeds) == (NOT_ASSESSABLE, 12, 12, 1)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(("undefined", "assessable"), [(0, True), (5, True), (6, False)])
def test_a_metric_must_be_defined_in_ninety_five_of_a_hundred_resamples(
    rng: np.random.Generator, seeds: int, undefined: int, assessable: bool
) -> None:
    label = np.array([True, False] * 10)
    cases = Cases(np.arange(20), label, rng.random((2 * seeds, 20)))
    draws = rng.random((len(COMPARED_METRICS), 2 * seeds, 100))
    draws[..., :undefined] = np.nan
    models = list(range(seeds)), list(range(seeds, 2 * seeds))
    for estimate in contrast(cases, *models, draws, rng).values():
        assert (estimate.low is not None) == assessable
        assert estimate.difference is not None


@pytest.mark.parametrize(("patients", "assessable"), [(1, False), (2, True)])
def test_an_interval_takes_two_patients(rng: np.random.Generator, patients: int, assessable: bool) -> None:
    cases = Cases(np.arange(4) % patients, np.array([True, True, False, False]), rng.random((2, 4)))
    estimates = contrast(cases, [0], [1], rng.random((3, 2, 100)), rng)
    assert {estimate.p is not None for estimate in estimates.values()} == {assessable}


def test_a_pair_with_two_models_in_one_arm_and_one_in_the_other_is_about_these_models(rng: np.random.Generator) -> None:
    cases = Cases(np.arange(20), np.array([True, False] * 10), rng.random((3, 20)))
    draws = rng.random((3, 3, 100))
    for models in (([0, 1], [2]), ([0], [1, 2])):
        estimate = contrast(cases, *models, draws, rng)["accuracy"]
        drawn = draws[0, models[0]].mean(axis=0) - draws[0, models[1]].mean(axis=0)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
        assert estimate.degrees == math.inf


def test_a_model_that_calls_all_alike_still_ranks_and_one_with_a_score_an_extremity_does_not() -> None:
    patient, label = np.arange(4), np.array([True, False, True, False])
    probability = np.array([[0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.7, 0.7]])
    cases = Cases(patient, label, probability, np.array([0, 0, 1, 1]))
    for metric in ("accuracy", "kappa"):
        assert [answers_alike(cases, [model], metric) for model in (0, 1)] == [True, False]
    assert [answers_alike(cases, [model], "auroc") for model in (0, 1)] == [False, True]
    assert not answers_alike(cases, [0, 1], "accuracy")


def test_an_estimate_is_told_by_its_figures_and_not_by_what_was_drawn() -> None:
    one, other = (Estimate(0.8, 0.7, 0.1, error=0.1, drawn=drawn) for drawn in (np.zeros(3), np.ones(4)))
    assert one == other
    assert "drawn" not in repr(one)
    assert one.always_alike == (False, False)


@pytest.mark.parametrize(("difference", "error"), [(None, 0.1), (0.1, None), (None, None)])
def test_without_a_difference_or_an_error_there_is_no_interval(difference: float | None, error: float | None) -> None:
    assert Estimate(0.8, 0.7, difference, error=error).interval(0.05) == (None, None)


def test_runs_are_independent_unless_they_are_said_to_be_paired_by_seed(rng: np.random.Generator) -> None:
    cases = Cases(np.arange(40), rng.random(40) < 0.5, rng.random((6, 40)))
    draws = bootstrap(cases, 100, rng)
    models = [0, 1, 2], [3, 4, 5]
    plain, independent, paired = (
        contrast(cases, *models, draws, rng, *told)["accuracy"] for told in ((), (False,), (True,))
    )
    assert plain == independent != paired
    a, b, drawn = rng.random(3), rng.random(3), rng.random(50)
    assert over_training_runs(a, b, drawn, 9) == over_training_runs(a, b, drawn, 9, by_seed=False)
    assert over_training_runs(a, b, drawn, 9) != over_training_runs(a, b, drawn, 9, by_seed=True)


def test_every_group_is_drawn_and_swapped_from_streams_of_its_own(rng: np.random.Generator) -> None:
    arms = {"a": [predictions(rng, 20)], "b": [predictions(rng, 20)]}
    paired = pair_views(arms).levels(arms)["study"]
    records = compare_cases(paired, "cnn2", Bootstraps(60), seed=3)
    for group, number in (("all", 7), ("elbow", 0), ("wrist", 6)):
        draws = bootstrap(paired.cases[group], 60, np.random.default_rng([3, number, 0]))
        expected = contrast(paired.cases[group], [0], [1], draws, np.random.default_rng([3, number, 1]))
        for metric, estimate in expected.items():
            ours = record(records, group, metric)
            assert (ours.low, ours.high, ours.p) == (estimate.low, estimate.high, estimate.p)
    assert compare_cases(paired, "cnn2", Bootstraps(60)) == compare_cases(paired, "cnn2", Bootstraps(60), seed=0)


def test_the_seed_of_the_resampling_is_zero_by_default(rng: np.random.Generator) -> None:
    arms = {"a": [predictions(rng, 10)], "b": [predictions(rng, 10)]}
    assert compare(arms, "cnn2", resamples=50) == compare(arms, "cnn2", resamples=50, seed=0)
