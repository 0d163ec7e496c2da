"""What stands beside a verdict: in which cases, and in which words."""

import pandas as pd
import pytest
import yaml
from run_folders import write_run, write_study

from mura.comparison.collect import collect
from mura.comparison.pairs import make_arm_tables, make_pairs
from mura.comparison.warnings import (
    describe_changed_margin,
    describe_changed_primary,
    describe_extension,
    warnings_beside,
)
from mura.runs.folder import RunFolder
from mura.study.plan import note_plan


def pair_of(folder):
    [pair], _ = make_pairs(make_arm_tables(collect([folder])[0]))
    return pair


def test_a_study_extended_by_seeds_says_so(tmp_path):
    write_study(tmp_path / "study", seeds=(0, 1, 2), patients=8)
    assert describe_extension(pair_of(tmp_path)) is None
    note_plan(tmp_path / "study", [0, 1, 2])
    write_study(tmp_path / "study", seeds=(3, 4), patients=8)
    assert describe_extension(pair_of(tmp_path)).startswith("Planned with 3 seeds, extended to 5 after a look: ")


def test_runs_of_no_study_and_seeds_that_were_planned_say_nothing(tmp_path):
    write_study(tmp_path / "study", seeds=(0,), patients=8)
    assert describe_extension(pair_of(tmp_path)) is None
    note_plan(tmp_path / "study", [0, 1, 2])
    assert describe_extension(pair_of(tmp_path)) is None


@pytest.mark.parametrize(("noted", "used", "words"), [
    (0.03, 0.03, None), (0.03, None, None), (None, None, None),
    (0.03, 0.05, "(at the first start 3 points, now 5 points)"),
    (None, 0.01, "(at the first start none, now 1 point)"),
])  # fmt: skip
def test_a_margin_that_was_changed_after_the_first_start_is_said(tmp_path, noted, used, words):
    (tmp_path / "study").mkdir()
    note_plan(tmp_path / "study", [0], noted)
    write_study(tmp_path / "study", patients=8)
    said = describe_changed_margin(pair_of(tmp_path), used)
    assert said is None if words is None else said.startswith(f"The margin was changed after a look {words}: ")


@pytest.mark.parametrize(("noted", "used", "words"), [
    ("cnn4", "cnn4", None), ("cnn4", None, None), (None, None, None),
    ("cnn4", "cnn2", "(at the first start cnn4, now cnn2)"), (None, "cnn2", "(at the first start none, now cnn2)"),
])  # fmt: skip
def test_a_primary_model_that_was_changed_after_the_first_start_is_said(tmp_path, noted, used, words):
    (tmp_path / "study").mkdir()
    note_plan(tmp_path / "study", [0], primary=noted)
    write_study(tmp_path / "study", patients=8)
    said = describe_changed_primary(pair_of(tmp_path), used)
    assert said == (words and f"The primary model was changed after a look {words}.")


def test_of_a_study_that_noted_no_margin_nothing_is_known(tmp_path):
    write_study(tmp_path / "study", patients=8)
    assert describe_changed_margin(pair_of(tmp_path), 0.03) is None
    note_plan(tmp_path / "study", [0], 0.05)  # begun before it was noted
    assert describe_changed_margin(pair_of(tmp_path), 0.03) is None


def test_two_arms_trained_alike_need_no_warning(study_folder):
    assert warnings_beside(pair_of(study_folder)) == []


def write_arms(folder, specialised=("elbow", "hand"), unified=("elbow", "hand"), **about):
    """Write a unified run with 1,680 steps, and specialised ones with what `about` says of each."""
    write_run(folder / "cnn4/unified/seed0", unified, arm="unified", steps=1680)
    for name in specialised:
        write_run(folder / "cnn4" / name / "seed0", [name], **{"steps": 1680} | about.get(name, {}))


