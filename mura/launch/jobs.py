"""Many runs, each a fresh process with a single run's command line.

The one way for `train.py -m` and for studies: each run has its own memory, its own W&B state and, with GPUs, its own
device.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from mura.launch.processes import end, forking_context, run_script
from mura.machine import cores


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
                environment = dict(os.environ) | (
                    {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot % len(gpus)])} if gpus else {}
                )
                output = job.log if captured else None
                process = context.Process(target=run_script, args=(script, job.arguments, threads, environment, output))
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
        end(list(running))
        raise
    return outcomes
