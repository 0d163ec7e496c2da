"""`python sweep.py`, as typed: only what is missing, a kill in the middle, a failing run, bad input."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from command import ON_CPU, REPOSITORY
from offline import overview, records

from mura.data.cache import open_cache
from mura.data.images import cache_size_for


def command(mura_root: Path, cache_dir: Path, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable, str(REPOSITORY / "sweep.py"), "models=[cnn2]", "extremities=[wrist,hand]", "name=study",
        f"studies_dir={folder}", "experiment=debug", *ON_CPU, f"data.root={mura_root}",
        f"data.cache_dir={cache_dir}", "data.image_size=32", "launcher.workers=2", *more,
    ]  # fmt: skip


def sweep(mura_root: Path, cache_dir: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(mura_root, cache_dir, folder, *more), capture_output=True, text=True, timeout=300)


def test_a_study_runs_what_is_missing_and_then_compares(mura_root: Path, cache_dir: Path, tmp_path: Path) -> None:
    first = sweep(mura_root, cache_dir, tmp_path)
    assert first.returncode == 0, first.stderr
    runs = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("metrics.json"))
    assert runs == ["study/cnn2/hand/seed0", "study/cnn2/unified/seed0", "study/cnn2/wrist/seed0"]
    assert json.loads((tmp_path / runs[1] / "metrics.json").read_text())["arm"] == "unified"
    for name in ("results.csv", "comparison.json", "results.md", "index.html"):
        assert (tmp_path / "study" / name).is_file()
    results = (tmp_path / "study" / "results.csv").read_bytes()
    assert json.loads((tmp_path / "study" / "study.json").read_text())["seeds"] == [0]

    (tmp_path / "study/cnn2/hand/seed0/metrics.json").unlink()  # as if it had been interrupted
    listed = sweep(mura_root, cache_dir, tmp_path, "--dry-run").stdout
    assert "half-done  cnn2/hand/seed0" in listed
    assert "2 of 3 runs finished" in listed
    second = sweep(mura_root, cache_dir, tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("done    ") == 1
    assert (tmp_path / "study" / "results.csv").read_bytes() == results

    other = sweep(mura_root, cache_dir, tmp_path, "optimizer.lr=0.5")
    assert other.returncode == 1
    assert "optimizer.lr 0.0001, now 0.5" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_failing_run_is_named_with_its_error_and_the_others_go_on(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "study" / "cnn2" / "hand"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way of a run folder")
    found = sweep(mura_root, cache_dir, tmp_path)
    assert found.returncode == 1
    assert "FAILED  cnn2/hand/seed0" in found.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 2
    blocked.unlink()
    again = sweep(mura_root, cache_dir, tmp_path)
    assert again.returncode == 0, again.stderr


def test_a_disk_that_fills_in_the_middle_fails_runs_in_a_sentence_and_the_study_can_go_on(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    open_cache(mura_root, cache_size_for(32), cache_dir)

    def little_room() -> None:  # for everything but a checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))

    found = subprocess.run(
        command(mura_root, cache_dir, tmp_path), capture_output=True, text=True, timeout=300, preexec_fn=little_room
    )
    assert found.returncode == 1
    assert " ".join(found.stderr.split()).count("no room to write there") == 3
    assert "Traceback" not in found.stderr
    again = sweep(mura_root, cache_dir, tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "study" / "results.csv").is_file()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["models=[cnn22]"], "did you mean cnn2?"),
        (["extremities=[toe]"], "there is no extremity toe"),
        (["arms=[unifid]"], "there is no arm unifid"),
        (["data.batch_size=0"], "data.batch_size=0: must be"),
        (["trainer.epochs=3"], "there is no such setting; did you mean trainer.max_epochs"),
        (["seeds=[0,0]"], "each only once"),
        (["name=null"], "name=None: must be the name of a folder"),
        (["budget=hours"], "budget=hours: must be one of epochs, steps"),
        (["seeds=[a]"], "seeds=['a']: each must be a whole number"),
        (["folds=[0,1,2]"], "folds=[0, 1, 2]: must be fixed"),
        (["folds=2"], "folds=2: must be fixed"),
        (["folds=rotate", "seeds=[0,1]", "data.fold=1"], "data.fold=1: folds=rotate gives each run the fold"),
        (["folds=rotate", "seeds=[2,7]"], "every run validates on fold 2; take seeds on several folds"),
        (["margin=3"], "margin=3: must be a difference in accuracy between 0 and 1"),
        (["primary=resnet18"], "primary=resnet18: must be one of models=['cnn2']"),
        (["arms=[leave_one_out]", "extremities=[wrist]"], "needs two extremities"),
        (["wandb.workspace=true"], "take logger=wandb"),
        (["test=false"], "test=false: a study compares on the test views"),
        (["launcher.workers=0"], "launcher.workers=0: must be"),
        (["experiment=kumar"], "did you mean kumar2024?"),
    ],
)
def test_a_faulty_study_is_refused_before_anything_starts(
    more: list[str], sentence: str, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    found = sweep(mura_root, cache_dir, tmp_path, *more)
    assert found.returncode == 2
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_fold_in_an_experiments_file_is_not_ignored_where_folds_rotate(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    for group, content in (("experiment", "data: {fold: 3}"), ("study", "name: mine\nsettings: [experiment=mine]")):
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / "own" / group / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    own = ("--config-dir", f"{tmp_path}/own", "experiment=mine", "seeds=[0,1]", "folds=rotate", "--dry-run")
    typed = [
        each for each in command(mura_root, cache_dir, tmp_path, *own) if each not in ("experiment=debug", "name=study")
    ]
    found = subprocess.run(typed, capture_output=True, text=True)
    assert found.returncode == 2
    assert "data.fold=3: folds=rotate gives each run the fold of its seed" in found.stderr


def test_a_study_with_rotated_folds_takes_no_run_of_a_fixed_fold(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "study" / "cnn2" / "hand" / "seed1"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("[]\n")
    rotating = ("seeds=[0,1]", "folds=rotate", "--dry-run")
    (run / "config.yaml").write_text("seed: 1\ndata: {fold: 0, image_size: 32}\n")
    refused = sweep(mura_root, cache_dir, tmp_path, *rotating)
    assert refused.returncode == 1
    assert "data.fold 0, now 1" in refused.stderr
    (run / "config.yaml").unlink()
    listed = sweep(mura_root, cache_dir, tmp_path, *rotating)
    assert listed.returncode == 0, listed.stderr
    assert "0 of 6 runs finished" in listed.stdout


def test_all_arms_are_trained_and_compared_and_the_comparison_is_a_run_in_wandb(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    arms = "arms=[unified,specialised,shared,finetuned,leave_one_out]"
    found = sweep(mura_root, cache_dir, tmp_path, arms, "logger=wandb", "budget=steps")
    assert found.returncode == 0, found.stderr
    tuned = tmp_path / "study/cnn2/finetuned-hand/seed0"
    assert "weights: backbone and head from" in (tuned / "train.log").read_text()
    compared = {record["comparison"] for record in json.loads((tmp_path / "study/comparison.json").read_text())}
    assert {"unified-specialised", "unified-shared", "shared-finetuned", "specialised-leave_one_out"} <= compared
    without = pd.read_csv(tmp_path / "study/cnn2/without-hand/seed0/predictions.csv")
    by_split = without.groupby("split")["extremity"].unique()
    assert (list(by_split["val"]), list(by_split["test"])) == (["wrist"], ["hand"])
    transfer = pd.read_csv(tmp_path / "study/cnn2/hand/seed0/transfer.csv")
    assert "hand" not in set(transfer["extremity"])

    [about] = records(tmp_path / "study", "run")
    assert (about["display_name"], about["run_group"], about["job_type"]) == ("study-comparison", "study", "comparison")
    summary = overview(tmp_path / "study")["summary"]
    assert {"cnn2/unified-specialised/hand/verdict", "cnn2/shared-finetuned/hand+wrist/difference"} <= set(summary)
    assert summary["comparison"]["nrows"] == len(json.loads((tmp_path / "study/comparison.json").read_text()))
    assert summary["report"]["_type"] == "html-file"


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_in_the_same_results(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    undisturbed = sweep(mura_root, cache_dir, tmp_path / "whole")
    assert undisturbed.returncode == 0, undisturbed.stderr
    rng = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            command(mura_root, cache_dir, tmp_path / "broken"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(3, 14))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = sweep(mura_root, cache_dir, tmp_path / "broken")
    assert last.returncode == 0, last.stderr
    name = "study/results.csv"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
