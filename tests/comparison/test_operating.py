"""Operating points: what was shifted or scaled is found back, and the test labels have no say in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from mura.comparison.bootstrap import patient_weights
from mura.comparison.collect import collect
from mura.comparison.equivalence import apply_margin
from mura.comparison.operating import (
    ONE_EACH,
    ONE_FOR_ALL,
    POINTS,
    RESAMPLES_AT_A_POINT,
    AtPoint,
    Fitted,
    Point,
    apply_values,
    bootstraps_at_points,
    compare_at_points,
    fit,
    fit_all,
    notes,
    notes_on_fits,
    operating_table,
    threshold_basis,
)
from mura.comparison.pairs import Pair, make_arm_tables, make_pairs, pair_views
from mura.comparison.summary import compare_pairs
from mura.comparison.verdict import PRIMARY, compare, in_scope
from mura.extremities import EXTREMITIES
from mura.metrics import REPORTED_METRICS, binary_metrics, summarise
from mura.report.write import write_report
from mura.runs.fitted import candidate_shifts, fit_temperature, fit_threshold

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


def test_a_threshold_of_two_patients_is_drawn_again_500_times_from_the_two(views: Views) -> None:
    """Where the normal one is drawn, the threshold must lie above its logit of 1; else 0.5 does."""
    table = views(2).assign(label=[0, 1], logit=[1.0, 2.0])
    normal_is_drawn = patient_weights(2, 500, np.random.default_rng(0))[0] > 0
    thresholds = np.where(normal_is_drawn, expit(1.5), 0.5)
    assert threshold_basis(table) == (pytest.approx(thresholds.std(ddof=1), rel=1e-12), 2)


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


def test_a_study_whose_mean_is_exactly_a_half_is_not_abnormal(views: Views) -> None:
    table = views(3).assign(label=[0, 0, 1], logit=[-1.0, 0.0, 2.0])
    assert fit_threshold(table) == 0.5  # with the mean of 0.5 called abnormal, only a higher one would be best
    assert fit_threshold(table.assign(label=[0, 1, 1])) == pytest.approx(expit(-0.5))


def test_of_two_hundred_candidates_or_fewer_none_is_left_out_and_of_more_some_evenly() -> None:
    for n in (2, 201):
        shifts = candidate_shifts(np.arange(n, dtype=float))
        assert sorted(shifts) == [0.0, *(np.arange(n - 1) + 0.5)]
    many = candidate_shifts(np.arange(1001, dtype=float))
    assert len(many) == 201
    assert set(many) <= {0.0, *(np.arange(1000) + 0.5)}
    kept = sorted(many)[1:]
    assert (kept[0], kept[-1]) == (0.5, 999.5)
    assert set(np.diff(kept)) <= {5.0, 6.0}
    assert sorted(candidate_shifts(np.arange(202, dtype=float)))[1:3] == [0.5, 1.5]


def test_candidates_lie_halfway_between_neighbours_the_nearest_to_zero_first() -> None:
    assert candidate_shifts(np.array([3.0, -1.0, 3.0, -2.0])).tolist() == [0.0, 1.0, -1.5]
    assert candidate_shifts(np.array([2.0])).tolist() == [0.0]


def test_a_threshold_is_found_among_more_than_two_hundred_candidates(views: Views) -> None:
    table = views(3000)
    shifted = table.assign(label=(table["logit"] > 1.7).astype(int))
    threshold = fit_threshold(shifted)
    assert threshold is not None
    assert logit(threshold) == pytest.approx(1.7, abs=0.1)


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
    assert fit_temperature(table) == pytest.approx(0.05, rel=1e-4)
    upside_down = table.assign(label=1 - table["label"])
    assert fit_temperature(upside_down) == pytest.approx(20, rel=1e-4)
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
    everywhere, shared = fit(validation[validation["label"] == 1], validation, Point("threshold", ONE_FOR_ALL))
    assert everywhere == {"wrist": None, "hand": None}
    assert shared["logit"].equals(validation["logit"])


@pytest.mark.parametrize(
    ("scope", "values", "said"),
    [
        (ONE_EACH, {"wrist": 0.4, "hand": None}, "hand alone (none, or not both classes); their predictions stay as "
         "they are where each extremity has its own fit."),
        (ONE_FOR_ALL, {"wrist": None, "hand": None}, "wrist, hand alone (none, or not both classes); their "
         "predictions stay as they are at every operating point."),
    ],
)  # fmt: skip
def test_the_note_on_a_fit_names_the_extremities_and_where_it_is_lacking(
    views: Views, scope: str, values: dict[str, float | None], said: str
) -> None:
    fitted = [Fitted("cnn4", "unified", seed, Point("threshold", scope), values, views(3)) for seed in (0, 1)]
    assert notes_on_fits(fitted) == [
        f"cnn4, unified: nothing can be fitted on the validation views of {said}"
    ]  # once for all seeds


def test_what_is_fitted_everywhere_or_needs_no_fit_has_no_note(views: Views) -> None:
    fixed, _ = fit(views(3), views(3), POINTS[0])
    assert fixed == {"wrist": None}
    tables = [Fitted("cnn4", "unified", 0, point, values, views(3)) for point, values in (
        (POINTS[0], fixed), (POINTS[1], {"wrist": 0.4}))]  # fmt: skip
    assert notes_on_fits(tables) == []


def test_every_point_is_described_by_what_is_fitted_for_whom() -> None:
    assert [point.description for point in POINTS] == [
        "threshold 0.5",
        "threshold fitted, one for all",
        "threshold fitted, one each",
        "temperature fitted, one for all",
        "temperature fitted, one each",
    ]


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


def the_pair(folder: Path) -> tuple[Pair, list[Fitted]]:
    runs, _ = collect([folder])
    tables = make_arm_tables(runs)
    [pair], _ = make_pairs(tables)
    return pair, fit_all(tables)


@pytest.fixture(params=["seven", "two", "one"])
def pair_and_fits(request: pytest.FixtureRequest, study_folder: Path) -> tuple[Pair, list[Fitted]]:
    """A unified and a specialised arm of two seeds, on all seven extremities, on two or on one."""
    if request.param == "seven":
        return the_pair(study_folder)
    write = request.getfixturevalue("run")
    names = ["elbow", "hand"] if request.param == "two" else ["hand"]
    for seed in (0, 1):
        folder = write(names, arm="unified", seed=seed).parent
        for name in names:
            write(name, seed=seed)
    return the_pair(folder)


def test_at_a_point_two_arms_are_compared_as_their_changed_predictions_would_be(
    pair_and_fits: tuple[Pair, list[Fitted]],
) -> None:
    pair, fitted = pair_and_fits
    pairing = pair_views(pair.tables(), pair.seeds)
    study = in_scope(apply_margin(compare(pair.tables(), "cnn4", 40), 0.02), pair)
    fixed = [r for group in pair.groups for r in study if (r.extremity, r.level, r.metric) == (group, *PRIMARY)]
    points = compare_at_points(pair, pairing, fixed, fitted, bootstraps_at_points(40))
    assert [at.point for at in points] == list(POINTS)
    assert points[0].records == fixed
    for at in points:
        moved = {
            arm: [
                apply_values(t.test, at.point.kind, fit(t.validation, t.test, at.point)[0])
                if at.point.kind != "fixed"
                else t.test
                for t in tables
            ]
            for arm, tables in pair.arms.items()
        }
        expected = in_scope(apply_margin(compare(moved, "cnn4", 40), 0.02), pair)
        assert at.records == [
            r for group in pair.groups for r in expected if (r.extremity, r.level, r.metric) == (group, *PRIMARY)
        ]
        assert at.main.extremity == pair.scope
        assert at.main.margin == 0.02
        views_of_arms = [[binary_metrics(t["label"], t["probability"]) for t in tables] for tables in moved.values()]
        for name, ours in (("brier", at.brier), ("ece", at.ece)):
            assert ours == pytest.approx([np.mean([one[name] for one in group]) for group in views_of_arms])


def test_a_point_tells_which_extremities_have_another_verdict_there(study_folder: Path) -> None:
    pair, fitted = the_pair(study_folder)
    fixed = compare_pairs([pair], fitted, 20)[0].points[0]
    records = [replace(record, verdict="another") for record in fixed.records[:2]] + fixed.records[2:]
    there = AtPoint(POINTS[1], [*records[:-1], replace(records[-1], verdict="of all")], fixed.brier, fixed.ece)
    assert there.other_verdicts(fixed) == ["elbow: another", "finger: another"]
    assert fixed.other_verdicts(fixed) == []


def test_no_point_is_compared_when_one_of_the_arms_lacks_a_fit(study_folder: Path) -> None:
    pair, fitted = the_pair(study_folder)
    arms = pair.tables()
    assert compare_pairs([pair], [], 20)[0].points == []
    fixed = compare_pairs([pair], fitted, 20)[0].points[0].records
    for lacking in (fitted[0], fitted[-1]):
        rest = [one for one in fitted if one is not lacking]
        assert compare_at_points(pair, pair_views(arms, pair.seeds), fixed, rest, bootstraps_at_points(20)) == []


def test_every_arm_and_seed_is_fitted_at_every_point(study_folder: Path) -> None:
    assert RESAMPLES_AT_A_POINT == 2_000
    _, fitted = the_pair(study_folder)
    assert len(fitted) == len(POINTS) * 4
    assert {(one.model, one.arm, one.seed, one.point) for one in fitted} == {
        ("cnn4", arm, seed, point) for arm in ("unified", "specialised") for seed in (0, 1) for point in POINTS
    }


def test_the_table_of_points_has_the_value_that_was_fitted_and_the_metrics_there(views: Views) -> None:
    test = pd.concat([views(30, "wrist"), views(20, "hand")], ignore_index=True)
    each = Fitted("cnn4", "unified", 3, Point("threshold", ONE_EACH), {"wrist": 0.3, "hand": 0.6}, test)
    shared = Fitted("cnn4", "unified", 3, Point("temperature", ONE_FOR_ALL), {"wrist": 2.0, "hand": 2.0}, test)
    fixed = Fitted("cnn4", "unified", 3, POINTS[0], {"wrist": None, "hand": None}, test)
    table = operating_table([each, shared, fixed])
    assert len(table) == 3 * 2 * 3 * len(REPORTED_METRICS)
    of = {key: part["fitted"].unique() for key, part in table.groupby(["point", "scope", "extremity"])}
    assert (of["threshold", "extremity", "wrist"], of["threshold", "extremity", "hand"]) == ([0.3], [0.6])
    assert all(of["temperature", "shared", name] == [2.0] for name in ("wrist", "hand", "all"))
    assert np.isnan([of["threshold", "extremity", "all"], of["fixed", "shared", "all"]]).all()
    for row in table.itertuples():
        group = summarise(test)[row.level][row.extremity]
        assert row.n == group["n"]
        assert row.value == pytest.approx(group[row.metric])
        assert (row.model, row.arm, row.seed) == ("cnn4", "unified", 3)


def test_an_arm_without_validation_views_has_no_points_and_the_reason_is_said(study_folder: Path) -> None:
    runs, _ = collect([study_folder])
    tables = make_arm_tables(runs)
    bare = [replace(table, validation=table.validation[:0]) for table in tables if table.arm == "unified"]
    assert fit_all(bare) == []
    assert notes(bare, []) == [
        "cnn4, unified: left out of the operating points, since its predictions hold no validation views."
    ]
    assert notes(tables, fit_all(tables)) == []


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
    assert (
        "cnn4, leave_one_out: left out of the operating points, since its models have no validation views of the "
        "extremity that they are tested on."
    ) in study.notes
