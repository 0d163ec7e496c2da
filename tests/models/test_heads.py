"""The heads are exactly those of the sources, layer by layer."""

import pytest
import torch
from torch import nn

from mura.errors import ConfigError
from mura.models.heads import HEADS, build_head


def layers(head):
    """Each layer in a word: Linear 512-256, Dropout 0.5, ReLU."""

    def word(layer):
        if isinstance(layer, nn.Linear):
            return f"Linear {layer.in_features}-{layer.out_features}"
        return f"Dropout {layer.p}" if isinstance(layer, nn.Dropout) else type(layer).__name__

    return [word(layer) for layer in head]


def parameters(head):
    return sum(each.numel() for each in head.parameters())


@pytest.mark.parametrize(("n_features", "expected"), [(512, 168_385), (2048, 561_601)])
def test_resnet_head_is_kumars(n_features, expected):
    head = build_head("kumar_resnet", n_features, dropout=0.5, heads=1)
    assert layers(head) == [
        "Dropout 0.5",
        f"Linear {n_features}-256",
        "Dropout 0.5",
        "Linear 256-128",
        "Linear 128-32",
        "Linear 32-1",
    ]
    assert parameters(head) == expected


def test_densenet_head_is_kumars():
    head = build_head("kumar_densenet", 1024, dropout=0.5, heads=1)
    assert layers(head) == ["Linear 1024-512", "ReLU", "Dropout 0.5", "Linear 512-1"]
    assert parameters(head) == 1024 * 512 + 512 + 512 + 1


def test_linear_head_is_one_layer_with_one_output():
    assert layers(build_head("linear", 1664, dropout=0.5, heads=1)) == ["Linear 1664-1"]


def test_heads_of_the_cnns_are_two_fully_connected_layers():
    assert layers(build_head("cnn2", 2048, 0.5, 1)) == ["Linear 2048-64", "ReLU", "Linear 64-1"]
    assert layers(build_head("cnn4", 2048, 0.5, 1)) == ["Linear 2048-128", "ReLU", "Dropout 0.5", "Linear 128-1"]
    assert layers(build_head("cnn15", 128, 0.5, 1)) == ["Linear 128-128", "ReLU", "Dropout 0.5", "Linear 128-1"]


def test_resnet_head_is_one_linear_map_in_evaluation():
    torch.manual_seed(0)
    head = build_head("kumar_resnet", 16, dropout=0.5, heads=1).eval()
    a, b, zero = torch.randn(4, 16), torch.randn(4, 16), torch.zeros(4, 16)
    assert torch.allclose(head(a + b), head(a) + head(b) - head(zero), atol=1e-6)


def test_dropout_is_the_one_asked_for():
    head = build_head("kumar_resnet", 16, dropout=0.0, heads=1)
    assert {layer.p for layer in head if isinstance(layer, nn.Dropout)} == {0.0}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("heads", [1, 7])
def test_every_head_gives_one_logit_for_each(kind, heads):
    assert build_head(kind, 24, 0.5, heads)(torch.randn(3, 24)).shape == (3, heads)


@pytest.mark.parametrize("kind", HEADS)
def test_seven_heads_share_nothing(kind):
    torch.manual_seed(0)
    head = build_head(kind, 24, 0.0, heads=7)
    features = torch.randn(5, 24)
    assert head(features)[:, 3].unique().numel() == 5
    head(features)[:, 3].sum().backward()
    touched = {
        name.split(".")[1] for name, each in head.named_parameters() if each.grad is not None and each.grad.any()
    }
    assert touched == {"3"}
    assert parameters(head) == 7 * parameters(build_head(kind, 24, 0.0, heads=1))


def test_an_unknown_head_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"model\.head=kumar_resnt .*did you mean kumar_resnet\?"):
        build_head("kumar_resnt", 16, 0.5, 1)
