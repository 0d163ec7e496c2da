"""Short digests that name the content of a MURA folder, wherever it lies."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

import pandas as pd

from mura.data.index import FOLDER_OF_SPLIT
from mura.data.lists import LISTS
from mura.machine import cores
from mura.progress import progress_bar

Result = TypeVar("Result")


def fingerprint(index: pd.DataFrame, hashes: Iterable[str]) -> str:
    """Return 32 hex characters that name the data: paths, labels and contents (`hashes`, one for each row)."""
    rows = zip(index["path"], index["label"], hashes, strict=True)
    return _digest(f"{path}\t{label}\t{content}\n" for path, label, content in rows)


def content_hashes(root: Path, index: pd.DataFrame) -> list[str]:
    """Return `file_hash` of every row of `index`, whose paths are relative to `root`; shows a progress bar."""
    return list(map_in_threads(lambda path: file_hash(root / path), index["path"].tolist(), "reading"))


def file_hash(path: str | Path) -> str:
    """Return a digest of the file's bytes, 32 hex characters; that of no bytes if the file can't be read."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        content = b""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def folder_state(root: Path) -> str:
    """Return 32 hex characters over where `root` lies and names, sizes and times of its lists, train/ and valid/.

    While they stay, index, problems and fingerprint do too. Names are listed, since many network mounts don't keep a
    folder's own time. Folders are listed as deep as MURA's are: extremity, patient, study.
    """
    entries = (_entry_lines(root, folder, levels=3) for folder in FOLDER_OF_SPLIT.values())
    lists = (_file_line(root, name) for name in LISTS)
    return _digest(chain([f"{root.resolve()}\n"], *entries, lists))


def _entry_lines(root: Path, folder: str, levels: int) -> Iterator[str]:
    """Yield a line for each entry of `folder` and, down to so many `levels`, of the folders in it."""
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        yield f"{folder}\t-\n"
        return
    for entry in ordered:
        path = f"{folder}/{entry.name}"
        if levels and entry.is_dir():
            yield f"{path}/\n"
            yield from _entry_lines(root, path, levels - 1)
        else:
            yield _file_line(root, path)


def _file_line(root: Path, path: str) -> str:
    try:
        stat = os.stat(f"{root}/{path}")  # noqa: PTH116  a Path each would take longer than the call
    except OSError:
        return f"{path}\t-\n"
    return f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\n"


def map_in_threads(work: Callable[[str], Result], paths: list[str], title: str) -> Iterator[Result]:
    """Yield `work(path)` for every path, in order; shows a progress bar if stderr is a terminal."""
    pool = ThreadPoolExecutor(cores())
    try:
        with progress_bar(title) as show:
            for done, result in enumerate(pool.map(work, paths), 1):
                show(done, len(paths))
                yield result
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C the rest is not waited for


def _digest(lines: Iterable[str]) -> str:
    text = "".join(lines).encode(errors="surrogateescape")  # a stranger's name need not be UTF-8
    return hashlib.blake2b(text, digest_size=16).hexdigest()
