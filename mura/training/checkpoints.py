"""A run's checkpoints: written whole or not at all, and checked before the run goes on from one."""

import io
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from mura.data.datamodule import MuraDataModule
from mura.errors import MuraError
from mura.files import atomically
from mura.models.checkpoint import UNREADABLE, fill, load_checkpoint
from mura.models.classifier import AbnormalityClassifier
from mura.runs.folder import RunFolder
from mura.runs.records import POSITIVE, TEXT, TREE, Rule, fault_in, whole

LIST = Rule(lambda value: isinstance(value, list), "a list")
ROWS = Rule(lambda value: isinstance(value, list) and all(map(TREE.holds, value)), "a list of tables")
RESUMED_RULES = {
    "global_step": whole(0),
    "pytorch-lightning_version": TEXT,
    "optimizer_states": LIST,
    "lr_schedulers": LIST,
    "loops": TREE,
    "callbacks": TREE,
    "callbacks.History": TREE,
    "callbacks.History.rows": ROWS,
    "callbacks.Speed": TREE,
    "callbacks.Speed.epochs": LIST,
    "callbacks.Speed.seconds": POSITIVE,
}
"""What a run needs of its checkpoint to go on: Lightning passes over some of it in silence if it is missing."""

log = logging.getLogger(__name__)


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's way to write checkpoints, made atomic; the `last.ckpt` that is replaced stays as `previous.ckpt`."""

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


class SavedState(NamedTuple):
    """A whole checkpoint: where it lies and what it holds."""

    path: Path
    content: dict[str, Any]


def newest_whole(run: RunFolder) -> SavedState | None:
    """Return the run's last.ckpt or, when that is damaged, the one before it; None before the first epoch has ended.

    Raises MuraError when there are checkpoints and all are damaged.
    """
    written = [path for path in (run.last_file, run.previous_file) if path.is_file()]
    for path in written:
        content = read_if_whole(path)
        if content is not None:
            if path != written[0]:
                log.warning("%s is damaged: going on from %s, an epoch earlier", written[0], path.name)
            return SavedState(path, content)
    if written:
        load_checkpoint(written[0])  # says what is wrong with it, if its parts can be read at all
        raise MuraError(f"{written[0]} is damaged, and so is the one before it: remove {run.path} and start it again.")
    return None


def read_if_whole(path: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint, None unless it is as it was written."""
    try:
        return load_checkpoint(path)
    except (*UNREADABLE, MuraError):
        return None


def checkpoint_to_resume(run: RunFolder, model: AbnormalityClassifier, data: MuraDataModule) -> Path | None:
    """Return the run's newest whole checkpoint, if any.

    Raises MuraError when it is of another model, or of other data.
    """
    newest = newest_whole(run)
    if newest is None:
        return None
    if fault := fault_in(newest.content, RESUMED_RULES):
        raise MuraError(
            f"{newest.path} {fault}: remove the file to go on from the one before it, or remove {run.path} and start "
            "it again."
        )
    saved = newest.content["hyper_parameters"]
    for key in ("name", "head", "batch_norm", "separate_heads", "image_size"):
        then, now = saved.get(key), model.hparams[key]
        if then != now:
            raise MuraError(
                f"{newest.path} is of a model with {key}={then}, but this run has {key}={now}: "
                "go on with the config that the run was started with, or choose another hydra.run.dir."
            )
    fill(model, newest.content, newest.path)  # Lightning does so again, but in many lines if they don't fit
    if saved["provenance"].get("data_fingerprint") != data.opened.fingerprint:
        raise MuraError(
            f"{newest.path} was trained on other data than what now lies at data.root={data.root} (the fingerprints "
            "differ): give the data root of the run, or start a new run."
        )
    return newest.path
