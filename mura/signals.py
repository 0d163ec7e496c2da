"""Ctrl-C and SIGTERM end a program alike: with a sentence, and with everything closed that was open.

They are raised wherever the program is just then, often inside a library, which may make an error of its own of them
before they arrive where they are answered. So the signal is remembered, and what arrives after it is taken for it.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mura.errors import InterruptedRunError, say
from mura.runs import RunFolder

_came: list[int] = []


class Terminated(SystemExit):
    """SIGTERM has come. Like KeyboardInterrupt no Exception, so that nothing takes it for a fault that it can mend."""


@contextmanager
def stop_answered() -> Iterator[None]:
    """Exit code 130 on Ctrl-C, 143 on SIGTERM. A signal that the program was told to ignore, or that something else
    answers, as Lightning does while it trains, is left to that."""
    _came.clear()
    unanswered: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    in_main_thread = threading.current_thread() is threading.main_thread()
    ours = [number for number, before in unanswered.items() if in_main_thread and signal.getsignal(number) == before]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    except BaseException as error:
        came = stop_behind(error)
        answered = isinstance(error, (SystemExit, InterruptedRunError)) and not isinstance(error, Terminated)
        if came is None or answered:
            raise
        say("stopped.")
        raise SystemExit(128 + came) from None
    finally:
        for number in ours:
            signal.signal(number, unanswered[number])


def stop_behind(error: BaseException) -> int | None:
    """The signal that has come to this, whatever a library has made of it; None for an error of another kind."""
    if _came:
        return _came[0]
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else None


@contextmanager
def resumable(run: RunFolder) -> Iterator[None]:
    """Ctrl-C and SIGTERM become InterruptedRunError, which says how to go on; of a finished run there is nothing to."""
    try:
        yield
    except BaseException as error:
        number = stop_behind(error)
        if number is None or run.finished:
            raise
        raise InterruptedRunError(f"stopped; go on with: python train.py resume={run.path}", 128 + number) from None


def _stop(number: int, frame: FrameType | None) -> None:
    if signal.getsignal(number) is not _stop:  # Lightning calls this too, after its own answer
        return
    _came.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)
