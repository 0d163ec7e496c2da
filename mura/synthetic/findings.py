"""What is in a picture beside anatomy: a patient's own build and habits, and a sign of abnormality."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mura.synthetic.anatomy import METAL_DENSITY, SITES, Break, Point, Spot, Tube, cos_sin

FINDING_KINDS = ("fracture", "plate", "wire", "lytic", "sclerotic")
"""The kinds of all worlds but `separate`, which needs two more: a screw and pellets."""


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


def new_body(rng: np.random.Generator) -> Body:
    """Draw a patient's body at random."""
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


def new_finding(extremity: str, body: Body, rng: np.random.Generator, kinds: Iterable[str] = FINDING_KINDS) -> Finding:
    """Draw a sign of abnormality somewhere in this extremity, one of `kinds`."""
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


def rod(name: str, start: Point, end: Point, radius: float, depth: float | None = None) -> Tube:
    """Return a rod of metal, round unless `depth` is given; radii and places in cm."""
    return Tube(name, "rod", start, end, radius, radius if depth is None else depth, density=METAL_DENSITY, marrow=0)


def _plate(bone: Tube, finding: Finding) -> list[Tube]:
    """Return a plate along the shaft and its screws across it."""
    half = min(0.3, 5.0 / bone.length) * (1.15 - 0.6 * finding.subtlety)
    first, last = max(0.03, finding.at - half), min(0.97, finding.at + half)
    cos, sin = cos_sin(finding.facing)

    def surface(at: float, distance: float) -> Point:
        return bone.beside(at, distance * bone.width * cos, distance * bone.depth * sin)

    thick = min(bone.width, 0.8) * (0.5 - 0.3 * finding.subtlety)
    screws = max(3, round(6 - 3 * finding.subtlety))
    places = [first + (last - first) * (i + 0.5) / screws for i in range(screws)]
    metal = [rod("screw", surface(at, 1.1), surface(at, -1.05), min(bone.width, 0.8) * 0.18) for at in places]
    return [rod("plate", surface(first, 1.05), surface(last, 1.05), thick), *metal]


def _wires(bone: Tube, finding: Finding) -> list[Tube]:
    """Return one to three K-wires through the bone at shallow angles."""
    reach = min(0.5, max(0.3, 3.0 / bone.length))
    wires = []
    for i in range(3 - round(2 * finding.subtlety)):
        (ax, ay, az), (bx, by, bz) = bone.beside(finding.at - reach), bone.beside(finding.at + reach)
        lean = bone.width * (1.5 - 1.1 * i) * (1 if finding.slope > 0 else -1)
        ends = (ax + lean, ay, az + 0.2 * i), (bx - lean, by, bz)
        wires.append(rod("wire", *ends, min(bone.width * 0.3, 0.24) * (1 - 0.6 * finding.subtlety)))
    return wires


def _screw(bone: Tube, finding: Finding) -> list[Tube]:
    """Return one stout screw straight across the bone."""
    left, right = (bone.beside(finding.at, 1.5 * side * bone.width) for side in (-1, 1))
    return [rod("screw", left, right, min(bone.width, 0.8) * (0.35 - 0.2 * finding.subtlety))]


def _pellets(bone: Tube, finding: Finding) -> list[Tube]:
    """Return a handful of shot, scattered about the place."""
    radius = bone.width * (0.28 - 0.15 * finding.subtlety)
    shot = []
    for number in range(8 - round(4 * finding.subtlety)):
        cos, sin = cos_sin(finding.facing + 137.5 * number)
        away = bone.width * (0.4 + 0.3 * number)
        x, y, z = bone.beside(finding.at, away * cos)
        shot.append(rod("pellet", (x, y + away * sin, z), (x, y + away * sin + radius, z), radius))
    return shot


_METAL = {"plate": _plate, "wire": _wires, "screw": _screw, "pellets": _pellets}


def _mark_bone(bone: Tube, finding: Finding) -> Tube:
    """Return the bone with its fracture or lesion."""
    plain = 1 - finding.subtlety
    if finding.kind == "fracture":
        cos, sin = cos_sin(finding.facing)
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


def add_finding(bones: list[Tube], finding: Finding) -> tuple[list[Tube], list[Tube]]:
    """Return all bones with the finding in its place, and the tubes that span it."""
    place = next(i for i, bone in enumerate(bones) if bone.name == finding.bone)
    bone = bones[place]
    if finding.kind in _METAL:
        metal = _METAL[finding.kind](bone, finding)
        return bones + metal, metal
    around = bone.width * 1.9 / bone.length
    span = replace(
        bone, start=bone.beside(finding.at - around), end=bone.beside(finding.at + around), width=bone.width * 1.9
    )
    marked = [*bones[:place], _mark_bone(bone, finding), *bones[place + 1 :]]
    return marked, [replace(span, depth=span.width, shape="rod")]


def add_everyday_marks(bones: list[Tube], extremity: str, body: Body) -> list[Tube]:
    """Return the bones with what may look abnormal and isn't: growth plates, a canal, a bone island, a ring."""
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
            extra.append(rod("ring", bone.beside(0.45, -half), bone.beside(0.5, half), 0.17, 0.3))
    return bones + extra
