"""From a MURA folder to the index: a table of its views, with a list of all that is odd about the folder.

The folder says what there is; the four lists beside it are compared with it.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from mura.errors import MuraError
from mura.extremities import BOXES, EXTREMITY_OF, TOP_FOLDER
from mura.machine import cores
from mura.progress import progress_bar

COLUMNS = ["split", "extremity", "patient", "study", "view", "label", "path"]
OLD_FOLDER = "MURA-v1.0"
FOLDER_OF_SPLIT = {"train": "train", "test": "valid"}
IMAGE_LIST, STUDY_LIST = "{}_image_paths.csv", "{}_labeled_studies.csv"
TRAIN_IMAGES = IMAGE_LIST.format("train")

EXTREMITY = re.compile("(" + "|".join(EXTREMITY_OF) + ")")
PATIENT = re.compile(r"patient(\d+)")
STUDY = re.compile(r"(study(\d+))_(positive|negative)")
VIEW = re.compile(r"image(\d+)\.png")
MAC_FILE = re.compile(r"\._.*|\.DS_Store")
LABEL_OF = {"negative": 0, "positive": 1}

# A row of a list: the path below MURA-v1.1/, whatever stands before it; in the list of studies the label too.
PATH_ROW = r'(?:.*[/,"\s])?({top}/XR_[^,"]+?)/?"?\s*'
IMAGE_ROW, STUDY_ROW = PATH_ROW + r"(?:,.*)?", PATH_ROW + r',\s*"?([01])(?:\.0+)?"?[\s,]*'

KINDS = {
    "listed-but-missing": "listed, but not in the folder",
    "not-listed": "in the folder, but not listed",
    "label-disagrees": "studies whose label differs between list and folder name (the folder name is used)",
    "two-labels": "studies that are both positive and negative",
    "patient-in-both-splits": "patients in both train and valid",
    "list-row": "list rows that can't be read",
    "empty-study": "studies without a picture",
    "unreadable-folder": "folders that can't be read",
    "unknown-file": "files and folders that don't belong to MURA (ignored)",
    "missing-list": "lists not there (the folder is used)",
    "list-format": "lists in another form than Stanford's (read all the same)",
    "mac-file": "macOS ._ files (ignored)",
    "nested": f"{TOP_FOLDER} inside {TOP_FOLDER} (the inner one is used)",
}
HARMLESS = frozenset({"missing-list", "list-format", "mac-file", "nested"})

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Something odd about a MURA folder: `kind` is one of KINDS, `path` is relative to the folder."""

    kind: str
    path: str
    detail: str


def find_root(root: str | Path) -> Path:
    """The folder that holds train/ and valid/: `root`, or MURA-v1.1 below it, or MURA-v1.1/MURA-v1.1.

    Raises MuraError when there is none, or when it is MURA v1.0.
    """
    given = Path(root).expanduser()
    for folder in (given, given / TOP_FOLDER, given / TOP_FOLDER / TOP_FOLDER, given / OLD_FOLDER):
        if _is_version_1_0(folder):
            raise MuraError(
                f"{folder} is MURA v1.0 and not v1.1: expected {TOP_FOLDER} with {TRAIN_IMAGES}, "
                f"found {_what_is_in(folder)}; give v1.1 as data.root=DIR or MURA_ROOT."
            )
        if all(_has_extremities(folder / top) for top in FOLDER_OF_SPLIT.values()):
            return folder
    raise MuraError(
        f"{given} is not a MURA folder: expected train/ and valid/ with folders such as XR_WRIST, there or "
        f"in {TOP_FOLDER}/, found {_what_is_in(given)}; give the right one as data.root=DIR or MURA_ROOT."
    )


def is_synthetic(root: str | Path) -> bool:
    """Return whether the MURA folder at `root` was drawn by this program (`mura synth`)."""
    return (find_root(root) / BOXES).is_file()


def read_index(root: str | Path) -> pd.DataFrame:
    """The index of the MURA folder at `root`: a row a view, see `scan`. Logs a line a kind of problem."""
    index, problems = scan(root)
    for kind, phrase in KINDS.items():
        paths = [problem.path for problem in problems if problem.kind == kind]
        if paths:
            level = logging.INFO if kind in HARMLESS else logging.WARNING
            log.log(level, "index: %d %s, first %s", len(paths), phrase, paths[0])
    return index


