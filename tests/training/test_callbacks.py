"""What ends a training, and what a person reads while a run trains."""

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ON_CPU, REPOSITORY
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback
from torch.utils.data import DataLoader

from mura.training.callbacks import PruneTrial, leave_out_empty_hooks, stopped_by
from mura.training.console import LIGHTNINGS_REMARKS

pytestmark = [pytest.mark.filterwarnings(f"ignore:{remark}") for remark in LIGHTNINGS_REMARKS]


QUIET: dict[str, Any] = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class Slope(LightningModule):
    """Fits a line; what it logs as `val_loss` is given to it."""

    def __init__(self, logged: float) -> None:
        super().__init__()
        self.line, self.logged = torch.nn.Linear(1, 1), logged

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        self.log("val_loss", self.logged)
        return self.line(batch).mean()

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
        ("pruned", 1.0, {}, [PruneTrial("val_loss", "min", [None, 0.9])]),
        ("pruned", 0.5, {}, [PruneTrial("val_loss", "max", [0.6])]),
        ("max_epochs", 1.0, {}, [PruneTrial("val_loss", "min", [1.0, 1.0])]),
    ],
)
def test_a_run_says_what_really_ended_it(
    reason: str, logged: float, limits: dict[str, Any], callbacks: list[Callback]
) -> None:
    trainer = Trainer(max_epochs=4, accelerator="cpu", callbacks=callbacks, **QUIET, **limits)
    trainer.fit(Slope(logged), DataLoader(torch.ones(4, 1), batch_size=2))
    assert stopped_by(trainer) == reason


def test_a_pruned_run_that_goes_on_is_still_pruned() -> None:
    pruned = PruneTrial("val_loss", "min", [0.9])
    trainer = Trainer(max_epochs=4, accelerator="cpu", callbacks=[pruned], **QUIET)
    trainer.fit(Slope(1.0), DataLoader(torch.ones(4, 1), batch_size=2))
    assert trainer.current_epoch == 1
    again = PruneTrial("val_loss", "min", [0.9])
    again.load_state_dict(pruned.state_dict())
    trainer = Trainer(max_epochs=4, accelerator="cpu", callbacks=[again], **QUIET)
    trainer.fit(Slope(0.1), DataLoader(torch.ones(4, 1), batch_size=2))
    assert stopped_by(trainer) == "pruned"


def test_at_a_terminal_each_epochs_line_stands_whole_above_a_bar_that_counts_from_one(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), "model=cnn2", "data=wrist", "logger=csv", *ON_CPU,
         f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32", "data.batch_size=2",
         "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'run'}"],
        stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while more := os.read(ours, 65536):
            said += more
    os.close(ours)
    assert process.wait() == 0, said.decode()
    lines = [line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()))]
    for epoch in (1, 2):
        form = rf"epoch {epoch}: train loss \S+ acc \S+, val loss \S+ acc \S+ \(\S+ s\)"
        assert [line for line in lines if re.fullmatch(form, line)], lines
    bars = [line for line in lines if line.startswith("epoch") and "/2" in line]
    assert {line.split()[1] for line in bars} <= {"1/2", "2/2"}
    assert bars
    assert lines[-1] == "" or lines[-1].startswith("done: ")


class CountsSteps(Callback):
    """A user's callback with one hook of a step."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1


def test_hooks_of_a_step_that_do_nothing_are_left_out_and_the_others_are_called() -> None:
    counts, begun = CountsSteps(), []
    callbacks = [counts, LambdaCallback(on_train_batch_start=lambda *_: begun.append(1)), stopper(patience=9)]
    trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=callbacks, **QUIET)
    leave_out_empty_hooks(callbacks)
    assert [callable(counts.on_train_batch_start), callable(counts.on_after_backward)] == [False, False]
    trainer.fit(Slope(1.0), DataLoader(torch.ones(6, 1), batch_size=2))
    assert (counts.steps, len(begun), trainer.current_epoch) == (6, 6, 2)
