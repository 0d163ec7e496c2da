"""Somebody's own pictures become a data set in MURA's layout: numbered anew, so that nothing in it names anybody."""

import csv
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import Timeout

from mura.data.fingerprint import map_in_threads
from mura.data.images import UnreadableImage, to_png
from mura.data.index import FOLDER_OF_SPLIT
from mura.data.lists import IMAGE_LIST, STUDY_LIST
from mura.data.own_plan import Picture, check_fraction, plan_pictures
from mura.data.own_table import fault, read_table
from mura.errors import MuraError
from mura.extremities import TOP_FOLDER
from mura.files import acquire, atomically, lock_beside, refuse_unwritable, write_json, write_text

UNFINISHED = f".{TOP_FOLDER}.import"
IMPORT = "import.json"
"""Beside the lists: a digest of the table and the settings, by which the same import is known again."""

LABEL_NAMES = ("normal", "abnormal")
ABOUT_BYTES = re.compile(r" \(.*\)")

log = logging.getLogger(__name__)


def import_pictures(
    folder: Path,
    out: Path,
    table: Path,
    *,
    valid_fraction: float | None = None,
    seed: int = 0,
    mapping: Path | None = None,
    skip_unreadable: bool = False,
) -> str:
    """Write the pictures below `folder` that `table` lists to `out`/MURA-v1.1, whole or not at all; say what is there.

    `valid_fraction` of the patients go to valid/, unless the table has a column for that. `mapping` is a file for the
    old and new names; else they are written nowhere. An import that was stopped goes on where it was.
    Raises MuraError, which quotes nothing of the table.
    """
    if seed < 0:
        raise MuraError(f"--seed {seed}: it must not be negative.")
    rows = read_table(table, folder)
    pictures = plan_pictures(rows, check_fraction(rows, valid_fraction), seed)
    _check_mapping(mapping, out, pictures)
    digest = _digest(folder, pictures)
    try:
        _refuse_others(out, digest)
        if not (out / TOP_FOLDER / IMPORT).is_file():
            with _claimed(out, digest) as unfinished:
                written = _write_pictures(unfinished, table, pictures, skip_unreadable)
                _write_lists(unfinished, table, written)
                unfinished.replace(out / TOP_FOLDER)
        if mapping is not None:
            write_text(mapping, _mapping_of(pictures))
    except OSError as error:
        raise MuraError(f"{out} can't be written ({error.strerror}); the same command goes on later.") from None
    return _summary(out / TOP_FOLDER, pictures)


def _check_mapping(mapping: Path | None, out: Path, pictures: list[Picture]) -> None:
    """Raise MuraError unless the mapping can be written: outside the data set, over no other file."""
    if mapping is None:
        return
    if Path(os.path.realpath(mapping)).is_relative_to(os.path.realpath(out)):
        raise MuraError(f"--mapping {mapping}: that is inside {out}, which may be passed on; name a file elsewhere.")
    refuse_unwritable(mapping, "--mapping")
    if mapping.exists() and mapping.read_bytes() != _mapping_of(pictures).encode(errors="backslashreplace"):
        raise MuraError(f"--mapping {mapping}: there is such a file; nothing is overwritten, name another one.")


def _mapping_of(pictures: list[Picture]) -> str:
    cells = [(each.row.path, each.row.patient, each.row.study, f"{TOP_FOLDER}/{each.path}") for each in pictures]
    return _as_csv([("path", "patient", "study", "picture"), *cells])


def _digest(folder: Path, pictures: list[Picture]) -> str:
    """Return what names this import, and nobody in it: a digest over all files and their places."""
    content = [os.path.realpath(folder), [(each.row.file, each.path) for each in pictures]]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _refuse_others(out: Path, digest: str) -> None:
    """Raise MuraError if `out` holds another data set, whole or unfinished, or can't hold one."""
    if out.name == TOP_FOLDER:
        raise MuraError(f"{out}: {TOP_FOLDER} is made in the folder that you name; name the one above.")
    if out.exists() and not out.is_dir():
        raise MuraError(f"{out} is no folder; name one to write to.")
    if any((out / name).exists() for name in FOLDER_OF_SPLIT.values()) or _is_other(out / TOP_FOLDER, digest):
        raise MuraError(
            f"{out} holds a data set that is not of this table, folder and settings; nothing is overwritten: "
            "name another folder."
        )
    if _is_other(out / UNFINISHED, digest):
        raise MuraError(
            f"{out} holds an unfinished import of another table, folder or settings: give the command of then, or "
            f"name another folder, or remove {out / UNFINISHED}."
        )


