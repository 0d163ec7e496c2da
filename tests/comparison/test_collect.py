"""Run folders are found, read, and refused when they can't stand together."""

import json
import os

import pandas as pd
import pytest
import yaml

from mura.comparison.collect import (
    check_transfer,
    collect,
    declared,
    find_runs,
    is_synthetic,
    read_history,
    read_run,
    recipe_notes,
)
from mura.comparison.summary import summarise_study
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.runs.folder import RunFolder


@pytest.fixture
def refused(tmp_path):
    """What `collect` says when it refuses the runs below the test's folder."""

    def words() -> str:
        with pytest.raises(MuraError) as error:
            collect([tmp_path / "runs"])
        assert "\n" not in str(error.value)
        return str(error.value)

    return words


def test_every_run_is_found_once_whichever_folders_are_named(study_folder):
    finished, unfinished = find_runs([study_folder, study_folder / "cnn4", study_folder / "cnn4" / "wrist" / "seed0"])
    assert len(finished) == 16
    assert not unfinished


def test_a_run_without_metrics_is_listed_as_unfinished_with_its_last_words(run, tmp_path):
    run("wrist")
    half = tmp_path / "runs" / "half"
    (half / "wandb" / "run-1" / "files").mkdir(parents=True)
    (half / ".hydra").mkdir()
    for place in (half, half / ".hydra", half / "wandb" / "run-1" / "files"):
        (place / "config.yaml").write_text("seed: 0\n")
    (half / "train.log").write_text("epoch 2\nepoch 3\nout of memory\n\n")
    (half / "srun.log").write_text("started\n")
    os.utime(half / "srun.log", (1, 1))  # the newest log has the last words
    for hidden in (".trash", "wandb"):
        (tmp_path / "runs" / hidden / "run").mkdir(parents=True)
        (tmp_path / "runs" / hidden / "run" / "config.yaml").write_text("seed: 0\n")
    runs, unfinished = collect([tmp_path / "runs"])
    assert len(runs) == 1
    assert [(u.folder.path, u.last_words) for u in unfinished] == [(half, "out of memory")]
    for log in half.glob("*.log"):
        log.write_text("\n")
    assert collect([tmp_path / "runs"])[1][0].last_words == ""


def test_no_run_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(MuraError, match=f"no finished run .* below {tmp_path}"):
        collect([tmp_path])
    with pytest.raises(MuraError, match="is not a folder"):
        collect([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("different", "words"),
    [
        ({"split_hash": "other"}, "split"),
        ({"data_fingerprint": "other"}, "data"),
        ({"fold": 3}, "fold"),
    ],
)
def test_runs_of_different_data_split_or_fold_are_refused_with_the_reason(run, refused, different, words):
    first, second = run("elbow"), run("wrist", **different)
    said = refused()
    assert words in said
    assert f"of {second} is {next(iter(different.values()))}, that of {first} is " in said


def test_a_seed_on_one_fold_in_one_arm_and_on_another_in_the_other_is_refused(run, refused):
    for seed in (0, 1):
        run("wrist", seed=seed, fold=seed)
        run(EXTREMITIES, seed=seed, fold=0)
    said = refused()
    assert "both have seed 1, but the validation fold of" in said
    assert "folds=rotate" in said


def test_a_fold_that_follows_from_the_seed_is_no_other_recipe(run, tmp_path):
    for seed in (0, 1, 2):
        change_config(run("wrist", seed=seed, fold=seed), {"data": {"fold": seed, "seed": seed}})
    runs, _ = collect([tmp_path / "runs"])
    assert [each.fold for each in runs] == [0, 1, 2]
    assert list(recipe_notes(runs)) == []


def test_two_runs_of_one_cell_are_refused_with_both_paths(run, refused):
    first, second = run("wrist"), run("wrist")
    said = refused()
    assert str(first) in said
    assert str(second) in said


def test_the_same_cell_of_another_arm_or_seed_is_no_double(run, tmp_path):
    for settings in ({}, {"seed": 1}, {"arm": "finetuned"}, {"model": "cnn2"}):
        run("wrist", **settings)
    assert len(collect([tmp_path / "runs"])[0]) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(index=3), "counted"),
        (lambda t: t.replace({"probability": {t["probability"][3]: None}}), "probability of view .* is nan"),
        (lambda t: t.assign(view=1), "is doubled"),
        (lambda t: t.assign(label=2), "label of view .* is 2"),
        (lambda t: t.assign(extremity="knee"), "extremity of view .* is knee"),
        (lambda t: t.drop(columns="probability"), "lacks the column probability"),
        (lambda t: t[:0], "has 0 test views"),
        (lambda t: t.assign(split="train"), "val or test"),
        (lambda t: t.assign(view=t["view"] + 0.5), "a whole number from 0"),
        (lambda t: t.assign(logit=1e39), "a number within"),
    ],
)
def test_a_faulty_predictions_file_is_refused_with_its_path(run, change, words):
    folder = run("wrist", change=change)
    with pytest.raises(MuraError, match=words) as error:
        read_run(RunFolder(folder))
    assert str(folder / "predictions.csv") in str(error.value)


