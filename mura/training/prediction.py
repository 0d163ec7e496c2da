"""The predictions of a run: every validation and test view, once, from the chosen checkpoints.

Shapes: N views, in the order of the index.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer

from mura.data.datamodule import MuraDataModule
from mura.models.checkpoint import fill, load_checkpoint
from mura.models.classifier import PerView
from mura.runs.folder import PREDICTION_COLUMNS, RunFolder
from mura.training.callbacks import EnsembleCheckpoint

log = logging.getLogger(__name__)

ROLES = ("val", "test", "transfer")
"""What a view is to a run: `transfer` are the test views of extremities that the run does not answer for."""


class Predictions(NamedTuple):
    """`views` has PREDICTION_COLUMNS and `role`, a row a view; `epochs` are those whose checkpoints were averaged."""

    views: pd.DataFrame
    epochs: list[int]

    def of_role(self, role: str) -> pd.DataFrame:
        """Return the predictions of one of ROLES, with PREDICTION_COLUMNS."""
        return self.views.loc[self.views["role"] == role, PREDICTION_COLUMNS]


def chosen_checkpoints(trainer: Trainer, run: RunFolder) -> list[Path]:
    """Return the best checkpoint, or those of the ensemble in the order of their epochs."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, EnsembleCheckpoint):
            return sorted(map(Path, callback.best_k_models))
    return [run.best_checkpoint]


class Keeping(Callback):
    """Keeps what is predicted of each view, in the place of Lightning, which keeps each batch by itself."""

    def __init__(self) -> None:
        self.views = PerView()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.views.add(*outputs)


def predict_views(trainer: Trainer, data: MuraDataModule, checkpoints: list[Path]) -> Predictions:
    """Predict the views of the data module's predict loaders, each exactly once; the same result on every process.

    The probabilities of several checkpoints are averaged (Rajpurkar et al. 2017, section 3).
    Raises MuraError when a checkpoint is damaged.
    """
    epochs, logits_by_checkpoint = [], []
    for checkpoint in checkpoints:
        content = load_checkpoint(checkpoint)
        fill(trainer.lightning_module, content, checkpoint)
        epochs.append(int(content["epoch"]))
        rows_N, logits_N = _predict(trainer, data)
        logits_by_checkpoint.append(logits_N)
    if len(checkpoints) > 1:
        logits_N = torch.logit(torch.stack(logits_by_checkpoint).sigmoid().mean(0), eps=1e-15)
    return Predictions(predictions_table(data, rows_N, logits_N), epochs)


def try_out(trainer: Trainer, data: MuraDataModule) -> None:
    """Predict a few batches at the end of a run of `fast_dev_run`, which saves no checkpoint and no results."""
    trainer.predict(trainer.lightning_module, datamodule=data)
    log.info("fast_dev_run: every part ran for %d batches; there are no results", trainer.num_predict_batches[0])


def _predict(trainer: Trainer, data: MuraDataModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of the index, int64 [N] in their order, and their logits, float64 [N]."""
    keeping = Keeping()
    trainer.callbacks.append(keeping)  # type: ignore[attr-defined]
    try:
        trainer.predict(trainer.lightning_module, datamodule=data, return_predictions=False)
    finally:
        trainer.callbacks.remove(keeping)  # type: ignore[attr-defined]
    rows_N, logits_N = keeping.views.of_all_processes()
    rows_N, order_N = rows_N.sort()
    return rows_N, logits_N.double()[order_N]


def predictions_table(data: MuraDataModule, rows_N: torch.Tensor, logits_N: torch.Tensor) -> pd.DataFrame:
    """Join logits with the rows of the index that they belong to, and say of each what it is to the run."""
    roles = {int(row): role for role in ROLES for row in data.rows.get(role, ())}
    views = data.all_views().predictions(rows_N, logits_N)
    return views.assign(role=[roles[int(row)] for row in rows_N]).reset_index(drop=True)
