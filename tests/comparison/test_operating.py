"""Operating points: what was shifted or scaled is found back, and the test labels have no say in it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from mura.comparison.collect import collect
from mura.comparison.operating import (
    ONE_EACH,
    ONE_FOR_ALL,
    POINTS,
    Fitted,
    Point,
    apply_values,
    fit,
    fit_temperature,
    fit_threshold,
    notes_on_fits,
    threshold_basis,
)
from mura.comparison.pairs import make_arm_tables
from mura.extremities import EXTREMITIES
from mura.metrics import REPORTED_METRICS
from mura.report.write import write_report

Views = Callable[..., pd.DataFrame]


@pytest.fixture
def views() -> Views:
    """Views of one-view studies whose labels are drawn with the probability that the logits say."""

    def make(n: int, extremity: str = "wrist", shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        true = rng.normal(0, 2, n)
        label = (rng.random(n) < expit(true)).astype(int)
        told = scale * true + shift
        names = [f"patient{number}" for number in range(n)]
        table = pd.DataFrame({"split": "val", "extremity": extremity, "patient": names, "study": "study1"})
        return table.assign(view=1, label=label, logit=told, probability=expit(told))

    return make


def test_a_shift_of_the_logits_is_found_back_as_the_threshold(views: Views) -> None:
    plain, shifted = fit_threshold(views(2000)), fit_threshold(views(2000, shift=2.0))
    assert plain is not None
    assert shifted is not None
    assert logit(shifted) - logit(plain) == pytest.approx(2.0, abs=0.1)


def test_the_threshold_is_the_best_one_for_studies_and_nearest_to_a_half(views: Views) -> None:
    table = views(6).assign(label=[0, 0, 0, 1, 1, 1], logit=[-3.0, -2.0, 1.0, 2.0, 3.0, 4.0])
    assert fit_threshold(table) == pytest.approx(expit(1.5))
    easy = table.assign(logit=[-3.0, -2.0, -1.0, 2.0, 3.0, 4.0])
    assert fit_threshold(easy) == 0.5
    one_study = table.assign(study="study1", patient=["a", "a", "a", "b", "b", "b"])
    assert fit_threshold(one_study) == 0.5  # the means over the views, 0.2 and 0.9, lie on either side already


def test_the_standard_error_of_a_threshold_is_its_spread_over_refits_on_resampled_patients(views: Views) -> None:
    table = views(80, shift=0.7)
    basis = threshold_basis(table)
    rng = np.random.default_rng(5)
    by_patient = dict(list(table.groupby("patient")))
    refits = []
    for _ in range(300):
        drawn = [by_patient[name].assign(patient=str(k)) for k, name in enumerate(rng.choice(list(by_patient), 80))]
        refits.append(fit_threshold(pd.concat(drawn)))
    assert basis.studies == 80
    assert basis.error == pytest.approx(np.std([each for each in refits if each is not None], ddof=1), rel=0.2)
    assert threshold_basis(table) == basis  # the same each time


def test_more_patients_make_a_threshold_surer_and_more_views_of_the_same_ones_don_t(views: Views) -> None:
    few, many = views(60), views(4000)
    assert threshold_basis(many).error < 0.5 * threshold_basis(few).error
    doubled = pd.concat([few, few.assign(study="study2")])
    assert threshold_basis(doubled) == (pytest.approx(threshold_basis(few).error), 120)


def test_a_threshold_that_can_t_be_fitted_has_no_standard_error(views: Views) -> None:
    table = views(10)
    assert threshold_basis(table.assign(label=0)) == (None, 10)
    assert threshold_basis(table.assign(patient="p1", study=[f"study{number}" for number in range(10)])) == (None, 10)
    assert threshold_basis(table[:0]) == (None, 0)


def test_logits_three_times_too_large_have_a_temperature_of_three_times_as_much(views: Views) -> None:
    plain, hot = fit_temperature(views(4000)), fit_temperature(views(4000, scale=3.0))
    assert plain == pytest.approx(1.0, abs=0.1)
    assert hot == pytest.approx(3 * plain, rel=1e-3)


def test_the_temperature_is_that_of_a_logistic_regression_without_intercept(views: Views) -> None:
    table = views(500, scale=2.5)
    slope = LogisticRegression(fit_intercept=False, C=1e9).fit(table[["logit"]], table["label"]).coef_[0, 0]
    assert fit_temperature(table) == pytest.approx(1 / slope, rel=1e-3)


def test_separable_views_give_a_bounded_temperature_and_one_class_gives_none(views: Views) -> None:
    table = views(6).assign(label=[0, 0, 0, 1, 1, 1], logit=[-3.0, -2.0, -1.0, 2.0, 3.0, 4.0])
    assert fit_temperature(table) == pytest.approx(0.05, rel=0.05)
    assert fit_temperature(table.assign(label=1)) is None
    assert fit_threshold(table.assign(label=0)) is None
    assert fit_threshold(table[:0]) is None


def test_one_value_for_each_extremity_or_one_for_all(views: Views) -> None:
    both = pd.concat([views(800, "wrist", 2.0), views(800, "hand", -2.0)], ignore_index=True)
    each, moved = fit(both, both.assign(split="test"), Point("threshold", ONE_EACH))
    assert logit(each["wrist"]) == pytest.approx(2.0, abs=0.3)
    assert logit(each["hand"]) == pytest.approx(-2.0, abs=0.3)
    shared, _ = fit(both, both.assign(split="test"), Point("threshold", ONE_FOR_ALL))
    assert shared["wrist"] == shared["hand"]
    better = ((moved["probability"] > 0.5) == both["label"]).mean()
    assert better > ((both["probability"] > 0.5) == both["label"]).mean() + 0.05


def test_what_cannot_be_fitted_stays_as_it_is_and_is_said(views: Views) -> None:
    validation = pd.concat([views(50, "wrist"), views(50, "hand").assign(label=1)], ignore_index=True)
    point = Point("threshold", ONE_EACH)
    values, moved = fit(validation, validation, point)
    assert values["hand"] is None
    hand = moved["extremity"] == "hand"
    assert (moved.loc[hand, "logit"] == validation.loc[hand, "logit"]).all()
    [note] = notes_on_fits([Fitted("cnn4", "unified", 0, point, values, moved)])
    assert "cnn4, unified" in note
    assert "hand" in note
    assert "wrist" not in note


def test_a_view_above_the_threshold_is_called_abnormal_after_the_change(views: Views) -> None:
    table = views(300)
    moved = apply_values(table, "threshold", {"wrist": 0.3})
    assert ((moved["probability"] > 0.5) == (table["probability"] > 0.3)).all()
    assert (apply_values(table, "temperature", {"wrist": 2.0})["logit"] == table["logit"] / 2).all()


def test_the_test_labels_change_no_fitted_value(study_folder: Path) -> None:
    runs, _ = collect([study_folder])
    for table in make_arm_tables(runs)[:3]:
        flipped = table.test.assign(label=1 - table.test["label"])
        for point in POINTS:
            assert fit(table.validation, table.test, point)[0] == fit(table.validation, flipped, point)[0]


def test_the_report_has_every_arm_at_every_point(study_folder: Path, tmp_path: Path) -> None:
    study = write_report([study_folder], tmp_path, 200)
    table = pd.read_csv(tmp_path / "operating_points.csv")
    assert set(zip(table["point"], table["scope"], strict=True)) == {(p.kind, p.scope) for p in POINTS}
    fixed = table[(table["point"] == "fixed") & (table["extremity"] == "all")]
    results = pd.read_csv(tmp_path / "results.csv")
    key = ["arm", "seed", "level", "metric"]
    both = fixed.merge(results[results["extremity"] == "all"], on=key, suffixes=("", "_result"))
    assert len(both) == 2 * 2 * 2 * len(REPORTED_METRICS)
    np.testing.assert_allclose(both["value"], both["value_result"], rtol=1e-9)
    [compared] = study.pairs
    points = compared.points
    assert [at.point for at in points] == list(POINTS)
    page = (tmp_path / "index.html").read_text()
    each = table[(table["point"] == "threshold") & (table["scope"] == "extremity")]
    assert each[each["extremity"] != "all"]["fitted_error"].between(0, 0.5).all()
    assert set(each[each["extremity"] == "wrist"]["fitted_studies"]) == {24}
    assert table[table["point"] != "threshold"][["fitted_error", "fitted_studies"]].isna().all(axis=None)
    errors = each[(each["arm"] == "unified") & (each["extremity"] != "all")]["fitted_error"]
    sentence = f"Threshold fitted, one each: its standard error is {errors.min():.2f} to {errors.max():.2f} for unified"
    for text in (page, (tmp_path / "results.md").read_text()):
        assert sentence in text
        assert "(24 validation studies); fitted on few studies, it is partly noise." in text
        assert "Threshold fitted, one for all: its standard error is" in text
    for at in points:
        assert at.point.description in page
        assert [r.extremity for r in at.records] == [*EXTREMITIES, "all"]
    tempered = table[(table["point"] == "temperature") & (table["scope"] == "shared")]
    assert tempered.groupby(["arm", "seed"])["fitted"].nunique().eq(1).all()


def test_leave_one_out_is_left_out_of_the_operating_points_and_that_is_said(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    run(EXTREMITIES)
    for name in EXTREMITIES:
        run(name, arm="leave_one_out")
    study = write_report([tmp_path / "runs"], tmp_path / "out", 50)
    [compared] = study.pairs
    assert compared.points == []
    assert any("leave_one_out: left out of the operating points" in note for note in study.notes)
