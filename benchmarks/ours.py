"""Ours as it is used: data module, model and trainer composed from the config, as `train.py` does it."""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from benchmarks.measure import seconds
from mura.config import CONF_DIR
from mura.config.hydra_hooks import register_resolvers
from mura.machine import choose_device, choose_precision, prepare_process
from mura.runs.folder import RunFolder
from mura.training.callbacks import leave_out_empty_hooks, make_callbacks
from mura.training.checkpoints import SafeCheckpointIO
from mura.training.console import LIGHTNINGS_REMARKS
from train import build

OURS = "ours"


class Stopwatch(Callback):
    """Pictures a second of a fit after its first `warm` steps."""

    def __init__(self, warm: int) -> None:
        self.warm, self.started, self.pictures, self.rate = warm, 0.0, 0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, n: int
    ) -> None:
        if n >= self.warm:
            self.pictures += len(batch["label"]) if isinstance(batch, dict) else len(batch[0])
        if n == self.warm - 1 or trainer.is_last_batch:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            if n == self.warm - 1:
                self.started = now
            else:
                self.rate = self.pictures / (now - self.started)


def composed(*settings: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", ["logger=none", *settings])


def trainer_of(cfg: DictConfig, folder: Path, *more: Callback) -> Trainer:
    """Return the trainer of train.py, with the callbacks of a run and one that looks on."""
    prepare_process()
    device = choose_device(cfg.trainer.accelerator, cfg.trainer.devices)
    precision = choose_precision(cfg.trainer.precision, device.value)
    for harmless in LIGHTNINGS_REMARKS:
        warnings.filterwarnings("ignore", harmless)
    for name in ("lightning.pytorch", "lightning.fabric", "mura"):
        logging.getLogger(name).setLevel(logging.ERROR)
    callbacks = make_callbacks(RunFolder(folder), cfg.monitor, cfg.mode, cfg.early_stopping.patience)
    trainer = instantiate(
        cfg.trainer, accelerator=device.value, precision=precision.value, logger=False, enable_progress_bar=False,
        plugins=[SafeCheckpointIO()], callbacks=[*callbacks, *more],
    )  # fmt: skip
    leave_out_empty_hooks(trainer.callbacks)
    return trainer


def training_rate(cfg: DictConfig, steps: int, warm: int) -> float:
    """Pictures a second of a real fit, in the steady state."""
    watch = Stopwatch(warm)
    fit(cfg, warm + steps, watch)
    return watch.rate


def fit(cfg: DictConfig, batches: int, watch: Callback) -> None:
    """So many training batches, and one of validation."""
    cfg = cfg.copy()
    cfg.trainer.max_epochs, cfg.trainer.limit_train_batches, cfg.trainer.limit_val_batches = 1, batches, 1
    data, model = build(cfg)
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(cfg, Path(folder), watch).fit(model, data)


class TurnAndTurn(Callback):
    """After each of our batches a step of each other loop, so that all see the same machine: the seconds of each.

    Ours are all that happens between two batches, after the first `warm` ones. For a CPU, which waits for nothing.
    """

    def __init__(self, others: Mapping[str, Callable[[], None]], warm: int) -> None:
        self.others, self.warm, self.resumed = others, warm, 0.0
        self.seconds: dict[str, list[float]] = {name: [] for name in (OURS, *others)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, n: int
    ) -> None:
        self._turn(n)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, n: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 0:
            self._turn(n)

    def _turn(self, n: int) -> None:
        taken = {OURS: time.perf_counter() - self.resumed}
        taken |= {name: seconds(step) for name, step in self.others.items()}
        if n >= self.warm:
            for name, value in taken.items():
                self.seconds[name].append(value)
        self.resumed = time.perf_counter()

    def rates(self, batch_size: int) -> dict[str, float]:
        """Return pictures a second of each, by the median step."""
        return {name: batch_size / statistics.median(values) for name, values in self.seconds.items()}


def training_rates(
    cfg: DictConfig, steps: int, warm: int, others: Mapping[str, Callable[[], None]]
) -> dict[str, float]:
    """Return pictures a second of a real fit, under OURS, and of other loops, step by step in turns."""
    watch = TurnAndTurn(others, warm)
    fit(cfg, warm + steps, watch)
    return watch.rates(cfg.data.batch_size)


def inference_rates(
    cfg: DictConfig, steps: int, warm: int, others: Mapping[str, Callable[[], None]]
) -> dict[str, float]:
    """Return pictures a second of the trainer's prediction, under OURS, and of other loops, in turns."""
    cfg = cfg.copy()
    cfg.trainer.limit_predict_batches = warm + steps
    data, model = build(cfg)
    watch = TurnAndTurn(others, warm)
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(cfg, Path(folder), watch).predict(model, data)
    return watch.rates(cfg.data.batch_size)
