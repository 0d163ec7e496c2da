"""The pictures at the places that a user names: files, and folders of them, with what was left out of the folders."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mura.data.dicom import is_dicom_file
from mura.errors import MuraError, printable

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
PASSED_OVER = ("@eaDir", "__MACOSX", "#recycle", "lost+found", "$RECYCLE.BIN")  # and hidden ones, such as .thumbs
KINDS_SHOWN = 8
LONGEST_LIST = 2**26  # bytes: half a million long paths

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """`pictures` are pairs of path and study; `faults` has a sentence for each folder that can't be read."""

    pictures: list[tuple[str, str]]
    faults: list[str]


def read_list(stream: BinaryIO) -> list[Path]:
    """Return the places that a stream names: one a line, or with NUL between them, as `find -print0` writes them.

    Raises MuraError when it names none, or never ends.
    """
    content = stream.read(LONGEST_LIST + 1)
    if len(content) > LONGEST_LIST:
        raise MuraError(
            f"standard input names pictures in more than {LONGEST_LIST:,} bytes; name their folders instead."
        )
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    places = [Path(os.fsdecode(line)) for line in lines if line.strip()]
    if not places:
        raise MuraError("standard input names no picture: a path a line is expected there for -.")
    return places


def find_pictures(places: list[Path], anonymous: bool = False) -> Found:
    """Return every picture named, or below a folder named, each once; sorted within a folder.

    The pictures of one folder are one study; one that is named by itself is a study of its own. Copies that other
    programs leave (PASSED_OVER) are passed over. What is left out of folders is logged. A FIFO or a file that can't be
    read stays: who opens it will say so. `anonymous` names no place. Raises MuraError for a folder without a picture.
    """
    pictures: list[tuple[str, str]] = []
    faults: list[str] = []
    left_out: Counter[str] = Counter()
    for number, place in enumerate(places, 1):
        name = f"folder {number}" if anonymous else place
        if not os.path.isdir(place):  # noqa: PTH112  Path.is_dir raises for a name that is too long
            pictures.append((str(place), str(place)))
            continue
        files = sorted(_below(place, name, left_out, faults))
        if not files:
            kinds = ", ".join(sorted(PICTURE_SUFFIXES))
            raise MuraError(" ".join([f"{name} holds no picture (DICOM, {kinds}).", *faults]))
        pictures += [(str(file), str(file.parent)) for file in files]
    once = _once(pictures)
    if len(once) < len(pictures):
        left_out["named twice, or a link to another"] = len(pictures) - len(once)
    if left_out:
        log.info("left out: %s", f"{left_out.total()} files or folders" if anonymous else _in_words(left_out))
    return Found(once, faults)


def _below(place: Path, name: Path | str, left_out: Counter[str], faults: list[str]) -> Iterator[Path]:
    """Yield the picture files below a folder, and count what else is there. A linked folder is entered once.

    A folder that can't be read is called by its own path, unless `place` has another `name`.
    """
    entered = {os.path.realpath(place)}

    def refuse(error: OSError) -> None:
        what = error.filename if name is place else f"something in {name}"
        faults.append(f"{what} can't be read ({error.strerror}).")

    for folder, folders, names in os.walk(place, onerror=refuse, followlinks=True):
        passed_over = {each for each in folders if each.startswith(".") or each in PASSED_OVER}
        left_out.update(f"folder {each}" for each in passed_over)
        again = {each for each in folders if _leads_back(Path(folder, each), entered)}
        left_out.update("links to folders that are there already" for _ in again)
        folders[:] = [each for each in folders if each not in passed_over | again]
        for file in names:
            suffix = Path(file).suffix.lower()
            if file.startswith("."):
                left_out["hidden files"] += 1
            elif suffix in PICTURE_SUFFIXES or is_dicom_file(Path(folder, file)):
                yield Path(folder, file)
            else:
                left_out[suffix or "without an ending"] += 1


def _leads_back(folder: Path, entered: set[str]) -> bool:
    """Return whether a folder is a link to, into or above what is entered anyway; else its target is, from now on."""
    if not folder.is_symlink():
        return False
    target = os.path.realpath(folder)
    if any(target == each or target.startswith(f"{each}/") or each.startswith(f"{target}/") for each in entered):
        return True
    entered.add(target)
    return False


def _once(pictures: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pictures without those that are the same file as another one, of which no link stays."""
    positions: dict[tuple[int, int] | str, list[int]] = {}
    for position, (path, _) in enumerate(pictures):
        positions.setdefault(_identity(path), []).append(position)
    chosen = {min(same, key=lambda each: (_is_link(pictures[each][0]), each)) for same in positions.values()}
    return [picture for position, picture in enumerate(pictures) if position in chosen]


def _identity(path: str) -> tuple[int, int] | str:
    try:
        about = os.stat(path)  # noqa: PTH116
    except OSError:
        return path
    return about.st_dev, about.st_ino


def _is_link(path: str) -> bool:
    return os.path.realpath(path) != os.path.abspath(path)  # noqa: PTH100


def _in_words(left_out: Counter[str]) -> str:
    shown = [f"{printable(kind)} ({count})" for kind, count in left_out.most_common(KINDS_SHOWN)]
    others = left_out.total() - sum(count for _, count in left_out.most_common(KINDS_SHOWN))
    return ", ".join(shown + [f"others ({others})"] * (others > 0))
