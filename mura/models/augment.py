"""Augmentation, batched and on the device: one affine sampling for all that is geometric, a draw per picture.

uint8 [B, 1, S, S] from the cache in, float32 [B, 1, H, H] between 0 and 1 out.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far each draw may go; all zero means none.

    `flip` is the probability of a left-right flip, `rotation` is in degrees to either side, `shift` a share of
    the side, `scale` and `contrast` a relative change, `brightness` a share of the grey range. Flips and
    rotations up to 30 degrees are Rajpurkar et al. 2017, section 3.
    """

    flip: float = 0.0
    rotation: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    @property
    def moves(self) -> bool:
        return any((self.flip, self.rotation, self.shift, self.scale))


def resize(images: Tensor, side: int) -> Tensor:
    """uint8 [B, 1, S, S] -> float32 [B, 1, side, side] in 0..1, bilinear, nothing drawn."""
    scaled = images.float().div_(255)
    if scaled.shape[-1] == side:
        return scaled
    return F.interpolate(scaled, size=(side, side), mode="bilinear", align_corners=False)


def augment(images: Tensor, side: int, how: Augmentation) -> Tensor:
    """uint8 [B, 1, S, S] -> float32 [B, 1, side, side] in 0..1. Draws from torch's generator of the device."""
    if how.moves:
        grid = sampling_grid(affine_maps(images, how), side)
        out = F.grid_sample(images.float().div_(255), grid, align_corners=False)
    else:
        out = resize(images, side)
    if how.brightness or how.contrast:
        gain = 1 + how.contrast * _draw(images, -1, 1)
        offset = how.brightness * _draw(images, -1, 1)
        out = out.sub_(0.5).mul_(gain[:, None, None, None]).add_((0.5 + offset)[:, None, None, None]).clamp_(0, 1)
    return out


def affine_maps(images: Tensor, how: Augmentation) -> Tensor:
    """Output to input coordinates, [B, 2, 3], one draw a picture."""
    angle = math.radians(how.rotation) * _draw(images, -1, 1)
    zoom = 1 / (1 + how.scale * _draw(images, -1, 1))
    mirror = 1 - 2 * (_draw(images, 0, 1) < how.flip).float()
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # a shift by a share of the side is twice that in coordinates from -1 to 1
    right, down = 2 * how.shift * _draw(images, -1, 1), 2 * how.shift * _draw(images, -1, 1)
    rows = torch.stack([cosine * mirror, -sine, right, sine * mirror, cosine, down], dim=1)
    return rows.view(-1, 2, 3)


def sampling_grid(maps: Tensor, side: int) -> Tensor:
    """Where each output pixel comes from, [B, side, side, 2]; as `F.affine_grid` of `maps` [B, 2, 3] gives it.

    A sum of a row and a column a map, where `affine_grid` multiplies matrices: a tenth of its time on a CPU.
    """
    centres = (torch.arange(side, device=maps.device, dtype=maps.dtype) * 2 + 1) / side - 1
    across = maps[:, :, 0, None] * centres + maps[:, :, 2, None]  # [B, 2, side]
    down = maps[:, :, 1, None] * centres
    grid = maps.new_empty(len(maps), side, side, 2)
    for axis in (0, 1):
        torch.add(across[:, axis, None, :], down[:, axis, :, None], out=grid[..., axis])
    return grid


def _draw(images: Tensor, low: float, high: float) -> Tensor:
    return torch.rand(len(images), device=images.device) * (high - low) + low
