"""The metrics equal scikit-learn's where they are defined, and say None where they are not."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.metrics import (
    binary_metrics,
    rate_intervals,
    roc_curve,
    sensitivity_at_specificity,
    share_interval,
    study_table,
    summarise,
)

CASES = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))),
    min_size=2,
    max_size=60,
)


def predictions(*rows, split="test"):
    """A table from (extremity, patient, study, view, label, probability)."""
    columns = ["extremity", "patient", "study", "view", "label", "probability"]
    table = pd.DataFrame(rows, columns=columns).assign(split=split, logit=0.0)
    return table.assign(path=[f"{row[0]}/{row[1]}/{row[2]}/{row[3]}.png" for row in rows])


@given(CASES)
def test_metrics_equal_those_of_scikit_learn(cases):
    label, probability = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    called = (probability > 0.5).astype(int)
    ours = binary_metrics(label, probability)
    expected = {
        "accuracy": sk.accuracy_score(label, called),
        "brier": sk.brier_score_loss(label, probability, pos_label=1) if label.any() else np.mean(probability**2),
    }
    if label.any():
        expected["sensitivity"] = sk.recall_score(label, called)
        expected["f1"] = sk.f1_score(label, called)
    if not label.all():
        expected["specificity"] = sk.recall_score(label, called, pos_label=0)
    if label.any() and not label.all():
        expected["kappa"] = sk.cohen_kappa_score(label, called)
        expected["auroc"] = sk.roc_auc_score(label, probability)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    calibration = {"calibration_slope", "calibration_intercept", "why_no_calibration"}
    others = {"n", "abnormal", "ece"} | ({"sensitivity_at_specificity"} if "auroc" in expected else set())
    assert {name for name, value in ours.items() if value is None} - calibration == (
        set(ours) - set(expected) - others - calibration
    )
    json.dumps(ours, allow_nan=False)


@given(CASES.filter(lambda cases: 0 < sum(label for label, _ in cases) < len(cases)))
def test_the_roc_curve_is_scikit_learns(cases):
    label, probability = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    false_positive, true_positive, _ = sk.roc_curve(label, probability, drop_intermediate=False)
    ours = roc_curve(label.astype(bool), probability)
    np.testing.assert_allclose(ours[0], false_positive)
    np.testing.assert_allclose(ours[1], true_positive)


@given(CASES.filter(lambda cases: 0 < sum(label for label, _ in cases) < len(cases)))
def test_sensitivity_at_a_specificity_is_the_best_of_scikit_learn_s_curve_there(cases):
    label, probability = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    false_positive, true_positive, _ = sk.roc_curve(label, probability, drop_intermediate=False)
    expected = max(t for f, t in zip(false_positive, true_positive, strict=True) if f <= 0.113 + 1e-12)
    assert sensitivity_at_specificity(label.astype(bool), probability) == expected


def test_a_specificity_of_exactly_the_paper_s_counts():
    normal = np.r_[np.full(113, 0.7), np.full(887, 0.1)]
    label = np.r_[np.zeros(1000), np.ones(4)].astype(bool)
    assert sensitivity_at_specificity(label, np.r_[normal, 0.9, 0.7, 0.7, 0.05]) == 0.75
    one_more = np.where(np.arange(1000) == 113, 0.7, normal)
    assert sensitivity_at_specificity(label, np.r_[one_more, 0.9, 0.7, 0.7, 0.05]) == 0.25


@given(CASES)
def test_calibration_error_is_the_weighted_distance_in_fifteen_bins(cases):
    label, probability = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    which = np.minimum(np.floor(probability * 15), 14)
    by_hand = sum(
        (which == one).mean() * abs(probability[which == one].mean() - label[which == one].mean())
        for one in np.unique(which)
    )
    assert binary_metrics(label, probability)["ece"] == pytest.approx(by_hand, abs=1e-9)


def test_certainty_has_the_bin_of_the_highest_probabilities_and_one_case_has_an_error():
    assert binary_metrics([1, 0], [0.95, 1.0])["ece"] == pytest.approx((1.0 - 0.05) / 2)
    assert binary_metrics([1, 0], [0.92, 1.0])["ece"] == pytest.approx((1.0 + 0.08) / 2)
    assert binary_metrics([1], [0.75])["ece"] == 0.25


def test_an_empty_group_has_counts_and_nothing_else():
    empty = binary_metrics([], [])
    assert (empty.pop("n"), empty.pop("abnormal")) == (0, 0)
    assert empty.pop("why_no_calibration") == "there are no cases"
    assert set(empty.values()) == {None}


@pytest.mark.parametrize(
    ("label", "undefined"), [(0, {"kappa", "auroc", "sensitivity", "f1"}), (1, {"kappa", "auroc", "specificity"})]
)
def test_one_class_only_leaves_undefined_what_needs_both(label, undefined):
    ours = binary_metrics([label] * 3, [0.1, 0.6, 0.9])
    undefined = undefined | {"sensitivity_at_specificity", "calibration_slope", "calibration_intercept"}
    assert {name for name, value in ours.items() if value is None} == undefined


def test_kappa_is_none_when_everything_is_normal_and_called_so():
    assert binary_metrics([0, 0], [0.1, 0.2])["kappa"] is None


def test_exactly_one_half_is_not_abnormal():
    assert binary_metrics([0, 1], [0.5, 0.5])["sensitivity"] == 0.0
    assert binary_metrics([0, 1], [0.5, 0.5])["specificity"] == 1.0


def test_a_study_is_the_mean_of_its_views_and_its_key_holds_the_extremity():
    table = study_table(
        predictions(
            ("wrist", "p1", "study1", 1, 1, 0.2),
            ("wrist", "p1", "study1", 2, 1, 0.9),
            ("elbow", "p1", "study1", 1, 0, 0.4),
        )
    )
    assert table["extremity"].tolist() == ["elbow", "wrist"]
    assert table["probability"].tolist() == pytest.approx([0.4, 0.55])
    assert table["label"].tolist() == [0, 1]
    assert table["views"].tolist() == [1, 2]


def test_views_that_are_all_alike_give_the_study_exactly_their_probability():
    table = predictions(*(("wrist", f"p{most}", "s", view, 0, 0.1) for most in range(1, 8) for view in range(most)))
    assert set(study_table(table)["probability"]) == {0.1}


def test_a_category_that_does_not_occur_is_no_study_and_no_group():
    table = predictions(("wrist", "p1", "study1", 1, 1, 0.2), ("hand", "p2", "study1", 1, 0, 0.4))
    table["extremity"] = pd.Categorical(table["extremity"], EXTREMITIES)
    assert len(study_table(table)) == 2
    assert list(summarise(table)["image"]) == ["all", "hand", "wrist"]


def test_studies_with_two_labels_are_refused_naming_the_first():
    rows = [
        ("wrist", f"p{number}", "study1", view, label, 0.2) for number in (1, 2, 3) for view, label in ((1, 1), (2, 0))
    ]
    with pytest.raises(MuraError, match=r"study test/wrist/p1/study1 don't share one label \(3 such"):
        study_table(predictions(*rows))


def test_the_summary_has_both_levels_for_all_and_for_each_extremity_that_occurs():
    summary = summarise(
        predictions(
            ("wrist", "p1", "study1", 1, 1, 0.2),
            ("wrist", "p1", "study1", 2, 1, 0.9),
            ("elbow", "p2", "study1", 1, 0, 0.4),
        )
    )
    assert {level: list(groups) for level, groups in summary.items()} == {
        "image": ["all", "elbow", "wrist"],
        "study": ["all", "elbow", "wrist"],
    }
    assert summary["image"]["all"]["n"] == 3
    assert summary["study"]["all"]["n"] == 2
    assert summary["image"]["wrist"]["accuracy"] == 0.5
    assert summary["study"]["wrist"]["accuracy"] == 1.0
    json.dumps(summary, allow_nan=False)


def several_extremities(seed=4):
    rng = np.random.default_rng(seed)
    rows = [
        (extremity, f"p{number}", "study1", view, number % 2, round(rng.random(), 1))
        for extremity in ("elbow", "hand", "wrist")
        for number in range(9)
        for view in (1, 2)
    ]
    return predictions(*rows)


def test_auroc_of_all_is_the_mean_of_scikit_learn_s_within_each_extremity_at_both_levels():
    table = several_extremities()
    for level, rows in (("image", table), ("study", study_table(table))):
        areas = [sk.roc_auc_score(part["label"], part["probability"]) for _, part in rows.groupby("extremity")]
        groups = summarise(table)[level]
        assert groups["all"]["auroc"] == pytest.approx(np.mean(areas), abs=1e-12)
        assert groups["all"]["auroc"] == pytest.approx(
            np.mean([groups[e]["auroc"] for e in ("elbow", "hand", "wrist")])
        )
        assert groups["all"]["accuracy"] == pytest.approx(((rows["probability"] > 0.5) == rows["label"]).mean())


def test_sensitivity_at_a_specificity_of_all_is_the_mean_within_each_extremity():
    groups = summarise(several_extremities())["image"]
    within = [groups[name]["sensitivity_at_specificity"] for name in ("elbow", "hand", "wrist")]
    assert groups["all"]["sensitivity_at_specificity"] == pytest.approx(np.mean(within), abs=1e-12)


def test_auroc_of_all_is_undefined_where_an_extremity_has_one_class():
    table = several_extremities()
    table.loc[table["extremity"] == "hand", "label"] = 1
    groups = summarise(table)["image"]
    assert (groups["all"]["auroc"], groups["hand"]["auroc"]) == (None, None)
    assert groups["all"]["kappa"] is not None
    assert groups["wrist"]["auroc"] is not None


def test_a_table_without_rows_gives_an_empty_summary():
    summary = summarise(predictions(("wrist", "p1", "study1", 1, 1, 0.2))[:0])
    assert summary["image"]["all"]["n"] == summary["study"]["all"]["n"] == 0


@pytest.mark.parametrize("probability", [np.nan, -0.1, 1.1, np.inf])
def test_a_probability_that_is_none_is_refused_naming_the_first_view(probability):
    rows = ("wrist", "p1", "study1", 1, 1, 0.2), ("wrist", "p1", "study1", 2, 1, probability)
    with pytest.raises(MuraError, match=r"probability of view wrist/p1/study1/2\.png.*1 such"):
        summarise(predictions(*rows))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("label", 2, "label of view"), ("extremity", "foot", "extremity of view")],
)
def test_a_foreign_label_or_extremity_is_refused(column, value, message):
    table = predictions(("wrist", "p1", "study1", 1, 1, 0.2)).assign(**{column: value})
    with pytest.raises(MuraError, match=message):
        summarise(table)


def test_a_missing_column_is_named():
    with pytest.raises(MuraError, match="probability"):
        study_table(predictions(("wrist", "p1", "study1", 1, 1, 0.2)).drop(columns="probability"))


def test_two_splits_are_not_summarised_together():
    row = ("wrist", "p1", "study1", 1, 1, 0.2)
    with pytest.raises(MuraError, match="test and val"):
        summarise(pd.concat([predictions(row), predictions(row, split="val")]))


def test_the_interval_of_one_case_a_patient_is_wilson_s_with_student_s_t():
    low, high = share_interval(np.repeat([True, False], [42, 8]), np.arange(50))
    t, share = 2.0095752371, 42 / 50  # t: 97.5 %, 49 degrees of freedom
    independent = 49  # the variance over the patients has 50 / 49 in it
    for end in (low, high):  # the two solutions of |share - end| = t x the standard error at the end
        assert abs(share - end) == pytest.approx(t * np.sqrt(end * (1 - end) / independent), rel=1e-6)


def test_views_of_a_patient_that_are_all_alike_count_as_one():
    right, patient = np.repeat([True, False], [21, 4]), np.arange(25)
    once = share_interval(right, patient)
    assert share_interval(np.repeat(right, 3), np.repeat(patient, 3)) == pytest.approx(once, abs=1e-12)


def test_patients_that_all_have_the_same_share_count_as_one_case_each():
    for right in ([True], [False], [True, False]):
        alike = share_interval(np.tile(right, 30), np.repeat(np.arange(30), len(right)))
        expected = share_interval_by_hand(np.mean(right), 30)
        assert alike == pytest.approx(expected, abs=1e-6)


def share_interval_by_hand(share, n, t=2.0452296421):  # t: 97.5 %, 29 degrees of freedom
    centre = share + t**2 / (2 * n)
    half = t * np.sqrt(share * (1 - share) / n + t**2 / (4 * n**2))
    return (centre - half) / (1 + t**2 / n), (centre + half) / (1 + t**2 / n)


def test_spread_of_views_over_patients_never_counts_for_more_cases_than_there_are():
    """Each patient has a right and a wrong view but for two: less variance than independent views have."""
    right = np.r_[np.tile([True, False], 28), True, True, False, False]
    assert share_interval(right, np.repeat(np.arange(30), 2)) == pytest.approx(share_interval_by_hand(0.5, 60))


def test_one_patient_gives_no_interval_and_nor_does_none():
    assert share_interval(np.array([True, False]), np.array(["p1", "p1"])) == (None, None)
    assert share_interval(np.array([], bool), np.array([], str)) == (None, None)


def test_each_rate_has_its_interval_from_the_patients_of_its_own_class():
    label = np.repeat([1, 0], [40, 60])
    probability = np.r_[np.repeat([0.9, 0.5], [30, 10]), np.repeat([0.5, 0.6], [55, 5])]
    patient = np.array([f"p{number}" for number in range(100)])
    ends = rate_intervals(label, probability, patient)
    of_abnormal = share_interval(probability[:40] > 0.5, patient[:40])
    of_normal = share_interval(probability[40:] <= 0.5, patient[40:])
    names = ("sensitivity_low", "sensitivity_high", "specificity_low", "specificity_high")
    expected = dict(zip(names, (*of_abnormal, *of_normal), strict=True))
    assert ends == expected
    assert ends["sensitivity_low"] < 0.75 < ends["sensitivity_high"]
    assert ends["specificity_low"] < 55 / 60 < ends["specificity_high"]


def test_a_summary_has_the_intervals_at_both_levels_and_for_every_group():
    table = several_extremities()
    for level, rows in (("image", table), ("study", study_table(table))):
        for name, group in summarise(table)[level].items():
            part = rows if name == "all" else rows[rows["extremity"] == name]
            expected = rate_intervals(part["label"], part["probability"], part["patient"])
            assert {key: group[key] for key in expected} == expected


def test_the_interval_holds_the_truth_in_about_95_of_100_clustered_samples():
    rng, held, samples = np.random.default_rng(0), 0, 1000
    for _ in range(samples):
        views = rng.integers(1, 6, 100)
        patient = np.repeat(np.arange(100), views)
        right = rng.random(len(patient)) < rng.beta(0.82 * 3, 0.18 * 3, 100)[patient]  # correlation 1/4 in a patient
        low, high = share_interval(right, patient)
        held += low <= 0.82 <= high
    assert 0.93 * samples <= held <= 0.97 * samples
