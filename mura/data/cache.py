"""The cache: every picture decoded once, 8-bit grey, one memory-mapped array that all runs share.

Keyed by the pictures' content, built beside its final name and renamed, so that it is there whole or not at all.
A killed build goes on where it was; a second process waits for the first. What is opened is checked, since it may be
old, damaged or another user's; to use a cache that is there, nothing needs to be written.
"""

import errno
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import platformdirs
from filelock import Timeout

from mura.data.fingerprint import HASH_BYTES, content_hash, content_hashes, fingerprint, folder_state, map_in_threads
from mura.data.images import PAD, UnreadableImage, decode, fit, read_picture
from mura.data.index import find_root, refuse_unread, scan
from mura.data.levels import why_blank
from mura.data.problems import summarise
from mura.data.split import assign_folds, split_hash
from mura.errors import DISK_FULL, MuraError, printable
from mura.files import acquire, atomically, expand_home, lock_beside, read_file, write_json, write_text

FORMAT = 2  # raise when decode() or fit() gives other pixels, or the files here other content
MOST_DAMAGED = 0.01  # of all pictures
SAVE_EVERY = 512  # pictures
TODO, GOOD, DAMAGED, BLANK = 0, 1, 2, 3  # what state.bin says of each picture
HASH = re.compile(f"[0-9a-f]{{{2 * HASH_BYTES}}}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """All views of a MURA folder, ready to be read by rows.

    `images` is uint8 [N, S, S], memory-mapped and read-only; `table` is the index (N rows, in the same order) with
    three more columns: `fold` (-1 for test rows), `readable` (False for damaged pictures, which stay black), `blank`.
    """

    images: np.ndarray
    table: pd.DataFrame
    fingerprint: str
    split_hash: str


@dataclass(frozen=True)
class Identity:
    """What is known of a MURA folder by its state: `fingerprint`, number of `views`, and what the log says of it.

    `index` is there if the folder had to be read, which a known state makes unnecessary.
    """

    fingerprint: str
    views: int
    remarks: list[tuple[int, str]]
    index: pd.DataFrame | None = None


def open_cache(
    root: str | Path, cache_size: int, cache_dir: str | Path | None = None, how: str = PAD, trust: bool = False
) -> Cache:
    """Return the cache of `root` at `cache_size` pixels a side; builds it if it is not there yet.

    `how` says how a picture becomes a square (`fit`); squares of another kind lie in a cache of their own.
    A folder that was not changed since the last time is listed, but neither indexed nor compared with its lists. With
    `trust`, other times or another place of the folder are no change. Pictures that are left out are reported.
    Raises MuraError: no MURA folder, a file that can't be read, more than 1 % of the pictures damaged, disk full,
    folder not writable, a damaged cache.
    """
    home, root = _home(cache_dir), find_root(root)
    identity = identify(root, home, trust)
    kind = "" if how == PAD else f"-{how}"
    folder = home / f"{identity.fingerprint[:24]}-{cache_size}px{kind}-v{FORMAT}"
    with _disk_errors(home, identity.views * cache_size**2):
        if not folder.is_dir():
            home.mkdir(parents=True, exist_ok=True)
            with _only_one_builder(folder):
                if not folder.is_dir():
                    index = scan(root)[0] if identity.index is None else identity.index
                    build(folder, root, index, cache_size, identity.fingerprint, how)
    cache = _load(folder, cache_size, identity)
    left_out = cache.table["path"][~cache.table["readable"]]
    if len(left_out):
        count, first = len(left_out), left_out.iat[0]
        log.warning("%d of %d pictures are damaged and left out, first %s", count, len(cache.table), first)
    return cache


def fingerprint_of(root: str | Path, cache_dir: str | Path | None = None, trust: bool = False) -> str:
    """Return the data fingerprint of a MURA folder, without building a cache."""
    return identify(find_root(root), _home(cache_dir), trust).fingerprint


def identify(root: Path, home: Path, trust: bool = False) -> Identity:
    """Return what the MURA folder `root` holds, and log its problems; every byte is read only for a new state.

    The result is kept in the cache folder `home`, under the state of the folder (see `folder_state`), and under its
    names and sizes alone, which are enough with `trust`. Raises MuraError for a file or folder that can't be read.
    """
    with _disk_errors(home, 0):
        _refuse_unusable(home)
        state = _memo(home, folder_state(root))
        identity = _recall(state)
        if identity is None:
            state_by_size = _memo(home, folder_state(root, by_size=True))
            identity = _recall(state_by_size) if trust else None
            if identity is not None:
                log.info("cache: known by names and sizes (data.trust_cache=true), no picture was read")
            else:
                identity = _read_all(root)
                if state == _memo(home, folder_state(root)):  # nothing was changed while it was read
                    _remember(identity, state, state_by_size)
    for level, line in identity.remarks:
        log.log(level, "%s", line)
    return identity


def _read_all(root: Path) -> Identity:
    index, problems = scan(root)
    refuse_unread(root, problems)
    return Identity(fingerprint(index, content_hashes(root, index)), len(index), summarise(problems), index)


def _memo(home: Path, state: str) -> Path:
    return home / "fingerprints" / f"{state}.json"


def _recall(memo: Path) -> Identity | None:
    """Return what a memo says; None if there is none, or one that this program can't have written."""
    try:
        about = json.loads(read_file(memo))
        remarks = [(int(level), printable(line)) for level, line in about["remarks"]]
        identity = Identity(about["fingerprint"], about["views"], remarks)
        is_sound = HASH.fullmatch(identity.fingerprint) and type(identity.views) is int and identity.views > 0
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return identity if is_sound else None


def _remember(identity: Identity, *memos: Path) -> None:
    about = {"fingerprint": identity.fingerprint, "views": identity.views, "remarks": identity.remarks}
    try:
        for memo in memos:
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_json(memo, about)
    except OSError as error:  # a cache that is there can be used all the same
        log.warning(
            "%s: can't be written (%s), so that the next start reads every picture again; "
            "data.cache_dir=DIR chooses another place", memos[0].parent, error.strerror,
        )  # fmt: skip


def _home(cache_dir: str | Path | None) -> Path:
    try:
        home = expand_home(cache_dir or platformdirs.user_cache_dir("mura"))
    except RuntimeError:  # neither HOME nor the user's name is known
        home = Path("~")
    if home.parts and home.parts[0].startswith("~"):
        raise MuraError(f"{home}: nobody knows that home folder; give a place for the cache, data.cache_dir=DIR.")
    return home


def _refuse_unusable(home: Path) -> None:
    """Raise OSError if there can be no cache in `home`, before every picture is read for it."""
    there = home
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.X_OK if there == home else os.X_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def build(folder: Path, root: Path, index: pd.DataFrame, size: int, key: str, how: str = PAD) -> None:
    """Write the cache of `index` into `folder`, `size` pixels a side; goes on from what a killed build left.

    Raises MuraError if more than 1 % of the pictures are damaged, OSError if the disk is full.
    """
    started = time.perf_counter()
    folds = assign_folds(index)
    part = _unfinished(folder)
    part.mkdir(exist_ok=True)
    state = _state(part / "state.bin", len(index))
    remaining = np.flatnonzero(state == TODO)
    if 0 < len(remaining) < len(index):
        log.info("cache: going on with a build that was stopped, %d of %d left", len(remaining), len(index))
    faults = decode_all(part, root, index, size, state, remaining, how)
    damaged = np.flatnonzero(state == DAMAGED)
    _refuse_or_report_damage(index, damaged, faults, part)
    _refuse_changed_pictures(part, root, index, key)
    fold = folds.reindex(index.index).fillna(-1).astype(int)
    table = index.assign(fold=fold, readable=state != DAMAGED, blank=state == BLANK)
    text = table.to_csv(index=False)
    write_text(part / "table.csv", text)
    about = {"fingerprint": key, "split_hash": split_hash(index, folds), "table": content_hash(text.encode())}
    write_json(part / "cache.json", about)
    (part / "state.bin").unlink()
    (part / "hashes.bin").unlink()
    part.rename(folder)
    seconds = time.perf_counter() - started
    log.info("cache: %d pictures at %d pixels in %s, built in %.1f s", len(index), size, folder, seconds)


def _refuse_changed_pictures(part: Path, root: Path, index: pd.DataFrame, key: str) -> None:
    """Raise MuraError unless the decoded bytes are those that `key` was made of."""
    hashes = np.fromfile(part / "hashes.bin", dtype=f"V{HASH_BYTES}")
    if fingerprint(index, (row.tobytes().hex() for row in hashes)) == key:
        return
    shutil.rmtree(part)
    for memo in (part.parent / "fingerprints").glob("*.json"):
        known = _recall(memo)
        if known is not None and known.fingerprint == key:
            memo.unlink(missing_ok=True)
    raise MuraError(
        f"{root}: pictures there were changed while they were read, or are not those that data.trust_cache=true took "
        "them for. Nothing was kept; give the same command again, and all are read anew."
    )


def _unfinished(folder: Path) -> Path:
    return folder.with_name(folder.name + ".part")


def _state(path: Path, n: int) -> np.ndarray:
    if path.is_file() and path.stat().st_size == n:
        return np.fromfile(path, dtype=np.uint8)
    return np.zeros(n, dtype=np.uint8)


def decode_all(
    part: Path, root: Path, index: pd.DataFrame, size: int, state: np.ndarray, rows: np.ndarray, how: str = PAD
) -> dict[int, str]:
    """Decode `rows` into images.bin and mark them in `state`; return the sentence for each damaged one."""
    paths = index["path"].to_numpy()
    faults: dict[int, str] = {}

    def store(row: int) -> None:
        done = _decoded(root / paths[row], size, how)
        if done.fault is not None:
            faults[row] = done.fault
        os.pwrite(images, done.square.tobytes(), row * size * size)
        os.pwrite(hashes, bytes.fromhex(done.content), row * HASH_BYTES)
        state[row] = done.state

    try:
        with _synced(part / "images.bin") as images, _synced(part / "hashes.bin") as hashes:
            if len(index) and hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(images, 0, len(index) * size * size)  # a full disk is met now, not after an hour
            with closing(map_in_threads(store, rows.tolist(), "cache", len(index) - len(rows))) as stored:
                for count, _ in enumerate(stored, 1):
                    if count % SAVE_EVERY == 0:
                        marked = state.copy()  # before the syncs: what is marked as done then lies on the disk
                        os.fsync(images)
                        os.fsync(hashes)
                        _mark(part, marked)
    finally:
        if part.is_dir():
            _mark(part, state)
    return faults


class Decoded(NamedTuple):
    """What one picture gave: its content hash, its square [size, size], GOOD, DAMAGED or BLANK, and the damage."""

    content: str
    square: np.ndarray
    state: int
    fault: str | None = None


def _decoded(path: Path, size: int, how: str) -> Decoded:
    """Return what a picture gives; a damaged one is black. Raises MuraError when it can't be read: no damage."""
    try:
        data = read_picture(path)
    except UnreadableImage as error:
        raise MuraError(
            f"{error} That need not be damage: check the disk, the mount and the rights, and give the same command "
            "again. The cache's build then goes on where it stopped."
        ) from error
    try:
        pixels = decode(path, data)
    except UnreadableImage as error:
        return Decoded(content_hash(data), np.zeros((size, size), np.uint8), DAMAGED, str(error))
    return Decoded(content_hash(data), fit(pixels, size, how), BLANK if why_blank(pixels) else GOOD)


@contextmanager
def _synced(path: Path) -> Iterator[int]:
    """Yield a handle to write to a file, whose content lies on the disk at the end."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # less the umask: a group may build together
    try:
        yield handle
    finally:
        os.fsync(handle)
        os.close(handle)


def _mark(part: Path, state: np.ndarray) -> None:
    """Write down which pictures are done."""
    with atomically(part / "state.bin", sync=False) as file:
        file.write(state.tobytes())


def _refuse_or_report_damage(index: pd.DataFrame, damaged: np.ndarray, faults: dict[int, str], part: Path) -> None:
    if len(damaged) > MOST_DAMAGED * len(index):
        shutil.rmtree(part)
        first = index["path"].iat[damaged[0]]
        raise MuraError(
            f"{len(damaged)} of {len(index)} pictures can't be read, first {first}: that is more than 1 %; "
            "`mura check` lists them, a fresh copy of the data set mends them."
        )
    for row in damaged:
        log.warning("left out: %s", printable(faults.get(row, f"{index['path'].iat[row]} can't be decoded")))


def _load(folder: Path, size: int, identity: Identity) -> Cache:
    """Return the cache in `folder`. Raises MuraError when it can't be read, or is not what was once built."""
    try:
        table_csv = read_file(folder / "table.csv")
        about = json.loads(read_file(folder / "cache.json"))
        pixels = (folder / "images.bin").stat().st_size
        is_sound = (about["fingerprint"], about["table"]) == (identity.fingerprint, content_hash(table_csv))
        table, split = pd.read_csv(BytesIO(table_csv)) if is_sound else pd.DataFrame(), about["split_hash"]
    except OSError as error:
        raise MuraError(
            f"{folder}: the cache there can't be read ({error.strerror}); mend that, or remove the folder, and the "
            "next run builds it again."
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError):
        is_sound = False
    if not is_sound or len(table) != identity.views or pixels != len(table) * size**2 or not isinstance(split, str):
        raise MuraError(
            f"{folder}: the cache there is damaged, it does not hold what was once written; remove the folder, and the "
            "next run builds it again."
        )
    images = np.memmap(folder / "images.bin", dtype=np.uint8, mode="r", shape=(len(table), size, size))
    return Cache(images, table, identity.fingerprint, split)


@contextmanager
def _only_one_builder(folder: Path) -> Iterator[None]:
    lock = lock_beside(folder.with_name(folder.name + ".lock"))
    try:
        acquire(lock)
    except Timeout:
        log.info("cache: waiting for another process that builds it")
        acquire(lock, wait=True)
    try:
        yield
    except OSError as error:
        if folder.is_dir():  # another process was faster, where no lock holds back the second
            shutil.rmtree(_unfinished(folder), ignore_errors=True)
            return
        if error.errno in DISK_FULL:  # no half cache stays in the way
            shutil.rmtree(_unfinished(folder), ignore_errors=True)
        raise
    finally:
        lock.release()


@contextmanager
def _disk_errors(home: Path, needed: int) -> Iterator[None]:
    """Turn what the disk refuses into one sentence; `needed` are the bytes of the cache, if known."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            size = f" of {needed / 1e6:,.0f} MB" if needed else ""
            raise MuraError(
                f"{home}: no room for the cache{size} ({error.strerror}); "
                "make room, or choose another place with data.cache_dir=DIR."
            ) from error
        if isinstance(error, FileNotFoundError):
            raise MuraError(
                f"{home}: the cache was removed while it was built ({error.filename} is gone); "
                "give the same command again."
            ) from error
        raise MuraError(
            f"{home}: the cache can't be written there ({error.strerror}); choose data.cache_dir=DIR."
        ) from error
