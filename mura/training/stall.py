"""A stalled run reports where it stands: a read from a network disk that hangs, or a GPU that no longer answers."""

import faulthandler
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

SECONDS_TO_WARNING = 300.0
LEAST_SHARE = 0.01
"""The watch is set anew, which costs a thread, only when this share of its time has gone by."""

COMPILING = 6
STDERR = 2  # by its number: in a notebook sys.stderr is no file


class StallWatch(Callback):
    """Prints the stack of every thread to stderr when no batch has ended for `seconds`, once for each stall.

    It ends nothing: a disk may answer again, and what is slow is not dead. Once stopped, the run goes on with resume=.
    A network that is compiled has COMPILING times as long for the first batch of training, validation and prediction.
    """

    def __init__(self, seconds: float = SECONDS_TO_WARNING) -> None:
        self.seconds, self.times, self.set_at = seconds, 1, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._begin(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        faulthandler.cancel_dump_traceback_later()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._rearm()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._rearm()

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._rearm()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rearm()

    def _begin(self, pl_module: LightningModule) -> None:
        self._set(COMPILING if getattr(pl_module, "compiled", False) else 1)

    def _rearm(self) -> None:
        if self.times > 1 or time.monotonic() - self.set_at > LEAST_SHARE * self.seconds:
            self._set(1)

    def _set(self, times: int) -> None:
        self.times, self.set_at = times, time.monotonic()
        faulthandler.dump_traceback_later(times * self.seconds, file=STDERR)
