"""The index says what is in the folder, and everything that doesn't belong there is reported."""

import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mura.data.index import COLUMNS, find_root, read_index, scan
from mura.errors import MuraError

IMAGES = "train_image_paths.csv"
STUDY = "train/XR_WRIST/patient00002/study1_positive"


def kinds(root: Path) -> dict[str, int]:
    return dict(Counter(problem.kind for problem in scan(root)[1]))


def test_a_sound_folder_gives_a_row_a_view_and_no_problem(tree) -> None:
    index, problems = scan(tree.root)
    assert problems == []
    assert list(index.columns) == COLUMNS
    assert len(index) == 21
    assert list(index.index) == list(range(21))
    row = index[index["path"] == f"{STUDY}/image3.png"].iloc[0]
    assert row.drop("path").to_dict() == {
        "split": "train",
        "extremity": "wrist",
        "patient": "patient00002",
        "study": "study1",
        "view": 3,
        "label": 1,
    }


def test_rows_are_in_natural_order(tree) -> None:
    index = read_index(tree.root)
    assert list(index["split"].unique()) == ["train", "test"]
    assert list(index["extremity"].unique()) == ["elbow", "wrist"]
    assert list(index.loc[index["patient"] == "patient00010", "view"]) == list(range(1, 12))
    keys = index.assign(split=index["split"] == "test")
    assert keys.sort_values(["split", "extremity", "patient", "study", "view"]).index.equals(index.index)


def test_labels_are_those_of_the_folder_names(tree) -> None:
    index = read_index(tree.root)
    assert (index["label"] == index["path"].str.contains("_positive/")).all()
    assert index["label"].dtype == "int64"


@pytest.mark.parametrize("below", [".", "..", "../.."])
def test_the_folder_is_found_from_above(tmp_path: Path, tree, below: str) -> None:
    inner = tmp_path / "MURA-v1.1" / "MURA-v1.1"
    if below == "../..":
        moved = tree.root.rename(tmp_path / "moved")
        inner.parent.mkdir()
        moved.rename(inner)
        assert find_root(tmp_path).resolve() == inner
        assert len(read_index(tmp_path)) == 21
    else:
        assert find_root(tree.root / below).resolve() == tree.root


def test_a_doubly_nested_folder_is_read_and_reported(tmp_path: Path, tree) -> None:
    moved = tree.root.rename(tmp_path / "moved")
    (tmp_path / "MURA-v1.1").mkdir()
    moved.rename(tmp_path / "MURA-v1.1" / "MURA-v1.1")
    for root in (tmp_path, tmp_path / "MURA-v1.1", tmp_path / "MURA-v1.1" / "MURA-v1.1"):
        index, problems = scan(root)
        assert len(index) == 21
        assert [problem.kind for problem in problems] == ["nested"]


def test_version_1_0_is_refused_by_its_list_names(tmp_path: Path, tree) -> None:
    renamed = tree.root.rename(tmp_path / "mura")
    for split in ("train", "valid"):
        (renamed / f"{split}_labeled_studies.csv").rename(renamed / f"{split}.csv")
        (renamed / f"{split}_image_paths.csv").unlink()
    with pytest.raises(MuraError, match=r"is MURA v1\.0.*expected MURA-v1\.1.*found train, train\.csv.*MURA_ROOT"):
        read_index(renamed)


@pytest.mark.parametrize("from_above", [False, True])
def test_version_1_0_is_refused_by_its_folder_name(tmp_path: Path, tree, from_above: bool) -> None:
    old = tree.root.rename(tmp_path / "MURA-v1.0")
    (old / IMAGES).unlink()
    with pytest.raises(MuraError, match=r"MURA-v1\.0 is MURA v1\.0 and not v1\.1"):
        find_root(tmp_path if from_above else old)


def test_a_wrong_folder_is_refused_with_what_was_expected_and_found(tmp_path: Path) -> None:
    with pytest.raises(MuraError, match="found no such folder"):
        find_root(tmp_path / "nowhere")
    with pytest.raises(MuraError, match="found an empty folder"):
        find_root(tmp_path)
    (tmp_path / "train" / "cats").mkdir(parents=True)
    (tmp_path / "valid").mkdir()
    with pytest.raises(MuraError, match=r"expected train/ and valid/ .*XR_WRIST.*found train, valid; .*data\.root=DIR"):
        find_root(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(MuraError, match="found a file"):
        find_root(tmp_path / "file")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / split / "XR_HAND" / "patient00001" / "study1_negative").mkdir(parents=True)
    with pytest.raises(MuraError, match="holds no picture"):
        read_index(tmp_path)


