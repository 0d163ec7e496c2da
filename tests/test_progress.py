"""Where a person watches: at a terminal, which a notebook's cell claims to be."""

import os
import sys

import pytest

from mura.progress import bar_below_log, console_on, is_terminal


def test_a_notebooks_cell_keeps_what_is_drawn_so_nothing_is_drawn_there(monkeypatch: pytest.MonkeyPatch) -> None:
    master, cell = os.openpty()
    with os.fdopen(cell, "w") as stream, os.fdopen(master, "rb", buffering=0) as shown:
        monkeypatch.setattr(sys, "stderr", stream)
        assert is_terminal(stream)
        monkeypatch.setenv("JPY_PARENT_PID", "1")
        assert not is_terminal(stream)
        with bar_below_log() as bar:
            bar.add_task("epoch 1/2", total=2)
            console_on(stream, width=110).print("[bold]epoch 1[/bold] " + "x" * 100)
        stream.flush()
        assert shown.read(1000) == b"epoch 1 " + b"x" * 100 + b"\r\n"
