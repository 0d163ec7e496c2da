"""The comparison of arms: against known values and independent libraries, and on what it must refuse."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from mura.comparison.bootstrap import COMPARED_METRICS
from mura.comparison.estimates import over_training_runs
from mura.comparison.pairs import Pair, pair_views
from mura.comparison.verdict import Agreement, Record, compare, count_agreement, holm, in_scope
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.metrics import summarise

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


def one(records, **wanted):
    [record] = [r for r in records if all(getattr(r, name) == value for name, value in wanted.items())]
    return record


# --- compare ------------------------------------------------------------------------------------------------


def test_records_have_both_levels_all_metrics_and_every_group_in_order(arms):
    records = compare(arms, "cnn2", resamples=200)
    assert [(r.level, r.metric, r.extremity) for r in records] == list(
        itertools.product(("image", "study"), COMPARED_METRICS, ("all", "elbow", "wrist"))
    )
    assert {(r.model, r.comparison, r.seeds, r.scope) for r in records} == {
        ("cnn2", "unified-specialised", 1, "these trained models")
    }
    rows = json.loads(json.dumps([r.to_dict() for r in records], allow_nan=False))
    assert [(row["verdict"], row["p"], row["tests"]) for row in rows] == [(r.verdict, r.p, r.tests) for r in records]


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


def test_as_many_mistakes_of_one_arm_as_of_the_other_have_a_p_of_one():
    # 5 against 1 of 6: twice the chance of 1 or fewer heads in 6 throws, 2 x 7 / 64
    assert Agreement("cnn2", "a-b", "all", "study", 0, 10, 4, 5, 1, 0).mcnemar_p == pytest.approx(0.21875)
    assert Agreement("cnn2", "a-b", "all", "study", 0, 10, 4, 3, 3, 0).mcnemar_p == 1.0
    assert Agreement("cnn2", "a-b", "all", "study", 0, 10, 10, 0, 0, 0).mcnemar_p == 1.0


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
    finetuned = [predicted(table, rng, 0.8) for _ in range(4)]
    arms, seeds = {"unified": unified, "finetuned": finetuned}, {"unified": [0, 1, 2, 3], "finetuned": [2, 0, 9, 1]}
    records = compare(arms, "cnn2", 200, seeds=seeds)
    common = {"unified": unified[:3], "finetuned": [finetuned[1], finetuned[3], finetuned[0]]}
    again = compare(common, "cnn2", 200)
    assert {(r.seeds, r.scope) for r in records} == {(3, "the two approaches on this split")}
    for one_way, other_way in zip(records, again, strict=True):
        assert (one_way.a, one_way.b, one_way.p) == pytest.approx((other_way.a, other_way.b, other_way.p))
    others = compare({"unified": common["unified"], "shared": common["finetuned"]}, "cnn2", 200)
    assert [r.low for r in others] != pytest.approx([r.low for r in again])


@pytest.mark.parametrize("common", [0, 1, 2])
def test_with_fewer_than_three_common_seeds_they_count_as_independent_and_the_scope_says_so(rng, common):
    table = views(rng)
    arms = {arm: [predicted(table, rng) for _ in range(3)] for arm in ("unified", "finetuned")}
    numbers = {"unified": [0, 1, 2], "finetuned": [*range(common), *range(10, 13 - common)]}
    records = compare(arms, "cnn2", 200, seeds=numbers)
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


@pytest.mark.parametrize(("seeds", "note"), [(1, ""), (2, ", their seeds counted as independent")])
def test_a_single_seed_has_no_note_on_independence_and_two_have(rng, seeds, note):
    table = views(rng)
    arms = {arm: [predicted(table, rng) for _ in range(seeds)] for arm in ("unified", "finetuned")}
    for common in range(min(seeds, 2)):  # fewer than three common seeds
        numbers = {"unified": list(range(seeds)), "finetuned": [*range(common), *range(10, 10 + seeds - common)]}
        records = compare(arms, "cnn2", 50, seeds=numbers)
        assert {r.scope for r in records} == {f"these trained models{note}"}


@pytest.mark.parametrize(
    ("extremities", "scope"), [(EXTREMITIES, "all"), (("elbow", "hand"), "elbow+hand"), (("hand",), None)]
)
def test_all_is_called_what_the_pair_has_and_is_left_out_for_one_extremity(extremities, scope):
    pair = Pair("cnn2", "a", "b", extremities, {})
    records = [Record("cnn2", "a-b", name, "study") for name in ("all", *extremities)]
    expected = [*([scope] if scope else []), *extremities]
    assert [record.extremity for record in in_scope(records, pair)] == expected


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


def test_no_interval_reaches_beyond_what_a_difference_can_be(rng):
    table = views(rng, patients=12)
    arms = {arm: [predicted(table, rng, skill) for skill in (0.1, 3.0)] for arm in ("unified", "specialised")}
    records = compare(arms, "cnn2", 200)
    assert min(r.low for r in records if r.metric == "accuracy" and r.low is not None) == -1.0
    assert min(r.low for r in records if r.metric == "kappa" and r.low is not None) < -1.0
    for r in records:
        ends = (r.low, r.high, r.low_90, r.high_90, r.low_simultaneous, r.high_simultaneous)
        largest = 2.0 if r.metric == "kappa" else 1.0
        assert all(end is None or abs(end) <= largest for end in ends)
