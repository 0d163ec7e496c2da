"""Arms are put together from runs and paired without silence; their views are paired row by row."""

import shutil

import numpy as np
import pandas as pd
import pytest

from mura.comparison.collect import collect
from mura.comparison.pairs import ROUTED, check_arms, make_arm_tables, make_backbone_pairs, make_pairs, pair_views
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.metrics import STUDY_KEY, VIEW_KEY, study_table


def gathered(*directories):
    runs, _ = collect(list(directories))
    tables = make_arm_tables(runs)
    return runs, tables, *make_pairs(tables)


def test_specialised_predictions_are_routed_from_each_extremity_s_own_run(study_folder):
    runs, tables, _, _ = gathered(study_folder)
    routed = next(t for t in tables if t.arm == "specialised" and t.seed == 1)
    assert routed.extremities == EXTREMITIES
    assert routed.data_of(EXTREMITIES) == ROUTED
    for extremity in EXTREMITIES:
        [own] = [r for r in runs if (r.data, r.seed) == (extremity, 1)]
        ours, theirs = (t.set_index(VIEW_KEY)["probability"] for t in (routed.views_of([extremity]), own.test))
        assert (ours.sort_index() == theirs.sort_index()).all()
        assert routed.data_of([extremity]) == extremity


def test_a_whole_study_is_one_pair_over_all_seven(study_folder):
    _, _, [pair], notes = gathered(study_folder)
    assert (pair.a, pair.b, pair.scope, pair.notes, notes) == ("unified", "specialised", "all", [], [])
    assert {arm: [t.seed for t in tables] for arm, tables in pair.arms.items()} == {
        "unified": [0, 1],
        "specialised": [0, 1],
    }


def test_only_what_both_arms_have_is_compared_and_the_rest_is_named(run, tmp_path):
    run(EXTREMITIES)
    run("finger")
    run("wrist")
    _, _, [pair], _ = gathered(tmp_path / "runs")
    assert pair.scope == "finger+wrist"
    assert len(pair.notes) == 5
    assert "elbow is left out of the comparison of unified and specialised, since specialised has no" in pair.notes[0]


def test_a_seed_that_lacks_an_extremity_is_left_out_by_name(study_folder, tmp_path):
    copy = shutil.copytree(study_folder, tmp_path / "copy")
    (copy / "cnn4" / "hand" / "seed1" / "metrics.json").unlink()
    _, _, [pair], _ = gathered(copy)
    assert pair.scope == "all"
    assert [len(tables) for tables in pair.arms.values()] == [2, 1]
    assert pair.notes == [
        "cnn4: seed 1 of specialised is left out of the comparison of unified and specialised: it lacks hand."
    ]


def test_a_unified_arm_on_a_subset_is_compared_over_that_subset(run, tmp_path):
    run(["elbow", "hand"], arm="unified")
    run("elbow")
    run("hand")
    _, _, [pair], notes = gathered(tmp_path / "runs")
    assert (pair.scope, pair.notes, notes) == ("elbow+hand", [], [])


def test_arms_that_can_t_be_compared_are_said_to_be_so(run, tmp_path):
    run("elbow")
    assert "only the arm specialised" in gathered(tmp_path / "runs")[3][0]
    run("hand", arm="finetuned")
    assert "share no extremity" in gathered(tmp_path / "runs")[3][0]


def test_all_arms_are_paired_in_a_fixed_order(run, tmp_path):
    for arm in ("union", "finetuned", "specialised", "shared", "unified"):
        run(["elbow", "hand"], arm=arm)
    _, _, found, _ = gathered(tmp_path / "runs")
    assert [pair.a for pair in found][:4] == ["unified"] * 4
    assert [pair.b for pair in found][:4] == ["specialised", "shared", "finetuned", "union(elbow+hand)"]


