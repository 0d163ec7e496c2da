"""Many runs as jobs of a SLURM queue, with the contract of `mura.launch.jobs.run_jobs`.

A job runs on a machine of the cluster what could be typed there, `python train.py ...`, in a process of its own. When
SLURM starts it again (preempted, out of time, a node that failed), it goes on where its run folder says. Submitting
is submitit's; what became of a job is asked of `squeue`, which every SLURM has, with accounting or without.
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
from mura.launch.slurm.task import PATIENCE, WARNING, Task, run_task

LONGEST_PAUSE = 15  # seconds between two looks at the queue
UNSEEN = 15  # seconds after which a job that is neither queued nor has said how it ended is given up
RUNNING = ("RUNNING", "COMPLETING")
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]\d)(?::[0-5]\d)?")

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
    """`90`, `1:30:00`, `2-12:00`: the minutes; None when it can't be read."""
    if isinstance(text, int) or text.isdecimal():
        return int(text) or None
    found = TIME.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes = (int(found[name] or 0) for name in ("days", "hours", "minutes"))
    return (days * 24 + hours) * 60 + minutes or None


def run_jobs(
    script: Path, jobs: Sequence[Job], watch: JobListener, *, resources: Resources, folder: Path
) -> list[Outcome]:
    """Runs `script` once for each job, in the queue, and goes on when one fails.

    `watch(job, None)` is called when a job has left the queue for a machine, `watch(job, outcome)` when it has ended.
    A job that an earlier call with the same `folder` has submitted, and that is still queued or running, is waited
    for and not submitted again. Ctrl-C cancels all of them, and is raised again.
    Raises MuraError when SLURM or submitit is not there, or refuses the jobs.
    """
    require()
    places = Places(folder)
    try:
        ids = places.find(jobs)
        ids |= places.submit(script, [job for job in jobs if job.name not in ids], resources)
        return _follow(jobs, ids, watch, folder)
    except KeyboardInterrupt:
        places.cancel()
        raise


def require() -> None:
    """Before anything is submitted: raises MuraError without submitit or without SLURM's commands."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise MuraError("SLURM needs submitit: pip install 'mura[slurm]'.") from None
    queue()


def queue() -> dict[str, tuple[str, str]]:
    """This user's jobs: `name:index` -> (id, state). Raises MuraError when SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%j:%K|%i|%T"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MuraError(f"SLURM does not answer here (squeue: {error}); type this where sbatch works.") from None
    if listed.returncode != 0:
        said = listed.stderr.strip().splitlines() or ["no word"]
        raise MuraError(f"SLURM does not answer here ({said[-1]}); type this where sbatch works.")
    rows = [line.rsplit("|", 2) for line in listed.stdout.splitlines()]
    return {place: (number, state) for place, number, state in rows}


class Places:
    """The jobs' places in the queue: a name that no other submission has, and an index; kept in `folder`.

    Written before they are submitted, so that a launcher killed at any moment finds its jobs again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "places.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, str] = json.loads(self.file.read_text("utf-8")) if self.file.is_file() else {}

    def find(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Those that are already queued or running: name -> id."""
        queued = queue()
        found = {job.name: queued[self.known[job.name]][0] for job in jobs if self.known.get(job.name) in queued}
        if found:
            log.info("%d runs are already in the queue", len(found))
        return found

    def submit(self, script: Path, jobs: Sequence[Job], resources: Resources) -> dict[str, str]:
        """Submits the jobs as one array: name -> id."""
        if not jobs:
            return {}
        name = f"mura-{uuid4().hex[:12]}"
        indices = [str(number) for number, _ in enumerate(jobs)] if len(jobs) > 1 else ["N/A"]
        self.known |= {job.name: f"{name}:{index}" for job, index in zip(jobs, indices, strict=True)}
        write_json(self.file, self.known)
        ids = _submit(script, jobs, resources, self.folder, name)
        log.info("%d runs submitted to SLURM as job %s", len(jobs), ids[0].partition("_")[0])
        return {job.name: number for job, number in zip(jobs, ids, strict=True)}

    def cancel(self) -> None:
        """Cancels them all, and waits until they have ended."""
        names = {place.partition(":")[0] for place in self.known.values()}
        mine = [number for place, (number, _) in queue().items() if place.partition(":")[0] in names]
        if mine:
            log.info("cancelling %d jobs", len(mine))
            subprocess.run(["scancel", *mine], capture_output=True, timeout=120)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and any(place.partition(":")[0] in names for place in queue()):
            time.sleep(1)


