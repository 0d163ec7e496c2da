"""Tubes to shadows: each is projected, and shaded by the length of the ray's path in it."""

import functools
import math
from dataclasses import dataclass

import numpy as np

from mura.synthetic.anatomy import METAL_DENSITY, OUTLINES, Break, Point, Spot, Tube

Field = np.ndarray  # float32 [height, width]
SAMPLES = 1024  # entries of a tube's outline, end to end


@dataclass(frozen=True)
class Camera:
    """A parallel projection, turned about the limb's axis and tilted in the frame.

    `turn` and `tilt` are (cosine, sine), `mirror` is -1 for a left arm, `scale` is pixels per cm. The point `looks_at`
    (cm) falls on `middle` (column, row).
    """

    turn: tuple[float, float]
    tilt: tuple[float, float]
    mirror: int
    scale: float
    looks_at: Point
    middle: tuple[float, float]

    def project(self, p: Point) -> tuple[float, float]:
        """Return column and row of a point in space, in pixels, rounded to 1/64."""
        c = self.looks_at
        x = self.mirror * ((p[0] - c[0]) * self.turn[0] + (p[2] - c[2]) * self.turn[1])
        y = p[1] - c[1]
        column = self.middle[0] + self.scale * (x * self.tilt[0] - y * self.tilt[1])
        row = self.middle[1] + self.scale * (x * self.tilt[1] + y * self.tilt[0])
        return round(column * 64) / 64, round(row * 64) / 64

    def across(self, x: float, z: float) -> float:
        """Return how many pixels a step of (x, z) cm moves across the picture."""
        return self.mirror * self.scale * (x * self.turn[0] + z * self.turn[1])

    def radius(self, across: float | Field, deep: float | Field) -> Field:
        """Return half the projected width, in pixels, of an ellipse with these radii in cm."""
        cos, sin = self.turn
        wide, far = across * np.float32(cos), deep * np.float32(sin)
        return np.sqrt(wide * wide + far * far) * np.float32(self.scale)


@functools.cache
def _outline(shape: str) -> tuple[Field, Field, Field, Field]:
    """Return radii (left to right, front to back), the marrow's share of them, and how empty it is: [SAMPLES] each."""
    knots, cap = OUTLINES[shape]
    rows = []
    for i in range(SAMPLES):
        t = i / (SAMPLES - 1)
        k = max(j for j in range(len(knots) - 1) if knots[j][0] <= t)
        (t0, *a), (t1, *b) = knots[k], knots[k + 1]
        w = (t - t0) / (t1 - t0)
        w = w * w * (3 - 2 * w)
        end = min(t, 1 - t)
        rounding = math.sqrt(max(0.0, 1 - ((cap - end) / cap) ** 2)) if end < cap else 1.0
        middle = 4 * t * (1 - t)
        rows.append(
            [(p + (q - p) * w) * rounding for p, q in zip(a, b, strict=True)]
            + [0.92 - 0.34 * middle, 0.5 + 0.38 * middle]
        )
    x, z, marrow, empty = np.array(rows, dtype=np.float32).T
    return x, z, marrow, empty


@dataclass
class Canvas:
    """What the rays have crossed so far: bone (with metal) and soft tissue; `grain` is bone's texture."""

    bone: Field
    soft: Field
    grain: Field


@dataclass(frozen=True)
class _Patch:
    """The part of the picture that a tube covers, in the tube's own directions."""

    rows: slice
    columns: slice
    along: Field  # pixels from the tube's start
    across: Field  # pixels from its axis
    length: float
    radius: Field  # [SAMPLES] pixels


@dataclass(frozen=True)
class _Axis:
    """A tube's axis in the picture, in pixels: where it starts, its direction, its length and its bend."""

    x: float
    y: float
    ux: float
    uy: float
    length: float
    bend: float

    @property
    def end(self) -> tuple[float, float]:
        """Column and row where it ends."""
        return self.x + self.ux * self.length, self.y + self.uy * self.length


def _axis(tube: Tube, camera: Camera, widest: float) -> _Axis:
    """Return the tube's axis in the picture; `widest` is its largest radius in pixels."""
    (x0, y0), (x1, y1) = camera.project(tube.start), camera.project(tube.end)
    dx, dy = x1 - x0, y1 - y0
    length = math.sqrt(dx * dx + dy * dy)
    ux, uy = (dx / length, dy / length) if length > 0.5 else (0.0, 1.0)
    short = max(0.0, 1.6 * widest - length)  # a tube seen end on is as long as it is wide
    # A rib goes round the chest and bends from wherever it is seen; other bones bend to the side.
    bend = camera.mirror * camera.scale * tube.bend if tube.shape == "rib" else camera.across(tube.bend, 0.0)
    return _Axis(x0 - short / 2 * ux, y0 - short / 2 * uy, ux, uy, length + short, bend)


