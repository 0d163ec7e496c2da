"""The run folder: whole files or none, one writer, refused when finished."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from mura.errors import MuraError
from mura.runs import RunFolder, git_state, write_atomically, write_json


def test_a_finished_run_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(MuraError, match="holds a finished run"):
        RunFolder(tmp_path).refuse_if_finished()
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MuraError, match="can't be written to"):
        RunFolder(tmp_path / "file" / "run").refuse_if_unwritable()
    RunFolder(tmp_path / "new" / "run").refuse_if_unwritable()
    assert not (tmp_path / "new").exists()


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "\ud800")
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_who_holds_a_folder_is_said_with_its_process(tmp_path: Path) -> None:
    said = rf"process {os.getpid()} on .*, since .*, is writing this study"
    with RunFolder(tmp_path).locked(), pytest.raises(MuraError, match=said), RunFolder(tmp_path).locked("study"):
        pass
    with RunFolder(tmp_path).locked():
        pass  # free again
    assert not (tmp_path / ".writer").exists()


def test_asking_for_the_git_state_takes_no_lock_and_leaves_the_index_as_it_is(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("content")
    git("add", "file")
    git("-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-m", "one")
    os.utime(tmp_path / "file", (1, 1))  # git would note the new time in its index, under a lock
    before = (tmp_path / ".git" / "index").read_bytes()
    found = git_state(tmp_path)
    assert found is not None
    assert found["dirty"] is False
    assert (tmp_path / ".git" / "index").read_bytes() == before
