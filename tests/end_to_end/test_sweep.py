"""`python sweep.py`, as typed: only what is missing, a kill in the middle, a failing run, bad input."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from command import ON_CPU, REPOSITORY, Command
from offline import overview, records

from mura.data.cache import open_cache
from mura.data.images import cache_size_for


def arguments(mura_root: Path, cache_dir: Path, folder: Path, *more: str) -> list[str]:
    return [
        "models=[cnn2]", "extremities=[wrist,hand]", "name=study", f"studies_dir={folder}", "experiment=debug", *ON_CPU,
        f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32", "launcher.workers=2", *more,
    ]  # fmt: skip


def command(mura_root: Path, cache_dir: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "sweep.py"), *arguments(mura_root, cache_dir, folder, *more)]


@pytest.fixture
def study(sweep: Command, mura_root: Path, cache_dir: Path, tmp_path: Path) -> Command:
    """`python sweep.py ...` of a small study, which is below the test's folder."""
    return partial(sweep, *arguments(mura_root, cache_dir, tmp_path))


@dataclass(frozen=True)
class Whole:
    """A study that nobody disturbed, to be read or copied only, and how long it took."""

    folder: Path
    seconds: float


@pytest.fixture(scope="module")
def whole(mura_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    studies, began = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    ended = subprocess.run(command(mura_root, cache_dir, studies), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return Whole(studies / "study", time.monotonic() - began)


def test_a_study_runs_what_is_missing_and_then_compares(whole: Whole, study: Command, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "study")
    runs = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("metrics.json"))
    assert runs == ["study/cnn2/hand/seed0", "study/cnn2/unified/seed0", "study/cnn2/wrist/seed0"]
    assert json.loads((tmp_path / runs[1] / "metrics.json").read_text())["arm"] == "unified"
    for name in ("results.csv", "comparison.json", "results.md", "index.html"):
        assert (tmp_path / "study" / name).is_file()
    results = (tmp_path / "study" / "results.csv").read_bytes()
    assert json.loads((tmp_path / "study" / "study.json").read_text())["seeds"] == [0]

    (tmp_path / "study/cnn2/hand/seed0/metrics.json").unlink()  # as if it had been interrupted
    listed = study("--dry-run").said
    assert "half-done  cnn2/hand/seed0" in listed
    assert "2 of 3 runs finished" in listed
    second = study()
    assert second.code == 0, second.said
    assert second.said.count("done    ") == 1
    assert (tmp_path / "study" / "results.csv").read_bytes() == results

    other = study("optimizer.lr=0.5")
    assert other.code == 1
    assert "optimizer.lr 0.0001, now 0.5" in other.said
    assert "Traceback" not in other.said


def test_a_failing_run_is_named_with_its_error_and_the_others_go_on(study: Command, tmp_path: Path) -> None:
    blocked, two = tmp_path / "study" / "cnn2" / "wrist", ("arms=[specialised]", "launcher.workers=1")
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way of the first run's folder")
    found = study(*two)
    assert found.code == 1
    assert "FAILED  cnn2/wrist/seed0" in found.said
    assert [path.parent.parent.name for path in tmp_path.rglob("metrics.json")] == ["hand"]
    blocked.unlink()
    again = study(*two)
    assert again.code == 0, again.said


def test_a_disk_that_fills_in_the_middle_fails_runs_in_a_sentence_and_the_study_can_go_on(
    study: Command, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    open_cache(mura_root, cache_size_for(32), cache_dir)

    def little_room() -> None:  # for everything but a checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))

    typed = command(mura_root, cache_dir, tmp_path, "arms=[specialised]")
    found = subprocess.run(typed, capture_output=True, text=True, timeout=300, preexec_fn=little_room)
    assert found.returncode == 1
    assert " ".join(found.stderr.split()).count("no room to write there") == 2
    assert "Traceback" not in found.stderr
    again = study("arms=[specialised]")
    assert again.code == 0, again.said
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
    more: list[str], sentence: str, study: Command, tmp_path: Path
) -> None:
    found = study(*more)
    assert found.code == 2
    assert sentence in found.said
    assert "Traceback" not in found.said
    assert list(tmp_path.iterdir()) == []


def test_a_fold_in_an_experiments_file_is_not_ignored_where_folds_rotate(
    sweep: Command, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    for group, content in (("experiment", "data: {fold: 3}"), ("study", "name: mine\nsettings: [experiment=mine]")):
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / "own" / group / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    own = ("--config-dir", f"{tmp_path}/own", "experiment=mine", "seeds=[0,1]", "folds=rotate", "--dry-run")
    typed = arguments(mura_root, cache_dir, tmp_path, *own)
    found = sweep(*(each for each in typed if each not in ("experiment=debug", "name=study")))
    assert found.code == 2
    assert "data.fold=3: folds=rotate gives each run the fold of its seed" in found.said


def test_a_study_with_rotated_folds_takes_no_run_of_a_fixed_fold(study: Command, tmp_path: Path) -> None:
    run = tmp_path / "study" / "cnn2" / "hand" / "seed1"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("[]\n")
    rotating = ("seeds=[0,1]", "folds=rotate", "--dry-run")
    (run / "config.yaml").write_text("seed: 1\ndata: {fold: 0, image_size: 32}\n")
    refused = study(*rotating)
    assert refused.code == 1
    assert "data.fold 0, now 1" in refused.said
    (run / "config.yaml").unlink()
    listed = study(*rotating)
    assert listed.code == 0, listed.said
    assert "0 of 6 runs finished" in listed.said


def test_all_arms_are_trained_and_compared_and_the_comparison_is_a_run_in_wandb(study: Command, tmp_path: Path) -> None:
    arms = "arms=[unified,specialised,shared,finetuned,leave_one_out]"
    found = study(arms, "logger=wandb", "budget=steps")
    assert found.code == 0, found.said
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
    whole: Whole, study: Command, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            command(mura_root, cache_dir, tmp_path), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 1) * whole.seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = study()
    assert last.code == 0, last.said
    assert (tmp_path / "study/results.csv").read_bytes() == (whole.folder / "results.csv").read_bytes()
