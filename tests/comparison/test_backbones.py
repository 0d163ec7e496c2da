"""Two models of one arm, compared as two arms of a model are: which pairs, which family, and what the records say."""

from itertools import product

import pytest
from run_folders import write_run, write_study

from mura.comparison.backbones import compare_backbones
from mura.comparison.collect import collect
from mura.comparison.pairs import make_arm_tables
from mura.comparison.verdict import compare, holm

MODELS = ("cnn2", "cnn4", "my-net")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study"), seeds=(0, 1), models=MODELS, patients=16)
    return make_arm_tables(collect([folder])[0])


@pytest.fixture(scope="module")
def compared(tables):
    return compare_backbones(tables, 200, margin=0.9)


def test_every_two_models_of_an_arm_are_compared_and_no_two_of_different_arms(compared):
    pairs = ["cnn2-cnn4", "cnn2-my-net", "cnn4-my-net"]
    assert [(each.main.comparison, each.main.model) for each in compared] == [
        (arm, names) for arm in ("unified", "specialised") for names in pairs
    ]
    assert all(r.level == "study" for each in compared for r in each.comparisons)
    assert all(r.seeds == 2 for each in compared for r in each.comparisons)


def test_the_numbers_are_those_of_two_arms_with_the_same_tables(tables, compared):
    [one] = [each for each in compared if (each.main.comparison, each.main.model) == ("unified", "cnn2-cnn4")]
    arms = {name: [t.test for t in tables if (t.model, t.arm) == (name, "unified")] for name in ("cnn2", "cnn4")}
    expected = {
        (r.extremity, r.metric): (r.difference, r.low, r.high, r.p)
        for r in compare(arms, "unified", 200, seeds={"cnn2": [0, 1], "cnn4": [0, 1]})
        if r.level == "study"
    }
    assert {(r.extremity, r.metric): (r.difference, r.low, r.high, r.p) for r in one.comparisons} == expected


def test_holm_corrects_the_verdicts_over_all_extremities_for_the_pairs_of_the_arm(compared):
    for arm in ("unified", "specialised"):
        mains = [each.main for each in compared if each.main.comparison == arm]
        expected = holm({main.model: main.p for main in mains})
        for main in mains:
            assert (main.p_holm, main.tests) == (expected[main.model], 3)
            assert main.low_simultaneous < main.low < main.high < main.high_simultaneous


def test_the_extremities_of_two_models_are_a_family_of_their_own(compared):
    [hand] = [record for record in compared[0].comparisons if (record.extremity, record.metric) == ("hand", "accuracy")]
    assert hand.tests == 7


def test_with_a_primary_model_only_the_pairs_with_it_are_compared_and_corrected_for(tables):
    compared = compare_backbones(tables, 100, primary="cnn4")
    assert [each.main.model for each in compared] == ["cnn4-cnn2", "cnn4-my-net"] * 2
    assert {each.main.tests for each in compared} == {2}
    assert compare_backbones(tables, 100, primary="resnet18") == []


def test_a_declared_margin_is_answered_for_models_too(compared):
    assert {each.main.equivalence for each in compared} == {"equivalent within 90 points"}


def test_on_rotated_folds_models_are_paired_by_seed_and_the_splits_are_told(tmp_path):
    arms = {model: [] for model in MODELS[:2]}
    for seed, model in product((0, 1, 2), arms):
        write_run(tmp_path / f"{model}-{seed}", ["elbow"], seed, model, fold=seed)
    tables = make_arm_tables(collect([tmp_path])[0])
    for table in tables:
        arms[table.model].append(table.test)
    [compared] = compare_backbones(tables, 200)
    [expected] = [
        record
        for record in compare(arms, "specialised", 200, folds={0: 0, 1: 1, 2: 2})
        if (record.extremity, record.level, record.metric) == ("elbow", "study", "accuracy")
    ]
    assert compared.main.scope == expected.scope == "the two approaches over 3 splits"
    assert (compared.main.low, compared.main.p) == (expected.low, expected.p)


def test_of_a_single_extremity_its_verdict_is_the_one_that_decides(tmp_path):
    for model in MODELS:
        for seed in (0, 1):
            write_run(tmp_path / model / f"wrist/seed{seed}", ["wrist"], seed, model, patients=16)
    compared = compare_backbones(make_arm_tables(collect([tmp_path])[0]), 100)
    assert [each.main.extremity for each in compared] == ["wrist"] * 3
    assert {each.main.tests for each in compared} == {3}


def test_one_model_has_nothing_to_be_compared_with(study_folder):
    assert compare_backbones(make_arm_tables(collect([study_folder])[0]), 50) == []
