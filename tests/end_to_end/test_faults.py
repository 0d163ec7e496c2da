"""Faults on the way: random kills, memory that is short or leaks, several processes with little to share out."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import ON_CPU, REPOSITORY, Command
from conftest import draw
from soak import Soak

# --- killed -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_an_undisturbed_one(mura_root: Path, tmp_path: Path) -> None:
    kills = list(Soak(mura_root, tmp_path, seed=0).until(3))
    assert len(kills) == 3


def test_a_batch_in_parts_goes_on_bit_for_bit(train: Command, tmp_path: Path) -> None:
    settings = ("data=wrist", "data.accumulate=3", "data.batch_size=16", "early_stopping.patience=null")
    for name, epochs in (("whole", 3), ("broken", 2)):
        train(*settings, f"hydra.run.dir={tmp_path / name}", f"trainer.max_epochs={epochs}")
    (tmp_path / "broken" / "metrics.json").unlink()
    train(f"resume={tmp_path / 'broken'}", "trainer.max_epochs=3", bare=True)
    whole, broken = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "broken"))
    assert whole["global_step"] == broken["global_step"]
    assert all(torch.equal(whole["state_dict"][key], broken["state_dict"][key]) for key in whole["state_dict"])


# --- a poor place -----------------------------------------------------------------------------------------

WITHOUT_LOCKS = """
import errno, fcntl, os
def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""


@pytest.mark.slow
def test_without_locks_and_in_a_folder_that_is_no_utf_8_a_run_ends_with_one_warning(
    mura_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_LOCKS)
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    command = [
        sys.executable, str(REPOSITORY / "train.py"), "model=cnn2", "data=wrist", "logger=none", *ON_CPU,
        "data.image_size=32", "trainer.max_epochs=1", "hydra.run.dir=run", f"data.cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    more = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "MURA_ROOT": str(mura_root)}
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | more, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert (folder / "run" / "metrics.json").is_file()
    assert ended.stdout.count("has no locks (No locks available)") == 1
    assert "Traceback" not in ended.stdout + ended.stderr


# --- memory -----------------------------------------------------------------------------------------------


def memory_of(process: int) -> int:
    """Kilobytes of a process's own, without the mapped files."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found.group(1))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the memory of a process in /proc")
def test_memory_stays_flat_over_many_epochs(mura_root: Path, cache_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable, str(REPOSITORY / "train.py"), "model=cnn2", "data=wrist", "logger=none", *ON_CPU,
        f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32", "trainer.max_epochs=50",
        "early_stopping.patience=null", f"hydra.run.dir={run}",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    at: dict[int, int] = {}
    while process.poll() is None and len(at) < 50:
        epochs = len((run / "history.csv").read_text().splitlines()) - 1 if (run / "history.csv").is_file() else 0
        if epochs > 0 and epochs not in at:
            at[epochs] = memory_of(process.pid)
        time.sleep(0.005)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(pd.read_csv(run / "history.csv")) == 50
    early, late = (np.median([size for epoch, size in at.items() if low < epoch <= low + 10]) for low in (10, 40))
    print(f"{early} kB in epochs 11 to 20, {late} kB in epochs 41 to 50")
    assert late < 1.01 * early


# --- several processes ------------------------------------------------------------------------------------


@pytest.fixture
def few_views(tmp_path: Path) -> Path:
    """Ten training views and two test views: 8 train, 2 validate, 2 test."""
    root = tmp_path / "few" / "MURA-v1.1"
    for patient in range(12):
        split, label = "train" if patient < 10 else "valid", patient % 2
        study = root / split / "XR_WRIST" / f"patient{patient:05d}" / f"study1_{('negative', 'positive')[label]}"
        study.mkdir(parents=True)
        draw(np.random.default_rng(patient), label).save(study / "image1.png")
    return root


@pytest.mark.slow
def test_with_more_processes_than_views_each_view_still_counts_once(
    few_views: Path, train: Command, tmp_path: Path
) -> None:
    # the last batch is of two views, and so are the validation and the test part: two of four processes have none
    common = [
        "data=wrist", f"data.root={few_views}", f"data.cache_dir={tmp_path / 'cache'}", "model.dropout=0",
        "augmentation=none", "data.batch_size=6", "trainer.max_epochs=2",
    ]  # fmt: skip
    train(*common, f"hydra.run.dir={tmp_path / '1'}")
    alone = pd.read_csv(tmp_path / "1" / "predictions.csv")
    weights = torch.load(tmp_path / "1" / "checkpoints" / "last.ckpt")["state_dict"]
    run = tmp_path / "4"
    train(*common, f"hydra.run.dir={run}", "trainer=ddp_cpu", "trainer.devices=4")
    together = pd.read_csv(run / "predictions.csv")
    assert list(together["path"]) == list(alone["path"])
    np.testing.assert_allclose(together["logit"], alone["logit"], atol=1e-5)
    found = torch.load(run / "checkpoints" / "last.ckpt")["state_dict"]
    for key, value in weights.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-5)
    ours, theirs = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("4", "1"))
    for part in ("val", "test"):
        for metric, value in theirs[part]["image"]["all"].items():
            assert ours[part]["image"]["all"][metric] == (value if value is None else pytest.approx(value, abs=1e-6))
    logs = {path.name for path in run.glob("*.log")}
    assert logs >= {"train.log", *(f"train_ddp_process_{rank}.log" for rank in (1, 2, 3))}