def scan(root: str | Path) -> tuple[pd.DataFrame, list[Problem]]:
    """The index of the MURA folder at `root`, and all that is odd about it, ordered by kind and path.

    Columns: `split` (train, or test for the official valid), `extremity` (wrist), `patient` (patient00001),
    `study` (study1), `view` (1), `label` (0 normal, 1 abnormal), `path` (relative to `find_root(root)`).
    Sorted by split, extremity, patient, study and view, numbers as numbers.
    Raises MuraError as `find_root` does, and when there is no picture at all.
    """
    root = find_root(root)
    problems = _nested(root)
    views = sorted(_walk(root, problems))
    if not views:
        raise MuraError(
            f"{root} holds no picture: expected train/XR_WRIST/patient00001/study1_positive/image1.png "
            "and so on; give a complete copy as data.root=DIR or MURA_ROOT."
        )
    index = pd.DataFrame([columns for _, columns in views], columns=COLUMNS)
    problems += _both_labels(index) + _both_splits(index)
    for split, top in FOLDER_OF_SPLIT.items():
        paths = index.loc[index["split"] == split, "path"].tolist()
        problems += _compare_images(root, top, paths) + _compare_studies(root, top, paths)
    order = list(KINDS)
    return index, sorted(problems, key=lambda problem: (order.index(problem.kind), problem.path))


def file_hash(path: str | Path) -> str:
    """Digest of the file's bytes, 32 hex characters; of no bytes when it can't be read."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        content = b""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def content_hashes(root: str | Path, index: pd.DataFrame) -> list[str]:
    """`file_hash` of every row of `index`, with a progress bar."""
    root = find_root(root)
    return list(in_threads(lambda path: file_hash(f"{root}/{path}"), index["path"].tolist(), "reading"))


def in_threads(work: Callable[[str], Result], paths: list[str], title: str) -> Iterator[Result]:
    """`work(path)` of every path, in order; with a progress bar when stderr is a terminal."""
    pool = ThreadPoolExecutor(cores())
    try:
        with progress_bar(title) as show:
            for done, result in enumerate(pool.map(work, paths), 1):
                show(done, len(paths))
                yield result
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C the rest is not waited for


def fingerprint(root: str | Path, index: pd.DataFrame, hashes: Iterable[str]) -> str:
    """32 hex characters that name the data: paths, labels and contents, wherever the folder lies."""
    rows = zip(index["path"], index["label"], hashes, strict=True)
    return _digest(f"{path}\t{label}\t{content}\n" for path, label, content in rows)


def stat_digest(root: str | Path, index: pd.DataFrame) -> str:
    """32 hex characters over paths, sizes and times: while it stays, the fingerprint does too."""
    root = find_root(root)

    def line(path: str) -> str:
        try:
            stat = os.stat(f"{root}/{path}")  # noqa: PTH116  a Path each would take longer than the call
        except OSError:
            return f"{path}\t-\n"
        return f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\n"

    return _digest(line(path) for path in index["path"])


def _digest(lines: Iterable[str]) -> str:
    return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()


def _is_version_1_0(folder: Path) -> bool:
    names_of_1_0 = folder.resolve().name == OLD_FOLDER or (folder / "train.csv").is_file()
    return names_of_1_0 and (folder / "train").is_dir() and not (folder / TRAIN_IMAGES).is_file()


def _has_extremities(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in EXTREMITY_OF)


def _what_is_in(folder: Path) -> str:
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        return f"a folder that can't be read ({error.strerror})"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more or "an empty folder"


def _walk(root: Path, problems: list[Problem]) -> Iterator[tuple[tuple, tuple]]:
    """Sort key and columns of each view below `root`; what doesn't belong there is added to `problems`."""
    for position, (split, top) in enumerate(FOLDER_OF_SPLIT.items()):
        for folder, extremity, patient, study in _studies(root, top, problems):
            views = list(_entries(root, folder, VIEW, problems, folders=False))
            if not views:
                problems.append(Problem("empty-study", folder, "holds no picture imageN.png"))
            for path, view in views:
                name, number, sign = study.groups()
                key = (position, extremity, int(patient[1]), int(number), int(view[1]), path)
                yield key, (split, extremity, patient[0], name, int(view[1]), LABEL_OF[sign], path)


def _studies(root: Path, top: str, problems: list[Problem]) -> Iterator[tuple[str, str, re.Match, re.Match]]:
    for extremity_folder, extremity in _entries(root, top, EXTREMITY, problems):
        for patient_folder, patient in _entries(root, extremity_folder, PATIENT, problems):
            for study_folder, study in _entries(root, patient_folder, STUDY, problems):
                yield study_folder, EXTREMITY_OF[extremity[0]], patient, study


def _entries(
    root: Path, folder: str, name: re.Pattern, problems: list[Problem], folders: bool = True
) -> Iterator[tuple[str, re.Match]]:
    """Path and match of each entry of `folder` that is called `name`; the others become problems."""
    try:
        entries = list(os.scandir(f"{root}/{folder}"))
    except OSError as error:
        problems.append(Problem("unreadable-folder", folder, f"can't be read ({error.strerror})"))
        return
    for entry in entries:
        path = f"{folder}/{entry.name}"
        match = name.fullmatch(entry.name)
        if match is not None and entry.is_dir() == folders:
            yield path, match
        elif MAC_FILE.fullmatch(entry.name):
            problems.append(Problem("mac-file", path, "left by macOS, no picture; ignored"))
        else:
            problems.append(Problem("unknown-file", path, "not a name that MURA has there; ignored"))


