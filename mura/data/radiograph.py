"""One synthetic radiograph: bones as hollow tubes in space (cm), projected, shaded by path length, exposed.

Extremity, body, finding and a generator go in; grey pixels and the finding's box come out. Only `+ - * /`,
square roots and integers touch the pixels, so that a seed gives the same picture on every machine.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Point = tuple[float, float, float]
Field = np.ndarray  # float32 [height, width]

KINDS = ("fracture", "plate", "wire", "lytic", "sclerotic")
METAL = 3.0
SAMPLES = 1024  # entries of a tube's outline, end to end


@dataclass(frozen=True)
class Break:
    """A dark line across a bone at `at` (0 to 1), `gap` cm wide; `depth` 1 is black.

    The part beyond it is displaced by `shift` (across, towards the viewer; cm).
    """

    at: float
    slope: float
    gap: float
    depth: float
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Spot:
    """A round change of density: `amount` -1 takes the bone away, +1 doubles it. `radius` in cm."""

    at: float
    radius: float
    amount: float


@dataclass(frozen=True)
class Tube:
    """A hollow, solid or soft body of elliptical section from `start` to `end`; radii and places in cm.

    `bend`: how far its middle lies beside the straight line. `marrow`: how hollow, 0 is solid.
    """

    name: str
    shape: str
    start: Point
    end: Point
    width: float
    depth: float
    bend: float = 0.0
    density: float = 1.0
    marrow: float = 1.0
    breaks: tuple[Break, ...] = ()
    spots: tuple[Spot, ...] = ()

    def beside(self, at: float, across: float = 0.0, deep: float = 0.0) -> Point:
        """The place on the axis at `at` (0 to 1), moved across it and towards the viewer, in cm."""
        (x, y, z), (dx, dy, dz) = self.start, (self.end[i] - self.start[i] for i in range(3))
        flat = math.sqrt(dx * dx + dy * dy) or 1.0
        off = across + self.bend * 4 * at * (1 - at)
        return (x + at * dx + off * dy / flat, y + at * dy - off * dx / flat, z + at * dz + deep)

    @property
    def length(self) -> float:
        return math.dist(self.start, self.end)


@dataclass(frozen=True)
class Finding:
    """A sign of abnormality at `at` (0 to 1) along a bone. `subtlety` 0 is plain to see, 1 hardly visible.

    `slope` is a break's against the bone's cross-section, `facing` the side (degrees) of a step or a plate.
    """

    kind: str
    bone: str
    at: float
    subtlety: float
    slope: float
    facing: float


@dataclass(frozen=True)
class Body:
    """What a patient's pictures have in common."""

    left: bool  # arm
    size: float  # of the whole body, 1 is usual; so are the next two
    stout: float  # bones
    flesh: float
    child: bool  # with growth plates
    digit: int  # the finger that finger studies show, 1 is the thumb
    habits: int  # seed of what is normal and yet seen, such as a ring


@dataclass(frozen=True)
class Radiograph:
    """`pixels` uint8 [height, width]; `box` (x, y, width, height) of the finding in pixels, if it is in view."""

    pixels: np.ndarray
    box: tuple[int, int, int, int] | None = None


