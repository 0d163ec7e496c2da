"""The picture: an extremity of a body, posed, projected and exposed."""

from dataclasses import dataclass, replace

import numpy as np

from mura.synthetic.anatomy import UPRIGHT, WINDOWS, Point, Tube, build_limb, cos_sin
from mura.synthetic.exposure import beam_mask, crop, expose, mark_side, textures
from mura.synthetic.findings import Body, Finding, add_everyday_marks, add_finding
from mura.synthetic.projection import Camera, Canvas, paint


@dataclass(frozen=True)
class Radiograph:
    """A picture: `pixels` uint8 [height, width], and the finding's `box` (x, y, width, height), if it is in view."""

    pixels: np.ndarray
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class _Pose:
    """How the limb is held, in degrees; `alone` shows no other finger."""

    turn: float
    flexion: float
    curl: float
    alone: bool
    tilt: float


def _pose(extremity: str, view: int, rng: np.random.Generator) -> _Pose:
    """Draw a pose: frontal, lateral and oblique views in turn."""
    wobble = float(rng.uniform(-10, 10))
    lateral, oblique = view % 3 == 1, view % 3 == 2
    steep = 55.0 if extremity == "shoulder" else 90.0
    turn = wobble + (steep if lateral else 42.0 if oblique else 0.0)
    flexion = (
        float(rng.uniform(55, 100)) if lateral and extremity in ("elbow", "forearm") else float(rng.uniform(0, 12))
    )
    curl = float(rng.uniform(4, 16)) if lateral else float(rng.uniform(0, 8))
    alone = extremity == "finger" and (lateral or rng.random() < 0.45)
    tilt = float(rng.uniform(-10, 10)) * (2.5 if rng.random() < 0.15 else 1)
    return _Pose(turn, flexion, curl, alone, tilt)


def _middle(extremity: str, bones: list[Tube], digit: int, pose: _Pose) -> Point:
    """Return the place in space that the picture is centred on."""
    if extremity == "finger":
        return next(bone for bone in bones if bone.name == f"pp{digit}").beside(0.8)
    place = WINDOWS[extremity][0]
    if extremity == "elbow" and pose.flexion > 40:
        return (place[0], place[1], 2.0)
    return place


def _camera(
    extremity: str, body: Body, pose: _Pose, middle: Point, size: int, rng: np.random.Generator
) -> tuple[Camera, tuple[int, int]]:
    """Draw the camera and the picture's height and width; its longest side is `size`."""
    _, tall, narrow, wide = WINDOWS[extremity]
    aspect = float(rng.uniform(narrow, wide))
    height, width = (size, round(size * aspect)) if aspect <= 1 else (round(size / aspect), size)
    scale = height / tall * body.size * float(rng.uniform(0.92, 1.15))
    upright = pose.tilt + (0 if extremity in UPRIGHT else 180)
    place = (width * float(rng.uniform(0.45, 0.55)), height * float(rng.uniform(0.46, 0.54)))
    camera = Camera(cos_sin(pose.turn), cos_sin(upright), -1 if body.left else 1, scale, middle, place)
    return camera, (height, width)


def _box(spans: list[Tube], camera: Camera, beam: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the pixels that the finding covers (x, y, width, height), None if frame or beam leave it out."""
    edges = []
    for span in spans:
        reach = float(camera.radius(span.width, span.depth)) + 1
        for x, y in (camera.project(span.beside(at)) for at in (0.0, 1.0)):
            edges.append((x - reach, y - reach, x + reach, y + reach))
    height, width = beam.shape
    left, top = (int(max(0, min(e[i] for e in edges))) for i in (0, 1))
    right, bottom = (int(min(side, max(e[i] for e in edges))) for i, side in ((2, width), (3, height)))
    if right - left < 2 or bottom - top < 2 or beam[top:bottom, left:right].sum() * 2 < (right - left) * (bottom - top):
        return None
    return left, top, right - left, bottom - top


def draw_radiograph(
    extremity: str,
    body: Body,
    finding: Finding | None,
    view: int,
    size: int,
    rng: np.random.Generator,
    close_up: tuple[str, float] | None = None,
) -> Radiograph:
    """Return picture number `view` (0 frontal, 1 lateral, 2 oblique, and again), its longest side `size` pixels.

    `close_up` (bone, place) fills the picture with that place, so that one extremity resembles another.
    """
    pose = _pose(extremity, view, rng)
    bones, flesh = build_limb(extremity, body.digit, pose.alone, pose.flexion, pose.curl)
    bones = add_everyday_marks(
        [replace(b, width=b.width * body.stout, depth=b.depth * body.stout) for b in bones], extremity, body
    )
    middle = _middle(extremity, bones, body.digit, pose)
    camera, shape = _camera(extremity, body, pose, middle, size, rng)
    if close_up is not None:
        bone = next(bone for bone in bones if bone.name == close_up[0])
        camera = replace(camera, looks_at=bone.beside(close_up[1]), scale=size / (9 * bone.width))
    spans: list[Tube] = []
    if finding is not None:
        bones, spans = add_finding(bones, finding)
    canvas = Canvas(np.zeros(shape, np.float32), np.zeros(shape, np.float32), crop(textures()[0], shape, rng))
    for part in flesh:
        paint(
            canvas,
            camera,
            replace(part, width=part.width * body.flesh, depth=part.depth * body.flesh, marrow=-0.3),
            soft=True,
        )
    for bone in bones:
        paint(canvas, camera, bone)
    mark_side(canvas, body, rng)
    pixels, beam = expose(canvas, rng), beam_mask(shape, rng)
    return Radiograph(pixels * beam, _box(spans, camera, beam) if spans else None)
