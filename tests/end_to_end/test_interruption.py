"""Runs that are stopped, killed, damaged or short of room, and what becomes of them."""

import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from command import ON_CPU, Command, ended, fork, same, weights


def arguments_for_a_long_run(mura_root: Path, cache_dir: Path, run: Path) -> list[str]:
    return [
        "model=cnn4", "logger=none", *ON_CPU, f"data.root={mura_root}", f"data.cache_dir={cache_dir}",
        "data.image_size=32", "data.batch_size=4", "trainer.max_epochs=5", "early_stopping.patience=null",
        "scheduler=plateau", f"hydra.run.dir={run}",
    ]  # fmt: skip


def wait_for_epochs(run: Path, epochs: int) -> None:
    deadline = time.monotonic() + 120
    while not (run / "history.csv").is_file() or len((run / "history.csv").read_text().splitlines()) <= epochs:
        assert time.monotonic() < deadline, "no epoch in time"
        time.sleep(0.02)


def has_ended(process: int) -> bool:
    """Return whether a process that another one has started is gone, or a zombie."""
    try:
        return " Z " in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_the_end(process: int) -> None:
    deadline = time.monotonic() + 60
    while not has_ended(process):
        assert time.monotonic() < deadline, "it has not ended"
        time.sleep(0.02)


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes of a run in /proc")
@pytest.mark.parametrize("victim", ["first", "second"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_when_one_of_two_processes_is_ended_the_other_ends_too_and_the_run_can_go_on(
    victim: str, sent: signal.Signals, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [*arguments_for_a_long_run(mura_root, cache_dir, run), "trainer=ddp_cpu", "trainer.max_epochs=3"]
    first = fork([argument for argument in arguments if argument != "trainer=cpu"], tmp_path)
    assert first.pid is not None
    wait_for_epochs(run, 1)
    [second] = [pid for pid in children(first.pid) if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill({"first": first.pid, "second": second}[victim], sent)
    found = ended(first, tmp_path)
    assert found.code == (1 if victim == "second" else {signal.SIGKILL: -9, signal.SIGTERM: 143}[sent])
    wait_for_the_end(second)
    said = (tmp_path / "console.log").read_text()
    told = victim == "first" and sent == signal.SIGTERM  # it says itself that it was stopped
    assert ("stopped" if told else "another process of this run has ended") + "; go on with: python train.py" in said
    assert f"go on with: python train.py resume={run}\n" in said
    assert "Traceback" not in said
    if (victim, sent) != ("first", signal.SIGKILL):
        return  # what is saved is the same: an epoch that has ended
    resumed = ended(fork([f"resume={run}"], tmp_path), tmp_path)
    assert resumed.code == 0, resumed.said


PRECISIONS = ("32-true", "bf16-mixed")  # the second is emulated on a CPU that does not compute in it


@pytest.fixture(scope="module")
def whole(mura_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An undisturbed run in each precision."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for precision in PRECISIONS:
        arguments = arguments_for_a_long_run(mura_root, cache_dir, folder / precision)
        found = ended(fork([*arguments, f"trainer.precision={precision}"], folder), folder)
        assert found.code == 0, found.said
    return {precision: folder / precision for precision in PRECISIONS}


@pytest.mark.parametrize(
    ("how", "precision"),
    [
        (signal.SIGKILL, "32-true"),
        (signal.SIGKILL, "bf16-mixed"),
        (signal.SIGINT, "32-true"),
        (signal.SIGTERM, "32-true"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    how: signal.Signals, precision: str, whole: dict[str, Path], mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    undisturbed, broken = whole[precision], tmp_path / "broken"
    arguments = arguments_for_a_long_run(mura_root, cache_dir, broken)
    process = fork([*arguments, f"trainer.precision={precision}"], tmp_path)
    wait_for_epochs(broken, 2)
    time.sleep(0.1)  # into the third epoch
    assert process.pid is not None
    os.kill(process.pid, how)
    stopped = ended(process, tmp_path)
    assert not (broken / "metrics.json").exists()
    assert stopped.code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    if how != signal.SIGKILL:
        assert f"go on with: python train.py resume={broken}" in stopped.said
        assert "Traceback" not in stopped.said

    resumed = ended(fork([f"resume={broken}"], tmp_path), tmp_path)
    assert resumed.code == 0, resumed.said
    assert same(weights(undisturbed), weights(broken))
    assert same(weights(undisturbed, "best.ckpt"), weights(broken, "best.ckpt"))
    assert (undisturbed / "predictions.csv").read_text() == (broken / "predictions.csv").read_text()
    before, after = (pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (undisturbed, broken))
    pd.testing.assert_frame_equal(before, after)


def test_a_run_killed_in_its_first_epoch_begins_anew_and_ends_the_same(
    whole: dict[str, Path], mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    process = fork(arguments_for_a_long_run(mura_root, cache_dir, tmp_path / "broken"), tmp_path)
    while not (tmp_path / "broken" / "config.yaml").is_file():
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (tmp_path / "broken" / "checkpoints" / "last.ckpt").exists()
    resumed = ended(fork([f"resume={tmp_path / 'broken'}"], tmp_path), tmp_path)
    assert resumed.code == 0, resumed.said
    assert same(weights(whole["32-true"]), weights(tmp_path / "broken"))


def test_a_damaged_last_checkpoint_costs_an_epoch_and_not_the_run(train: Command, tmp_path: Path) -> None:
    settings = ("data=wrist", "scheduler=plateau", "early_stopping.patience=null")
    for name, epochs in (("whole", 4), ("broken", 3)):
        train(*settings, f"hydra.run.dir={tmp_path / name}", f"trainer.max_epochs={epochs}")
    run = tmp_path / "broken"
    (run / "metrics.json").unlink()
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-3000])
    said = train(f"resume={run}", "trainer.max_epochs=4", bare=True).said
    assert "last.ckpt is damaged: going on from previous.ckpt, an epoch earlier" in said
    assert same(weights(tmp_path / "whole"), weights(run))
    assert (tmp_path / "whole" / "predictions.csv").read_text() == (run / "predictions.csv").read_text()


def test_a_disk_that_fills_in_the_middle_ends_in_one_sentence_and_the_run_can_go_on(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [*arguments_for_a_long_run(mura_root, cache_dir, run), "trainer.max_epochs=2"]
    found = ended(fork(arguments, tmp_path, room=1_000_000), tmp_path)  # enough for everything but a checkpoint
    assert found.code == 1
    assert f"{run}: no room to write there (File too large)" in found.said
    assert f"python train.py resume={run}" in found.said
    assert "Traceback" not in found.said
    assert list((run / "checkpoints").iterdir()) == []  # nothing half written
    resumed = ended(fork([f"resume={run}"], tmp_path), tmp_path)
    assert resumed.code == 0, resumed.said


def test_a_run_that_stopped_early_trains_no_more_when_it_is_resumed(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(
        "data=wrist", "optimizer.lr=1e-12", "early_stopping.patience=2", f"hydra.run.dir={run}", "trainer.max_epochs=9"
    )
    before = weights(run), (run / "predictions.csv").read_text()
    (run / "metrics.json").unlink()
    (run / "predictions.csv").unlink()
    train(f"resume={run}", bare=True)
    assert same(before[0], weights(run))
    assert (run / "predictions.csv").read_text() == before[1]
    assert json.loads((run / "metrics.json").read_text())["stopped_by"] == "early_stopping"
