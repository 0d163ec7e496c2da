"""What a job does on a machine of the cluster: its run, ended in time and queued again when it is not finished."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mura.launch.jobs import Job
from mura.runs import RunFolder

WARNING = 90  # seconds before the time limit at which SLURM sends its signal
PATIENCE = 60  # seconds that a run has to end by itself


@dataclass(frozen=True)
class Task:
    """What a job does: `script` with the job's arguments, in at most `limit` minutes, on so many cores a process."""

    script: Path
    job: Job
    limit: int
    threads: int


class _Told(BaseException):
    """SLURM sent a signal. No Exception: submitit then writes no result, for the job has none."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def run_task(task: Task) -> int:
    """The run as a process of its own, its output in console.log; its exit code.

    Goes on with a run that had begun. SIGTERM (cancelled, or preempted: then SLURM itself queues it again) ends the
    run; SIGUSR1 or SIGUSR2 (the time is nearly up, or preempted) ends it and queues it again, unless the whole time
    did not suffice for one epoch.
    """
    run, began = RunFolder(task.job.folder), time.monotonic()
    if run.finished:
        return 0
    before = _saved(run)
    task.job.folder.mkdir(parents=True, exist_ok=True)
    for signum in (signal.SIGUSR1, signal.SIGUSR2):  # the run ignores them; SLURM sends them to every process
        signal.signal(signum, signal.SIG_IGN)
    with task.job.log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(task.script), *arguments_of(task.job)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=run_environment(task.threads), start_new_session=True,
        )  # fmt: skip
        try:
            for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(signum, _tell)
            return process.wait()
        except _Told as told:
            for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(signum, signal.SIG_IGN)
            _end(process)
            if told.signum == signal.SIGTERM:
                raise SystemExit(130) from None
            if _saved(run) == before and time.monotonic() - began > 60 * task.limit - 2 * WARNING:
                output.write(f"no epoch ended within the {task.limit} minutes: give more launcher.time\n".encode())
                return 1
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True, timeout=60)
            raise SystemExit(0) from None


def arguments_of(job: Job) -> list[str]:
    """The job's own, or, when its run has begun, those that go on with it."""
    begun = (job.folder / ".hydra" / "overrides.yaml").is_file() and RunFolder(job.folder).config.is_file()
    return [f"resume='{job.folder}'"] if begun else job.arguments


def _saved(run: RunFolder) -> int | None:
    """When the last epoch was saved."""
    last = run.checkpoints / "last.ckpt"
    return last.stat().st_mtime_ns if last.is_file() else None


def run_environment(threads: int) -> dict[str, str]:
    """The environment of the run: of a single process, whatever SLURM has counted for the job."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_"))}
    job = {name: os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_CONF") if name in os.environ}
    return kept | job | {"OMP_NUM_THREADS": str(threads)}


def _tell(signum: int, _: Any) -> None:
    raise _Told(signum)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks with SIGTERM, then insists."""
    for send in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, send)
            process.wait(PATIENCE)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
