"""A declared margin: which 90 % intervals make two arms equivalent, or one not worse, and what is never said."""

import pytest
from scipy import stats

from mura.comparison.equivalence import apply_margin
from mura.comparison.verdict import Comparison
from mura.errors import MuraError


def record(low_90=None, high_90=None, **values):
    plain = {
        "model": "m", "comparison": "unified-specialised", "extremity": "all", "level": "study", "metric": "accuracy",
        "a": 0.8, "b": 0.8, "difference": 0.0, "low": -0.05, "high": 0.05, "p": 0.5, "p_holm": 0.5,
        "verdict": "no difference shown", "smallest_detectable": 0.04, "n": 1199, "patients": 783, "seeds": 3,
        "scope": "the two approaches on this split", "low_90": low_90, "high_90": high_90,
    }  # fmt: skip
    return Comparison(**plain | values)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.029, 0.029, "equivalent within 3 points"),
        (-0.029, 0.031, "unified not worse by 3 points"),
        (-0.029, 0.2, "unified not worse by 3 points"),
        (-0.031, 0.01, None),
        (-0.03, 0.01, None),
        (-0.01, 0.03, "unified not worse by 3 points"),
        (None, None, None),
        (None, 0.01, None),
        (-0.01, None, None),
    ],
)
def test_the_interval_of_90_percent_decides_over_all_extremities(low, high, expected):
    [judged] = apply_margin([record(low, high)], 0.03)
    assert (judged.equivalence, judged.margin) == (expected, 0.03)
    assert judged.verdict == (expected or "no difference shown")


@pytest.mark.parametrize("error", [0.008, 0.0112, 0.0116, 0.02])
def test_it_is_two_one_sided_t_tests_at_5_percent(error):
    degrees, difference = 6.5, 0.008
    low, high = stats.t.interval(0.90, degrees, difference, error)
    p_low, p_high = stats.t.sf((difference + 0.03) / error, degrees), stats.t.cdf((difference - 0.03) / error, degrees)
    [judged] = apply_margin([record(low, high)], 0.03)
    assert (judged.equivalence == "equivalent within 3 points") == (max(p_low, p_high) < 0.05)


def test_a_verdict_for_an_arm_stays_and_the_answer_stands_beside_it():
    [judged] = apply_margin([record(-0.028, -0.002, verdict="specialised better")], 0.03)
    assert (judged.verdict, judged.equivalence) == ("specialised better", "equivalent within 3 points")


def test_an_arm_that_is_better_is_not_called_not_worse_too():
    [judged] = apply_margin([record(0.002, 0.08, verdict="unified better")], 0.03)
    assert (judged.verdict, judged.equivalence) == ("unified better", None)


def test_an_arm_with_a_hyphen_in_its_name_keeps_it():
    [judged] = apply_margin([record(-0.02, 0.08, comparison="union(without-wrist)-union(elbow+hand)")], 0.03)
    assert judged.equivalence == "union(without-wrist) not worse by 3 points"


def test_a_model_with_a_hyphen_in_its_name_keeps_it():
    [judged] = apply_margin([record(-0.02, 0.08, comparison="my-net-resnet18")], 0.03, first="my-net")
    assert judged.equivalence == "my-net not worse by 3 points"


def test_an_extremity_is_never_equivalent_and_says_when_the_test_set_is_too_small():
    wide, narrow = apply_margin([record(-0.04, 0.022, extremity="hand"), record(-0.01, 0.03, extremity="hand")], 0.03)
    assert (wide.equivalence, narrow.equivalence) == ("test set too small for a margin of 3 points", None)
    assert (wide.verdict, narrow.verdict) == ("no difference shown", "no difference shown")


def test_a_test_set_whose_half_width_is_the_margin_is_large_enough():
    [judged] = apply_margin([record(-0.25, 0.25, extremity="hand")], 0.25)
    assert judged.equivalence is None


def test_a_margin_of_a_hundredth_is_one_point():
    [judged] = apply_margin([record(-0.005, 0.005)], 0.01)
    assert judged.verdict == "equivalent within 1 point"


def test_arms_that_always_answer_alike_and_other_metrics_are_not_judged():
    dull = record(0.0, 0.0, why_not_detectable="a and b always give the same answer")
    kappa = record(0.0, 0.0, metric="kappa")
    assert [judged.equivalence for judged in apply_margin([dull, kappa], 0.03)] == [None, None]
    assert apply_margin([kappa], 0.03) == [kappa]


def test_a_record_is_a_family_of_its_own_unless_it_is_said():
    assert record().tests == 1


def test_without_a_margin_nothing_changes():
    assert apply_margin([record(-0.01, 0.01)], None) == [record(-0.01, 0.01)]


@pytest.mark.parametrize("margin", [0.0, -0.03, 1.0, 3.0])
def test_a_margin_that_is_no_difference_in_accuracy_is_refused(margin):
    with pytest.raises(MuraError, match="between 0 and 1"):
        apply_margin([], margin)
