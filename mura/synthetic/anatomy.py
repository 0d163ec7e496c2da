"""Bones and soft parts of the upper limb as tubes in space, in cm."""

import math
from dataclasses import dataclass, replace

Point = tuple[float, float, float]

METAL_DENSITY = 3.0  # of bone's


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
        """Return the place on the axis at `at` (0 to 1), moved across it and towards the viewer, in cm."""
        (x, y, z), (dx, dy, dz) = self.start, (self.end[i] - self.start[i] for i in range(3))
        flat = math.sqrt(dx * dx + dy * dy) or 1.0
        off = across + self.bend * 4 * at * (1 - at)
        return (x + at * dx + off * dy / flat, y + at * dy - off * dx / flat, z + at * dz + deep)

    @property
    def length(self) -> float:
        """Length in cm, without the bend."""
        return math.dist(self.start, self.end)


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


def cos_sin(degrees: float) -> tuple[float, float]:
    """Return cosine and sine, rounded so that no library's last digit reaches a pixel."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


def _ray(ray: int, curl: float) -> list[Tube]:
    """Return metacarpal and phalanges of one finger, each joint bent `curl` degrees towards the palm."""
    base, head, (dx, dy), lengths, radius = RAYS[ray]
    tubes = [Tube(f"mc{ray}", "metacarpal", base, head, radius, radius)]
    names = ("pp", "dp") if ray == 1 else ("pp", "mp", "dp")
    at, bent = head, 0.0
    for joint, (name, length) in enumerate(zip(names, lengths, strict=True)):
        bent += curl
        cos, sin = cos_sin(bent)
        step = (dx * cos, dy * cos, sin)
        start = tuple(at[i] + 0.1 * step[i] for i in range(3))
        end = tuple(at[i] + length * step[i] for i in range(3))
        thick = radius * (1.0, 0.88, 0.72)[joint if ray != 1 else joint * 2]
        shape = "tuft" if name == "dp" else "phalanx"
        tubes.append(Tube(f"{name}{ray}", shape, start, end, thick, thick))  # type: ignore[arg-type]
        at = end  # type: ignore[assignment]
    return tubes


def _finger_flesh(tubes: list[Tube]) -> Tube:
    """Return the soft tissue about the phalanges of one ray."""
    first, last = tubes[1], tubes[-1]
    beyond = tuple(last.end[i] + 0.08 * (last.end[i] - last.start[i]) for i in range(3))
    return Tube("flesh", "finger", tubes[0].end, beyond, first.width * 2.3, first.width * 2.2)  # type: ignore[arg-type]


def _bend_elbow(tube: Tube, flexion: float) -> Tube:
    """Return a part of the upper arm, bent forwards at the elbow (y = 25) by `flexion` degrees."""
    cos, sin = cos_sin(flexion)

    def turn(p: Point) -> Point:
        return (p[0], 25 + (p[1] - 25) * cos - p[2] * sin, (p[1] - 25) * sin + p[2] * cos)

    return replace(tube, start=turn(tube.start), end=turn(tube.end))


def _humerus(flexion: float) -> list[Tube]:
    """Return the humerus and its joints, bent at the elbow by `flexion` degrees."""
    fossa = Spot(0.045, 0.75, -0.45)
    parts = (
        Tube("humerus", "humerus", (-0.1, 24.9, 0), (0.1, 55.8, 0), 1.15, 1.1, spots=(fossa,)),
        Tube("capitellum", "block", (-1.35, 24.5, 0.5), (-1.3, 26.3, 0.5), 0.95, 0.9, density=0.25),
        Tube("trochlea", "block", (0.9, 24.3, 0.4), (1.0, 26.4, 0.4), 1.15, 0.95, density=0.25),
        Tube("head", "round", (-0.3, 53.2, 0.2), (2.7, 56.0, 0.2), 2.35, 2.35, density=0.42, marrow=0.9),
    )
    return [_bend_elbow(part, flexion) for part in parts]


def build_limb(extremity: str, digit: int, alone: bool, flexion: float, curl: float) -> tuple[list[Tube], list[Tube]]:
    """Return the bones and the soft parts that a picture of this extremity may show, in this pose.

    `digit` is the finger of a finger study, `alone` leaves out the others; `flexion` of the elbow and `curl` of the
    fingers are in degrees.
    """
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