def test_steps_are_compared_run_by_run_and_up_to_one_and_a_half_times_pass(tmp_path):
    write_arms(tmp_path, elbow={"steps": 270}, hand={"steps": 1120})
    assert warnings_beside(pair_of(tmp_path)) == [
        "Optimiser steps differ more than 1.5 times between 1 of 1 unified run (1,680) and 1 of 2 specialised runs "
        "(270): longer training alone may decide (budget=steps trains all runs equally long)."
    ]


def test_the_steps_of_several_runs_are_told_in_one_line_as_a_range(tmp_path):
    write_arms(tmp_path, elbow={"steps": 270}, hand={"steps": 1119})
    [warning] = warnings_beside(pair_of(tmp_path))
    assert "2 of 2 specialised runs (270 to 1,119)" in warning


def test_steps_are_compared_within_a_seed_where_arms_share_seeds_and_else_between_all(tmp_path):
    for seed, steps in ((0, 1000), (1, 100)):
        write_run(tmp_path / f"shared/unified/seed{seed}", ["elbow"], seed, arm="unified", steps=steps)
        write_run(tmp_path / f"shared/elbow/seed{seed}", ["elbow"], seed, steps=steps)
    assert warnings_beside(pair_of(tmp_path / "shared")) == []
    write_run(tmp_path / "apart/unified/seed0", ["elbow"], 0, arm="unified", steps=1000)
    write_run(tmp_path / "apart/elbow/seed1", ["elbow"], 1, steps=1)
    [warning] = warnings_beside(pair_of(tmp_path / "apart"))
    assert "between 1 of 1 unified run (1,000) and 1 of 1 specialised run (1): " in warning


def test_runs_that_counted_no_steps_are_not_compared(tmp_path):
    write_arms(tmp_path, elbow={"steps": None}, hand={"steps": None})
    assert warnings_beside(pair_of(tmp_path)) == []


@pytest.mark.parametrize("moved", [False, True])
def test_the_steps_of_a_finetuned_run_include_its_parents_wherever_the_study_lies_now(tmp_path, moved):
    study = tmp_path / "study"
    write_arms(study)
    parent = study / "cnn4/unified/seed0"
    for name in ("elbow", "hand"):
        tuned = write_run(study / f"cnn4/finetuned-{name}/seed0", [name], arm="finetuned", steps=20)
        weights = RunFolder(tmp_path / "before" / "unified" / "seed0" if moved else parent).best_checkpoint
        config = yaml.safe_load((tuned / "config.yaml").read_text())
        (tuned / "config.yaml").write_text(yaml.safe_dump(config | {"model": {"weights": str(weights)}}))
    runs, _ = collect([study])
    assert {run.steps_in_all for run in runs if run.arm == "finetuned"} == {1700}
    pairs, _ = make_pairs(make_arm_tables(runs))
    assert {pair.name: warnings_beside(pair) for pair in pairs} == {
        "unified-specialised": [], "unified-finetuned": [], "specialised-finetuned": [],
    }  # fmt: skip


@pytest.mark.parametrize(("best", "stopped_by", "warned"), [
    (19, "max_epochs", True), (18, "max_epochs", True), (17, "max_epochs", False), (19, "early_stopping", False),
])  # fmt: skip
def test_a_run_that_was_still_improving_at_the_last_epoch_is_named(tmp_path, best, stopped_by, warned):
    write_arms(tmp_path, hand={"best_epoch": best, "epochs": 20, "stopped_by": stopped_by})
    expected = (
        "1 of 3 runs (hand, seed 0) ended at max_epochs with the best epoch among the last tenth: longer training may "
        "still help."
    )
    assert warnings_beside(pair_of(tmp_path)) == ([expected] if warned else [])


def test_a_run_that_was_best_after_the_first_of_several_epochs_is_named(tmp_path):
    write_arms(tmp_path, elbow={"best_epoch": 0})
    assert warnings_beside(pair_of(tmp_path)) == [
        "1 of 3 runs (elbow, seed 0) had the best epoch first: hardly trained, and then only worse."
    ]