# ---------------------------------------------------------------- anatomy
# Outlines: (place from start to end, radius left to right, radius front to back), in the tube's own radii.
# The number after them: the length of the rounded ends.
OUTLINES: dict[str, tuple[tuple[tuple[float, float, float], ...], float]] = {
    "limb": (((0, 1, 1), (1, 1, 1)), 0.02),
    "round": (((0, 1, 1), (1, 1, 1)), 0.5),
    "block": (((0, 0.9, 0.9), (0.5, 1, 1), (1, 0.95, 0.95)), 0.3),
    "rod": (((0, 1, 1), (1, 1, 1)), 0.05),
    "arm": (((0, 0.66, 0.6), (0.15, 0.64, 0.55), (0.6, 1.0, 1), (0.85, 1.12, 1.1), (1, 0.95, 1)), 0.09),
    "upper": (((0, 0.75, 0.85), (0.15, 0.95, 0.85), (0.5, 1, 1), (0.85, 1.15, 1.1), (1, 0.85, 1)), 0.1),
    "metacarpal": (((0, 1.6, 1.5), (0.2, 1.0, 1), (0.6, 0.95, 1), (0.87, 1.6, 1.6), (1, 1.5, 1.5)), 0.1),
    "phalanx": (((0, 1.75, 1.5), (0.25, 1.05, 1), (0.65, 0.95, 0.8), (0.9, 1.4, 1.2), (1, 1.3, 1.1)), 0.12),
    "tuft": (((0, 2.0, 1.6), (0.3, 1.0, 1), (0.7, 0.75, 0.7), (0.9, 1.15, 0.7), (1, 0.9, 0.6)), 0.14),
    "radius": (((0, 2.0, 1.5), (0.05, 2.1, 1.6), (0.2, 1.15, 1.1), (0.5, 1.0, 1), (0.82, 0.95, 1),
                (0.89, 1.2, 1.2), (0.95, 0.95, 1), (0.985, 1.6, 1.6), (1, 1.55, 1.6)), 0.012),
    "ulna": (((0, 1.25, 1.1), (0.03, 1.35, 1.2), (0.1, 0.85, 0.9), (0.5, 1.0, 1), (0.8, 1.15, 1.3),
              (0.93, 1.75, 2.0), (1, 1.6, 1.7)), 0.03),
    "humerus": (((0, 1.85, 0.8), (0.04, 2.55, 0.9), (0.1, 1.7, 0.85), (0.2, 1.05, 1), (0.6, 1.0, 1.05),
                 (0.82, 1.25, 1.25), (0.93, 1.95, 1.85), (1, 1.8, 1.8)), 0.055),
    "finger": (((0, 1.15, 1.1), (0.45, 0.95, 0.95), (0.6, 1.0, 1), (1, 0.75, 0.7)), 0.09),
    "palm": (((0, 0.72, 0.9), (0.25, 0.85, 1), (0.8, 1.08, 1), (1, 1.0, 0.8)), 0.12),
    "rib": (((0, 1, 1), (1, 1, 1)), 0.05),
    "scapula": (((0, 0.5, 0.5), (0.4, 0.7, 0.7), (1, 1.5, 1.4)), 0.1),
    "clavicle": (((0, 1.5, 0.8), (0.3, 1.0, 0.9), (0.7, 0.9, 0.9), (1, 1.5, 1.4)), 0.06),
    "blade": (((0, 0.15, 1), (0.6, 0.9, 1), (1, 1.0, 1)), 0.2),
}  # fmt: skip

