"""Own pictures in MURA's layout: complete, numbered anew, resumable; a fault is a line of the table, never a name."""

import csv
import io
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicom_files import dataset, mark_every_text_tag, saved
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mura.data.faults import check_folder
from mura.data.images import decode
from mura.data.importing import IMPORT, UNFINISHED, import_pictures
from mura.data.index import scan
from mura.data.own_plan import choose_valid, plan_pictures
from mura.data.own_table import Row
from mura.errors import MuraError

HEADER = ["path", "patient", "study", "extremity", "label"]
MARKS = re.compile("ZQ|QX97|T1-|kept")
"""What the cells and the names of files hold in these tests, and nothing else."""


class Own:
    """Pictures of 12 patients, two of each, and their table: wrist and elbow, normal and abnormal in turn."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.table = folder / "kept", folder / "out", folder / "table.csv"
        self.rows = [HEADER]
        for number in range(12):
            for view in (1, 2):
                path = f"ZQ{number}/T1-{view}.png"
                self.draw(path)
                extremity, label = ("wrist", "XR_ELBOW")[number % 2], ("normal", "1")[number // 2 % 2]
                self.rows.append([path, f"ZQ{number}", "QX97-1", extremity, label])
        self.write()

    def draw(self, path: str, size: int = 20) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(path.encode()))
        Image.fromarray(rng.integers(0, 4096, (size, size), dtype=np.uint16)).save(file)
        return file

    def write(self, separator: str = ",", encoding: str = "utf-8") -> None:
        text = io.StringIO()
        csv.writer(text, delimiter=separator).writerows(self.rows)
        self.table.write_bytes(text.getvalue().encode(encoding))

    def bring(self, **settings: Any) -> Path:
        import_pictures(self.folder, self.out, self.table, **settings)
        return self.out / "MURA-v1.1"


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def refusal_of(own: Own, **settings: Any) -> str:
    """Return the sentence of a refused import, which wrote nothing and says no name."""
    before = files_of(own.table.parent)
    with pytest.raises(MuraError) as caught:
        own.bring(**settings)
    assert files_of(own.table.parent) == before
    sentence = str(caught.value)
    assert not MARKS.search(sentence.replace(str(own.folder), ""))
    return sentence


def test_own_pictures_become_a_sound_data_set_in_muras_layout(own: Own) -> None:
    root = own.bring()
    report = check_folder(own.out)
    assert (report.problems, report.views, report.studies, report.patients) == ([], 24, 12, 12)
    assert sorted(path.name for path in root.iterdir()) == [
        IMPORT, "train", "train_image_paths.csv", "train_labeled_studies.csv", "valid", "valid_image_paths.csv",
        "valid_labeled_studies.csv",
    ]  # fmt: skip
    index, _ = scan(own.out)
    assert sorted(index["patient"].unique()) == [f"patient{number:05d}" for number in range(1, 13)]
    assert set(index["extremity"]) == {"elbow", "wrist"}
    for _, views in index.groupby("split"):
        assert len(views[["extremity", "label"]].drop_duplicates()) == 4, "both labels of both extremities"


def test_each_picture_is_where_the_mapping_says_with_its_pixels_and_its_label(own: Own, tmp_path: Path) -> None:
    root = own.bring(mapping=tmp_path / "mapping.csv")
    mapping = pd.read_csv(tmp_path / "mapping.csv").set_index("path")
    assert len(mapping) == 24
    for path, patient, study, extremity, label in own.rows[1:]:
        assert list(mapping.loc[path, ["patient", "study"]]) == [patient, study]
        place = mapping.loc[path, "picture"]
        assert extremity.upper().removeprefix("XR_") in place
        assert ("_positive/" in place) == (label == "1")
        assert np.array_equal(decode(root.parent / place), decode(own.folder / path))
        with Image.open(root.parent / place) as picture:
            assert (picture.format, picture.mode) == ("PNG", "I;16")
    assert mapping.groupby("patient")["picture"].apply(lambda each: each.str.split("/").str[3].nunique()).eq(1).all()


def test_patients_are_numbered_in_an_order_of_their_own(own: Own, tmp_path: Path) -> None:
    own.bring(mapping=tmp_path / "mapping.csv")
    mapping = pd.read_csv(tmp_path / "mapping.csv")
    numbers = mapping.set_index("patient")["picture"].str.extract(r"patient(\d+)")[0].astype(int)
    in_table = [numbers[f"ZQ{number}"].iloc[0] for number in range(12)]
    assert in_table not in (sorted(in_table), sorted(in_table, reverse=True))


@pytest.mark.parametrize(
    ("separator", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8"), (",", "utf-8-sig"), (";", "utf-8")]
)
def test_a_table_saved_by_another_program_is_the_same_import(own: Own, separator: str, encoding: str) -> None:
    before = files_of(own.bring())
    own.rows = [[name.title() for name in HEADER], *own.rows[1:], [""] * 5]
    own.write(separator, encoding)
    assert files_of(own.bring()) == before


@pytest.mark.parametrize(
    ("line", "column", "value", "sentence"),
    [
        (1, 1, "patents", "no column patient; the first line must name path, patient, study, extremity, label"),
        (1, 1, "path", "no column patient"),
        (3, 0, "", "the column path is empty"),
        (3, 1, " ", "the column patient is empty"),
        (3, 3, "ZQ knee", "the extremity is none of elbow, finger, forearm, hand, humerus, shoulder, wrist"),
        (3, 4, "ZQ 2", "the label is none of 0, normal, negative, 1, abnormal, positive"),
        (3, 0, "ZQ-gone.png", "the path leads to no file"),
        (3, 0, "ZQ0/T1-1.png/x", "the path leads to no file"),
        (3, 0, "ZQ\0.png", "the path leads to no file"),
        (3, 0, "ZQ" * 400, "the path can't be followed (File name too long)"),
        (3, 0, "ZQ0", "the path leads to a folder and no file"),
        (3, 0, "../outside-ZQ.png", "the path leads out of the folder"),
        (3, 0, "/etc/hostname", "the path leads out of the folder"),
        (3, 0, "out-link-ZQ.png", "the path leads out of the folder"),
        (3, 0, "ZQ0/T1-1.png", "the picture is also listed in line 2"),
        (3, 0, "ZQ1/../ZQ0/T1-1.png", "the picture is also listed in line 2"),
        (3, 0, "in-link-ZQ.png", "the picture is also listed in line 2"),
        (3, 4, "abnormal", "the study has another label in line 2"),
    ],
)
def test_a_bad_cell_is_told_by_its_line(own: Own, line: int, column: int, value: str, sentence: str) -> None:
    (own.folder.parent / "outside-ZQ.png").write_bytes(b"")
    (own.folder / "out-link-ZQ.png").symlink_to(own.folder.parent / "outside-ZQ.png")
    (own.folder / "in-link-ZQ.png").symlink_to(own.folder / "ZQ0" / "T1-1.png")
    own.rows[line - 1] = own.rows[line - 1].copy()
    own.rows[line - 1][column] = value
    own.write()
    assert refusal_of(own).startswith(f"table.csv, line {line}: {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "line 1: no column path, patient, study, extremity, label;"),
        (b"path,patient,study,extremity,label\n", "lists no picture"),
        (b"path,patient,study,extremity,label\nZQ0/T1-1.png,ZQ,1,wrist\n", "line 2: there are 4 cells and not 5"),
        (b"path,patient,study,extremity,label\nZQ0/T1-1.png,ZQ,1,wrist,1,ZQ\n", "line 2: there are 6 cells and not 5"),
        (b"path,patient,study,extremity,label,label\n", "line 1: there are two columns label"),
        (b'path,patient,study,extremity,label\n\n"ZQ0/T1-1.png,ZQ,1,wrist,1\n', "line 3: that is no CSV"),
        (
            b"path,patient,study,extremity,label\nZQ,Zo\xeb,1,wrist,1\n",
            "line 2: the text is not UTF-8",
        ),
        ("path,patient,study,extremity,label\nZQ,ZQ,1,wrist,1\n".encode("utf-16"), "line 1: the text is not UTF-8"),
    ],
    ids=["empty", "header", "short", "long", "double", "quote", "latin-1", "utf-16"],
)
def test_a_bad_table_is_one_sentence(own: Own, text: bytes, sentence: str) -> None:
    own.table.write_bytes(text)
    assert sentence in refusal_of(own)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"valid_fraction": 0.0}, "--valid-fraction 0.0: it must lie between 0 and 1"),
        ({"valid_fraction": 1.5}, "--valid-fraction 1.5: it must lie between 0 and 1"),
        ({"seed": -1}, "--seed -1: it must not be negative"),
        ({"mapping": "out/m.csv"}, "that is inside"),
        ({"mapping": "elsewhere/../out/deep/m.csv"}, "that is inside"),
        ({"mapping": "table.csv"}, "nothing is overwritten"),
        ({"mapping": "nowhere/m.csv"}, "there is no folder"),
    ],
)
def test_bad_settings_are_one_sentence(own: Own, settings: dict[str, Any], sentence: str) -> None:
    if "mapping" in settings:
        settings = {"mapping": own.table.parent / settings["mapping"]}
    assert sentence in refusal_of(own, **settings)


def test_a_table_of_one_patient_is_refused(own: Own) -> None:
    own.rows = own.rows[:3]
    own.write()
    assert "the table has one patient" in refusal_of(own)


def with_split(own: Own, *splits: str) -> None:
    """Give the patients the splits in turn."""
    own.rows = [[*HEADER, "Split"]] + [[*row, splits[int(row[1][2:]) % len(splits)]] for row in own.rows[1:]]
    own.write()


@pytest.mark.parametrize(
    ("splits", "tested"),
    [
        (("train", "train", "VALID"), {2, 5, 8, 11}),
        (("train", "train", "test"), {2, 5, 8, 11}),
        (("train", "valid", "test"), {2, 5, 8, 11}),  # validation views are taken from train/
    ],
)
def test_the_split_of_the_table_holds(
    own: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture, splits: tuple[str, ...], tested: set[int]
) -> None:
    with_split(own, *splits)
    caplog.set_level(logging.INFO)
    own.bring(mapping=tmp_path / "mapping.csv")
    mapping = pd.read_csv(tmp_path / "mapping.csv")
    in_valid = mapping[mapping["picture"].str.startswith("MURA-v1.1/valid/")]["patient"]
    assert set(in_valid) == {f"ZQ{number}" for number in tested}
    assert ("valid joins train/" in caplog.text) == (len(set(splits)) == 3)


def test_a_patient_is_never_on_both_sides(own: Own) -> None:
    with_split(own, "train", "test")
    own.rows[2][-1] = "test"
    own.write()
    assert refusal_of(own) == "table.csv, line 3: the patient has another split in line 2."
    own.rows = [row[:-1] for row in own.rows]
    own.write()
    for seed in range(3):
        shutil.rmtree(own.out, ignore_errors=True)
        own.bring(seed=seed, valid_fraction=0.3)
        index, problems = scan(own.out)
        assert problems == []
        assert index.groupby("patient")["split"].nunique().eq(1).all()


@pytest.mark.parametrize("splits", [("train",), ("test",), ("valid",)])
def test_a_split_of_one_part_is_refused(own: Own, splits: tuple[str, ...]) -> None:
    with_split(own, *splits)
    assert "the column split gives only one part" in refusal_of(own)


def test_a_fraction_beside_a_split_is_refused(own: Own) -> None:
    with_split(own, "train", "test")
    assert "the table has a column split; leave one of the two out" in refusal_of(own, valid_fraction=0.2)


def rows_of(kinds: list[list[tuple[str, int]]]) -> list[Row]:
    """A row for each study; each patient has those of one list."""
    return [
        Row(0, "", str(number), "1", extremity, label, None, "", (0, 0))
        for number, own in enumerate(kinds)
        for extremity, label in own
    ]


def test_both_labels_are_on_both_sides_where_two_patients_have_them() -> None:
    kinds: list[list[tuple[str, int]]] = [[("wrist", 0)]] * 50 + [[("wrist", 1)]] * 2 + [[("hand", 1)]]
    for seed in range(5):
        order = [str(number) for number in np.random.default_rng(seed).permutation(len(kinds))]
        chosen = choose_valid(order, rows_of(kinds), 0.1)
        assert len(chosen & {"50", "51"}) == 1
        assert "52" not in chosen, "the only patient of a kind stays in train"
        assert len(chosen) == 6


def test_studies_and_pictures_are_numbered_as_in_mura() -> None:
    """Studies within patient and extremity, pictures within a study, in the order of the table."""
    visits = [("a", "wrist"), ("b", "wrist"), ("a", "wrist"), ("a", "hand")]
    rows = [Row(0, "", "P", study, extremity, 0, "train", "", (0, 0)) for study, extremity in visits]
    rows.append(Row(0, "", "Q", "a", "wrist", 1, "test", "", (0, 0)))
    assert [picture.path for picture in plan_pictures(rows, None, 0)] == [
        "train/XR_HAND/patient00001/study1_negative/image1.png",
        "train/XR_WRIST/patient00001/study1_negative/image1.png",
        "train/XR_WRIST/patient00001/study1_negative/image2.png",
        "train/XR_WRIST/patient00001/study2_negative/image1.png",
        "valid/XR_WRIST/patient00002/study1_positive/image1.png",
    ]


def test_there_is_a_test_part_even_if_it_has_one_label() -> None:
    rows = rows_of([[("wrist", 0)], [("wrist", 1)]])
    assert choose_valid(["1", "0"], rows, 0.1) == {"1"}


def test_a_label_that_is_missing_somewhere_is_said(own: Own, caplog: pytest.LogCaptureFixture) -> None:
    with_split(own, "train", "train", "test", "train")
    caplog.set_level(logging.INFO)
    own.bring()
    assert "valid: elbow has no normal and no abnormal picture" in caplog.text
    assert "valid: wrist has no normal picture" in caplog.text


def test_columns_that_are_not_used_are_said_by_their_places(own: Own, caplog: pytest.LogCaptureFixture) -> None:
    own.rows = [["ZQage", *HEADER, "splitt"]] + [["", *row, "train"] for row in own.rows[1:]]
    own.write()
    caplog.set_level(logging.INFO)
    own.bring()
    assert "table.csv: not used: column 1, 7" in caplog.text


def test_an_import_that_is_finished_is_left_as_it_is_and_another_one_is_refused(own: Own, tmp_path: Path) -> None:
    root = own.bring()
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert own.bring() == root
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    assert "is not of this table, folder and settings; nothing is overwritten" in refusal_of(own, seed=1)
    own.rows[1][4] = own.rows[2][4] = "abnormal"
    own.write()
    assert "nothing is overwritten" in refusal_of(own)


@pytest.mark.parametrize("name", ["train/XR_WRIST/x", "MURA-v1.1/train/x", f"{UNFINISHED}/x"])
def test_a_folder_that_holds_something_else_is_refused(own: Own, name: str) -> None:
    (own.out / name).parent.mkdir(parents=True)
    (own.out / name).write_bytes(b"")
    assert "name another folder" in refusal_of(own)


def test_a_folder_called_as_the_data_set_is_refused(own: Own) -> None:
    own.out = own.out / "MURA-v1.1"
    assert "name the one above" in refusal_of(own)


def test_a_picture_that_cannot_be_decoded_stops_the_import_until_it_is_mended(own: Own) -> None:
    file = own.folder / own.rows[9][0]
    content = file.read_bytes()
    file.write_bytes(content[:200])
    with pytest.raises(MuraError, match=r"^table.csv, line 10: the picture is truncated: .* --skip-unreadable\.$"):
        own.bring()
    assert not (own.out / "MURA-v1.1").exists()
    with pytest.raises(MuraError, match="an unfinished import of another table, folder or settings"):
        own.bring(seed=1)
    unfinished = own.out / UNFINISHED
    before = {file.relative_to(unfinished): file.stat().st_mtime_ns for file in unfinished.rglob("*.png")}
    file.write_bytes(content)
    root = own.bring()
    assert before
    assert {file: (root / file).stat().st_mtime_ns for file in before} == before
    assert check_folder(root).problems == []
    assert check_folder(root).views == 24


def test_unreadable_pictures_are_left_out_and_counted_on_request(own: Own, caplog: pytest.LogCaptureFixture) -> None:
    contents = {3: b"", 4: b"no picture, of ZQ", 8: b"\x89PNG\r\n\x1a\n" + b"\0\0\0\4ZQZQ" * 4, 12: b"GIF89a ZQ"}
    for line, content in contents.items():
        (own.folder / own.rows[line - 1][0]).write_bytes(content)
    said = import_pictures(own.folder, own.out, own.table, skip_unreadable=True)
    assert said.endswith("; 4 left out")
    named = re.findall(r"table.csv, line (\d+): the picture .*; left out", caplog.text)
    assert sorted(map(int, named)) == sorted(contents)
    assert not MARKS.search("\n".join(record.getMessage() for record in caplog.records))
    report = check_folder(own.out)
    assert (report.problems, report.views) == ([], 20)


def test_without_any_readable_picture_there_is_no_data_set(own: Own) -> None:
    for row in own.rows[1:]:
        (own.folder / row[0]).write_bytes(b"")
    with pytest.raises(MuraError, match="no picture of train can be read"):
        own.bring(skip_unreadable=True)
    assert not (own.out / "MURA-v1.1").exists()


def test_a_read_that_fails_is_no_damage(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura.files.PAUSE", 0)
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "T1-2.png":
            raise OSError(5, "Input/output error", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(
        MuraError, match=r"line \d+: the picture can't be read \(Input/output error\); mend that"
    ) as caught:
        own.bring(skip_unreadable=True)
    assert not MARKS.search(str(caught.value))


def test_nobody_is_named_anywhere(own: Own, tmp_path: Path) -> None:
    """Names of files and cells hold a mark, and so do the texts in DICOM and PNG files."""
    grey = (np.arange(1200).reshape(40, 30) % 256).astype(np.uint16) * 16
    for number, row in enumerate(own.rows[1:9]):
        made = dataset(np.roll(grey, 7 * number, axis=1), 12, PhotometricInterpretation=f"MONOCHROME{1 + number % 2}")
        content = saved(mark_every_text_tag(made))
        (own.folder / row[0]).write_bytes(content[:-200] if number == 5 else content)
    text = PngInfo()
    text.add_text("Patient", "ZQ")
    Image.fromarray(grey).save(own.folder / own.rows[9][0], pnginfo=text)
    command = [sys.executable, "-m", "mura", "import", "kept", "out", "--table", "table.csv"]
    for more, code in (([], 1), (["--skip-unreadable"], 0), ([], 0), (["--seed", "3"], 1)):
        ended = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
        assert not MARKS.search(ended.stdout + ended.stderr)
        for path, content in files_of(own.out).items():
            assert not MARKS.search(path)
            assert not MARKS.search(content.decode("latin-1")), path
    assert "; 1 left out" in ended.stdout or ended.returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "out", "table.csv"]


@pytest.fixture
def started(own: Own, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """`mura import` of many pictures, in a process of its own."""
    for number in range(150):
        path = f"many/{number}.png"
        own.draw(path, 300)
        own.rows.append([path, str(number), "1", "hand", str(number % 2)])
    own.write()
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mura", "import", "kept", "out", "--table", "table.csv"]
        processes.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_import_that_was_killed_goes_on(
    own: Own, started: Callable[[], subprocess.Popen[str]], number: signal.Signals
) -> None:
    process, unfinished = started(), own.out / UNFINISHED
    while not any(unfinished.rglob("image*.png")):
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(MuraError, match="another process is importing there"):
        own.bring()
    process.send_signal(number)
    process.wait()
    assert process.returncode in (-signal.SIGKILL, 130)
    assert not (own.out / "MURA-v1.1").exists()
    assert not list(unfinished.glob("*.csv"))
    before = {file.relative_to(unfinished): file.stat().st_mtime_ns for file in unfinished.rglob("image*.png")}
    assert 0 < len(before) < 174
    (unfinished / next(iter(before))).with_name(".image9.png.0123abcd").write_bytes(b"cut")
    root = own.bring()
    assert {file: (root / file).stat().st_mtime_ns for file in before} == before
    report = check_folder(root)
    assert (report.problems, report.views) == ([], 174)
    assert [path.name for path in own.out.iterdir() if path.name != ".import.lock"] == ["MURA-v1.1"]


def test_a_place_that_cannot_be_written_is_one_sentence(own: Own) -> None:
    own.out = own.table / "out"
    assert "can't be written (Not a directory); the same command goes on later" in refusal_of(own)
