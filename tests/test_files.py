"""Files are there whole, or as they were before."""

import json
import os
from pathlib import Path

import pytest

from mura.files import atomically, write_json, write_text


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")
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