# Forearm and carpus, thumb side to the left, palm down: the wrist at y = 0, the fingers above, the elbow at 24.
FOREARM = (
    Tube("radius", "radius", (-0.85, -0.05, 0.1), (-1.35, 24.0, 0.3), 0.74, 0.7, bend=-0.55),
    Tube("ulna", "ulna", (1.5, 0.25, -0.2), (0.75, 26.2, -1.1), 0.66, 0.64, bend=0.35),
)
CARPALS = tuple(
    Tube(name, "block", (x - dx, y - dy, z), (x + dx, y + dy, z), 1.22 * width, 0.75, density=0.75, marrow=0.9)
    for name, x, y, z, dx, dy, width in (
        ("scaphoid", -1.35, -1.25, 0.2, -0.45, 0.8, 0.56),
        ("lunate", -0.1, -0.9, 0.1, 0.1, 0.66, 0.72),
        ("triquetrum", 1.15, -1.25, -0.3, 0.35, 0.62, 0.6),
        ("pisiform", 1.35, -1.35, 0.9, 0.1, 0.4, 0.42),
        ("trapezium", -2.0, -2.45, 0.5, 0.3, 0.7, 0.62),
        ("trapezoid", -1.15, -2.65, 0.1, 0.05, 0.55, 0.5),
        ("capitate", -0.25, -2.3, 0.0, 0.03, 1.05, 0.6),
        ("hamate", 0.85, -2.45, 0.1, 0.1, 0.85, 0.62),
    )
)
# A ray: base and head of the metacarpal, direction of the finger (x, y), lengths and radius of its bones.
RAYS: dict[int, tuple[Point, Point, tuple[float, float], tuple[float, ...], float]] = {
    1: ((-2.45, -3.2, 0.6), (-4.3, -6.8, 1.4), (-0.42, -0.9), (3.1, 2.3), 0.48),
    2: ((-1.35, -3.35, 0.1), (-2.05, -9.6, 0.1), (-0.17, -0.98), (4.1, 2.4, 1.8), 0.43),
    3: ((-0.3, -3.45, 0.0), (-0.35, -9.7, 0.0), (-0.02, -1.0), (4.5, 2.8, 1.9), 0.44),
    4: ((0.6, -3.4, 0.0), (1.2, -9.0, 0.0), (0.14, -0.99), (4.2, 2.6, 1.9), 0.4),
    5: ((1.35, -3.2, 0.1), (2.6, -8.2, 0.1), (0.32, -0.95), (3.3, 1.9, 1.7), 0.37),
}
GIRDLE = (
    Tube("blade", "blade", (7.4, 41.5, -4), (6.8, 55.5, -3), 3.6, 0.5, density=0.3, marrow=0.3),
    Tube("scapula", "scapula", (7.6, 41.0, -4), (4.6, 54.6, -1), 0.75, 0.6, bend=-0.5),
    Tube("glenoid", "block", (4.0, 52.6, 0), (4.1, 56.4, 0), 0.75, 1.3, marrow=0.8),
    Tube("margin", "rod", (7.6, 41.4, -4), (11.4, 54.0, -5), 0.22, 0.22, bend=1.2, density=0.6),
    Tube("spine", "scapula", (11.4, 54.6, -5), (0.9, 59.3, -1.5), 0.5, 0.5, bend=1.0, density=0.8),
    Tube("acromion", "block", (2.6, 58.9, -1.5), (-0.6, 58.6, 0), 0.62, 1.0, density=0.9),
    Tube("coracoid", "block", (5.0, 57.0, 0.5), (3.0, 56.5, 2.5), 0.55, 0.6),
    Tube("clavicle", "clavicle", (1.4, 59.8, 0.5), (15.5, 60.6, 3), 0.55, 0.55, bend=0.0),
)
RIBS = tuple(
    Tube(f"rib{i}", "rib", (21.0, 58.5 - 3.2 * i, -5), (9.5, 53.0 - 4.6 * i, 1), 0.55, 0.55, bend=-2.2, density=0.3)
    for i in range(5)
)
FLESH = {
    "arm": Tube("arm", "arm", (0.2, -3.5, 0), (-0.1, 28.8, -0.2), 4.3, 3.9),
    "palm": Tube("palm", "palm", (0.1, 2.0, 0.2), (-0.35, -11.0, 0.2), 4.1, 1.9),
    "upper": Tube("upper", "upper", (0, 21.3, 0), (0.3, 61, 0), 4.7, 4.6),
    "cap": Tube("cap", "round", (-0.5, 44, 0), (6.5, 63.5, 0), 6.6, 6.0),
    "chest": Tube("chest", "limb", (15.0, 0.0, 0), (11.5, 66.0, 0), 11.5, 9.0, density=0.85),
}
# What the picture shows: its middle and height (cm), then the least and the greatest width / height.
WINDOWS: dict[str, tuple[Point, float, float, float]] = {
    "elbow": ((-0.2, 25.0, 0.0), 17.0, 0.7, 1.1),
    "finger": ((0.0, 0.0, 0.0), 12.5, 0.4, 0.7),
    "forearm": ((0.0, 12.5, 0.0), 32.0, 0.4, 0.65),
    "hand": ((-0.7, -8.0, 0.3), 25.5, 0.68, 0.9),
    "humerus": ((0.6, 41.0, 0.0), 41.0, 0.42, 0.7),
    "shoulder": ((4.0, 52.5, 0.0), 21.0, 0.85, 1.2),
    "wrist": ((-0.2, -0.8, 0.0), 15.5, 0.6, 0.9),
}
UPRIGHT = ("finger", "hand", "wrist", "forearm")  # shown with the far end above; the others with the near end
# Where findings sit: bones and the stretch of each; a bone named twice is hit twice as often.
SITES: dict[str, tuple[tuple[str, float, float], ...]] = {
    "elbow": (("humerus", 0.05, 0.2), ("radius", 0.84, 0.95), ("ulna", 0.78, 0.92)),
    "finger": (("pp", 0.2, 0.8), ("mp", 0.2, 0.8), ("dp", 0.3, 0.7)),
    "forearm": (("radius", 0.15, 0.8), ("ulna", 0.15, 0.8)),
    "hand": tuple((f"{bone}{ray}", 0.25, 0.85) for bone in ("mc", "pp") for ray in RAYS),
    "humerus": (("humerus", 0.15, 0.88),),
    "shoulder": (("humerus", 0.8, 0.95), ("humerus", 0.85, 0.93), ("clavicle", 0.15, 0.6)),
    "wrist": (
        ("radius", 0.03, 0.16),
        ("radius", 0.04, 0.1),
        ("ulna", 0.03, 0.15),
        ("scaphoid", 0.4, 0.6),
        ("mc5", 0.2, 0.7),
    ),
}


