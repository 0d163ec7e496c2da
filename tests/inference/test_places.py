"""Which pictures a user means who names files and folders, and what is said of the rest."""

import logging
import os
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from mura.errors import MuraError
from mura.inference.places import find_pictures
from mura.inference.predict import COLUMNS, print_studies


@pytest.fixture(autouse=True)
def hear_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two studies, of two pictures and of one."""
    for name in ("first/a.png", "first/b.JPG", "second/c.tif"):
        draw(tmp_path / "studies" / name)
    return tmp_path / "studies"


def draw(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(str(file).encode())).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def names(places: list[Path]) -> list[str]:
    return [Path(path).name for path, _ in find_pictures(places).pictures]


def left_out(caplog: pytest.LogCaptureFixture) -> str:
    [line] = caplog.messages
    return line.removeprefix("left out: ")


def test_the_pictures_of_a_folder_are_a_study_and_nothing_is_said_of_a_clean_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures, faults = find_pictures([folder])
    assert names([folder]) == ["a.png", "b.JPG", "c.tif"]
    assert [Path(study).name for _, study in pictures] == ["first", "first", "second"]
    assert faults == []
    assert caplog.messages == []


def test_what_is_no_picture_is_left_out_and_counted_by_kind(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("notes.txt", "first/more.TXT", "first/scan.dcm", "second/README", "second/._c.tif", ".DS_Store"):
        (folder / name).touch()
    assert names([folder]) == ["a.png", "b.JPG", "c.tif"]
    kinds = set(left_out(caplog).split(", "))
    assert kinds == {".txt (2)", "hidden files (2)", ".dcm (1)", "without an ending (1)"}


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", ".thumbs", ".thumbnails", "__MACOSX", "#recycle"])
def test_copies_that_programs_leave_are_passed_over(name: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(folder / "first" / name / "a-checkpoint.png")
    draw(folder / name / "deeper" / "a.png")
    assert names([folder]) == ["a.png", "b.JPG", "c.tif"]
    assert left_out(caplog) == f"folder {name} (2)"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_and_its_target_count_once(link, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    link(folder / "second" / "c.tif", folder / "first" / "0.tif")
    pictures = find_pictures([folder]).pictures
    assert len(pictures) == 3
    assert link is os.link or str(folder / "second" / "c.tif") in dict(pictures)  # the target stays, not the link
    assert left_out(caplog) == "named twice, or a link to another (1)"


def test_a_picture_that_is_named_twice_counts_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert names([folder, folder / "first" / "a.png", folder]) == ["a.png", "b.JPG", "c.tif"]
    assert left_out(caplog) == "named twice, or a link to another (4)"


def test_a_linked_folder_is_entered_once_and_a_circle_ends(folder: Path, tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere" / "d.png")
    (folder / "third").symlink_to(tmp_path / "elsewhere")
    (folder / "fourth").symlink_to(tmp_path / "elsewhere")
    (folder / "first" / "up").symlink_to(folder)
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere" / "self")
    assert sorted(names([folder])) == ["a.png", "b.JPG", "c.tif", "d.png"]


def test_what_cant_be_opened_stays_for_who_reads_it_to_say_so(folder: Path) -> None:
    os.mkfifo(folder / "first" / "pipe.png")
    (folder / "first" / "zero.png").symlink_to("/dev/zero")
    (folder / "first" / "self.png").symlink_to(folder / "first" / "self.png")
    (folder / "first" / "gone.png").symlink_to(folder / "nowhere")
    in_folder = {name for name in names([folder]) if name not in ("a.png", "b.JPG", "c.tif")}
    assert in_folder == {"pipe.png", "zero.png", "self.png", "gone.png"}
    assert set(names([folder / "first" / name for name in in_folder])) == in_folder


def test_a_folder_that_cant_be_read_is_a_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str):
        if str(path).endswith("second"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    pictures, faults = find_pictures([folder])
    assert len(pictures) == 2
    assert faults == [f"{folder / 'second'} can't be read (Permission denied)."]


def test_a_folder_without_a_picture_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MuraError, match="empty holds no picture"):
        find_pictures([folder, tmp_path / "empty"])


def test_a_name_that_is_too_long_is_a_picture_that_is_not_there(folder: Path) -> None:
    assert names([folder, Path("x" * 300)])[-1] == "x" * 300


# --- the table on a terminal ------------------------------------------------------------------------------


def shown(studies: dict[str, int], width: int) -> str:
    rows = [
        (f"{study}/{number}.png", "humerus", 0.1 + number / 100, study, 0.5, "abnormal")
        for study, pictures in studies.items()
        for number in range(pictures)
    ]
    console = Console(file=StringIO(), width=width)
    print_studies(pd.DataFrame(rows, columns=COLUMNS), console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_value_is_shown_whatever_the_width(width: int) -> None:
    text = shown({"/data/train/XR_HUMERUS/patient00001/study1_positive": 30, "/data/" + "long" * 30: 2}, width)
    for number in range(30):
        assert f"{0.1 + number / 100:.2f}" in text
    assert text.count("0.500") == 2
    assert text.count("humerus") == 2
    assert "…" not in text


def test_names_are_shown_as_they_are_and_nothing_of_them_is_obeyed() -> None:
    text = shown({"/data/[red]bold[/]/\x1b[31mx": 1, "/data/caf\udce9": 1}, 120)
    assert r"[red]bold[/]/\x1b[31mx" in text
    assert r"caf\udce9" in text


def test_studies_named_from_here_and_from_the_root_stand_in_one_table(tmp_path: Path) -> None:
    assert "0.500" in shown({"here": 1, str(tmp_path / "there"): 1}, 120)
