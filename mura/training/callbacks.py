"""The callbacks of a run, in the order in which they are called."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from rich.progress import Progress
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mura.progress import bar_below_log
from mura.runs.folder import PRUNED, RunFolder
from mura.training.history import History
from mura.training.shutdown import SigtermAsBefore
from mura.training.speed import Speed
from mura.training.stall import StallWatch

NEVER = 10**9  # epochs
STEP_HOOKS = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_start", "on_validation_batch_end",
    "on_predict_batch_start", "on_predict_batch_end",
)  # fmt: skip
THRESHOLDS = (EarlyStoppingReason.STOPPING_THRESHOLD, EarlyStoppingReason.DIVERGENCE_THRESHOLD)


def make_callbacks(
    run: RunFolder, monitor: str, mode: str, patience: int | None, ensemble: int = 1, bar: bool = False
) -> list[Callback]:
    """Return the callbacks of a run.

    After signals, stalls, history and speed comes what watches `monitor`: early stopping (unless `patience` is None),
    the best checkpoints of an `ensemble`, and the best one. The last checkpoint is written after everything else of an
    epoch, so that going on from it repeats nothing and skips nothing. With `bar` there is a progress bar.
    """

    def checkpoint(kind: type[ModelCheckpoint], filename: str, **settings: Any) -> ModelCheckpoint:
        return kind(
            run.checkpoints, filename=filename, save_on_train_epoch_end=True, enable_version_counter=False, **settings
        )

    callbacks: list[Callback] = [SigtermAsBefore(), StallWatch(), History(run.history), Speed(), ScheduleStep()]
    if patience is not None:
        stopper = EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=True)
        callbacks += [stopper, StopWhereItStopped()]
    if bar:
        callbacks.append(EpochBar())
    if ensemble > 1:
        watched = {"monitor": monitor, "mode": mode, "save_top_k": ensemble, "auto_insert_metric_name": False}
        callbacks.append(checkpoint(EnsembleCheckpoint, "top-{epoch:03d}", **watched))
    best = checkpoint(ModelCheckpoint, "best", monitor=monitor, mode=mode)
    return [*callbacks, best, checkpoint(ModelCheckpoint, "last")]


def leave_out_empty_hooks(callbacks: Sequence[Callback]) -> None:
    """Take those hooks of a step that do nothing out of the callbacks' way: Lightning skips what can't be called.

    It would enter the profiler and call nothing for each callback and hook, some fifty times a step.
    """
    for callback in callbacks:
        for name in STEP_HOOKS:
            if getattr(getattr(callback, name), "__func__", None) is getattr(Callback, name):
                setattr(callback, name, None)


class EpochBar(ProgressBar):
    """The bar of the epoch that runs, or of the predictions, below the log; epochs count from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.open = ExitStack()
        self.bar: Progress | None = None

    def disable(self) -> None:
        """Draw nothing any more; Lightning calls this in every process but the first."""
        self._close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", self.total_train_batches)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("validation", trainer.num_val_batches[0])

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self._begin("predictions", trainer.num_predict_batches[dataloader_idx])

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._advance()

    def on_validation_batch_end(self, *arguments: Any) -> None:
        self._advance()

    def on_predict_batch_end(self, *arguments: Any) -> None:
        self._advance()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _open(self) -> None:
        if self.trainer.is_global_zero:
            self.bar = self.open.enter_context(bar_below_log())

    def _close(self) -> None:
        self.open.close()
        self.bar = None

    def _begin(self, what: str, total: int | float) -> None:
        if self.bar is not None:
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.bar.add_task(what.ljust(len("predictions")), total=total)  # of equal width, lest it flickers

    def _advance(self) -> None:
        if self.bar is not None:
            self.bar.advance(self.bar.task_ids[-1])


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


class PruneTrial(Callback):
    """Ends a trial of a search that is behind the `limits`, which say what must have been reached by each epoch.

    They are fixed before the trial starts, so that it ends alike whatever else runs beside it.
    """

    def __init__(self, monitor: str, mode: str, limits: Sequence[float | None]) -> None:
        self.monitor, self.sign, self.limits = monitor, 1 if mode == "min" else -1, list(limits)
        self.best = math.inf
        self.has_pruned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further epoch when a run that was pruned goes on, to be predicted with."""
        trainer.should_stop |= self.has_pruned

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.best = min(self.best, self.sign * float(trainer.callback_metrics[self.monitor]))
        limit = self.limits[trainer.current_epoch] if trainer.current_epoch < len(self.limits) else None
        if limit is not None and self.best > self.sign * limit:
            self.has_pruned = trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "has_pruned": self.has_pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.has_pruned = state_dict["best"], state_dict["has_pruned"]


def stopped_by(trainer: Trainer) -> str:
    """Return what ended the training.

    It is `early_stopping`, `undefined` (the monitored metric was no number), `pruned` (a trial of a search),
    `max_time`, `max_steps`, `max_epochs` or, when a callback of one's own asked for the end, `callback`.
    """
    for stopper in trainer.early_stopping_callbacks:
        if stopper.stopping_reason == EarlyStoppingReason.NON_FINITE_METRIC:
            return "undefined"
        if stopper.wait_count >= stopper.patience or stopper.stopping_reason in THRESHOLDS:
            return "early_stopping"
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, PruneTrial) and callback.has_pruned for callback in callbacks):
        return PRUNED
    seconds_left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    if any(seconds is not None and seconds <= 0 for seconds in seconds_left):
        return "max_time"
    if trainer.current_epoch == trainer.max_epochs:
        return "max_epochs"
    return "max_steps" if trainer.global_step == trainer.max_steps else "callback"
