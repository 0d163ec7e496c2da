"""The classifier: uint8 radiographs in, one logit each out; what is trained, and how its predictions are gathered.

Shapes: B pictures of a batch; S their side in the cache, H the side that the network takes; images_B1SS are uint8.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from mura.errors import DivergedError, MuraError
from mura.extremities import EXTREMITIES
from mura.machine import in_float32
from mura.metrics import binary_metrics, summarise
from mura.models.augment import Augmentation, augment, resize
from mura.models.backbones import build_network

Batch = dict[str, Any]
FIRST_VIEWS = 1024  # that a buffer has room for at least
CHECK_LOSS_EVERY = 50  # steps, on a GPU: reading the loss there waits for the device


def no_scheduler(optimizer: Optimizer) -> None:
    """Leave the learning rate as it is."""


class AbnormalityClassifier(LightningModule):
    """A backbone, a head and one logit for "abnormal", trained by binary cross-entropy.

    `forward(images_B1SS)` returns logits, float32 [B]. With `separate_heads` there is a head for each of the seven
    extremities on one backbone, and `forward` takes `extremity_B`, int64, too. Resizing, widening to the backbone's
    channels and normalising are part of the model, so a checkpoint holds all that a prediction needs.

    `optimizer` and `scheduler` are partials, finished with the parameters here; a model that only predicts has none.
    With `loss={"balance": True}` the views are weighted by `class_weights` [7][2] (extremity, label). `provenance` is
    stored in the checkpoint as it is: plain values only. `compile` has the network compiled at its first forward pass.
    Raises ConfigError for an unknown name or head, MuraError for weights that can't be had or don't fit.
    """

    logs_epochs = True
    """Whether loggers get the metrics of an epoch from here: not where `History` gives them a whole row."""

    def __init__(
        self,
        *,
        name: str,
        head: str,
        weights: str | None = None,
        dropout: float = 0.5,
        batch_norm: bool | None = None,
        separate_heads: bool = False,
        image_size: int = 224,
        compile: bool = False,
        loss: dict[str, bool] | None = None,
        class_weights: list[list[float]] | None = None,
        library: str = "torchvision",
        seed: int = 0,
        augmentation: dict[str, float] | None = None,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        monitor: str = "val_loss",
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        plain = {"name": name, "head": head, "dropout": dropout, "image_size": image_size}
        plain |= {"batch_norm": batch_norm, "separate_heads": separate_heads, "library": library}
        # the weights are not among them: a checkpoint brings its own and never downloads others
        self.save_hyperparameters(plain | {"provenance": provenance or {}}, logger=False)
        heads = len(EXTREMITIES) if separate_heads else 1
        self.network = build_network(
            name, head=head, weights=weights, dropout=dropout, heads=heads, batch_norm=batch_norm, library=library
        )
        self.image_size, self.seed, self.monitor = image_size, seed, monitor
        self.augmentation = Augmentation(**(augmentation or {}))
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        weighted = bool(loss and loss["balance"])
        self.class_weights: Tensor | None
        self.register_buffer(
            "class_weights", torch.tensor(class_weights) if weighted and class_weights else None, persistent=False
        )
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.network.mean, self.network.std))
        self.gain: Tensor
        self.offset: Tensor
        self.register_buffer("gain", 1 / std, persistent=False)
        self.register_buffer("offset", -mean / std, persistent=False)
        self.compiled = compile
        if compile:  # in place: the names in a checkpoint stay as they are
            self.network.compile()
        self.trained = TrainedViews()
        self.validated = PerView()
        self.tested = PerView()

    def forward(self, images_B1SS: Tensor, extremity_B: Tensor | None = None) -> Tensor:
        return self.logits(resize(images_B1SS, self.image_size), extremity_B)

    def logits(self, images_B1HH: Tensor, extremity_B: Tensor | None) -> Tensor:
        """Return float32 [B], from the one head or each view's own, for float images between 0 and 1.

        Raises MuraError when a model with separate heads is not told the extremities.
        """
        images_BCHH = images_B1HH.expand(-1, self.network.channels, -1, -1)
        normalised = torch.addcmul(self.offset, images_BCHH, self.gain).contiguous(memory_format=torch.channels_last)
        logits = self.network(normalised).float()  # [B, heads]
        if logits.shape[1] == 1:
            return logits.squeeze(1)
        if extremity_B is None:
            raise MuraError("this model has a head for each extremity: it must be told each view's extremity")
        return logits.gather(1, extremity_B[:, None]).squeeze(1)

    def losses(self, logits_B: Tensor, batch: Batch) -> Tensor:
        """Return the binary cross-entropy of each view, float32 [B]."""
        weight = None
        if self.class_weights is not None:
            weight = self.class_weights[batch["extremity"], batch["label"].long()]
        return F.binary_cross_entropy_with_logits(logits_B, batch["label"], weight=weight, reduction="none")

    def configure_optimizers(self) -> Any:
        if self.make_optimizer is None:
            raise MuraError("this model was loaded to predict and has no optimiser")
        optimizer = self.make_optimizer(self.parameters())
        scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor}}

    def setup(self, stage: str) -> None:
        """Note what a script without this program's config trains on, so that its checkpoint says so."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and not self.hparams["provenance"] and hasattr(data, "provenance"):
            self.hparams["provenance"] = data.provenance()

    def on_train_epoch_start(self) -> None:
        seed_epoch(self.seed, self.current_epoch, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.logits(augment(batch["image"], self.image_size, self.augmentation), batch["extremity"])
        loss = self.losses(logits, batch).mean()
        if self.device.type != "cuda" or self.global_step % CHECK_LOSS_EVERY == 0:
            self._refuse_nan(loss, "the loss")
        if batch["share"]:
            self.trained.add(loss.detach(), logits.detach(), batch["label"])
        # the processes' gradients are averaged: a part that is smaller than its share must count for less
        return loss * batch["share"]

    def _log_training(self) -> None:
        """Log the epoch's mean loss and accuracy over all processes, after the training batches, before validation.

        Once an epoch, and not in `training_step`: logging costs more than a step of a small network's head.
        """
        views, loss, correct = self.trained.of_all_processes()
        self.trained = TrainedViews()
        if views:
            self._refuse_nan(loss, "the training loss")
            self.log("train_loss", loss / views, logger=self.logs_epochs)
            self.log("train_accuracy", correct / views, logger=self.logs_epochs)

    def _refuse_nan(self, loss: Tensor, what: str) -> None:
        if not torch.isfinite(loss):
            if not self.trainer.optimizers:
                raise MuraError(f"{what} is {loss.item()}: the model's weights are not finite, or far too large.")
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise DivergedError(
                f"{what} is {loss.item()} at step {self.global_step} (epoch {self.current_epoch + 1}) with learning "
                f"rate {rate:g}: training was stopped; try a smaller one, for example optimizer.lr={rate / 10:g}."
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch["image"], batch["extremity"])
        self.validated.add(logits, batch["label"], self.losses(logits, batch), batch["extremity"])

    def on_validation_epoch_end(self) -> None:
        self._log_training()
        logits, labels, losses, extremities = self.validated.of_all_processes()
        self._refuse_nan(losses.mean(), "the validation loss")
        probabilities = torch.sigmoid(logits.double()).numpy()
        measured = binary_metrics(labels.int().numpy(), probabilities, extremities.numpy())
        self.log("val_loss", losses.double().mean().float(), logger=self.logs_epochs)
        for metric in ("accuracy", "kappa", "auroc"):
            value = measured[metric]
            self.log(f"val_{metric}", float("nan") if value is None else float(value), logger=self.logs_epochs)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.tested.add(*self.predict_step(batch, batch_idx))

    def on_test_epoch_end(self) -> None:
        """Log what metrics.json says of the test views, as `test/study/wrist/accuracy`; NaN where it is undefined."""
        rows, logits = self.tested.of_all_processes()
        loaders: Any = self.trainer.test_dataloaders
        views = (loaders[0] if isinstance(loaders, list) else loaders).dataset
        for level, groups in summarise(views.predictions(rows, logits)).items():
            for extremity, measured in groups.items():
                numbers = {metric: value for metric, value in measured.items() if not isinstance(value, str)}
                for metric, value in numbers.items():
                    self.log(f"test/{level}/{extremity}/{metric}", float("nan") if value is None else float(value))

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> tuple[Tensor, Tensor]:
        """Return the rows of the index, int64 [B], and their logits, float32 [B], computed in float32."""
        with in_float32(self.device):
            logits = self(batch["image"], batch["extremity"])
        return batch["row"].cpu(), logits.cpu()


class TrainedViews:
    """What an epoch has trained on: how many views, the sum of their losses, and how many were called right.

    The sums stay on the device, so that no step waits for it; they are read once an epoch. A metric of torchmetrics
    would ask the device for NaN at each step, and take logits that all lie between 0 and 1 for probabilities.
    """

    def __init__(self) -> None:
        self.views = 0
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | int = 0

    def add(self, loss: Tensor, logits_B: Tensor, label_B: Tensor) -> None:
        """Add a batch with its mean loss."""
        self.views += len(logits_B)
        self.loss = self.loss + loss * len(logits_B)
        self.correct = self.correct + ((logits_B > 0) == (label_B > 0)).sum()

    def of_all_processes(self) -> tuple[int, Tensor, Tensor]:
        """Return the number of views, the sum of their losses and the number called right; waits for the device."""
        mine = self.views, float(self.loss), int(self.correct)
        views, losses, correct = zip(*gather(mine), strict=True)
        return sum(views), torch.tensor(losses).sum(), torch.tensor(sum(correct))


class PerView:
    """What is kept of each view, batch after batch: tensors [B, ...], copied into a buffer for each.

    Kept as they are, they would lie among the activations and break up the memory that these leave to the next batch:
    an epoch of 1,000 batches of a small network grew by 250 MB in some runs.
    """

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.views = 0

    def add(self, *tensors_B: Tensor) -> None:
        """Add a batch: as many tensors as in every other one."""
        start, self.views = self.views, self.views + len(tensors_B[0])
        if not self.buffers:
            self.buffers = [each[:0] for each in tensors_B]
        for number, each in enumerate(tensors_B):
            if len(self.buffers[number]) < self.views:
                longer = each.new_empty((max(FIRST_VIEWS, 2 * self.views), *each.shape[1:]))
                longer[:start] = self.buffers[number][:start]
                self.buffers[number] = longer
            self.buffers[number][start : self.views] = each.detach()

    def of_all_processes(self) -> list[Tensor]:
        """Return each tensor, [N, ...] on the CPU, of the views of all processes, and forget them."""
        mine = [buffer[: self.views].cpu() for buffer in self.buffers]
        self.buffers, self.views = [], 0
        return [torch.cat(each) for each in zip(*gather(mine), strict=True)]


def gather(mine: Any) -> list[Any]:
    """Return `mine` of every process, in the order of ranks; on a single process just `[mine]`."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [mine]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Seed torch on every device for the draws of one epoch, augmentation and dropout.

    They derive from these three alone, so that a resumed run equals an uninterrupted one.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1))