def _submit(script: Path, jobs: Sequence[Job], resources: Resources, folder: Path, name: str) -> list[str]:
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
        signal_delay_s=WARNING,
        srun_args=[f"--cpus-per-task={resources.cpus}"],  # since SLURM 22.05 srun does not take sbatch's
        additional_parameters={"requeue": True, **resources.options},
        **{key: value for key, value in wanted.items() if value is not None},
    )
    tasks = [Task(script, job, limit, max(1, resources.cpus // max(1, resources.gpus))) for job in jobs]
    try:
        with _as_outside_of_a_job():
            return [submitted.job_id for submitted in executor.map_array(run_task, tasks)]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        said = [line for line in str(error).splitlines() if "error:" in line] or str(error).splitlines()
        raise MuraError(f"SLURM refused the runs: {said[-1].strip()}") from None


@contextmanager
def _as_outside_of_a_job() -> Iterator[None]:
    """Jobs that are submitted from within a job don't inherit its tasks, cores and memory."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "SLURMD_", "SRUN_"))}
    hidden.pop("SLURM_CONF", None)
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _follow(jobs: Sequence[Job], ids: dict[str, str], watch: JobListener, folder: Path) -> list[Outcome]:
    """Tells `watch` of every start and end until all have ended; `ids` are SLURM's by the jobs' names."""
    left, pause = list(jobs), 1.0
    began: dict[str, float] = {}
    seen = dict.fromkeys(ids, time.monotonic())
    outcomes: list[Outcome] = []
    while left:
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 1.1)
        try:
            states = dict(queue().values())
        except MuraError as error:  # a controller that restarts or is busy has not lost the jobs
            log.warning("%s", error)
            continue
        for job in list(left):
            number = ids[job.name]
            code = exit_code(folder, number)
            if number in states:
                seen[job.name] = time.monotonic()
            if job.name not in began and (code is not None or states.get(number, "ended") in (*RUNNING, "ended")):
                began[job.name] = time.monotonic()
                watch(job, None)
            if code is None and time.monotonic() - seen[job.name] > UNSEEN:
                code = _lost(job, number, folder)
            if code is not None:
                left.remove(job)
                outcomes.append(Outcome(job, code, time.monotonic() - began[job.name]))
                watch(job, outcomes[-1])
    return outcomes


def exit_code(folder: Path, number: str) -> int | None:
    """What the job said at its end; None when it has said nothing yet."""
    from submitit.core.utils import JobPaths, pickle_load

    result = JobPaths(folder, job_id=number, task_id=0).result_pickle
    if not result.is_file():
        return None
    ended, value = pickle_load(result)
    return int(value) if ended == "success" else 1


def _lost(job: Job, number: str, folder: Path) -> int:
    """Of a job that ended without a word: what SLURM knows, as the last line of its log; the exit code."""
    told = subprocess.run(["scontrol", "--oneliner", "show", "job", number], capture_output=True, text=True)
    state = re.search(r"JobState=(\w+)", told.stdout)
    said = f"SLURM ended job {number} before the run had ended ({state[1] if state else 'the reason is in sacct'})"
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with job.log.open("a", encoding="utf-8") as file:
            file.write(f"{said}; SLURM's own log: {folder}/{number}_0_log.err\n")
    except OSError as error:
        log.warning("%s: %s", job.log, error.strerror)
    return 1
