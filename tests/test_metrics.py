"""The metrics equal scikit-learn's where they are defined, and say None where they are not."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mura.errors import MuraError
from mura.metrics import binary_metrics, roc_curve, study_table, summarise

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
    assert {name for name, value in ours.items() if value is None} == set(ours) - set(expected) - {
        "n",
        "abnormal",
        "ece",
    }
    json.dumps(ours, allow_nan=False)


@given(CASES.filter(lambda cases: 0 < sum(label for label, _ in cases) < len(cases)))
def test_the_roc_curve_is_scikit_learns(cases):
    label, probability = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    false_positive, true_positive, _ = sk.roc_curve(label, probability, drop_intermediate=False)
    ours = roc_curve(label.astype(bool), probability)
    np.testing.assert_allclose(ours[0], false_positive)
    np.testing.assert_allclose(ours[1], true_positive)


@given(CASES)
def test_calibration_error_is_the_weighted_distance_in_fifteen_bins(cases):
    label, probability = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    which = np.minimum(np.floor(probability * 15), 14)
    by_hand = sum(
        (which == one).mean() * abs(probability[which == one].mean() - label[which == one].mean())
        for one in np.unique(which)
    )
    assert binary_metrics(label, probability)["ece"] == pytest.approx(by_hand, abs=1e-9)


def test_an_empty_group_has_counts_and_nothing_else():
    empty = binary_metrics([], [])
    assert (empty.pop("n"), empty.pop("abnormal")) == (0, 0)
    assert set(empty.values()) == {None}


@pytest.mark.parametrize(
    ("label", "undefined"), [(0, {"kappa", "auroc", "sensitivity", "f1"}), (1, {"kappa", "auroc", "specificity"})]
)
def test_one_class_only_leaves_undefined_what_needs_both(label, undefined):
    ours = binary_metrics([label] * 3, [0.1, 0.6, 0.9])
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


def test_a_study_with_two_labels_is_refused_by_name():
    mixed = predictions(("wrist", "p1", "study1", 1, 1, 0.2), ("wrist", "p1", "study1", 2, 0, 0.9))
    with pytest.raises(MuraError, match="wrist/p1/study1"):
        study_table(mixed)


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
