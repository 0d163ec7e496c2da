"""`python train.py`, as typed: one run, a multirun, bad input."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from command import Command, same, weights
from conftest import conflict_in
from offline import overview

from mura.comparison.collect import collect
from mura.data.cache import open_cache
from mura.data.images import cache_size_for
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.metrics import summarise
from mura.models.classifier import AbnormalityClassifier
from mura.runs.folder import PREDICTION_COLUMNS

CONTRACT = ["config.yaml", "metrics.json", "predictions.csv", "history.csv", "curves.png", "train.log", ".hydra"]


def test_a_run_leaves_the_contracted_folder(train: Command, tmp_path: Path, mura_root: Path) -> None:
    run = tmp_path / "run"
    said = train("data=wrist", f"hydra.run.dir={run}", "trainer.max_epochs=2").said
    assert re.findall(r"epoch (\d+): train loss", said) == ["1", "2"]
    for name in CONTRACT:
        assert (run / name).exists(), name
    for name in ("best.ckpt", "last.ckpt"):
        assert (run / "checkpoints" / name).is_file()

    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["model"], metrics["data"], metrics["arm"]) == ("cnn2", "wrist", "specialised")
    assert (metrics["epochs"], metrics["stopped_by"]) == (2, "max_epochs")
    assert metrics["speed"]["train_images_per_second"] > 0
    validated, tested = (metrics[part]["study"]["wrist"]["accuracy"] for part in ("val", "test"))
    assert f"{validated:.3f} / {tested:.3f}" in said
    assert metrics["synthetic"] is False

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


def test_without_the_test_no_test_view_is_predicted_and_a_resumed_run_makes_up_for_it(
    train: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said = train(
        "data=wrist", "test=false", "logger=wandb", f"hydra.run.dir={run}", "early_stopping.patience=1",
        "optimizer.lr=1e-12", "trainer.max_epochs=5",
    ).said  # fmt: skip
    assert "validation (test=false)" in said
    assert set(pd.read_csv(run / "predictions.csv")["split"]) == {"val"}
    before = json.loads((run / "metrics.json").read_text())
    assert before["test"] is None
    assert before["stopped_by"] == "early_stopping"
    summary = overview(run)["summary"]
    assert summary["val/study/wrist/accuracy"] == before["val"]["study"]["wrist"]["accuracy"]
    assert [key for key in summary if key.startswith("test") or key.startswith("roc")] == []
    with pytest.raises(MuraError, match="was trained with test=false") as refusal:
        collect([tmp_path])
    assert f"remove its metrics.json, then go on with: python train.py resume={run} test=true" in str(refusal.value)

    (run / "metrics.json").unlink()
    train(f"resume={run}", "test=true", bare=True)
    after = json.loads((run / "metrics.json").read_text())
    assert (after["val"], after["epochs"]) == (before["val"], before["epochs"])
    assert set(after["test"]["study"]) == {"all", "wrist"}
    assert [found.metrics["test"] for found in collect([tmp_path])[0]] == [after["test"]]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_ensemble_averages_the_probabilities_of_the_best_checkpoints(
    precision: str, train: Command, tmp_path: Path, mura_root: Path, cache_dir: Path
) -> None:
    run = tmp_path / "run"
    train(
        "data=wrist", f"hydra.run.dir={run}", "trainer.max_epochs=4", "ensemble=2", "early_stopping.patience=null",
        f"trainer.precision={precision}",
    )  # fmt: skip
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
    assert found["probability"].to_numpy() == pytest.approx(np.mean(members, axis=0), abs=1e-6)


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
    sets = ["elbow", "wrist", "unified"]
    train("-m", f"data={','.join(sets)}", "hydra.sweep.dir=all", "experiment=debug", "hydra.launcher.workers=2")
    runs = sorted(path.parent for path in (tmp_path / "all").rglob("metrics.json"))
    assert len(runs) == 3
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
    assert "1 of 2 runs failed: optimizer.lr=1e+30 (exit code 3)" in found.said
    assert "Traceback" not in found.said
    assert [path.parent.name for path in (tmp_path / "all").rglob("metrics.json")] == ["1_cnn2_wrist"]


def test_a_nan_loss_names_the_step_and_the_learning_rate(train: Command) -> None:
    found = train("data=wrist", "optimizer.lr=1e30", "trainer.max_epochs=5", check=False)
    assert found.code == 3
    assert re.search(r"at step \d+ \(epoch 1\)", found.said)
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


def test_of_a_metric_that_is_better_when_it_is_more_the_greatest_is_chosen(train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = train(
        "data=unified", "monitor=val_kappa", "mode=max", "scheduler=plateau", "ensemble=2", "trainer.max_epochs=4",
        f"hydra.run.dir={run}",
    ).said  # fmt: skip
    assert "Traceback" not in said
    metrics, measured = json.loads((run / "metrics.json").read_text()), pd.read_csv(run / "history.csv")["val_kappa"]
    assert measured[metrics["best_epoch"]] == measured.max() > measured.min()
    assert sorted(measured[metrics["averaged_epochs"]]) == sorted(measured.nlargest(2))
    assert yaml.safe_load((run / "config.yaml").read_text())["scheduler"]["mode"] == "max"


def test_a_monitored_metric_without_a_value_is_refused_before_training(train: Command) -> None:
    settings = ("data=hand", "monitor=val_auroc", "data.batch_size=1", "trainer.limit_val_batches=1")
    found = train(*settings, check=False)
    assert found.code == 1
    assert "monitor=val_auroc: undefined, since the 1 validation views (data.fold=0, " in found.said
    assert "hold only one class of hand; take monitor=val_loss." in found.said
    assert "epoch" not in found.said


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


def test_a_multirun_is_refused_at_once_for_weights_that_cannot_be_had(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    found = train("-m", "model=cnn2,resnet18", "data=wrist,hand", f"hydra.sweep.dir={tmp_path / 'all'}", check=False)
    assert found.code == 1
    assert found.said.count("model.weights=/path/to/resnet18-") == 1
    assert "Traceback" not in found.said
    assert not (tmp_path / "all").exists()


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
    for model in ("cnn2", "cnn4"):
        (tmp_path / model / "metrics.json").unlink()
    found = train(f"resume={tmp_path / 'cnn4'}", "model.batch_norm=true", bare=True, check=False)
    assert found.code == 2
    assert "model.batch_norm None, now True" in found.said
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


def test_a_study_with_both_labels_ends_a_run_before_training_or_is_left_out(
    train: Command, contradictory: Path, tmp_path: Path
) -> None:
    data = ("data=wrist", f"data.root={contradictory}", f"data.cache_dir={tmp_path / 'cache'}", "trainer.max_epochs=1")
    found = train(*data, check=False)
    assert found.code == 1
    assert f"{conflict_in(contradictory)} is there as _positive and as _negative" in found.said
    assert "epoch" not in found.said
    assert "Traceback" not in found.said
    run = tmp_path / "run"
    train(*data, f"hydra.run.dir={run}", "data.conflicts=leave_out")
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["conflicting_left_out"], metrics["blank_views"]) == (1, 0)
    paths = pd.read_csv(run / "predictions.csv")["path"]
    assert not paths.str.startswith(conflict_in(contradictory)).any()


@pytest.mark.parametrize("experiment", ["debug", "demo"])
def test_every_experiment_really_runs(experiment: str, train: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [f"experiment={experiment}", "data=hand", f"hydra.run.dir={run}", "trainer.max_epochs=1"]
    train(*arguments)
    assert (run / "metrics.json").is_file()
