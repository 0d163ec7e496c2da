"""Predictions of a finished run: every validation and test view, once, from the chosen checkpoints."""

from pathlib import Path

import pandas as pd
import torch
from lightning import Trainer

from mura.data.datamodule import MuraDataModule
from mura.models.classifier import gather
from mura.runs import PREDICTION_COLUMNS, RunFolder
from mura.training.callbacks import EnsembleCheckpoint
from mura.training.checkpoints import load_whole


def chosen_checkpoints(trainer: Trainer, run: RunFolder) -> list[Path]:
    """The best checkpoint, or those of the ensemble in the order of their epochs."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, EnsembleCheckpoint):
            return sorted(map(Path, callback.best_k_models))
    return [run.best_checkpoint]


def predict(trainer: Trainer, data: MuraDataModule, checkpoints: list[Path]) -> pd.DataFrame:
    """Predictions for every validation and test view, each exactly once, on every process.

    Of several checkpoints the probabilities are averaged (Rajpurkar et al. 2017, section 3). Columns as in
    PREDICTION_COLUMNS, in the order of the index; `split` is val, test, or transfer for the test views of
    extremities that the run does not answer for.
    """
    rows, logits = _logits_of(trainer, data, checkpoints[0])
    if len(checkpoints) > 1:
        members = [logits, *(_logits_of(trainer, data, checkpoint)[1] for checkpoint in checkpoints[1:])]
        logits = torch.logit(torch.stack(members).sigmoid().mean(0), eps=1e-15)
    return predictions_table(data, rows, logits)


def _logits_of(trainer: Trainer, data: MuraDataModule, checkpoint: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of the index, int64 [N] in their order, and a checkpoint's logits for them, float64 [N]."""
    model = trainer.lightning_module
    model.load_state_dict(load_whole(checkpoint)["state_dict"])
    per_part = trainer.predict(model, datamodule=data)
    assert per_part is not None
    mine = [batch for part in per_part for batch in part]
    everyone = [batch for process in gather(mine) for batch in process]
    rows, order = torch.cat([rows for rows, _ in everyone]).sort()
    return rows, torch.cat([logits for _, logits in everyone]).double()[order]


def predictions_table(data: MuraDataModule, rows: torch.Tensor, logits: torch.Tensor) -> pd.DataFrame:
    """Joins `logits` [N] with the `rows` [N] of the index that they belong to."""
    table = data.opened.table.iloc[rows.numpy()].assign(
        split=lambda views: views["split"].map({"train": "val", "test": "test"}),
        logit=logits.numpy(),
        probability=logits.sigmoid().numpy(),
    )
    table.loc[table.index.isin(data.rows.get("transfer", [])), "split"] = "transfer"
    return table[PREDICTION_COLUMNS].reset_index(drop=True)
