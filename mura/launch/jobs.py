"""Many runs, each a fresh process with a single run's command line.

The one way for `train.py -m` and for studies: each run has its own memory, its own W&B state and, with GPUs, its own
device.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from mura.launch.processes import end_processes, forking_context, run_script
from mura.machine import cores
from mura.processes import environment_of_a_run


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


JobListener = Callable[[Job, Outcome | None], None]
"""Called with a job and None when the job starts, and with the job and its outcome when it has ended."""


def run_jobs(
    script: Path,
    jobs: Sequence[Job],
    tell: JobListener,
    *,
    workers: int = 1,
    gpus: Sequence[Sequence[str]] = (),
    captured: bool = False,
) -> list[Outcome]:
    """Run `script` once for each job, `workers` at a time, and go on when one fails; return the outcomes as they came.

    The workers divide the cores between them, and take turns with the groups of `gpus`. `captured` output goes to each
    job's `console.log`. Ctrl-C ends all children, lets them finish cleanly, and is raised again.
    """
    pool = _Workers(script, workers, gpus, captured)
    waiting, outcomes = list(jobs), []
    try:
        while waiting or pool.running:
            while waiting and pool.free:
                tell(waiting[0], None)
                pool.start(waiting.pop(0))
            for outcome in pool.wait():
                outcomes.append(outcome)
                tell(outcome.job, outcome)
    except BaseException:
        end_processes(list(pool.running))
        raise
    return outcomes


class _Workers:
    """Numbered places for runs: each keeps its share of the cores and its GPUs, and takes one job after the other."""

    def __init__(self, script: Path, number: int, gpus: Sequence[Sequence[str]], captured: bool) -> None:
        self.script, self.gpus, self.captured = script, gpus, captured
        self.threads = max(1, cores() // number)
        self.context = forking_context()
        self.free = list(range(number))
        self.running: dict[ForkServerProcess, tuple[Job, int, float]] = {}

    def start(self, job: Job) -> None:
        """Start the job in the place that has been free for longest."""
        place = self.free.pop(0)
        environment = environment_of_a_run()
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus[place % len(self.gpus)])
        output = job.log if self.captured else None
        process = self.context.Process(
            target=run_script, args=(self.script, job.arguments, self.threads, environment, output)
        )
        process.start()
        self.running[process] = (job, place, time.perf_counter())

    def wait(self) -> list[Outcome]:
        """Wait until a job has ended, and return the outcomes of all that have."""
        wait([process.sentinel for process in self.running])
        return [self._free(process) for process in list(self.running) if not process.is_alive()]

    def _free(self, process: ForkServerProcess) -> Outcome:
        job, place, started = self.running.pop(process)
        self.free.append(place)
        return Outcome(job, process.exitcode or 0, time.perf_counter() - started)
