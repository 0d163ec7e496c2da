"""A stalled run reports where it stands."""

import time
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from mura.training.stall import StallWatch


class SlowDisk(Dataset[torch.Tensor]):
    """Its second batch takes its time."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> torch.Tensor:
        if number == 1:
            time.sleep(1.5)
        return torch.ones(2, 1)


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_waits_for_a_disk_shows_its_stack_and_shows_it_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[StallWatch(seconds=0.5)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Line(), DataLoader(SlowDisk(), batch_size=None))
    said = capfd.readouterr().err
    assert said.count("Timeout (0:00:00.500000)!") == 1
    assert "test_stall.py" in said
    assert "in __getitem__" in said
