"""The program and its processes: where its scripts are and how they start, which process of a run this is.

Also how a process imports PyTorch without loss of time, and how long it waits for an answer.
"""

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

Result = TypeVar("Result")

OF_ONE_RUN = (
    "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
)  # fmt: skip
"""What the processes of one run find each other by: runs that were started with the same would meet, or wait."""

_IN_WHEEL = Path(__file__).resolve().parent / "program"
"""Where pyproject.toml puts them; a clone, also one that is installed with -e, has no such folder."""

IS_CLONE = not _IN_WHEEL.is_dir()
PROGRAM = Path(__file__).resolve().parent.parent if IS_CLONE else _IN_WHEEL
"""The folder that holds train.py, sweep.py and conf/."""


def typed(command: str) -> str:
    """Return how a user types the command `train` or `sweep`: `python train.py` in a clone, else `mura train`."""
    return f"python {command}.py" if IS_CLONE else f"mura {command}"


def run_command(command: str, arguments: Sequence[str]) -> NoReturn:
    """Become `python train.py ...` or `python sweep.py ...`: signals and exit codes are then those of the script."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(PROGRAM / f"{command}.py"), *arguments])


def is_rank_zero() -> bool:
    """Return whether this is the first process of a distributed run, or the only one; asks no torch."""
    ranks = ["LOCAL_RANK", "RANK"]
    if srun_tasks() > 1:
        ranks.append("SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def environment_of_a_run() -> dict[str, str]:
    """Return this process's environment for a run of its own, without what would make it part of another one."""
    return {name: value for name, value in os.environ.items() if name not in OF_ONE_RUN}


def local_rank() -> int:
    """Return the number of this process among those of its run on this machine; 0 for the only one; asks no torch."""
    of_task = os.environ.get("SLURM_LOCALID", "0") if srun_tasks() > 1 else "0"
    return int(os.environ.get("LOCAL_RANK", of_task))


def srun_tasks() -> int:
    """Return how many tasks `srun` started together with this process; 1 in a batch script, in salloc's shell, outside.

    SLURM_PROCID and SLURM_NTASKS won't do: a batch script and what is typed in salloc's shell have them too.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import thousands of modules without the garbage collector, which finds nothing among them, again and again."""
    if "lightning" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor is it to search them later
        gc.enable()


def call_with_deadline(work: Callable[[], Result], seconds: float) -> Result:
    """Return `work()`, or raise what it raises; raise TimeoutError if it takes longer than `seconds`.

    It runs in a thread, since no timeout bounds the lookup of a name; in a daemon, since that may outlive the run.
    """
    answer: Future[Result] = Future()

    def call() -> None:
        try:
            answer.set_result(work())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():  # the work's own
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
