"""What a person reads while a run trains."""

from lightning import Trainer

from mura.training.callbacks import ProgressBar


def test_the_progress_bar_counts_epochs_from_one() -> None:
    bar = ProgressBar()
    bar._trainer = Trainer(max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert [bar._get_train_description(epoch) for epoch in (0, 19)] == ["Epoch 1/20", "Epoch 20/20"]
