"""The callbacks of a run, in the order in which they are called."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mura.progress import on_a_terminal
from mura.runs import RunFolder
from mura.training.history import History
from mura.training.shutdown import SigtermAsBefore
from mura.training.speed import Speed
from mura.training.stall import StallWatch

NEVER = 10**9  # epochs
THRESHOLDS = (EarlyStoppingReason.STOPPING_THRESHOLD, EarlyStoppingReason.DIVERGENCE_THRESHOLD)


def make_callbacks(run: RunFolder, monitor: str, mode: str, patience: int | None, ensemble: int = 1) -> list[Callback]:
    """Return the callbacks of a run.

    After signals, stalls, history and speed comes what watches `monitor`: early stopping (unless `patience` is None),
    the best checkpoints of an `ensemble`, and the best one. The last checkpoint is written after everything else of an
    epoch, so that going on from it repeats nothing and skips nothing.
    """

    def checkpoint(kind: type[ModelCheckpoint], filename: str, **settings: Any) -> ModelCheckpoint:
        return kind(
            run.checkpoints, filename=filename, save_on_train_epoch_end=True, enable_version_counter=False, **settings
        )

    callbacks: list[Callback] = [SigtermAsBefore(), StallWatch(), History(run.history), Speed(), ScheduleStep()]
    if patience is not None:
        stopper = EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=True)
        callbacks += [stopper, StopWhereItStopped()]
    if on_a_terminal():
        callbacks.append(ProgressBar(leave=False))
    if ensemble > 1:
        watched = {"monitor": monitor, "mode": mode, "save_top_k": ensemble, "auto_insert_metric_name": False}
        callbacks.append(checkpoint(EnsembleCheckpoint, "top-{epoch:03d}", **watched))
    best = checkpoint(ModelCheckpoint, "best", monitor=monitor, mode=mode)
    return [*callbacks, best, checkpoint(ModelCheckpoint, "last")]


class ProgressBar(RichProgressBar):
    """Lightning's progress bar, with epochs counted from 1: `Epoch 1/20`."""

    def _get_train_description(self, current_epoch: int) -> str:
        words = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return words.ljust(len(self.validation_description))  # of equal width, so that it does not flicker


class EnsembleCheckpoint(ModelCheckpoint):
    """Keeps the checkpoints whose predictions are averaged; a class of its own, so that its state is too."""


class ScheduleStep(Callback):
    """Steps the learning rate at the end of an epoch in Lightning's stead.

    Lightning does it after it has written last.ckpt, which would then lack the step.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            config.frequency = NEVER

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                config.scheduler.step(trainer.callback_metrics[str(config.monitor)])
            else:
                assert isinstance(config.scheduler, LRScheduler)
                config.scheduler.step()


class StopWhereItStopped(Callback):
    """Trains no further epoch when a run that had stopped early is resumed to be tested."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if stopped_by(trainer) == "early_stopping":
            trainer.should_stop = True


def stopped_by(trainer: Trainer) -> str:
    """Return what ended the training.

    It is `early_stopping`, `undefined` (the monitored metric was no number), `max_time`, `max_steps`, `max_epochs` or,
    when a callback of one's own asked for the end, `callback`.
    """
    for stopper in trainer.early_stopping_callbacks:
        if stopper.stopping_reason == EarlyStoppingReason.NON_FINITE_METRIC:
            return "undefined"
        if stopper.wait_count >= stopper.patience or stopper.stopping_reason in THRESHOLDS:
            return "early_stopping"
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    seconds_left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    if any(seconds is not None and seconds <= 0 for seconds in seconds_left):
        return "max_time"
    if trainer.current_epoch == trainer.max_epochs:
        return "max_epochs"
    return "max_steps" if trainer.global_step == trainer.max_steps else "callback"
