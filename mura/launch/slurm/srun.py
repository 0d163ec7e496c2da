"""One run over the tasks that srun started: their number, their folder, and how Lightning finds them."""

import os
import shutil
from typing import Any

from mura.errors import ConfigError
from mura.processes import srun_tasks


def check_tasks(devices: int, nodes: int) -> None:
    """Raise ConfigError unless srun started one task, or as many as the run has processes."""
    tasks = srun_tasks()
    if tasks > 1 and tasks != devices * nodes:
        raise ConfigError(
            f"srun started {tasks} tasks, but trainer.num_nodes={nodes} x trainer.devices={devices}: "
            "start one task for each device (trainer=slurm trainer.num_nodes=N trainer.devices=N; srun "
            "--kill-on-bad-exit=1, so that the others end when one of them dies), or one alone."
        )
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ConfigError(
            f"srun started {tasks} tasks: say how many on a node, --ntasks-per-node={devices}, and that none waits for "
            "a dead one, --kill-on-bad-exit=1."
        )
    if tasks == 1 and nodes > 1:
        raise ConfigError(f"trainer.num_nodes={nodes}: several machines need srun, see docs/scaling.md.")


def task_arguments(arguments: list[str]) -> list[str]:
    """Add what makes srun's tasks one run: a common folder, and Hydra's files from the first task alone.

    The folder is named for the job, so that a requeued job finds it again.
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
    """Return the plugin by which Lightning finds the run's processes: those that srun started, or its own.

    Left to itself, Lightning takes every process of an allocation for a task of srun, and waits for others that never
    come. Its own requeueing would save within an epoch, beside the run folder.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or shutil.which("srun") is None:  # torchrun's processes; no SLURM
        return []
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

    return [SLURMEnvironment(auto_requeue=False) if srun_tasks() > 1 else LightningEnvironment()]
