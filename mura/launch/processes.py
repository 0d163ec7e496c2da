"""The processes of runs: forked from a server that has imported torch once, and ended cleanly.

Eight short runs then pay for the import once. No run outlives its launcher.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

SECONDS_TO_END = 60  # that an interrupted run has to end by itself
SECONDS_TO_DIE = 5  # after SIGKILL


def forking_context() -> ForkServerContext:
    """Return the context whose processes are forked from a server that has imported torch once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mura.preload"])
    return context


def start_server() -> None:
    """Start the server now, so that it imports torch while the first run is prepared."""
    forking_context()
    forkserver.ensure_running()


def run_script(
    script: Path, arguments: list[str], threads: int, environment: dict[str, str], output: Path | None
) -> None:
    """Run the script in this child process as if it had been typed, its output appended to a file if one is given.

    Its temporary files go with it: W&B's tables are removed at the exit of Python, which a forked process skips.
    """
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
    with tempfile.TemporaryDirectory(prefix="mura-run-", ignore_cleanup_errors=True) as tempfile.tempdir:
        runpy.run_path(str(script), run_name="__main__")


def _end_with_parent() -> None:
    """Kill this run when its launcher has died: the next launcher may write to the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def end_processes(processes: list[ForkServerProcess]) -> None:
    """Ask the processes to end with SIGTERM, then kill them.

    SIGINT would not be heard: what a shell starts in the background ignores it.
    """
    for number, seconds in ((signal.SIGTERM, SECONDS_TO_END), (signal.SIGKILL, SECONDS_TO_DIE)):
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)
        deadline = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        processes = [process for process in processes if process.is_alive()]
