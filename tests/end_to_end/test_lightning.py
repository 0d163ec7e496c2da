"""Module and data module by themselves, in the words of a Lightning user's script."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from command import Command
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from mura.data.datamodule import MuraDataModule
from mura.errors import MuraError
from mura.models.classifier import AbnormalityClassifier
from mura.training.console import LIGHTNINGS_REMARKS

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(f"ignore:{remark}") for remark in LIGHTNINGS_REMARKS),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You called `self.log"),  # Lightning's, where there is no logger
]


def make_trainer(folder: Path, **arguments: object) -> Trainer:
    plain = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=folder, **(plain | {"logger": False} | arguments))


def test_a_plain_trainer_fits_validates_tests_and_predicts(mura_root: Path, cache_dir: Path, tmp_path: Path) -> None:
    data = MuraDataModule(str(mura_root), ["wrist"], image_size=32, cache_dir=str(cache_dir))
    model = AbnormalityClassifier(
        name="cnn2", head="cnn2", image_size=32, optimizer=partial(torch.optim.Adam, lr=1e-3),
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    )  # fmt: skip
    best = ModelCheckpoint(tmp_path, monitor="val_loss")
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[best], logger=CSVLogger(tmp_path))
    trainer.fit(model, data)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 4), "the schedule is Lightning's here"
    logged = (next(tmp_path.rglob("metrics.csv"))).read_text()
    assert {"train_loss", "val_loss", "val_auroc"} <= set(logged.splitlines()[0].split(","))

    [validated] = trainer.validate(model, data)
    assert validated["val_loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    [tested] = trainer.test(model, data)
    assert tested["test/image/wrist/n"] == len(data.rows["test"])
    by_loader = trainer.predict(model, data)
    assert sum(len(rows) for batches in by_loader for rows, _ in batches) == len(data.rows["val"]) + len(
        data.rows["test"]
    )
    assert tested == pytest.approx(trainer.test(model, dataloaders=data.test_dataloader())[0], nan_ok=True)

    loaded = AbnormalityClassifier.load_from_checkpoint(best.best_model_path)
    same_data = MuraDataModule.load_from_checkpoint(best.best_model_path, root=str(mura_root), cache_dir=str(cache_dir))
    assert same_data.extremities == ["wrist"]
    best_loss = make_trainer(tmp_path).validate(loaded, same_data)[0]["val_loss"]
    assert best_loss == pytest.approx(float(best.best_model_score))


def test_the_test_of_a_loaded_run_says_what_its_metrics_say(
    train: Command, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    train("data.extremities=[wrist,hand]", "trainer.max_epochs=2", "hydra.run.dir=run")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    model = AbnormalityClassifier.load_from_checkpoint(checkpoint)
    data = MuraDataModule.load_from_checkpoint(checkpoint, root=str(mura_root), cache_dir=str(cache_dir))
    [tested] = make_trainer(tmp_path).test(model, data)
    of_run = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    flat = {
        f"test/{level}/{extremity}/{metric}": value
        for level, groups in of_run.items()
        for extremity, measured in groups.items()
        for metric, value in measured.items()
        if isinstance(value, (int, float))
    }
    assert {name: tested[name] for name in flat} == pytest.approx(flat, abs=1e-6)
    saved = torch.load(checkpoint, weights_only=True)
    assert str(mura_root) not in str({key: saved[key] for key in saved if "hyper" in key}), "no path of this machine"


def test_a_data_module_without_test_says_so(mura_root: Path, cache_dir: Path) -> None:
    data = MuraDataModule(str(mura_root), ["wrist"], image_size=32, cache_dir=str(cache_dir), test=False)
    data.setup("test")
    with pytest.raises(MuraError, match="no test views"):
        data.test_dataloader()
