"""Grad-CAM against captum's, on the layers that the table names, for every family of networks."""

import copy

import captum.attr
import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from mura.errors import MuraError
from mura.inference.gradcam import LAYERS, RELU_FOLLOWS, heat_maps, last_maps
from mura.models.backbones import Backbone, Network
from mura.models.classifier import AbnormalityClassifier

ONE_OF_EACH = (
    "cnn2", "cnn4", "cnn15", "squeezenet1_1", "mobilenet_v3_small", "resnet18", "densenet121",
    "mnasnet0_5", "shufflenet_v2_x0_5", "googlenet", "swin_t",
)  # fmt: skip


def model_of(name: str, side: int = 64) -> AbnormalityClassifier:
    torch.manual_seed(0)
    return AbnormalityClassifier(name=name, head="linear", image_size=side, separate_heads=name == "cnn4").eval()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_it_is_captums(name: str) -> None:
    model = model_of(name)
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    extremities = torch.tensor([3, 6])
    ours = heat_maps(model, images, extremities)
    assert ours.shape[1] == ours.shape[2] > 1
    assert (ours >= 0).all()

    other = copy.deepcopy(model)
    layer = last_maps(other.network, "torchvision")
    if name.startswith("cnn"):
        other.network.backbone[-5] = layer = nn.Sequential(layer, nn.ReLU())
    elif name.startswith(RELU_FOLLOWS):
        layer.append(nn.ReLU())
    elif isinstance(layer, nn.ReLU):
        layer.inplace = False

    def logits(images_B1HH: Tensor) -> Tensor:
        return other.logits(images_B1HH, extremities)[:, None]

    expected = captum.attr.LayerGradCam(logits, layer).attribute(images.float() / 255, 0, relu_attributions=True)
    torch.testing.assert_close(ours, expected[:, 0].detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(model(images, extremities), other(images, extremities))  # nothing is left behind


def test_gradients_are_off_and_on_as_before_and_no_weight_has_one() -> None:
    model = model_of("cnn2")
    images, extremities = torch.zeros(1, 1, 64, 64, dtype=torch.uint8), torch.tensor([0])
    for is_enabled in (True, False):
        with torch.set_grad_enabled(is_enabled):
            heat_maps(model, images, extremities)
            assert torch.is_grad_enabled() == is_enabled
    assert all(weight.grad is None for weight in model.parameters())


def test_every_classifier_of_torchvision_has_its_layer_but_vision_transformers() -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    without = [name for name in names if not name.startswith(tuple(LAYERS))]
    assert without
    assert all(name.startswith("vit_") for name in without)


@pytest.mark.parametrize(
    ("name", "library", "words"),
    [
        ("vit_b_16", "torchvision", "vit_b_16 can't be explained: a vision transformer has no feature maps"),
        ("convnext_atto", "timm", "convnext_atto can't be explained: which layer of a network of timm"),
    ],
)
def test_what_has_no_known_maps_is_refused(name: str, library: str, words: str) -> None:
    network = Network(name, Backbone(nn.Identity(), 1, (0.5,), (0.5,), (32, 64)), nn.Identity(), "random")
    with pytest.raises(MuraError, match=words):
        last_maps(network, library)
