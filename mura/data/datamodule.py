"""From the cache to batches: which views train, validate and test, and in which order each process sees them."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from mura.data.cache import Cache, open_cache
from mura.data.sizes import cache_size_for
from mura.errors import ConfigError, MuraError
from mura.extremities import EXTREMITIES, INDEX_OF

log = logging.getLogger(__name__)

Batch = dict[str, Any]


Part = tuple[np.ndarray, float]  # rows of the index, and the share of the global batch that they are


class Views(Dataset[Batch]):
    """Gathers whole batches: `views[rows]` for int64 `rows` [B] of the index.

    A batch is `image` uint8 [B, 1, S, S], `label` float32 [B], `row` int64 [B], `extremity` int64 [B] (position in
    EXTREMITIES), and `share`, a float: what part of its global batch this process holds, times the number of
    processes; 1.0 on a single one, 0.0 for a process that holds none and steps along with a view of the others.
    """

    def __init__(self, cache: Cache) -> None:
        self.images = cache.images
        self.labels = torch.tensor(cache.table["label"].to_numpy(), dtype=torch.float32)
        self.extremities = torch.tensor(cache.table["extremity"].map(INDEX_OF).to_numpy(), dtype=torch.int64)

    def __getitem__(self, batch: Part) -> Batch:
        rows, share = batch
        index = torch.from_numpy(rows)
        return {
            "image": torch.from_numpy(np.asarray(self.images[rows]))[:, None],
            "label": self.labels[index],
            "row": index,
            "extremity": self.extremities[index],
            "share": share,
        }


class TrainingBatches(Sampler[Part]):
    """Shuffled global batches, of which each process takes its part; the order hangs on (seed, epoch) alone.

    The last, incomplete batch of an epoch is used too, unless it is a single view, from which batch normalisation
    can't learn. A process for which it has no view takes one of the others', with a share of 0.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole + (rest >= 2)

    def __iter__(self) -> Iterator[Part]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            mine = batch[self.rank :: self.world_size]
            yield (mine, len(mine) * self.world_size / len(batch)) if len(mine) else (batch[:1], 0.0)


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


class MuraDataModule(LightningDataModule):
    """The views of `extremities`: fold `fold` of the official training set validates, the others train, and the
    official validation set is the test set.

    Raises MuraError when there is no MURA folder at `root`, or an extremity or a part of the split is empty.
    """

    def __init__(
        self,
        root: str,
        extremities: list[str],
        image_size: int = 224,
        cache_size: int | None = None,
        cache_dir: str | None = None,
        batch_size: int = 32,
        fold: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root, self.extremities = root, list(extremities)
        self.cache_size = cache_size_for(image_size) if cache_size is None else cache_size
        self.cache_dir = cache_dir
        self.batch_size, self.fold, self.seed = batch_size, fold, seed
        self.cache: Cache | None = None
        self.rows: dict[str, np.ndarray] = {}

    def setup(self, stage: str | None = None) -> None:
        """Opens the cache, once; every process may call it, and one of them builds what is missing."""
        if self.cache is None:
            self.cache = open_cache(self.root, self.cache_size, self.cache_dir)
            self.rows = rows_of(self.cache.table, self.extremities, self.fold)
            counts = ", ".join(f"{len(rows)} {part}" for part, rows in self.rows.items())
            log.info("data: %s: %s views (fold %d validates)", "+".join(self.extremities), counts, self.fold)

    @property
    def opened(self) -> Cache:
        self.setup()
        assert self.cache is not None
        return self.cache

    def class_weights(self) -> list[list[float]]:
        """[7][2] weights of (normal, abnormal) an extremity, from the training rows: w0 = A/(A+N), w1 = N/(A+N).

        Rajpurkar et al. 2017, section 3. An extremity that is not trained on has (0.5, 0.5).
        """
        training = self.opened.table.iloc[self.rows["train"]]
        abnormal = training.groupby("extremity")["label"].mean()
        shares = [float(abnormal.get(name, 0.5)) for name in EXTREMITIES]
        return [[share, 1 - share] for share in shares]

    def left_out(self) -> int:
        """Damaged pictures among the extremities of this data module."""
        table = self.opened.table
        return int((table["extremity"].isin(self.extremities) & ~table["readable"]).sum())

    def train_dataloader(self) -> DataLoader[Batch]:
        rank, world_size = self._place()
        if self.batch_size < world_size:
            raise ConfigError(
                f"data.batch_size={self.batch_size} is the global one and can't be shared out to {world_size} "
                f"processes: give at least data.batch_size={world_size}."
            )
        sampler = TrainingBatches(self.rows["train"], self.batch_size, self.seed, rank, world_size)
        if len(sampler) == 0:
            raise MuraError(
                f"data.extremities={'+'.join(self.extremities)}: a single training view is too little to learn from."
            )
        return self._loader(sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader("val")

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._evaluation_loader("val"), self._evaluation_loader("test")]

    def _evaluation_loader(self, part: str) -> DataLoader[Batch]:
        rank, world_size = self._place()
        return self._loader(EvaluationBatches(self.rows[part], self.batch_size, rank, world_size))

    def _loader(self, sampler: Sampler) -> DataLoader[Batch]:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        # whole batches come from the data set, so the loader only passes them on: no worker, no collation
        # and draws its own random number, which else would come out of the model's
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(Views(self.opened), sampler=sampler, batch_size=None, pin_memory=pinned, generator=generator)

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def rows_of(table: pd.DataFrame, extremities: list[str], fold: int) -> dict[str, np.ndarray]:
    """Rows of the index that train, validate and test: `{"train": int64 [n], "val": ..., "test": ...}`."""
    readable = table[table["readable"]]
    chosen = readable[readable["extremity"].isin(extremities)]
    for name in extremities:
        if not (chosen["extremity"] == name).any():
            raise MuraError(
                f"data.extremities names {name}, but no picture of {name} is in the data set: "
                f"it has {', '.join(sorted(readable['extremity'].unique()))}."
            )
    parts = {
        "train": (chosen["split"] == "train") & (chosen["fold"] != fold),
        "val": (chosen["split"] == "train") & (chosen["fold"] == fold),
        "test": chosen["split"] == "test",
    }
    rows = {part: np.array(chosen.index[mask], dtype=np.int64) for part, mask in parts.items()}
    for part, found in rows.items():
        if len(found) == 0:
            where = "valid/" if part == "test" else f"train/ (data.fold={fold})"
            raise MuraError(f"no {part} views of {'+'.join(extremities)}: {where} holds none of them.")
    return rows
