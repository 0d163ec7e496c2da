"""Checkpoints: whole or not at all, and a damaged one is noticed before a run goes on from it."""

import random
from pathlib import Path

import pytest
import torch

from mura.errors import MuraError
from mura.models.checkpoint import load_checkpoint
from mura.runs.folder import RunFolder
from mura.training.checkpoints import SafeCheckpointIO, newest_whole, read_if_whole


def content(epoch: int) -> dict[str, object]:
    weights = torch.arange(3000, dtype=torch.float32)
    settings = {"name": "cnn2", "head": "cnn2", "provenance": {}}
    return {"epoch": epoch, "state_dict": {"weight": weights}, "hyper_parameters": settings}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two epochs saved."""
    run = RunFolder(tmp_path)
    for epoch in (0, 1):
        SafeCheckpointIO().save_checkpoint(content(epoch), run.last_file)
    return run


def path_of_newest(run: RunFolder) -> Path:
    newest = newest_whole(run)
    assert newest is not None
    return newest.path


def epoch_of(path: Path | None) -> int:
    assert path is not None
    return int(torch.load(path, weights_only=True)["epoch"])


def test_the_checkpoint_before_the_last_one_stays(run: RunFolder) -> None:
    assert epoch_of(run.last_file) == 1
    assert epoch_of(run.previous_file) == 0
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert path_of_newest(run) == run.last_file


def test_a_run_goes_on_from_the_one_before_when_the_last_one_is_cut_or_missing(run: RunFolder) -> None:
    whole = run.last_file.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        run.last_file.write_bytes(whole[:size])
        assert path_of_newest(run) == run.previous_file
    run.last_file.unlink()  # killed between the two renamings
    assert path_of_newest(run) == run.previous_file


def test_no_flipped_bit_reaches_the_weights(run: RunFolder) -> None:
    whole, rng = run.last_file.read_bytes(), random.Random(0)
    expected = torch.load(run.last_file, weights_only=True)["state_dict"]["weight"]
    noticed = 0
    for _ in range(200):
        spoilt = bytearray(whole)
        spoilt[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        run.last_file.write_bytes(spoilt)
        if read_if_whole(run.last_file):
            assert torch.equal(torch.load(run.last_file, weights_only=True)["state_dict"]["weight"], expected)
        else:
            noticed += 1
    assert noticed > 150


def test_when_both_are_damaged_one_sentence_says_so(run: RunFolder) -> None:
    run.last_file.write_bytes(b"")
    run.previous_file.write_bytes(b"x" * 100)
    with pytest.raises(MuraError, match=r"last\.ckpt"):
        newest_whole(run)


def test_before_the_first_epoch_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert newest_whole(RunFolder(tmp_path)) is None


def test_a_failed_write_leaves_the_last_one_as_it_was(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mura.training.checkpoints.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        SafeCheckpointIO().save_checkpoint(content(2), run.last_file)
    assert epoch_of(run.last_file) == 1
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_changed_bit_in_the_best_checkpoint_makes_no_predictions(run: RunFolder) -> None:
    SafeCheckpointIO().save_checkpoint(content(1), run.best_checkpoint)
    assert load_checkpoint(run.best_checkpoint)["epoch"] == 1
    whole = bytearray(run.best_checkpoint.read_bytes())
    weights = whole.find(torch.arange(3000, dtype=torch.float32).numpy().tobytes())
    whole[weights + 100] ^= 1
    run.best_checkpoint.write_bytes(whole)
    with pytest.raises(MuraError, match=r"best\.ckpt is damaged .*remove .* and start the run again"):
        load_checkpoint(run.best_checkpoint)
