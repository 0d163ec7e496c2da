"""A network by name, backbone and head; backbones are the CNNs of `cnn.py`, torchvision's classifiers and timm's."""

import difflib
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision.models
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from mura.errors import LONGEST, ConfigError
from mura.models.cnn import CNNS, SMALLEST_SIDE
from mura.models.heads import build_head
from mura.models.weights import imagenet_file, load_file, timm_file

IMAGENET = "imagenet"
TORCHVISION, TIMM = "torchvision", "timm"

# Kumar et al. 2024 and Rajpurkar et al. 2017 say just "ImageNet weights": taken as each model's first. DEFAULT is
# a later recipe for some, ResNet-50 among them. Two giants have no such first; their linear ones take 224 pixels.
PREFERRED_WEIGHTS = ("IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")
AUXILIARY_CLASSIFIERS = ("googlenet", "inception_v3")
FAMILIES_OF_ONE_SIZE = ("vit_", "maxvit_")


class Backbone(NamedTuple):
    """A network without its classifier: float images [B, channels, H, W], normalised -> features [B, `n_features`].

    `mean` and `std` normalise grey levels between 0 and 1, one value for each channel. `sides` are the smallest and the
    largest picture in pixels. `classifier` names the layers that were taken away, which files of weights still hold.
    """

    module: nn.Module
    n_features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sides: tuple[int, float]
    classifier: str | tuple[str, ...] | None = None


class Network(nn.Module):
    """Backbone and head: float images [B, channels, H, W], normalised by `mean`, `std` -> logits [B, heads].

    `sides` are the smallest and the largest picture it takes, in pixels; `origin` says where its weights are from.
    The forward pass raises ConfigError for pictures beyond `sides`.
    """

    def __init__(self, name: str, backbone: Backbone, head: nn.Module, origin: str) -> None:
        super().__init__()
        self.name, self.backbone, self.head, self.origin = name, backbone.module, head, origin
        self.n_features, self.mean, self.std = backbone.n_features, backbone.mean, backbone.std
        self.channels, self.sides = len(backbone.mean), backbone.sides

    def forward(self, images: Tensor) -> Tensor:
        smallest, largest = self.sides
        if not smallest <= min(images.shape[-2:]) <= max(images.shape[-2:]) <= largest:
            height, width = images.shape[-2:]
            more = "" if largest == smallest else " or more"
            raise ConfigError(
                f"{self.name} takes pictures of {smallest} pixels{more} on a side, not {height} x {width}: "
                f"set data.image_size={smallest}"
            )
        return self.head(self.backbone(images))


