"""A run that stands still says so: a read from a network disk that hangs, or a GPU that no longer answers."""

import logging
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

LIMIT = 300.0  # seconds

log = logging.getLogger(__name__)


class StallWatch(Callback):
    """Warns, once for each standstill, when no batch has ended for `limit` seconds, and says where the process is.

    It ends nothing: a disk may answer again, and what is slow is not dead.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self.moved = time.monotonic()
        self.over = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._move()
        self.over = threading.Event()
        watched = threading.get_ident()
        threading.Thread(target=self._watch, args=(watched, self.over), daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.over.set()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._move()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._move()

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._move()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._move()

    def _move(self) -> None:
        self.moved = time.monotonic()

    def _watch(self, thread: int, over: threading.Event) -> None:
        said = 0.0
        while not over.wait(min(5.0, self.limit / 4)):
            if time.monotonic() - self.moved > self.limit and said != self.moved:
                said = self.moved
                log.warning(
                    "no batch for %.0f s; the process is in %s: a disk or a GPU that no longer answers? Once stopped, "
                    "the run goes on with resume=",
                    time.monotonic() - self.moved, place_of(sys._current_frames().get(thread)),
                )  # fmt: skip


def place_of(frame: FrameType | None) -> str:
    """`read (cache.py, line 12)`: the innermost call."""
    if frame is None:
        return "no Python code"
    return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})"
