"""Checkpoints of this project: read without running any code that a file may carry."""

from pathlib import Path
from typing import Any

from mura.errors import MuraError
from mura.models.weights import read_file


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Raises MuraError when there is none, it is damaged, foreign, or carries code."""
    content = read_file(path, "checkpoint")
    if not isinstance(content, dict) or "provenance" not in content.get("hyper_parameters", {}):
        raise MuraError(f"checkpoint: {path} was not written by this project: it names no model and no data")
    return content
