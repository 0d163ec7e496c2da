"""Short digests that name the content of a MURA folder, wherever it lies."""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import pandas as pd

from mura.data.index import FOLDER_OF_SPLIT
from mura.data.lists import LISTS
from mura.errors import MuraError
from mura.files import LASTING, persistently, read_file
from mura.machine import cores
from mura.progress import progress_bar

HASH_BYTES = 16
AHEAD = 256  # items that wait for a thread while as many are worked on
TAB = "\t"

Item = TypeVar("Item")
Result = TypeVar("Result")


def fingerprint(index: pd.DataFrame, hashes: Iterable[str]) -> str:
    """Return 32 hex characters that name the data: paths, labels and contents (`hashes`, one for each row)."""
    rows = zip(index["path"], index["label"], hashes, strict=True)
    return _digest(f"{path}\t{label}\t{content}\n" for path, label, content in rows)


def content_hashes(root: Path, index: pd.DataFrame) -> list[str]:
    """Return `file_hash` of every row of `index`, whose paths are relative to `root`; shows a progress bar."""
    return list(map_in_threads(lambda path: file_hash(root / path), index["path"].tolist(), "reading"))


def file_hash(path: str | Path) -> str:
    """Return `content_hash` of the file's bytes. Raises MuraError when it can't be read."""
    try:
        return content_hash(read_file(path))
    except OSError as error:
        raise MuraError(
            f"{path} can't be read ({error.strerror}), which need not mean that it is damaged: check the disk, the "
            "mount and the rights, or remove the file, and give the same command again."
        ) from error


def content_hash(content: bytes) -> str:
    """Return a digest of the bytes, 32 hex characters."""
    return hashlib.blake2b(content, digest_size=HASH_BYTES).hexdigest()


def folder_state(root: Path, by_size: bool = False) -> str:
    """Return 32 hex characters over where `root` lies and names, sizes and times of its lists, train/ and valid/.

    While they stay, index, problems and fingerprint do too. Names are listed, since many network mounts don't keep a
    folder's own time. Folders are listed as deep as MURA's are: extremity, patient, study. `by_size` leaves out where
    it lies, and the times. Raises MuraError for a folder that can't be read.
    """
    try:
        lines = [line for folder in FOLDER_OF_SPLIT.values() for line in _entry_lines(root, folder, levels=3)]
        lines += [_file_line(root, name) for name in LISTS]
    except OSError as error:
        raise MuraError(
            f"{error.filename} can't be read ({error.strerror}): check the disk, the mount and the rights, and give "
            "the same command again."
        ) from error
    if by_size:
        return _digest(f"{line.rpartition(TAB)[0]}\n" for line in lines)
    return _digest([f"{os.path.realpath(root)}\n", *lines])


def _entry_lines(root: Path, folder: str, levels: int) -> Iterator[str]:
    """Yield a line for each entry of `folder` and, down to so many `levels`, of the folders in it."""
    for entry in sorted(persistently(lambda: list(os.scandir(f"{root}/{folder}"))), key=lambda entry: entry.name):
        path = f"{folder}/{entry.name}"
        if levels and _is_folder(entry):
            yield f"{path}/\t\n"
            yield from _entry_lines(root, path, levels - 1)
        else:
            yield _file_line(root, path)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _file_line(root: Path, path: str) -> str:
    try:
        stat = os.stat(f"{root}/{path}")  # noqa: PTH116  a Path each would take longer than the call
    except OSError as error:
        if error.errno in LASTING:
            return f"{path}\t-\t-\n"
        stat = persistently(lambda: os.stat(f"{root}/{path}"))  # noqa: PTH116
    return f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\n"


def map_in_threads(
    work: Callable[[Item], Result], items: list[Item], title: str, before: int = 0
) -> Generator[Result, None, None]:
    """Yield `work(item)` for every item, in order; shows a progress bar if stderr is a terminal.

    Few are handed out ahead, since each that waits takes memory. The bar begins at `before`, which were done earlier.
    Whoever may leave it before the end closes it: threads and bar would else stay until it is collected.
    """
    pool = ThreadPoolExecutor(cores())
    ahead: list[Future[Result]] = []
    done = before
    try:
        with progress_bar(title) as show:
            for start in range(0, len(items) + AHEAD, AHEAD):  # the last one hands out nothing
                first, ahead = ahead, [pool.submit(work, item) for item in items[start : start + AHEAD]]
                wait(first, return_when=FIRST_EXCEPTION)  # once: to wake for each costs more than to read a file
                for future in first:
                    done += 1
                    show(done, before + len(items))
                    yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C the rest is not waited for


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(line.encode(errors="surrogateescape"))  # a stranger's name need not be UTF-8
    return digest.hexdigest()
