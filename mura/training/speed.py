"""How fast a run trains, how long it waits for pictures, and how much memory it takes."""

import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
MUCH_WAITING = 0.10  # share of the training time
LEAST_WAITING = 1.0  # seconds: nobody need mend less

log = logging.getLogger(__name__)


class Speed(Callback):
    """Measures training pictures a second, and the share of the time between the end of a step and the next batch.

    Both are taken over whole epochs; the first, which warms up, counts only if there is no other. The device is not
    waited for in each step: on a GPU that is still busy with the step before, the share is an upper bound.
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.before = 0.0  # seconds of the run before it was interrupted
        self.epochs: list[list[float]] = []  # pictures, seconds, of these waiting for a batch
        self.pictures, self.started, self.waited, self.ready = 0, 0.0, 0.0, 0.0
        self.device = torch.device("cpu")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.device = trainer.strategy.root_device

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pictures, self.waited = 0, 0.0
        self.started = self.ready = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        self.waited += time.perf_counter() - self.ready

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        batch = arguments[1]
        self.pictures += len(batch["label"])
        self.ready = time.perf_counter()
        if trainer.is_last_batch:  # before the validation begins
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            taken = time.perf_counter() - self.started
            self.epochs.append([self.pictures * trainer.world_size, taken, self.waited])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        share = self.summary()["data_wait_share"]
        waited = sum(waiting for *_, waiting in self.epochs)
        if trainer.is_global_zero and share is not None and share > MUCH_WAITING and waited > LEAST_WAITING:
            log.warning(
                "%.0f %% of the training time went by waiting for pictures: put the cache on a faster disk "
                "(data.cache_dir=DIR), or keep the pictures in the device's memory (data.resident=true).",
                100 * share,
            )

    @property
    def wall_seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [list(epoch) for epoch in self.epochs], "seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs, self.before = state_dict["epochs"], state_dict["seconds"]

    def summary(self) -> dict[str, float | None]:
        steady = self.epochs[1:] or self.epochs
        pictures, seconds, waited = (sum(column) for column in zip(*steady, strict=True)) if steady else (0, 0, 0)
        return {
            "train_images_per_second": pictures / seconds if seconds else None,
            "data_wait_share": waited / seconds if seconds else None,
            "wall_seconds": self.wall_seconds,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }


def make_profiler(name: str | None, folder: Path) -> Profiler | None:
    """Return Lightning's profiler of that name, with its reports in the run folder: fit-profile.txt and others."""
    return None if name is None else PROFILERS[name](dirpath=folder, filename="profile")


def peak_memory_bytes(device: torch.device) -> int:
    """Return peak memory in bytes: of the GPU that the run used, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS
