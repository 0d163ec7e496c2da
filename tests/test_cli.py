"""The `mura` command, as typed: what it writes and prints, and one sentence for each fault."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import write_study

from mura.extremities import EXTREMITIES, FOLDER_OF

LISTS = [
    "train_image_paths.csv", "train_labeled_studies.csv", "valid_image_paths.csv", "valid_labeled_studies.csv",
    "boxes.csv",
]  # fmt: skip

Mura = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mura(tmp_path: Path) -> Mura:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("mura")), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    return run


def refused(found: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    assert found.returncode == code, found.stderr
    [sentence] = found.stderr.strip().splitlines()
    assert sentence.startswith("mura: ")
    for word in words:
        assert word in sentence
    assert found.stdout == ""


@pytest.fixture
def copy(mura_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mura_root, tmp_path / "MURA-v1.1"))


def test_synth_writes_muras_layout_and_refuses_to_write_there_again(mura: Mura, tmp_path: Path) -> None:
    found = mura("synth", "made/here", "--patients", 20, "--size", 40, "--valid-fraction", 0.4)
    assert found.returncode == 0, found.stderr
    root = tmp_path / "made" / "here" / "MURA-v1.1"
    assert found.stdout.strip() == "made/here/MURA-v1.1"
    assert sorted(path.name for path in root.iterdir()) == sorted(["train", "valid", *LISTS])
    for split in ("train", "valid"):
        assert {path.name for path in (root / split).iterdir()} == set(FOLDER_OF.values())
        listed = (root / f"{split}_image_paths.csv").read_text().split()
        on_disk = [f"MURA-v1.1/{path.relative_to(root).as_posix()}" for path in (root / split).rglob("*.png")]
        assert sorted(listed) == sorted(on_disk)
    with Image.open(next(root.rglob("*.png"))) as picture:
        assert max(picture.size) == 40

    assert mura("check", root).returncode == 0
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    refused(mura("synth", "made/here", "--patients", 20), "is there already and not empty: nothing is overwritten")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_synth_preview_draws_a_contact_sheet_and_nothing_else(mura: Mura, tmp_path: Path) -> None:
    found = mura("synth", "--preview", "sheet.png")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "sheet.png"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 7 * 200
        assert np.asarray(sheet).std() > 10
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["synth"], "name the folder to write to: mura synth DIR"),
        (["synth", "new", "--patients", 3], "patients is 3: at least 14 are needed."),
        (["synth", "new", "--size", 5], "size is 5: it must be from 32 to 1024 pixels."),
        (
            ["synth", "new", "--world", "flat"],
            "world is 'flat': it must be one of shared, common, conflicting, separate, null.",
        ),
        (["synth", "file/below", "--patients", 14, "--size", 32], "Could not write the synthetic data set"),
        (["synth", "--preview", "file/sheet.png"], "Could not write the contact sheet file/sheet.png"),
    ],
)
def test_synth_answers_a_faulty_wish_with_one_sentence(
    arguments: list[object], sentence: str, mura: Mura, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    refused(mura(*arguments), sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_check_of_a_clean_folder_counts_and_exits_with_0(mura: Mura, mura_root: Path) -> None:
    found = mura("check", mura_root)
    assert found.returncode == 0, found.stdout
    assert "No problems." in found.stdout
    assert "182 patients" in found.stdout
    for extremity in EXTREMITIES:
        assert extremity in found.stdout


def test_check_of_a_faulty_folder_lists_the_problems_and_exits_with_1(mura: Mura, copy: Path) -> None:
    damaged = sorted(copy.rglob("image1.png"))[0]
    damaged.write_bytes(b"")
    found = mura("check", copy)
    assert found.returncode == 1
    assert "1 pictures of 0 bytes" in found.stdout
    assert damaged.parent.name in found.stdout
    assert "Traceback" not in found.stderr


def test_check_json_is_exactly_what_was_contracted(mura: Mura, copy: Path) -> None:
    damaged, copied, leaked = sorted((copy / "train" / "XR_WRIST").rglob("image1.png"))[:3]
    shutil.copyfile(copied, next((copy / "valid" / "XR_WRIST").rglob("image1.png")))
    damaged.write_bytes(leaked.read_bytes()[:40])
    found = mura("check", copy, "--json")
    assert found.returncode == 1
    report = json.loads(found.stdout)  # nothing else on stdout
    assert list(report) == ["views", "studies", "patients", "counts", "problems"]
    assert (report["views"], report["studies"], report["patients"]) == (len(list(copy.rglob("*.png"))), 182, 182)
    assert list(report["counts"]) == ["train", "test"]
    for counts in report["counts"].values():
        assert list(counts) == list(EXTREMITIES)
        for count in counts.values():
            assert list(count) == ["normal", "abnormal", "studies", "patients"]
    listed = (copy / "train_image_paths.csv").read_text().split()
    signs = Counter(path.split("/")[-2].rpartition("_")[2] for path in listed if "XR_HAND" in path)
    assert report["counts"]["train"]["hand"] == {
        "normal": signs["negative"], "abnormal": signs["positive"], "studies": 20, "patients": 20,
    }  # fmt: skip
    for problem in report["problems"]:
        assert list(problem) == ["kind", "path", "detail"]
    assert [problem["kind"] for problem in report["problems"]] == ["duplicate-across-splits", "truncated"]
    assert [problem["path"] for problem in report["problems"]] == [
        copied.relative_to(copy).as_posix(),
        damaged.relative_to(copy).as_posix(),
    ]


def test_check_json_of_a_clean_folder_has_no_problems_and_exits_with_0(mura: Mura, mura_root: Path) -> None:
    found = mura("check", mura_root, "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["problems"] == []
    assert found.stderr == ""


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_check_of_a_wrong_folder_is_one_sentence(json_too: list[str], mura: Mura, tmp_path: Path) -> None:
    refused(mura("check", tmp_path, *json_too), "is not a MURA folder: expected train/ and valid/", "an empty folder")
    refused(mura("check", tmp_path / "nowhere", *json_too), "no such folder")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["synth", "check", "mura train --help"]),
        (["synth", "--help"], ["--patients", "--size", "--seed", "--world", "--full", "--preview", "MURA's layout"]),
        (["check", "--help"], ["--json", "exit code 1"]),
    ],
)
def test_help_names_the_commands_and_their_options(arguments: list[str], words: list[str], mura: Mura) -> None:
    found = mura(*arguments)
    assert found.returncode == 0
    for word in words:
        assert word in found.stdout
    assert found.stderr == ""


def test_plan_answers_from_a_pilot_and_refuses_one_seed_in_a_sentence(mura: Mura, tmp_path: Path) -> None:
    write_study(tmp_path / "pilot", seeds=(0, 1), patients=8)
    found = mura("plan", "pilot", "--target", 4)
    assert found.returncode == 0, found.stderr
    assert "cnn4, unified / specialised" in found.stdout
    assert "4 points" in found.stdout
    refused(mura("plan", "pilot", "--target", 0), "--target 0: must be a difference in points", code=2)
    refused(mura("plan", "nowhere"), "nowhere is not a folder")
    write_study(tmp_path / "one", patients=8)
    refused(mura("plan", "one"), "one: cnn4, unified and specialised: with one seed", "two seeds an arm at least")


@pytest.mark.parametrize("arguments", [["chekc", "."], ["check"], ["check", ".", "--jsn"]])
def test_a_mistyped_command_line_shows_the_usage_and_exits_with_2(arguments: list[str], mura: Mura) -> None:
    found = mura(*arguments)
    assert found.returncode == 2
    assert "Usage: mura" in found.stderr
    assert "Traceback" not in found.stderr
