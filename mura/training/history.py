"""The epochs of a run: a row each in the log, in the loggers and in history.csv."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import Callback, LightningModule, Trainer

from mura.data.batches import EvaluationBatches
from mura.data.datamodule import MuraDataModule
from mura.errors import ConfigError, MuraError
from mura.files import write_text
from mura.metrics import THRESHOLD, binary_metrics

HISTORY_METRICS = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_kappa", "val_auroc"]

log = logging.getLogger(__name__)


def require_defined(monitor: str, data: MuraDataModule, limit: int | float) -> None:
    """Raise MuraError when a monitored metric is undefined on the validation views, whatever a model says of them.

    `limit` is the trainer's limit_val_batches: a number of batches, or a share of them.
    """
    batches = EvaluationBatches(data.rows["val"], data.batch_size, 0, 1).batches
    kept = batches[: limit if isinstance(limit, int) else int(limit * len(batches))]
    views = data.opened.table.iloc[[row for batch in kept for row in batch]]
    measured = binary_metrics(views["label"], np.full(len(views), THRESHOLD), views["extremity"])
    if measured.get(monitor.removeprefix("val_"), 0) is None:
        labels = views.groupby("extremity", observed=True)["label"].nunique()
        lacking = ", ".join(labels[labels < 2].index) or "any extremity"
        raise MuraError(
            f"monitor={monitor}: undefined, since the {len(views)} validation views (data.fold={data.fold}, "
            f"trainer.limit_val_batches={limit}) hold only one class of {lacking}; take monitor=val_loss."
        )


def require_batches(trainer: Trainer, data: MuraDataModule) -> None:
    """Raise ConfigError when a limit of the trainer is a share of the batches that is less than one of them."""
    for part, count in data.batches().items():
        limit = getattr(trainer, f"limit_{part}_batches")
        is_overfit = trainer.overfit_batches and part != "predict"  # type: ignore[attr-defined]
        key = "overfit_batches" if is_overfit else f"limit_{part}_batches"
        if isinstance(limit, float) and int(limit * count) == 0:
            raise ConfigError(
                f"trainer.{key}={limit:g}: is less than one batch of the {count} there are; give a number of batches, "
                f"such as trainer.{key}=1."
            )


class History(Callback):
    """Writes one row an epoch to the log, the loggers and history.csv; its rows survive a resume in the checkpoint.

    People read epochs counted from 1, in the log; programs from 0, in history.csv and the loggers.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, float]] = []
        self.started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.logs_epochs = False  # type: ignore[assignment]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        row: dict[str, float] = {"epoch": trainer.current_epoch}
        row |= {name: float(metrics[name]) for name in HISTORY_METRICS if name in metrics}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self.started
        self.rows.append(row)
        if trainer.is_global_zero:
            table = pd.DataFrame(self.rows, columns=["epoch", *HISTORY_METRICS, "lr", "seconds"])
            write_text(self.file, table.to_csv(index=False), sync=False)  # the checkpoint has it too
            log.info(
                "epoch %d: train loss %.4f acc %.3f, val loss %.4f acc %.3f (%.1f s)",
                *(row["epoch"] + 1, row["train_loss"], row["train_accuracy"]),
                *(row["val_loss"], row["val_accuracy"], row["seconds"]),
            )
            for logger in trainer.loggers:
                logger.log_metrics(row, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
