"""The processes of runs: forked from a server that has imported torch once, and ended cleanly.

Eight short runs then pay for the import once. No run outlives its launcher.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

PATIENCE = 60  # seconds that an interrupted run has to end by itself


def forking_context() -> ForkServerContext:
    """Its processes are forked from a server that has imported torch once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mura.preload"])
    return context


def warm_up() -> None:
    """Starts the server now: what is left to do before the first run is then done while it imports torch."""
    forking_context()
    forkserver.ensure_running()


def run_script(
    script: Path, arguments: list[str], threads: int, environment: dict[str, str], output: Path | None
) -> None:
    """In the child: runs the script as if it had been typed."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def _end_with_parent() -> None:
    """A run whose launcher was killed must not go on writing where the next launcher writes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def end(processes: list[ForkServerProcess]) -> None:
    """Ask with SIGTERM, then insist. SIGINT would not be heard where a shell has started all this in the background."""
    for send, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, 5)):
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, send)
        deadline = time.monotonic() + patience
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        processes = [process for process in processes if process.is_alive()]
