"""Kumar et al. 2024's networks from scratch: backbones, float images [B, 1, H, W] -> features [B, F].

Kumar et al. name the layers and no sizes. Ours: 3 x 3 kernels, the widths below, and an adaptive average
pooling before the fully connected layers (which are in `heads.py`): any picture of 32 pixels or more fits.
Batch normalisation, which Kumar et al. added in the end, can be had or not in each.
"""

from collections.abc import Callable

from torch import nn

SMALLEST_SIDE = 32


def _convolution(channels: int, width: int, batch_norm: bool) -> list[nn.Module]:
    """Return convolution, batch normalisation if wanted, and ReLU."""
    normalisation = [nn.BatchNorm2d(width)] if batch_norm else []
    # no bias before batch normalisation, which subtracts it again
    return [nn.Conv2d(channels, width, 3, padding=1, bias=not batch_norm), *normalisation, nn.ReLU(inplace=True)]


def _pooled_blocks(blocks: list[tuple[int, int]], side: int, batch_norm: bool) -> tuple[nn.Sequential, int]:
    """Return a max-pooled block for each (width, depth), then `side` x `side` flattened; and how many features."""
    layers: list[nn.Module] = []
    channels = 1
    for width, depth in blocks:
        for _ in range(depth):
            layers += _convolution(channels, width, batch_norm)
            channels = width
        # ReLU after the pooling gives the same, gradients too, from a quarter of the elements
        layers.insert(-1, nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(side), nn.Flatten()]
    return nn.Sequential(*layers), channels * side * side


def cnn2(batch_norm: bool = False) -> tuple[nn.Sequential, int]:
    """Return 2 x (convolution, ReLU, max-pooling) and its 32 x 8 x 8 features; 4 weight layers with its head."""
    return _pooled_blocks([(16, 1), (32, 1)], side=8, batch_norm=batch_norm)


def cnn4(batch_norm: bool = False) -> tuple[nn.Sequential, int]:
    """Return 4 x (convolution, ReLU, max-pooling) and its 128 x 4 x 4 features; 6 weight layers with its head."""
    return _pooled_blocks([(16, 1), (32, 1), (64, 1), (128, 1)], side=4, batch_norm=batch_norm)


def cnn15(batch_norm: bool = True) -> tuple[nn.Sequential, int]:
    """Return 13 convolutions in 5 pooled blocks, and 128 features; 15 weight layers with its head.

    The blocks are VGG-16's (Simonyan and Zisserman 2015, arXiv:1409.1556, column D), a quarter as wide.
    """
    return _pooled_blocks([(16, 2), (32, 2), (64, 3), (128, 3), (128, 3)], side=1, batch_norm=batch_norm)


CNNS: dict[str, Callable[..., tuple[nn.Sequential, int]]] = {"cnn2": cnn2, "cnn4": cnn4, "cnn15": cnn15}
