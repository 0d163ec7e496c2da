"""The same network under other names, as medical weights are handed on: taken by order and shape, or refused."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from mura.errors import MuraError
from mura.models.backbones import build_network


@pytest.fixture
def whole() -> nn.Module:
    torch.manual_seed(2)
    return torchvision.models.resnet18()


def numbered(whole: nn.Module) -> "OrderedDict[str, torch.Tensor]":
    """The state dict of the network as a chain of its parts, without the classifier: RadImageNet's layout."""
    chain = nn.Module()
    chain.backbone = nn.Sequential(*list(whole.children())[:-1])
    return OrderedDict(chain.state_dict())


def build(state: dict[str, torch.Tensor], folder: Path):
    torch.save(state, folder / "file.pt")
    return build_network("resnet18", head="linear", weights=str(folder / "file.pt"))


def loaded_alike(network, whole: nn.Module) -> bool:
    own = network.backbone.state_dict()
    return all(torch.equal(each, own[key]) for key, each in whole.state_dict().items() if not key.startswith("fc."))


def test_numbered_layers_are_taken_in_their_order_and_it_is_said(whole: nn.Module, tmp_path: Path) -> None:
    network = build(numbered(whole), tmp_path)
    assert loaded_alike(network, whole)
    assert "by order and shape" in network.origin


def test_keras_words_and_a_classifier_at_the_end_are_understood(whole: nn.Module, tmp_path: Path) -> None:
    words = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    state = OrderedDict()
    for number, (key, each) in enumerate(whole.state_dict().items()):
        stem, _, last = key.rpartition(".")
        if last != "num_batches_tracked":
            is_norm = "bn" in stem or "downsample.1" in stem
            state[f"layer_{number}.{words[last] if is_norm else last}"] = each
    assert loaded_alike(build(state, tmp_path), whole)


def test_tensors_of_the_same_shape_in_another_order_are_refused(whole: nn.Module, tmp_path: Path) -> None:
    state = numbered(whole)
    keys = list(state)
    first, second = keys.index("backbone.1.running_mean"), keys.index("backbone.1.running_var")
    keys[first], keys[second] = keys[second], keys[first]
    with pytest.raises(MuraError, match="of another architecture"):
        build(OrderedDict((key, state[key]) for key in keys), tmp_path)


def test_another_network_under_other_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MuraError, match="of another architecture"):
        build(numbered(torchvision.models.resnet34()), tmp_path)
