"""What `mura check` reports: counts, and every fault of a folder once."""

import io
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mura.data.faults import Report, check_folder, render
from mura.data.problems import Problem
from mura.errors import MuraError

STUDY = "train/XR_WRIST/patient00002/study1_positive"
OTHER_PATIENT = "train/XR_ELBOW/patient00003/study1_positive"


def printed(report: Report) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(render(report))
    return console.file.getvalue()


def problems_of(root: Path) -> list[tuple[str, str]]:
    return [(problem.kind, problem.path) for problem in check_folder(root).problems]


def test_a_sound_folder_is_counted_and_clean(tree) -> None:
    report = check_folder(tree.root)
    assert report.to_dict() == {
        "views": 21,
        "studies": 7,
        "patients": 5,
        "counts": {
            "train": {
                "elbow": {"normal": 1, "abnormal": 2, "studies": 2, "patients": 2},
                "wrist": {"normal": 12, "abnormal": 3, "studies": 3, "patients": 2},
            },
            "test": {
                "elbow": {"normal": 0, "abnormal": 1, "studies": 1, "patients": 1},
                "wrist": {"normal": 2, "abnormal": 0, "studies": 1, "patients": 1},
            },
        },
        "problems": [],
    }


def test_the_report_goes_through_json(tree) -> None:
    (tree.root / STUDY / "._image1.png").touch()
    report = check_folder(tree.root).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["problems"] == [
        {"kind": "mac-file", "path": f"{STUDY}/._image1.png", "detail": "left by macOS, no picture; ignored"}
    ]