def test_a_foreign_view_is_refused_with_its_name_and_both_files(run, refused):
    def foreign(table):
        table.loc[5, ["patient", "path"]] = "patient99999", "valid/XR_WRIST/patient99999/image1.png"
        return table

    first, second = run("wrist"), run("wrist", seed=1, change=foreign)
    said = refused()
    assert "lacks 1 of the test views" in said
    assert str(first / "predictions.csv") in said
    assert str(second / "predictions.csv") in said


def test_views_may_stand_in_any_order(run, tmp_path):
    run("wrist")
    run("wrist", seed=1, change=lambda t: t.sample(frac=1, random_state=0))
    assert len(collect([tmp_path / "runs"])[0]) == 2


def test_a_transfer_file_has_the_others_test_views_and_none_of_its_own(run, tmp_path):
    run(["elbow", "hand"], arm="unified")
    file = RunFolder(run("hand", transfer=True)).transfer
    good = pd.read_csv(file)
    check_transfer(collect([tmp_path / "runs"])[0])  # nobody answers for the other five: nothing to hold them against
    lacking = good.drop(index=good.index[good["extremity"] == "elbow"][0])
    for spoilt, words in (
        (
            good.assign(extremity=good["extremity"].replace("elbow", "hand")),
            "holds views of hand, which the run itself",
        ),
        (lacking, "lacks 1 of the test views of"),
    ):
        spoilt.to_csv(file, index=False)
        with pytest.raises(MuraError, match=words):
            check_transfer(collect([tmp_path / "runs"])[0])


def test_a_relabelled_view_is_refused(run, refused):
    run("wrist")
    run("wrist", seed=1, change=lambda t: t.assign(label=1 - t["label"]))
    assert "differs between" in refused()


def test_metrics_that_are_no_json_or_of_another_schema_are_refused(run):
    folder = RunFolder(run("wrist"))
    about = json.loads(folder.metrics.read_text())
    for content, words in (
        ("{", "can't be read"),
        (json.dumps(about | {"schema": 99}), "schema"),
        (json.dumps({k: v for k, v in about.items() if k != "split_hash"}), "lacks split_hash"),
    ):
        folder.metrics.write_text(content)
        with pytest.raises(MuraError, match=words):
            read_run(folder)


def test_a_run_that_was_made_before_a_metric_was_added_is_read_as_the_others_are(run, tmp_path):
    run("elbow")
    folder = RunFolder(run("wrist"))
    about = json.loads(folder.metrics.read_text())
    for group in (group for part in ("val", "test") for level in about[part].values() for group in level.values()):
        for added in [key for key in group if key.endswith(("_low", "_high", "calibration", "_specificity"))]:
            del group[added]
    folder.metrics.write_text(json.dumps(about))
    results = summarise_study([tmp_path / "runs"], tmp_path, resamples=50).results
    sensitivity = results[(results["extremity"] == "wrist") & (results["metric"] == "sensitivity")]
    assert sensitivity[["value", "low", "high"]].notna().all(axis=None)