class AveragePool(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling, images [B, C, H, W] -> [B, C, h, w], deterministic on a GPU where that is asked for.

    PyTorch's gradient of it adds up in any order there. A bin is a rectangle, so two products of matrices do the same.
    """

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
            return super().forward(images)
        return averaged(images, _pair(self.output_size))


def averaged(images: Tensor, sides: tuple[int, int]) -> Tensor:
    """Return the averages over the bins of adaptive pooling by products of matrices."""
    rows_hH, columns_wW = (_bins(size, side, images) for size, side in zip(images.shape[-2:], sides, strict=True))
    pixels_hw = rows_hH.sum(1)[:, None] * columns_wW.sum(1)
    return rows_hH @ images @ columns_wW.T / pixels_hw


def _bins(size: int, side: int, like: Tensor) -> Tensor:
    """Return which of `size` pixels belong to each of `side` bins, 1 or 0, [side, size], on the device of `like`."""
    bins, pixels = torch.arange(side, device=like.device)[:, None], torch.arange(size, device=like.device)
    return ((bins * size // side <= pixels) & (pixels < -(-(bins + 1) * size // side))).to(like.dtype)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def with_deterministic_pooling(module: nn.Module) -> nn.Module:
    """Put AveragePool in place of PyTorch's pooling to more than one pixel; to one pixel that is a plain mean."""
    for path, layer in list(module.named_modules()):
        if type(layer) is nn.AdaptiveAvgPool2d and layer.output_size not in (1, (1, 1)):
            module.set_submodule(path, AveragePool(layer.output_size))
    return module


def build_network(
    name: str,
    *,
    head: str,
    weights: str | None,
    dropout: float = 0.5,
    heads: int = 1,
    batch_norm: bool | None = None,
    library: str = TORCHVISION,
) -> Network:
    """Return the network `name` with `heads` separate heads of the kind `head` (see `heads.py`).

    `weights` is `imagenet`, None, or the path of a state dict: of the whole model of its `library`, of a backbone,
    or a checkpoint of this project, whose head is taken too when it fits (see `weights.load_file`).
    `batch_norm` gives a CNN batch normalisation, or none; None leaves every network as it is.
    Raises ConfigError for an unknown name or head, for ImageNet weights of a CNN and for `batch_norm` of another
    network, MuraError for weights that can't be had or don't fit.
    """
    if name not in CNNS and batch_norm is not None:
        raise ConfigError(
            f"model.batch_norm={str(batch_norm).lower()}: can be chosen for {', '.join(CNNS)} only; "
            f"leave it out for {name}"
        )
    if library == TIMM:
        backbone = timm_backbone(name)
    else:
        backbone = cnn_backbone(name, batch_norm) if name in CNNS else torchvision_backbone(name)
    file = str(pretrained_file(name, library)) if weights == IMAGENET else weights
    top = build_head(head, backbone.n_features, dropout, heads)
    origin = "random"
    if file is not None:
        origin = load_file(Path(file).expanduser(), backbone.module, top, backbone.classifier)
    with_deterministic_pooling(backbone.module)
    return Network(name, backbone, top, origin).to(memory_format=torch.channels_last)  # faster, on CPUs as well


def pretrained_file(name: str, library: str = TORCHVISION) -> Path:
    """Return the file of the ImageNet weights of a model, or those that its name's tag names; fetch it if need be.

    Raises ConfigError when there are none, MuraError when they can't be had.
    """
    if library == TIMM:
        return timm_file(name, *_timm_source(name))
    if name in CNNS:
        raise ConfigError(f"model.weights=imagenet: there are none for {name}; use model.weights=null")
    return imagenet_file(name, imagenet_entry(name))


def cnn_backbone(name: str, batch_norm: bool | None = None) -> Backbone:
    """Return one of Kumar et al. 2024's networks from scratch, for one channel; `batch_norm` is its own if None."""
    module, n_features = CNNS[name]() if batch_norm is None else CNNS[name](batch_norm=batch_norm)
    return Backbone(module, n_features, mean=(0.5,), std=(0.25,), sides=(SMALLEST_SIDE, math.inf))


def torchvision_backbone(name: str) -> Backbone:
    """Return torchvision's model `name` without weights and without its last linear layer.

    What stands before that layer stays: a dropout, hidden layers (VGG's two of 4096). SqueezeNet ends in a
    convolution and an average over positions; without the convolution that gives the averaged features.
    Raises ConfigError when there is no such model.
    """
    entry = imagenet_entry(name)
    as_trained = {"aux_logits": False, "transform_input": True, "init_weights": True}
    model = torchvision.models.get_model(name, weights=None, **(as_trained if name in AUXILIARY_CLASSIFIERS else {}))
    linear = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    convolutions = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    path, last = (linear or convolutions)[-1]
    model.set_submodule(path, nn.Identity())
    n_features = last.in_features if isinstance(last, nn.Linear) else last.in_channels
    recipe = entry.transforms()
    return Backbone(model, n_features, tuple(recipe.mean), tuple(recipe.std), accepted_sides(name, entry), path)


def timm_backbone(name: str) -> Backbone:
    """Return timm's model `name`, such as `convnext_atto.d2_in1k`, without weights and without its classifier.

    Raises ConfigError when there is no such model, or no timm.
    """
    timm = _import_timm()
    try:
        model = timm.create_model(name, num_classes=0)
    except (RuntimeError, ValueError) as error:
        near = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        why = str(error)[:LONGEST]
        raise ConfigError(f"model.name={name[:LONGEST]}: timm has no such model ({why}){hint}") from None
    recipe, origin = timm.data.resolve_model_data_config(model), model.pretrained_cfg
    smallest = min((origin.get("min_input_size") or (3, SMALLEST_SIDE))[1:])
    sides = (recipe["input_size"][1],) * 2 if origin.get("fixed_input_size") else (smallest, math.inf)
    classifier = origin.get("classifier")
    return Backbone(model, model.head_hidden_size, recipe["mean"], recipe["std"], sides, classifier)


def _timm_source(name: str) -> tuple[str, str]:
    """Return the repository of a model's weights in the hub, and their file there."""
    source = _import_timm().models.get_pretrained_cfg(name)
    if source is None or not source.hf_hub_id:
        raise ConfigError(f"model.weights=imagenet: timm has none for {name}; use model.weights=null")
    return source.hf_hub_id, source.hf_hub_filename or "model.safetensors"


def _import_timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError:
        raise ConfigError("model.library=timm: timm is not installed; pip install -e '.[timm]'.") from None
    return timm


def imagenet_entry(name: str) -> WeightsEnum:
    """Return torchvision's ImageNet weights of the model `name`. Raises ConfigError when there is no such model."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        everything = [*CNNS, *known]
        near = difflib.get_close_matches(name, everything, n=3) or [*CNNS, "resnet18", "densenet121"]
        raise ConfigError(
            f"model.name={name[:LONGEST]} is neither one of {', '.join(CNNS)} nor a classifier of torchvision; "
            f"nearest: {', '.join(near)}"
        )
    entries = torchvision.models.get_model_weights(name).__members__
    return next(entries[version] for version in PREFERRED_WEIGHTS if version in entries)


def accepted_sides(name: str, entry: WeightsEnum) -> tuple[int, float]:
    """Return the smallest and the largest side in pixels; ViT and MaxViT take one size, others any from theirs on."""
    # what torchvision states for Swin is its training size; it pads, so a window is enough
    smallest = SMALLEST_SIDE if name.startswith("swin_") else entry.meta["min_size"][0]
    return smallest, smallest if name.startswith(FAMILIES_OF_ONE_SIZE) else math.inf
