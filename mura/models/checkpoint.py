"""Checkpoints of this project: read whole, and without running any code that a file may carry."""

import hashlib
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mura.errors import MuraError
from mura.models.weights import is_state, read_file
from mura.runs.records import FLAG, NAMES, POSITIVE, TEXT, TREE, Rule, fault_in, one_of, whole

UNREADABLE = (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError)

NETWORK_RULES = {
    "name": Rule(
        lambda name: isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) is not None,
        "the name of a network, not an address or a path",
    ),
    "head": TEXT,
    "dropout": POSITIVE.optional,
    "image_size": whole(1, 4096).optional,
    "batch_norm": FLAG.or_null.optional,
    "separate_heads": FLAG.optional,
    "library": one_of("torchvision", "timm").optional,
    "provenance": TREE,
}
"""The settings from which a checkpoint's network is built; others that it may hold are never used."""

CHECKPOINT_RULES = {
    "epoch": whole(0),
    "state_dict": Rule(is_state, "a table of tensors"),
    "hyper_parameters": TREE,
    **{f"hyper_parameters.{key}": rule for key, rule in NETWORK_RULES.items()},
    "hyper_parameters.provenance.extremities": NAMES.optional,
    "hyper_parameters.provenance.cache_size": whole(1, 4096).optional,
    "hyper_parameters.provenance.fit": one_of("pad", "stretch").optional,
    "hyper_parameters.provenance.data_fingerprint": TEXT.optional,
}
"""What of a checkpoint is read here; Lightning reads the rest when a run goes on."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Raises MuraError when there is no such file, or it is damaged, foreign, or carries code.
    """
    content = read_file(path, "checkpoint")
    settings = content.get("hyper_parameters", {}) if isinstance(content, dict) else {}
    if isinstance(settings, dict) and "provenance" not in settings:
        raise MuraError(f"checkpoint: {path} was not written by this project: it names no model and no data")
    if fault := fault_in(content, CHECKPOINT_RULES):
        raise MuraError(f"checkpoint: {path} {fault}; take another checkpoint.")
    if not checksums_hold(path):
        raise MuraError(
            f"{path} is damaged (a checksum is wrong): take another checkpoint, or remove {path.parent.parent} and "
            "start the run again."
        )
    return content


def fill(model: nn.Module, content: dict[str, Any], path: Path) -> None:
    """Fill a model with the weights of a checkpoint. Raises MuraError when they don't fit."""
    try:
        model.load_state_dict(content["state_dict"])
    except Exception as error:  # torch raises nearly anything, in many lines
        why = " ".join(str(error).split())[:200]
        raise MuraError(f"checkpoint: the weights of {path} don't fit the model that it names ({why}).") from None


def weights_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the checksum of named tensors, whatever file they are in; their order has no say."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def checksums_hold(path: Path) -> bool:
    """Return whether every zip member's CRC-32 matches; PyTorch's own reader does not look."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except UNREADABLE:
        return False
