"""Many runs as jobs of a SLURM queue, with the contract of `mura.launch.jobs.run_jobs`.

On a machine of the cluster, a job runs what could be typed there, `python train.py ...`, in a process of its own. When
SLURM starts it again (preempted, out of time, a node that failed), it goes on where its run folder says. submitit
submits the jobs; `squeue`, which every SLURM has, with accounting or without, says what became of them.
"""

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from mura.errors import MuraError
from mura.files import write_json
from mura.launch.jobs import Job, JobListener, Outcome
from mura.launch.slurm.task import SECONDS_TO_END, SIGNAL_SECONDS, Task, run_task

SECONDS_BETWEEN_LOOKS = 15  # at the queue, at most
SECONDS_UNSEEN = 15  # after which a job is given up that is not in the queue and left no result
RUNNING_STATES = ("RUNNING", "COMPLETING")
TIME_LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]\d)(?::[0-5]\d)?")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """What each job asks of SLURM. `time` is minutes, or hours:minutes:seconds, days in front with a dash."""

    time: int | str
    partition: str | None = None
    account: str | None = None
    gpus: int = 1
    cpus: int = 4
    memory: float = 16  # GiB
    at_a_time: int | None = None
    setup: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def minutes_of(text: int | str) -> int | None:
    """Return the minutes of a time limit such as `90`, `1:30:00` or `2-12:00`; None if it is zero or no time."""
    if isinstance(text, int) or text.isdecimal():
        return int(text) or None
    match = TIME_LIMIT.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes = (int(match[name] or 0) for name in ("days", "hours", "minutes"))
    return (days * 24 + hours) * 60 + minutes or None


def run_jobs(
    script: Path, jobs: Sequence[Job], tell: JobListener, *, resources: Resources, folder: Path
) -> list[Outcome]:
    """Run `script` once for each job, in the queue, and go on when one fails; return the outcomes as they came.

    A job starts when it leaves the queue for a machine. What an earlier call with the same `folder` has submitted, and
    is still queued or running, is waited for and not submitted again. Ctrl-C cancels all jobs, and is raised again.
    Raises MuraError when SLURM or submitit is not there, or refuses the jobs.
    """
    require_slurm()
    submissions = Submissions(folder)
    try:
        ids = submissions.queued_ids(jobs)
        ids |= submissions.submit(script, [job for job in jobs if job.name not in ids], resources)
        return _follow([_SubmittedJob(job, ids[job.name], folder) for job in jobs], tell)
    except KeyboardInterrupt:
        submissions.cancel()
        raise


def require_slurm() -> None:
    """Raise MuraError when submitit or SLURM's commands are not there."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise MuraError("SLURM needs submitit: pip install -e '.[slurm]' in the clone.") from None
    read_queue()