def test_a_recipe_that_differs_between_runs_is_noted(run, tmp_path):
    run("elbow")
    other = RunFolder(run("hand"))
    other.config.write_text(other.config.read_text() + "optimizer:\n  lr: 0.5\n")
    runs, _ = collect([tmp_path / "runs"])
    assert list(recipe_notes(runs)) == ["cnn4: optimizer.lr is not the same in all runs (0.5, null)."]


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ("ensemble: 5", "ensemble is not the same in all runs (5, null)"),
        ("monitor: val_auroc", 'monitor is not the same in all runs ("val_auroc", null)'),
        ("mode: max", 'mode is not the same in all runs ("max", null)'),
        ("data: {cache_size: 80}", "data.cache_size is not the same in all runs (80, null)"),
        ("data: {fit: stretch}", 'data.fit is not the same in all runs ("pad", "stretch")'),
        ("data: {accumulate: 4}", "data.accumulate is not the same in all runs (4, null)"),
        ("data: {steps_like: [hand]}", 'data.steps_like is not the same in all runs (["hand"], null)'),
        ("trainer: {max_epochs: 3}", "trainer.max_epochs is not the same in all runs (3, null)"),
    ],
)
def test_every_setting_that_makes_an_experiment_is_compared(run, tmp_path, settings, note):
    run("elbow")
    change_config(run("hand"), yaml.safe_load(settings))
    assert list(recipe_notes(collect([tmp_path / "runs"])[0])) == [f"cnn4: {note}."]


def test_a_run_from_before_pictures_could_be_stretched_counts_as_padded(run, tmp_path):
    run("elbow")
    change_config(run("hand"), {"data": {"fit": "pad"}})
    assert list(recipe_notes(collect([tmp_path / "runs"])[0])) == []


def test_a_precision_that_differs_is_noted_as_it_was_used(run, tmp_path):
    run("elbow")
    run("hand", precision="bf16-mixed")
    notes = list(recipe_notes(collect([tmp_path / "runs"])[0]))
    assert notes == ['cnn4: precision is not the same in all runs ("32-true", "bf16-mixed").']


def test_what_an_arm_or_a_seed_changes_is_no_note(run, tmp_path):
    like_unified = {"steps_like": list(EXTREMITIES)}
    change_config(run(EXTREMITIES), {"data": {"steps_like": None, "transfer": False}})
    change_config(run("hand", seed=1), {"data": {**like_unified, "transfer": True, "seed": 1}})
    change_config(run(EXTREMITIES, arm="shared"), {"model": {"separate_heads": True}})
    change_config(run("hand", arm="leave_one_out"), {"data": {**like_unified, "test_extremities": ["hand"]}})
    assert list(recipe_notes(collect([tmp_path / "runs"])[0])) == []


def test_a_finetuned_run_counts_as_begun_as_the_run_that_it_starts_from(run, tmp_path):
    parent, tuned = run(EXTREMITIES), run("hand", arm="finetuned")
    for folder, weights in (
        (parent, "imagenet"),
        (run("hand"), "imagenet"),
        (tuned, RunFolder(parent).best_checkpoint),
    ):
        change_config(folder, {"model": {"weights": str(weights)}})
    assert list(recipe_notes(collect([tmp_path / "runs"])[0])) == []
    change_config(parent, {"model": {"weights": None}})
    assert list(recipe_notes(collect([tmp_path / "runs"])[0])) == [
        'cnn4: model.weights is not the same in all runs ("imagenet", null).'
    ]


def test_the_code_that_made_the_runs_is_noted_where_it_differs(run, tmp_path):
    run("elbow", git={"commit": "a" * 40})
    run("hand", git={"commit": "a" * 40})
    assert list(recipe_notes(collect([tmp_path / "runs"])[0])) == []
    run("wrist")
    assert list(recipe_notes(collect([tmp_path / "runs"])[0])) == [
        "The runs were made with different versions of the code: aaaaaaaaaa, unknown."
    ]


