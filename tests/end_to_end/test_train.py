"""`python train.py`, as typed: one run, a multirun, several processes, an interruption, bad input."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from command import REPOSITORY, Command

from mura.data.cache import open_cache
from mura.data.sizes import cache_size_for
from mura.extremities import EXTREMITIES
from mura.metrics import summarise
from mura.models.classifier import AbnormalityClassifier
from mura.runs import PREDICTION_COLUMNS

CONTRACT = ["config.yaml", "metrics.json", "predictions.csv", "history.csv", "curves.png", "train.log", ".hydra"]


def weights(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_run_leaves_the_contracted_folder(train: Command, tmp_path: Path, mura_root: Path) -> None:
    run = tmp_path / "run"
    train("data=wrist", f"hydra.run.dir={run}", "trainer.max_epochs=2")
    for name in CONTRACT:
        assert (run / name).exists(), name
    for name in ("best.ckpt", "last.ckpt"):
        assert (run / "checkpoints" / name).is_file()

    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["model"], metrics["data"], metrics["arm"]) == ("cnn2", "wrist", "specialised")
    assert (metrics["epochs"], metrics["stopped_by"]) == (2, "max_epochs")
    assert metrics["speed"]["train_images_per_second"] > 0

    predictions = pd.read_csv(run / "predictions.csv")
    assert list(predictions.columns) == PREDICTION_COLUMNS
    listed = (mura_root / "valid_image_paths.csv").read_text().split()
    wrists = sorted(path.removeprefix("MURA-v1.1/") for path in listed if "XR_WRIST" in path)
    assert sorted(predictions[predictions["split"] == "test"]["path"]) == wrists
    again = summarise(predictions[predictions["split"] == "test"])
    for level in ("image", "study"):
        for metric, value in metrics["test"][level]["all"].items():
            assert value == pytest.approx(again[level]["all"][metric], abs=1e-12), (level, metric)
    assert "${" not in (run / "config.yaml").read_text()
    history = pd.read_csv(run / "history.csv")
    assert list(history["epoch"]) == [0, 1]
    assert metrics["best_epoch"] == history["val_loss"].idxmin()


def test_a_checkpoint_says_what_made_it_and_loads_without_running_code(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("data.extremities=[wrist,finger]", f"hydra.run.dir={run}", "trainer.max_epochs=1")
    metrics = json.loads((run / "metrics.json").read_text())
    hyper = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["hyper_parameters"]
    assert (hyper["name"], hyper["head"], hyper["image_size"]) == ("cnn2", "cnn2", 32)
    assert hyper["provenance"]["data_fingerprint"] == metrics["data_fingerprint"]
    assert hyper["provenance"]["split_hash"] == metrics["split_hash"]
    assert hyper["provenance"]["threshold"] == 0.5
    assert (metrics["data"], metrics["arm"]) == ("finger+wrist", "union")
    assert set(metrics["test"]["image"]) == {"all", "finger", "wrist"}


def test_a_run_can_predict_the_other_extremities_too_without_answering_for_them(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("data=wrist", "data.transfer=true", f"hydra.run.dir={run}", "trainer.max_epochs=1")
    own, transfer = pd.read_csv(run / "predictions.csv"), pd.read_csv(run / "transfer.csv")
    assert set(own["extremity"]) == {"wrist"}
    assert list(transfer.columns) == PREDICTION_COLUMNS
    assert set(transfer["split"]) == {"test"}
    assert set(transfer["extremity"]) == set(EXTREMITIES) - {"wrist"}
    assert set(json.loads((run / "metrics.json").read_text())["test"]["image"]) == {"all", "wrist"}


def test_an_ensemble_averages_the_probabilities_of_the_best_checkpoints(
    train: Command, tmp_path: Path, mura_root: Path, cache_dir: Path
) -> None:
    run = tmp_path / "run"
    train("data=wrist", f"hydra.run.dir={run}", "trainer.max_epochs=4", "ensemble=2", "early_stopping.patience=null")
    losses = pd.read_csv(run / "history.csv")["val_loss"]
    best = sorted(int(epoch) for epoch in losses.nsmallest(2).index)
    assert json.loads((run / "metrics.json").read_text())["averaged_epochs"] == best
    found = pd.read_csv(run / "predictions.csv")
    cache = open_cache(mura_root, cache_size_for(32), cache_dir)
    rows = cache.table.reset_index().set_index("path").loc[found["path"], "index"].to_numpy()
    images = torch.from_numpy(np.asarray(cache.images[rows]))[:, None]
    members = []
    for epoch in best:
        file = run / "checkpoints" / f"top-{epoch:03d}.ckpt"
        model = AbnormalityClassifier.load_from_checkpoint(file, weights_only=True, map_location="cpu").eval()
        with torch.no_grad():
            members.append(model(images).sigmoid().numpy())
    assert not np.allclose(members[0], members[1], atol=1e-4)
    assert found["probability"].to_numpy() == pytest.approx(np.mean(members, axis=0), abs=1e-5)


def test_pictures_kept_on_the_device_give_the_same_run_bit_for_bit(train: Command, tmp_path: Path) -> None:
    for name in ("auto", "true"):
        said = train(
            "data=wrist", f"data.resident={name}", "data.transfer=true", f"hydra.run.dir={tmp_path / name}",
            "trainer.max_epochs=2",
        ).said  # fmt: skip
        assert f"pictures: in the memory of the {'host (no GPU)' if name == 'auto' else 'device (as asked)'}" in said
    assert same(weights(tmp_path / "auto"), weights(tmp_path / "true"))
    for file in ("predictions.csv", "transfer.csv"):
        assert (tmp_path / "auto" / file).read_text() == (tmp_path / "true" / file).read_text()
    speed = json.loads((tmp_path / "true" / "metrics.json").read_text())["speed"]
    assert 0 < speed["data_wait_share"] < 1


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(train: Command, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train("data=elbow", f"seed={seed}", f"hydra.run.dir={tmp_path / name}", "trainer.max_epochs=1")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert (tmp_path / "a/predictions.csv").read_text() == (tmp_path / "b/predictions.csv").read_text()


def test_a_multirun_is_one_run_folder_for_each_data_set(train: Command, tmp_path: Path) -> None:
    sets = [*EXTREMITIES, "unified"]
    train("-m", f"data={','.join(sets)}", "hydra.sweep.dir=all", "experiment=debug", "hydra.launcher.workers=2")
    runs = sorted(path.parent for path in (tmp_path / "all").rglob("metrics.json"))
    assert len(runs) == 8
    found = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert [metrics["data"] for metrics in found] == sets
    assert len({metrics["split_hash"] for metrics in found}) == 1
    for run in runs:
        assert yaml.safe_load((run / "config.yaml").read_text())["group"].endswith("_all")


def test_a_failing_job_of_a_multirun_does_not_stop_the_others(train: Command, tmp_path: Path) -> None:
    found = train(
        "-m", "optimizer.lr=1e30,1e-3", "data=wrist", "hydra.sweep.dir=all", "trainer.max_epochs=3", check=False
    )
    assert found.code == 1
    assert "loss is nan" in found.said
    assert "1 of 2 runs failed: optimizer.lr=1e+30 (exit code 1)" in found.said
    assert "Traceback" not in found.said
    assert [path.parent.name for path in (tmp_path / "all").rglob("metrics.json")] == ["1_cnn2_wrist"]


def test_a_nan_loss_names_the_step_and_the_learning_rate(train: Command) -> None:
    found = train("data=wrist", "optimizer.lr=1e30", "trainer.max_epochs=5", check=False)
    assert found.code == 1
    assert "at step" in found.said
    assert "learning rate 1e+30" in found.said
    assert "Traceback" not in found.said


def test_early_stopping_ends_a_run_that_does_not_improve(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # a learning rate that changes nothing: the first epoch stays the best
    train(
        "data=wrist", "optimizer.lr=1e-12", "early_stopping.patience=2", f"hydra.run.dir={run}", "trainer.max_epochs=9"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["stopped_by"] == "early_stopping"
    assert metrics["epochs"] < 9


# --- interruption -----------------------------------------------------------------------------------------


def start(train_arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "train.py"), *train_arguments]
    return subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def arguments_for_a_long_run(mura_root: Path, cache_dir: Path, run: Path) -> list[str]:
    return [
        "model=cnn4", "logger=none", "trainer=cpu", f"data.root={mura_root}", f"data.cache_dir={cache_dir}",
        "data.image_size=32", "data.batch_size=4", "trainer.max_epochs=5", "early_stopping.patience=null",
        "scheduler=plateau", f"hydra.run.dir={run}",
    ]  # fmt: skip


def wait_for_epochs(run: Path, epochs: int) -> None:
    deadline = time.monotonic() + 120
    while not (run / "history.csv").is_file() or len((run / "history.csv").read_text().splitlines()) <= epochs:
        assert time.monotonic() < deadline, "no epoch in time"
        time.sleep(0.02)


def test_a_batch_in_parts_trains_as_the_undivided_one(train: Command, tmp_path: Path) -> None:
    common = ["data=wrist", "data.batch_size=16", "trainer.max_epochs=2", "model.dropout=0", "augmentation=none"]
    train(*common, f"hydra.run.dir={tmp_path / 'whole'}")
    for name, more in (("parts", []), ("two", ["trainer=ddp_cpu"])):
        train(*common, f"hydra.run.dir={tmp_path / name}", "data.accumulate=3", *more)
        for file in ("last.ckpt", "best.ckpt"):
            ours, undivided = weights(tmp_path / name, file), weights(tmp_path / "whole", file)
            for key in undivided:
                torch.testing.assert_close(ours[key], undivided[key], rtol=1e-4, atol=1e-5, msg=f"{name} {key}")
        steps = [torch.load(tmp_path / run / "checkpoints/last.ckpt")["global_step"] for run in (name, "whole")]
        assert steps[0] == steps[1]
        losses = [pd.read_csv(tmp_path / run / "history.csv")["train_loss"] for run in (name, "whole")]
        np.testing.assert_allclose(*losses, rtol=1e-4)


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes of a run in /proc")
@pytest.mark.parametrize("victim", ["first", "second"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_when_one_of_two_processes_is_ended_the_other_ends_too_and_the_run_can_go_on(
    victim: str, sent: signal.Signals, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [*arguments_for_a_long_run(mura_root, cache_dir, run), "trainer=ddp_cpu", "trainer.max_epochs=500"]
    first = start([argument for argument in arguments if argument != "trainer=cpu"], tmp_path)
    wait_for_epochs(run, 1)
    [second] = [pid for pid in children(first.pid) if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill({"first": first.pid, "second": second}[victim], sent)
    _, said = first.communicate(timeout=60)  # the other one too holds the pipe until it has ended
    assert first.returncode == (1 if victim == "second" else {signal.SIGKILL: -9, signal.SIGTERM: 143}[sent])
    assert not Path(f"/proc/{second}").exists() or " Z " in Path(f"/proc/{second}/stat").read_text()
    told = victim == "first" and sent == signal.SIGTERM  # it says itself that it was stopped
    assert ("stopped" if told else "another process of this run has ended") + "; go on with: python train.py" in said
    assert f"go on with: python train.py resume={run}\n" in said
    assert "Traceback" not in said
    if sent == signal.SIGTERM:
        return  # what is saved is the same: an epoch that has ended
    resumed = start([f"resume={run}", "trainer.max_epochs=3"], tmp_path)
    _, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said


@pytest.fixture(scope="module")
def whole(mura_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run; the tests that compare with it share a worker, and so the run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(arguments_for_a_long_run(mura_root, cache_dir, folder / "whole"), folder)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return folder / "whole"


@pytest.mark.xdist_group("interruption")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    how: signal.Signals, whole: Path, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    process = start(arguments_for_a_long_run(mura_root, cache_dir, broken), tmp_path)
    wait_for_epochs(broken, 2)
    time.sleep(0.1)  # into the third epoch
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert not (broken / "metrics.json").exists()
    if how != signal.SIGKILL:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[how]
        assert f"go on with: python train.py resume={broken}" in said
        assert "Traceback" not in said

    resumed = start([f"resume={broken}"], tmp_path)
    _, said = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    assert same(weights(whole), weights(broken))
    assert same(weights(whole, "best.ckpt"), weights(broken, "best.ckpt"))
    assert (whole / "predictions.csv").read_text() == (broken / "predictions.csv").read_text()
    columns = [name for name in pd.read_csv(whole / "history.csv").columns if name != "seconds"]
    pd.testing.assert_frame_equal(
        pd.read_csv(whole / "history.csv")[columns], pd.read_csv(broken / "history.csv")[columns]
    )


@pytest.mark.xdist_group("interruption")
def test_a_run_killed_in_its_first_epoch_begins_anew_and_ends_the_same(
    whole: Path, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    process = start(arguments_for_a_long_run(mura_root, cache_dir, tmp_path / "broken"), tmp_path)
    while (
        not (tmp_path / "broken" / "train.log").is_file() or "model:" not in (tmp_path / "broken/train.log").read_text()
    ):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (tmp_path / "broken" / "checkpoints" / "last.ckpt").exists()
    resumed = start([f"resume={tmp_path / 'broken'}"], tmp_path)
    _, said = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    assert same(weights(whole), weights(tmp_path / "broken"))


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
    arguments = arguments_for_a_long_run(mura_root, cache_dir, run)

    def little_room() -> None:  # enough for everything but a checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))

    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=little_room, timeout=300)
    assert found.returncode == 1
    assert f"{run}: no room to write there (File too large)" in found.stderr
    assert f"python train.py resume={run}" in found.stderr
    assert "Traceback" not in found.stderr
    assert list((run / "checkpoints").iterdir()) == []  # nothing half written
    resumed = start([f"resume={run}"], tmp_path)
    _, said = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said


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


# --- several processes ------------------------------------------------------------------------------------


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
    assert sorted(runs) == ["0_cnn2_wrist", "1_cnn2_wrist"]
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


def test_imagenet_weights_that_cannot_be_had_are_one_sentence_with_three_ways_out(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    found = train("model=resnet18", "data=wrist", "data.image_size=32", check=False)
    assert found.code == 1
    assert "run once with a network" in found.said
    assert "model.weights=/path/to/resnet18-" in found.said
    assert "model.weights=null" in found.said
    assert "Traceback" not in found.said


def test_a_local_weights_file_starts_the_backbone(train: Command, tmp_path: Path) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    run = tmp_path / "run"
    common = ["model=resnet18", "data=wrist", "experiment=debug", f"hydra.run.dir={run}", "optimizer.lr=1e-12"]
    found = train(*common, f"model.weights={file}")
    assert f"weights: backbone from {file}" in found.said
    saved, given = weights(run), torch.load(file, weights_only=True)
    torch.testing.assert_close(saved["network.backbone.conv1.weight"], given["conv1.weight"])


def test_the_csv_logger_keeps_the_history(train: Command, tmp_path: Path) -> None:
    train("data=wrist", "logger=csv", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'run'}")
    [table] = (tmp_path / "run" / "csv").rglob("metrics.csv")
    assert "val_loss" in table.read_text()


# --- bad input --------------------------------------------------------------------------------------------


def test_a_run_folder_that_holds_a_finished_run_is_left_as_it_was(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("data=wrist", "experiment=debug", f"hydra.run.dir={run}")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    found = train("data=elbow", "experiment=debug", f"hydra.run.dir={run}", check=False)
    assert found.code != 0
    assert "holds a finished run" in found.said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_an_unwritable_run_folder_is_refused(train: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = train("data=wrist", f"hydra.run.dir={tmp_path}/file/run", check=False)
    assert found.code != 0
    assert "can't be written to" in found.said
    assert "Traceback" not in found.said


def test_a_checkpoint_of_another_model_is_not_gone_on_from(train: Command, tmp_path: Path) -> None:
    for model in ("cnn2", "cnn4"):
        train(f"model={model}", "data=wrist", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / model}")
    (tmp_path / "cnn2" / "metrics.json").unlink()
    (tmp_path / "cnn4/checkpoints/last.ckpt").replace(tmp_path / "cnn2/checkpoints/last.ckpt")
    found = train(f"resume={tmp_path / 'cnn2'}", bare=True, check=False)
    assert found.code == 1
    assert "is of a model with name=cnn4, but this run has name=cnn2" in found.said


class Evil:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, ("touch hacked",)


def test_a_checkpoint_that_carries_code_is_refused_without_running_it(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("data=wrist", "trainer.max_epochs=1", f"hydra.run.dir={run}")
    (run / "metrics.json").unlink()
    torch.save({"state_dict": {}, "evil": Evil()}, run / "checkpoints" / "last.ckpt")
    found = train(f"resume={run}", bare=True, check=False)
    assert found.code == 1
    assert "carries code" in found.said
    assert not (tmp_path / "hacked").exists()


def test_a_run_on_other_data_is_not_gone_on_with(train: Command, mura_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("data=wrist", "trainer.max_epochs=1", f"hydra.run.dir={run}")
    (run / "metrics.json").unlink()
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", str(mura_root), str(other)], check=True)
    picture = next((other / "train" / "XR_HAND").rglob("*.png"))
    picture.write_bytes(next((other / "train" / "XR_ELBOW").rglob("*.png")).read_bytes())
    found = train(f"resume={run}", f"data.root={other}", bare=True, check=False)
    assert found.code == 1
    assert "was trained on other data" in found.said


@pytest.mark.parametrize("experiment", ["debug", "demo"])
def test_every_experiment_really_runs(experiment: str, train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [f"experiment={experiment}", "data=hand", f"hydra.run.dir={run}", "trainer.max_epochs=1"]
    train(*arguments)
    assert (run / "metrics.json").is_file()
