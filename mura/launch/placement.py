"""Where runs go: how many at a time this machine takes, and which GPUs each of them gets."""

import os
import sys
from pathlib import Path

from mura.machine import cores, memory

GIB_A_PROCESS = 7  # of main memory; DenseNet-121 on batches of 32 at 224 pixels takes 5.5


def placement(workers: int | None, accelerator: str, devices: int, runs: int) -> tuple[int, list[list[str]]]:
    """How many of a study's runs at a time (`workers`, where that is given), and the GPUs of each, in groups.

    A run of several `devices` gets a group of so many; GPUs that are left over stay unused.
    """
    gpus = [] if accelerator == "cpu" else visible_gpus()
    cards = len(gpus) or int(accelerator != "cpu" and unlisted_gpu())
    groups = [gpus[start : start + devices] for start in range(0, len(gpus) - devices + 1, devices)]
    return workers or runs_at_a_time(cards, devices, runs), groups


def runs_at_a_time(gpus: int, devices: int, runs: int) -> int:
    """How many of a study's runs, of `devices` processes each, this machine takes side by side.

    One for each group of GPUs. Without GPUs one for each core (small networks gain little from a second one), where
    there is memory for it, but no more than a quarter of the runs: a unified run lasts as long as its seven
    specialised ones, and should not be what all cores but a few wait for. What is free just now plays no part: the
    number decides the threads of each run, and so the last bits of its results.
    """
    if gpus:
        return max(1, gpus // devices)
    room = int(memory() // (GIB_A_PROCESS * 2**30))
    return max(1, min(cores() // devices, room // devices, runs // 4))


def visible_gpus() -> list[str]:
    """The CUDA devices that runs can be pinned to, known without importing torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device for device in chosen.split(",") if device not in ("", "-1")]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(driver.iterdir())] if driver.is_dir() else []


def unlisted_gpu() -> bool:
    """Whether there may be a GPU that `visible_gpus` does not know: Apple's, AMD's, or any under WSL."""
    return sys.platform == "darwin" or any(Path(device).exists() for device in ("/dev/kfd", "/dev/dxg"))