def _turn(degrees: float) -> tuple[float, float]:
    """Cosine and sine, rounded so that no library's last digit reaches a pixel."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


def _ray(ray: int, curl: float) -> list[Tube]:
    """Metacarpal and phalanges of one finger, each joint bent `curl` degrees towards the palm."""
    base, head, (dx, dy), lengths, radius = RAYS[ray]
    tubes = [Tube(f"mc{ray}", "metacarpal", base, head, radius, radius)]
    names = ("pp", "dp") if ray == 1 else ("pp", "mp", "dp")
    at, bent = head, 0.0
    for joint, (name, length) in enumerate(zip(names, lengths, strict=True)):
        bent += curl
        cos, sin = _turn(bent)
        step = (dx * cos, dy * cos, sin)
        start = tuple(at[i] + 0.1 * step[i] for i in range(3))
        end = tuple(at[i] + length * step[i] for i in range(3))
        thick = radius * (1.0, 0.88, 0.72)[joint if ray != 1 else joint * 2]
        shape = "tuft" if name == "dp" else "phalanx"
        tubes.append(Tube(f"{name}{ray}", shape, start, end, thick, thick))  # type: ignore[arg-type]
        at = end  # type: ignore[assignment]
    return tubes


def _finger_flesh(tubes: list[Tube]) -> Tube:
    """Soft tissue about the phalanges of one ray."""
    first, last = tubes[1], tubes[-1]
    beyond = tuple(last.end[i] + 0.08 * (last.end[i] - last.start[i]) for i in range(3))
    return Tube("flesh", "finger", tubes[0].end, beyond, first.width * 2.3, first.width * 2.2)  # type: ignore[arg-type]


def _bend_elbow(tube: Tube, flexion: float) -> Tube:
    """A part of the upper arm after the elbow, at y = 25, is bent forwards."""
    cos, sin = _turn(flexion)

    def moved(p: Point) -> Point:
        return (p[0], 25 + (p[1] - 25) * cos - p[2] * sin, (p[1] - 25) * sin + p[2] * cos)

    return replace(tube, start=moved(tube.start), end=moved(tube.end))


def _humerus(flexion: float) -> list[Tube]:
    fossa = Spot(0.045, 0.75, -0.45)
    parts = (
        Tube("humerus", "humerus", (-0.1, 24.9, 0), (0.1, 55.8, 0), 1.15, 1.1, spots=(fossa,)),
        Tube("capitellum", "block", (-1.35, 24.5, 0.5), (-1.3, 26.3, 0.5), 0.95, 0.9, density=0.25),
        Tube("trochlea", "block", (0.9, 24.3, 0.4), (1.0, 26.4, 0.4), 1.15, 0.95, density=0.25),
        Tube("head", "round", (-0.3, 53.2, 0.2), (2.7, 56.0, 0.2), 2.35, 2.35, density=0.42, marrow=0.9),
    )
    return [_bend_elbow(part, flexion) for part in parts]


def anatomy(extremity: str, digit: int, alone: bool, flexion: float, curl: float) -> tuple[list[Tube], list[Tube]]:
    """Bones and soft parts that a picture of this extremity may show, in this pose."""
    if extremity in ("humerus", "shoulder"):
        flesh = [FLESH["upper"], FLESH["cap"], FLESH["chest"], FLESH["arm"]]
        return [*_humerus(0), *GIRDLE, *RIBS, *FOREARM], flesh
    if extremity == "elbow":
        return [*_humerus(flexion), *FOREARM], [_bend_elbow(FLESH["upper"], flexion), FLESH["arm"]]
    shown = [digit] if alone else list(RAYS)
    rays = {ray: _ray(ray, curl * (1 + 0.35 * (ray - 3) * (ray > 1))) for ray in shown}
    bones = [bone for tubes in rays.values() for bone in tubes]
    flesh = [_finger_flesh(tubes) for tubes in rays.values()] + [FLESH["palm"], FLESH["arm"]]
    if extremity != "finger":
        bones += [*CARPALS, *FOREARM]
    if extremity == "forearm":
        bones, flesh = [*bones, *_humerus(flexion)], [*flesh, _bend_elbow(FLESH["upper"], flexion)]
    return bones, flesh


# ---------------------------------------------------------------- findings


def _rod(name: str, start: Point, end: Point, radius: float, depth: float | None = None) -> Tube:
    return Tube(name, "rod", start, end, radius, radius if depth is None else depth, density=METAL, marrow=0)


def _plate(bone: Tube, finding: Finding) -> list[Tube]:
    """A plate along the shaft and its screws across it."""
    half = min(0.3, 5.0 / bone.length) * (1.15 - 0.6 * finding.subtlety)
    first, last = max(0.03, finding.at - half), min(0.97, finding.at + half)
    cos, sin = _turn(finding.facing)

    def surface(at: float, distance: float) -> Point:
        return bone.beside(at, distance * bone.width * cos, distance * bone.depth * sin)

    thick = min(bone.width, 0.8) * (0.5 - 0.3 * finding.subtlety)
    screws = max(3, round(6 - 3 * finding.subtlety))
    places = [first + (last - first) * (i + 0.5) / screws for i in range(screws)]
    metal = [_rod("screw", surface(at, 1.1), surface(at, -1.05), min(bone.width, 0.8) * 0.18) for at in places]
    return [_rod("plate", surface(first, 1.05), surface(last, 1.05), thick), *metal]


def _wires(bone: Tube, finding: Finding) -> list[Tube]:
    """One to three K-wires through the bone at shallow angles."""
    reach = min(0.5, max(0.3, 3.0 / bone.length))
    wires = []
    for i in range(3 - round(2 * finding.subtlety)):
        (ax, ay, az), (bx, by, bz) = bone.beside(finding.at - reach), bone.beside(finding.at + reach)
        lean = bone.width * (1.5 - 1.1 * i) * (1 if finding.slope > 0 else -1)
        ends = (ax + lean, ay, az + 0.2 * i), (bx - lean, by, bz)
        wires.append(_rod("wire", *ends, min(bone.width * 0.3, 0.24) * (1 - 0.6 * finding.subtlety)))
    return wires


def _marked(bone: Tube, finding: Finding) -> Tube:
    """The bone with its fracture or lesion."""
    plain = 1 - finding.subtlety
    if finding.kind == "fracture":
        cos, sin = _turn(finding.facing)
        far = bone.width * (0.15 + 1.6 * plain)
        gap = Break(
            finding.at,
            finding.slope,
            min(bone.width, 0.7) * (0.1 + 0.6 * plain),
            0.45 + 0.5 * plain,
            (far * cos, far * sin),
        )
        return replace(bone, breaks=(*bone.breaks, gap))
    radius = bone.width * (0.7 + 1.1 * plain)
    amount = -(0.3 + 0.65 * plain) if finding.kind == "lytic" else 0.3 + 1.7 * plain
    return replace(bone, spots=(*bone.spots, Spot(finding.at, radius, amount)))


def _with_finding(bones: list[Tube], finding: Finding) -> tuple[list[Tube], list[Tube]]:
    """All bones with the finding in its place, and the tubes that span it."""
    place = next(i for i, bone in enumerate(bones) if bone.name == finding.bone)
    bone = bones[place]
    if finding.kind in ("plate", "wire"):
        metal = (_plate if finding.kind == "plate" else _wires)(bone, finding)
        return bones + metal, metal
    around = bone.width * 1.9 / bone.length
    span = replace(
        bone, start=bone.beside(finding.at - around), end=bone.beside(finding.at + around), width=bone.width * 1.9
    )
    return [*bones[:place], _marked(bone, finding), *bones[place + 1 :]], [replace(span, depth=span.width, shape="rod")]


# ---------------------------------------------------------------- projection


@dataclass(frozen=True)
class Camera:
    """Parallel projection: turned about the limb's axis, tilted in the frame; `scale` in pixels a cm."""

    turn: tuple[float, float]
    tilt: tuple[float, float]
    mirror: int
    scale: float
    looks_at: Point
    middle: tuple[float, float]

    def project(self, p: Point) -> tuple[float, float]:
        c = self.looks_at
        x = self.mirror * ((p[0] - c[0]) * self.turn[0] + (p[2] - c[2]) * self.turn[1])
        y = p[1] - c[1]
        column = self.middle[0] + self.scale * (x * self.tilt[0] - y * self.tilt[1])
        row = self.middle[1] + self.scale * (x * self.tilt[1] + y * self.tilt[0])
        return round(column * 64) / 64, round(row * 64) / 64

    def across(self, x: float, z: float) -> float:
        """Pixels that a step of (x, z) cm moves across the picture."""
        return self.mirror * self.scale * (x * self.turn[0] + z * self.turn[1])

    def radius(self, across: float | Field, deep: float | Field) -> Field:
        """Half the projected width, in pixels, of an ellipse with these radii in cm."""
        cos, sin = self.turn
        wide, far = across * np.float32(cos), deep * np.float32(sin)
        return np.sqrt(wide * wide + far * far) * np.float32(self.scale)


