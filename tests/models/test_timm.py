"""timm's classifiers by name and tag, with weights from local files; nothing is fetched here."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from mura.errors import ConfigError, MuraError
from mura.models.backbones import build_network, timm_backbone
from mura.models.classifier import AbnormalityClassifier

NAME = "test_resnet"  # timm's own, for tests: a ResNet of 0.5 million parameters


@pytest.fixture
def whole() -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model(NAME).eval()


def build(weights: str | None = None, name: str = NAME):
    return build_network(name, head="linear", weights=weights, library="timm")


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "mobilenetv4_conv_small", "swin_tiny_patch4_window7_224"]
)
def test_a_model_gives_the_features_it_promises(name: str) -> None:
    backbone = timm_backbone(name)
    side = backbone.sides[0] if backbone.sides[0] == backbone.sides[1] else 96
    features = backbone.module.eval()(torch.zeros(1, 3, int(side), int(side)))
    assert features.shape == (1, backbone.n_features)
    assert len(backbone.mean) == len(backbone.std) == 3


def test_the_weights_of_a_local_file_are_the_models_own(whole: torch.nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(whole.state_dict(), file)
    network = build(str(file)).eval()
    assert network.origin == f"backbone from {file}"
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
        assert torch.allclose(network.backbone(images), expected, atol=1e-6)  # another memory format rounds otherwise


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    with pytest.raises(MuraError, match=r"x\.safetensors is no safetensors file, or a damaged one"):
        build(str(tmp_path / "x.safetensors"))


def test_weights_that_are_not_here_are_refused_at_once_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MuraError, match=r"weights of convnext_atto .*HF_HUB_OFFLINE is set.*model\.weights="):
        build("imagenet", "convnext_atto")


def test_an_unknown_model_and_a_model_without_weights_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"model\.name=convnext_attto: timm has no such model.*: convnext_atto"):
        build(name="convnext_attto")
    with pytest.raises(ConfigError, match="timm has none for convnext_atto_rms"):
        build("imagenet", "convnext_atto_rms")


def test_a_checkpoint_remembers_the_library(tmp_path: Path) -> None:
    model = AbnormalityClassifier(name=NAME, head="linear", library="timm", image_size=64)
    again = AbnormalityClassifier(**model.hparams)
    again.load_state_dict(model.state_dict())
    images = torch.randint(0, 255, (2, 1, 73, 73), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), again.eval()(images))
