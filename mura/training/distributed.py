"""The processes of a distributed run watch over each other: when one dies, the others end too, with a sentence.

A collective operation would else wait for the dead one, for half an hour under NCCL.
"""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning import Trainer

from mura.errors import say
from mura.processes import typed

WATCH_INTERVAL = 0.5  # seconds
GRACE = 1.5  # seconds that this process has to end with its own sentence, when another one has died
SECONDS_TO_END = 5.0  # that the other processes have once this one has failed: they have nothing to save
LOST_CONNECTION = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "processgroup")


class Companions:
    """The other processes of a run on this machine: those that this one has started, or the one that started it."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder
        self.parent = os.getppid()
        self.children: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End this process when a companion dies while the block is running."""
        over = threading.Event()
        if self.trainer.world_size > 1:
            threading.Thread(target=self._watch, args=(over,), daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def end(self, failed: bool) -> None:
        """Wait for the processes that this one has started; when it has failed, end them, and don't wait for ever."""
        self._take_over()
        if failed:
            for child in self.children:
                child.terminate()
        deadline = time.monotonic() + SECONDS_TO_END
        for child in self.children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()) if failed else None)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(WATCH_INTERVAL):
            self._take_over()
            if self._one_has_died():
                if not over.wait(GRACE):
                    say(end_of_another(self.folder))
                    for child in self.children:
                        child.kill()
                    os._exit(1)  # the main thread may hang in a collective operation, where no exception reaches it
                return

    def _take_over(self) -> None:
        """Take the children from Lightning, which kills this process within seconds of the end of one of them."""
        started = getattr(self.trainer.strategy.launcher, "procs", [])
        self.children += started
        started.clear()

    def _one_has_died(self) -> bool:
        if self.trainer.local_rank > 0:  # its parent is the first process, or what SLURM started it with
            return os.getppid() != self.parent
        return any(child.poll() for child in self.children)


def end_of_another(folder: Path) -> str:
    """Return the sentence for a run that lost one of its processes."""
    return f"another process of this run has ended; go on with: {typed('train')} resume={folder}"


def connection_was_lost(error: BaseException) -> bool:
    """Return whether a collective operation failed because another process of the run is gone."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST_CONNECTION)
