"""Who sees which view when: every view once, whole global batches, the same order for the same (seed, epoch)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mura.data.batches import EvaluationBatches, Part, Resident, SameBatches, TrainingBatches, Views
from mura.data.cache import open_cache
from mura.extremities import EXTREMITIES
from mura.runs.folder import PREDICTION_COLUMNS

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


def test_a_part_without_views_takes_a_single_one_that_counts_for_nothing() -> None:
    part = Part.cut(ROWS[:2], 5, 8)
    assert (part.rows.tolist(), part.share) == ([100], 0.0)


def test_more_pictures_than_are_copied_at_once_are_kept_and_no_others() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3500, 2, 2), dtype=np.uint8)
    rows = np.random.default_rng(1).permutation(3500)[:2500]
    kept = Resident(images, rows, torch.device("cpu"))
    assert kept.pictures.shape == (2500, 1, 2, 2)
    assert kept.pictures.dtype == torch.uint8
    asked = np.random.default_rng(2).permutation(rows)
    assert np.array_equal(kept.read(torch.from_numpy(asked))[:, 0].numpy(), images[asked])
    others = np.setdiff1d(np.arange(3500), rows)
    assert (kept.place[others] == -1).all()


def test_a_batch_has_the_types_that_the_model_takes(mura_root: Path, cache_dir: Path) -> None:
    cache = open_cache(mura_root, 80, cache_dir)
    batch = Views(cache)[Part(np.array([0, len(cache.table) - 1]), 1.0)]
    types = {name: batch[name].dtype for name in ("image", "label", "row", "extremity")}
    assert types == {"image": torch.uint8, "label": torch.float32, "row": torch.int64, "extremity": torch.int64}
    assert batch["row"].tolist() == [0, len(cache.table) - 1]
    assert [EXTREMITIES[number] for number in batch["extremity"]] == cache.table["extremity"].iloc[[0, -1]].tolist()


def test_the_first_pass_of_the_first_epoch_is_drawn_from_seed_and_epoch_and_the_next_from_its_number_too() -> None:
    order = [row for rows, _ in TrainingBatches(ROWS[:64], 32, seed=3, rank=0, world_size=1, steps=4) for row in rows]
    first, second = (np.random.default_rng(drawn).permutation(ROWS[:64]) for drawn in ([3, 0], [3, 0, 1]))
    assert order == [*first, *second]


def test_evaluation_keeps_the_order_of_the_views_in_batches_of_at_most_the_given_size() -> None:
    batches = list(EvaluationBatches(ROWS, 32, rank=0, world_size=1))
    assert np.concatenate([rows for rows, _ in batches]).tolist() == ROWS.tolist()
    assert [len(rows) for rows, _ in batches] == [27, 27, 27, 26]
    assert {share for _, share in batches} == {1.0}
    second = np.concatenate([rows for rows, _ in EvaluationBatches(ROWS, 32, rank=1, world_size=2)])
    assert second.tolist() == ROWS[1::2].tolist()


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


def test_logits_are_joined_with_the_views_that_they_belong_to(mura_root: Path, cache_dir: Path) -> None:
    cache = open_cache(mura_root, 80, cache_dir)
    rows, logits = torch.tensor([len(cache.table) - 1, 3]), torch.tensor([-1.5, 0.25])
    joined = Views(cache).predictions(rows, logits)
    assert list(joined.columns) == PREDICTION_COLUMNS
    assert joined["path"].tolist() == cache.table["path"].iloc[rows.numpy()].tolist()
    assert cache.table["split"].iloc[rows.numpy()].tolist() == ["test", "train"]
    assert joined["split"].tolist() == ["test", "val"]  # the part of the training set that is predicted validates
    assert joined["logit"].tolist() == [-1.5, 0.25]
    assert joined["probability"].tolist() == pytest.approx([1 / (1 + np.exp(1.5)), 1 / (1 + np.exp(-0.25))], abs=1e-12)


def test_the_same_batches_come_in_every_epoch() -> None:
    shuffled = TrainingBatches(ROWS, 32, seed=0, rank=0, world_size=1)
    same = SameBatches(shuffled)
    first = [rows.tolist() for rows, _ in same]
    shuffled.set_epoch(1)
    assert [rows.tolist() for rows, _ in same] == first
    assert [rows.tolist() for rows, _ in shuffled] != first
    assert len(same) == len(first) == 4