def test_views_and_studies_are_paired_row_by_row_in_whatever_order_the_tables_are(study_folder):
    _, _, [pair], _ = gathered(study_folder)
    tables = pair.tables()
    seeds = iter(range(4))  # another order for each table
    shuffled = {arm: [t.sample(frac=1, random_state=next(seeds)) for t in group] for arm, group in tables.items()}
    for arms in (tables, shuffled):
        levels = pair_views(arms).levels(arms)
        everyone = [table for group in arms.values() for table in group]
        for level, key, expected in (
            ("image", VIEW_KEY, everyone),
            ("study", STUDY_KEY, [study_table(table) for table in everyone]),
        ):
            paired = levels[level]
            for table, probability in zip(expected, paired.probability, strict=True):
                theirs = table.set_index(key).loc[list(paired.rows[key].itertuples(index=False, name=None))]
                assert probability == pytest.approx(theirs["probability"].to_numpy(), abs=1e-15)
                assert (theirs["label"].to_numpy() == paired.rows["label"].to_numpy()).all()
        assert levels["image"].models == {"unified": [0, 1], "specialised": [2, 3]}


def test_the_rows_of_a_pairing_have_the_columns_of_the_tables(study_folder):
    _, _, [pair], _ = gathered(study_folder)
    tables = pair.tables()
    pairing = pair_views(tables)
    assert list(pairing.views.columns) == list(tables["unified"][0].columns)
    assert list(pairing.views.index) == list(range(len(pairing.views)))


def test_the_rows_of_a_report_are_the_extremities_and_all_of_several_together(run, tmp_path, study_folder):
    _, _, [seven], _ = gathered(study_folder)
    assert seven.groups == [*EXTREMITIES, "all"]
    run(["elbow", "hand"], arm="unified")
    run("elbow")
    assert gathered(tmp_path / "runs")[2][0].groups == ["elbow"]
    run("hand")
    [two] = gathered(tmp_path / "runs")[2]
    assert two.groups == ["elbow", "hand", "elbow+hand"]
    assert two.name == "unified-specialised"


def test_seeds_are_named_by_arm_and_the_common_ones_together(run, tmp_path):
    for arm, seeds in (("unified", (3, 0, 7)), ("shared", (7, 5, 3))):
        for seed in seeds:
            run(["elbow", "hand"], arm=arm, seed=seed)
    [pair] = gathered(tmp_path / "runs")[2]
    assert pair.seeds == {"unified": [0, 3, 7], "shared": [3, 5, 7]}
    assert pair.common_seeds == [3, 7]


def test_validation_views_come_from_the_run_that_answers_for_the_extremity(study_folder):
    runs, tables, _, _ = gathered(study_folder)
    for arm in ("unified", "specialised"):
        routed = next(t for t in tables if (t.arm, t.seed) == (arm, 1))
        ours = routed.validation_of(["hand", "wrist"])
        [*owners] = [r for r in runs if r.arm == arm and r.seed == 1]
        theirs = pd.concat([r.validation for r in owners])
        theirs = theirs[theirs["extremity"].isin(["hand", "wrist"])]
        assert list(ours.index) == list(range(len(theirs)))
        assert sorted(ours["path"]) == sorted(theirs["path"])
        assert set(ours["split"]) == {"val"}
        assert len(routed.validation_of(["hand"])) < len(ours)
        assert list(routed.validation_of([]).columns) == list(ours.columns)


def test_an_arm_table_numbers_its_views_and_knows_its_studies(study_folder):
    _, tables, _, _ = gathered(study_folder)
    for table in tables:
        assert list(table.test.index) == list(range(len(table.test)))
        assert table.studies["views"].sum() == len(table.test)


def test_an_extremity_that_no_seed_has_together_with_the_others_is_named_so(run, tmp_path):
    run(["elbow", "hand"], arm="unified")
    run(["elbow"], arm="shared")
    run(["hand"], arm="shared", seed=1)
    [pair] = gathered(tmp_path / "runs")[2]
    [left] = {"elbow", "hand"} - set(pair.extremities)
    why = "since no seed has it together with the others"
    assert f"cnn4: {left} is left out of the comparison of unified and shared, {why}." in pair.notes


