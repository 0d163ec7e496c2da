"""A case is a whole input with a few edits; it is drawn from a seed, tried, and made smaller when it fails."""

import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mura.config.sentences import explain_error
from mura.errors import printable

Edit = tuple[Any, ...]
CPU_SECONDS = 60
"""What a case may take at most of a processor; most take milliseconds."""

SECONDS = 600
"""What it may take at most by the clock, however busy the machine is: a case that hangs takes no processor."""

REFUSED, DONE = "refused", "done"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, 1.5, -0.0, 10**12, 2**53 + 1, 10**400, 1e300, 1e-300, float("inf"),
    float("nan"), "", " ", "x", "1", "null", "true", "many", "2024-01-01", "../x", "/etc/x", "\x1b[31m", "a\nb",
    "<script>alert(1)</script>", "[red]x[/red]", "=1+1", "${seed}", "${x", "\u0661", "caf\udce9", "x" * 5000, [], ["x"],
    [[]], [None], [1, 2], {}, {"x": 1}, {"x": {"y": {}}}, {1: 2}, {"_target_": "os.system"},
)  # fmt: skip
"""What is put in the place of another value."""


@dataclass(frozen=True)
class Case:
    """An input: the whole one that it begins with, and what is changed, in this order."""

    base: str
    edits: tuple[Edit, ...]

    def __str__(self) -> str:
        return f"{self.base}, {len(self.edits)} edits: {', '.join(map(repr, self.edits)) or 'none'}"


class Kind(Protocol):
    """A kind of input: draws cases, and tries them in a folder of its own."""

    def draw(self, rng: random.Random) -> Case: ...

    def attempt(self, case: Case) -> str:
        """Return REFUSED or DONE; any exception is a failure."""


def draw_case(kind: Kind, name: str, seed: int, number: int) -> Case:
    """Return the case of this number, the same on every machine."""
    return kind.draw(random.Random(f"{name} {seed} {number}"))


def failure_of(kind: Kind, case: Case) -> str | None:
    """Return the last words of what a case fails with; None when it does not fail."""
    try:
        with limited_time():
            kind.attempt(case)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:500]}"
    return None


def shrunk(kind: Kind, case: Case) -> Case:
    """Return the case with as few edits as still fail."""
    for edit in case.edits:
        smaller = Case(case.base, tuple(each for each in case.edits if each is not edit))
        if failure_of(kind, smaller) is not None:
            case = smaller
    return case


def answer(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the sentence with which it refuses, as a Refused; anything else fails."""
    try:
        return call()
    except Exception as error:
        user_error = explain_error(error)
        if user_error is None:
            raise
        said = printable(str(user_error))
        assert 10 < len(said) < 3000, f"no sentence: {said}"
        for foreign in ("Traceback", " object at 0x", "<class '"):
            assert foreign not in said, said
        return Refused(said)


@dataclass(frozen=True)
class Refused:
    """What was said instead of a result."""

    said: str


def outcome(result: Any) -> str:
    return REFUSED if isinstance(result, Refused) else DONE


# --- limits -------------------------------------------------------------------------------------------------


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise TimeoutError in a case that takes too much of the processor, or waits without end."""

    def end(number: int, _: object) -> None:
        spent = f"{CPU_SECONDS} s of a processor" if number == signal.SIGPROF else f"{SECONDS} s"
        raise TimeoutError(f"more than {spent}")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, CPU_SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, SECONDS))
    before = {number: signal.signal(number, end) for number, _, _ in timers}
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, timer, _ in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


_allowed: list[Path] = []
_seen: list[str] = []
WRITES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.symlink": 1, "os.link": 1, "os.truncate": 0}
NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event == "subprocess.Popen" and arguments[0] == "git":
        return  # of the state of the repository, which a run notes
    if event in NEVER:
        _seen.append(f"{event} {arguments[:2]}")
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        _note(arguments[0])
    elif event in WRITES:
        _note(arguments[WRITES[event]])


def _note(place: Any) -> None:
    if isinstance(place, (str, bytes, os.PathLike)):
        above, name = os.path.split(os.fsdecode(place))
        path = os.path.join(os.path.realpath(above), name)  # noqa: PTH118
        inside = any(path == str(folder) or path.startswith(f"{folder}/") for folder in _allowed)
        if not inside and not path.startswith("/dev/"):
            _seen.append(f"wrote {path}")


_is_watching: list[bool] = []


@contextmanager
def writing_only_below(*folders: Path) -> Iterator[None]:
    """Raise AssertionError when the block writes anywhere else, starts a process or opens a connection."""
    if not _is_watching:
        sys.addaudithook(_watch)
        _is_watching.append(True)
    _seen.clear()
    _allowed.extend(folders)
    before, tempfile.tempdir = tempfile.tempdir, str(folders[0])  # where libraries put what they remove again
    try:
        yield
    finally:
        _allowed.clear()
        tempfile.tempdir = before
    assert not _seen, f"outside: {_seen[:3]}"


@contextmanager
def emptied_folder(above: Path) -> Iterator[Path]:
    """Yield a new folder, which is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=above, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


# --- edits of bytes ----------------------------------------------------------------------------------------


def draw_byte_edit(rng: random.Random) -> Edit:
    """Return an edit of a file's bytes; places are shares of its length, so that it fits any file."""
    where = rng.choice([rng.random(), rng.random() ** 4])  # heads of files decide more than their ends
    name = rng.choice(["flip", "flip", "set", "set", "cut", "insert", "remove", "repeat", "zero"])
    size = rng.choice([1, 1, 2, 4, 16, 200])
    filling = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80", bytes([rng.randrange(256)])])
    return (name, where, size, filling)


def edit_bytes(data: bytes, edits: tuple[Edit, ...]) -> bytes:
    for edit in edits:
        data = _edited(data, *edit)
    return data


def _edited(data: bytes, name: str, where: float, size: int, filling: bytes) -> bytes:
    at = int(where * len(data))
    before, there, behind = data[:at], data[at : at + size], data[at + size :]
    flipped = bytes(each ^ (1 << size % 8) for each in there[:1])
    return {
        "flip": before + flipped + data[at + 1 :],
        "set": before + filling * len(there) + behind,
        "cut": before,
        "insert": before + filling * size + there + behind,
        "remove": before + behind,
        "repeat": before + there + there + behind,
        "zero": before + bytes(len(there + behind)),
    }[name]