def test_mac_files_are_ignored_and_reported_each(tree) -> None:
    for path in (f"{STUDY}/._image1.png", f"{STUDY}/._image2.png", "train/.DS_Store", "valid/XR_ELBOW/._patient11185"):
        (tree.root / path).write_bytes(b"\0\5\x16\7")
    index, problems = scan(tree.root)
    assert len(index) == 21
    assert [problem.kind for problem in problems] == ["mac-file"] * 4
    assert problems[1].path == f"{STUDY}/._image1.png"


def test_strangers_in_the_folder_are_ignored_and_reported(tree) -> None:
    for path in ("train/XR_FOOT", "train/XR_WRIST/patient", f"{STUDY}/image9.png"):
        (tree.root / path).mkdir()
    for path in (f"{STUDY}/image4.gif", f"{STUDY}/copy of image1.png", "valid/notes.txt"):
        (tree.root / path).touch()
    assert kinds(tree.root) == {"unknown-file": 6}
    assert len(read_index(tree.root)) == 21


def test_files_beside_train_and_valid_are_nobodys_business(tree) -> None:
    (tree.root / "boxes.csv").write_text("path,x,y\n")
    (tree.root / "README").touch()
    assert kinds(tree.root) == {}


def test_a_study_with_both_labels_is_reported(tree) -> None:
    tree.draw(f"{STUDY.replace('positive', 'negative')}/image1.png")
    tree.write_lists()
    assert "two-labels" in kinds(tree.root)
    assert len(read_index(tree.root)) == 22


def test_a_patient_in_both_splits_is_reported_once(tree) -> None:
    tree.draw("valid/XR_WRIST/patient00002/study1_positive/image1.png")
    tree.draw("valid/XR_HAND/patient00002/study1_positive/image1.png")
    tree.write_lists()
    _, problems = scan(tree.root)
    assert [problem.kind for problem in problems] == ["patient-in-both-splits"]
    assert problems[0].path == "train/XR_ELBOW/patient00002"
    assert "valid/XR_WRIST/patient00002" in problems[0].detail


def test_an_empty_study_is_reported(tree) -> None:
    (tree.root / "train/XR_HAND/patient00077/study1_negative").mkdir(parents=True)
    assert kinds(tree.root) == {"empty-study": 1}


