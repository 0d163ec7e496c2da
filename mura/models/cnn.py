"""Kumar et al. 2024's networks from scratch: backbones, float images [B, 1, H, W] -> features [B, F].

Kumar et al. name the layers and no sizes. Ours: 3 x 3 kernels, the widths below, and an adaptive average
pooling before the fully connected layers (which are in `heads.py`): any picture of 32 pixels or more fits.
"""

from collections.abc import Callable

from torch import nn

SMALLEST_SIDE = 32


def _pooled_convolutions(widths: list[int], side: int) -> tuple[nn.Sequential, int]:
    """Return convolution, ReLU, max-pooling for each width, then `side` x `side` flattened; and how many features."""
    layers: list[nn.Module] = []
    channels = 1
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = width
    layers += [nn.AdaptiveAvgPool2d(side), nn.Flatten()]
    return nn.Sequential(*layers), channels * side * side


def cnn2() -> tuple[nn.Sequential, int]:
    """Return 2 x (convolution, ReLU, max-pooling) and its 32 x 8 x 8 features; 4 weight layers with its head."""
    return _pooled_convolutions([16, 32], side=8)


def cnn4() -> tuple[nn.Sequential, int]:
    """Return 4 x (convolution, ReLU, max-pooling) and its 128 x 4 x 4 features; 6 weight layers with its head."""
    return _pooled_convolutions([16, 32, 64, 128], side=4)


def cnn15() -> tuple[nn.Sequential, int]:
    """Return 13 batch-normalised convolutions in 5 pooled blocks, and 128 features; 15 weight layers with its head.

    The blocks are VGG-16's (Simonyan and Zisserman 2015, arXiv:1409.1556, column D), a quarter as wide.
    """
    layers: list[nn.Module] = []
    channels = 1
    for width, depth in [(16, 2), (32, 2), (64, 3), (128, 3), (128, 3)]:
        for _ in range(depth):
            # no bias: batch normalisation subtracts it again
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), channels


CNNS: dict[str, Callable[[], tuple[nn.Sequential, int]]] = {"cnn2": cnn2, "cnn4": cnn4, "cnn15": cnn15}
