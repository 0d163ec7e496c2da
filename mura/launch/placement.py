"""Where runs go: how many at a time this machine takes, and which GPUs each of them gets."""

import logging
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mura.launch.processes import forking_context
from mura.machine import Gpus, cores, memory, usable_gpus

GIB_A_PROCESS = 7  # of main memory; DenseNet-121 on batches of 32 at 224 pixels takes 5.5
SIGNS_OF_A_GPU = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Of NVIDIA's driver, of a Jetson, of WSL and of AMD's driver: without one, no process need import PyTorch to look."""

log = logging.getLogger(__name__)


def place_runs(workers: int | None, accelerator: str, devices: int, runs: int) -> tuple[int, list[list[str]]]:
    """Return how many of a study's runs start at a time (`workers`, if given), and the groups of GPUs they take.

    A run of several `devices` gets a group of so many; GPUs that are left over stay unused.
    """
    gpus = [] if accelerator == "cpu" else visible_gpus()
    groups = [gpus[start : start + devices] for start in range(0, len(gpus) - devices + 1, devices)]
    return workers or runs_at_a_time(len(gpus), devices, runs), groups


def runs_at_a_time(gpus: int, devices: int, runs: int) -> int:
    """Return how many of a study's runs, of `devices` processes each, this machine takes side by side.

    With GPUs: one for each group of them. Without: one for each core (small networks gain little from a second one),
    if there is memory for it, but no more than a quarter of the runs: a unified run lasts as long as its seven
    specialised ones, and most cores would wait for it. What is free just now plays no part: the number decides the
    threads of each run, and so the last bits of its results.
    """
    if gpus:
        return max(1, gpus // devices)
    room = int(memory() // (GIB_A_PROCESS * 2**30))
    return max(1, min(cores() // devices, room // devices, runs // 4))


def visible_gpus() -> list[str]:
    """Return the CUDA devices that runs can be pinned to: those that a run can compute on, by their names for CUDA.

    What the driver lists will not do: in a container it lists all cards of the host.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if chosen is None else [name.strip() for name in chosen.split(",")]
    if not any(Path(sign).exists() for sign in SIGNS_OF_A_GPU):
        return []
    if names and all(name.startswith("MIG-") for name in names):  # a process sees the first of them alone
        return names
    usable, fault = gpus_of_a_run()
    if fault:
        log.warning("%s", fault)
    return [str(number) if names is None else names[number] for number in usable]


def gpus_of_a_run() -> Gpus:
    """Return the GPUs that compute, as a process sees it that is started as runs are; this one keeps clear of CUDA."""
    with ProcessPoolExecutor(1, mp_context=forking_context()) as pool:
        try:
            return pool.submit(usable_gpus).result()
        except BrokenProcessPool:
            return Gpus([], "the GPUs can't be used: the process that tried them died")
