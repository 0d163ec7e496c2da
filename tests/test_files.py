"""Files are there whole, or as they were before."""

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from mura import files
from mura.errors import MuraError, printable
from mura.files import acquire, atomically, lock_beside, read_file, refuse_unwritable, write_json, write_text


@pytest.fixture(autouse=True)
def without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAUSE", 0)
    monkeypatch.setattr(files, "_given_up", [])


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_has_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        write_text(tmp_path / "shared.json", "{}")
    finally:
        os.umask(before)
    assert (tmp_path / "shared.json").stat().st_mode & 0o777 == 0o664


def test_nothing_is_seen_of_a_file_before_it_is_whole(tmp_path: Path) -> None:
    with atomically(tmp_path / "table.bin") as file:
        file.write(b"half")
        assert not (tmp_path / "table.bin").exists()
    assert (tmp_path / "table.bin").read_bytes() == b"half"


def test_a_name_that_utf_8_cant_say_is_written_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "table.csv", "caf\udce9, κ")
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == r"caf\udce9, κ"


def test_a_name_of_any_length_that_the_disk_takes_can_be_written(tmp_path: Path) -> None:
    name = "ü" * 125 + ".csv"
    write_text(tmp_path / name, "x")
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("x" * 300, "can't be written"), ("no/table.csv", "there is no folder"), ("there", "that is a folder"),
     ("file/table.csv", "can't be written"), ("pipe", "that is a FIFO")],
)  # fmt: skip
def test_what_cant_be_written_is_refused_beforehand(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MuraError, match=f"--out .*: {sentence}"):
        refuse_unwritable(tmp_path / name, "--out")
    refuse_unwritable(tmp_path / "good.csv", "--out")
    assert sorted(tmp_path.rglob("*")) == before


def failing(times: int, number: int, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let `Path.read_bytes` fail so many times with an error number; return the paths that were tried."""
    tried: list[Path] = []
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        tried.append(path)
        if len(tried) <= times:
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return tried


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN])
def test_a_read_that_failed_is_tried_again(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "picture").write_bytes(b"pixels")
    failing(2, number, monkeypatch)
    assert read_file(tmp_path / "picture") == b"pixels"
    tried = failing(99, number, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(number)):
        read_file(tmp_path / "picture")
    assert len(tried) == 3


def test_a_dead_disk_is_not_waited_for_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "picture").touch()
    tried = failing(5, errno.EIO, monkeypatch)
    for tries in (3, 4, 5):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            read_file(tmp_path / "picture")
        assert len(tried) == tries
    read_file(tmp_path / "picture")
    tried = failing(2, errno.EIO, monkeypatch)
    read_file(tmp_path / "picture")
    assert len(tried) == 3


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT])
def test_a_read_that_stays_forbidden_is_tried_once(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picture").touch()
    tried = failing(99, number, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(number)):
        read_file(tmp_path / "picture")
    assert len(tried) == 1


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "picture").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes, more than any picture"):
        read_file(tmp_path / "picture")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_one_warning_and_the_program_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(files, "_lockless", [])
    for name in ("first", "second"):
        lock = lock_beside(tmp_path / name)
        acquire(lock)
        lock.release()
    [warning] = caplog.messages
    assert warning.startswith(f"{tmp_path}: this file system has no locks ({os.strerror(number)})")


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "\udce9", "\u202egnp.exe", "\x9b31m"])
def test_what_a_terminal_would_obey_is_escaped(name: str) -> None:
    assert printable(name).isprintable()
    assert printable(name).isascii()
    assert printable("κ [red] ü") == "κ [red] ü"
