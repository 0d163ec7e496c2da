"""The index of a MURA folder: a table of its views, and a list of all that is wrong with the folder.

The folder decides what there is; the four lists beside it are compared with it (`lists.py`).
"""

import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mura.data.lists import IMAGE_LIST, LABEL_OF, VIEW_NAME, compare_with_lists
from mura.data.problems import UNREAD_FOLDER, Problem, summarise, worst_first
from mura.errors import MuraError
from mura.extremities import BOXES, EXTREMITY_OF, TOP_FOLDER
from mura.files import expand_home, kind_of_file, persistently

COLUMNS = ["split", "extremity", "patient", "study", "view", "label", "path"]
OLD_FOLDER = "MURA-v1.0"
FOLDER_OF_SPLIT = {"train": "train", "test": "valid"}
TRAIN_IMAGES = IMAGE_LIST.format("train")

EXTREMITY_NAME = re.compile("(" + "|".join(EXTREMITY_OF) + ")")
PATIENT_NAME = re.compile(r"(patient([0-9]+))")
STUDY_NAME = re.compile(r"(study([0-9]+))_(positive|negative)")
BOTH_LABELS = "is there as _positive and as _negative"
MAC_NAME = re.compile(r"\._.*|\.DS_Store")

log = logging.getLogger(__name__)


def find_root(root: str | Path) -> Path:
    """Return the folder that holds train/ and valid/: `root`, or MURA-v1.1 below it, or MURA-v1.1/MURA-v1.1.

    Raises MuraError when there is none, or when it is MURA v1.0.
    """
    given = expand_home(root)
    try:
        return _root_at(given)
    except OSError as error:
        raise MuraError(
            f"{given} can't be read ({error.strerror}); mend that, or give another data.root=DIR or MURA_ROOT."
        ) from error


def _root_at(given: Path) -> Path:
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
    """Return the index of the MURA folder at `root` as `scan` does; logs one line for each kind of problem.

    Raises MuraError as `scan` does, and when a folder can't be read: its pictures would be missing.
    """
    index, problems = scan(root)
    refuse_unread(find_root(root), problems)
    for level, line in summarise(problems):
        log.log(level, "%s", line)
    return index