def test_damaged_pictures_are_reported_each_with_its_fault(tree) -> None:
    whole = (tree.root / STUDY / "image1.png").read_bytes()
    (tree.root / STUDY / "image1.png").write_bytes(whole[: len(whole) // 2])
    (tree.root / STUDY / "image2.png").write_bytes(b"")
    (tree.root / STUDY / "image3.png").write_bytes(b"<html>404</html>")
    report = check_folder(tree.root)
    assert [(problem.kind, problem.path) for problem in report.problems] == [
        ("empty", f"{STUDY}/image2.png"),
        ("truncated", f"{STUDY}/image1.png"),
        ("unreadable", f"{STUDY}/image3.png"),
    ]
    assert report.problems[1].detail == f"is truncated: it ends after {len(whole) // 2} bytes."
    assert report.views == 21


def test_blank_pictures_and_pictures_of_other_kinds_are_named(tree) -> None:
    Image.new("L", (40, 30), 77).save(tree.root / STUDY / "image1.png")
    Image.new("L", (41, 31)).save(tree.root / STUDY / "image2.png")
    Image.new("L", (40, 30)).save(tree.root / STUDY / "image3.png", "GIF")
    problems = {problem.path: (problem.kind, problem.detail) for problem in check_folder(tree.root).problems}
    assert problems == {
        f"{STUDY}/image1.png": ("blank", "is blank: all its pixels are 77 of 255"),
        f"{STUDY}/image2.png": ("blank", "is blank: all its pixels are 0 of 255"),
        f"{STUDY}/image3.png": (
            "unsupported",
            "is a GIF picture, which is not read: save it as a PNG of 8 or 16 bits.",
        ),
    }


def test_empty_files_are_not_duplicates_of_each_other(tree) -> None:
    for path in (f"{STUDY}/image1.png", f"{OTHER_PATIENT}/image1.png"):
        (tree.root / path).write_bytes(b"")
    assert Counter(kind for kind, _ in problems_of(tree.root)) == {"empty": 2}


def test_a_link_to_nowhere_is_a_missing_picture(tree) -> None:
    (tree.root / STUDY / "image1.png").unlink()
    (tree.root / STUDY / "image1.png").symlink_to(tree.root / "gone.png")
    assert problems_of(tree.root) == [("missing", f"{STUDY}/image1.png")]


def test_equal_pictures_of_two_patients_are_reported_once(tree) -> None:
    for name in ("image1.png", "image2.png"):
        shutil.copyfile(tree.root / STUDY / "image1.png", tree.root / OTHER_PATIENT / name)
    (problem,) = check_folder(tree.root).problems
    assert problem == Problem(
        "duplicate-across-patients",
        f"{OTHER_PATIENT}/image1.png",
        f"same bytes as {OTHER_PATIENT}/image2.png, {STUDY}/image1.png",
    )


def test_equal_pictures_in_train_and_valid_are_a_leak(tree) -> None:
    test_picture = "valid/XR_WRIST/patient11186/study1_negative/image2.png"
    shutil.copyfile(tree.root / STUDY / "image1.png", tree.root / test_picture)
    (problem,) = check_folder(tree.root).problems
    assert problem == Problem("duplicate-across-splits", f"{STUDY}/image1.png", f"same bytes as {test_picture}")


def test_equal_pictures_of_one_patient_are_no_problem(tree) -> None:
    shutil.copyfile(tree.root / STUDY / "image1.png", tree.root / STUDY / "image2.png")
    assert problems_of(tree.root) == []


def test_faults_of_lists_and_folders_are_reported_too(tree) -> None:
    tree.draw("valid/XR_WRIST/patient00010/study1_negative/image1.png")
    tree.write_lists()
    tree.edit("train_labeled_studies.csv", f"{STUDY}/,1", f"{STUDY}/,0")
    (tree.root / "valid_image_paths.csv").unlink()
    assert problems_of(tree.root) == [
        ("label-disagrees", STUDY),
        ("patient-in-both-splits", "train/XR_WRIST/patient00010"),
        ("missing-list", "valid_image_paths.csv"),
    ]


def test_a_patient_with_several_extremities_is_one_patient(tree) -> None:
    report = check_folder(tree.root)
    assert report.patients == 5
    assert sum(count["patients"] for split in report.counts.values() for count in split.values()) == 6


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MuraError, match="is not a MURA folder"):
        check_folder(tmp_path)


def test_nothing_is_written_to_stdout(tree, capfd: pytest.CaptureFixture[str]) -> None:
    check_folder(tree.root)
    assert capfd.readouterr().out == ""


def test_people_see_counts_with_totals(tree) -> None:
    text = printed(check_folder(tree.root))
    assert "21 views, 7 studies, 5 patients" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["train", "wrist", "12", "3", "(20.0%)", "15", "3", "2"] in rows
    assert ["train", "all", "13", "5", "(27.8%)", "18", "5"] in rows
    assert ["test", "all", "2", "1", "(33.3%)", "3", "2"] in rows
    assert "No problems." in text


def test_people_see_problems_by_kind_and_the_first_few_of_each(tree) -> None:
    for number in range(20, 27):
        (tree.root / STUDY / f"[red]{number}.txt").touch()
    (tree.root / STUDY / "image1.png").write_bytes(b"")
    text = printed(check_folder(tree.root))
    assert "1 pictures of 0 bytes" in text
    assert f"{STUDY}/image1.png: is empty (0 bytes)." in text
    assert "7 files and folders that don't belong to MURA (ignored)" in text
    assert "[red]20.txt" in text
    assert "[red]25.txt" not in text
    assert "and 2 more" in text
    assert "No problems." not in text


def test_what_a_terminal_would_obey_is_escaped(tree) -> None:
    (tree.root / STUDY / "evil\x1b[31m\nname").touch()
    (tree.root / STUDY / os.fsdecode(b"caf\xe9")).touch()
    text = printed(check_folder(tree.root))
    assert r"evil\x1b[31m\nname: not" in text.replace("\n", "")
    assert r"caf\udce9" in text
    assert "\x1b" not in text


def test_a_picture_that_could_not_be_read_is_no_damage(tree, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "image2.png" and STUDY in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    (problem,) = check_folder(tree.root).problems
    assert problem == Problem("unread", f"{STUDY}/image2.png", "can't be read (Permission denied).")
