"""Where what a person reads is printed, and the one progress bar.

The bar is on stderr, below what is logged, gone when done, and absent where nobody watches.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `show(done, total)`, to be called as often as there is news."""
    with bar_below_log() as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def bar_below_log() -> Iterator[Progress]:
    """Yield a bar of rich's, to be given tasks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = console_on(sys.stderr)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar if console.is_terminal else nullcontext(), log_above():  # disabled too, rich 13 ends it with a line
        yield bar


@contextmanager
def log_above() -> Iterator[None]:
    """Have what is logged to the terminal stand above what rich draws meanwhile.

    rich puts itself in the place of sys.stderr, which the log's handlers had taken before.
    """
    handlers = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    before = [(handler, handler.stream) for handler in handlers if is_terminal(handler.stream)]
    for handler, _ in before:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in before:
            handler.setStream(stream)


def console_on(stream: TextIO, width: int | None = None) -> Console:
    """Return rich's console on a stream; `width` is that of its lines where it is no terminal, which has its own."""
    watched = is_terminal(stream)
    return Console(file=stream, force_terminal=watched, width=None if watched else width)


def is_terminal(stream: TextIO) -> bool:
    """Return whether a person watches the stream at a terminal.

    To a command, a notebook's cell looks like one, but it keeps all that a bar draws and takes back.
    """
    return stream.isatty() and "JPY_PARENT_PID" not in os.environ


def on_a_terminal() -> bool:
    """Return whether a person watches: then there is a progress bar, else a line an epoch is enough."""
    return is_terminal(sys.stderr)
