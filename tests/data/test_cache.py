"""The cache: shared by content, right to the pixel, checked when it is opened, used where nothing can be written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cache_folders import FIRST, SIZE, caches, picture
from PIL import Image

from mura.data import cache as cache_module
from mura.data.cache import FORMAT, Cache, fingerprint_of, open_cache
from mura.data.datamodule import rows_of
from mura.data.images import fit
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.synthetic.dataset import write_dataset

pytestmark = pytest.mark.usefixtures("hear_everything")
DATA_SETS = [*([name] for name in EXTREMITIES), list(EXTREMITIES)]


# --- shared by content ------------------------------------------------------------------------------------


def test_the_second_open_finds_what_the_first_has_built(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_cache(small, SIZE, tmp_path / "cache")
    [folder] = caches(tmp_path / "cache")
    assert "built in" in caplog.text
    caplog.clear()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / folder).iterdir()}
    second = open_cache(small, SIZE, tmp_path / "cache")
    assert "built in" not in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / folder).iterdir()} == before
    np.testing.assert_array_equal(first.images, second.images)
    pd.testing.assert_frame_equal(first.table, second.table)
    assert (first.fingerprint, first.split_hash) == (second.fingerprint, second.split_hash)


def test_the_second_open_reads_no_picture(small: Path, tmp_path: Path) -> None:
    first = open_cache(small, SIZE, tmp_path / "cache")
    for file in small.rglob("*.png"):  # other bytes behind the same size and time
        stat = file.stat()
        file.write_bytes(b"\0" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = open_cache(small, SIZE, tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(first.images, second.images)


def test_an_unchanged_folder_is_not_indexed_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_cache(small, SIZE, tmp_path / "cache")
    remarks = [message for message in caplog.messages if message.startswith("index: ")]
    assert remarks == ["index: 4 lists not there (the folder is used), first train_image_paths.csv"]
    caplog.clear()
    with monkeypatch.context() as patched:
        patched.delattr(cache_module, "scan")
        second = open_cache(small, SIZE, tmp_path / "cache")
        assert fingerprint_of(small, tmp_path / "cache") == second.fingerprint == first.fingerprint
    assert caplog.messages == 2 * remarks  # what is wrong with the folder is said all the same
    other_size = open_cache(small, 2 * SIZE, tmp_path / "cache")
    assert other_size.table["path"].equals(first.table["path"])


@pytest.mark.parametrize("change", ["added", "removed", "relabelled"])
def test_a_picture_added_removed_or_relabelled_is_noticed(change: str, small: Path, tmp_path: Path) -> None:
    before = open_cache(small, SIZE, tmp_path / "cache")
    study = (small / FIRST).parent
    if change == "added":
        shutil.copyfile(small / FIRST, study / "image4.png")
    elif change == "removed":
        (small / FIRST).unlink()
    else:
        study.rename(study.with_name("study1_positive"))
    after = open_cache(small, SIZE, tmp_path / "cache")
    more_views, more_abnormal = {"added": (1, 0), "removed": (-1, 0), "relabelled": (0, 3)}[change]
    assert len(after.table) == len(before.table) + more_views
    assert after.table["label"].sum() == before.table["label"].sum() + more_abnormal
    assert after.fingerprint != before.fingerprint


def test_the_same_pictures_in_another_folder_share_the_cache(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "elsewhere")
    here = open_cache(small, SIZE, tmp_path / "cache")
    there = open_cache(tmp_path / "elsewhere", SIZE, tmp_path / "cache")
    assert here.fingerprint == there.fingerprint
    assert len(caches(tmp_path / "cache")) == 1


def test_other_pixels_other_labels_and_another_size_have_caches_of_their_own(small: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    seen = [open_cache(small, SIZE, home)]
    assert open_cache(small, 2 * SIZE, home).images.shape[1:] == (2 * SIZE, 2 * SIZE)
    assert len(caches(home)) == 2

    Image.new("L", (8, 10), 77).save(small / FIRST)
    seen.append(open_cache(small, SIZE, home))
    assert picture(seen[-1], FIRST).max() == 77

    study = (small / FIRST).parent
    study.rename(study.with_name("study1_positive"))
    seen.append(open_cache(small, SIZE, home))
    assert len(caches(home)) == 4
    assert len({cache.fingerprint for cache in seen}) == 3


# --- right to the pixel -----------------------------------------------------------------------------------


def test_grey_colour_and_16_bit_files_of_one_picture_have_the_same_pixels(small: Path, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (10, 8), dtype=np.uint8)
    grey[0, 0] = 255
    folder = small / FIRST
    Image.fromarray(grey).save(folder.with_name("image1.png"))
    Image.fromarray(grey).convert("RGB").save(folder.with_name("image2.png"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder.with_name("image3.png"))
    cache = open_cache(small, SIZE, tmp_path / "cache")
    of_grey, of_colour, of_16_bits = (picture(cache, FIRST.replace("image1", f"image{n}")) for n in (1, 2, 3))
    np.testing.assert_array_equal(of_grey, fit(grey, SIZE))
    np.testing.assert_allclose(of_colour.astype(int), of_grey, atol=1)
    np.testing.assert_allclose(of_16_bits.astype(int), of_grey, atol=1)


def test_the_aspect_is_kept_and_the_rest_is_black(small: Path, tmp_path: Path) -> None:
    Image.new("L", (20, 40), 200).save(small / FIRST)
    cached = picture(open_cache(small, SIZE, tmp_path / "cache"), FIRST)
    assert (cached[:, 4:12] == 200).all()
    assert (cached[:, :4] == 0).all()
    assert (cached[:, 12:] == 0).all()


def test_stretched_pictures_have_a_cache_of_their_own_and_padded_ones_keep_its_name(
    small: Path, tmp_path: Path
) -> None:
    Image.new("L", (20, 40), 200).save(small / FIRST)
    home = tmp_path / "cache"
    padded = open_cache(small, SIZE, home)
    [name] = caches(home)
    stretched = open_cache(small, SIZE, home, "stretch")
    assert caches(home) == sorted([name, name.replace(f"{SIZE}px", f"{SIZE}px-stretch")])
    assert name.endswith(f"-{SIZE}px-v{FORMAT}")
    assert (picture(stretched, FIRST) == 200).all()
    assert (picture(padded, FIRST)[:, :4] == 0).all()
    assert (stretched.fingerprint, stretched.split_hash) == (padded.fingerprint, padded.split_hash)


def test_every_row_of_the_table_has_its_own_picture(small: Path, tmp_path: Path) -> None:
    cache = open_cache(small, SIZE, tmp_path / "cache")
    assert len(cache.images) == len(cache.table) == 84
    for row, path in enumerate(cache.table["path"]):
        np.testing.assert_array_equal(cache.images[row], fit(np.asarray(Image.open(small / path)), SIZE))
    with pytest.raises(ValueError, match="read-only"):
        cache.images[0] = 0


# --- the split --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_patients(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The index of a data set in which patients have several extremities."""
    folder = tmp_path_factory.mktemp("synthetic")
    root = write_dataset(folder, patients=120, size=32, valid_fraction=0.2, balanced=True, workers=1)
    cache = open_cache(root, SIZE, folder / "cache")
    training = cache.table[cache.table["split"] == "train"]
    assert (training.groupby("patient")["extremity"].nunique() > 1).any()
    return cache


