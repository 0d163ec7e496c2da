"""Decodes DICOM pixels in a process of its own: GDCM ends the process it is in, or writes to it, on some damaged files.

The file is a script as well: run by itself it is that process, and imports nothing of mura.
"""

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from io import BytesIO

import numpy as np

MOST_SECONDS = 60  # for one picture; the largest that are read take a few
LENGTH = 8  # bytes in front of each message, little endian


class DecoderProcess:
    """A process that decodes one picture after another, until it is closed or dies of one."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", __file__]  # -P: the files beside this one hide no library
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def ask(self, data: bytes) -> bytes | None:
        """Return its answer to a DICOM file, empty if it can't be decoded; None if the process died of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(MOST_SECONDS, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(len(data).to_bytes(LENGTH, "little") + data)
            self.process.stdin.flush()
            head = self.process.stdout.read(LENGTH)
            size = int.from_bytes(head, "little")
            answer = self.process.stdout.read(size)
        except BrokenPipeError:
            return None
        finally:
            timer.cancel()
        return answer if len(head) == LENGTH and len(answer) == size else None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


_idle: deque[DecoderProcess] = deque()
os.register_at_fork(after_in_child=_idle.clear)  # the pipes are the parent's


def decode_apart(data: bytes) -> np.ndarray | None:
    """Return the pixels of a DICOM file, [H, W] or [H, W, 3] in RGB; None if they can't be decoded.

    A process that dies is asked once more, anew: it may have been ended by others. Threads have processes of their own,
    which stay for the next picture and end with this program. Raises OSError if no process can be started.
    """
    for _ in range(2):
        try:
            decoder = _idle.pop()
        except IndexError:
            decoder = DecoderProcess()
        answer = decoder.ask(data)
        if answer is not None:
            _idle.append(decoder)
            return np.load(BytesIO(answer)) if answer else None
        decoder.close()
    return None


def _serve() -> None:
    """Decode what is sent, until nothing more is; whatever a library prints goes nowhere."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the program's to answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while head := sys.stdin.buffer.read(LENGTH):
        data = sys.stdin.buffer.read(int.from_bytes(head, "little"))
        file = BytesIO()
        try:
            np.save(file, pixel_array(dcmread(BytesIO(data), force=True)), allow_pickle=False)
        except Exception:
            file = BytesIO()  # what is wrong with the file is not passed on: a sentence may quote it
        answer = file.getvalue()
        answers.write(len(answer).to_bytes(LENGTH, "little") + answer)
        answers.flush()


if __name__ == "__main__":
    _serve()
