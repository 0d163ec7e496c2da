"""Ctrl-C and SIGTERM end a program alike: with a sentence, and with everything closed that was open.

A signal is raised wherever the program is just then, often inside a library, which may make an error of its own of it.
So it is remembered, and what arrives after it is taken for it. On the way up, from the inside out:

| who | does what |
|---|---|
| the handler of `answering_signals` | remembers the signal; raises KeyboardInterrupt, or Terminated for SIGTERM |
| `clean_end` (training/shutdown.py) | ends W&B and the processes of the run, and passes it on |
| `resumable` (runs/folder.py) | makes an InterruptedRunError of it: how to go on, with exit code 130 or 143 |
| `exit_with_sentence` (config/sentences.py) | says that sentence, and exits with its code |
| `answering_signals` | says "stopped." where nobody has said anything, and exits with 130 or 143 |

No Python runs in a main thread that waits in NCCL: there `Companions` (training/distributed.py) ends the run.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from mura.errors import InterruptedRunError, say

_remembered: list[int] = []


class Terminated(SystemExit):
    """The answer to SIGTERM. Like KeyboardInterrupt no Exception: nothing takes it for a fault that it can mend."""


@contextmanager
def answering_signals() -> Iterator[None]:
    """End the program with exit code 130 on Ctrl-C and 143 on SIGTERM.

    A signal that the program was told to ignore, or that something else answers, as Lightning does while it trains, is
    left to that.
    """
    _remembered.clear()
    unanswered: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    in_main_thread = threading.current_thread() is threading.main_thread()
    ours = [number for number, before in unanswered.items() if in_main_thread and signal.getsignal(number) == before]
    for number in ours:
        signal.signal(number, _raise)
    try:
        yield
    except BaseException as error:
        came = signal_behind(error)
        has_its_code = isinstance(error, (SystemExit, InterruptedRunError)) and not isinstance(error, Terminated)
        if came is None or has_its_code:
            raise
        say("stopped.")
        raise SystemExit(128 + came) from None
    finally:
        for number in ours:
            signal.signal(number, unanswered[number])
        _remembered.clear()  # what comes later in this process, a notebook's next cell say, has nothing to do with it


def signal_behind(error: BaseException) -> int | None:
    """Return the signal that led to this, whatever a library has made of it; None for an error of another kind."""
    if _remembered:
        return _remembered[0]
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else None


@contextmanager
def heard_at_once() -> Iterator[Callable[[], int | None]]:
    """Yield a question that any thread may ask: which of Ctrl-C and SIGTERM has come, None for neither.

    Python's handlers wait until the main thread comes back from C, which a collective operation may never do. The
    wakeup descriptor is written to by the handler in C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)

        def first() -> int | None:
            with suppress(BlockingIOError):
                came.extend(number for number in reader.recv(4096) if number in (signal.SIGINT, signal.SIGTERM))
            return came[0] if came else None

        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield first
        finally:
            signal.set_wakeup_fd(before)


def _raise(number: int, frame: FrameType | None) -> None:
    if signal.getsignal(number) is not _raise:  # Lightning calls this too, after its own answer
        return
    _remembered.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)
