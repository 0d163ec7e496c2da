"""The cache: every picture decoded once, 8-bit grey, one memory-mapped array that all runs share.

Keyed by the pictures' content, built beside its final name and renamed, so that it is there whole or not at all.
A killed build goes on where it was; a second process waits for the first.
"""

import errno
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs
from filelock import FileLock, Timeout

from mura.data.fingerprint import content_hashes, fingerprint, folder_state
from mura.data.images import PAD, UnreadableImage, decode, fit
from mura.data.index import find_root, scan
from mura.data.problems import summarise
from mura.data.split import assign_folds, split_hash
from mura.errors import DISK_FULL, MuraError
from mura.files import atomically, write_json, write_text
from mura.machine import cores
from mura.progress import progress_bar

FORMAT = 1  # raise when decode() or fit() gives other pixels, or the files here other content
MOST_DAMAGED = 0.01  # of all pictures
SAVE_EVERY = 512  # pictures
TODO, GOOD, DAMAGED = 0, 1, 2  # what state.bin says of each picture

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """All views of a MURA folder, ready to be read by rows.

    `images` is uint8 [N, S, S], memory-mapped and read-only; `table` is the index (N rows, in the same order) with
    two more columns: `fold` (-1 for test rows) and `readable` (False for damaged pictures, which stay black).
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


def open_cache(root: str | Path, cache_size: int, cache_dir: str | Path | None = None, how: str = PAD) -> Cache:
    """Return the cache of `root` at `cache_size` pixels a side; builds it if it is not there yet.

    `how` says how a picture becomes a square (`fit`); squares of another kind lie in a cache of their own.

    A folder that was not changed since the last time is listed, but neither indexed nor compared with its lists.
    Raises MuraError: no MURA folder, more than 1 % of the pictures damaged, disk full, folder not writable.
    """
    home, root = _home(cache_dir), find_root(root)
    identity = identify(root, home)
    kind = "" if how == PAD else f"-{how}"
    folder = home / f"{identity.fingerprint[:24]}-{cache_size}px{kind}-v{FORMAT}"
    with _disk_errors(home, identity.views * cache_size**2):
        if not folder.is_dir():
            with _only_one_builder(folder):
                if not folder.is_dir():
                    index = scan(root)[0] if identity.index is None else identity.index
                    build(folder, root, index, cache_size, identity.fingerprint, how)
    return _load(folder, cache_size)


def fingerprint_of(root: str | Path, cache_dir: str | Path | None = None) -> str:
    """Return the data fingerprint of a MURA folder, without building a cache."""
    return identify(find_root(root), _home(cache_dir)).fingerprint


def identify(root: Path, home: Path) -> Identity:
    """Return what the MURA folder `root` holds, and log its problems; every byte is read only for a new state.

    The result is kept in the cache folder `home`, under the state of the folder (see `folder_state`).
    """
    memo = home / "fingerprints" / f"{folder_state(root)}.json"
    with _disk_errors(home, 0):
        if memo.is_file():
            identity = Identity(**json.loads(memo.read_text(encoding="utf-8")))
        else:
            index, problems = scan(root)
            memo.parent.mkdir(parents=True, exist_ok=True)
            key = fingerprint(index, content_hashes(root, index))
            identity = Identity(key, len(index), summarise(problems), index)
            write_json(memo, {"fingerprint": key, "views": len(index), "remarks": identity.remarks})
    for level, line in identity.remarks:
        log.log(level, "%s", line)
    return identity


def _home(cache_dir: str | Path | None) -> Path:
    return Path(cache_dir or platformdirs.user_cache_dir("mura")).expanduser()


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
    table = index.assign(fold=folds.reindex(index.index).fillna(-1).astype(int), readable=state == GOOD)
    write_text(part / "table.csv", table.to_csv(index=False))
    write_json(part / "cache.json", {"fingerprint": key, "split_hash": split_hash(index, folds), "size": size})
    (part / "state.bin").unlink()
    part.rename(folder)
    seconds = time.perf_counter() - started
    log.info("cache: %d pictures at %d pixels in %s, built in %.1f s", len(index), size, folder, seconds)


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
    handle = os.open(part / "images.bin", os.O_RDWR | os.O_CREAT, 0o644)
    stop = threading.Event()

    def store(row: int) -> None:
        if stop.is_set():
            return
        try:
            picture = fit(decode(root / paths[row]), size, how)
        except UnreadableImage as error:
            faults[row] = str(error)
            picture = np.zeros((size, size), np.uint8)
        os.pwrite(handle, picture.tobytes(), row * size * size)
        state[row] = DAMAGED if row in faults else GOOD

    try:
        if len(index) and hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(handle, 0, len(index) * size * size)  # a full disk is met now, not after an hour
        with ThreadPoolExecutor(cores()) as pool, progress_bar("cache") as show:
            try:
                for count, done in enumerate(as_completed([pool.submit(store, row) for row in rows]), 1):
                    done.result()
                    show(len(index) - len(rows) + count, len(index))
                    if count % SAVE_EVERY == 0:
                        marked = state.copy()  # before the sync: what is marked as done then lies on the disk
                        os.fsync(handle)
                        _mark(part, marked)
            except BaseException:
                stop.set()
                raise
    finally:
        os.fsync(handle)
        os.close(handle)
        if part.is_dir():
            _mark(part, state)
    return faults


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
        log.warning("left out: %s", faults.get(row, f"{index['path'].iat[row]} can't be read"))
    if len(damaged):
        log.warning("%d of %d pictures are damaged and left out", len(damaged), len(index))


def _load(folder: Path, size: int) -> Cache:
    table = pd.read_csv(folder / "table.csv")
    about = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
    images = np.memmap(folder / "images.bin", dtype=np.uint8, mode="r", shape=(len(table), size, size))
    return Cache(images, table, about["fingerprint"], about["split_hash"])


@contextmanager
def _only_one_builder(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("cache: waiting for another process that builds it")
        lock.acquire()
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:  # no half cache stays in the way
            shutil.rmtree(_unfinished(folder), ignore_errors=True)
        raise
    finally:
        lock.release()


@contextmanager
def _disk_errors(home: Path, needed: int) -> Iterator[None]:
    """Turn a full or unwritable disk into one sentence; `needed` are the bytes of the cache, if known."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            size = f" of {needed / 1e6:,.0f} MB" if needed else ""
            raise MuraError(
                f"{home}: no room for the cache{size} ({error.strerror}); "
                "make room, or choose another place with data.cache_dir=DIR."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            raise MuraError(
                f"{home}: the cache can't be written there ({error.strerror}); choose data.cache_dir=DIR."
            ) from error
        raise
