"""Grad-CAM (Selvaraju et al. 2017): which places of a picture speak for "abnormal" in a network's last feature maps.

Shapes: B pictures; S their side in the cache; C feature maps of G x G cells.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mura.errors import MuraError
from mura.machine import in_float32
from mura.models.backbones import TORCHVISION, Network
from mura.models.classifier import AbnormalityClassifier

LAYERS: dict[str, Callable[[Any], Any]] = {
    "cnn": lambda net: net[-5],  # before max-pooling, ReLU, average pooling and flattening
    "alexnet": lambda net: net.features[-2],  # the same, before max-pooling
    "vgg": lambda net: net.features[-2],
    "squeezenet": lambda net: net.features,
    "densenet": lambda net: net.features,
    "mobilenet": lambda net: net.features,
    "efficientnet": lambda net: net.features,
    "convnext": lambda net: net.features,
    "resnet": lambda net: net.layer4,
    "resnext": lambda net: net.layer4,
    "wide_resnet": lambda net: net.layer4,
    "mnasnet": lambda net: net.layers,
    "shufflenet": lambda net: net.conv5,
    "regnet": lambda net: net.trunk_output,
    "googlenet": lambda net: net.inception5b,
    "inception": lambda net: net.Mixed_7c,
    "swin": lambda net: net.permute,  # the normalised features, with the channels in front
    "maxvit": lambda net: net.blocks[-1],
}
"""The layer with the last feature maps, [B, C, G, G], by what the network's name begins with."""

RELU_FOLLOWS = ("cnn", "densenet")
"""The families whose maps go through a ReLU further on; only what passes it counts."""


def refuse_unexplainable(name: str, library: str) -> None:
    """Raise MuraError for a network whose features have no places, or whose layers are not known here."""
    if library != TORCHVISION:
        raise MuraError(
            f"{name} can't be explained: which layer of a network of {library} has its last feature maps is not known "
            "here; take one of torchvision, such as model=resnet18."
        )
    if not name.startswith(tuple(LAYERS)):
        raise MuraError(
            f"{name} can't be explained: a vision transformer has no feature maps for Grad-CAM; take a convolutional "
            "network, such as model=resnet18, or a Swin transformer."
        )


def last_maps(network: Network, library: str) -> nn.Module:
    """Return the layer of LAYERS for a network. Raises MuraError as `refuse_unexplainable` does."""
    refuse_unexplainable(network.name, library)
    layer: nn.Module = next(layer for start, layer in LAYERS.items() if network.name.startswith(start))(
        network.backbone
    )
    return layer


def heat_maps(model: AbnormalityClassifier, images_B1SS: Tensor, extremity_B: Tensor) -> Tensor:
    """Return how much each cell speaks for "abnormal", float32 [B, G, G], none below 0; some maps are all zero."""
    maps_BCGG: list[Tensor] = []
    is_cut = model.network.name.startswith(RELU_FOLLOWS)

    def keep(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # from here on: the gradient of what comes before is not asked for
        maps_BCGG.append((output.relu() if is_cut else output).detach().requires_grad_())
        return maps_BCGG[0].clone()  # which the next layer may overwrite

    hook = last_maps(model.network, str(model.hparams["library"])).register_forward_hook(keep)
    try:
        with torch.no_grad(), in_float32(model.device):
            logits_B = model(images_B1SS, extremity_B)
            [gradient_BCGG] = torch.autograd.grad(logits_B.sum(), maps_BCGG)
    finally:
        hook.remove()
    weights_BC11 = gradient_BCGG.mean(dim=(2, 3), keepdim=True)
    return (weights_BC11 * maps_BCGG[0]).sum(1).relu().detach()
