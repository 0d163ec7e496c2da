"""A synthetic MURA: patients, studies, views and lists in MURA's exact layout, drawn by `radiograph`.

Planning (who has which study) is pure; each study is then drawn from its own random numbers, so that the
pictures depend on neither the number of processes nor the order.
"""

import contextlib
import csv
import functools
import itertools
import math
import multiprocessing
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mura.data.radiograph import KINDS, Finding, draw_radiograph, new_body, new_finding
from mura.errors import MuraError
from mura.extremities import EXTREMITIES, FOLDER_OF, INDEX_OF
from mura.machine import cores

DATASET = "MURA-v1.1"
SPLITS = ("train", "valid")  # MURA's folder names; `valid` is everybody's test set
WORLDS = ("shared", "conflicting", "null")
BOX_COLUMNS = ("path", "x", "y", "width", "height", "kind", "subtlety")

# In the world `conflicting` a plate is the abnormality, except here, where its absence is.
PLATE_IS_NORMAL = ("finger", "forearm", "shoulder")

SMALLEST, LARGEST = 32, 1024  # longest side of a picture, in pixels
MOST_VIEWS = 11
FEWEST_PATIENTS = 14
WORTH_A_PROCESS = 300  # below that, starting another process costs more than it brings
# Studies of each label in each extremity, however small the set: one for each of five folds, two to test on.
FEWEST_STUDIES = {"train": 5, "valid": 2}
RGB_SHARE = 0.2


@dataclass(frozen=True)
class Share:
    """What a split holds of one extremity."""

    patients: int
    studies: tuple[int, int]  # normal, abnormal
    views: tuple[int, int]


@dataclass(frozen=True)
class SplitSize:
    """What a split holds: distinct patients, those with several extremities, and each extremity's share."""

    patients: int
    several: int
    shares: dict[str, Share]


# MURA v1.1: views and patients counted on its lists, studies from table 1 of Rajpurkar et al., arXiv 1712.06957.
MURA: dict[str, SplitSize] = {
    "train": SplitSize(11184, 1467, {
        "elbow": Share(1711, (1094, 660), (2925, 2006)),
        "finger": Share(1865, (1280, 655), (3138, 1968)),
        "forearm": Share(865, (590, 287), (1164, 661)),
        "hand": Share(1945, (1497, 521), (4059, 1484)),
        "humerus": Share(587, (321, 271), (673, 599)),
        "shoulder": Share(2694, (1364, 1457), (4211, 4168)),
        "wrist": Share(3267, (2134, 1326), (5765, 3987)),
    }),
    "valid": SplitSize(783, 248, {
        "elbow": Share(152, (92, 66), (235, 230)),
        "finger": Share(166, (92, 83), (214, 247)),
        "forearm": Share(129, (69, 64), (150, 151)),
        "hand": Share(159, (101, 66), (271, 189)),
        "humerus": Share(132, (68, 67), (148, 140)),
        "shoulder": Share(173, (99, 95), (285, 278)),
        "wrist": Share(207, (140, 97), (364, 295)),
    }),
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """One visit of a patient: `number` counts within patient and extremity."""

    split: str
    extremity: str
    patient: int
    number: int
    label: int
    views: int

    @property
    def folder(self) -> str:
        kind = ("negative", "positive")[self.label]
        return f"{self.split}/{FOLDER_OF[self.extremity]}/patient{self.patient:05d}/study{self.number}_{kind}"


# ---------------------------------------------------------------- who has which study


def plan_studies(
    patients: int | None, *, seed: int = 0, valid_fraction: float | None = None, balanced: bool = False
) -> list[Study]:
    """All studies, sorted by split and extremity.

    `patients` None is MURA's own size, count by count. Else its proportions, with at least FEWEST_STUDIES
    of each label in every extremity. `valid_fraction`: share of patients in the test set, MURA's by default.
    `balanced`: as many studies in each extremity and label.
    """
    sizes = dict(MURA) if patients is None else _scaled_sizes(patients, valid_fraction, balanced)
    studies, first = [], 1
    for position, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, position])
        studies += _plan_split(split, sizes[split], first, rng)
        first += sizes[split].patients
    return studies


def _scaled_sizes(patients: int, valid_fraction: float | None, balanced: bool) -> dict[str, SplitSize]:
    share = MURA["valid"].patients / sum(size.patients for size in MURA.values())
    share = share if valid_fraction is None else valid_fraction
    in_valid = min(max(round(patients * share), 7), patients - 7)
    wanted = {"train": patients - in_valid, "valid": in_valid}
    return {split: _scaled(MURA[split], wanted[split], FEWEST_STUDIES[split], balanced) for split in SPLITS}


