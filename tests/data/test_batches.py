"""Who sees which view when: every view once, whole global batches, the same order for the same (seed, epoch)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mura.data.batches import EvaluationBatches, Part, Resident, TrainingBatches, Views
from mura.data.cache import open_cache

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


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_the_mean_of_the_parts_losses_times_their_shares_is_the_loss_of_the_global_batch(parts: int) -> None:
    losses = np.random.default_rng(0).random(207)
    for batch in (ROWS[:32], ROWS[:11], ROWS[:5]):
        cut = [Part.cut(batch, number, parts) for number in range(parts)]
        assert all(len(part.rows) for part in cut)
        mean = np.mean([losses[part.rows].mean() * part.share for part in cut])
        assert mean == pytest.approx(losses[batch].mean())


def test_pictures_kept_on_a_device_are_those_of_the_cache(mura_root: Path, cache_dir: Path) -> None:
    cache = open_cache(mura_root, 80, cache_dir)
    rows = np.arange(len(cache.table))[::-2].copy()
    kept = Views(cache, Resident(cache.images, rows, torch.device("cpu")))
    part = Part(rows[3:9], 0.5)
    here, there = Views(cache)[part], kept[part]
    assert here["image"].shape == (6, 1, 80, 80)
    assert here["share"] == there["share"] == 0.5
    assert all(torch.equal(here[name], there[name]) for name in ("image", "label", "row", "extremity"))
    assert here["label"].tolist() == cache.table["label"][part.rows].tolist()
