"""What a study notes of itself when it starts for the first time."""

import json
from datetime import date
from pathlib import Path

from mura.runs.folder import STUDY_FILE, read_noted, read_planned_seeds
from mura.study.plan import note_plan


def begin_run(study: Path, seed: int) -> None:
    folder = study / "cnn4" / "wrist" / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")


def test_the_seeds_and_the_margin_of_the_first_start_are_noted_with_the_date_and_stay(tmp_path: Path) -> None:
    assert read_planned_seeds(tmp_path) is None
    note_plan(tmp_path, [0, 1, 2], 0.03)
    begin_run(tmp_path, seed=3)
    note_plan(tmp_path, [0, 1, 2, 3, 4], 0.05)
    assert read_planned_seeds(tmp_path) == [0, 1, 2]
    assert read_noted(tmp_path)["margin"] == 0.03
    assert json.loads((tmp_path / STUDY_FILE).read_text())["date"] == date.today().isoformat()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [STUDY_FILE]


def test_a_study_without_the_file_counts_as_planned_with_the_seeds_that_it_has(tmp_path: Path) -> None:
    begin_run(tmp_path, seed=0)
    begin_run(tmp_path, seed=10)
    note_plan(tmp_path, [0, 10, 20])
    assert read_planned_seeds(tmp_path) == [0, 10]


def test_a_folder_that_only_resembles_a_run_s_is_no_seed(tmp_path: Path) -> None:
    begin_run(tmp_path, seed=1)
    for name in ("seed0_old", "seed", "seed2 copy", "seeds"):
        (tmp_path / "cnn4" / "wrist" / name).mkdir()
        (tmp_path / "cnn4" / "wrist" / name / "config.yaml").write_text("{}")
    note_plan(tmp_path, [0, 1, 2])
    assert read_planned_seeds(tmp_path) == [1]


def test_a_margin_that_is_no_number_counts_as_not_noted(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).write_text('{"seeds": [0], "margin": "three"}')
    assert read_noted(tmp_path) == {"seeds": [0]}


def test_a_file_that_can_t_be_read_says_nothing(tmp_path: Path) -> None:
    for content in ("", "[]", '{"seeds": null}', '{"seeds": ["x"]}'):
        (tmp_path / STUDY_FILE).write_text(content)
        assert read_planned_seeds(tmp_path) is None
