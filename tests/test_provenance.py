"""The state of the repository is asked for without disturbing it."""

import os
import subprocess
from pathlib import Path

from mura.provenance import git_state


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