def test_the_best_epoch_is_the_first_of_two_or_more(tmp_path):
    one, two = ({"best_epoch": 0, "epochs": epochs, "stopped_by": "max_steps"} for epochs in (1, 2))
    write_arms(tmp_path, elbow=one, hand=two)
    [warning] = warnings_beside(pair_of(tmp_path))
    assert warning.startswith("1 of 3 runs (hand, seed 0) had the best epoch first: ")


def test_three_runs_are_named_and_four_are_not(tmp_path):
    names = ("elbow", "finger", "hand", "wrist")
    for folder, count in ((tmp_path / "three", 3), (tmp_path / "four", 4)):
        write_arms(folder, names, names, **{name: {"best_epoch": 0} for name in names[:count]})
    [three], [four] = (warnings_beside(pair_of(tmp_path / folder)) for folder in ("three", "four"))
    assert three.startswith("3 of 5 runs (elbow, seed 0; finger, seed 0; hand, seed 0) had the best epoch first: ")
    assert four.startswith("4 of 5 runs had the best epoch first: ")


def test_many_runs_are_counted_and_not_named(tmp_path):
    write_study(tmp_path, best_epoch=4, epochs=5, stopped_by="max_epochs", patients=8)
    [warning] = warnings_beside(pair_of(tmp_path))
    assert warning.startswith("8 of 8 runs ended at max_epochs")


def answer(file, probability, extremity):
    """Let a run give one probability to all test views of an extremity."""
    table = pd.read_csv(file)
    table.loc[(table["split"] == "test") & (table["extremity"] == extremity), "probability"] = probability
    table.to_csv(file, index=False)


def test_a_model_that_calls_every_test_view_alike_is_named_with_its_answer(tmp_path):
    write_study(tmp_path, seeds=(0, 1), patients=8)
    answer(tmp_path / "cnn4/hand/seed1/predictions.csv", 0.9, "hand")
    answer(tmp_path / "cnn4/unified/seed0/predictions.csv", 0.5, "wrist")  # the threshold itself is normal
    answer(tmp_path / "cnn4/unified/seed1/predictions.csv", 0.1, "wrist")
    assert warnings_beside(pair_of(tmp_path)) == [
        "Every test view is called alike by unified on wrist (normal, 2 of 2 seeds); specialised on hand (abnormal, "
        "1 of 2 seeds): by image, the kappa of such a model is 0."
    ]


def test_of_a_single_seed_no_number_is_told(tmp_path):
    write_arms(tmp_path)
    answer(tmp_path / "cnn4/hand/seed0/predictions.csv", 0.9, "hand")
    [warning] = warnings_beside(pair_of(tmp_path))
    assert warning.startswith("Every test view is called alike by specialised on hand (abnormal): ")


def test_views_of_one_class_may_be_called_alike(tmp_path):
    write_study(tmp_path, patients=8)
    for file in (tmp_path / "cnn4").rglob("predictions.csv"):
        table = pd.read_csv(file)
        table.loc[table["extremity"] == "hand", "label"] = 1
        table.to_csv(file, index=False)
        answer(file, 0.9, "hand")
    assert warnings_beside(pair_of(tmp_path)) == []


def test_runs_of_extremities_that_are_not_compared_count_for_nothing(tmp_path):
    write_arms(tmp_path, specialised=("elbow", "hand"), unified=("hand", "wrist"), elbow={"steps": 1, "best_epoch": 0})
    assert warnings_beside(pair_of(tmp_path)) == []


def test_steps_of_different_extremities_are_not_compared(tmp_path):
    for arm in ("specialised", "finetuned"):
        for name, steps in (("elbow", 1000), ("hand", 100)):
            write_run(tmp_path / arm / name, [name], 0, arm=arm, steps=steps)
    assert warnings_beside(pair_of(tmp_path)) == []
