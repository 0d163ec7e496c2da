"""Averages of the weights, which are validated, saved and tested in place of the weights themselves."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging


class MovingAverage(EMAWeightAveraging):
    """Lightning's exponential moving average, kept on the device of the model."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        move_average(self, pl_module)


class StochasticAverage(WeightAveraging):
    """The plain average of the weights after each epoch from `start` on (counted from 0).

    It is taken after the last batch of an epoch, before the validation, so that what is validated is what is saved.
    Until then it equals the weights.
    """

    def __init__(self, start: int = 5) -> None:
        super().__init__()
        self.start = start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        move_average(self, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.is_last_batch:
            average = self._average_model
            assert average is not None
            if trainer.current_epoch <= self.start:
                average.n_averaged.zero_()  # the next one is then a copy
            average.update_parameters(pl_module)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return False


def move_average(averaging: WeightAveraging, model: LightningModule) -> None:
    """Move the average to the model's device: Lightning makes it before it moves the model there."""
    assert averaging._average_model is not None
    averaging._average_model.to(model.device)
