"""Augmentation, batched and on the device: one affine sampling for all that is geometric, a draw for each picture.

Uint8 pictures come from the cache, float32 ones between 0 and 1 go to the network.
Shape suffixes: B pictures, 1 grey channel, S x S pixels in the cache, H x H for the network.
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
        """Whether pixels change their place."""
        return any((self.flip, self.rotation, self.shift, self.scale))


def resize(images_B1SS: Tensor, side: int) -> Tensor:
    """Return uint8 pictures as float32 [B, 1, H, H] between 0 and 1, H = `side`: bilinear, nothing drawn."""
    scaled_B1SS = images_B1SS.float().div_(255)
    if scaled_B1SS.shape[-1] == side:
        return scaled_B1SS
    return F.interpolate(scaled_B1SS, size=(side, side), mode="bilinear", align_corners=False)


def augment(images_B1SS: Tensor, side: int, how: Augmentation) -> Tensor:
    """Return uint8 pictures, changed at random, as float32 [B, 1, H, H] between 0 and 1, H = `side`.

    Draws from torch's generator of the pictures' device.
    """
    if how.moves:
        grid_BHH2 = sampling_grid(affine_maps(images_B1SS, how), side)
        out_B1HH = F.grid_sample(images_B1SS.float().div_(255), grid_BHH2, align_corners=False)
    else:
        out_B1HH = resize(images_B1SS, side)
    if how.brightness or how.contrast:
        gain_B111 = (1 + how.contrast * _draw(images_B1SS, -1, 1))[:, None, None, None]
        offset_B111 = (0.5 + how.brightness * _draw(images_B1SS, -1, 1))[:, None, None, None]
        out_B1HH = out_B1HH.sub_(0.5).mul_(gain_B111).add_(offset_B111).clamp_(0, 1)
    return out_B1HH


def affine_maps(images_B1SS: Tensor, how: Augmentation) -> Tensor:
    """Return maps [B, 2, 3] from output to input coordinates (each -1 to 1), drawn for each picture."""
    angle_B = math.radians(how.rotation) * _draw(images_B1SS, -1, 1)
    zoom_B = 1 / (1 + how.scale * _draw(images_B1SS, -1, 1))
    mirror_B = 1 - 2 * (_draw(images_B1SS, 0, 1) < how.flip).float()
    cosine_B, sine_B = torch.cos(angle_B) * zoom_B, torch.sin(angle_B) * zoom_B
    # a shift by a share of the side is twice that in coordinates from -1 to 1
    right_B, down_B = 2 * how.shift * _draw(images_B1SS, -1, 1), 2 * how.shift * _draw(images_B1SS, -1, 1)
    maps_B6 = torch.stack([cosine_B * mirror_B, -sine_B, right_B, sine_B * mirror_B, cosine_B, down_B], dim=1)
    return maps_B6.view(-1, 2, 3)


def sampling_grid(maps_B23: Tensor, side: int) -> Tensor:
    """Return where each output pixel comes from, [B, H, H, 2], H = `side`; equal to `F.affine_grid`.

    It adds a row and a column for each map, where `affine_grid` multiplies matrices: a tenth of its time on a CPU.
    """
    centres_H = (torch.arange(side, device=maps_B23.device, dtype=maps_B23.dtype) * 2 + 1) / side - 1
    across_B2H = maps_B23[:, :, 0, None] * centres_H + maps_B23[:, :, 2, None]
    down_B2H = maps_B23[:, :, 1, None] * centres_H
    grid_BHH2 = maps_B23.new_empty(len(maps_B23), side, side, 2)
    for axis in (0, 1):
        torch.add(across_B2H[:, axis, None, :], down_B2H[:, axis, :, None], out=grid_BHH2[..., axis])
    return grid_BHH2


def _draw(images_B1SS: Tensor, low: float, high: float) -> Tensor:
    """Return a number [B] between `low` and `high` for each picture, on its device."""
    return torch.rand(len(images_B1SS), device=images_B1SS.device) * (high - low) + low
