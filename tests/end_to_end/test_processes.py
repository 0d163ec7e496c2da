"""Runs of several processes, and runs under Hydra's other launchers."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import Command, start, weights


def test_two_processes_give_the_weights_and_metrics_of_one(train: Command, tmp_path: Path) -> None:
    # no dropout, no batch normalisation, nothing drawn; 29 is not divided by the batch size, nor that by 2
    common = ["data=wrist", "model.dropout=0", "augmentation=none", "data.batch_size=7", "trainer.max_epochs=1"]
    train(*common, f"hydra.run.dir={tmp_path / 'one'}")
    train(*common, f"hydra.run.dir={tmp_path / 'two'}", "trainer=ddp_cpu", "trainer.devices=2")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-6, rtol=1e-5)
    tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "two")]
    assert list(tables[0]["path"]) == list(tables[1]["path"])
    np.testing.assert_allclose(tables[0]["logit"], tables[1]["logit"], atol=1e-5)
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["devices"] == 2


@pytest.mark.slow
def test_a_multirun_of_distributed_runs_is_one_folder_a_run_and_leaves_no_process(
    train: Command, tmp_path: Path
) -> None:
    train("-m", "data=wrist,elbow", "trainer=ddp_cpu", "trainer.max_epochs=1", "hydra.sweep.dir=all", "logger=wandb")
    runs = sorted(path.parent for path in (tmp_path / "all").rglob("metrics.json"))
    assert [run.name for run in runs] == ["0_cnn2_wrist", "1_cnn2_elbow"]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "0_cnn2_wrist", "1_cnn2_elbow", "multirun.yaml",
    ]  # fmt: skip
    for run in runs:
        assert len(list((run / "wandb").glob("offline-run-*"))) == 1
        test = pd.read_csv(run / "predictions.csv").query("split == 'test'")
        assert not test["path"].duplicated().any()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in processes


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_distributed_runs_under_hydras_other_launchers_are_one_folder_each_and_one_may_fail(
    launcher: str, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    process = start(  # not forked: joblib's workers end with a program that ends by itself
        ["-m", f"hydra/launcher={launcher}", "model=cnn2", "data=wrist", f"model.weights={tmp_path / 'absent.pt'},null",
         "trainer=ddp_cpu", "trainer.max_epochs=1", "logger=none", f"data.root={mura_root}",
         f"data.cache_dir={cache_dir}", "data.image_size=32", f"hydra.sweep.dir={tmp_path / 'all'}"], tmp_path,
    )  # fmt: skip
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"{tmp_path}/all/0_cnn2_wrist: this run failed (exit code 1)" in said
    assert "Traceback" not in said
    assert [path.parent.name for path in tmp_path.rglob("metrics.json")] == ["1_cnn2_wrist"]
    assert json.loads((tmp_path / "all/1_cnn2_wrist/metrics.json").read_text())["devices"] == 2
    assert not pd.read_csv(tmp_path / "all/1_cnn2_wrist/predictions.csv")["path"].duplicated().any()
    runs = [path.name for path in (tmp_path / "all").iterdir() if path.is_dir() and path.name != ".submitit"]
    assert runs == ["1_cnn2_wrist"], "a refused first start leaves no folder"
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in processes


def test_a_failing_run_under_hydras_basic_launcher_does_not_stop_the_others(train: Command, tmp_path: Path) -> None:
    found = train(
        "-m", "hydra/launcher=basic", "data=wrist", f"model.weights={tmp_path / 'absent.pt'},null",
        "trainer.max_epochs=1", "hydra.sweep.dir=all", check=False,
    )  # fmt: skip
    assert found.code == 1
    assert found.said.count("train.py: model.weights: ") == 2  # when it happens, and at the end
    assert "Traceback" not in found.said
    assert [path.parent.name for path in tmp_path.rglob("metrics.json")] == ["1_cnn2_wrist"]


def test_two_gpus_are_refused_where_there_are_none(train: Command, tmp_path: Path) -> None:
    if torch.cuda.device_count() >= 2:
        pytest.skip("this machine has two GPUs")
    found = train("data=wrist", "trainer=ddp_2xt4", check=False)
    assert found.code == 2
    assert "trainer.accelerator=gpu trainer.devices=2: this machine has" in found.said
