"""Heads: features [B, F] -> logits [B, heads]. Kumar et al. 2024's and Rajpurkar et al. 2017's."""

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mura.errors import LONGEST, ConfigError


def kumar_resnet(n_features: int, dropout: float) -> nn.Sequential:
    """Return Kumar et al. 2024's head of ResNet-18 (512 features) and ResNet-50 (2048): [B, F] -> [B, 1].

    There is no activation anywhere, which is odd and kept as Kumar et al. had it. The last three linear layers in a
    row are one linear map in function, and in evaluation, without dropout, all four are. In training they are
    not one layer: the gradient of each is scaled by the others, and each has its own weight decay.
    """
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(n_features, 256),
        nn.Dropout(dropout),
        nn.Linear(256, 128),
        nn.Linear(128, 32),
        nn.Linear(32, 1),
    )


def kumar_densenet(n_features: int, dropout: float) -> nn.Sequential:
    """Return Kumar et al. 2024's head of DenseNet-121 (1024 features), one hidden layer of 512: [B, F] -> [B, 1]."""
    return _one_hidden_layer(n_features, 512, dropout)


def linear(n_features: int, dropout: float) -> nn.Sequential:
    """Return a single layer without dropout, as Rajpurkar et al. 2017 have it (section 3): [B, F] -> [B, 1]."""
    return nn.Sequential(nn.Linear(n_features, 1))


def cnn2(n_features: int, dropout: float) -> nn.Sequential:
    """Return the two layers, without dropout, of Kumar et al. 2024's smallest network; 64 is ours. [B, F] -> [B, 1]."""
    return nn.Sequential(nn.Linear(n_features, 64), nn.ReLU(), nn.Linear(64, 1))


def cnn4(n_features: int, dropout: float) -> nn.Sequential:
    """Return Kumar et al. 2024's two layers with dropout between them; 128 is ours. [B, F] -> [B, 1]."""
    return _one_hidden_layer(n_features, 128, dropout)


def cnn15(n_features: int, dropout: float) -> nn.Sequential:
    """Return the last 2 of the 15 layers: [B, F] -> [B, 1]. The dropout is ours.

    There is no batch normalisation, since a batch may be of one picture.
    """
    return _one_hidden_layer(n_features, 128, dropout)


def _one_hidden_layer(n_features: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_features, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))


HEADS: dict[str, Callable[[int, float], nn.Sequential]] = {
    head.__name__: head for head in (kumar_resnet, kumar_densenet, linear, cnn2, cnn4, cnn15)
}


class SeparateHeads(nn.Module):
    """Several heads on the same features, nothing shared between them: [B, F] -> [B, heads]."""

    def __init__(self, heads: list[nn.Sequential]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([head(features) for head in self.heads], dim=1)


def build_head(kind: str, n_features: int, dropout: float, heads: int) -> nn.Module:
    """Return the head `kind` on F features: [B, F] -> [B, heads]; several heads share no layer.

    Raises ConfigError for an unknown kind.
    """
    if kind not in HEADS:
        near = difflib.get_close_matches(kind, HEADS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"model.head={kind[:LONGEST]} is none of {', '.join(HEADS)}{hint}")
    make = HEADS[kind]
    if heads == 1:
        return make(n_features, dropout)
    return SeparateHeads([make(n_features, dropout) for _ in range(heads)])