@functools.cache
def _outline(shape: str) -> tuple[Field, Field, Field, Field]:
    """Radii (left to right, front to back), marrow's share of the radius, and how empty it is: [SAMPLES] each."""
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
        return self.x + self.ux * self.length, self.y + self.uy * self.length


def _axis(tube: Tube, camera: Camera, widest: float) -> _Axis:
    (x0, y0), (x1, y1) = camera.project(tube.start), camera.project(tube.end)
    dx, dy = x1 - x0, y1 - y0
    length = math.sqrt(dx * dx + dy * dy)
    ux, uy = (dx / length, dy / length) if length > 0.5 else (0.0, 1.0)
    short = max(0.0, 1.6 * widest - length)  # a tube seen end on is as long as it is wide
    # A rib goes round the chest and bends from wherever it is seen; other bones bend to the side.
    bend = camera.mirror * camera.scale * tube.bend if tube.shape == "rib" else camera.across(tube.bend, 0.0)
    return _Axis(x0 - short / 2 * ux, y0 - short / 2 * uy, ux, uy, length + short, bend)


def _patch(tube: Tube, camera: Camera, shape: tuple[int, int]) -> _Patch | None:
    """Where the tube meets the picture; None if it does not."""
    x, z, _, _ = _outline(tube.shape)
    # Thin wires must survive a small picture.
    thinnest = np.float32(0.55 if tube.density >= METAL else 0.05)
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
    """Moves what lies beyond the break; returns what the break leaves of the bone, 0 to 1."""
    half = np.float32(max(0.6, gap.gap * camera.scale / 2))
    zigzag = np.abs(np.mod(patch.across * (1.4 / half), np.float32(2)) - 1) * half
    beyond = patch.along - np.float32(gap.at * patch.length) + np.float32(gap.slope) * patch.across + zigzag
    shift = camera.across(*gap.shift)
    if shift:
        # Full step at the break, back in line at the joint.
        back = np.clip((1 - patch.along * np.float32(1 / patch.length)) * np.float32(1 / (1 - gap.at)), 0, 1)
        np.subtract(patch.across, np.float32(shift) * back, out=patch.across, where=beyond > 0)
    return 1 - np.float32(gap.depth) * np.clip(np.float32(1.5) - np.abs(beyond) / half, 0, 1)


