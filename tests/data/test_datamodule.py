"""Who sees which view when: every view once, whole global batches, the same order for the same (seed, epoch)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mura.data.batches import EvaluationBatches, TrainingBatches
from mura.data.datamodule import MuraDataModule, other_test_rows, rows_of
from mura.errors import MuraError

ROWS = np.arange(100, 207)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 5, 33, 64, 107])
def test_evaluation_sees_every_view_once_in_as_many_batches_everywhere(n: int, world_size: int) -> None:
    rows = ROWS[:n]
    ranks = [EvaluationBatches(rows, 32, rank, world_size) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    seen = np.concatenate([batch for batches in ranks for batch, _ in batches])
    assert sorted(seen) == sorted(rows)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("n", "rest"), [(107, [11]), (99, [3]), (98, [2]), (97, []), (96, [])])
def test_training_batches_are_the_global_ones_whatever_the_number_of_processes(
    world_size: int, n: int, rest: list[int]
) -> None:
    views = np.arange(100, 100 + n)
    ranks = [TrainingBatches(views, 32, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    alone = list(TrainingBatches(views, 32, seed=1, rank=0, world_size=1))
    for parts, (batch, _) in zip(zip(*ranks, strict=True), alone, strict=True):
        assert sorted(np.concatenate([rows for rows, share in parts if share])) == sorted(batch)
        assert sum(share for _, share in parts) == pytest.approx(world_size)
        assert all(len(rows) for rows, _ in parts)
    assert [len(batch) for batch, _ in alone] == [32, 32, 32, *rest]


def test_an_epoch_has_an_order_of_its_own_and_a_seed_too() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = TrainingBatches(ROWS, 32, seed=seed, rank=0, world_size=1)
        batches.set_epoch(epoch)
        return [int(row) for batch, _ in batches for row in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 1)) == sorted(ROWS)


def test_an_epoch_of_a_given_number_of_steps_goes_through_the_views_again_and_again() -> None:
    batches = TrainingBatches(ROWS[:70], 32, seed=0, rank=0, world_size=1, steps=8)
    sizes = [len(rows) for rows, _ in batches]
    assert len(batches) == 8
    assert sizes == [32, 32, 6, 32, 32, 6, 32, 32]
    order = [int(row) for rows, _ in batches for row in rows]
    assert sorted(order[:70]) == sorted(order[70:140]) == sorted(ROWS[:70])
    assert order[:70] != order[70:140]
    assert order[:70] == [int(row) for rows, _ in TrainingBatches(ROWS[:70], 32, 0, 0, 1) for row in rows]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_parts_of_an_accumulated_batch_add_up_to_the_undivided_one(world_size: int) -> None:
    whole = list(TrainingBatches(ROWS[:98], 32, seed=1, rank=0, world_size=1))
    ranks = [list(TrainingBatches(ROWS[:98], 32, 1, rank, world_size, accumulate=4)) for rank in range(world_size)]
    assert {len(parts) for parts in ranks} == {4 * len(whole)}
    for step, (batch, _) in enumerate(whole):
        parts = [part for mine in ranks for part in mine[4 * step : 4 * step + 4]]
        assert sorted(np.concatenate([rows for rows, share in parts if share])) == sorted(batch)
        for rows, share in parts:  # a view counts for as much in its part as in the undivided batch
            assert share / (4 * world_size) == pytest.approx(len(rows) / len(batch) if share else 0)


def test_a_last_batch_of_a_single_view_is_skipped_for_batch_normalisation() -> None:
    batches = TrainingBatches(ROWS[:33], 32, seed=0, rank=0, world_size=1)
    assert [len(batch) for batch, _ in batches] == [32]
    assert len(batches) == 1
    assert len(TrainingBatches(ROWS[:3], 1, seed=0, rank=0, world_size=1)) == 3


def table(*rows: tuple[str, str, int, bool]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["split", "extremity", "fold", "readable"])


WHOLE = [("train", "wrist", 0, True), ("train", "wrist", 1, True), ("test", "wrist", -1, True)]


def test_damaged_views_are_in_no_part() -> None:
    rows = rows_of(table(*WHOLE, ("train", "wrist", 1, False), ("test", "wrist", -1, False)), ["wrist"], fold=0)
    assert {part: list(found) for part, found in rows.items()} == {"train": [1], "val": [0], "test": [2]}


def test_an_extremity_that_the_data_does_not_have_is_refused() -> None:
    with pytest.raises(MuraError, match="no picture of hand is in the data set: it has wrist"):
        rows_of(table(*WHOLE), ["wrist", "hand"], fold=0)


def test_a_fold_without_views_is_refused() -> None:
    with pytest.raises(MuraError, match=r"no val views of wrist: train/ \(data\.fold=3\) holds none"):
        rows_of(table(*WHOLE), ["wrist"], fold=3)
    with pytest.raises(MuraError, match="no test views of wrist: valid/ holds none"):
        rows_of(table(*WHOLE[:2]), ["wrist"], fold=0)


def test_a_model_can_be_tested_on_an_extremity_that_it_never_saw() -> None:
    views = table(*WHOLE, ("train", "hand", 0, True), ("train", "hand", 1, True), ("test", "hand", -1, True))
    rows = rows_of(views, ["wrist"], fold=0, test_extremities=["hand"])
    assert set(views.loc[[*rows["train"], *rows["val"]], "extremity"]) == {"wrist"}
    assert set(views.loc[rows["test"], "extremity"]) == {"hand"}
    assert list(other_test_rows(views, ["hand"])) == list(rows_of(views, ["wrist"], fold=0)["test"])


def test_an_epoch_can_have_as_many_steps_as_one_over_more_extremities(mura_root: Path, cache_dir: Path) -> None:
    def steps(extremities: list[str], like: list[str] | None) -> int:
        data = MuraDataModule(str(mura_root), extremities, 32, cache_dir=str(cache_dir), batch_size=8, steps_like=like)
        data.setup()
        return len(data.train_dataloader())

    both = steps(["wrist", "hand"], None)
    assert steps(["wrist"], ["wrist", "hand"]) == both
    assert steps(["wrist"], None) < both
