"""Where a result comes from: the versions of the libraries and the state of the repository."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from mura import __version__

LIBRARIES = ("torch", "torchvision", "lightning", "numpy", "pandas", "pillow", "scikit-learn", "hydra-core")


def versions() -> dict[str, str]:
    """Return the versions of Python, mura and LIBRARIES."""
    own = {"python": platform.python_version(), "mura": __version__}
    return own | {name: importlib.metadata.version(name) for name in LIBRARIES}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the repository whose top is `folder`, and whether there were uncommitted changes.

    None without git, and when the folder is no repository's top: a repository around an installed package is another's.
    """

    def git(*arguments: str) -> str:
        # no optional locks: interrupted, it would leave one behind, and with it a repository that can't commit
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
