"""Building the cache: never half there, whatever gets in the way, and whoever else builds it."""

import errno
import hashlib
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cache_folders import FIRST, SIZE, caches, picture, write_folder
from PIL import Image

from mura import files
from mura.data import cache as cache_module
from mura.data.cache import open_cache
from mura.data.datamodule import MuraDataModule, rows_of
from mura.errors import MuraError

pytestmark = pytest.mark.usefixtures("hear_everything")

BUILD = """
import hashlib, logging, sys
from mura.config.sentences import exit_with_sentence
from mura.data.cache import open_cache
logging.basicConfig(level=logging.INFO, format="%(message)s")
with exit_with_sentence():
    root, size, cache_dir = sys.argv[1:]
    cache = open_cache(root, int(size), cache_dir)
    print(hashlib.sha256(cache.images.tobytes() + cache.table.to_csv().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,680 pictures that take a second or two to decode."""
    return write_folder(tmp_path_factory.mktemp("big"), pictures_a_patient=60, side=256)


AS_USER = ("setpriv", "--regid", "4711", "--clear-groups", "--reuid")
AS_ANYBODY = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own are not."""
    if subprocess.run([*AS_USER, "4001", sys.executable, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("another user can't start this Python")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def start_build(root: Path, size: int, home: Path, **settings: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(root), str(size), str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def wait_for_a_mark(build: subprocess.Popen[str], home: Path) -> list[Path]:
    """Wait until the build has noted that its first pictures are done; return where."""
    deadline = time.monotonic() + 120
    while not (states := list(home.glob("*.part/state.bin"))):
        assert build.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return states


# --- damaged pictures -------------------------------------------------------------------------------------


def png_bomb() -> bytes:
    """A PNG file that declares 60,000 x 60,000 pixels in 45 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


