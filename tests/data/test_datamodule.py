"""Which views train, validate and test: all that are readable, each in its own part, and a sentence for none."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import conflict_in

from mura.data.datamodule import MuraDataModule, other_test_rows, rows_of
from mura.data.index import scan
from mura.errors import ConfigError, MuraError


def table(*rows: tuple[str, str, int, bool]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["split", "extremity", "fold", "readable"])


WHOLE = [("train", "wrist", 0, True), ("train", "wrist", 1, True), ("test", "wrist", -1, True)]


def test_damaged_views_are_in_no_part() -> None:
    rows = rows_of(table(*WHOLE, ("train", "wrist", 1, False), ("test", "wrist", -1, False)), ["wrist"], fold=0)
    assert {part: list(found) for part, found in rows.items()} == {"train": [1], "val": [0], "test": [2]}


def test_an_extremity_that_the_data_does_not_have_is_refused() -> None:
    with pytest.raises(MuraError, match="no picture of hand is in the data set: it has wrist"):
        rows_of(table(*WHOLE), ["wrist", "hand"], fold=0)


def test_a_fold_without_views_is_refused() -> None:
    with pytest.raises(MuraError, match=r"no val views of wrist: train/ \(data\.fold=3\) holds none"):
        rows_of(table(*WHOLE), ["wrist"], fold=3)
    with pytest.raises(MuraError, match="no test views of wrist: valid/ holds none"):
        rows_of(table(*WHOLE[:2]), ["wrist"], fold=0)


def test_a_model_can_be_tested_on_an_extremity_that_it_never_saw() -> None:
    views = table(*WHOLE, ("train", "hand", 0, True), ("train", "hand", 1, True), ("test", "hand", -1, True))
    rows = rows_of(views, ["wrist"], fold=0, test_extremities=["hand"])
    assert set(views.loc[[*rows["train"], *rows["val"]], "extremity"]) == {"wrist"}
    assert set(views.loc[rows["test"], "extremity"]) == {"hand"}
    assert list(other_test_rows(views, ["hand"])) == list(rows_of(views, ["wrist"], fold=0)["test"])


def test_without_the_test_a_run_needs_and_touches_no_test_view(mura_root: Path, cache_dir: Path) -> None:
    assert set(rows_of(table(*WHOLE[:2]), ["wrist"], fold=0, test_extremities=[])) == {"train", "val"}
    data = MuraDataModule(str(mura_root), ["wrist"], 32, cache_dir=str(cache_dir), test=False)
    data.setup()
    [loader] = data.predict_dataloader()
    rows = {int(row) for batch in loader for row in batch["row"]}
    assert rows == set(data.rows["val"])
    assert set(data.opened.table.loc[sorted(rows), "split"]) == {"train"}


def test_an_epoch_can_have_as_many_steps_as_one_over_more_extremities(mura_root: Path, cache_dir: Path) -> None:
    def steps(extremities: list[str], like: list[str] | None) -> int:
        data = MuraDataModule(str(mura_root), extremities, 32, cache_dir=str(cache_dir), batch_size=8, steps_like=like)
        data.setup()
        return len(data.train_dataloader())

    both = steps(["wrist", "hand"], None)
    assert steps(["wrist"], ["wrist", "hand"]) == both
    assert steps(["wrist"], None) < both


# --- studies with both labels -----------------------------------------------------------------------------


def test_a_study_with_both_labels_is_refused_by_name_before_training(contradictory: Path, tmp_path: Path) -> None:
    data = MuraDataModule(str(contradictory), ["wrist"], 32, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(MuraError, match="such study") as refusal:
        data.setup()
    study = conflict_in(contradictory)
    assert str(refusal.value).startswith(f"{study} is there as _positive and as _negative (1 such study): ")
    assert "data.conflicts=leave_out" in str(refusal.value)
    [problem] = [each for each in scan(contradictory)[1] if each.kind == "two-labels"]
    assert (problem.path, problem.detail) == (study, "is there as _positive and as _negative")


def test_studies_with_both_labels_can_be_left_out_and_are_counted(contradictory: Path, tmp_path: Path) -> None:
    data = MuraDataModule(
        str(contradictory), ["wrist"], 32, cache_dir=str(tmp_path / "cache"), conflicts="leave_out"
    )  # fmt: skip
    data.setup()
    assert data.conflicting == [conflict_in(contradictory)]
    used = data.opened.table.loc[data.rows["test"], "path"]
    assert len(used) > 0
    assert not used.str.startswith(data.conflicting[0]).any()


def test_the_first_of_several_conflicts_is_named_and_all_are_counted(
    contradictory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = conflict_in(contradictory)
    study = max((contradictory / "valid" / "XR_WRIST").glob("*/study1_positive"))
    shutil.copytree(study, study.with_name("study1_negative"))
    with pytest.raises(MuraError, match=r"\(2 such studies\)") as refusal:
        MuraDataModule(str(contradictory), ["wrist"], 32, cache_dir=str(tmp_path / "cache")).setup()
    assert str(refusal.value).startswith(f"{first} is there")
    with caplog.at_level(logging.WARNING, logger="mura"):
        MuraDataModule(
            str(contradictory), ["wrist"], 32, cache_dir=str(tmp_path / "cache"), conflicts="leave_out"
        ).setup()
    assert f"2 studies with both labels are left out, first {first}" in caplog.messages


def test_only_conflicts_of_views_that_a_run_uses_count(contradictory: Path, tmp_path: Path) -> None:
    def data(**settings: Any) -> MuraDataModule:
        return MuraDataModule(str(contradictory), ["hand"], 32, cache_dir=str(tmp_path / "cache"), **settings)

    data().setup()
    for settings in ({"test_extremities": ["hand", "wrist"]}, {"transfer": True}):
        with pytest.raises(MuraError, match="is there as _positive and as _negative"):
            data(**settings).setup()


@pytest.mark.parametrize("name", ["extremities", "test_extremities", "steps_like"])
def test_an_extremity_that_is_no_list_is_refused_by_its_own_name(name: str, mura_root: Path) -> None:
    settings: dict[str, Any] = {"extremities": ["wrist"], name: "wrist"}
    with pytest.raises(ConfigError, match=rf"data\.{name}=wrist: write it as a list"):
        MuraDataModule(str(mura_root), **settings)
