"""The index says what is in the folder, and every disagreement with the lists is reported."""

import logging
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mura.data.index import COLUMNS, content_hashes, find_root, fingerprint, read_index, scan, stat_digest
from mura.errors import MuraError

IMAGES, STUDIES = "train_image_paths.csv", "train_labeled_studies.csv"
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
    for path in (f"{STUDY}/image4.jpg", f"{STUDY}/copy of image1.png", "valid/notes.txt"):
        (tree.root / path).touch()
    assert kinds(tree.root) == {"unknown-file": 6}
    assert len(read_index(tree.root)) == 21


def test_files_beside_train_and_valid_are_nobodys_business(tree) -> None:
    (tree.root / "boxes.csv").write_text("path,x,y\n")
    (tree.root / "README").touch()
    assert kinds(tree.root) == {}


@pytest.mark.parametrize("name", [IMAGES, STUDIES])
@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("header row", lambda text: "path,label\n" + text),
        ("header row", lambda text: "\n" + "images\n" + text),
        ("CRLF line ends", lambda text: text.replace("\n", "\r\n")),
        ("trailing commas", lambda text: text.replace("\n", ",\n")),
        ("trailing commas", lambda text: text.replace("\n", ",,\n")),
        ("byte order mark", lambda text: "\ufeff" + text),
        ("blank lines", lambda text: text.replace("\n", "\n\n") + "  \n"),
        ("rows twice", lambda text: text + text.splitlines()[0] + "\n"),
    ],
)
def test_a_list_in_another_form_is_read_all_the_same(tree, name: str, form: str, change) -> None:
    text = (tree.root / name).read_text(encoding="utf-8")
    (tree.root / name).write_text(change(text), encoding="utf-8", newline="")
    index, problems = scan(tree.root)
    assert len(index) == 21
    assert [(problem.kind, problem.path) for problem in problems] == [("list-format", name)]
    assert form in problems[0].detail


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
    assert kinds(tree.root) == {"missing-list": 1, "list-format": 1}


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


def test_a_study_with_both_labels_is_reported(tree) -> None:
    tree.draw(f"{STUDY.replace('positive', 'negative')}/image1.png")
    tree.write_lists()
    assert "two-labels" in kinds(tree.root)
    assert len(read_index(tree.root)) == 22


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


def test_a_fingerprint_names_the_data_wherever_it_lies(tree, tmp_path: Path) -> None:
    def of(root: Path) -> str:
        index = read_index(root)
        return fingerprint(root, index, content_hashes(root, index))

    original = of(tree.root)
    assert len(original) == 32
    copy = shutil.copytree(tree.root, tmp_path / "elsewhere" / "mura", copy_function=shutil.copyfile)
    assert of(copy) == original
    assert of(tmp_path / "MURA-v1.1") == original
    (copy / STUDY / "image1.png").write_bytes(b"other")
    changed = of(copy)
    (copy / STUDY / "image1.png").unlink()
    assert len({original, changed, of(copy)}) == 3


def test_a_renamed_study_changes_the_fingerprint(tree) -> None:
    index = read_index(tree.root)
    hashes = content_hashes(tree.root, index)
    flipped = index.assign(label=1 - index["label"])
    assert fingerprint(tree.root, flipped, hashes) != fingerprint(tree.root, index, hashes)


def test_an_unreadable_file_has_the_digest_of_nothing(tree) -> None:
    index = read_index(tree.root)
    (tree.root / index["path"][3]).unlink()
    (tree.root / index["path"][5]).write_bytes(b"")
    hashes = content_hashes(tree.root, index)
    assert hashes[3] == hashes[5]
    assert len(set(hashes)) == 20


def test_the_stat_digest_changes_with_size_or_time_of_a_file(tree) -> None:
    index = read_index(tree.root)
    file = tree.root / index["path"][0]
    digests = [stat_digest(tree.root, index), stat_digest(tree.root.parent, index)]
    assert digests[0] == digests[1]
    file.write_bytes(file.read_bytes() + b"\0")
    digests.append(stat_digest(tree.root, index))
    file.unlink()
    digests.append(stat_digest(tree.root, index))
    assert len(set(digests)) == 3
