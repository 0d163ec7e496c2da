"""Exposure, which makes grey pixels of shadows: scatter, noise, letters of lead, the beam, the film."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mura.synthetic.anatomy import cos_sin
from mura.synthetic.findings import Body
from mura.synthetic.projection import Canvas, Field

TEXTURE_SIDE = 1536  # pixels, more than the largest picture's


@functools.cache
def textures() -> tuple[Field, Field, Field]:
    """Return grain of the bone, noise of the detector, clouds of soft tissue: [1536, 1536] each, about -1 to 1."""
    rng = np.random.default_rng(20171211)

    def blur(radius: float, spread: float) -> Field:
        raw = Image.fromarray(rng.integers(0, 256, (TEXTURE_SIDE, TEXTURE_SIDE), dtype=np.uint8))
        smooth = np.asarray(raw.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius)))
        return ((smooth.astype(np.float32) - 127.5) * np.float32(1 / spread)).clip(-1.5, 1.5)

    return blur(0.7, 55), blur(0.35, 75), blur(14, 5)


def crop(texture: Field, shape: tuple[int, int], rng: np.random.Generator) -> Field:
    """Return a piece [height, width] of a texture, from a random place."""
    top, left = (int(rng.integers(0, TEXTURE_SIDE - side + 1)) for side in shape)
    return texture[top : top + shape[0], left : left + shape[1]]


@functools.lru_cache(maxsize=512)
def _letters(text: str, height: int, angle: int) -> Field:
    """Return lead letters, float32 [h, w] from 0 to 1, in the font that Pillow brings along."""
    font = ImageFont.load_default(4 * height)
    box = font.getbbox(text)
    mask = Image.new("L", (int(box[2]) + 8, int(box[3]) + 8))
    ImageDraw.Draw(mask).text((4, 4), text, fill=255, font=font)
    return np.asarray(mask.rotate(angle, expand=True).reduce(4), dtype=np.float32) * np.float32(1 / 255)


def _stamp(onto: Field, text: str, height: int, angle: int, place: tuple[float, float], value: float) -> None:
    """Put letters with their middle at `place` (shares of height and width), cut at the frame."""
    letters = _letters(text, height, angle)[: onto.shape[0], : onto.shape[1]]
    top, left = (
        max(0, min(side - own, int(share * side - own / 2)))
        for side, own, share in zip(onto.shape, letters.shape, place, strict=True)
    )
    region = onto[top : top + letters.shape[0], left : left + letters.shape[1]]
    np.maximum(region, letters * np.float32(value), out=region)


def mark_side(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """Write the technician's L or R, often with initials, near an edge."""
    if rng.random() > 0.88:
        return
    longest = max(canvas.bone.shape)
    height = max(5, round(longest * float(rng.integers(40, 75)) / 1000))
    row, column = (int(rng.integers(7, 26)) / 100 for _ in range(2))
    row, column = (1 - row if rng.random() < 0.5 else row), (1 - column if rng.random() < 0.5 else column)
    angle = int(rng.choice([0, 0, 0, -8, 8, 15, -20, 90]))
    _stamp(canvas.bone, "L" if body.left else "R", height, angle, (row, column), 2.0)
    if rng.random() < 0.5:
        initials = "".join(rng.choice(list("ABCDEHJKLMNPRST"), size=int(rng.integers(2, 4))))
        beside = row + 1.25 * height / canvas.bone.shape[0] * (1 if row < 0.5 else -1)
        _stamp(canvas.bone, initials, max(4, height // 2), angle, (beside, column), 1.7)


@functools.lru_cache(maxsize=256)
def _film(contrast: int, gamma: int, black: int, white: int) -> np.ndarray:
    """Return the grey of the film, uint8 [1024], for attenuation 0 to 4; contrast and gamma in hundredths."""
    light = [1 - math.exp(-contrast / 100 * i * 4 / 1023) for i in range(1024)]
    grey = [black + (white - black) * math.pow(v, gamma / 100) for v in light]
    return np.array([round(v) for v in grey], dtype=np.uint8)


def _melt(soft: Field) -> Field:
    """Return the soft tissue without the seams between its parts."""
    levels = Image.fromarray((soft * 255).clip(0, 255).astype(np.uint8))
    reach = max(soft.shape) / 160
    smooth = levels.filter(ImageFilter.BoxBlur(reach)).filter(ImageFilter.BoxBlur(reach))
    return np.asarray(smooth).astype(np.float32) * np.float32(1 / 255)


def expose(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Return grey pixels, uint8 [height, width]: the shadows with scatter, uneven field and noise, on film."""
    shape = canvas.bone.shape
    _, noise, clouds = textures()
    level = float(rng.uniform(0.4, 0.65))
    total = _melt(canvas.soft) * (np.float32(level) * (1 + np.float32(0.12) * crop(clouds, shape, rng)))
    total += canvas.bone * np.float32(rng.uniform(0.85, 1.3))
    slope_y, slope_x = (np.float32(rng.uniform(-0.08, 0.08)) for _ in range(2))
    total += np.linspace(-slope_y, slope_y, shape[0], dtype=np.float32)[:, None]
    total += np.linspace(-slope_x, slope_x, shape[1], dtype=np.float32)[None, :]
    total += np.float32(rng.uniform(0.02, 0.09)) * crop(noise, shape, rng)
    contrast, gamma = int(rng.integers(70, 115)), int(rng.integers(90, 150))
    film = _film(contrast, gamma, int(rng.integers(0, 30)), int(rng.integers(205, 256)))
    index = (total * np.float32(1023 / 4)).clip(0, 1023).astype(np.intp)
    return film.take(index)


def beam_mask(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return 1 where the beam falls, 0 outside, uint8 [height, width]: a rectangle, mostly a little askew."""
    if rng.random() < 0.3:
        return np.ones(shape, np.uint8)
    height, width = shape
    cos, sin = cos_sin(float(rng.uniform(-4, 4)) * (3 if rng.random() < 0.2 else 1))
    left, right, top, bottom = (float(rng.uniform(0.36, 0.56)) for _ in range(4))
    corners = [(-left, -top), (right, -top), (right, bottom), (-left, bottom)]
    placed = [
        (round(width / 2 + x * width * cos - y * height * sin), round(height / 2 + x * width * sin + y * height * cos))
        for x, y in corners
    ]
    beam = Image.new("L", (width, height))
    ImageDraw.Draw(beam).polygon(placed, fill=1)
    return np.asarray(beam)
