"""The classifier: every model of the config learns a step; the weighted loss; a checkpoint predicts as its model."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning import Trainer
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader

from mura.config import CONF_DIR
from mura.config.hydra_hooks import register_resolvers
from mura.data.datamodule import MuraDataModule
from mura.errors import MuraError
from mura.extremities import EXTREMITIES, FOLDER_OF
from mura.models.classifier import AbnormalityClassifier, PerView
from mura.training.console import LIGHTNINGS_REMARKS
from train import build

REMARKS = (*LIGHTNINGS_REMARKS, "You called `self.log")  # the latter where there is no logger
pytestmark = [pytest.mark.filterwarnings(f"ignore:{remark}") for remark in REMARKS]

MODELS = sorted(file.stem for file in (CONF_DIR / "model").glob("*.yaml"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Beside other tests, two threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def configured(*overrides: str, root: Path, cache_dir: Path) -> tuple[MuraDataModule, AbnormalityClassifier]:
    """Data and model as `train.py` makes them, for pictures of 64 pixels."""
    register_resolvers()
    small = ["model.weights=null", "data.image_size=64", "data.batch_size=2"]
    where = [f"data.root={root}", f"data.cache_dir={cache_dir}"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", [*overrides, *small, *where])
    return build(cfg)


def quiet_trainer(**arguments: Any) -> Trainer:
    plain = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Trainer(**plain, enable_model_summary=False, use_distributed_sampler=False, **arguments)


def tiny(**arguments: Any) -> AbnormalityClassifier:
    torch.manual_seed(0)
    return AbnormalityClassifier(**({"name": "cnn2", "head": "cnn2", "image_size": 32} | arguments))


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def batch_of(labels: list[float], extremities: list[int]) -> dict[str, Any]:
    n = len(labels)
    return {
        "image": pictures(n, 1, 32, 32),
        "label": torch.tensor(labels),
        "row": torch.arange(n),
        "extremity": torch.tensor(extremities),
        "share": 1.0,
    }


def binary_cross_entropy(logits: Tensor, batch: dict[str, Any]) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, batch["label"], reduction="none")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_config_takes_a_step(name: str, mura_root: Path, cache_dir: Path) -> None:
    torch.manual_seed(0)
    named = {"torchvision": ["model.name=convnext_tiny"], "timm": ["model.name=test_resnet"]}.get(name, [])
    data, model = configured(f"model={name}", "data=wrist", *named, root=mura_root, cache_dir=cache_dir)
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = quiet_trainer(fast_dev_run=True, num_sanity_val_steps=0)
    trainer.fit(model, data)
    assert trainer.global_step == 1
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    assert torch.isfinite(trainer.callback_metrics["val_loss"])
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert any(key.startswith("network.backbone") for key in moved)
    assert any(key.startswith("network.head") for key in moved)

    model.eval()
    with torch.no_grad():
        logits = model(pictures(3, 1, 64, 64))
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_pictures_of_another_size_than_the_networks_are_resized_by_the_model() -> None:
    model = tiny().eval()
    flat = torch.full((2, 1, 80, 80), 90, dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model(flat), model(flat[..., :32, :32]))


# --- the weighted loss ------------------------------------------------------------------------------------


def test_the_papers_weights_are_each_extremitys_own_counts_of_training_views(mura_root: Path, cache_dir: Path) -> None:
    data, model = configured(
        "model=cnn2", "data=unified", "model.loss.balance=true", root=mura_root, cache_dir=cache_dir
    )
    trained = data.opened.table.iloc[data.rows["train"]]
    uneven = False
    for position, extremity in enumerate(EXTREMITIES):
        signs = Counter(
            "positive" in path for path in trained["path"] if path.startswith(f"train/{FOLDER_OF[extremity]}/")
        )
        normal, abnormal = signs[False], signs[True]
        uneven |= normal != abnormal
        assert data.class_weights()[position] == pytest.approx(
            [abnormal / (abnormal + normal), normal / (abnormal + normal)]
        )
        batch = batch_of([0.0, 1.0], [position, position])
        logits = torch.tensor([0.3, -1.2])
        expected = binary_cross_entropy(logits, batch) * torch.tensor(data.class_weights()[position])
        torch.testing.assert_close(model.losses(logits, batch), expected)
    assert uneven


def test_each_view_is_weighted_by_its_own_extremity_and_label() -> None:
    weights = [[0.1 * position, 1 - 0.1 * position] for position in range(7)]
    model = tiny(loss={"balance": True}, class_weights=weights)
    batch = batch_of([0.0, 1.0, 1.0], [2, 2, 6])
    logits = torch.tensor([0.5, 0.5, -2.0])
    expected = binary_cross_entropy(logits, batch) * torch.tensor([0.2, 0.8, 0.4])
    torch.testing.assert_close(model.losses(logits, batch), expected)


@pytest.mark.parametrize("loss", [None, {"balance": False}])
def test_without_balance_the_weights_do_not_count(loss: dict[str, bool] | None) -> None:
    model = tiny(loss=loss, class_weights=[[0.25, 0.75]] * 7)
    batch = batch_of([0.0, 1.0], [0, 6])
    logits = torch.tensor([0.5, -2.0])
    torch.testing.assert_close(model.losses(logits, batch), binary_cross_entropy(logits, batch))


# --- checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "batch_norm"),
    [*((name, choice) for name in ("cnn2", "cnn4", "cnn15") for choice in ("true", "false")), ("resnet18", "null")],
)
def test_a_checkpoint_loads_again_and_predicts_the_same(
    name: str, batch_norm: str, mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    chosen = f"model.batch_norm={batch_norm}"
    data, model = configured(f"model={name}", chosen, "data=wrist", root=mura_root, cache_dir=cache_dir)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0,
                            enable_checkpointing=False)  # fmt: skip
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    loaded = AbnormalityClassifier.load_from_checkpoint(tmp_path / "some.ckpt", map_location="cpu")
    provenance = loaded.hparams["provenance"]
    assert (provenance["extremities"], provenance["threshold"]) == (["wrist"], 0.5)
    assert provenance["data_fingerprint"] == data.opened.fingerprint
    assert (loaded.hparams["name"], loaded.image_size) == (name, 64)
    images = pictures(4, 1, 80, 80)
    model.eval(), loaded.eval()
    with torch.no_grad():
        assert torch.equal(model(images), loaded(images))


def test_a_model_that_was_loaded_to_predict_says_that_it_has_no_optimiser() -> None:
    with pytest.raises(MuraError, match="has no optimiser"):
        tiny().configure_optimizers()


# --- validation -------------------------------------------------------------------------------------------


def validate(*batches: dict[str, Any]) -> dict[str, Tensor]:
    trainer = quiet_trainer()
    trainer.validate(tiny(), DataLoader(list(batches), batch_size=None), verbose=False)
    return dict(trainer.callback_metrics)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_validation_part_of_one_class_has_no_auroc_and_does_not_crash(label: float) -> None:
    found = validate(batch_of([label] * 3, [6] * 3), batch_of([label] * 2, [6] * 2))
    assert torch.isfinite(found["val_loss"])
    assert 0 <= found["val_accuracy"] <= 1
    assert torch.isnan(found["val_auroc"])


def test_the_validation_auroc_is_the_mean_of_those_within_the_extremities() -> None:
    batches = [batch_of([0.0, 1.0, 1.0, 0.0], [0, 0, 6, 6]), batch_of([1.0, 0.0, 1.0], [6, 6, 0])]
    with torch.no_grad():
        model = tiny().eval()
        scores = torch.cat([model(batch["image"]) for batch in batches]).numpy()
    labels, extremities = (torch.cat([batch[key] for batch in batches]).numpy() for key in ("label", "extremity"))
    areas = [roc_auc_score(labels[extremities == number], scores[extremities == number]) for number in (0, 6)]
    assert validate(*batches)["val_auroc"].item() == pytest.approx(sum(areas) / 2)


def test_the_validation_loss_is_the_mean_over_views_and_not_over_batches() -> None:
    batches = batch_of([0.0, 1.0, 1.0], [6] * 3), batch_of([1.0], [6])
    model = tiny().eval()
    with torch.no_grad():
        losses = [binary_cross_entropy(model(batch["image"]), batch) for batch in batches]
    torch.testing.assert_close(validate(*batches)["val_loss"], torch.cat(losses).mean())


def test_what_is_kept_of_each_view_is_what_was_given_however_many_batches_it_took() -> None:
    kept = PerView()
    for _ in range(2):  # the second time as if nothing had been kept before
        batches = [(torch.randn(size), torch.randint(7, (size, 2))) for size in (900, 300, 1, 5_000, 32)]
        for batch in batches:
            kept.add(*batch)
        for found, given in zip(kept.of_all_processes(), zip(*batches, strict=True), strict=True):
            assert torch.equal(found, torch.cat(given))
            assert found.dtype == given[0].dtype


def test_a_head_for_each_extremity_answers_for_its_own_views_only() -> None:
    torch.manual_seed(0)
    model = AbnormalityClassifier(name="cnn2", head="cnn2", separate_heads=True, image_size=32, dropout=0.0).eval()
    images = torch.randint(0, 256, (1, 1, 48, 48), dtype=torch.uint8).expand(7, -1, -1, -1)
    logits = model(images, torch.arange(7))
    assert len({round(logit, 6) for logit in logits.tolist()}) == 7  # seven heads, seven answers to one picture
    logits[2].backward()
    heads = model.network.head.heads
    assert [any(weight.grad.abs().sum() > 0 for weight in head.parameters()) for head in heads] == [
        position == 2 for position in range(7)
    ]
    with pytest.raises(MuraError, match="must be told each view's extremity"):
        model(images)


def test_a_compiled_model_has_the_names_of_a_plain_one() -> None:
    plain = AbnormalityClassifier(name="cnn2", head="cnn2")
    compiled = AbnormalityClassifier(name="cnn2", head="cnn2", compile=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_predicts_as_a_plain_one() -> None:
    plain = AbnormalityClassifier(name="cnn2", head="cnn2", image_size=32).eval()
    compiled = AbnormalityClassifier(name="cnn2", head="cnn2", image_size=32, compile=True).eval()
    compiled.load_state_dict(plain.state_dict())
    images = torch.randint(0, 256, (4, 1, 40, 40), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), plain(images), atol=1e-5, rtol=1e-4)
