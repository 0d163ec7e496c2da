"""The lists are read in whatever form a copy has them, and every disagreement with the folder is reported."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mura.data.index import read_index, scan

IMAGES, STUDIES = "train_image_paths.csv", "train_labeled_studies.csv"
STUDY = "train/XR_WRIST/patient00002/study1_positive"


def kinds(root: Path) -> dict[str, int]:
    return dict(Counter(problem.kind for problem in scan(root)[1]))


@pytest.mark.parametrize("name", [IMAGES, STUDIES])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: "path,label\n" + text, id="header row"),
        pytest.param(lambda text: "\n" + "images\n" + text, id="blank line, header row"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="CRLF line ends"),
        pytest.param(lambda text: text.replace("\n", ",\n"), id="trailing comma"),
        pytest.param(lambda text: text.replace("\n", ",,\n"), id="trailing commas"),
        pytest.param(lambda text: "\ufeff" + text, id="byte order mark"),
        pytest.param(lambda text: text.replace("\n", "\n\n") + "  \n", id="blank lines"),
        pytest.param(lambda text: text + text.splitlines()[0] + "\n", id="a row twice"),
    ],
)
def test_a_list_in_another_form_is_read_all_the_same(tree, name: str, change) -> None:
    text = (tree.root / name).read_text(encoding="utf-8")
    (tree.root / name).write_text(change(text), encoding="utf-8", newline="")
    index, problems = scan(tree.root)
    assert len(index) == 21
    assert problems == []


@pytest.mark.parametrize("name", [IMAGES, STUDIES])
@pytest.mark.parametrize("prefix", ["", "MURA-v1.1/MURA-v1.1/", "/home/me/train/MURA/", "C:\\data\\", "12,"])
def test_paths_in_the_lists_may_have_any_prefix(tree, name: str, prefix: str) -> None:
    tree.edit(name, "MURA-v1.1/", prefix)
    assert kinds(tree.root) == {}


def test_backslashes_quotes_and_float_labels_are_understood(tree) -> None:
    tree.edit(IMAGES, "/", "\\")
    rows = (tree.root / STUDIES).read_text().splitlines()
    quoted = [f'"{path}","{label}.0"' for path, label in (row.split(",") for row in rows)]
    (tree.root / STUDIES).write_text("\n".join(quoted))
    assert kinds(tree.root) == {}


def test_a_missing_list_is_reported_and_the_folder_used(tree) -> None:
    whole = read_index(tree.root)
    for path in tree.root.glob("*.csv"):
        path.unlink()
    index, problems = scan(tree.root)
    assert index.equals(whole)
    assert [problem.kind for problem in problems] == ["missing-list"] * 4
    assert {problem.path for problem in problems} >= {IMAGES, "valid_labeled_studies.csv"}


def test_an_empty_list_counts_as_missing(tree) -> None:
    (tree.root / IMAGES).write_text("path\n")
    assert kinds(tree.root) == {"missing-list": 1}


def test_a_listed_picture_that_is_missing_is_reported(tree) -> None:
    (tree.root / STUDY / "image2.png").unlink()
    index, problems = scan(tree.root)
    assert len(index) == 20
    assert [(problem.kind, problem.path) for problem in problems] == [("listed-but-missing", f"{STUDY}/image2.png")]
    assert IMAGES in problems[0].detail


def test_a_picture_that_is_not_listed_is_reported_and_used(tree) -> None:
    tree.draw(f"{STUDY}/image4.png")
    index, problems = scan(tree.root)
    assert len(index) == 22
    assert [(problem.kind, problem.path) for problem in problems] == [("not-listed", f"{STUDY}/image4.png")]


def test_a_study_that_is_missing_or_not_listed_is_reported_itself_too(tree) -> None:
    shutil.rmtree(tree.root / "valid/XR_ELBOW")
    tree.draw("valid/XR_HAND/patient11190/study1_negative/image1.png")
    problems = {(problem.kind, problem.path) for problem in scan(tree.root)[1]}
    assert problems == {
        ("listed-but-missing", "valid/XR_ELBOW/patient11185/study1_positive"),
        ("listed-but-missing", "valid/XR_ELBOW/patient11185/study1_positive/image1.png"),
        ("not-listed", "valid/XR_HAND/patient11190/study1_negative"),
        ("not-listed", "valid/XR_HAND/patient11190/study1_negative/image1.png"),
    }


def test_relabelled_lists_are_reported_a_study_and_the_folder_name_wins(tree) -> None:
    before = read_index(tree.root)
    tree.edit(STUDIES, "patient00002/study1_positive/,1", "patient00002/study1_positive/,0")
    tree.edit(STUDIES, "XR_ELBOW/patient00002/study1_negative/,0", "XR_ELBOW/patient00002/study1_negative/,1")
    index, problems = scan(tree.root)
    assert index.equals(before)
    assert [problem.kind for problem in problems] == ["label-disagrees"] * 2
    assert problems[1].path == STUDY
    assert problems[1].detail == f"{STUDIES} says 0, the folder positive"


def test_a_folder_renamed_to_the_other_label_disagrees_with_its_list(tree) -> None:
    (tree.root / STUDY).rename(tree.root / STUDY.replace("positive", "negative"))
    assert kinds(tree.root) == {"label-disagrees": 1, "listed-but-missing": 3, "not-listed": 3}


def test_rows_that_name_nothing_of_the_split_are_reported_once(tree) -> None:
    with (tree.root / IMAGES).open("a") as file:
        file.write("MURA-v1.1/valid/XR_ELBOW/patient11185/study1_positive/image1.png\nwhat is this\n")
    _, problems = scan(tree.root)
    assert [(problem.kind, problem.path) for problem in problems] == [("list-row", IMAGES)]
    assert "2 rows" in problems[0].detail
    assert "line 19: 'MURA-v1.1/valid/XR_ELBOW" in problems[0].detail


def test_a_study_without_its_label_is_a_row_that_cant_be_read(tree) -> None:
    tree.edit(STUDIES, f"{STUDY}/,1", f"{STUDY}/,?")
    assert kinds(tree.root) == {"list-row": 1, "not-listed": 1}


@pytest.mark.parametrize("strange", [" " * 300_000 + "x", "train/XR_" * 30_000, 'train/XR_A"' + " " * 300_000 + '"'])
@pytest.mark.parametrize("name", [IMAGES, STUDIES])
def test_a_line_of_any_length_is_read_in_no_time(tree, name: str, strange: str) -> None:
    with (tree.root / name).open("a") as file:
        file.write(strange + "\n")  # a time that grows with the square would be minutes, and the test's end
    assert kinds(tree.root).keys() <= {"list-row", "listed-but-missing"}


def test_a_list_that_is_a_fifo_or_a_device_is_never_opened(tree) -> None:
    (tree.root / IMAGES).unlink()
    os.mkfifo(tree.root / IMAGES)
    (tree.root / STUDIES).unlink()
    (tree.root / STUDIES).symlink_to("/dev/zero")
    details = [problem.detail for problem in scan(tree.root)[1]]
    assert details == [f"can't be read (it is {kind}); the folder is used" for kind in ("a FIFO", "a device")]