@pytest.mark.parametrize("extremities", DATA_SETS, ids=[*EXTREMITIES, "unified"])
def test_no_patient_is_on_two_sides_of_any_fold(extremities: list[str], shared_patients: Cache) -> None:
    table = shared_patients.table
    for fold in range(5):
        unified = {part: set(table.loc[rows, "patient"]) for part, rows in rows_of(table, EXTREMITIES, fold).items()}
        own = {part: set(table.loc[rows, "patient"]) for part, rows in rows_of(table, extremities, fold).items()}
        for part, other in (("train", "val"), ("train", "test"), ("val", "test")):
            assert not own[part] & own[other]
            # nor trained on by one of the eight models and validated on by another
            assert not own[part] & unified[other]


def test_each_training_view_validates_once_and_test_views_never(shared_patients: Cache) -> None:
    table = shared_patients.table
    assert (table.loc[table["split"] == "test", "fold"] == -1).all()
    validating = np.concatenate([rows_of(table, EXTREMITIES, fold)["val"] for fold in range(5)])
    assert sorted(validating) == list(table.index[table["split"] == "train"])


# --- checked when it is opened ------------------------------------------------------------------------------


def cut(lines: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / "table.csv").read_text().splitlines(keepends=True)
        (folder / "table.csv").write_text("".join(text[:lines]))

    return damage


