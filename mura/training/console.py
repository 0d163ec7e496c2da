"""What a run says when it starts, and which of the libraries' remarks it leaves unsaid."""

import logging
import warnings
from pathlib import Path
from typing import Any

from lightning import Trainer

from mura.machine import Choice, allow_tf32
from mura.models.classifier import AbnormalityClassifier
from mura.processes import is_rank_zero

LIGHTNINGS_REMARKS = (
    ".*does not have many workers.*",  # batches are gathered in the process
    ".*smaller than the logging interval.*",  # metrics are logged once an epoch
    ".*treespec, LeafSpec.*",  # Lightning on a newer torch
    ".*recommended to use .*sync_dist=True.*",  # what is logged was gathered and is the same on every process
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*`srun` command is available.*",  # a run of one process on a machine that has SLURM
)

log = logging.getLogger(__name__)


def announce(folder: Path, device: Choice, precision: Choice) -> None:
    """Log the automatic choices with their reasons, in place of Lightning's own remarks about devices."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for harmless in LIGHTNINGS_REMARKS:
        warnings.filterwarnings("ignore", harmless)
    if not is_rank_zero():  # the first process speaks for all
        logging.getLogger().setLevel(logging.WARNING)
    log.info("run: %s", folder)
    log.info("device: %s (%s); precision: %s (%s%s)", *device, *precision, allow_tf32(device.value, precision.value))


def announce_weights(model: AbnormalityClassifier) -> None:
    """Log what is about to be trained, and from which weights it starts."""
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    log.info(
        "model: %s, %.2f million parameters, weights: %s", model.network.name, parameters / 1e6, model.network.origin
    )


def log_config(trainer: Trainer, config: Any) -> None:
    """Log the resolved config to every logger."""
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