def _is_other(folder: Path, digest: str) -> bool:
    """Return whether there is something at `folder` that is not this import."""
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    return not is_free and _digest_in(folder) != digest


def _digest_in(folder: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return json.loads((folder / IMPORT).read_text(encoding="utf-8"))["import"]
    return None


@contextmanager
def _claimed(out: Path, digest: str) -> Iterator[Path]:
    """Yield the folder in which the data set grows, held by this process alone, without what a kill left."""
    out.mkdir(parents=True, exist_ok=True)
    lock = lock_beside(out / ".import.lock")
    try:
        acquire(lock)
    except Timeout:
        raise MuraError(f"{out}: another process is importing there; wait for it, or name another folder.") from None
    try:
        _refuse_others(out, digest)
        unfinished = out / UNFINISHED
        unfinished.mkdir(exist_ok=True)
        write_json(unfinished / IMPORT, {"import": digest})
        for leftover in unfinished.rglob(".*.????????"):  # of `atomically`
            leftover.unlink()
        yield unfinished
    finally:
        lock.release()


def _write_pictures(root: Path, table: Path, pictures: list[Picture], skip_unreadable: bool) -> list[Picture]:
    """Write the pictures that are not there yet; return all that are there then."""
    written = []
    with closing(map_in_threads(partial(_write_picture, root), pictures, "importing")) as faults:
        for picture, unreadable in zip(pictures, faults, strict=True):
            if unreadable is None:
                written.append(picture)
            else:
                _say_or_raise(unreadable, picture, table, skip_unreadable)
    return written


def _say_or_raise(unreadable: UnreadableImage, picture: Picture, table: Path, skip_unreadable: bool) -> None:
    """Log that a picture is left out, which only one that is damaged may be. Raises MuraError for any other."""
    what = str(unreadable).removeprefix(f"{picture.row.file} ").removesuffix(".")
    if unreadable.kind == "unreadable":  # Pillow's own words may quote the file
        what = ABOUT_BYTES.sub("", what)
    if not unreadable.is_damage:
        raise fault(table, picture.row.line, f"the picture {what}; mend that, and the same command goes on")
    if not skip_unreadable:
        what += "; mend the file, and the same command goes on, or give --skip-unreadable"
        raise fault(table, picture.row.line, f"the picture {what}")
    log.warning("%s, line %d: the picture %s; left out", table.name, picture.row.line, what)


def _write_picture(root: Path, picture: Picture) -> UnreadableImage | None:
    target = root / picture.path
    if target.is_file():
        return None
    try:
        png = to_png(picture.row.file)
    except UnreadableImage as unreadable:
        return unreadable
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomically(target) as file:
        file.write(png)
    return None


def _write_lists(root: Path, table: Path, pictures: list[Picture]) -> None:
    """Write MURA's four lists; warn of an extremity that has one label only."""
    for folder in FOLDER_OF_SPLIT.values():
        own = [picture for picture in pictures if picture.folder == folder]
        if not own:
            raise MuraError(f"{table.name}: no picture of {folder} can be read, so that there is no data set.")
        labels = {f"{TOP_FOLDER}/{picture.study_path}/": picture.row.label for picture in own}
        write_text(root / IMAGE_LIST.format(folder), _as_csv([(f"{TOP_FOLDER}/{picture.path}",) for picture in own]))
        write_text(root / STUDY_LIST.format(folder), _as_csv(list(labels.items())))
        there = {(picture.row.extremity, picture.row.label) for picture in own}
        for extremity in sorted({picture.row.extremity for picture in pictures}):
            missing = [name for label, name in enumerate(LABEL_NAMES) if (extremity, label) not in there]
            if missing:
                log.warning("%s: %s has no %s picture", folder, extremity, " and no ".join(missing))


def _as_csv(rows: list) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _summary(root: Path, pictures: list[Picture]) -> str:
    """Return what is in the data set, and how many pictures are not."""
    there = [picture for picture in pictures if (root / picture.path).is_file()]
    parts = [
        f"{folder} {len(own)} of {len({picture.patient for picture in own})} patients"
        for folder in FOLDER_OF_SPLIT.values()
        for own in [[picture for picture in there if picture.folder == folder]]
    ]
    left_out = f"; {len(pictures) - len(there)} left out" if len(there) < len(pictures) else ""
    return f"{root}: {len(there)} pictures ({', '.join(parts)}){left_out}"
