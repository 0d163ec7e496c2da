"""What a run needs beyond Lightning's own: its history, its speed, a resumable stop, and its predictions."""

import logging
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar

from mura import tracking
from mura.checkpoints import load_whole, newest_whole
from mura.data.datamodule import MuraDataModule
from mura.errors import DISK_FULL, MuraError
from mura.files import write_text
from mura.machine import Choice, allow_tf32
from mura.models.checkpoint import load_checkpoint
from mura.models.classifier import AbnormalityClassifier, gather
from mura.processes import is_rank_zero
from mura.ranks import end_children, watched
from mura.runs import PREDICTION_COLUMNS, RunFolder
from mura.signals import Terminated
from mura.stall import StallWatch

HISTORY = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_kappa", "val_auroc"]
MUCH_WAITING = 0.10
LEAST_WAITING = 1.0  # seconds: nobody need mend less
OUT_OF_MEMORY = ("can't allocate memory", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")
LIGHTNINGS_REMARKS = (
    ".*does not have many workers.*",  # batches are gathered in the process
    ".*smaller than the logging interval.*",  # metrics are logged once an epoch
    ".*treespec, LeafSpec.*",  # Lightning on a newer torch
    ".*recommended to use .*sync_dist=True.*",  # what is logged was gathered and is the same on every process
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*`srun` command is available.*",  # a run of one process on a machine that has SLURM
)

log = logging.getLogger(__name__)


def announce(folder: Path, device: Choice, precision: Choice) -> None:
    """The automatic choices with their reasons; Lightning's own remarks about devices are then left out."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for harmless in LIGHTNINGS_REMARKS:
        warnings.filterwarnings("ignore", harmless)
    if not is_rank_zero():  # the first process speaks for all
        logging.getLogger().setLevel(logging.WARNING)
    log.info("run: %s", folder)
    log.info("device: %s (%s); precision: %s (%s%s)", *device, *precision, allow_tf32(device.value, precision.value))


def announce_weights(model: AbnormalityClassifier) -> None:
    """What is about to be trained, and from which weights it starts."""
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    log.info(
        "model: %s, %.2f million parameters, weights: %s", model.network.name, parameters / 1e6, model.network.origin
    )


def log_config(trainer: Trainer, config: Any) -> None:
    """The resolved config into every logger."""
    for logger in trainer.loggers:
        logger.log_hyperparams(config)


class History(Callback):
    """One row an epoch, in the log, in the loggers and in history.csv; it survives a resume in the checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, float]] = []
        self.started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = trainer.callback_metrics
        row: dict[str, float] = {"epoch": trainer.current_epoch}
        row |= {name: float(found[name]) for name in HISTORY if name in found}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self.started
        self.rows.append(row)
        if trainer.is_global_zero:
            table = pd.DataFrame(self.rows, columns=["epoch", *HISTORY, "lr", "seconds"])
            write_text(self.file, table.to_csv(index=False), sync=False)  # the checkpoint has it too
            log.info(
                "epoch %d: train loss %.4f accuracy %.3f, val loss %.4f accuracy %.3f (%.1f s)",
                *(row["epoch"], row["train_loss"], row["train_accuracy"]),
                *(row["val_loss"], row["val_accuracy"], row["seconds"]),
            )
            for logger in trainer.loggers:
                logger.log_metrics(row, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


class Speed(Callback):
    """Training pictures a second over whole epochs (the first, which warms up, only if there is no other), and the
    share of the time between the end of a step and the next batch. The device is not waited for in each step: on a GPU
    that is still busy with the step before, the share is an upper bound."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.before = 0.0  # seconds of the run before it was interrupted
        self.epochs: list[list[float]] = []  # pictures, seconds, of these waiting for a batch
        self.pictures, self.started, self.waited, self.ready = 0, 0.0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pictures, self.waited = 0, 0.0
        self.started = self.ready = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        self.waited += time.perf_counter() - self.ready

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        batch = arguments[1]
        self.pictures += len(batch["label"])
        self.ready = time.perf_counter()
        if trainer.is_last_batch:  # before the validation begins
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            taken = time.perf_counter() - self.started
            self.epochs.append([self.pictures * trainer.world_size, taken, self.waited])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        share = self.summary()["data_wait_share"]
        waited = sum(waiting for *_, waiting in self.epochs)
        if trainer.is_global_zero and share is not None and share > MUCH_WAITING and waited > LEAST_WAITING:
            log.warning(
                "%.0f %% of the training time went by waiting for pictures: put the cache on a faster disk "
                "(data.cache_dir=DIR), or keep the pictures in the device's memory (data.resident=true).",
                100 * share,
            )

    @property
    def wall_seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [list(epoch) for epoch in self.epochs], "seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs, self.before = state_dict["epochs"], state_dict["seconds"]

    def summary(self) -> dict[str, float | None]:
        steady = self.epochs[1:] or self.epochs
        pictures, seconds, waited = (sum(column) for column in zip(*steady, strict=True)) if steady else (0, 0, 0)
        return {
            "train_images_per_second": pictures / seconds if seconds else None,
            "data_wait_share": waited / seconds if seconds else None,
            "wall_seconds": self.wall_seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        }


def peak_memory_bytes() -> int:
    """Of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS


class SigtermAsBefore(Callback):
    """Takes SIGTERM back from Lightning, which answers it with a broadcast wherever the process is: when the other
    processes of a run are in another collective operation, all of them hang. What was set before ends the run."""

    def __init__(self) -> None:
        self.answer = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_back()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_back()

    def _take_back(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.answer)


class StopWhereItStopped(Callback):
    """A run that had stopped early trains no further epoch when it is resumed to be tested."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopper = trainer.early_stopping_callback
        if isinstance(stopper, EarlyStopping) and stopper.wait_count >= stopper.patience:
            trainer.should_stop = True


def on_a_terminal() -> bool:
    """Whether a person watches: then there is a progress bar, else a line an epoch is enough."""
    return sys.stderr.isatty()


class EnsembleCheckpoint(ModelCheckpoint):
    """Keeps the checkpoints whose predictions are averaged; a class of its own, so that its state is too."""


def make_callbacks(run: RunFolder, monitor: str, mode: str, patience: int | None, ensemble: int = 1) -> list[Callback]:
    """Signals, standstill, history and speed first, then what watches `monitor`: early stopping, the best checkpoint
    and the last one, and, for an `ensemble`, so many of the best."""
    best = ModelCheckpoint(
        run.checkpoints, filename="best", monitor=monitor, mode=mode, save_on_train_epoch_end=True,
        enable_version_counter=False,
    )  # fmt: skip
    # after everything else of an epoch, so that going on from it repeats nothing and skips nothing
    last = ModelCheckpoint(run.checkpoints, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks: list[Callback] = [SigtermAsBefore(), StallWatch(), History(run.history), Speed()]
    if patience is not None:
        stopper = EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=True)
        callbacks += [stopper, StopWhereItStopped()]
    if on_a_terminal():
        callbacks.append(RichProgressBar(leave=False))
    if ensemble > 1:
        callbacks.append(
            EnsembleCheckpoint(
                run.checkpoints, filename="top-{epoch:03d}", auto_insert_metric_name=False, monitor=monitor, mode=mode,
                save_top_k=ensemble, save_on_train_epoch_end=True, enable_version_counter=False,
            )
        )  # fmt: skip
    return [*callbacks, best, last]


def stopped_by(trainer: Trainer) -> str:
    """`early_stopping` or `max_epochs`."""
    stopper = trainer.early_stopping_callback
    stopped = isinstance(stopper, EarlyStopping) and stopper.wait_count >= stopper.patience
    return "early_stopping" if stopped else "max_epochs"


@contextmanager
def clean_end(trainer: Trainer, run: RunFolder) -> Iterator[None]:
    """However the run ends, W&B is finished and no process is left, and what a user can mend is a sentence."""
    code = 1
    try:
        with watched(trainer, run.path):
            yield
        code = 0
    except SystemExit as stop:
        if isinstance(stop, Terminated) or not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None  # what Lightning has made of it
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise MuraError(
            f"{run.path}: no room to write there ({error.strerror}); what was saved before is whole: make room, "
            f"and go on with: python train.py resume={run.path}"
        ) from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        batch_size, parts = trainer.datamodule.batch_size, trainer.datamodule.accumulate  # type: ignore[attr-defined]
        more = min(2 * parts, batch_size)
        way = (
            f"data.accumulate={more} takes the same batch in smaller parts"
            if more > parts
            else "a smaller data.image_size helps"
        )
        raise MuraError(
            f"out of memory with data.batch_size={batch_size}, data.accumulate={parts}: {way}; "
            f"data.batch_size={max(1, batch_size // 2)} needs less too, but trains otherwise."
        ) from None
    finally:
        tracking.finish(trainer.loggers, code)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        end_children(trainer, failed=code != 0)


def out_of_memory(error: RuntimeError) -> bool:
    """Of the device, or of the host and of cuBLAS and cuDNN, for which PyTorch has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


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