def _spotted(patch: _Patch, camera: Camera, spot: Spot, grain: Field) -> Field:
    """What a lesion makes of the bone: a factor below or above 1, with a ragged edge."""
    along = patch.along - np.float32(spot.at * patch.length)
    square = (along * along + patch.across * patch.across) * np.float32(1 / (spot.radius * camera.scale) ** 2)
    return 1 + np.float32(spot.amount) * np.clip(np.float32(1.45) - square * (1 + grain), 0, 1)


def _chord(patch: _Patch, tube: Tube, grain: Field) -> Field:
    """Share of a full bone's shadow at each pixel: bright walls, less in the marrow."""
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


def _paint(canvas: Canvas, camera: Camera, tube: Tube, soft: bool = False) -> None:
    """Adds the tube's shadow; soft parts melt into one another instead of adding up."""
    patch = _patch(tube, camera, canvas.bone.shape)
    if patch is None:
        return
    grain = canvas.grain[patch.rows, patch.columns]
    left = [_displace(patch, camera, gap) for gap in tube.breaks]
    shadow = _chord(patch, tube, grain) * np.float32(tube.density)
    for factor in [*left, *(_spotted(patch, camera, spot, grain) for spot in tube.spots)]:
        shadow *= factor
    if soft:
        region = canvas.soft[patch.rows, patch.columns]
        np.maximum(region, shadow, out=region)
    else:
        canvas.bone[patch.rows, patch.columns] += shadow


# ---------------------------------------------------------------- exposure


@functools.cache
def _textures() -> tuple[Field, Field, Field]:
    """Grain of the bone, noise of the detector, clouds of soft tissue: [1536, 1536] each, about -1 to 1."""
    rng = np.random.default_rng(20171211)

    def blurred(radius: float, spread: float) -> Field:
        raw = Image.fromarray(rng.integers(0, 256, (1536, 1536), dtype=np.uint8))
        smooth = np.asarray(raw.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius)))
        return ((smooth.astype(np.float32) - 127.5) * np.float32(1 / spread)).clip(-1.5, 1.5)

    return blurred(0.7, 55), blurred(0.35, 75), blurred(14, 5)


def _crop(texture: Field, shape: tuple[int, int], rng: np.random.Generator) -> Field:
    top, left = (int(rng.integers(0, 1536 - side + 1)) for side in shape)
    return texture[top : top + shape[0], left : left + shape[1]]


@functools.lru_cache(maxsize=512)
def _writing(text: str, height: int, angle: int) -> Field:
    """Lead letters, 0 to 1, from the font that Pillow brings along."""
    font = ImageFont.load_default(4 * height)
    box = font.getbbox(text)
    mask = Image.new("L", (int(box[2]) + 8, int(box[3]) + 8))
    ImageDraw.Draw(mask).text((4, 4), text, fill=255, font=font)
    return np.asarray(mask.rotate(angle, expand=True).reduce(4), dtype=np.float32) * np.float32(1 / 255)


def _write(onto: Field, text: str, height: int, angle: int, place: tuple[float, float], value: float) -> None:
    """Puts letters with their middle at `place` (shares of height and width), cut at the frame."""
    letters = _writing(text, height, angle)[: onto.shape[0], : onto.shape[1]]
    top, left = (
        max(0, min(side - own, int(share * side - own / 2)))
        for side, own, share in zip(onto.shape, letters.shape, place, strict=True)
    )
    region = onto[top : top + letters.shape[0], left : left + letters.shape[1]]
    np.maximum(region, letters * np.float32(value), out=region)


