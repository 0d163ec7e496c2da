"""Augmentation: one draw a picture, nothing drawn when nothing is asked for, geometry as named."""

import pytest
import torch
import torch.nn.functional as F

from mura.models.augment import Augmentation, affine_maps, augment, resize, sampling_grid


def pictures(n: int = 4, side: int = 40) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8)


def test_without_any_augmentation_it_is_the_plain_resizing() -> None:
    images = pictures()
    assert torch.equal(augment(images, 32, Augmentation()), resize(images, 32))


def test_an_identity_map_equals_the_plain_resizing() -> None:
    images = pictures()
    # a rotation of 0 +- 1e-6 degrees goes through the affine sampling
    moved = augment(images, 32, Augmentation(rotation=1e-6))
    torch.testing.assert_close(moved, resize(images, 32), atol=1e-4, rtol=0)


def test_a_certain_flip_mirrors_left_and_right() -> None:
    images = pictures()
    flipped = augment(images, 40, Augmentation(flip=1.0))
    torch.testing.assert_close(flipped, resize(images, 40).flip(-1), atol=1e-4, rtol=0)


def test_every_picture_has_a_draw_of_its_own() -> None:
    torch.manual_seed(0)
    same = pictures(1).expand(8, -1, -1, -1)
    turned = augment(same, 32, Augmentation(rotation=30))
    assert len({round(float(picture.sum()), 3) for picture in turned}) == 8


def test_rotation_keeps_the_shape_of_what_it_turns() -> None:
    torch.manual_seed(0)
    side = 64
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = (((x - 31.5) ** 2 + (y - 31.5) ** 2) < 20**2).to(torch.uint8)[None, None] * 255
    turned = augment(disc.expand(16, -1, -1, -1), side, Augmentation(rotation=180))
    assert float((turned - resize(disc, side)).abs().mean()) < 0.01


def test_grey_levels_stay_between_0_and_1() -> None:
    out = augment(pictures(16), 32, Augmentation(brightness=0.5, contrast=0.5))
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1


def test_the_same_seed_gives_the_same_draws() -> None:
    images, how = pictures(), Augmentation(0.5, 30, 0.1, 0.1, 0.1, 0.1)
    torch.manual_seed(7)
    first = augment(images, 32, how)
    torch.manual_seed(7)
    assert torch.equal(first, augment(images, 32, how))


@pytest.mark.parametrize("side", [32, 65])
def test_the_sampling_grid_is_that_of_torch(side: int) -> None:
    maps = affine_maps(torch.zeros(5, 1, side, side), Augmentation(0.5, 30, 0.1, 0.2))
    expected = F.affine_grid(maps, [5, 1, side, side], align_corners=False)
    torch.testing.assert_close(sampling_grid(maps, side), expected, atol=1e-6, rtol=0)