FAULTS = {
    "empty": (lambda data: b"", "is empty (0 bytes)"),
    "truncated": (lambda data: data[: len(data) // 2], "is truncated"),
    "bomb": (lambda data: png_bomb(), "declares 60000 x 60000 pixels, more than any radiograph"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_picture_is_named_left_out_and_counted(
    fault: str, roomy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage, sentence = FAULTS[fault]
    trained, tested = sorted((roomy / "train").rglob("image1.png"))[0], sorted((roomy / "valid").rglob("image1.png"))[0]
    for file in (trained, tested):
        file.write_bytes(damage(file.read_bytes()))
    data = MuraDataModule(str(roomy), ["wrist", "hand"], cache_size=SIZE, cache_dir=str(tmp_path / "cache"))
    assert data.left_out() == 2
    for file in (trained, tested):
        [line] = [line for line in caplog.messages if str(file) in line]
        assert line.startswith("left out: ")
        assert sentence in line
    assert "2 of 420 pictures are damaged and left out" in caplog.text

    table = data.opened.table
    damaged = table.index[~table["readable"]]
    assert set(table.loc[damaged, "path"]) == {file.relative_to(roomy).as_posix() for file in (trained, tested)}
    assert (data.opened.images[damaged] == 0).all()
    for fold in range(5):
        rows = rows_of(table, ["wrist", "hand"], fold)
        used = np.concatenate(list(rows.values()))
        assert len(used) == 418
        assert not set(damaged) & set(used)


@pytest.mark.parametrize("fault", FAULTS)
def test_more_than_one_in_a_hundred_damaged_stops_with_one_sentence(fault: str, roomy: Path, tmp_path: Path) -> None:
    files = sorted((roomy / "train" / "XR_HAND").rglob("*.png"))[:5]
    for file in files:
        file.write_bytes(FAULTS[fault][0](file.read_bytes()))
    with pytest.raises(
        MuraError, match=r"5 of 420 pictures can't be read, first .*more than 1 %.*`mura check`"
    ) as found:
        open_cache(roomy, SIZE, tmp_path / "cache")
    first = min(files, key=lambda file: int(file.stem.removeprefix("image"))).relative_to(roomy)
    assert f"first {first.as_posix()}:" in str(found.value)
    assert caches(tmp_path / "cache") == []


def test_a_picture_mended_after_it_was_left_out_is_used(roomy: Path, tmp_path: Path) -> None:
    file = next((roomy / "train").rglob("image3.png"))
    whole = file.read_bytes()
    file.write_bytes(b"")
    assert not open_cache(roomy, SIZE, tmp_path / "cache").table["readable"].all()
    file.write_bytes(whole)
    assert open_cache(roomy, SIZE, tmp_path / "cache").table["readable"].all()


def test_every_run_says_that_pictures_are_left_out(
    roomy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = min((roomy / "train").rglob("image3.png"))
    file.write_bytes(b"")
    said = f"1 of 420 pictures are damaged and left out, first {file.relative_to(roomy).as_posix()}"
    for _ in range(3):
        caplog.clear()
        open_cache(roomy, SIZE, tmp_path / "cache")
        assert caplog.messages.count(said) == 1


def test_blank_pictures_are_used_counted_and_said(
    roomy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("L", (40, 30)).save(next((roomy / "train" / "XR_WRIST").rglob("*.png")))
    with caplog.at_level("INFO"):
        data = MuraDataModule(str(roomy), ["wrist"], cache_size=SIZE, cache_dir=str(tmp_path / "cache"))
        data.setup()
    assert (data.blank(), data.left_out()) == (1, 0)
    assert "1 of these views are blank or nearly so; `mura check` names them" in caplog.text
    other = MuraDataModule(str(roomy), ["hand"], cache_size=SIZE, cache_dir=str(tmp_path / "cache"))
    other.setup()
    assert other.blank() == 0


# --- what could not be read ---------------------------------------------------------------------------------


@pytest.fixture
def stumbling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The disk refuses to read one picture, so many times and with such an error, after so many good reads."""
    monkeypatch.setattr(files, "PAUSE", 0)
    real = Path.read_bytes

    def refuse(picture: Path, times: int, number: int, after: int = 0) -> None:
        reads = iter(range(10**6))

        def read_bytes(path: Path) -> bytes:
            if path == picture and after <= next(reads) < after + times:
                raise OSError(number, os.strerror(number), str(path))
            return real(path)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)

    return refuse


@pytest.mark.parametrize("after", [0, 1])
def test_a_read_that_failed_in_passing_costs_no_picture(
    after: int, small: Path, tmp_path: Path, stumbling: Callable[..., None]
) -> None:
    expected = open_cache(small, SIZE, tmp_path / "other")
    stumbling(small / FIRST, 2, errno.EIO, after)  # while its content is hashed, or while it is decoded
    cache = open_cache(small, SIZE, tmp_path / "cache")
    assert cache.table["readable"].all()
    assert cache.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(cache.images, expected.images)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("after", [0, 1])
def test_a_picture_that_cant_be_read_stops_the_build_which_goes_on_later(
    number: int, after: int, small: Path, tmp_path: Path, stumbling: Callable[..., None]
) -> None:
    stumbling(small / FIRST, 10**5, number, after)
    with pytest.raises(MuraError, match=rf"{FIRST} can't be read \({os.strerror(number)}\).*the same command again"):
        open_cache(small, SIZE, tmp_path / "cache")
    stumbling(small / FIRST, 0, number)
    assert open_cache(small, SIZE, tmp_path / "cache").table["readable"].all()


@pytest.mark.parametrize("times", [1, 99])
def test_a_folder_that_cant_be_listed_costs_no_patient(
    times: int, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PAUSE", 0)
    left, real = [times], os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("patient00010") and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    if times > 3:
        with pytest.raises(MuraError, match="patient00010 can't be read"):
            open_cache(small, SIZE, tmp_path / "cache")
        left[0] = 0
    assert len(open_cache(small, SIZE, tmp_path / "cache").table) == 84


@pytest.mark.parametrize("link", ["gone", FIRST])
def test_a_link_to_nowhere_or_to_itself_stops_a_run_with_its_name(link: str, small: Path, tmp_path: Path) -> None:
    (small / FIRST).unlink()
    (small / FIRST).symlink_to(small / link)
    with pytest.raises(MuraError, match=f"{FIRST} can't be read"):
        open_cache(small, SIZE, tmp_path / "cache")


@pytest.mark.parametrize("same_time", [False, True])
def test_a_picture_replaced_between_hashing_and_decoding_is_noticed(
    same_time: bool, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, size = cache_module.content_hashes, (small / FIRST).stat().st_size

    def content_hashes(root: Path, index: pd.DataFrame) -> list[str]:
        hashes = real(root, index)
        time_before = (root / FIRST).stat().st_mtime_ns
        Image.new("L", (12, 12), 77).save(root / FIRST)
        if same_time:
            data = (root / FIRST).read_bytes()
            (root / FIRST).write_bytes(data + bytes(size - len(data)))  # what follows the picture's end is not read
            os.utime(root / FIRST, ns=(time_before, time_before))
        return hashes

    monkeypatch.setattr(cache_module, "content_hashes", content_hashes)
    with pytest.raises(MuraError, match="were changed while they were read"):
        open_cache(small, SIZE, tmp_path / "cache")
    assert caches(tmp_path / "cache") == []
    monkeypatch.undo()
    assert picture(open_cache(small, SIZE, tmp_path / "cache"), FIRST).max() == 77


# --- several users ------------------------------------------------------------------------------------------

is_root = pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="takes two users")


def build_as(user: int, umask: int, root: Path, home: Path, **settings: Any) -> subprocess.Popen[str]:
    """Open the cache as a user of a group, by a program that all may read."""
    command = [*AS_USER, str(user), sys.executable, "-c", BUILD, str(root), str(SIZE), str(home)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, umask=umask, env=AS_ANYBODY, **settings
    )


@is_root
@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_users_of_a_group_share_a_cache(killed: bool, big: Path, open_to_all: Path) -> None:
    root, home = shutil.copytree(big, open_to_all / "data"), open_to_all / "cache"
    root.chmod(0o755)
    home.mkdir()
    os.chown(home, 4001, 4711)
    home.chmod(0o2775)
    build = build_as(4001, 0o002, root, home)
    if killed:
        wait_for_a_mark(build, home)
        build.send_signal(signal.SIGKILL)
    first, said = build.communicate(timeout=120)
    assert killed or build.returncode == 0, said
    build = build_as(4002, 0o002, root, home)
    second, said = build.communicate(timeout=120)
    assert build.returncode == 0, said
    assert ("going on with a build" in said) == killed
    assert killed or second == first


@is_root
@pytest.mark.slow
def test_another_users_cache_is_used_without_leaving_a_trace(small: Path, open_to_all: Path) -> None:
    root, home = shutil.copytree(small, open_to_all / "data"), open_to_all / "cache"
    open_cache(root, SIZE, home)
    shutil.rmtree(home / "fingerprints")
    before = sorted(home.rglob("*"))
    build = build_as(4001, 0o022, root, home)
    _, said = build.communicate(timeout=120)
    assert build.returncode == 0, said
    assert "can't be written (Permission denied)" in said
    assert sorted(home.rglob("*")) == before


@is_root
@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/", "/nowhere"])
def test_a_user_without_a_home_is_told_to_choose_a_place(home: str | None, small: Path, open_to_all: Path) -> None:
    root = shutil.copytree(small, open_to_all / "data")
    environment = AS_ANYBODY | ({} if home is None else {"HOME": home})
    command = [*AS_USER, "4003", sys.executable, "-c", BUILD.replace(", cache_dir)", ")"), str(root), str(SIZE), ""]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=open_to_all, check=False)
    assert found.returncode == 1
    assert "data.cache_dir=DIR" in found.stderr
    assert "Traceback" not in found.stderr
    assert list(open_to_all.iterdir()) == [root]


# --- interrupted, together, without room ------------------------------------------------------------------


def test_a_killed_build_goes_on_and_ends_as_an_undisturbed_one(big: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    build = start_build(big, 128, home)
    states = wait_for_a_mark(build, home)
    build.send_signal(signal.SIGKILL)
    build.communicate()
    done = int((np.fromfile(states[0], np.uint8) == 1).sum())
    assert 512 <= done < 1680
    assert [name.endswith(".part") for name in caches(home)] == [True]

    # a mark in a picture that was done shows that it isn't decoded again
    row = int(np.flatnonzero(np.fromfile(states[0], np.uint8))[0])
    with states[0].with_name("images.bin").open("r+b") as file:
        file.seek(row * 128 * 128)
        file.write(b"\x07" * 128 * 128)
    again = start_build(big, 128, home)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert f"going on with a build that was stopped, {1680 - done} of 1680 left" in said

    resumed = open_cache(big, 128, home)
    undisturbed = open_cache(big, 128, tmp_path / "other")
    assert (resumed.images[row] == 7).all()
    different = np.flatnonzero((resumed.images != undisturbed.images).any(axis=(1, 2)))
    assert list(different) == [row]
    pd.testing.assert_frame_equal(resumed.table, undisturbed.table)
    assert [name.endswith(".part") for name in caches(home)] == [False]


def test_two_processes_that_build_at_once_end_with_the_same_right_cache(big: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    builds = [start_build(big, 48, home) for _ in range(2)]
    ended = [build.communicate(timeout=120) for build in builds]
    assert [build.returncode for build in builds] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    assert sum("built in" in said for _, said in ended) == 1
    cache = open_cache(big, 48, tmp_path / "alone")
    alone = hashlib.sha256(cache.images.tobytes() + cache.table.to_csv().encode()).hexdigest()
    assert ended[0][0].strip() == alone
    assert len(caches(home)) == 1


def test_a_full_disk_gives_one_sentence_and_leaves_no_half_cache(big: Path, tmp_path: Path) -> None:
    home, other = tmp_path / "cache", tmp_path / "cache" / "of-another-build.part"
    other.mkdir(parents=True)

    def leave_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    build = start_build(big, 64, home, preexec_fn=leave_little_room)
    _, said = build.communicate(timeout=120)
    assert build.returncode == 1
    last = said.strip().splitlines()[-1]
    assert f"{home}: no room for the cache of 7 MB" in last
    assert "data.cache_dir=DIR" in last
    assert "Traceback" not in said
    assert caches(home) == [other.name]
    assert open_cache(big, 64, home).table["readable"].all()


def test_a_cache_folder_that_goes_while_it_is_built_is_one_sentence(big: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    build = start_build(big, 128, home)
    wait_for_a_mark(build, home)
    while home.exists():
        shutil.rmtree(home, ignore_errors=True)
    _, said = build.communicate(timeout=120)
    assert build.returncode == 1
    assert f"{home}: the cache was removed while it was built" in said.strip().splitlines()[-1]
    assert "Traceback" not in said


def test_two_builds_where_no_lock_holds_back_the_second_end_with_the_right_cache(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_cache(small, SIZE, tmp_path / "alone")
    real = cache_module.build

    def build(folder: Path, *arguments: Any) -> None:
        real(folder, *arguments)  # the faster one
        real(folder, *arguments)

    monkeypatch.setattr(cache_module, "build", build)
    cache = open_cache(small, SIZE, tmp_path / "cache")
    np.testing.assert_array_equal(cache.images, expected.images)
    assert len(caches(tmp_path / "cache")) == 1


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_way_of_the_cache_is_one_sentence(place: str, small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MuraError, match=r"the cache can't be written there .*; choose data\.cache_dir=DIR"):
        open_cache(small, SIZE, tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"