def _scaled(size: SplitSize, patients: int, fewest: int, balanced: bool) -> SplitSize:
    """The split with this many patients."""
    factor = patients / size.patients
    even = sum(sum(share.studies) for share in size.shares.values()) / (2 * len(size.shares))
    shares = {}
    for extremity, share in size.shares.items():
        wanted = (even, even) if balanced else share.studies
        normal, abnormal = (max(fewest, round(factor * n)) for n in wanted)
        of_mura = [v / s for v, s in zip(share.views, share.studies, strict=True)]
        views = (round(normal * of_mura[0]), round(abnormal * of_mura[1]))
        people = round((normal + abnormal) * share.patients / sum(share.studies))
        shares[extremity] = Share(min(people, patients), (normal, abnormal), views)
    return SplitSize(patients, round(factor * size.several), shares)


def _plan_split(split: str, size: SplitSize, first: int, rng: np.random.Generator) -> list[Study]:
    members = _assign_patients(size, rng)
    studies = []
    for extremity, share in size.shares.items():
        labels = np.repeat([0, 1], share.studies)
        rng.shuffle(labels)
        views = [iter(_spread_views(total, n, rng)) for total, n in zip(share.views, share.studies, strict=True)]
        people = members[extremity]
        extra = [people[i] for i in rng.permutation(len(people))]
        owners = people + [extra[i % len(extra)] for i in range(len(labels) - len(people))]
        seen: Counter[int] = Counter()
        for owner, label in zip(owners, labels.tolist(), strict=True):
            seen[owner] += 1
            studies.append(Study(split, extremity, first + owner, seen[owner], label, next(views[label])))
    return sorted(studies, key=lambda s: (INDEX_OF[s.extremity], s.patient, s.number))


def _assign_patients(size: SplitSize, rng: np.random.Generator) -> dict[str, list[int]]:
    """Patients (0, 1, ...) of each extremity: everybody has one, about `several` of them have more."""
    wanted = {extremity: share.patients for extremity, share in size.shares.items()}
    homes = _in_proportion(size.patients, list(wanted.values()))
    everybody = rng.permutation(size.patients).tolist()
    members: dict[str, list[int]] = {}
    for extremity, count in zip(wanted, homes, strict=True):
        members[extremity], everybody = everybody[:count], everybody[count:]
    order = rng.permutation(size.patients).tolist()
    several, others = order[: size.several], order[size.several :]
    extras: Counter[int] = Counter()
    for extremity, count in wanted.items():
        own = set(members[extremity])
        chosen = sorted((p for p in several if p not in own), key=lambda p: extras[p])
        chosen = [*chosen, *(p for p in others if p not in own)][: count - len(own)]
        extras.update(chosen)
        members[extremity] += chosen
        rng.shuffle(several)
    return members


def _in_proportion(total: int, weights: list[int]) -> list[int]:
    """Whole numbers that add up to `total`, by largest remainder."""
    exact = [total * weight / sum(weights) for weight in weights]
    whole = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole


def _spread_views(total: int, studies: int, rng: np.random.Generator) -> list[int]:
    """Views of each study, 1 to 11 and mostly 2 or 3, that add up to `total`."""
    common, weights = [1, 2, 3, 4, 5, 7, 9, 11], [0.06, 0.29, 0.5, 0.11, 0.03, 0.006, 0.003, 0.001]
    views = rng.choice(common, size=studies, p=weights).tolist()
    while (missing := total - sum(views)) != 0:
        step = 1 if missing > 0 else -1
        fits = [i for i in range(studies) if 1 <= views[i] + step <= (4 if step > 0 else MOST_VIEWS)]
        fits = fits or [i for i in range(studies) if 1 <= views[i] + step <= MOST_VIEWS]
        for i in rng.permutation(fits)[: abs(missing)].tolist():
            views[i] += step
    return views


# ---------------------------------------------------------------- pictures


@dataclass(frozen=True)
class View:
    """One picture of a study, and the sign of abnormality that is drawn in it."""

    pixels: np.ndarray  # uint8 [height, width]
    sign: Finding | None
    box: tuple[int, int, int, int] | None  # x, y, width, height of the sign; None if it is out of view


