"""Where runs go: how many at a time this machine takes, and which GPUs each of them gets."""

import os
import sys
from pathlib import Path

from mura.machine import cores, memory

GIB_A_PROCESS = 7  # of main memory; DenseNet-121 on batches of 32 at 224 pixels takes 5.5


def place_runs(workers: int | None, accelerator: str, devices: int, runs: int) -> tuple[int, list[list[str]]]:
    """Return how many of a study's runs start at a time (`workers`, if given), and the groups of GPUs they take.

    A run of several `devices` gets a group of so many; GPUs that are left over stay unused.
    """
    gpus = [] if accelerator == "cpu" else visible_gpus()
    cards = len(gpus) or int(accelerator != "cpu" and has_unlisted_gpu())
    groups = [gpus[start : start + devices] for start in range(0, len(gpus) - devices + 1, devices)]
    return workers or runs_at_a_time(cards, devices, runs), groups


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
    """Return the CUDA devices that runs can be pinned to; asks no torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device for device in chosen.split(",") if device not in ("", "-1")]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(driver.iterdir())] if driver.is_dir() else []


def has_unlisted_gpu() -> bool:
    """Return whether there may be a GPU that `visible_gpus` does not know: Apple's, AMD's, or any under WSL."""
    return sys.platform == "darwin" or any(Path(device).exists() for device in ("/dev/kfd", "/dev/dxg"))
