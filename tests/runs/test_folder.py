"""The run folder: one writer, refused when finished."""

import os
from pathlib import Path

import pytest

from mura.errors import MuraError
from mura.runs.folder import RunFolder


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


def test_who_holds_a_folder_is_said_with_its_process(tmp_path: Path) -> None:
    said = rf"process {os.getpid()} on .*, since .*, is writing this study"
    with RunFolder(tmp_path).locked(), pytest.raises(MuraError, match=said), RunFolder(tmp_path).locked("study"):
        pass
    with RunFolder(tmp_path).locked():
        pass  # free again
    assert not (tmp_path / ".writer").exists()
