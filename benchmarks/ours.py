"""Ours as it is used: data module, model and trainer composed from the config, as `train.py` does it."""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from mura.config import CONF_DIR
from mura.config.hydra_hooks import register_resolvers
from mura.machine import choose_device, choose_precision
from mura.runs.folder import RunFolder
from mura.training.callbacks import make_callbacks
from mura.training.checkpoints import SafeCheckpointIO
from mura.training.console import LIGHTNINGS_REMARKS
from train import build


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
    device = choose_device(cfg.trainer.accelerator, cfg.trainer.devices)
    precision = choose_precision(cfg.trainer.precision, device.value)
    for harmless in LIGHTNINGS_REMARKS:
        warnings.filterwarnings("ignore", harmless)
    for name in ("lightning.pytorch", "lightning.fabric", "mura"):
        logging.getLogger(name).setLevel(logging.ERROR)
    callbacks = make_callbacks(RunFolder(folder), cfg.monitor, cfg.mode, cfg.early_stopping.patience)
    return instantiate(
        cfg.trainer, accelerator=device.value, precision=precision.value, logger=False, enable_progress_bar=False,
        plugins=[SafeCheckpointIO()], callbacks=[*callbacks, *more],
    )  # fmt: skip


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
    """After each of our batches a step of another loop, so that both see the same machine: the seconds of both, all
    that happens between two batches included, after the first `warm` ones. For a CPU, which waits for nothing."""

    def __init__(self, other: Callable[[], None], warm: int) -> None:
        self.other, self.warm, self.resumed = other, warm, 0.0
        self.ours: list[float] = []
        self.others: list[float] = []

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
        ended = time.perf_counter()
        self.other()
        resumed = time.perf_counter()
        if n >= self.warm:
            self.ours.append(ended - self.resumed)
            self.others.append(resumed - ended)
        self.resumed = resumed

    def rates(self, batch_size: int) -> tuple[float, float]:
        """Pictures a second of ours and of the other."""
        return batch_size * len(self.ours) / sum(self.ours), batch_size * len(self.others) / sum(self.others)


def training_rates(cfg: DictConfig, steps: int, warm: int, other: Callable[[], None]) -> tuple[float, float]:
    """Return pictures a second of a real fit and of another loop, step by step in turns."""
    watch = TurnAndTurn(other, warm)
    fit(cfg, warm + steps, watch)
    return watch.rates(cfg.data.batch_size)


def inference_rates(cfg: DictConfig, steps: int, warm: int, other: Callable[[], None]) -> tuple[float, float]:
    cfg = cfg.copy()
    cfg.trainer.limit_predict_batches = warm + steps
    data, model = build(cfg)
    watch = TurnAndTurn(other, warm)
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(cfg, Path(folder), watch).predict(model, data)
    return watch.rates(cfg.data.batch_size)
