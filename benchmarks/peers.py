"""The peers: what a competent user would write instead.

The template is what most public projects run: Lightning, PIL decoding and torchvision's transforms in DataLoader
workers. The bare loop is the floor: tensors already in memory, nothing but forward, backward and step.
"""

import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import pandas as pd
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mura.machine import keep_freed_memory

WORKERS = 2


class PictureFolder(Dataset[tuple[Tensor, Tensor]]):
    """A picture an item: decoded, augmented, resized, normalised."""

    def __init__(self, root: Path, table: pd.DataFrame, side: int, channels: int) -> None:
        self.root, self.paths, self.labels = root, list(table["path"]), list(table["label"])
        self.transform = v2.Compose([
            v2.Resize((side, side), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(30, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406][:channels], [0.229, 0.224, 0.225][:channels]),
        ])  # fmt: skip
        self.mode = "RGB" if channels == 3 else "L"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        picture = Image.open(self.root / self.paths[item]).convert(self.mode)
        return self.transform(picture), torch.tensor(float(self.labels[item]))


def template_loader(data: PictureFolder, batch_size: int, workers: int = WORKERS) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        data, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip


class TemplateModule(LightningModule):
    """The network in the usual LightningModule: loss and accuracy logged at every step."""

    def __init__(self, network: nn.Module, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        logits = self.network(images).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels)
        self.log("train_loss", loss)
        self.log("train_accuracy", ((logits > 0) == (labels > 0.5)).float().mean())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.8, weight_decay=1e-3)


def template_trainer(precision: str, **settings: object) -> Trainer:
    return Trainer(
        accelerator="auto", devices=1, precision=precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, max_epochs=1, **settings,
    )  # type: ignore[arg-type]  # fmt: skip


def bare_batches(side: int, channels: int, batch_size: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Four batches, ready for the network, again and again."""
    generator = torch.Generator().manual_seed(0)
    ready = []
    for _ in range(4):
        images = torch.rand(batch_size, channels, side, side, generator=generator)
        labels = (torch.rand(batch_size, generator=generator) > 0.5).float()
        ready.append((images.to(device, memory_format=torch.channels_last), labels.to(device)))
    while True:
        yield from ready


class BareLoop:
    """A step at a time of a loop around nothing but forward, backward and step; or, for evaluation, forward alone."""

    def __init__(
        self, network: nn.Module, side: int, channels: int, batch_size: int, precision: str, device: str = "cpu",
        evaluates: bool = False,
    ) -> None:  # fmt: skip
        self.network, self.precision, self.device = network.to(device).train(not evaluates), precision, device
        self.batches = bare_batches(side, channels, batch_size, device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.8, weight_decay=1e-3)
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "16-mixed")

    def train(self) -> None:
        images, labels = next(self.batches)
        with mixed(self.precision, self.device):
            loss = F.binary_cross_entropy_with_logits(self.network(images).squeeze(1).float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def evaluate(self) -> None:
        with torch.inference_mode(), mixed(self.precision, self.device):
            self.network(next(self.batches)[0])


class BareProcess:
    """A bare loop in a process of its own, a step whenever it is asked for one.

    Its allocator is as PyTorch finds it, or with `keeps_memory` as ours sets it: a process can't have both.
    """

    def __init__(
        self, network: Callable[[], nn.Module], side: int, channels: int, batch_size: int, precision: str,
        evaluates: bool = False, keeps_memory: bool = False,
    ) -> None:  # fmt: skip
        context = get_context("spawn")
        self.pipe, far_end = context.Pipe()
        settings = (network, side, channels, batch_size, precision, evaluates, keeps_memory, torch.get_num_threads())
        self.process = context.Process(target=_answer_steps, args=(far_end, *settings), daemon=True)

    def step(self) -> None:
        self.pipe.send(True)
        self.pipe.recv()

    def __enter__(self) -> "BareProcess":
        self.process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pipe.send(False)
        self.process.join()


def _answer_steps(
    pipe: Connection, network: Callable[[], nn.Module], side: int, channels: int, batch_size: int, precision: str,
    evaluates: bool, keeps_memory: bool, threads: int,
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    if keeps_memory:
        keep_freed_memory()
    loop = BareLoop(network(), side, channels, batch_size, precision, evaluates=evaluates)
    step = loop.evaluate if evaluates else loop.train
    while pipe.recv():
        step()
        pipe.send(True)


def bare_training(
    network: nn.Module, side: int, channels: int, batch_size: int, steps: int, warm: int, precision: str, device: str
) -> float:
    """Pictures a second over `steps` steps, after `warm` ones."""
    loop = BareLoop(network, side, channels, batch_size, precision, device)
    start = 0.0
    for step in range(warm + steps):
        if step == warm:
            _wait_for(device)
            start = time.perf_counter()
        loop.train()
    _wait_for(device)
    return batch_size * steps / (time.perf_counter() - start)


def mixed(precision: str, device: str) -> torch.autocast:
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device, dtype=dtype, enabled=precision.endswith("-mixed"))


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
