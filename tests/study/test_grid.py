"""The grid of a study: which runs there are, and which finished run may be used again."""

import json
from pathlib import Path

import pytest

from mura import __version__
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.runs.folder import SCHEMA, RunFolder
from mura.study.grid import FINISHED, HALF_DONE, MISSING, cells, differences, seconds_left, state_of

SETTINGS = {"arm": "unified", "seed": 0, "optimizer": {"lr": 0.1}, "data": {"fold": 0, "root": "/here"}}


def write_run(folder: Path, finished: bool = True, seconds: float = 60.0, version: str = __version__) -> RunFolder:
    run = RunFolder(folder)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("[]\n")
    run.config.write_text(json.dumps(SETTINGS))  # JSON is YAML
    if finished:
        about = {
            "schema": SCHEMA, "arm": "unified", "seed": 0, "fold": 0, "best_epoch": 0, "epochs": 1, "test": None,
            "split_hash": "def",
            "versions": {"mura": version},
            "data_fingerprint": "abc",
            "model": "cnn4",
            "data": "wrist",
            "speed": {"wall_seconds": seconds},
        }  # fmt: skip
        run.metrics.write_text(json.dumps(about))
    return run


def test_a_study_is_seven_specialised_runs_and_a_unified_one_for_each_model_and_seed() -> None:
    grid = cells(["cnn4", "resnet18"], list(EXTREMITIES), ["specialised", "unified"], [0, 1, 2])
    assert len(grid) == 2 * 8 * 3
    assert len({cell.name for cell in grid}) == len(grid)
    assert grid[0].data == "unified"  # the longest first
    assert set(grid[0].extremities) == set(EXTREMITIES)


def test_the_unified_model_of_a_part_of_the_extremities_is_trained_on_that_part() -> None:
    [unified] = cells(["cnn4"], ["wrist", "hand"], ["unified"], [0])
    settings = unified.overrides(Path("study"))
    assert "data.extremities=[wrist,hand]" in settings
    assert "arm=unified" in settings


def test_finetuned_runs_start_from_the_unified_run_of_the_same_model_and_seed_and_come_after_it() -> None:
    grid = cells(["cnn4"], ["wrist", "hand"], ["specialised", "finetuned"], [0, 1])
    tuned = [cell for cell in grid if cell.arm == "finetuned"]
    assert len(tuned) == 4
    for cell in tuned:
        assert f"model.weights=study/cnn4/unified/seed{cell.seed}/checkpoints/best.ckpt" in cell.overrides(
            Path("study")
        )
        assert grid.index(cell) > max(grid.index(other) for other in grid if other.arm != "finetuned")
    assert {cell.seed for cell in grid if cell.arm == "unified"} == {0, 1}


def test_the_shared_arm_has_a_head_for_each_extremity() -> None:
    [shared] = cells(["cnn4"], list(EXTREMITIES), ["shared"], [0])
    assert "model.separate_heads=true" in shared.overrides(Path("study"))


def test_leave_one_out_trains_on_all_but_the_extremity_that_it_is_tested_on() -> None:
    grid = cells(["cnn4"], ["wrist", "hand", "elbow"], ["leave_one_out"], [0])
    [without] = [cell for cell in grid if cell.data == "without-wrist"]
    settings = without.overrides(Path("study"))
    assert "data.extremities=[hand,elbow]" in settings
    assert "data.test_extremities=[wrist]" in settings


def test_with_a_budget_in_steps_every_epoch_is_as_long_as_the_unified_ones() -> None:
    grid = cells(["cnn4"], ["wrist", "hand"], ["unified", "specialised", "finetuned", "leave_one_out"], [0], "steps")
    for cell in grid:
        equal = "data.steps_like=[wrist,hand]" in cell.overrides(Path("study"))
        assert equal == (cell.arm != "unified"), cell
    plain = cells(["cnn4"], ["wrist", "hand"], ["specialised"], [0])
    assert not any("steps_like" in setting for cell in plain for setting in cell.overrides(Path("study")))


def test_with_rotated_folds_the_fold_follows_from_the_seed_in_every_arm() -> None:
    arms = ["unified", "specialised", "finetuned", "leave_one_out"]
    grid = cells(["cnn4"], ["wrist", "hand"], arms, [0, 1, 7, 14], folds="rotate")
    fold_of = {0: 0, 1: 1, 7: 2, 14: 4}
    for cell in grid:
        assert f"data.fold={fold_of[cell.seed]}" in cell.overrides(Path("study"))
    fixed = cells(["cnn4"], ["wrist", "hand"], arms, [0, 1])
    assert not any("data.fold" in setting for cell in fixed for setting in cell.overrides(Path("study")))


def test_a_run_is_missing_half_done_or_finished(tmp_path: Path) -> None:
    assert state_of(RunFolder(tmp_path / "none"), SETTINGS, "abc") == MISSING
    assert state_of(write_run(tmp_path / "half", finished=False), SETTINGS, "abc") == HALF_DONE
    assert state_of(write_run(tmp_path / "whole"), SETTINGS, "abc") == FINISHED


def test_a_run_with_other_settings_or_data_is_not_used_and_the_difference_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(MuraError, match=r"optimizer\.lr 0\.1, now 0\.2"):
        state_of(run, SETTINGS | {"optimizer": {"lr": 0.2}}, "abc")
    with pytest.raises(MuraError, match="the data"):
        state_of(run, SETTINGS, "another")
    with pytest.raises(MuraError, match=r"mura 0\.0\.9, now "):
        state_of(write_run(tmp_path / "old", version="0.0.9"), SETTINGS, "abc")


def test_a_run_without_test_predictions_is_not_used_and_how_to_test_it_is_said(tmp_path: Path) -> None:
    for name, finished, first in (("half", False, "go on"), ("whole", True, "remove its metrics.json, then go on")):
        run = write_run(tmp_path / name, finished=finished)
        run.config.write_text(json.dumps(SETTINGS | {"test": False}))
        with pytest.raises(
            MuraError, match=f"needs its test predictions: {first} with: python train.py resume=.*test=true"
        ):
            state_of(run, SETTINGS | {"test": True}, "abc")


def test_a_run_from_before_a_setting_was_added_did_what_was_done_then() -> None:
    padded, stretched = (SETTINGS | {"data": {"fold": 0, "root": "/here", "fit": fit}} for fit in ("pad", "stretch"))
    assert list(differences(SETTINGS, padded)) == []
    assert list(differences(SETTINGS, stretched)) == ["data.fit pad, now stretch"]


def test_where_the_data_lies_makes_no_other_experiment() -> None:
    moved = SETTINGS | {"data": {"fold": 0, "root": "/there"}}
    assert list(differences(SETTINGS, moved)) == []
    assert list(differences(SETTINGS, SETTINGS | {"data": {"fold": 1}})) == ["data.fold 0, now 1"]


def test_the_time_left_is_estimated_once_a_run_of_the_model_has_finished(tmp_path: Path) -> None:
    missing = cells(["cnn4"], ["wrist", "hand"], ["specialised"], [1])
    assert seconds_left([], missing, workers=1) is None
    finished = [write_run(tmp_path / "run", seconds=100)]
    assert seconds_left(finished, missing, workers=2) == 100
