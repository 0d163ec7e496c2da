"""The end of a run: W&B and every process ended, and a sentence for what a user can mend, whatever happens."""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mura.errors import DISK_FULL, MuraError
from mura.machine import is_out_of_memory
from mura.processes import typed
from mura.runs.folder import RunFolder
from mura.signals import Terminated
from mura.tracking import logger as tracking
from mura.training.distributed import Companions, in_a_group, leave, leave_group, meaning_of_collective, say_end

NO_DETERMINISTIC_WAY = "does not have a deterministic implementation"


@contextmanager
def clean_end(trainer: Trainer, run: RunFolder) -> Iterator[None]:
    """End W&B and every process of the run when the block ends, and raise what its error means to the user.

    A failed process of several says it itself and leaves: on its way up it would wait for the others.
    """
    companions, failed = Companions(trainer, run, meaning_of), True
    try:
        with companions.watched():
            yield
            leave_group()
        failed = False
    except BaseException as error:
        meaning = meaning_of(error, companions)
        if trainer.world_size > 1 and in_a_group():
            code = say_end(meaning, run)
            companions.end(failed)
            tracking.finish(trainer.loggers, exit_code=1)
            leave(code)
        if meaning is error:
            raise
        raise meaning from None
    finally:
        tracking.finish(trainer.loggers, exit_code=int(failed))
        leave_group()  # there is none any more, or this process is alone in it
        companions.end(failed)


def meaning_of(error: BaseException, companions: Companions) -> BaseException:
    """Return what an error means to the user: a MuraError, KeyboardInterrupt for Ctrl-C, else the error itself."""
    trainer, folder = companions.trainer, companions.run.path
    if isinstance(error, SystemExit) and trainer.interrupted and not isinstance(error, Terminated):
        return KeyboardInterrupt()  # Lightning makes a SystemExit of it
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return MuraError(
            f"{folder}: no room to write there ({error.strerror}); what was saved before is whole: make room, "
            f"and go on with: {typed('train')} resume={folder}"
        )
    if isinstance(error, MisconfigurationException):  # Lightning's word for what its arguments can't do together
        return MuraError(str(error).strip().split("\n")[0])
    if is_out_of_memory(error):
        data = trainer.datamodule  # type: ignore[attr-defined]
        return MuraError(memory_sentence(data.batch_size, data.accumulate, data.pictures_on_gpu))
    if isinstance(error, RuntimeError) and NO_DETERMINISTIC_WAY in str(error):
        operation, name = str(error).split()[0], trainer.lightning_module.hparams["name"]
        return MuraError(
            f"trainer.deterministic=true: {name} can't be trained so on this device, where PyTorch has no "
            f"deterministic {operation}; take trainer.deterministic=warn, or another model."
        )
    if isinstance(error, Exception) and not isinstance(error, MuraError) and came_from_restoring(error):
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return MuraError(
            f"{trainer.ckpt_path}: the run can't go on from this checkpoint ({why}); remove the file to go on from the "
            f"one before it, or remove {folder} and start it again."
        )
    if trainer.world_size > 1 and (of_others := meaning_of_collective(error, companions)) is not None:
        return of_others
    return error


def came_from_restoring(error: Exception) -> bool:
    """Return whether Lightning raised the error while it read a checkpoint to go on from."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(Path(code.co_filename).name == "checkpoint_connector.py" for code in frames)


def memory_sentence(batch_size: int, accumulate: int, pictures_on_gpu: bool) -> str:
    """Return what to try when a batch in so many parts takes too much memory."""
    more = min(2 * accumulate, batch_size)
    way = (
        f"data.accumulate={more} takes the same batch in smaller parts"
        if more > accumulate
        else "a smaller data.image_size helps"
    )
    first = "data.resident=false leaves the GPU's memory to the network; " if pictures_on_gpu else ""
    return (
        f"out of memory with data.batch_size={batch_size}, data.accumulate={accumulate}: {first}{way}; "
        f"data.batch_size={max(1, batch_size // 2)} needs less too, but trains otherwise."
    )


class SigtermAsBefore(Callback):
    """Takes SIGTERM back from Lightning, so that what was set before ends the run.

    Lightning answers it with a broadcast wherever the process is: when the other processes of a run are in another
    collective operation, all of them hang. Before each batch its processes exchange whether one has come, and wait for
    the device to read it; now that it can't come, they need not.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_back()
        # Lightning 2.6 has no public way to leave it out; under another name it would only cost time again
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_back()

    def _take_back(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)