def swap_labels(folder: Path) -> None:
    text = (folder / "table.csv").read_text()
    (folder / "table.csv").write_text(text.replace(",0,train/", ",1,train/", 1))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a cut table": cut(21),
    "an empty table": cut(0),
    "a table of no rows": cut(1),
    "an edited table": swap_labels,
    "cut pictures": lambda folder: os.truncate(folder / "images.bin", 100),
    "no pictures": lambda folder: (folder / "images.bin").unlink(),
    "no table": lambda folder: (folder / "table.csv").unlink(),
    "a cut note": lambda folder: os.truncate(folder / "cache.json", 20),
    "a list as note": lambda folder: (folder / "cache.json").write_text("[1]"),
    "deep nesting as note": lambda folder: (folder / "cache.json").write_text("[" * 100_000),
    "an empty note": lambda folder: (folder / "cache.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_refused_with_what_to_do(damage: str, small: Path, tmp_path: Path) -> None:
    open_cache(small, SIZE, tmp_path / "cache")
    [name] = caches(tmp_path / "cache")
    DAMAGES[damage](tmp_path / "cache" / name)
    with pytest.raises(MuraError, match=rf"{name}: the cache there .*remove the folder, and the next run builds it"):
        open_cache(small, SIZE, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / name)
    assert len(open_cache(small, SIZE, tmp_path / "cache").table) == 84


@pytest.mark.parametrize(
    "memo",
    ['{"fingerprint": "../../../x", "views": 84, "remarks": []}', '{"fingerprint": null, "views": 84, "remarks": []}',
     '{"fingerprint": "' + "a" * 32 + '", "views": "many", "remarks": []}', "[]", "{", "", "[" * 100_000,
     '{"fingerprint": "' + "A/" * 16 + '", "views": 84, "remarks": []}', '{"fingerprint": 5, "views": 84}'],
    ids=range(9),
)  # fmt: skip
def test_a_memo_that_this_program_cant_have_written_counts_for_nothing(memo: str, small: Path, tmp_path: Path) -> None:
    first = open_cache(small, SIZE, tmp_path / "above" / "cache")
    for file in (tmp_path / "above" / "cache" / "fingerprints").iterdir():
        file.write_text(memo)
    assert open_cache(small, SIZE, tmp_path / "above" / "cache").fingerprint == first.fingerprint
    assert [path.name for path in (tmp_path / "above").iterdir()] == ["cache"]
    assert len(caches(tmp_path / "above" / "cache")) == 1


# --- read-only, trusted, shared -----------------------------------------------------------------------------


def test_a_cache_that_is_there_is_used_where_nothing_can_be_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "cache"
    first = open_cache(small, SIZE, home)
    shutil.rmtree(home / "fingerprints")
    caplog.clear()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("write_json", "lock_beside"):
        monkeypatch.setattr(cache_module, name, refuse)
    assert open_cache(small, SIZE, home).fingerprint == first.fingerprint
    assert sum("can't be written (Read-only file system)" in line for line in caplog.messages) == 1
    with pytest.raises(MuraError, match=r"the cache can't be written there \(Read-only file system\)"):
        open_cache(small, 2 * SIZE, home)


def test_a_trusted_cache_is_known_by_names_and_sizes_whatever_times_and_place(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_cache(small, SIZE, tmp_path / "cache")
    moved = small.rename(tmp_path / "moved")
    for file in moved.rglob("*.png"):
        os.utime(file, ns=(5, 5))
    with monkeypatch.context() as patched:
        patched.delattr(cache_module, "content_hashes")
        assert open_cache(moved, SIZE, tmp_path / "cache", trust=True).fingerprint == first.fingerprint
        with pytest.raises(NameError):  # without trust, every picture is read
            open_cache(moved, SIZE, tmp_path / "cache")
    (moved / FIRST).write_bytes((moved / FIRST).read_bytes() + b"\0")
    assert open_cache(moved, SIZE, tmp_path / "cache", trust=True).fingerprint != first.fingerprint


def test_trust_ends_where_pictures_are_decoded(small: Path, tmp_path: Path) -> None:
    open_cache(small, SIZE, tmp_path / "cache")
    data = (small / FIRST).read_bytes()
    (small / FIRST).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(MuraError, match=r"not those that data\.trust_cache=true took them for"):
        open_cache(small, 2 * SIZE, tmp_path / "cache", trust=True)
    assert len(open_cache(small, 2 * SIZE, tmp_path / "cache", trust=True).table) == 84  # then all were read