def read_queue() -> dict[str, tuple[str, str]]:
    """Return this user's jobs: `name:index` -> (id, state). Raises MuraError when SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%j:%K|%i|%T"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MuraError(f"SLURM does not answer here (squeue: {error}); type this where sbatch works.") from None
    if listed.returncode != 0:
        reason = (listed.stderr.strip().splitlines() or ["no word"])[-1]
        raise MuraError(f"SLURM does not answer here ({reason}); type this where sbatch works.")
    rows = [line.rsplit("|", 2) for line in listed.stdout.splitlines()]
    return {place: (job_id, state) for place, job_id, state in rows}


class Submissions:
    """The place of each submitted job in the queue: a name that no other submission has, and an index.

    Kept in `folder`, and written before the jobs are submitted: a launcher killed at any moment finds its jobs again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "places.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.place_of: dict[str, str] = json.loads(self.file.read_text("utf-8")) if self.file.is_file() else {}

    def queued_ids(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Return SLURM's ids of those jobs that are already queued or running, by the jobs' names."""
        queued = read_queue()
        places = {job.name: self.place_of.get(job.name) for job in jobs}
        ids = {name: queued[place][0] for name, place in places.items() if place in queued}
        if ids:
            log.info("%d runs are already in the queue", len(ids))
        return ids

    def submit(self, script: Path, jobs: Sequence[Job], resources: Resources) -> dict[str, str]:
        """Submit the jobs as one array; return SLURM's ids by the jobs' names."""
        if not jobs:
            return {}
        name = f"mura-{uuid4().hex[:12]}"
        indices = [str(number) for number, _ in enumerate(jobs)] if len(jobs) > 1 else ["N/A"]
        self.place_of |= {job.name: f"{name}:{index}" for job, index in zip(jobs, indices, strict=True)}
        write_json(self.file, self.place_of)
        ids = _submit_array(script, jobs, resources, self.folder, name)
        log.info("%d runs submitted to SLURM as job %s", len(jobs), ids[0].partition("_")[0])
        return {job.name: job_id for job, job_id in zip(jobs, ids, strict=True)}

    def cancel(self) -> None:
        """Cancel all submitted jobs, and wait until they have ended."""
        if ids := self._all_queued_ids():
            log.info("cancelling %d jobs", len(ids))
            subprocess.run(["scancel", *ids], capture_output=True, timeout=120)
        deadline = time.monotonic() + SECONDS_TO_END
        while time.monotonic() < deadline and self._all_queued_ids():
            time.sleep(1)

    def _all_queued_ids(self) -> list[str]:
        names = {place.partition(":")[0] for place in self.place_of.values()}
        return [job_id for place, (job_id, _) in read_queue().items() if place.partition(":")[0] in names]


def _submit_array(script: Path, jobs: Sequence[Job], resources: Resources, folder: Path, name: str) -> list[str]:
    """Submit the jobs as one array under this name; return SLURM's ids in the order of the jobs."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    limit = minutes_of(resources.time)
    assert limit is not None
    wanted: dict[str, Any] = {
        "partition": resources.partition,
        "account": resources.account,
        "gpus_per_node": resources.gpus or None,
        "setup": list(resources.setup) or None,
    }
    executor = SlurmExecutor(folder)
    executor.update_parameters(
        job_name=name,
        time=limit,
        cpus_per_task=resources.cpus,
        mem=f"{round(resources.memory * 1024)}M",
        array_parallelism=resources.at_a_time or len(jobs),
        signal_delay_s=SIGNAL_SECONDS,
        srun_args=[f"--cpus-per-task={resources.cpus}"],  # since SLURM 22.05 srun does not take sbatch's
        additional_parameters={"requeue": True, **resources.options},
        **{key: value for key, value in wanted.items() if value is not None},
    )
    tasks = [Task(script, job, limit, max(1, resources.cpus // max(1, resources.gpus))) for job in jobs]
    try:
        with _hidden_allocation():
            return [submitted.job_id for submitted in executor.map_array(run_task, tasks)]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        lines = str(error).splitlines()
        reasons = [line for line in lines if "error:" in line] or lines
        raise MuraError(f"SLURM refused the runs: {reasons[-1].strip()}") from None


@contextmanager
def _hidden_allocation() -> Iterator[None]:
    """Hide the job in which this process runs: what it submits would inherit its tasks, cores and memory."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "SLURMD_", "SRUN_"))}
    hidden.pop("SLURM_CONF", None)
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


@dataclass
class _SubmittedJob:
    """A job of the queue by SLURM's id, and when it was last seen there and began to run (monotonic seconds)."""

    job: Job
    id: str
    folder: Path
    last_seen: float = field(default_factory=time.monotonic)
    began: float | None = None

    def look(self, state: str | None, tell: JobListener) -> Outcome | None:
        """Tell of the job's start; return its outcome once it has ended. `state` is None if it is not in the queue."""
        exit_code = _read_exit_code(self.folder, self.id)
        if state is not None:
            self.last_seen = time.monotonic()
        if self.began is None and (exit_code is not None or state is None or state in RUNNING_STATES):
            self.began = time.monotonic()
            tell(self.job, None)
        if exit_code is None and time.monotonic() - self.last_seen > SECONDS_UNSEEN:
            exit_code = _report_lost(self.job, self.id, self.folder)
        if exit_code is None or self.began is None:
            return None
        return Outcome(self.job, exit_code, time.monotonic() - self.began)


def _follow(jobs: list[_SubmittedJob], tell: JobListener) -> list[Outcome]:
    """Tell of every start and end until all jobs have ended; return the outcomes as they came."""
    looks, outcomes = _queue_states(), []
    while jobs:
        states = next(looks)
        for job in list(jobs):
            outcome = job.look(states.get(job.id), tell)
            if outcome is not None:
                jobs.remove(job)
                outcomes.append(outcome)
                tell(job.job, outcome)
    return outcomes


def _queue_states() -> Iterator[dict[str, str]]:
    """Look at the queue after ever longer pauses; yield the states of this user's jobs by their ids."""
    pause = 1.0
    while True:
        time.sleep(pause)
        pause = min(SECONDS_BETWEEN_LOOKS, pause * 1.1)
        try:
            states = dict(read_queue().values())
        except MuraError as error:  # a controller that restarts or is busy has not lost the jobs
            log.warning("%s", error)
        else:
            yield states


def _read_exit_code(folder: Path, job_id: str) -> int | None:
    """Return the exit code from the job's result; None while there is no result."""
    from submitit.core.utils import JobPaths, pickle_load

    result = JobPaths(folder, job_id=job_id, task_id=0).result_pickle
    if not result.is_file():
        return None
    status, value = pickle_load(result)
    return int(value) if status == "success" else 1


def _report_lost(job: Job, job_id: str, folder: Path) -> int:
    """Write SLURM's reason to the log of a job that left no result; return exit code 1."""
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", job_id], capture_output=True, text=True)
    state = re.search(r"JobState=(\w+)", shown.stdout)
    reason = state[1] if state else "the reason is in sacct"
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with job.log.open("a", encoding="utf-8") as file:
            file.write(
                f"SLURM ended job {job_id} before the run had ended ({reason}); "
                f"SLURM's own log: {folder}/{job_id}_0_log.err\n"
            )
    except OSError as error:
        log.warning("%s: %s", job.log, error.strerror)
    return 1
