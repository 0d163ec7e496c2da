"""Batches: which views each process gathers, in which order, and from where.

Whole batches are gathered from the cache's memory map in the process itself, or from a device's memory.
"""

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from mura.data.cache import Cache
from mura.extremities import INDEX_OF

Batch = dict[str, Any]


Part = tuple[np.ndarray, float]  # rows of the index, and the share of the global batch that they are


class Views(Dataset[Batch]):
    """Gathers whole batches: `views[rows]` for int64 `rows` [B] of the index.

    A batch is `image` uint8 [B, 1, S, S], `label` float32 [B], `row` int64 [B], `extremity` int64 [B] (position in
    EXTREMITIES), and `share`, a float: what part of its global batch this process holds, times the number of
    processes; 1.0 on a single one, 0.0 for a process that holds none and steps along with a view of the others.
    """

    def __init__(self, cache: Cache, resident: "Resident | None" = None) -> None:
        self.images, self.resident = cache.images, resident
        self.labels = torch.tensor(cache.table["label"].to_numpy(), dtype=torch.float32)
        self.extremities = torch.tensor(cache.table["extremity"].map(INDEX_OF).to_numpy(), dtype=torch.int64)

    def __getitem__(self, batch: Part) -> Batch:
        rows, share = batch
        index = torch.from_numpy(rows)
        return {
            "image": self._gathered(rows) if self.resident is None else self.resident.gathered(index),
            "label": self.labels[index],
            "row": index,
            "extremity": self.extremities[index],
            "share": share,
        }

    def _gathered(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.images[rows]))[:, None]


class Resident:
    """The pictures of some rows of the index, uint8, in a device's memory: batches are then gathered there."""

    def __init__(self, images: np.ndarray, rows: np.ndarray, device: torch.device) -> None:
        self.place = torch.full((len(images),), -1, dtype=torch.int64)
        self.place[torch.from_numpy(rows)] = torch.arange(len(rows))
        self.pictures = torch.empty((len(rows), 1, *images.shape[1:]), dtype=torch.uint8, device=device)
        for start in range(0, len(rows), 1024):
            part = rows[start : start + 1024]
            self.pictures[start : start + len(part)] = torch.from_numpy(np.asarray(images[part]))[:, None].to(device)

    def gathered(self, rows: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 1, S, S] on the device, for `rows` int64 [B] of the index."""
        return self.pictures[self.place[rows].to(self.pictures.device, non_blocking=True)]


class TrainingBatches(Sampler[Part]):
    """Shuffled global batches, of which each process takes its part; the order hangs on (seed, epoch) alone.

    The last, incomplete batch of a pass over the views is used too, unless it is a single view, from which batch
    normalisation can't learn. A process for which it has no view takes one of the others', with a share of 0.
    An epoch is one pass, or as many passes, the last one cut short, as give `steps` batches. With `accumulate`, each
    process gets its part in so many pieces, one after the other, whose gradients are added up; the shares see to it
    that they add up to the gradient of the undivided batch.
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        steps: int | None = None,
        accumulate: int = 1,
    ) -> None:
        self.rows, self.batch_size, self.seed, self.steps = rows, batch_size, seed, steps
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        steps = steps_of_a_pass(len(self.rows), self.batch_size) if self.steps is None else self.steps
        return steps * self.accumulate

    def __iter__(self) -> Iterator[Part]:
        parts = self.world_size * self.accumulate
        for batch in islice(self._global_batches(), len(self) // self.accumulate):
            for piece in range(self.accumulate):
                mine = batch[self.rank + piece * self.world_size :: parts]
                yield (mine, len(mine) * parts / len(batch)) if len(mine) else (batch[:1], 0.0)

    def _global_batches(self) -> Iterator[np.ndarray]:
        """One pass after the other, each shuffled anew."""
        for number in count():
            entropy = [self.seed, self.epoch, number] if number else [self.seed, self.epoch]
            order = np.random.default_rng(entropy).permutation(self.rows)
            for step in range(steps_of_a_pass(len(order), self.batch_size)):
                yield order[step * self.batch_size : (step + 1) * self.batch_size]


def steps_of_a_pass(views: int, batch_size: int) -> int:
    """Training batches of one pass over the views."""
    whole, rest = divmod(views, batch_size)
    return whole + (rest >= 2)


class EvaluationBatches(Sampler[Part]):
    """Every view exactly once over all processes, in as many batches on each.

    The processes must step together (batch normalisation's statistics are broadcast before each forward pass),
    so a process with fewer views gets smaller batches, not fewer.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, rank: int, world_size: int) -> None:
        n_batches = -(-len(rows) // batch_size)
        self.batches = np.array_split(rows[rank::world_size], n_batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Part]:
        return iter([(batch, 1.0) for batch in self.batches])
