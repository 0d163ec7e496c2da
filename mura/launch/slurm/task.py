"""What a job does on a machine of the cluster: its run, ended in time and queued again when it is not finished."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mura.launch.jobs import Job
from mura.processes import environment_of_a_run
from mura.runs.folder import RunFolder

SIGNAL_SECONDS = 90  # before the time limit, at which SLURM sends its signal
SECONDS_TO_END = 60  # that a run has to end by itself
REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # the time is nearly up, or the job is preempted
STOP_SIGNALS = (signal.SIGTERM, *REQUEUE_SIGNALS)


@dataclass(frozen=True)
class Task:
    """What a job does: `script` with the job's arguments, in at most `limit` minutes, on so many cores a process."""

    script: Path
    job: Job
    limit: int
    threads: int


class _Stopped(BaseException):
    """SLURM's signal to this job. Not an Exception, so that submitit writes no result: the job has none."""

    def __init__(self, number: int) -> None:
        self.number = number


def run_task(task: Task) -> int:
    """Run the task as a process of its own, its output in console.log, and return the exit code.

    A run that had begun goes on. SIGTERM (cancelled, or preempted and queued again by SLURM itself) ends the run.
    SIGUSR1 or SIGUSR2 ends it and queues it again, unless no epoch ended in the whole time.
    """
    run, began = RunFolder(task.job.folder), time.monotonic()
    if run.finished:
        return 0
    saved_before = _time_of_last_save(run)
    run.path.mkdir(parents=True, exist_ok=True)
    _answer(REQUEUE_SIGNALS, signal.SIG_IGN)  # SLURM sends them to every process, and the run inherits this
    with task.job.log.open("ab") as output:
        process = _start_run(task, output)
        try:
            _answer(STOP_SIGNALS, _stop)
            return process.wait()
        except _Stopped as stopped:
            _answer(STOP_SIGNALS, signal.SIG_IGN)
            _end_run(process)
            if stopped.number == signal.SIGTERM:
                raise SystemExit(130) from None
            had_all_its_time = time.monotonic() - began > 60 * task.limit - 2 * SIGNAL_SECONDS
            if had_all_its_time and _time_of_last_save(run) == saved_before:
                output.write(f"no epoch ended within the {task.limit} minutes: give more launcher.time\n".encode())
                return 1
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True, timeout=60)
            raise SystemExit(0) from None


def arguments_of(job: Job) -> list[str]:
    """Return the job's arguments; if its run has begun, those that go on with it, unless they do so themselves."""
    goes_on = any(argument.startswith("resume=") for argument in job.arguments)
    return job.arguments if goes_on or not RunFolder(job.folder).begun else [f"resume={job.folder}"]


def run_environment(threads: int) -> dict[str, str]:
    """Return the environment for a run of a single process, whatever SLURM has counted for the job."""
    kept = {
        name: value for name, value in environment_of_a_run().items() if not name.startswith(("SLURM_", "SUBMITIT_"))
    }
    job = {name: os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_CONF") if name in os.environ}
    return kept | job | {"OMP_NUM_THREADS": str(threads)}


def _start_run(task: Task, output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(task.script), *arguments_of(task.job)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=run_environment(task.threads),
        start_new_session=True,
    )


def _answer(numbers: tuple[signal.Signals, ...], handler: Any) -> None:
    for number in numbers:
        signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    raise _Stopped(number)


def _end_run(process: subprocess.Popen[bytes]) -> None:
    """Ask the run and its own processes to end with SIGTERM, then kill them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(SECONDS_TO_END)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _time_of_last_save(run: RunFolder) -> int | None:
    """Return when last.ckpt was written, in nanoseconds; None if it never was."""
    return run.last_file.stat().st_mtime_ns if run.last_file.is_file() else None
