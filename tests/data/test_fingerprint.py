"""A fingerprint names the content of a folder, wherever it lies and whatever it is called."""

import shutil
from pathlib import Path

from mura.data.fingerprint import content_hashes, fingerprint, stat_digest
from mura.data.index import find_root, read_index

STUDY = "train/XR_WRIST/patient00002/study1_positive"


def test_a_fingerprint_names_the_data_wherever_it_lies(tree, tmp_path: Path) -> None:
    def of(root: Path) -> str:
        index = read_index(root)
        return fingerprint(index, content_hashes(root, index))

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
    assert fingerprint(flipped, hashes) != fingerprint(index, hashes)


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
    digests = [stat_digest(tree.root, index), stat_digest(find_root(tree.root.parent), index)]
    assert digests[0] == digests[1]
    file.write_bytes(file.read_bytes() + b"\0")
    digests.append(stat_digest(tree.root, index))
    file.unlink()
    digests.append(stat_digest(tree.root, index))
    assert len(set(digests)) == 3
