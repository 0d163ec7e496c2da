"""What ends a training, and what a person reads while a run trains."""

from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from mura.training.callbacks import ProgressBar, stopped_by
from mura.training.console import LIGHTNINGS_REMARKS

pytestmark = [pytest.mark.filterwarnings(f"ignore:{remark}") for remark in LIGHTNINGS_REMARKS]


class Slope(LightningModule):
    """Fits a line; what it logs as `val_loss` is given to it."""

    def __init__(self, logged: float) -> None:
        super().__init__()
        self.line, self.logged = torch.nn.Linear(1, 1), logged

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        return self.line(batch).mean()

    def on_train_epoch_end(self) -> None:
        self.log("val_loss", self.logged)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stop(Callback):
    """A user's callback that has seen enough."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def stopper(**settings: Any) -> EarlyStopping:
    return EarlyStopping("val_loss", check_on_train_epoch_end=True, **settings)


@pytest.mark.parametrize(
    ("reason", "logged", "limits", "callbacks"),
    [
        ("max_epochs", 1.0, {}, []),
        ("max_epochs", 1.0, {}, [stopper(patience=9)]),
        ("max_steps", 1.0, {"max_steps": 3}, []),
        ("max_time", 1.0, {"max_time": {"seconds": 0}}, []),
        ("early_stopping", 1.0, {}, [stopper(patience=1)]),
        ("early_stopping", 1.0, {}, [stopper(patience=9, stopping_threshold=2.0)]),
        ("undefined", float("nan"), {}, [stopper(patience=9)]),
        ("callback", 1.0, {}, [Stop()]),
    ],
)
def test_a_run_says_what_really_ended_it(
    reason: str, logged: float, limits: dict[str, Any], callbacks: list[Callback]
) -> None:
    trainer = Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, **limits,
    )  # fmt: skip
    trainer.fit(Slope(logged), DataLoader(torch.ones(4, 1), batch_size=2))
    assert stopped_by(trainer) == reason


def test_the_progress_bar_counts_epochs_from_one() -> None:
    bar = ProgressBar()
    bar._trainer = Trainer(max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert [bar._get_train_description(epoch) for epoch in (0, 19)] == ["Epoch 1/20", "Epoch 20/20"]
