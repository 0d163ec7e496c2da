"""One run over the tasks that srun started: their number, their folder, and how Lightning finds them."""

import os
import shutil
from typing import Any

from mura.errors import ConfigError
from mura.processes import srun_tasks


def check_tasks(devices: int, nodes: int) -> None:
    """srun started as many tasks as the run has processes, or one. Raises ConfigError."""
    tasks = srun_tasks()
    if tasks > 1 and tasks != devices * nodes:
        raise ConfigError(
            f"srun started {tasks} tasks, but trainer.num_nodes={nodes} x trainer.devices={devices}: "
            "start one task for each device (trainer=slurm trainer.num_nodes=N trainer.devices=N), or one alone."
        )
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ConfigError(f"srun started {tasks} tasks: say how many on a node, --ntasks-per-node={devices}.")
    if tasks == 1 and nodes > 1:
        raise ConfigError(f"trainer.num_nodes={nodes}: several machines need srun, see docs/scaling.md.")


def task_arguments(arguments: list[str]) -> list[str]:
    """What the tasks of one run must have in common: its folder, named for the job, which a requeued job finds again.

    The first task alone writes Hydra's files.
    """
    if srun_tasks() == 1:
        return arguments
    more = []
    if not any(argument.startswith(("hydra.run.dir=", "resume=")) for argument in arguments):
        more.append(f"hydra.run.dir='runs/slurm-{os.environ['SLURM_JOB_ID']}-{os.environ['SLURM_STEP_ID']}'")
    if (rank := os.environ["SLURM_PROCID"]) != "0":
        more += ["hydra.output_subdir=null", f"hydra.job.name=train_rank{rank}"]
    return [*arguments, *more]


def cluster_environment() -> list[Any]:
    """How Lightning finds the processes of the run: those that srun started, or its own.

    Left to itself it takes every process of an allocation for a task of srun, and waits for others that never come;
    and its own requeueing would save within an epoch, beside the run folder.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or shutil.which("srun") is None:  # torchrun's processes; no SLURM
        return []
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

    return [SLURMEnvironment(auto_requeue=False) if srun_tasks() > 1 else LightningEnvironment()]
