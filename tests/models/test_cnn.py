"""The networks from scratch: as many layers as Kumar et al. 2024 say, any picture of 32 pixels or more."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from mura.config.rules import NETWORKS_FROM_SCRATCH
from mura.errors import ConfigError, MuraError
from mura.models.backbones import build_network
from mura.models.cnn import CNNS

torch.set_num_threads(1)


def cnn(name, **options):
    torch.manual_seed(0)
    return build_network(name, head=name, weights=None, **options)


def count(network, kind):
    return sum(isinstance(layer, kind) for layer in network.modules())


@pytest.mark.parametrize(
    ("name", "convolutions", "pools", "connected", "dropouts", "normalised"),
    [("cnn2", 2, 2, 2, 0, 0), ("cnn4", 4, 4, 2, 1, 0), ("cnn15", 13, 5, 2, 1, 13)],
)
def test_layers_are_as_many_as_kumars(name, convolutions, pools, connected, dropouts, normalised):
    network = cnn(name)
    assert count(network, nn.Conv2d) == convolutions
    assert count(network, nn.MaxPool2d) == pools
    assert count(network, nn.Linear) == connected
    assert count(network, nn.Dropout) == dropouts
    assert count(network, nn.BatchNorm2d) == normalised


@pytest.mark.parametrize("name", CNNS)
def test_batch_normalisation_is_an_option_that_follows_every_convolution(name):
    layers = [type(layer) for layer in cnn(name, batch_norm=True).backbone]
    follow = [after for layer, after in pairwise(layers) if layer is nn.Conv2d]
    assert set(follow) == {nn.BatchNorm2d}
    assert count(cnn(name, batch_norm=False), nn.BatchNorm2d) == 0


@pytest.mark.parametrize(("name", "own"), [("cnn2", False), ("cnn4", False), ("cnn15", True)])
def test_left_open_a_network_has_the_batch_normalisation_of_its_recipe(name, own):
    left_open, chosen = cnn(name).state_dict(), cnn(name, batch_norm=own).state_dict()
    assert left_open.keys() == chosen.keys()
    assert all(torch.equal(left_open[key], chosen[key]) for key in chosen)


@pytest.mark.parametrize("choice", [True, False])
def test_another_network_has_no_choice_of_batch_normalisation(choice):
    with pytest.raises(ConfigError, match=r"model\.batch_norm=(true|false): .*cnn2, cnn4, cnn15 only.* resnet18"):
        build_network("resnet18", head="linear", weights=None, batch_norm=choice)


def test_the_rules_of_settings_know_every_network_from_scratch():
    assert tuple(CNNS) == NETWORKS_FROM_SCRATCH


@pytest.mark.parametrize("name", CNNS)
def test_weights_without_batch_normalisation_are_refused_by_a_network_with_it(name, tmp_path):
    torch.save(cnn(name, batch_norm=False).backbone.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(MuraError, match="of another architecture"):
        build_network(name, head=name, weights=str(tmp_path / "plain.pth"), batch_norm=True)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("name", CNNS)
@pytest.mark.parametrize("side", [32, 50, 64, 97, 224])
def test_any_picture_of_32_pixels_or_more_fits(name, side, batch_norm):
    network = cnn(name, batch_norm=batch_norm).eval()
    images = torch.randn(2, network.channels, side, side)
    assert network.backbone(images).shape == (2, network.n_features)
    assert network(images).shape == (2, 1)


@pytest.mark.parametrize("name", CNNS)
def test_a_smaller_picture_is_refused(name):
    with pytest.raises(ConfigError, match=r"32 pixels or more .*not 31 x 31: set data\.image_size=32"):
        cnn(name)(torch.randn(2, 1, 31, 31))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("name", CNNS)
def test_gradient_reaches_every_parameter(name, batch_norm):
    network = cnn(name, dropout=0.0, batch_norm=batch_norm)
    network(torch.randn(4, 1, 64, 64)).pow(2).sum().backward()
    assert [key for key, each in network.named_parameters() if each.grad is None or not each.grad.any()] == []


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("name", CNNS)
def test_a_batch_of_one_trains(name, batch_norm):
    cnn(name, batch_norm=batch_norm).train()(torch.randn(1, 1, 32, 32)).sum().backward()


@pytest.mark.parametrize("name", CNNS)
def test_normalisation_is_for_one_channel(name):
    network = cnn(name)
    assert (network.channels, len(network.mean), len(network.std)) == (1, 1, 1)


@pytest.mark.parametrize("name", CNNS)
def test_imagenet_weights_are_refused(name):
    with pytest.raises(ConfigError, match=r"none for cnn.*model\.weights=null"):
        build_network(name, head=name, weights="imagenet")


@pytest.mark.parametrize("name", CNNS)
def test_the_same_seed_gives_the_same_weights(name):
    first, second = cnn(name).state_dict(), cnn(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", CNNS)
def test_seven_heads_give_seven_logits(name):
    assert cnn(name, heads=7)(torch.randn(2, 1, 32, 32)).shape == (2, 7)