def _nested(root: Path) -> list[Problem]:
    folder = root.resolve()
    if folder.name != TOP_FOLDER or folder.parent.name != TOP_FOLDER:
        return []
    return [Problem("nested", f"{TOP_FOLDER}/{TOP_FOLDER}", f"the inner folder is used: {folder}")]


def _both_labels(index: pd.DataFrame) -> list[Problem]:
    folders = {path.rpartition("/")[0] for path in index["path"]}
    positive = {folder.removesuffix("_positive") for folder in folders if folder.endswith("_positive")}
    both = [study for study in positive if f"{study}_negative" in folders]
    return [Problem("two-labels", study, "is there as _positive and as _negative") for study in both]


def _both_splits(index: pd.DataFrame) -> list[Problem]:
    patients = {split: set(rows) for split, rows in index.groupby("split")["patient"]}
    both = patients.get("train", set()) & patients.get("test", set())
    if not both:
        return []
    folders = index.loc[index["patient"].isin(both), "path"].str.rsplit("/", n=2).str[0]
    problems = []
    for patient, paths in folders.groupby(index["patient"]):
        where = list(paths.unique())
        detail = f"{patient} is also in {', '.join(where[1:])}"
        problems.append(Problem("patient-in-both-splits", where[0], detail))
    return problems


def _compare_images(root: Path, top: str, paths: list[str]) -> list[Problem]:
    name = IMAGE_LIST.format(top)
    rows, problems = _read_list(root, name, IMAGE_ROW.format(top=top))
    if rows:
        problems += _differences(name, {row[1]: row[1] for row in rows}, {path: path for path in paths})
    return problems


def _compare_studies(root: Path, top: str, paths: list[str]) -> list[Problem]:
    name = STUDY_LIST.format(top)
    rows, problems = _read_list(root, name, STUDY_ROW.format(top=top))
    if not rows:
        return problems
    found = {_without_label(folder): folder for folder in (path.rpartition("/")[0] for path in paths)}
    listed = {_without_label(row[1]): row for row in rows}
    problems += _differences(name, {study: row[1] for study, row in listed.items()}, found)
    for study in found.keys() & listed.keys():
        sign = found[study].rpartition("_")[2]
        label = int(listed[study][2])
        if label != LABEL_OF[sign]:
            detail = f"{name} says {label}, the folder {sign}"
            problems.append(Problem("label-disagrees", found[study], detail))
    return problems


def _without_label(study: str) -> str:
    return study.removesuffix("_positive").removesuffix("_negative")


def _differences(name: str, listed: dict[str, str], found: dict[str, str]) -> list[Problem]:
    """`listed` and `found` map what is compared to the path that is shown."""
    missing, more = listed.keys() - found.keys(), found.keys() - listed.keys()
    problems = [Problem("listed-but-missing", listed[key], f"only in {name}") for key in missing]
    return problems + [Problem("not-listed", found[key], f"not in {name}") for key in more]


def _read_list(root: Path, name: str, pattern: str) -> tuple[list[re.Match], list[Problem]]:
    """The rows of a list that fit `pattern`, and what is odd about it. No rows when there is no list."""
    try:
        data = (root / name).read_bytes()
    except OSError as error:
        return [], [Problem("missing-list", name, f"can't be read ({error.strerror}); the folder is used")]
    lines = data.decode("utf-8-sig", errors="replace").replace("\\", "/").splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    matches = [(number, line, re.fullmatch(pattern, line)) for number, line in numbered]
    has_header = bool(matches) and matches[0][2] is None and "XR_" not in matches[0][1]
    rows = [match for _, _, match in matches if match is not None]
    strange = [(number, line) for number, line, match in matches[has_header:] if match is None]
    forms = {
        "byte order mark": data.startswith(b"\xef\xbb\xbf"),
        "header row": has_header,
        "CRLF line ends": b"\r\n" in data,
        "trailing commas": any(line.rstrip().endswith(",") for line in lines),
        "blank lines": len(numbered) < len(lines),
        "rows twice": len({row[1] for row in rows}) < len(rows),
    }
    problems = []
    if any(forms.values()):
        detail = ", ".join(form for form, is_so in forms.items() if is_so)
        problems.append(Problem("list-format", name, detail))
    if strange:
        number, line = strange[0]
        detail = f"{len(strange)} rows name no part of this split, the first is line {number}: {line[:100]!r}"
        problems.append(Problem("list-row", name, detail))
    if not rows:
        problems.append(Problem("missing-list", name, "holds no row that can be read; the folder is used"))
    return rows, problems
