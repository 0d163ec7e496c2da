"""This process: which one of its run it is, and how it imports PyTorch and Lightning without loss of time."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def is_rank_zero() -> bool:
    """Return whether this is the first process of a distributed run, or the only one; asks no torch."""
    ranks = ["LOCAL_RANK", "RANK"]
    if srun_tasks() > 1:
        ranks.append("SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


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