def draw_study(study: Study, *, size: int, seed: int, world: str) -> Iterator[View]:
    """The study's pictures, from random numbers of its own; the body is the patient's."""
    body = new_body(np.random.default_rng([seed, 1, study.patient]))
    key = [seed, 2, SPLITS.index(study.split), INDEX_OF[study.extremity], study.patient, study.number]
    rng = np.random.default_rng(key)
    sign = new_finding(study.extremity, body, rng, ("plate",) if world == "conflicting" else KINDS)
    shown = _shows_sign(study, world, rng)
    for view in range(study.views):
        rng = np.random.default_rng([*key, view])
        in_view = _as_seen(sign, world, rng)  # drawn from `rng` even if not shown: normal and abnormal start alike
        seen = in_view if shown else None
        # Close to the bone every extremity looks much the same, so that what a plate means is hard to tell.
        site = (sign.bone, sign.at) if world == "conflicting" else None
        picture = draw_radiograph(study.extremity, body, seen, view, size, rng, close_up=site)
        yield View(picture.pixels, seen, picture.box)


def _shows_sign(study: Study, world: str, rng: np.random.Generator) -> bool:
    if world == "null":
        return bool(rng.random() < 0.5)
    return (study.label == 1) != (world == "conflicting" and study.extremity in PLATE_IS_NORMAL)


def _as_seen(sign: Finding, world: str, rng: np.random.Generator) -> Finding:
    """The sign in one view: fainter in some, always plain where worlds conflict."""
    if world == "conflicting":
        return replace(sign, subtlety=sign.subtlety / 3)
    chance, loss = (float(value) for value in rng.random(2))
    fainter = 0.2 + 0.4 * loss if chance < 0.15 else 0.0
    return replace(sign, subtlety=min(1.0, sign.subtlety + fainter))


# ---------------------------------------------------------------- files


def write_dataset(
    directory: Path,
    *,
    patients: int = 600,
    size: int = 512,
    seed: int = 0,
    world: str = "shared",
    full: bool = False,
    valid_fraction: float | None = None,
    balanced: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `directory`/MURA-v1.1 and returns its path; whole or not at all.

    `size`: longest side in pixels. `full`: MURA's own counts, 40,005 views; `patients` is then left unread.
    `workers`: processes, by default one a core. `progress` is called with (views written, views in all).
    """
    _check_settings(patients, size, seed, world, valid_fraction, workers)
    target = directory / DATASET
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise MuraError(f"{target} is there already and not empty: nothing is overwritten; name another folder.")
    studies = plan_studies(None if full else patients, seed=seed, valid_fraction=valid_fraction, balanced=balanced)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{DATASET}.", dir=directory))
        try:
            boxes = _write_pictures(unfinished, studies, size, seed, world, workers, progress)
            _write_lists(unfinished, studies, boxes)
            unfinished.chmod(0o755)  # mkdtemp's folder is its maker's alone
            unfinished.replace(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise MuraError(f"Could not write the synthetic data set below {directory}: {error}.") from error
    return target


def _check_settings(
    patients: int, size: int, seed: int, world: str, valid_fraction: float | None, workers: int | None
) -> None:
    faults = {
        f"patients is {patients}: at least {FEWEST_PATIENTS} are needed.": patients < FEWEST_PATIENTS,
        f"size is {size}: it must be from {SMALLEST} to {LARGEST} pixels.": not SMALLEST <= size <= LARGEST,
        f"seed is {seed}: it must not be negative.": seed < 0,
        f"world is '{world}': it must be one of {', '.join(WORLDS)}.": world not in WORLDS,
        f"valid_fraction is {valid_fraction}: it must lie between 0 and 1.": (
            valid_fraction is not None and not 0 < valid_fraction < 1
        ),
        f"workers is {workers}: it must be at least 1.": workers is not None and workers < 1,
    }
    for sentence, wrong in faults.items():
        if wrong:
            raise MuraError(sentence)


def _write_pictures(
    root: Path,
    studies: list[Study],
    size: int,
    seed: int,
    world: str,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> list[list[object]]:
    """Draws all studies; returns the rows of boxes.csv in the studies' order."""
    for study in studies:
        (root / study.folder).mkdir(parents=True)
    draw = functools.partial(_write_study, root, size, seed, world)
    total, done, boxes = sum(study.views for study in studies), 0, []
    with contextlib.ExitStack() as stack:
        processes = min(cores(), math.ceil(total / WORTH_A_PROCESS)) if workers is None else workers
        if processes == 1:
            drawn: Iterator[list[list[object]]] = map(draw, studies)
        else:
            # Spawned, not forked: the parent may run threads (torch, a progress bar).
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_leave_interrupts_to_the_parent)
            stack.callback(pool.shutdown, cancel_futures=True)
            drawn = pool.map(draw, studies, chunksize=16)
        for study, rows in zip(studies, drawn, strict=True):
            boxes += rows
            done += study.views
            if progress is not None:
                progress(done, total)
    return boxes


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_study(root: Path, size: int, seed: int, world: str, study: Study) -> list[list[object]]:
    """Writes one study's pictures; returns its rows of boxes.csv."""
    # A generator apart, so that the kind of file tells nothing about the picture.
    colour = np.random.default_rng([seed, 3, INDEX_OF[study.extremity], study.patient, study.number])
    as_rgb = colour.random() < RGB_SHARE
    rows: list[list[object]] = []
    for number, view in enumerate(draw_study(study, size=size, seed=seed, world=world), start=1):
        path = f"{study.folder}/image{number}.png"
        picture = Image.fromarray(view.pixels)
        (picture.convert("RGB") if as_rgb else picture).save(root / path, compress_level=1)
        if view.box is not None and view.sign is not None:
            rows.append([f"{DATASET}/{path}", *view.box, view.sign.kind, f"{view.sign.subtlety:.3f}"])
    return rows


