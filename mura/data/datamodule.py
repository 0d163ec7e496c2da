"""From the cache to batches: which views train, validate and test, and in which order each process sees them."""

import logging
from collections.abc import Iterator
from itertools import count, islice
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
from mura.machine import choose_residence

log = logging.getLogger(__name__)

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


class MuraDataModule(LightningDataModule):
    """The views of `extremities`: fold `fold` of the official training set validates, the others train, and the
    official validation set is the test set.

    `test_extremities` tests on others than it is trained and validated on; `transfer` has the test views of all other
    extremities predicted besides. `resident` keeps the pictures in the device's memory (`choose_residence`). With
    `steps_like`, an epoch has as many steps as one over these extremities has, whatever the number of views.

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
        test_extremities: list[str] | None = None,
        transfer: bool = False,
        steps_like: list[str] | None = None,
        accumulate: int = 1,
        resident: str | bool = "auto",
    ) -> None:
        super().__init__()
        self.root, self.extremities = root, list(extremities)
        self.test_extremities = self.extremities if test_extremities is None else list(test_extremities)
        self.transfer, self.steps_like = transfer, steps_like
        self.cache_size = cache_size_for(image_size) if cache_size is None else cache_size
        self.cache_dir = cache_dir
        self.batch_size, self.fold, self.seed, self.accumulate = batch_size, fold, seed, accumulate
        self.resident = resident
        self.views: Views | None = None
        self.cache: Cache | None = None
        self.rows: dict[str, np.ndarray] = {}

    def setup(self, stage: str | None = None) -> None:
        """Opens the cache, once; every process may call it, and one of them builds what is missing."""
        if self.cache is None:
            self.cache = open_cache(self.root, self.cache_size, self.cache_dir)
            self.rows = rows_of(self.cache.table, self.extremities, self.fold, self.test_extremities)
            counts = ", ".join(f"{len(rows)} {part}" for part, rows in self.rows.items())
            log.info("data: %s: %s views (fold %d validates)", self._names(), counts, self.fold)
            if self.transfer:
                self.rows["transfer"] = other_test_rows(self.cache.table, self.test_extremities)

    def _names(self) -> str:
        trained, tested = "+".join(self.extremities), "+".join(self.test_extremities)
        return trained if trained == tested else f"{trained}, tested on {tested}"

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
        mine = {*self.extremities, *self.test_extremities}
        return int((table["extremity"].isin(mine) & ~table["readable"]).sum())

    def train_dataloader(self) -> DataLoader[Batch]:
        rank, world_size = self._place()
        if self.batch_size < world_size:
            raise ConfigError(
                f"data.batch_size={self.batch_size} is the global one and can't be shared out to {world_size} "
                f"processes: give at least data.batch_size={world_size}."
            )
        sampler = TrainingBatches(
            self.rows["train"], self.batch_size, self.seed, rank, world_size, self._steps(), self.accumulate
        )
        if len(self.rows["train"]) < 2:
            raise MuraError(
                f"data.extremities={'+'.join(self.extremities)}: a single training view is too little to learn from."
            )
        return self._loader(sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader("val")

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """Validation and test views; then, where asked for and there are any, the test views of other extremities."""
        return [self._evaluation_loader(part) for part in ("val", "test", "transfer") if len(self.rows.get(part, ()))]

    def _steps(self) -> int | None:
        if self.steps_like is None:
            return None
        views = len(rows_of(self.opened.table, self.steps_like, self.fold)["train"])
        return steps_of_a_pass(views, self.batch_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Only what is not there yet; from pinned memory without waiting."""
        return {
            name: part.to(device, non_blocking=True) if isinstance(part, torch.Tensor) else part
            for name, part in batch.items()
        }

    def _evaluation_loader(self, part: str) -> DataLoader[Batch]:
        rank, world_size = self._place()
        return self._loader(EvaluationBatches(self.rows[part], self.batch_size, rank, world_size))

    def _loader(self, sampler: Sampler) -> DataLoader[Batch]:
        views = self._views()
        pinned = views.resident is None and self._device().type == "cuda"
        # whole batches come from the data set, so the loader only passes them on: no worker, no collation
        # and draws its own random number, which else would come out of the model's
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(views, sampler=sampler, batch_size=None, pin_memory=pinned, generator=generator)

    def _views(self) -> Views:
        """The views, with their pictures where `resident` says; decided and made once."""
        if self.views is None:
            rows = np.unique(np.concatenate(list(self.rows.values())))
            needed = len(rows) * self.opened.images[0].nbytes
            where = choose_residence(self.resident, self._device(), needed)
            log.info("pictures: in the memory of the %s (%s)", *where)
            kept = Resident(self.opened.images, rows, self._device()) if where.value == "device" else None
            self.views = Views(self.opened, kept)
        return self.views

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def other_test_rows(table: pd.DataFrame, extremities: list[str]) -> np.ndarray:
    """Rows of the index, int64 [n], with the test views of all extremities but these."""
    other = table["readable"] & (table["split"] == "test") & ~table["extremity"].isin(extremities)
    return np.array(table.index[other], dtype=np.int64)


def rows_of(
    table: pd.DataFrame, extremities: list[str], fold: int, test_extremities: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Rows of the index that train, validate and test: `{"train": int64 [n], "val": ..., "test": ...}`."""
    tested = extremities if test_extremities is None else test_extremities
    readable = table[table["readable"]]
    for name in {**dict.fromkeys(extremities), **dict.fromkeys(tested)}:
        if not (readable["extremity"] == name).any():
            raise MuraError(
                f"data.extremities names {name}, but no picture of {name} is in the data set: "
                f"it has {', '.join(sorted(readable['extremity'].unique()))}."
            )
    trains = (readable["split"] == "train") & readable["extremity"].isin(extremities)
    parts = {
        "train": trains & (readable["fold"] != fold),
        "val": trains & (readable["fold"] == fold),
        "test": (readable["split"] == "test") & readable["extremity"].isin(tested),
    }
    rows = {part: np.array(readable.index[mask], dtype=np.int64) for part, mask in parts.items()}
    for part, found in rows.items():
        if len(found) == 0:
            where = "valid/" if part == "test" else f"train/ (data.fold={fold})"
            names = "+".join(tested if part == "test" else extremities)
            raise MuraError(f"no {part} views of {names}: {where} holds none of them.")
    return rows
