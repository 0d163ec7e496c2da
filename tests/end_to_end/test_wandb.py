"""`python train.py` with the real W&B: what its offline runs hold, and that it never asks, hangs or costs a run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import ON_CPU, REPOSITORY, Command
from offline import overview, records

from mura.extremities import FOLDER_OF

KEY = "0123456789abcdef" * 2 + "feedc0de"
DOCUMENT = (REPOSITORY / "docs" / "wandb.md").read_text()


def epochs(run: Path) -> list[dict[str, Any]]:
    return [record["item"] for record in records(run, "history") if "val_loss" in record["item"]]


def test_an_offline_run_holds_config_history_summary_and_pictures(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = train("data=wrist", "logger=wandb", f"hydra.run.dir={run}", "trainer.max_epochs=2", "group=mine").said
    assert f"W&B: offline (WANDB_MODE says so); later: wandb sync {run}/wandb/offline-run-*" in said

    [about] = records(run, "run")
    assert about["display_name"] == "cnn2-wrist-seed0"
    assert (about["project"], about["run_group"], about["job_type"]) == ("mura", "mine", "train")
    assert about["tags"] == ["cnn2", "wrist", "specialised"]

    found = overview(run)
    assert (found["state"], found["exit_code"]) == ("finished", 0)
    assert found["config"]["model"]["name"] == "cnn2"
    assert found["config"]["data"]["extremities"] == ["wrist"]
    assert found["config"]["data"]["image_size"] == 32
    assert found["config"]["optimizer"]["lr"] == 1e-4
    assert "${" not in json.dumps(found["config"])

    rows = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    table = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert [epoch["epoch"] for epoch in epochs(run)] == [0, 1]
    for logged, written in zip(epochs(run), table, strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_kappa", "val_auroc", "lr"):
            assert logged[name] == pytest.approx(float(written[name]), nan_ok=True), name
    axes = [metric for metric in records(run, "metric") if metric.get("step_metric") == "epoch"]
    assert [metric["glob_name"] for metric in axes] == ["*"]

    metrics, summary = json.loads((run / "metrics.json").read_text()), found["summary"]
    for level in ("image", "study"):
        for extremity in ("all", "wrist"):
            for part in ("val", "test"):
                for name, value in metrics[part][level][extremity].items():
                    assert summary.get(f"{part}/{level}/{extremity}/{name}") == value, name  # None is left out
    assert {"test/image/all/accuracy", "test/study/wrist/kappa"} <= set(summary)
    assert summary["best_epoch"] == metrics["best_epoch"]
    assert summary["predictions"]["nrows"] == len((run / "predictions.csv").read_text().splitlines()) - 1
    assert summary["curves"]["_type"] == "image-file"
    assert summary["roc_table"]["_type"] == "table-file"

    def logged(name: str, where: dict[str, Any]) -> bool:
        return name in where or ("." in name and logged(name.partition(".")[2], where.get(name.partition(".")[0], {})))

    promised = {line.split("|")[1].strip(): line for line in DOCUMENT.splitlines() if line.startswith("| ")}
    history = epochs(run)[0] | {"epoch": 0}
    for where, names in (("config", found["config"]), ("history, by `epoch`", history), ("media", summary)):
        for name in re.findall(r"`([^`<]+)`", promised[where]):
            assert logged(name, names), (where, name)
    for name in re.findall(r"`((?:val|test|speed)/[^`<]+)`", DOCUMENT):
        assert name in summary, name


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "no login: `wandb login` once, or WANDB_API_KEY"),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "the W&B server can't be reached"),
    ],
    ids=["no key", "no network"],
)
def test_without_key_network_or_terminal_a_run_is_offline_and_asks_nothing(
    variables: dict[str, str], reason: str, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    run = tmp_path / "run"
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    found = subprocess.run(
        [
            sys.executable, str(REPOSITORY / "train.py"), "model=cnn2", "data=wrist", "logger=wandb", *ON_CPU,
            f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32", "trainer.max_epochs=1",
            f"hydra.run.dir={run}",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env=surroundings | {"HOME": str(tmp_path / "home")} | variables,
    )  # fmt: skip
    said = found.stdout + found.stderr
    assert found.returncode == 0, said
    [line] = [line for line in said.splitlines() if "W&B" in line]
    assert line == f"W&B: offline ({reason}); later: wandb sync {run}/wandb/offline-run-*"
    assert "wandb:" not in said
    assert overview(run)["config"]["model"]["name"] == "cnn2"
    assert (run / "metrics.json").is_file()
    assert KEY not in said
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):  # in its second half alone too
        assert KEY[20:].encode() not in file.read_bytes(), file


def test_disabled_leaves_nothing_of_wandb(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = tmp_path / "run"
    said = train("data=wrist", "logger=wandb", f"hydra.run.dir={run}", "trainer.max_epochs=1").said
    assert "W&B: disabled (WANDB_MODE says so)\n" in said
    assert "sync" not in said
    assert "failed" not in said
    assert not (run / "wandb").exists()
    assert (run / "metrics.json").is_file()


def test_each_run_of_a_multirun_is_its_own_wandb_run_in_one_group(train: Command, tmp_path: Path) -> None:
    train("-m", "data=wrist,elbow", "logger=wandb", "hydra.sweep.dir=all", "trainer.max_epochs=1")
    runs = [tmp_path / "all" / "0_cnn2_wrist", tmp_path / "all" / "1_cnn2_elbow"]
    about = [record for run in runs for record in records(run, "run")]
    assert [record["display_name"] for record in about] == ["cnn2-wrist-seed0", "cnn2-elbow-seed0"]
    assert len({record["run_id"] for record in about}) == 2
    [group] = {record["run_group"] for record in about}
    assert group.endswith("_all")
    for run, name in zip(runs, ("wrist", "elbow"), strict=True):
        assert [epoch["epoch"] for epoch in epochs(run)] == [0]
        found = overview(run)
        assert found["exit_code"] == 0
        tested = {key.split("/")[2] for key in found["summary"] if key.startswith("test/")}
        assert tested == {"all", name}
        assert tested < {"all", *FOLDER_OF}


def test_a_resumed_run_goes_on_in_its_wandb_run(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("data=wrist", "logger=wandb", f"hydra.run.dir={run}", "trainer.max_epochs=1")
    [before] = records(run, "run")
    (run / "metrics.json").unlink()
    first = next(run.glob("wandb/offline-run-*"))
    first.rename(tmp_path / "first")
    train(f"resume={run}", "trainer.max_epochs=2", bare=True)
    [after] = records(run, "run")
    assert after["run_id"] == before["run_id"]
    assert [epoch["epoch"] for epoch in epochs(run)] == [1]


def test_a_file_in_the_way_of_wandb_costs_only_wandb(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "wandb").write_text("in the way")
    said = train("data=wrist", "logger=wandb", f"hydra.run.dir={run}", "trainer.max_epochs=1").said
    assert "W&B: not used; everything is in " in said
    assert "Traceback" not in said
    for name in ("metrics.json", "predictions.csv", "history.csv", "checkpoints/best.ckpt"):
        assert (run / name).is_file(), name


def test_a_run_that_fails_is_a_failed_run_in_wandb_too(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = train(
        "data=wrist", "logger=wandb", f"hydra.run.dir={run}", "optimizer.lr=1e30", "trainer.max_epochs=3", check=False
    )
    assert found.code == 3
    assert overview(run)["exit_code"] == 1