def _write_lists(root: Path, studies: list[Study], boxes: list[list[object]]) -> None:
    """MURA's four lists, without headers, and the places of all signs."""
    for split in SPLITS:
        own = [study for study in studies if study.split == split]
        views = [[f"{DATASET}/{s.folder}/image{i + 1}.png"] for s in own for i in range(s.views)]
        _write_rows(root / f"{split}_image_paths.csv", views)
        labels = [[f"{DATASET}/{study.folder}/", study.label] for study in own]
        _write_rows(root / f"{split}_labeled_studies.csv", labels)
    _write_rows(root / "boxes.csv", [list(BOX_COLUMNS), *boxes])


def _write_rows(file: Path, rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


# ---------------------------------------------------------------- contact sheet


def write_preview(file: Path, *, size: int = 256, seed: int = 0) -> Path:
    """A contact sheet (PNG): the seven extremities, normal above, abnormal below. Returns the file's path."""
    _check_settings(FEWEST_PATIENTS, size, seed, "shared", None, None)
    margin, gap = max(20, size // 8), max(4, size // 40)
    tall = round(size * 1.2)
    sheet = Image.new("L", (margin + len(EXTREMITIES) * (size + gap), margin + 2 * (tall + gap)), 12)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(10, size // 14))
    for column, extremity in enumerate(EXTREMITIES):
        left = margin + column * (size + gap)
        pen.text((left + size / 2, margin / 2), extremity, fill=220, font=font, anchor="mm")
        for label in (0, 1):
            pixels = _showpiece(extremity, label, tall, seed)
            tile = Image.fromarray(pixels)
            tile.thumbnail((size, tall))
            top = margin + label * (tall + gap)
            sheet.paste(tile, (left + (size - tile.width) // 2, top + (tall - tile.height) // 2))
    for label, word in enumerate(("normal", "abnormal")):
        strip = Image.new("L", (tall, margin), 12)
        ImageDraw.Draw(strip).text((tall / 2, margin / 2), word, fill=220, font=font, anchor="mm")
        sheet.paste(strip.rotate(90, expand=True), (0, margin + label * (tall + gap)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(file, "PNG")
    except OSError as error:
        raise MuraError(f"Could not write the contact sheet {file}: {error}.") from error
    return file


def _showpiece(extremity: str, label: int, size: int, seed: int) -> np.ndarray:
    """A frontal view of this extremity, normal or with a plain sign, uint8 [height, width]."""
    kind = KINDS[INDEX_OF[extremity] % len(KINDS)]
    for attempt in itertools.count():
        rng = np.random.default_rng([seed, 4, INDEX_OF[extremity], label, attempt])
        body = new_body(rng)
        sign = replace(new_finding(extremity, body, rng, (kind,)), subtlety=0.15) if label else None
        picture = draw_radiograph(extremity, body, sign, 0, size, rng)
        if sign is None or picture.box is not None:
            return picture.pixels
    raise AssertionError
