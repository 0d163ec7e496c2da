"""SIGTERM ends a program as Ctrl-C does: with a sentence, and with everything closed that was open."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mura.errors import InterruptedRunError, say
from mura.runs import RunFolder

EXIT_CODE = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


class Terminated(SystemExit):
    """SIGTERM has come. Like KeyboardInterrupt no Exception, so that nothing takes it for a fault that it can mend."""


@contextmanager
def sigterm_answered() -> Iterator[None]:
    """Exit code 143 on SIGTERM. Where something else answers it, as Lightning does while it trains, that stays so."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except Terminated:
        say("stopped.")
        raise SystemExit(EXIT_CODE) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def resumable(run: RunFolder) -> Iterator[None]:
    """Ctrl-C and SIGTERM become InterruptedRunError, which says how to go on; of a finished run there is nothing to."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        if run.finished:
            raise
        code = EXIT_CODE if isinstance(stop, Terminated) else INTERRUPTED
        raise InterruptedRunError(f"stopped; go on with: python train.py resume={run.path}", code) from None


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: for C code that makes a fault of its own of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, lambda sent, _: came.append(sent))
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)
        if came:
            signal.raise_signal(came[0])


def _terminate(number: int, frame: FrameType | None) -> None:
    if signal.getsignal(signal.SIGTERM) is _terminate:  # Lightning calls this too, after its own answer
        raise Terminated(EXIT_CODE)
