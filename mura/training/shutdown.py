"""How a run ends: processes, loggers and sentences, whatever happens."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Callback, LightningModule, Trainer

from mura.errors import DISK_FULL, MuraError
from mura.runs import RunFolder
from mura.signals import Terminated
from mura.tracking import logger as tracking
from mura.training.distributed import end_children, watched

OUT_OF_MEMORY = ("can't allocate memory", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")


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