def _mark_side(canvas: Canvas, body: Body, rng: np.random.Generator) -> None:
    """The technician's L or R, often with initials, near an edge."""
    if rng.random() > 0.88:
        return
    longest = max(canvas.bone.shape)
    height = max(5, round(longest * float(rng.integers(40, 75)) / 1000))
    row, column = (int(rng.integers(7, 26)) / 100 for _ in range(2))
    row, column = (1 - row if rng.random() < 0.5 else row), (1 - column if rng.random() < 0.5 else column)
    angle = int(rng.choice([0, 0, 0, -8, 8, 15, -20, 90]))
    _write(canvas.bone, "L" if body.left else "R", height, angle, (row, column), 2.0)
    if rng.random() < 0.5:
        initials = "".join(rng.choice(list("ABCDEHJKLMNPRST"), size=int(rng.integers(2, 4))))
        beside = row + 1.25 * height / canvas.bone.shape[0] * (1 if row < 0.5 else -1)
        _write(canvas.bone, initials, max(4, height // 2), angle, (beside, column), 1.7)


@functools.lru_cache(maxsize=256)
def _film(contrast: int, gamma: int, black: int, white: int) -> np.ndarray:
    """Grey of the film, uint8 [1024], for attenuation 0 to 4; contrast and gamma in hundredths."""
    light = [1 - math.exp(-contrast / 100 * i * 4 / 1023) for i in range(1024)]
    grey = [black + (white - black) * math.pow(v, gamma / 100) for v in light]
    return np.array([round(v) for v in grey], dtype=np.uint8)


def _melted(soft: Field) -> Field:
    """Soft tissue without the seams between its parts."""
    levels = Image.fromarray((soft * 255).clip(0, 255).astype(np.uint8))
    reach = max(soft.shape) / 160
    smooth = levels.filter(ImageFilter.BoxBlur(reach)).filter(ImageFilter.BoxBlur(reach))
    return np.asarray(smooth).astype(np.float32) * np.float32(1 / 255)


def _expose(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Scatter, uneven field, noise and film: grey pixels uint8 [height, width]."""
    shape = canvas.bone.shape
    _, noise, clouds = _textures()
    level = float(rng.uniform(0.4, 0.65))
    total = _melted(canvas.soft) * (np.float32(level) * (1 + np.float32(0.12) * _crop(clouds, shape, rng)))
    total += canvas.bone * np.float32(rng.uniform(0.85, 1.3))
    slope_y, slope_x = (np.float32(rng.uniform(-0.08, 0.08)) for _ in range(2))
    total += np.linspace(-slope_y, slope_y, shape[0], dtype=np.float32)[:, None]
    total += np.linspace(-slope_x, slope_x, shape[1], dtype=np.float32)[None, :]
    total += np.float32(rng.uniform(0.02, 0.09)) * _crop(noise, shape, rng)
    contrast, gamma = int(rng.integers(70, 115)), int(rng.integers(90, 150))
    film = _film(contrast, gamma, int(rng.integers(0, 30)), int(rng.integers(205, 256)))
    index = (total * np.float32(1023 / 4)).clip(0, 1023).astype(np.intp)
    return film.take(index)


def _beam(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """1 where the beam falls, 0 outside, uint8 [height, width]: a rectangle, mostly a little askew."""
    if rng.random() < 0.3:
        return np.ones(shape, np.uint8)
    height, width = shape
    cos, sin = _turn(float(rng.uniform(-4, 4)) * (3 if rng.random() < 0.2 else 1))
    left, right, top, bottom = (float(rng.uniform(0.36, 0.56)) for _ in range(4))
    corners = [(-left, -top), (right, -top), (right, bottom), (-left, bottom)]
    placed = [
        (round(width / 2 + x * width * cos - y * height * sin), round(height / 2 + x * width * sin + y * height * cos))
        for x, y in corners
    ]
    beam = Image.new("L", (width, height))
    ImageDraw.Draw(beam).polygon(placed, fill=1)
    return np.asarray(beam)


# ---------------------------------------------------------------- the picture


@dataclass(frozen=True)
class _Pose:
    turn: float
    flexion: float
    curl: float
    alone: bool
    tilt: float


def _pose(extremity: str, view: int, rng: np.random.Generator) -> _Pose:
    """Frontal, lateral, oblique in turn; degrees."""
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
    """The place that the picture is centred on."""
    if extremity == "finger":
        return next(bone for bone in bones if bone.name == f"pp{digit}").beside(0.8)
    place = WINDOWS[extremity][0]
    if extremity == "elbow" and pose.flexion > 40:
        return (place[0], place[1], 2.0)
    return place


def _camera(
    extremity: str, body: Body, pose: _Pose, middle: Point, size: int, rng: np.random.Generator
) -> tuple[Camera, tuple[int, int]]:
    _, tall, narrow, wide = WINDOWS[extremity]
    aspect = float(rng.uniform(narrow, wide))
    height, width = (size, round(size * aspect)) if aspect <= 1 else (round(size / aspect), size)
    scale = height / tall * body.size * float(rng.uniform(0.92, 1.15))
    upright = pose.tilt + (0 if extremity in UPRIGHT else 180)
    place = (width * float(rng.uniform(0.45, 0.55)), height * float(rng.uniform(0.46, 0.54)))
    camera = Camera(_turn(pose.turn), _turn(upright), -1 if body.left else 1, scale, middle, place)
    return camera, (height, width)


def _everyday(bones: list[Tube], extremity: str, body: Body) -> list[Tube]:
    """What is no abnormality but may look like one: growth plates, a nutrient canal, a bone island, a ring."""
    rng = np.random.default_rng(body.habits)
    plate = Break(0.93, float(rng.uniform(-0.2, 0.2)), 0.14, 0.5)
    long = ("radius", "ulna", "humerus", "metacarpal", "phalanx")
    if body.child:
        bones = [
            replace(bone, breaks=(replace(plate, at=0.9 if bone.shape == "metacarpal" else 0.075),))
            if bone.shape in long
            else bone
            for bone in bones
        ]
    canal, island, ring, marked = (float(v) for v in rng.random(4))
    names = sorted({name for name, *_ in SITES[extremity]})
    chosen = names[int(marked * len(names))]
    extra: list[Tube] = []
    for i, bone in enumerate(bones):
        if bone.name in (chosen, f"{chosen}{body.digit}"):
            if canal < 0.35:
                line = Break(0.3 + 0.4 * marked, 2.2, 0.1, 0.3)
                bones[i] = bone = replace(bone, breaks=(*bone.breaks, line))
            if island < 0.25:
                bones[i] = bone = replace(bone, spots=(*bone.spots, Spot(0.2 + 0.6 * ring, 0.4 * bone.width, 0.5)))
        if extremity in ("hand", "finger") and ring < 0.2 and bone.name == "pp4":
            half = 2.3 * bone.width
            extra.append(_rod("ring", bone.beside(0.45, -half), bone.beside(0.5, half), 0.17, 0.3))
    return bones + extra


def new_body(rng: np.random.Generator) -> Body:
    """A patient."""
    child = bool(rng.random() < 0.15)
    return Body(
        left=bool(rng.random() < 0.5),
        size=float(rng.uniform(0.75, 0.95)) if child else float(rng.uniform(0.9, 1.1)),
        stout=float(rng.uniform(0.88, 1.14)),
        flesh=float(rng.uniform(0.88, 1.2)),
        child=child,
        digit=int(rng.integers(1, 6)),
        habits=int(rng.integers(2**31)),
    )


def new_finding(extremity: str, body: Body, rng: np.random.Generator, kinds: Iterable[str] = KINDS) -> Finding:
    """A sign of abnormality somewhere in this extremity."""
    sites = SITES[extremity]
    bone, low, high = sites[int(rng.integers(len(sites)))]
    if extremity == "finger":
        bone = f"{'pp' if bone == 'mp' and body.digit == 1 else bone}{body.digit}"
    kinds = list(kinds)
    return Finding(
        kind=kinds[int(rng.integers(len(kinds)))],
        bone=bone,
        at=float(rng.uniform(low, high)),
        subtlety=float(rng.random() * rng.random()),
        slope=float(rng.uniform(-0.7, 0.7)),
        facing=float(rng.uniform(0, 360)),
    )


def _box(spans: list[Tube], camera: Camera, beam: np.ndarray) -> tuple[int, int, int, int] | None:
    """Pixels that the finding covers (x, y, width, height); None where the frame or the beam leaves it out."""
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
    """Takes picture number `view` (0 frontal, 1 lateral, 2 oblique, and again); longest side `size`.

    `close_up` (bone, place) fills the picture with that place, so that one extremity resembles another.
    """
    pose = _pose(extremity, view, rng)
    bones, flesh = anatomy(extremity, body.digit, pose.alone, pose.flexion, pose.curl)
    bones = _everyday(
        [replace(b, width=b.width * body.stout, depth=b.depth * body.stout) for b in bones], extremity, body
    )
    middle = _middle(extremity, bones, body.digit, pose)
    camera, shape = _camera(extremity, body, pose, middle, size, rng)
    if close_up is not None:
        bone = next(bone for bone in bones if bone.name == close_up[0])
        camera = replace(camera, looks_at=bone.beside(close_up[1]), scale=size / (9 * bone.width))
    spans: list[Tube] = []
    if finding is not None:
        bones, spans = _with_finding(bones, finding)
    canvas = Canvas(np.zeros(shape, np.float32), np.zeros(shape, np.float32), _crop(_textures()[0], shape, rng))
    for part in flesh:
        _paint(
            canvas,
            camera,
            replace(part, width=part.width * body.flesh, depth=part.depth * body.flesh, marrow=-0.3),
            soft=True,
        )
    for bone in bones:
        _paint(canvas, camera, bone)
    _mark_side(canvas, body, rng)
    pixels, beam = _expose(canvas, rng), _beam(shape, rng)
    return Radiograph(pixels * beam, _box(spans, camera, beam) if spans else None)
