"""The processes of a distributed run watch over each other: when one fails, all end, with a sentence.

A collective operation would else wait for the one that is gone, for half an hour under NCCL. Nothing that may wait for
another process is done by one that has failed: neither `destroy_process_group`, nor Lightning's hook at the exit of
Python, nor the end of the device. It leaves by `os._exit`.
"""

import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch.distributed
from lightning import Callback, Trainer

from mura.errors import MuraError, say
from mura.processes import is_rank_zero, typed
from mura.runs.folder import RunFolder
from mura.signals import heard_at_once, signal_behind

WATCH_INTERVAL = 0.5  # seconds
GRACE = 1.5  # seconds that this process has to end with its own sentence, when another one has died
SECONDS_TO_END = 5.0  # that a process has once it, or another one, has failed: there is nothing to save
COLLECTIVE = ("nccl", "gloo", "processgroup")
CONNECTION_CLOSED = (
    "connection closed by peer", "connection reset by peer", "socket closed", "broken pipe", "ncclremoteerror",
    "remote process exit",
)  # fmt: skip
REMEDIES = {
    "/dev/shm": "give the container more shared memory (docker run --shm-size=1g), or set NCCL_SHM_DISABLE=1",
    "shared memory": "give the container more shared memory (docker run --shm-size=1g), or set NCCL_SHM_DISABLE=1",
    "duplicate gpu": "several processes took the same card: CUDA_VISIBLE_DEVICES must name each card once",
}
"""What to do when NCCL names one of these."""

OTHERWISE = "NCCL_DEBUG=INFO shows more, and trainer.devices=1 trains in one process"


class Companions(Callback):
    """The other processes of a run on this machine: those that this one has started, or the one that started it.

    `meaning` returns what an error means to the user.
    """

    def __init__(self, trainer: Trainer, run: RunFolder, meaning: "Meaning") -> None:
        self.trainer, self.run, self.meaning = trainer, run, meaning
        self.parent = os.getppid()
        self.children: list[subprocess.Popen[bytes]] = []
        self.failure: BaseException | None = None
        self.deadline: float | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End this process when a companion dies while the block is running, or when the block can't be left."""
        if self.trainer.world_size == 1:
            yield
            return
        over = threading.Event()
        self.trainer.callbacks.append(self)  # type: ignore[attr-defined]
        with heard_at_once() as signal_heard:
            watch = threading.Thread(target=self._watch, args=(over, signal_heard), daemon=True)
            watch.start()
            try:
                yield
            finally:
                over.set()
                watch.join()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Note what has failed, before Lightning waits for the device to give back its memory."""
        self.failure, self.deadline = exception, time.monotonic() + SECONDS_TO_END

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

    def has_died(self) -> bool:
        """Return whether a companion is gone."""
        self._take_over()
        if self.trainer.local_rank > 0:  # its parent is the first process, or what SLURM started it with
            return os.getppid() != self.parent
        return any(child.poll() for child in self.children)

    def _watch(self, over: threading.Event, signal_heard: Callable[[], int | None]) -> None:
        while not over.wait(WATCH_INTERVAL):
            if (number := signal_heard()) is not None and self.deadline is None:
                self.deadline = time.monotonic() + SECONDS_TO_END
            if self.deadline is None and self.has_died():
                if not over.wait(GRACE):
                    self._leave(MuraError(end_of_another(self.run)), None)
                return
            if self.deadline is not None and time.monotonic() > self.deadline:
                self._leave(self.failure, number)

    def _leave(self, error: BaseException | None, number: int | None) -> NoReturn:
        """Leave from the watching thread: the main one may hang where no exception and no signal reaches it."""
        code = say_end(error if error is None else self.meaning(error, self), self.run, number)
        self._take_over()
        for child in self.children:
            child.kill()
        leave(code)

    def _take_over(self) -> None:
        """Take the children from Lightning, which kills this process within seconds of the end of one of them."""
        started = getattr(self.trainer.strategy.launcher, "procs", [])
        self.children += started
        started.clear()


Meaning = Callable[[BaseException, Companions], BaseException]


def in_a_group() -> bool:
    """Return whether this process has joined the others of its run."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def leave_group() -> None:
    """Leave the others of the run, which must do so too: it may wait for them."""
    if in_a_group():
        torch.distributed.destroy_process_group()


def say_end(error: BaseException | None, run: RunFolder, number: int | None = None) -> int:
    """Say what ended the run, and return its exit code; of a signal, which all processes get, the first one speaks.

    `number` is that of the signal, if one came. An error without a sentence keeps its traceback.
    """
    if number is None and error is not None:
        number = signal_behind(error)
    if number is not None:
        if is_rank_zero():
            say(run.stopped)
        return 128 + number
    if isinstance(error, MuraError):
        say(str(error))
        return error.exit_code
    traceback.print_exception(error)
    return 1


def leave(code: int) -> NoReturn:
    """Leave this process at once: whatever runs at the exit of Python may wait for another process."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def end_of_another(run: RunFolder) -> str:
    """Return the sentence for a run that lost one of its processes."""
    return f"another process of this run has ended; go on with: {typed('train')} resume={run.path}"


def meaning_of_collective(error: BaseException, companions: Companions) -> MuraError | None:
    """Return what the failure of a collective operation means to the user; None for an error of another kind."""
    words = str(error).lower()
    if not isinstance(error, RuntimeError) or not any(word in words for word in (*COLLECTIVE, *CONNECTION_CLOSED)):
        return None
    if any(word in words for word in CONNECTION_CLOSED) or dies_soon(companions):
        return MuraError(end_of_another(companions.run))
    last = [line.strip() for line in str(error).splitlines() if line.strip()][-1].rstrip(".")
    remedy = next((remedy for word, remedy in REMEDIES.items() if word in words), OTHERWISE)
    return MuraError(f"the processes of this run can't exchange data ({last}): {remedy}.")


def dies_soon(companions: Companions) -> bool:
    """Return whether a companion is dead, or dies within GRACE: its connection may be gone before itself."""
    deadline = time.monotonic() + GRACE
    while not companions.has_died():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
