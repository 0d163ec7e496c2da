"""All randomness of an epoch derives from (seed, epoch, rank), so that a resumed run equals an uninterrupted one."""

import numpy as np
import torch


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Seeds torch on every device for the draws of one epoch: augmentation and dropout."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1))