def test_runs_have_an_order_of_model_arm_seed_and_extremity_and_are_named_by_it(run, tmp_path):
    run("wrist", seed=1)
    run("elbow", seed=1)
    run("hand")
    run(EXTREMITIES, seed=2)
    run("hand", model="cnn2")
    runs, _ = collect([tmp_path / "runs"])
    assert [each.name for each in runs] == [
        "cnn2, hand, seed 0",
        "cnn4, unified, seed 2",
        "cnn4, hand, seed 0",
        "cnn4, elbow, seed 1",
        "cnn4, wrist, seed 1",
    ]


def test_what_all_studies_noted_alike_is_declared(run, tmp_path):
    runs = []
    for study, margin in (("first", 0.03), ("second", 0.03), ("third", 0.05)):
        folder = tmp_path / study / "cnn4" / "wrist" / "seed0"
        folder.parent.mkdir(parents=True)
        run("wrist").rename(folder)
        (tmp_path / study / "study.json").write_text(json.dumps({"seeds": [0], "margin": margin}))
        runs.append(read_run(RunFolder(folder)))
    assert declared(runs[:2], "margin") == 0.03
    assert declared(runs, "margin") is None
    assert declared(runs, "primary") is None


def test_the_epochs_of_a_history_rise_from_zero_and_its_values_are_numbers(run):
    file = RunFolder(run("wrist")).history
    good = read_history(file)
    assert good["epoch"].tolist() == [0, 1, 2, 3, 4]
    for epochs in ([0, 1, 1, 2, 3], [0, 1, 2, 3, 2.5], [-1, 0, 1, 2, 3], [0, 1, 2, 1, 4]):
        good.assign(epoch=epochs).to_csv(file, index=False)
        with pytest.raises(MuraError, match="a whole number above the last"):
            read_history(file)
    good.assign(val_loss=1e39).to_csv(file, index=False)
    with pytest.raises(MuraError, match=r"a number within 3\.5e\+38"):
        read_history(file)
    good[:0].to_csv(file, index=False)
    assert read_history(file) is None


def change_config(folder, settings):
    """Put settings, a tree, into the config.yaml of a run."""
    file = RunFolder(folder).config
    config = yaml.safe_load(file.read_text())
    for key, value in settings.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(config))


def test_a_run_says_itself_whether_its_data_are_synthetic_wherever_they_lie_now(run):
    assert is_synthetic(read_run(RunFolder(run("wrist", synthetic=True))))
    assert not is_synthetic(read_run(RunFolder(run("hand", synthetic=False))))


@pytest.mark.parametrize("place", [".", "MURA-v1.1", "MURA-v1.1/MURA-v1.1"])
def test_an_older_run_is_known_by_the_boxes_of_its_data_while_they_lie_there(run, tmp_path, place):
    folder = tmp_path / "data" / place
    folder.mkdir(parents=True)
    drawn = read_run(RunFolder(run("wrist", root=tmp_path / "data")))
    assert not is_synthetic(drawn)
    (folder / "boxes.csv").touch()
    assert is_synthetic(drawn)


def test_an_older_run_that_names_no_data_is_not_called_synthetic(run):
    folder = run("wrist")
    RunFolder(folder).config.write_text("seed: 0\n")
    assert not is_synthetic(read_run(RunFolder(folder)))


def test_of_several_missing_views_the_first_is_named(run, refused):
    names = []

    def foreign(table):
        names.extend(table.loc[[5, 6], "path"])
        for row, patient in ((5, "patient99999"), (6, "patient99998")):
            table.loc[row, ["patient", "path"]] = patient, f"valid/XR_WRIST/{patient}/image1.png"
        return table

    run("wrist"), run("wrist", seed=1, change=foreign)
    said = refused()
    assert "lacks 2 of the test views" in said
    assert [name in said for name in names] == [True, False]
