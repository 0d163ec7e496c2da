"""A fingerprint names the content of a folder, wherever it lies and whatever it is called."""

import os
import shutil
import time
from pathlib import Path

import pytest

from mura.data.fingerprint import AHEAD, content_hashes, fingerprint, folder_state, map_in_threads
from mura.data.index import find_root, read_index
from mura.errors import MuraError

STUDY = "train/XR_WRIST/patient00002/study1_positive"


def test_a_fingerprint_names_the_data_wherever_it_lies(tree, tmp_path: Path) -> None:
    def fingerprint_of(root: Path) -> str:
        index = read_index(root)
        return fingerprint(index, content_hashes(root, index))

    original = fingerprint_of(tree.root)
    assert len(original) == 32
    copy = shutil.copytree(tree.root, tmp_path / "elsewhere" / "mura", copy_function=shutil.copyfile)
    assert fingerprint_of(copy) == original
    assert fingerprint_of(tmp_path / "MURA-v1.1") == original
    (copy / STUDY / "image1.png").write_bytes(b"other")
    changed = fingerprint_of(copy)
    (copy / STUDY / "image1.png").unlink()
    assert len({original, changed, fingerprint_of(copy)}) == 3


def test_a_renamed_study_changes_the_fingerprint(tree) -> None:
    index = read_index(tree.root)
    hashes = content_hashes(tree.root, index)
    flipped = index.assign(label=1 - index["label"])
    assert fingerprint(flipped, hashes) != fingerprint(index, hashes)


def test_there_is_no_fingerprint_of_a_file_that_cant_be_read(tree) -> None:
    index = read_index(tree.root)
    (tree.root / index["path"][3]).unlink()
    with pytest.raises(MuraError, match=r"image1\.png can't be read .*need not mean that it is damaged"):
        content_hashes(tree.root, index)


def test_the_state_by_size_stays_with_other_times_and_another_place(tree, tmp_path: Path) -> None:
    copy = shutil.copytree(tree.root, tmp_path / "elsewhere" / "mura", copy_function=shutil.copyfile)
    assert folder_state(copy) != folder_state(tree.root)
    assert folder_state(copy, by_size=True) == folder_state(tree.root, by_size=True)
    file = copy / STUDY / "image1.png"
    file.write_bytes(file.read_bytes() + b"\0")
    assert folder_state(copy, by_size=True) != folder_state(tree.root, by_size=True)


def test_the_state_changes_with_size_or_time_of_a_file(tree) -> None:
    file = tree.root / f"{STUDY}/image1.png"
    states = [folder_state(tree.root), folder_state(find_root(tree.root.parent))]
    assert states[0] == states[1]
    file.write_bytes(file.read_bytes() + b"\0")
    states.append(folder_state(tree.root))
    file.unlink()
    states.append(folder_state(tree.root))
    assert len(set(states)) == 3


CHANGES = {
    "a picture added": lambda tree: tree.draw(f"{STUDY}/image4.png"),
    "a picture removed": lambda tree: (tree.root / STUDY / "image3.png").unlink(),
    "a study relabelled": lambda tree: (tree.root / STUDY).rename(tree.root / STUDY.replace("positive", "negative")),
    "an empty study added": lambda tree: (tree.root / "valid/XR_WRIST/patient11186/study2_negative").mkdir(),
    "a list edited": lambda tree: tree.edit("train_labeled_studies.csv", f"{STUDY}/,1", f"{STUDY}/,00"),
    "a name that is no UTF-8": lambda tree: Path(os.fsdecode(os.fsencode(tree.root / STUDY) + b"/\xe9.txt")).touch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_state_changes_with_whatever_the_index_hangs_on_even_if_no_folder_shows_it(tree, change: str) -> None:
    folders = [folder for folder in tree.root.rglob("*") if folder.is_dir()]
    before, times = folder_state(tree.root), {folder: folder.stat().st_mtime_ns for folder in folders}
    CHANGES[change](tree)
    for folder in folders:  # some network mounts don't keep a folder's time
        if folder.is_dir():
            os.utime(folder, ns=(times[folder], times[folder]))
    assert folder_state(tree.root) != before


def test_the_state_knows_nothing_of_files_beside_train_and_valid(tree) -> None:
    before = folder_state(tree.root)
    (tree.root / "README").touch()
    assert folder_state(tree.root) == before


def test_work_in_threads_comes_in_order_and_ends_with_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura.data.fingerprint.cores", lambda: 2)
    many = list(range(3 * AHEAD + 1))
    assert list(map_in_threads(lambda item: item * item, many, "squares")) == [item * item for item in many]
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)
        if item == 3:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(map_in_threads(fail, many, "failing"))
    assert len(begun) < AHEAD  # not after all that had been handed out
