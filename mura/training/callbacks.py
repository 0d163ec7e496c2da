"""The callbacks of a run, in the order in which they are called."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar

from mura.progress import on_a_terminal
from mura.runs import RunFolder
from mura.training.history import History
from mura.training.shutdown import SigtermAsBefore
from mura.training.speed import Speed
from mura.training.stall import StallWatch


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


class StopWhereItStopped(Callback):
    """A run that had stopped early trains no further epoch when it is resumed to be tested."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopper = trainer.early_stopping_callback
        if isinstance(stopper, EarlyStopping) and stopper.wait_count >= stopper.patience:
            trainer.should_stop = True


def stopped_by(trainer: Trainer) -> str:
    """`early_stopping` or `max_epochs`."""
    stopper = trainer.early_stopping_callback
    stopped = isinstance(stopper, EarlyStopping) and stopper.wait_count >= stopper.patience
    return "early_stopping" if stopped else "max_epochs"
