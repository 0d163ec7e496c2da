"""Files that are there whole, or as they were before; reads that are tried again; locks where there are any."""

import errno
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

from filelock import FileLock

from mura.errors import MuraError

TRIES, PAUSE = 3, 0.5  # of a read that failed; seconds between two tries
LASTING = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL,
)  # fmt: skip
"""What another try doesn't mend. Any other error may pass: EIO, ESTALE and so on, of a disk or mount that stumbled."""

MOST_BYTES = 2**30  # the largest picture that is decoded has half of it, uncompressed in 16-bit colour
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that has none
KINDS = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISDIR, "a folder"), (stat.S_ISSOCK, "a socket"))

Result = TypeVar("Result")

log = logging.getLogger(__name__)
_given_up: list[bool] = []  # whether the last read of this process failed for good
_lockless: list[Path] = []  # the first lock that this process did without


@contextmanager
def atomically(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` at the end of the block, unless the block fails.

    It is written beside `path` and renamed; with `sync` it survives a power cut. A process that is killed meanwhile
    leaves a hidden file, `.<name>.<eight characters>`.
    """
    beside = path.with_name(f".{path.name[:50]}.{uuid4().hex[:8]}")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write `text` in UTF-8, atomically; what UTF-8 can't say of a name is written as `\\udce9`."""
    with atomically(path, sync) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON without NaN, atomically: what is undefined is null."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def refuse_unwritable(path: Path, option: str) -> None:
    """Raise MuraError, which names the `option`, unless a file can be written to `path`; leaves nothing behind."""
    try:
        if path.exists() and not path.is_file():
            raise MuraError(f"{option} {path}: that is {kind_of_file(path.stat())}; name a file.")
        probe = path.with_name(f".{uuid4().hex[:8]}")
        probe.touch(exist_ok=False)
        probe.unlink()
    except FileNotFoundError:
        raise MuraError(f"{option} {path}: there is no folder {path.parent}.") from None
    except OSError as error:
        raise MuraError(f"{option} {path}: can't be written ({error.strerror}); name another file.") from error


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a file. A read that failed is tried again; a FIFO or a device is never opened.

    Raises OSError, whose `strerror` says why.
    """
    return persistently(lambda: _read_regular(Path(path)))


def _read_regular(path: Path) -> bytes:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind_of_file(about)}", str(path))
    if about.st_size > MOST_BYTES:
        raise OSError(errno.EINVAL, f"it has {about.st_size:,} bytes, more than any picture", str(path))
    return path.read_bytes()


def kind_of_file(about: os.stat_result) -> str:
    """Return what something is that is no file: a folder, a FIFO, a socket or a device."""
    return next((name for holds, name in KINDS if holds(about.st_mode)), "a device")


def persistently(read: Callable[[], Result]) -> Result:
    """Return what `read` does. An OSError that may pass is met with TRIES tries; the last one is raised.

    After that, until a read succeeds, there is one try: a dead disk is not waited for again, file by file.
    """
    for left in reversed(range(1 if _given_up else TRIES)):
        try:
            result = read()
        except OSError as error:
            if error.errno in LASTING:
                raise
            if not left:
                _given_up.append(True)
                raise
            time.sleep(PAUSE)
        else:
            break
    _given_up.clear()
    return result


def expand_home(path: str | Path) -> Path:
    """Return `path` with `~` replaced; as it is where nobody knows the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises RuntimeError there


def lock_beside(path: Path) -> FileLock:
    """Return the lock on the file `path`, for `acquire`."""
    return FileLock(path, fallback_to_soft=False)


def acquire(lock: FileLock, wait: bool = False) -> None:
    """Acquire a lock, or raise filelock's Timeout at once unless it may `wait`.

    Where the file system has no locks, a warning says so, once, and the program goes on without.
    """
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if not _lockless:
            log.warning(
                "%s: this file system has no locks (%s), so nothing keeps a second process from writing the same "
                "run or cache: start one at a time", Path(lock.lock_file).parent, error.strerror,
            )  # fmt: skip
            _lockless.append(Path(lock.lock_file))