def test_a_folder_that_cant_be_read_is_reported(tree, monkeypatch: pytest.MonkeyPatch) -> None:
    from mura.data import index

    real = index.os.scandir

    def scandir(path: str):
        if str(path).endswith("patient00010"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(index.os, "scandir", scandir)
    table, problems = scan(tree.root)
    assert len(table) == 10
    assert (problems[-1].kind, problems[-1].path) == ("unreadable-folder", "train/XR_WRIST/patient00010")


def test_a_run_is_refused_rather_than_goes_on_without_a_folder(tree) -> None:
    (tree.root / "train/XR_WRIST/patient00077").symlink_to(tree.root / "not mounted")
    with pytest.raises(
        MuraError, match=r"patient00077 is a link that can't be followed .*folders that can't be read: 1"
    ):
        read_index(tree.root)


# --- copies that were converted or renamed ----------------------------------------------------------------


@pytest.mark.parametrize("ending", ["PNG", "jpg", "JPG", "jpeg", "tif", "tiff", "TIF", "bmp"])
def test_a_copy_with_another_ending_has_the_same_views_and_says_so(tree, ending: str) -> None:
    whole = read_index(tree.root)
    for file in tree.root.glob("*/*/*/*/*.png"):
        file.rename(file.with_suffix(f".{ending}"))
    index, problems = scan(tree.root)
    assert index.drop(columns="path").equals(whole.drop(columns="path"))
    assert Counter(problem.kind for problem in problems) == {"other-name": 21}  # and the lists agree
    assert problems[0].detail == "read as image1.png"


@pytest.mark.parametrize("name", ["image1.jpg", "IMAGE1.PNG", "Image01.png", "image001.PNG"])
def test_a_single_renamed_picture_stays_in_its_study(tree, name: str) -> None:
    whole = read_index(tree.root)
    (tree.root / STUDY / "image1.png").rename(tree.root / STUDY / name)
    index, problems = scan(tree.root)
    assert index.drop(columns="path").equals(whole.drop(columns="path"))
    assert [(problem.kind, problem.path) for problem in problems] == [("other-name", f"{STUDY}/{name}")]


@pytest.mark.parametrize("listed", [".PNG", ".jpg"])
def test_lists_may_name_the_pictures_as_before_or_after_they_were_converted(tree, listed: str) -> None:
    tree.edit(IMAGES, ".png", listed)
    assert kinds(tree.root) == {}


@pytest.mark.parametrize("name", ["image01.png", "image\u0661.png", "image1.jpg", "image1.PNG"])
def test_a_view_is_never_there_twice(tree, name: str) -> None:
    shutil.copyfile(tree.root / STUDY / "image2.png", tree.root / STUDY / name)
    index, problems = scan(tree.root)
    assert not index.duplicated(["split", "extremity", "patient", "study", "view"]).any()
    assert f"{STUDY}/image1.png" in set(index["path"])
    assert [(problem.kind, problem.path) for problem in problems] == [("doubled-view", f"{STUDY}/{name}")]
    assert problems[0].detail == f"has the number of {STUDY}/image1.png; ignored"


def test_patients_and_studies_of_one_number_and_two_names_are_reported(tree) -> None:
    tree.draw("train/XR_WRIST/patient2/study1_negative/image1.png")
    tree.draw("train/XR_ELBOW/patient00003/study01_positive/image1.png")
    tree.write_lists()
    problems = scan(tree.root)[1]
    assert [(problem.kind, problem.path) for problem in problems] == [
        ("doubled-number", "train/XR_ELBOW/patient00003/study1_positive"),
        ("doubled-number", "train/XR_WRIST/patient2"),
    ]


# --- what is no file --------------------------------------------------------------------------------------


def test_fifos_devices_and_folders_called_like_pictures_are_named_and_never_opened(tree) -> None:
    os.mkfifo(tree.root / STUDY / "image4.png")
    (tree.root / STUDY / "image5.png").symlink_to("/dev/zero")
    (tree.root / STUDY / "image6.png").mkdir()
    (tree.root / STUDY / "image7.png").symlink_to(tree.root / STUDY / "image4.png")
    (tree.root / "valid/XR_WRIST/patient00099").touch()
    index, problems = scan(tree.root)
    assert len(index) == 21
    assert [(problem.kind, problem.detail) for problem in problems] == [
        ("unknown-file", "is a FIFO and not a picture; ignored"),
        ("unknown-file", "is a link to a device; ignored"),
        ("unknown-file", "is a folder and not a picture; ignored"),
        ("unknown-file", "is a link to a FIFO; ignored"),
        ("unknown-file", "is a file and not a folder; ignored"),
    ]


@pytest.mark.parametrize("path", [f"{STUDY}/image4.png", "train/XR_WRIST/patient00099", "train/XR_HAND"])
def test_a_link_to_itself_is_a_problem_and_no_traceback(tree, path: str) -> None:
    (tree.root / path).symlink_to(tree.root / path)
    index, problems = scan(tree.root)
    if path.endswith(".png"):
        assert len(index) == 22  # who reads it says that it can't be read
    else:
        assert [(problem.kind, problem.path) for problem in problems] == [("unreadable-folder", path)]


def test_a_root_that_links_to_itself_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(MuraError, match=r"is not a MURA folder|can't be read"):
        find_root(tmp_path / "loop")


@pytest.mark.parametrize("root", ["~nobody-of-that-name/mura", "x" * 300])
def test_a_root_that_cant_be_there_is_one_sentence(root: str) -> None:
    with pytest.raises(MuraError, match=r"is not a MURA folder|can't be read"):
        find_root(root)


def test_links_out_of_the_folder_are_followed_and_said(tree, tmp_path: Path) -> None:
    whole = read_index(tree.root)
    for path in ("train/XR_WRIST/patient00010", f"{STUDY}/image1.png"):
        moved = (tree.root / path).rename(tmp_path / Path(path).name)
        (tree.root / path).symlink_to(moved)
    index, problems = scan(tree.root)
    assert index.equals(whole)
    assert [problem.kind for problem in problems] == ["link-out"] * 2
    assert problems[1].detail == f"leads to {tmp_path / 'patient00010'}"


def test_problems_are_logged_a_line_a_kind(tree, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        (tree.root / STUDY / f"._image{number}.png").touch()
    (tree.root / STUDY / "image2.png").unlink()
    with caplog.at_level(logging.INFO, "mura.data.index"):
        read_index(tree.root)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert len(lines) == 2
    assert lines[0][0] == "WARNING"
    assert lines[1] == ("INFO", f"index: 4 macOS ._ files (ignored), first {STUDY}/._image0.png")


def test_the_same_folder_always_gives_the_same_table(tree, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in sorted(tree.root.rglob("*"), reverse=True):  # created in another order
        if path.is_file():
            target = copy / path.relative_to(tree.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    assert read_index(copy).equals(read_index(tree.root))
