"""From a MURA folder to short digests that name its content, wherever the folder lies."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pandas as pd

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


def stat_digest(root: Path, index: pd.DataFrame) -> str:
    """Return 32 hex characters over paths, sizes and times: while they stay, the fingerprint does too."""

    def line(path: str) -> str:
        try:
            stat = os.stat(f"{root}/{path}")  # noqa: PTH116  a Path each would take longer than the call
        except OSError:
            return f"{path}\t-\n"
        return f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\n"

    return _digest(line(path) for path in index["path"])


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
    return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()
