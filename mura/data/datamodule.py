"""From the cache to the loaders of a run: which views train, validate and test."""

import logging

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from mura.data.batches import Batch, EvaluationBatches, Resident, TrainingBatches, Views, steps_of_a_pass
from mura.data.cache import Cache, open_cache
from mura.data.images import cache_size_for
from mura.errors import ConfigError, MuraError
from mura.extremities import EXTREMITIES
from mura.machine import choose_residence

log = logging.getLogger(__name__)


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
