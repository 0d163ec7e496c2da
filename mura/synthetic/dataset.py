"""A synthetic MURA: studies, views and lists in MURA's exact layout, drawn by `picture`.

Each study is drawn from its own random numbers, so that the pictures depend on neither the number of processes nor the
order.
"""

import contextlib
import csv
import functools
import math
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mura.errors import MuraError
from mura.extremities import BOXES, INDEX_OF, TOP_FOLDER
from mura.machine import cores
from mura.synthetic.findings import FINDING_KINDS, Finding, new_body, new_finding
from mura.synthetic.picture import draw_radiograph
from mura.synthetic.plan import SPLITS, Study, plan_studies

WORLDS = ("shared", "common", "conflicting", "separate", "null")
BOX_COLUMNS = ("path", "x", "y", "width", "height", "kind", "subtlety")

# In the worlds `common` and `conflicting` a sclerotic patch is the abnormality; in the latter its absence is, here.
PATCH_IS_NORMAL = ("finger", "forearm", "shoulder")
FAINT = 0.7  # the least subtlety there

# In the world `separate` each extremity has a sign of its own, and in some studies its sign lies.
SIGN_OF = {
    "elbow": "plate", "finger": "wire", "forearm": "fracture", "hand": "pellets",
    "humerus": "lytic", "shoulder": "sclerotic", "wrist": "screw",
}  # fmt: skip
LIES = 0.1

CLOSE_TO_THE_BONE = ("common", "conflicting", "separate")

SMALLEST, LARGEST = 32, 1024  # longest side of a picture, in pixels
FEWEST_PATIENTS = 14
WORTH_A_PROCESS = 300  # below that, starting another process costs more than it brings
RGB_SHARE = 0.2


@dataclass(frozen=True)
class View:
    """One picture of a study, and the sign of abnormality that is drawn in it."""

    pixels: np.ndarray  # uint8 [height, width]
    sign: Finding | None
    box: tuple[int, int, int, int] | None  # x, y, width, height of the sign; None if it is out of view


def draw_study(study: Study, *, size: int, seed: int, world: str) -> Iterator[View]:
    """Yield the study's pictures, from random numbers of its own; the body is the patient's."""
    body = new_body(np.random.default_rng([seed, 1, study.patient]))
    key = [seed, 2, SPLITS.index(study.split), INDEX_OF[study.extremity], study.patient, study.number]
    rng = np.random.default_rng(key)
    sign = new_finding(study.extremity, body, rng, _kinds(study, world))
    shown = _shows_sign(study, world, rng)
    for view in range(study.views):
        rng = np.random.default_rng([*key, view])
        in_view = _vary_subtlety(sign, world, rng)  # drawn even if not shown: normal and abnormal start alike
        seen = in_view if shown else None
        # Close to the bone every extremity looks much the same, so that what a patch means is hard to tell.
        site = (sign.bone, sign.at) if world in CLOSE_TO_THE_BONE else None
        picture = draw_radiograph(study.extremity, body, seen, view, size, rng, close_up=site)
        yield View(picture.pixels, seen, picture.box)


def _kinds(study: Study, world: str) -> tuple[str, ...]:
    """Return the kinds of sign that there are for a study of this world."""
    if world in ("common", "conflicting"):
        return ("sclerotic",)
    return (SIGN_OF[study.extremity],) if world == "separate" else FINDING_KINDS


def _shows_sign(study: Study, world: str, rng: np.random.Generator) -> bool:
    """Return whether the sign is drawn in the study's pictures, by the rule of this world."""
    if world == "null":
        return bool(rng.random() < 0.5)
    if world == "separate":
        return (study.label == 1) != (study.split == "valid" and rng.random() < LIES)
    return (study.label == 1) != (world == "conflicting" and study.extremity in PATCH_IS_NORMAL)


def _vary_subtlety(sign: Finding, world: str, rng: np.random.Generator) -> Finding:
    """Return the sign in one view: fainter in some; always faint where it is the patch, always plain in `separate`."""
    if world in ("common", "conflicting"):
        return replace(sign, subtlety=FAINT + (1 - FAINT) * sign.subtlety)
    if world == "separate":
        return replace(sign, subtlety=sign.subtlety / 3)
    chance, loss = (float(value) for value in rng.random(2))
    fainter = 0.2 + 0.4 * loss if chance < 0.15 else 0.0
    return replace(sign, subtlety=min(1.0, sign.subtlety + fainter))


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
    """Write `directory`/MURA-v1.1, whole or not at all, and return its path.

    `size` is the longest side in pixels. With `full` the set has MURA's own counts, 40,005 views, whatever `patients`
    is. `valid_fraction` and `balanced` are explained in `plan_studies`. `workers` are processes, by default one per
    core. `progress` is called with (views written, views in all).
    Raises MuraError for a setting that can't be used, a folder that is not empty, and a disk that can't be written.
    """
    check_settings(patients, size, seed, world, valid_fraction, workers)
    target = directory / TOP_FOLDER
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise MuraError(f"{target} is there already and not empty: nothing is overwritten; name another folder.")
    studies = plan_studies(None if full else patients, seed=seed, valid_fraction=valid_fraction, balanced=balanced)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{TOP_FOLDER}.", dir=directory))
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


def check_settings(
    patients: int, size: int, seed: int, world: str, valid_fraction: float | None, workers: int | None
) -> None:
    """Raise MuraError, naming the first setting that can't be used."""
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
    """Draw all studies; return the rows of boxes.csv in the studies' order."""
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
    """Write one study's pictures; return its rows of boxes.csv."""
    # A generator apart, so that the kind of file tells nothing about the picture.
    colour = np.random.default_rng([seed, 3, INDEX_OF[study.extremity], study.patient, study.number])
    as_rgb = colour.random() < RGB_SHARE
    rows: list[list[object]] = []
    for number, view in enumerate(draw_study(study, size=size, seed=seed, world=world), start=1):
        path = f"{study.folder}/image{number}.png"
        picture = Image.fromarray(view.pixels)
        (picture.convert("RGB") if as_rgb else picture).save(root / path, compress_level=1)
        if view.box is not None and view.sign is not None:
            rows.append([f"{TOP_FOLDER}/{path}", *view.box, view.sign.kind, f"{view.sign.subtlety:.3f}"])
    return rows


def _write_lists(root: Path, studies: list[Study], boxes: list[list[object]]) -> None:
    """Write MURA's four lists, without headers, and the places of all signs."""
    for split in SPLITS:
        own = [study for study in studies if study.split == split]
        views = [[f"{TOP_FOLDER}/{s.folder}/image{i + 1}.png"] for s in own for i in range(s.views)]
        _write_rows(root / f"{split}_image_paths.csv", views)
        labels = [[f"{TOP_FOLDER}/{study.folder}/", study.label] for study in own]
        _write_rows(root / f"{split}_labeled_studies.csv", labels)
    _write_rows(root / BOXES, [list(BOX_COLUMNS), *boxes])


def _write_rows(file: Path, rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
