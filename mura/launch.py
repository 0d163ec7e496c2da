"""Many runs, each a fresh process with a single run's command line.

The one way for `train.py -m` and for studies. The processes are forked from a server that has imported torch once,
so eight short runs pay for it once; each has its own memory, its own W&B state and, with GPUs, its own device.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from mura.machine import cores, memory

GIB_A_PROCESS = 7  # of main memory; DenseNet-121 on batches of 32 at 224 pixels takes 5.5
PATIENCE = 60  # seconds that an interrupted run has to end by itself


@dataclass(frozen=True)
class Job:
    """One run: the arguments of its command line and the folder that it writes."""

    name: str
    arguments: list[str]
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "console.log"


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `exit_code` is negative for a signal."""

    job: Job
    exit_code: int
    seconds: float


Watch = Callable[[Job, "Outcome | None"], None]


def run_jobs(
    script: Path,
    jobs: Sequence[Job],
    watch: Watch,
    *,
    workers: int = 1,
    gpus: Sequence[Sequence[str]] = (),
    captured: bool = False,
) -> list[Outcome]:
    """Runs `script` once for each job, `workers` at a time, and goes on when one fails.

    `watch(job, None)` is called when a job starts, `watch(job, outcome)` when it has ended. The workers divide the
    cores between them, and take turns with the groups of `gpus`. `captured` output goes to each job's `console.log`.
    Ctrl-C ends all children, lets them finish cleanly, and is raised again.
    """
    context = forking_context()
    threads = max(1, cores() // workers)
    waiting, free = list(jobs), list(range(workers))
    running: dict[ForkServerProcess, tuple[Job, int, float]] = {}
    outcomes: list[Outcome] = []
    try:
        while waiting or running:
            while waiting and free:
                job, slot = waiting.pop(0), free.pop(0)
                surroundings = dict(os.environ) | (
                    {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot % len(gpus)])} if gpus else {}
                )
                output = job.log if captured else None
                process = context.Process(target=_run, args=(script, job.arguments, threads, surroundings, output))
                watch(job, None)
                process.start()
                running[process] = (job, slot, time.perf_counter())
            wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                job, slot, started = running.pop(process)
                free.append(slot)
                outcomes.append(Outcome(job, process.exitcode or 0, time.perf_counter() - started))
                watch(job, outcomes[-1])
    except BaseException:
        _end(list(running))
        raise
    return outcomes


def forking_context() -> ForkServerContext:
    """Its processes are forked from a server that has imported torch once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mura.preload"])
    return context


def warm_up() -> None:
    """Starts the server now: what is left to do before the first run is then done while it imports torch."""
    forking_context()
    forkserver.ensure_running()


def placement(workers: int | None, accelerator: str, devices: int, runs: int) -> tuple[int, list[list[str]]]:
    """How many of a study's runs at a time (`workers`, where that is given), and the GPUs of each, in groups.

    A run of several `devices` gets a group of so many; GPUs that are left over stay unused.
    """
    gpus = [] if accelerator == "cpu" else visible_gpus()
    cards = len(gpus) or int(accelerator != "cpu" and unlisted_gpu())
    groups = [gpus[start : start + devices] for start in range(0, len(gpus) - devices + 1, devices)]
    return workers or runs_at_a_time(cards, devices, runs), groups


def runs_at_a_time(gpus: int, devices: int, runs: int) -> int:
    """How many of a study's runs, of `devices` processes each, this machine takes side by side.

    One for each group of GPUs. Without GPUs one for each core (small networks gain little from a second one), where
    there is memory for it, but no more than a quarter of the runs: a unified run lasts as long as its seven
    specialised ones, and should not be what all cores but a few wait for. What is free just now plays no part: the
    number decides the threads of each run, and so the last bits of its results.
    """
    if gpus:
        return max(1, gpus // devices)
    room = int(memory() // (GIB_A_PROCESS * 2**30))
    return max(1, min(cores() // devices, room // devices, runs // 4))


def visible_gpus() -> list[str]:
    """The CUDA devices that runs can be pinned to, known without importing torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device for device in chosen.split(",") if device not in ("", "-1")]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(driver.iterdir())] if driver.is_dir() else []


def unlisted_gpu() -> bool:
    """Whether there may be a GPU that `visible_gpus` does not know: Apple's, AMD's, or any under WSL."""
    return sys.platform == "darwin" or any(Path(device).exists() for device in ("/dev/kfd", "/dev/dxg"))


def _run(script: Path, arguments: list[str], threads: int, surroundings: dict[str, str], output: Path | None) -> None:
    """In the child: runs the script as if it had been typed."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(surroundings)
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


def _end(processes: list[ForkServerProcess]) -> None:
    """Ask with SIGTERM, then insist. SIGINT would not be heard where a shell has started all this in the background."""
    for send, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, 5)):
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, send)
        deadline = time.monotonic() + patience
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        processes = [process for process in processes if process.is_alive()]
