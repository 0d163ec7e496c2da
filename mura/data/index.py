"""The index of a MURA folder: a table of its views, and a list of all that is wrong with the folder.

The folder decides what there is; the four lists beside it are compared with it (`lists.py`).
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mura.data.lists import IMAGE_LIST, LABEL_OF, compare_with_lists
from mura.data.problems import Problem, summarise, worst_first
from mura.errors import MuraError
from mura.extremities import BOXES, EXTREMITY_OF, TOP_FOLDER

COLUMNS = ["split", "extremity", "patient", "study", "view", "label", "path"]
OLD_FOLDER = "MURA-v1.0"
FOLDER_OF_SPLIT = {"train": "train", "test": "valid"}
TRAIN_IMAGES = IMAGE_LIST.format("train")

EXTREMITY_NAME = re.compile("(" + "|".join(EXTREMITY_OF) + ")")
PATIENT_NAME = re.compile(r"patient(\d+)")
STUDY_NAME = re.compile(r"(study(\d+))_(positive|negative)")
VIEW_NAME = re.compile(r"image(\d+)\.png")
BOTH_LABELS = "is there as _positive and as _negative"
MAC_NAME = re.compile(r"\._.*|\.DS_Store")

log = logging.getLogger(__name__)


def find_root(root: str | Path) -> Path:
    """Return the folder that holds train/ and valid/: `root`, or MURA-v1.1 below it, or MURA-v1.1/MURA-v1.1.

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
    """Return the index of the MURA folder at `root` as `scan` does; logs one line for each kind of problem."""
    index, problems = scan(root)
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
    views = sorted(_walk(root, problems))
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
    """Yield the sort key and the columns of each view below `root`; adds what doesn't belong there to `problems`."""
    for position, (split, top) in enumerate(FOLDER_OF_SPLIT.items()):
        for folder, extremity, patient, study in _studies(root, top, problems):
            views = list(_entries(root, folder, VIEW_NAME, problems, folders=False))
            if not views:
                problems.append(Problem("empty-study", folder, "holds no picture imageN.png"))
            for path, view in views:
                name, number, sign = study.groups()
                key = (position, extremity, int(patient[1]), int(number), int(view[1]), path)
                yield key, (split, extremity, patient[0], name, int(view[1]), LABEL_OF[sign], path)


def _studies(root: Path, top: str, problems: list[Problem]) -> Iterator[tuple[str, str, re.Match, re.Match]]:
    """Yield folder, extremity, patient and study of each study folder below `top`."""
    for extremity_folder, extremity in _entries(root, top, EXTREMITY_NAME, problems):
        for patient_folder, patient in _entries(root, extremity_folder, PATIENT_NAME, problems):
            for study_folder, study in _entries(root, patient_folder, STUDY_NAME, problems):
                yield study_folder, EXTREMITY_OF[extremity[0]], patient, study


def _entries(
    root: Path, folder: str, name: re.Pattern, problems: list[Problem], folders: bool = True
) -> Iterator[tuple[str, re.Match]]:
    """Yield path and match of each entry of `folder` that is called `name`; the others become problems."""
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
        elif MAC_NAME.fullmatch(entry.name):
            problems.append(Problem("mac-file", path, "left by macOS, no picture; ignored"))
        else:
            problems.append(Problem("unknown-file", path, "not a name that MURA has there; ignored"))


def _nested(root: Path) -> list[Problem]:
    folder = root.resolve()
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
