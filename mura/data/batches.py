"""Batches: which views each process gathers, in which order, and from where.

Whole batches are gathered from the cache's memory map in the process itself, or from a device's memory.
"""

from collections.abc import Iterator
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler

from mura.data.cache import Cache
from mura.extremities import INDEX_OF
from mura.runs.folder import PREDICTION_COLUMNS

Batch = dict[str, Any]
COPIED_AT_ONCE = 1024  # pictures, on the way to a device


class Part(NamedTuple):
    """What one process takes of a global batch at once: `rows` int64 [B] of the index, and their `share`.

    The mean loss of a part, times its share, averaged over all parts, is the mean loss of the global batch.
    """

    rows: np.ndarray
    share: float

    @classmethod
    def cut(cls, global_batch: np.ndarray, number: int, parts: int) -> "Part":
        """Return part `number` of a global batch that is cut into so many `parts`.

        A part of n among N views has the share n x parts / N: 1 if all parts are equal. A part that would be empty
        takes a view of another one with a share of 0, since all processes must step together.
        """
        rows = global_batch[number::parts]
        if len(rows) == 0:
            return cls(global_batch[:1], 0.0)
        return cls(rows, len(rows) * parts / len(global_batch))


class Views(Dataset[Batch]):
    """All views of a cache, gathered by whole batches: `views[part]` for a `Part`.

    A batch is a dict of `image` uint8 [B, 1, S, S], `label` float32 [B] (0 normal, 1 abnormal), `row` int64 [B] of the
    index, `extremity` int64 [B] (position in EXTREMITIES), and the part's `share`, a float. The images lie on the
    device of `resident` if it is given, else in main memory.
    """

    def __init__(self, cache: Cache, resident: "Resident | None" = None) -> None:
        self.table, self.images, self.resident = cache.table, cache.images, resident
        self.labels = torch.tensor(cache.table["label"].to_numpy(), dtype=torch.float32)
        self.extremities = torch.tensor(cache.table["extremity"].map(INDEX_OF).to_numpy(), dtype=torch.int64)

    def __getitem__(self, part: Part) -> Batch:
        rows = torch.from_numpy(part.rows)
        return {
            "image": read_images(self.images, part.rows) if self.resident is None else self.resident.read(rows),
            "label": self.labels[rows],
            "row": rows,
            "extremity": self.extremities[rows],
            "share": part.share,
        }

    def predictions(self, rows_N: torch.Tensor, logits_N: torch.Tensor) -> pd.DataFrame:
        """Join logits, float [N], with the `rows` of the index, int64 [N], that they belong to: PREDICTION_COLUMNS."""
        logits_N = logits_N.double()
        table = self.table.iloc[rows_N.numpy()].assign(
            split=lambda views: views["split"].replace("train", "val"),
            logit=logits_N.numpy(),
            probability=logits_N.sigmoid().numpy(),
        )
        return table[PREDICTION_COLUMNS]


class Resident:
    """The pictures of some rows of the index in a device's memory, where batches are then gathered.

    `images` is the cache's uint8 [N, S, S], `rows` int64 [n] are those to keep: n x S x S bytes.
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray, device: torch.device) -> None:
        self.place = torch.full((len(images),), -1, dtype=torch.int64)  # of each row of the index among the pictures
        self.place[torch.from_numpy(rows)] = torch.arange(len(rows))
        self.pictures = torch.empty((len(rows), 1, *images.shape[1:]), dtype=torch.uint8, device=device)
        for start in range(0, len(rows), COPIED_AT_ONCE):
            chunk = rows[start : start + COPIED_AT_ONCE]
            self.pictures[start : start + len(chunk)] = read_images(images, chunk).to(device)

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Return uint8 [B, 1, S, S] on the device, for `rows` int64 [B] of the index."""
        return self.pictures[self.place[rows].to(self.pictures.device, non_blocking=True)]


def read_images(images: np.ndarray, rows: np.ndarray) -> torch.Tensor:
    """Return uint8 [B, 1, S, S] in main memory: `rows` int64 [B] of `images` uint8 [N, S, S]."""
    return torch.from_numpy(np.asarray(images[rows]))[:, None]


class TrainingBatches(Sampler[Part]):
    """Shuffled global batches, of which each process takes its part; the order hangs on (seed, epoch) alone.

    An epoch is one pass over the views, or as many passes, the last one cut short, as give `steps` batches. The last,
    incomplete batch of a pass is used too, unless it is a single view, from which batch normalisation can't learn.
    With `accumulate`, each process gets its part in so many pieces, one after the other, whose gradients are added up.
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
        """Set the number of the epoch whose order comes next; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        steps = steps_of_a_pass(len(self.rows), self.batch_size) if self.steps is None else self.steps
        return steps * self.accumulate

    def __iter__(self) -> Iterator[Part]:
        for batch in islice(self._global_batches(), len(self) // self.accumulate):
            for piece in range(self.accumulate):
                yield Part.cut(batch, self.rank + piece * self.world_size, self.world_size * self.accumulate)

    def _global_batches(self) -> Iterator[np.ndarray]:
        """Yield one pass after the other without end, each shuffled anew."""
        for number in count():
            entropy = [self.seed, self.epoch, number] if number else [self.seed, self.epoch]
            order = np.random.default_rng(entropy).permutation(self.rows)
            for step in range(steps_of_a_pass(len(order), self.batch_size)):
                yield order[step * self.batch_size : (step + 1) * self.batch_size]


def steps_of_a_pass(views: int, batch_size: int) -> int:
    """Return the number of training batches in one pass over so many views."""
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
        return (Part(batch, 1.0) for batch in self.batches)


class SameBatches(SequentialSampler):
    """The batches of another sampler, the same in every epoch, for Lightning's `overfit_batches`.

    It is a SequentialSampler by its name alone: in the place of any other sampler, Lightning puts one of its own.
    """

    def __init__(self, batches: Sampler[Part]) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)