def _patch(tube: Tube, camera: Camera, shape: tuple[int, int]) -> _Patch | None:
    """Return where the tube meets the picture, None if it does not."""
    x, z, _, _ = _outline(tube.shape)
    # Thin wires must survive a small picture.
    thinnest = np.float32(0.55 if tube.density >= METAL_DENSITY else 0.05)
    radius = np.maximum(camera.radius(x * np.float32(tube.width), z * np.float32(tube.depth)), thinnest)
    widest = float(radius.max())
    axis = _axis(tube, camera, widest)
    shift = max((abs(camera.across(*gap.shift)) for gap in tube.breaks), default=0.0)
    reach = widest + abs(axis.bend) + shift + 1.5
    (x1, y1) = axis.end
    top, bottom = max(0, int(min(axis.y, y1) - reach)), min(shape[0], int(max(axis.y, y1) + reach) + 1)
    left, right = max(0, int(min(axis.x, x1) - reach)), min(shape[1], int(max(axis.x, x1) + reach) + 1)
    if top >= bottom or left >= right:
        return None
    rows = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(axis.y)
    columns = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(axis.x)
    along = columns * np.float32(axis.ux) + rows * np.float32(axis.uy)
    across = columns * np.float32(axis.uy) - rows * np.float32(axis.ux)
    if axis.bend:
        u = along * np.float32(1 / axis.length)
        across -= np.float32(4 * axis.bend) * u * (1 - u)
    return _Patch(slice(top, bottom), slice(left, right), along, across, axis.length, radius)


def _displace(patch: _Patch, camera: Camera, gap: Break) -> Field:
    """Move what lies beyond the break; return what the break leaves of the bone, 0 to 1."""
    half = np.float32(max(0.6, gap.gap * camera.scale / 2))
    zigzag = np.abs(np.mod(patch.across * (1.4 / half), np.float32(2)) - 1) * half
    beyond = patch.along - np.float32(gap.at * patch.length) + np.float32(gap.slope) * patch.across + zigzag
    shift = camera.across(*gap.shift)
    if shift:
        # Full step at the break, back in line at the joint.
        back = np.clip((1 - patch.along * np.float32(1 / patch.length)) * np.float32(1 / (1 - gap.at)), 0, 1)
        np.subtract(patch.across, np.float32(shift) * back, out=patch.across, where=beyond > 0)
    return 1 - np.float32(gap.depth) * np.clip(np.float32(1.5) - np.abs(beyond) / half, 0, 1)


def _spot_factor(patch: _Patch, camera: Camera, spot: Spot, grain: Field) -> Field:
    """Return what a lesion makes of the bone: a factor below or above 1, with a ragged edge."""
    along = patch.along - np.float32(spot.at * patch.length)
    square = (along * along + patch.across * patch.across) * np.float32(1 / (spot.radius * camera.scale) ** 2)
    return 1 + np.float32(spot.amount) * np.clip(np.float32(1.45) - square * (1 + grain), 0, 1)


def _chord(patch: _Patch, tube: Tube, grain: Field) -> Field:
    """Return the share of a full bone's shadow at each pixel: bright walls, less in the marrow."""
    _, _, marrow, empty = _outline(tube.shape)
    place = patch.along * np.float32((SAMPLES - 1) / patch.length)
    inside = (place >= 0) & (place <= SAMPLES - 1)
    index = np.clip(place, 0, SAMPLES - 1).astype(np.intp)
    q = patch.across / patch.radius.take(index)
    square = q * q
    chord = np.sqrt(np.clip(1 - square, 0, 1)) * inside
    if tube.marrow:
        k = marrow.take(index)
        wall = np.float32(0.09 * float(patch.radius.max()) + 0.6)
        ends = np.clip(np.minimum(patch.along, patch.length - patch.along) / wall, 0, 1)
        hollow = np.sqrt(np.clip(k * k - square, 0, 1)) * ends
        chord -= np.float32(tube.marrow) * empty.take(index) * hollow * (1 + np.float32(0.3) * grain)
    return chord


def paint(canvas: Canvas, camera: Camera, tube: Tube, soft: bool = False) -> None:
    """Add the tube's shadow to the canvas; soft parts melt into one another instead of adding up."""
    patch = _patch(tube, camera, canvas.bone.shape)
    if patch is None:
        return
    grain = canvas.grain[patch.rows, patch.columns]
    left = [_displace(patch, camera, gap) for gap in tube.breaks]
    shadow = _chord(patch, tube, grain) * np.float32(tube.density)
    for factor in [*left, *(_spot_factor(patch, camera, spot, grain) for spot in tube.spots)]:
        shadow *= factor
    if soft:
        region = canvas.soft[patch.rows, patch.columns]
        np.maximum(region, shadow, out=region)
    else:
        canvas.bone[patch.rows, patch.columns] += shadow