def scan(root: str | Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the index of the MURA folder at `root`, a row for each view, and all problems, worst first.

    Columns: `split` (train, or test for the official valid), `extremity` (wrist), `patient` (patient00001),
    `study` (study1), `view` (1), `label` (0 normal, 1 abnormal), `path` (relative to `find_root(root)`).
    Sorted by split, extremity, patient, study and view, numbers as numbers.
    Raises MuraError as `find_root` does, and when there is no picture at all.
    """
    root = find_root(root)
    problems = _nested(root)
    try:
        views = sorted(_walk(root, problems))
    except OSError as error:
        raise MuraError(f"{error.filename} can't be read ({error.strerror}); mend that and try again.") from error
    if not views:
        raise MuraError(
            f"{root} holds no picture: expected train/XR_WRIST/patient00001/study1_positive/image1.png "
            "and so on; give a complete copy as data.root=DIR or MURA_ROOT."
        )
    index = pd.DataFrame([columns for _, columns in views], columns=COLUMNS)
    problems += _both_labels(index) + _both_splits(index)
    for split, top in FOLDER_OF_SPLIT.items():
        problems += compare_with_lists(root, top, index.loc[index["split"] == split, "path"].tolist())
    return index, worst_first(problems)


def refuse_unread(root: Path, problems: list[Problem]) -> None:
    """Raise MuraError when a folder can't be read: no study and no patient is dropped for that."""
    unread = [problem for problem in problems if problem.kind == UNREAD_FOLDER]
    if unread:
        raise MuraError(
            f"{root}/{unread[0].path} {unread[0].detail}; folders that can't be read: {len(unread)}. No run goes on "
            "without what is in them: check the rights and the disk, and give the same command again."
        )


def _is_version_1_0(folder: Path) -> bool:
    names_of_1_0 = _real(folder).name == OLD_FOLDER or (folder / "train.csv").is_file()
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
    """Yield the sort key and the columns of each view below `root`; adds what doesn't belong there to `problems`."""
    for position, (split, top) in enumerate(FOLDER_OF_SPLIT.items()):
        for folder, extremity, patient, study in _studies(root, top, problems):
            views = _views(root, folder, problems)
            if not views:
                problems.append(Problem("empty-study", folder, "holds no picture imageN.png"))
            for number, path in views.items():
                name, study_number, sign = study.groups()
                key = (position, extremity, int(patient[2]), int(study_number), number, path)
                yield key, (split, extremity, patient[1], name, number, LABEL_OF[sign], path)


def _studies(root: Path, top: str, problems: list[Problem]) -> Iterator[tuple[str, str, re.Match, re.Match]]:
    """Yield folder, extremity, patient and study of each study folder below `top`."""
    for extremity_folder, extremity in _entries(root, top, EXTREMITY_NAME, problems):
        patients = list(_entries(root, extremity_folder, PATIENT_NAME, problems))
        problems += _one_number_twice(patients)
        for patient_folder, patient in patients:
            studies = list(_entries(root, patient_folder, STUDY_NAME, problems))
            problems += _one_number_twice(studies)
            for study_folder, study in studies:
                yield study_folder, EXTREMITY_OF[extremity[0]], patient, study


def _views(root: Path, folder: str, problems: list[Problem]) -> dict[int, str]:
    """Return the path of each view of a study by its number: the file that MURA would name so, if several have it."""
    views: dict[int, str] = {}
    entries = [
        (_name_of(view), view, path) for path, view in _entries(root, folder, VIEW_NAME, problems, folders=False)
    ]
    for name, view, path in sorted(entries, key=lambda entry: (entry[0] != entry[1][0], entry[2])):
        first = views.setdefault(int(view[1]), path)
        if first != path:
            problems.append(Problem("doubled-view", path, f"has the number of {first}; ignored"))
        elif name != view[0]:
            problems.append(Problem("other-name", path, f"read as {name}"))
    return views


def _name_of(view: re.Match) -> str:
    """Return what MURA calls a view, whatever the ending of its copy."""
    return f"image{int(view[1])}.png"


def _one_number_twice(folders: list[tuple[str, re.Match]]) -> Iterator[Problem]:
    """Yield a problem for each patient or study that shares its number with another name: `study01` and `study1`."""
    first: dict[int, str] = {}
    for path, match in sorted(folders, key=lambda entry: entry[0]):
        other = first.setdefault(int(match[2]), match[1])
        if other != match[1]:
            yield Problem("doubled-number", path, f"has the number of {other} beside it; both are used")


def _entries(
    root: Path, folder: str, name: re.Pattern, problems: list[Problem], folders: bool = True
) -> Iterator[tuple[str, re.Match]]:
    """Yield path and match of each entry of `folder` that is called `name`; the others become problems."""
    try:
        entries = persistently(lambda: list(os.scandir(f"{root}/{folder}")))
    except OSError as error:
        problems.append(Problem(UNREAD_FOLDER, folder, f"can't be read ({error.strerror})"))
        return
    for entry in entries:
        path = f"{folder}/{entry.name}"
        match = name.fullmatch(entry.name)
        if MAC_NAME.fullmatch(entry.name):
            problems.append(Problem("mac-file", path, "left by macOS, no picture; ignored"))
        elif match is None:
            problems.append(Problem("unknown-file", path, "not a name that MURA has there; ignored"))
        elif _belongs(root, path, entry, folders, problems):
            yield path, match


def _belongs(root: Path, path: str, entry: os.DirEntry, folders: bool, problems: list[Problem]) -> bool:
    """Return whether an entry is what its name says, a folder or a picture; else its problem is noted.

    A picture that is a link to nowhere stays in the index: who reads it will say so. No other file is opened or asked.
    """
    if entry.is_symlink():
        return _belongs_behind_link(root, path, folders, problems)
    if entry.is_dir() if folders else entry.is_file():
        return True
    what = "a file" if entry.is_file() else kind_of_file(entry.stat())
    problems.append(Problem("unknown-file", path, f"is {what} and not a {'folder' if folders else 'picture'}; ignored"))
    return False


def _belongs_behind_link(root: Path, path: str, folders: bool, problems: list[Problem]) -> bool:
    try:
        about = persistently(lambda: os.stat(f"{root}/{path}"))  # noqa: PTH116
    except OSError as error:
        if folders:
            problems.append(Problem(UNREAD_FOLDER, path, f"is a link that can't be followed ({error.strerror})"))
        return not folders
    if not (stat.S_ISDIR if folders else stat.S_ISREG)(about.st_mode):
        what = "a file" if stat.S_ISREG(about.st_mode) else kind_of_file(about)
        problems.append(Problem("unknown-file", path, f"is a link to {what}; ignored"))
        return False
    target = os.path.realpath(f"{root}/{path}")
    if not target.startswith(f"{os.path.realpath(root)}/"):
        problems.append(Problem("link-out", path, f"leads to {target}"))
    return True


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))  # Path.resolve raises RuntimeError for a link to itself


def _nested(root: Path) -> list[Problem]:
    folder = _real(root)
    if folder.name != TOP_FOLDER or folder.parent.name != TOP_FOLDER:
        return []
    return [Problem("nested", f"{TOP_FOLDER}/{TOP_FOLDER}", f"the inner folder is used: {folder}")]


def has_both_labels(index: pd.DataFrame) -> pd.Series:
    """Return for each view whether its study is there as _positive and as _negative."""
    labels = index.groupby(["split", "extremity", "patient", "study"])["label"]
    return labels.transform("nunique") > 1


def study_names(views: pd.DataFrame) -> list[str]:
    """Return the names of the views' studies, sorted, without their label: `train/XR_WRIST/patient00001/study1`."""
    return sorted({path.rpartition("/")[0].rpartition("_")[0] for path in views["path"]})


def _both_labels(index: pd.DataFrame) -> list[Problem]:
    return [Problem("two-labels", study, BOTH_LABELS) for study in study_names(index[has_both_labels(index)])]


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
