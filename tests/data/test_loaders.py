"""What a run gets of the data module: its loaders, with all that they carry, and what it is told."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mura.data.batches import Batch, EvaluationBatches, SameBatches, TrainingBatches
from mura.data.datamodule import MuraDataModule
from mura.errors import ConfigError, MuraError
from mura.extremities import EXTREMITIES

Make = Callable[..., MuraDataModule]


@pytest.fixture
def make(mura_root: Path, cache_dir: Path) -> Make:
    """A function that opens a data module on the small folder, of the wrist unless told otherwise."""

    def opened(extremities: tuple[str, ...] = ("wrist",), **settings: object) -> MuraDataModule:
        settings = {"image_size": 32, "batch_size": 8, "cache_dir": str(cache_dir)} | settings
        data = MuraDataModule(str(mura_root), list(extremities), **settings)  # type: ignore[arg-type]
        data.setup()
        return data

    return opened


def rows_in(loader: DataLoader[Batch]) -> list[int]:
    return [row for batch in loader for row in batch["row"].tolist()]


def rows_where(data: MuraDataModule, split: str, extremities: tuple[str, ...]) -> list[int]:
    table = data.opened.table
    return list(table.index[(table["split"] == split) & table["extremity"].isin(extremities)])


def test_the_defaults_are_those_of_the_study() -> None:
    data = MuraDataModule("somewhere", ["wrist"])
    assert (data.cache_size, data.cache_dir, data.batch_size, data.fold, data.seed) == (256, None, 32, 0, 0)
    assert (data.test_extremities, data.transfer, data.steps_like) == (["wrist"], False, None)
    assert (data.accumulate, data.resident, data.fit, data.conflicts) == (1, "auto", "pad", "refuse")
    assert (data.test, data.trust_cache) == (True, False)
    assert MuraDataModule("somewhere", ["wrist"], 224, cache_size=100).cache_size == 100


def test_the_loaders_hold_each_part_once_and_predict_validation_and_test(make: Make) -> None:
    data = make(fold=1)
    table = data.opened.table
    wrist = rows_where(data, "train", ("wrist",))
    validates = [row for row in wrist if table["fold"][row] == 1]
    assert sorted(rows_in(data.train_dataloader())) == sorted(set(wrist) - set(validates))
    assert rows_in(data.val_dataloader()) == validates
    assert [rows_in(loader) for loader in data.predict_dataloader()] == [
        validates,
        rows_where(data, "test", ("wrist",)),
    ]


def test_a_model_is_tested_on_the_extremities_that_were_asked_for(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mura"):
        data = make(test_extremities=["hand", "elbow"])
    assert rows_in(data.predict_dataloader()[1]) == rows_where(data, "test", ("hand", "elbow"))
    assert set(data.opened.table["extremity"].loc[rows_in(data.train_dataloader())]) == {"wrist"}
    counts = [len(data.rows[part]) for part in ("train", "val", "test")]
    said = "data: wrist, tested on elbow+hand: {} train, {} val, {} test views (fold 0 validates)".format(*counts)
    assert said in caplog.messages


def test_the_log_names_the_extremities_once_where_they_are_tested_too(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="mura"):
        make(("wrist", "hand"))
    assert any(message.startswith("data: hand+wrist: ") for message in caplog.messages)


def test_transfer_predicts_the_test_views_of_all_other_extremities(make: Make) -> None:
    data = make(transfer=True)
    *_, test, transfer = data.predict_dataloader()
    others = tuple(name for name in EXTREMITIES if name != "wrist")
    assert rows_in(test) == rows_where(data, "test", ("wrist",))
    assert rows_in(transfer) == rows_where(data, "test", others)
    assert "transfer" not in make().rows
    assert len(make(EXTREMITIES, transfer=True).predict_dataloader()) == 2  # there are no others


def test_two_training_views_are_enough_and_one_is_refused(make: Make) -> None:
    data = make()
    data.rows["train"] = data.rows["train"][:2]
    assert sorted(rows_in(data.train_dataloader())) == sorted(data.rows["train"])
    data.rows["train"] = data.rows["train"][:1]
    with pytest.raises(MuraError, match=r"data\.extremities=wrist: a single training view is too little"):
        data.train_dataloader()


def test_a_batch_must_have_a_view_for_every_process(make: Make) -> None:
    data = make(batch_size=4)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=3, world_size=4, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    assert {len(rows) for rows, _ in data.train_dataloader().sampler} == {1}
    data.batch_size = 3
    with pytest.raises(ConfigError, match=r"data\.batch_size=3 .* 4 processes: give at least data\.batch_size=4"):
        data.train_dataloader()


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_takes_its_own_share(make: Make, rank: int) -> None:
    data = make()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy)  # type: ignore[assignment]
    assert rows_in(data.val_dataloader()) == list(data.rows["val"][rank::2])
    assert len(rows_in(data.train_dataloader())) == pytest.approx(len(data.rows["train"]) / 2, abs=1)


def test_the_order_of_training_is_the_seeds_and_accumulation_cuts_each_batch(make: Make) -> None:
    assert rows_in(make(seed=1).train_dataloader()) == rows_in(make(seed=1).train_dataloader())
    assert rows_in(make(seed=1).train_dataloader()) != rows_in(make(seed=2).train_dataloader())
    assert len(make(accumulate=4).train_dataloader()) == 4 * len(make().train_dataloader())


def test_a_trainer_that_overfits_gets_the_same_batches_and_predictions_all_of_them(make: Make) -> None:
    """Lightning cuts the batches of training and validation itself, if they come in a sampler that it knows."""
    data = make()
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=1, overfit_batches=2, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert isinstance(loader.sampler, SameBatches)
    for loader in (data.test_dataloader(), *data.predict_dataloader()):
        assert isinstance(loader.sampler, EvaluationBatches)
    data.trainer.overfit_batches = 0.0
    assert isinstance(data.train_dataloader().sampler, TrainingBatches)


def test_a_loader_draws_from_a_generator_of_its_own(make: Make) -> None:
    loader = make(seed=5).train_dataloader()
    assert loader.generator.initial_seed() == 5
    before = torch.random.get_rng_state()
    rows_in(loader)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loader.pin_memory is False  # nothing goes to a GPU from here


@pytest.mark.parametrize("resident", [False, True])
def test_only_pictures_on_their_way_to_a_gpu_are_pinned(make: Make, resident: bool) -> None:
    data = make(resident=resident)
    data.val_dataloader()  # decides where the pictures lie, on this CPU
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)  # type: ignore[assignment]
    assert data.val_dataloader().pin_memory is not resident
    assert data.pictures_on_gpu is resident


def test_no_pictures_are_on_a_gpu_before_there_are_any_or_where_there_is_no_gpu(make: Make) -> None:
    data = make(resident=True)
    assert data.pictures_on_gpu is False
    data.val_dataloader()
    assert data.pictures_on_gpu is False


def test_the_batches_that_are_foretold_are_those_of_the_loaders(make: Make) -> None:
    data = make(batch_size=3)
    foretold = data.batches()
    assert foretold["train"] == len(data.train_dataloader())
    assert foretold["val"] == len(data.val_dataloader())
    assert foretold["predict"] == min(map(len, data.predict_dataloader()))


def test_resident_keeps_the_pictures_of_this_run_and_of_no_other(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mura"):
        kept = make(resident=True)
        batches = list(kept.val_dataloader())
    assert "pictures: in the memory of the device (as asked)" in caplog.messages
    assert kept.views is not None
    assert kept.views.resident is not None
    mine = np.unique(np.concatenate(list(kept.rows.values())))
    assert kept.views.resident.pictures.shape == (len(mine), 1, kept.cache_size, kept.cache_size)
    assert set(kept.opened.table["extremity"].loc[mine]) == {"wrist"}
    for ours, theirs in zip(batches, make(resident=False).val_dataloader(), strict=True):
        assert torch.equal(ours["image"], theirs["image"])


@pytest.mark.parametrize("resident", ["auto", False])
def test_without_a_gpu_the_pictures_stay_in_the_cache(make: Make, resident: str | bool) -> None:
    data = make(resident=resident)
    data.val_dataloader()
    assert data.views is not None
    assert data.views.resident is None
    first = data.views
    data.train_dataloader()
    assert data.views is first


def test_pictures_are_chosen_by_the_bytes_of_this_runs_views(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from mura.data import datamodule
    from mura.machine import Choice

    needed = []
    monkeypatch.setattr(
        datamodule, "choose_residence", lambda _asked, _device, size: needed.append(size) or Choice("host", "a test")
    )
    data = make()
    data.val_dataloader()
    assert needed == [sum(map(len, data.rows.values())) * data.cache_size**2]


def test_class_weights_are_the_shares_of_the_other_class_among_the_training_views(make: Make) -> None:
    data = make(("wrist", "hand"))
    table = data.opened.table.loc[data.rows["train"]]
    weights = data.class_weights()
    assert len(weights) == 7
    for name, (normal, abnormal) in zip(EXTREMITIES, weights, strict=True):
        label = table.loc[table["extremity"] == name, "label"]
        assert normal == pytest.approx(label.mean() if len(label) else 0.5)
        assert abnormal == pytest.approx(1 - normal)
    assert weights[EXTREMITIES.index("wrist")][0] != 0.5


def test_a_checkpoint_is_told_which_pictures_and_which_split_it_learns_from(make: Make) -> None:
    data = make(("wrist", "hand"), fold=2, fit="stretch")
    assert data.provenance() == {
        "extremities": ["wrist", "hand"],
        "fold": 2,
        "cache_size": 48,
        "fit": "stretch",
        "data_fingerprint": data.opened.fingerprint,
        "split_hash": data.opened.split_hash,
    }


def test_damaged_pictures_are_counted_where_a_run_trains_or_tests(make: Make) -> None:
    data = make(test_extremities=["hand"])
    assert data.left_out() == 0
    table = data.opened.table.copy()
    for name, damaged in (("wrist", 2), ("hand", 3), ("elbow", 4)):
        table.loc[table.index[table["extremity"] == name][:damaged], "readable"] = False
    data.cache = replace(data.opened, table=table)
    assert data.left_out() == 5


def test_the_cache_is_opened_once_and_by_whoever_asks_first(make: Make) -> None:
    data = make()
    first = data.opened
    data.setup("fit")
    assert data.opened is first
    fresh = MuraDataModule(data.root, ["wrist"], 32, cache_dir=data.cache_dir)
    assert len(fresh.opened.table) == len(first.table)


def test_a_batch_moves_to_the_device_and_its_share_stays_a_number(make: Make) -> None:
    data = make()
    batch = next(iter(data.val_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {name: part.device.type for name, part in moved.items() if name != "share"} == dict.fromkeys(
        ("image", "label", "row", "extremity"), "meta"
    )
    assert moved["share"] == batch["share"] == 1.0
