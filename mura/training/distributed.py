"""The processes of a distributed run watch over each other: when one dies, the others end too, with a sentence.

A collective operation would else wait for the dead one, for half an hour under NCCL.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning import Trainer

from mura.errors import MuraError, say

LOOK_EVERY = 0.5  # seconds
GRACE = 1.5  # seconds that a process has to end with its own sentence; below the 5 after which Lightning kills it
PATIENCE = 5.0  # seconds that the other processes have once the first one has failed: they have nothing to save
LOST_CONNECTION = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "processgroup")


@contextmanager
def watched(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Ends this process when another one of the run on this machine has died, or lost its connection.

    Raises MuraError for a lost connection.
    """
    over, parent = threading.Event(), os.getppid()

    def one_is_dead() -> bool:
        if trainer.local_rank > 0:  # its parent is the first process, or what SLURM started it with
            return os.getppid() != parent
        return any(child.poll() for child in children_of(trainer))

    if trainer.world_size > 1:
        threading.Thread(target=_watch, args=(one_is_dead, over, trainer, folder), daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size > 1 and any(word in str(error).lower() for word in LOST_CONNECTION):
            raise MuraError(sentence(folder)) from None
        raise
    finally:
        over.set()


def _watch(one_is_dead: Callable[[], bool], over: threading.Event, trainer: Trainer, folder: Path) -> None:
    while not over.wait(LOOK_EVERY):
        if one_is_dead():
            if not over.wait(GRACE):
                say(sentence(folder))
                for child in children_of(trainer):
                    child.kill()
                os._exit(1)  # the main thread may hang in a collective operation, where no exception reaches it
            return


def sentence(folder: Path) -> str:
    return f"another process of this run has ended; go on with: python train.py resume={folder}"


def children_of(trainer: Trainer) -> list[subprocess.Popen[bytes]]:
    return list(getattr(trainer.strategy.launcher, "procs", []))


def end_children(trainer: Trainer, failed: bool) -> None:
    """Waits for the further processes; when the run has failed, tells them to end, and does not wait for ever."""
    if failed:
        for child in children_of(trainer):
            child.terminate()
    deadline = time.monotonic() + PATIENCE
    for child in children_of(trainer):
        try:
            child.wait(max(0.0, deadline - time.monotonic()) if failed else None)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