def test_a_comparison_takes_two_arms_of_one_view_or_more(study_folder):
    _, _, [pair], _ = gathered(study_folder)
    single = {arm: [t.iloc[:1] for t in group] for arm, group in pair.tables().items()}
    check_arms(single)
    for broken, message in (
        ({"unified": single["unified"]}, "there are none of a second one"),
        (single | {"specialised": []}, "there are none of specialised"),
        (
            single | {"specialised": [single["specialised"][0].iloc[:0]]},
            r"no predictions in specialised \(table 1 of 1",
        ),
        (single | {"specialised": [pair.tables()["specialised"][0]]}, r"unified \(table 1 of 2\)"),
    ):
        with pytest.raises(MuraError, match=message):
            check_arms(broken)


def test_a_pairing_serves_other_probabilities_of_the_same_views(study_folder):
    _, _, [pair], _ = gathered(study_folder)
    tables = pair.tables()
    pairing = pair_views(tables)
    halved = {arm: [t.assign(probability=t["probability"] / 2) for t in group] for arm, group in tables.items()}
    for level, paired in pairing.levels(halved).items():
        np.testing.assert_allclose(2 * paired.probability, pairing.levels(tables)[level].probability)
        assert list(paired.cases) == ["all", *EXTREMITIES]


def test_arms_on_rotated_folds_are_compared_on_their_common_seeds_alone(run, tmp_path):
    for seed in (0, 1, 7):
        run(["elbow", "hand"], seed=seed, arm="unified", fold=seed % 5)
        run("elbow", seed=seed, fold=seed % 5)
        if seed < 7:
            run("hand", seed=seed, fold=seed % 5)
    run(["elbow", "hand"], seed=3, arm="unified", fold=3)
    _, _, [pair], _ = gathered(tmp_path / "runs")
    assert pair.extremities == ("elbow", "hand")
    assert pair.seeds == {"unified": [0, 1], "specialised": [0, 1]}
    assert (pair.folds, pair.splits) == ({0: 0, 1: 1}, 2)
    about = "is left out of the comparison of unified and specialised"
    assert pair.notes == [
        f"cnn4: seed 3 of unified {about}: the other arm has no run on its fold.",
        f"cnn4: seed 7 of unified {about}: the other arm has no run on its fold.",
        f"cnn4: seed 7 of specialised {about}: it lacks hand.",
    ]


def test_on_a_fixed_fold_every_seed_counts_and_there_is_one_split(run, tmp_path):
    for seed in (0, 1, 2):
        run("elbow", seed=seed, arm="unified", fold=3)
    run("elbow", seed=0, fold=3)
    _, _, [pair], _ = gathered(tmp_path / "runs")
    assert pair.seeds == {"unified": [0, 1, 2], "specialised": [0]}
    assert pair.splits == 1


def test_arms_without_a_common_seed_on_different_folds_are_not_compared(run, tmp_path):
    run("elbow", seed=0, arm="unified", fold=0)
    run("elbow", seed=1, fold=1)
    _, _, pairs, notes = gathered(tmp_path / "runs")
    assert pairs == []
    assert notes == ["cnn4: unified and specialised share no seed, and their folds differ, so they can't be compared."]


def test_fewer_extremities_with_a_common_seed_come_before_more_without_one(run, tmp_path):
    run(["elbow", "hand"], seed=0, arm="unified", fold=0)
    run("elbow", seed=1, arm="unified", fold=1)
    run(["elbow", "hand"], seed=1, arm="shared", fold=1)
    _, _, [pair], _ = gathered(tmp_path / "runs")
    assert (pair.extremities, pair.seeds) == (("elbow",), {"unified": [1], "shared": [1]})


def test_every_two_models_of_an_arm_are_a_pair_or_each_with_the_primary_first(run, tmp_path):
    for model in ("cnn2", "cnn4", "resnet18"):
        run("elbow", model=model)
    run("elbow", model="cnn2", arm="unified")  # alone in its arm
    _, tables, _, _ = gathered(tmp_path / "runs")

    def pairs(primary):
        return [(pair.model, pair.a, pair.b) for pair in make_backbone_pairs(tables, primary)]

    arm = "specialised"
    assert pairs(None) == [(arm, "cnn2", "cnn4"), (arm, "cnn2", "resnet18"), (arm, "cnn4", "resnet18")]
    assert pairs("cnn4") == [(arm, "cnn4", "cnn2"), (arm, "cnn4", "resnet18")]
