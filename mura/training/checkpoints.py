"""Checkpoints on disk: written whole or not at all, and checked before a run goes on from one."""

import io
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from mura.data.datamodule import MuraDataModule
from mura.errors import MuraError
from mura.files import atomically
from mura.models.checkpoint import load_checkpoint
from mura.models.classifier import AbnormalityClassifier
from mura.runs import RunFolder

UNREADABLE = (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError)

log = logging.getLogger(__name__)


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside, syncs and renames; the `last.ckpt` that is replaced stays as `previous.ckpt`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in place.parent.glob(f".{place.name}.*"):  # by a process that was killed while it wrote
            left_behind.unlink()
        content = io.BytesIO()
        torch.save(checkpoint, content)
        run = RunFolder(place.parent.parent)
        with atomically(place) as file:
            file.write(content.getbuffer())
            if place == run.last_file and place.is_file():
                file.flush()
                os.fsync(file.fileno())  # before the old one goes
                place.replace(run.previous_file)


def newest_whole(run: RunFolder) -> Path | None:
    """Where a run goes on: its last.ckpt, or, when that is damaged, the one before it; None before its first epoch.

    Raises MuraError when what there is is damaged.
    """
    there = [path for path in (run.last_file, run.previous_file) if path.is_file()]
    whole = next((path for path in there if is_whole(path)), None)
    if there and whole is None:
        load_checkpoint(there[0])  # says what is wrong with it, if it is not just a changed bit
        raise MuraError(
            f"{there[0]} is damaged, and there is no whole checkpoint before it: the run can't go on; remove "
            f"{run.path} and start it again."
        )
    if whole is not None and whole != there[0]:
        log.warning("%s is damaged: going on from %s, an epoch earlier", there[0], whole.name)
    return whole


def load_whole(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Raises MuraError when it is not as it was written."""
    content = load_checkpoint(path)
    if not checksums_hold(path):
        run = path.parent.parent
        raise MuraError(f"{path} is damaged (a checksum is wrong): remove {run} and start the run again.")
    return content


def is_whole(path: Path) -> bool:
    """Whether every part of a checkpoint has the checksum that it was written with, and it can be read.

    PyTorch's own reader does not look at the checksums; a changed bit outside the parts shows when it reads.
    """
    try:
        return checksums_hold(path) and bool(load_checkpoint(path))
    except (*UNREADABLE, MuraError):
        return False


def checksums_hold(path: Path) -> bool:
    """CRC-32, of every part."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except UNREADABLE:
        return False


def checkpoint_to_resume(run: RunFolder, model: AbnormalityClassifier, data: MuraDataModule) -> Path | None:
    """The run's newest whole checkpoint, if any. Raises MuraError when it is of another model, or of other data."""
    path = newest_whole(run)
    if path is None:
        return None
    saved = load_checkpoint(path)["hyper_parameters"]
    for key in ("name", "head", "separate_heads", "image_size"):
        if saved[key] != model.hparams[key]:
            raise MuraError(
                f"{path} is of a model with {key}={saved[key]}, but this run has {key}={model.hparams[key]}: "
                "go on with the config that the run was started with, or choose another hydra.run.dir."
            )
    if saved["provenance"]["data_fingerprint"] != data.opened.fingerprint:
        raise MuraError(
            f"{path} was trained on other data than what now lies at data.root={data.root} (the fingerprints "
            "differ): give the data root of the run, or start a new run."
        )
    return path
