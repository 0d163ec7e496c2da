"""The loaders of a run: which views of the cache train, validate and test."""

import logging
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from mura.data.batches import Batch, EvaluationBatches, Resident, SameBatches, TrainingBatches, Views, steps_of_a_pass
from mura.data.cache import Cache, open_cache
from mura.data.images import PAD, cache_size_for
from mura.data.index import BOTH_LABELS, has_both_labels, study_names
from mura.errors import ConfigError, MuraError
from mura.extremities import EXTREMITIES, data_name
from mura.machine import choose_residence, is_out_of_memory

log = logging.getLogger(__name__)


class MuraDataModule(LightningDataModule):
    """The views of `extremities`: fold `fold` of the official training set validates and the other folds train.

    The official validation set is the test set. `image_size` and `cache_size` are sides in pixels, `batch_size` is the
    global one. A model can be tested on other extremities than it is trained on (`test_extremities`); with `transfer`,
    the test views of all others are predicted too; without `test`, no test view is. `resident` keeps the pictures in
    the device's memory (see `choose_residence`). With `steps_like`, an epoch has as many steps as one over those
    extremities would have. `accumulate` is the number of pieces that each process gets its part of a batch in.
    `fit` says how a picture becomes a square: pad, stretch. Studies with both labels are refused, or left out and
    counted (`conflicts`: refuse, leave_out). `trust_cache` knows the folder by names and sizes alone (`open_cache`).

    `setup` raises MuraError when there is no MURA folder at `root`, when an extremity or a part of the split is empty,
    and for a study with both labels among the views that it uses.
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
        conflicts: str = "refuse",
        fit: str = PAD,
        test: bool = True,
        trust_cache: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["root", "cache_dir"], logger=False)  # no path of this machine
        for name, value in (
            ("extremities", extremities),
            ("test_extremities", test_extremities),
            ("steps_like", steps_like),
        ):
            if isinstance(value, str):
                raise ConfigError(f"data.{name}={value}: write it as a list, 'data.{name}=[{value}]'.")
        self.root, self.extremities = root, list(extremities)
        self.test_extremities = self.extremities if test_extremities is None else list(test_extremities)
        self.test, self.transfer, self.steps_like = test, transfer, steps_like
        self.cache_size = cache_size_for(image_size) if cache_size is None else cache_size
        self.cache_dir, self.fit, self.trust_cache = cache_dir, fit, trust_cache
        self.batch_size, self.fold, self.seed, self.accumulate = batch_size, fold, seed, accumulate
        self.resident, self.conflicts = resident, conflicts
        self.conflicting: list[str] = []  # studies that are left out
        self.views: Views | None = None
        self.cache: Cache | None = None
        self.rows: dict[str, np.ndarray] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open the cache, once; every process may call this, and one of them builds what is missing."""
        if self.cache is None:
            self.cache = open_cache(self.root, self.cache_size, self.cache_dir, self.fit, self.trust_cache)
            self.rows = self._choose_rows()
            counts = ", ".join(f"{len(rows)} {part}" for part, rows in self.rows.items() if part != "transfer")
            log.info("data: %s: %s views (fold %d validates)", self._names(), counts, self.fold)
            if self.blank():
                log.warning("%d of these views are blank or nearly so; `mura check` names them", self.blank())

    def _choose_rows(self) -> dict[str, np.ndarray]:
        """Return the rows of each part, without studies that have both labels. Raises MuraError as `setup` does."""
        rows = self._rows_of_parts(self.opened.table)
        used = self.opened.table.index.isin(np.concatenate(list(rows.values())))
        self.conflicting = study_names(self.opened.table[used & has_both_labels(self.opened.table)])
        if not self.conflicting:
            return rows
        count, first = len(self.conflicting), self.conflicting[0]
        if self.conflicts == "refuse":
            raise MuraError(
                f"{first} {BOTH_LABELS} ({count} such {'study' if count == 1 else 'studies'}): keep the right folder "
                "of the two, or leave such studies out of training and test with data.conflicts=leave_out."
            )
        log.warning("%d studies with both labels are left out, first %s", count, first)
        return self._rows_of_parts(without_conflicts(self.opened.table))

    def _rows_of_parts(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        rows = rows_of(table, self.extremities, self.fold, self.test_extremities if self.test else [])
        if self.transfer:
            rows["transfer"] = other_test_rows(table, self.test_extremities)
        return rows

    def _names(self) -> str:
        trained, tested = data_name(self.extremities), data_name(self.test_extremities)
        return trained if trained == tested or not self.test else f"{trained}, tested on {tested}"

    @property
    def opened(self) -> Cache:
        """The cache, which is opened if it is not yet."""
        self.setup()
        assert self.cache is not None
        return self.cache

    def provenance(self) -> dict[str, Any]:
        """Return what a checkpoint says of the pictures that it was trained on: plain values."""
        return {
            "extremities": self.extremities,
            "fold": self.fold,
            "cache_size": self.cache_size,
            "fit": self.fit,
            "data_fingerprint": self.opened.fingerprint,
            "split_hash": self.opened.split_hash,
        }

    def class_weights(self) -> list[list[float]]:
        """Return weights [7][2] of normal and abnormal views for each extremity, from the training rows.

        They are A / (A + N) and N / (A + N) for N normal and A abnormal views (Rajpurkar et al. 2017, section 3), and
        0.5 each for an extremity that is not trained on.
        """
        training = self.opened.table.iloc[self.rows["train"]]
        abnormal = training.groupby("extremity")["label"].mean()
        shares = [float(abnormal.get(name, 0.5)) for name in EXTREMITIES]
        return [[share, 1 - share] for share in shares]

    def left_out(self) -> int:
        """Return how many pictures of this data module's extremities are damaged and left out."""
        table = self.opened.table
        mine = {*self.extremities, *self.test_extremities}
        return int((table["extremity"].isin(mine) & ~table["readable"]).sum())

    def blank(self) -> int:
        """Return how many of the views that this data module uses are blank or nearly so."""
        used = np.unique(np.concatenate(list(self.rows.values())))
        return int(self.opened.table["blank"].iloc[used].sum())

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of this process's parts of the shuffled global batches.

        Raises ConfigError if the batch is smaller than the number of processes, MuraError if there is a single view.
        """
        return self._loader(self._training_batches(), in_fit=True)

    def _training_batches(self) -> TrainingBatches:
        rank, world_size = self._rank()
        if self.batch_size < world_size:
            raise ConfigError(
                f"data.batch_size={self.batch_size} is the global one and can't be shared out to {world_size} "
                f"processes: give at least data.batch_size={world_size}."
            )
        if len(self.rows["train"]) < 2:
            raise MuraError(
                f"data.extremities={'+'.join(self.extremities)}: a single training view is too little to learn from."
            )
        return TrainingBatches(
            self.rows["train"], self.batch_size, self.seed, rank, world_size, self._steps(), self.accumulate
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of this process's share of the validation views."""
        return self._evaluation_loader("val", in_fit=True)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of this process's share of the test views. Raises MuraError when there is no test part."""
        if "test" not in self.rows:
            raise MuraError("test=False: this data module has no test views; make one with test=True.")
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """Return loaders of the validation views, the test views and, with `transfer`, the other extremities' ones.

        Without `test`, only of the validation views.
        """
        return [self._evaluation_loader(part) for part in self._predicted()]

    def _predicted(self) -> list[str]:
        return [part for part in ("val", "test", "transfer") if len(self.rows.get(part, ()))]

    def batches(self) -> dict[str, int]:
        """Return how many batches an epoch trains and validates on, and the fewest of a loader to `predict`.

        Raises MuraError when there is a single training view.
        """
        parts = {part: len(EvaluationBatches(self.rows[part], self.batch_size, 0, 1)) for part in self._predicted()}
        return {"train": len(self._training_batches()), "val": parts["val"], "predict": min(parts.values())}

    def _steps(self) -> int | None:
        if self.steps_like is None:
            return None
        views = len(rows_of(without_conflicts(self.opened.table), self.steps_like, self.fold, [])["train"])
        return steps_of_a_pass(views, self.batch_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the batch's tensors to the device, from pinned memory without waiting."""
        return {
            name: part.to(device, non_blocking=True) if isinstance(part, torch.Tensor) else part
            for name, part in batch.items()
        }

    def _evaluation_loader(self, part: str, in_fit: bool = False) -> DataLoader[Batch]:
        rank, world_size = self._rank()
        return self._loader(EvaluationBatches(self.rows[part], self.batch_size, rank, world_size), in_fit)

    def _loader(self, sampler: Sampler, in_fit: bool = False) -> DataLoader[Batch]:
        if in_fit and getattr(self.trainer, "overfit_batches", False):  # of a trainer, if there is one
            sampler = SameBatches(sampler)
        views = self.all_views()
        pinned = views.resident is None and self._device().type == "cuda"
        # the loader draws a seed for workers that it hasn't: from a generator of its own, not from the model's
        generator = torch.Generator().manual_seed(self.seed)
        # whole batches come from the data set, so the loader only passes them on: no worker, no collation
        return DataLoader(views, sampler=sampler, batch_size=None, pin_memory=pinned, generator=generator)

    def all_views(self) -> Views:
        """Return the views of the data set, with their pictures where `resident` says; decided and made once."""
        if self.views is None:
            rows = np.unique(np.concatenate(list(self.rows.values())))
            needed = len(rows) * self.cache_size**2  # bytes
            where = choose_residence(self.resident, self._device(), needed)
            log.info("pictures: in the memory of the %s (%s)", *where)
            self.views = Views(self.opened, self._copied(rows) if where.value == "device" else None)
        return self.views

    @property
    def pictures_on_gpu(self) -> bool:
        """Whether the pictures take a GPU's memory, which the network may lack."""
        return self.views is not None and self.views.resident is not None and self._device().type == "cuda"

    def _copied(self, rows: np.ndarray) -> Resident:
        """Return the pictures of these rows in the device's memory. Raises MuraError when they don't fit."""
        try:
            return Resident(self.opened.images, rows, self._device())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size = len(rows) * self.cache_size**2 / 1e9
        raise MuraError(
            f"data.resident={str(self.resident).lower()}: the pictures, {size:.1f} GB, don't fit the memory of the "
            "device; take data.resident=false, and they are copied batch by batch."
        )

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _rank(self) -> tuple[int, int]:
        """Return this process's rank and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def without_conflicts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the index with the views of studies that have both labels marked as not readable."""
    return table.assign(readable=table["readable"] & ~has_both_labels(table))


def other_test_rows(table: pd.DataFrame, extremities: list[str]) -> np.ndarray:
    """Return the rows of the index, int64 [n], with the readable test views of all extremities but these."""
    other = table["readable"] & (table["split"] == "test") & ~table["extremity"].isin(extremities)
    return np.array(table.index[other], dtype=np.int64)


def rows_of(
    table: pd.DataFrame, extremities: list[str], fold: int, test_extremities: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Return the readable rows of the index, int64 [n], that train, validate and test: keys train, val and test.

    `test_extremities` are those that it trains on by default; with an empty list there is no test part.
    Raises MuraError if an extremity or a part has no readable view.
    """
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
    }
    if tested:
        parts["test"] = (readable["split"] == "test") & readable["extremity"].isin(tested)
    rows = {part: np.array(readable.index[mask], dtype=np.int64) for part, mask in parts.items()}
    for part, numbers in rows.items():
        if len(numbers) == 0:
            where = "valid/" if part == "test" else f"train/ (data.fold={fold})"
            names = "+".join(tested if part == "test" else extremities)
            raise MuraError(f"no {part} views of {names}: {where} holds none of them.")
    return rows
