"""Checkpoints of this project: read whole, and without running any code that a file may carry."""

import zipfile
from pathlib import Path
from typing import Any

from mura.errors import MuraError
from mura.models.weights import read_file

UNREADABLE = (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Raises MuraError when there is no such file, or it is damaged, foreign, or carries code.
    """
    content = read_file(path, "checkpoint")
    if not isinstance(content, dict) or "provenance" not in content.get("hyper_parameters", {}):
        raise MuraError(f"checkpoint: {path} was not written by this project: it names no model and no data")
    if not checksums_hold(path):
        raise MuraError(
            f"{path} is damaged (a checksum is wrong): take another checkpoint, or remove {path.parent.parent} and "
            "start the run again."
        )
    return content


def checksums_hold(path: Path) -> bool:
    """Return whether every zip member's CRC-32 matches; PyTorch's own reader does not look."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except UNREADABLE:
        return False
