"""The four lists beside a MURA folder, compared with what is in the folder. Problems come out, no data."""

import re
from pathlib import Path

from mura.data.problems import Problem
from mura.files import read_file

IMAGE_LIST, STUDY_LIST = "{}_image_paths.csv", "{}_labeled_studies.csv"  # of train or valid
LISTS = tuple(name.format(folder) for folder in ("train", "valid") for name in (IMAGE_LIST, STUDY_LIST))
LABEL_OF = {"negative": 0, "positive": 1}

VIEW_NAME = re.compile(r"image(\d{1,9})\.(?:png|jpe?g|tiff?|bmp)", re.IGNORECASE)  # a copy may have other endings
"""The file of a view, whatever the copy was converted to. MURA's own are image1.png, image2.png and so on."""

PATH_START = r'(?:^|(?<=[/,"\s])){folder}/XR_'  # whatever stands before it
LABEL = re.compile(r'\s*"?([01])(?:\.0+)?"?[\s,]*')
Row = tuple[str, int | None]
"""The path below MURA-v1.1/ of a row of a list; in the list of studies the label too."""


def compare_with_lists(root: Path, folder: str, paths: list[str]) -> list[Problem]:
    """Return every disagreement between the lists of `folder` (train or valid) and `paths`, the views in it.

    Paths are relative to `root`, the folder that holds train/ and valid/. A list that can't be read is a problem too.
    """
    return _compare_images(root, folder, paths) + _compare_studies(root, folder, paths)


def _compare_images(root: Path, folder: str, paths: list[str]) -> list[Problem]:
    name = IMAGE_LIST.format(folder)
    rows, problems = _read_list(root, name, folder, labelled=False)
    if rows:
        listed = {_as_muras(path): path for path, _ in rows}
        problems += _differences(name, listed, {_as_muras(path): path for path in paths})
    return problems


def _as_muras(path: str) -> str:
    """Return the path that MURA has for a view: a converted copy and its list may end on .PNG or .jpg."""
    folder, _, name = path.rpartition("/")
    view = VIEW_NAME.fullmatch(name)
    return path if view is None else f"{folder}/image{int(view[1])}.png"


def _compare_studies(root: Path, folder: str, paths: list[str]) -> list[Problem]:
    """Compare the studies, whatever their label, then the labels of those that are in both."""
    name = STUDY_LIST.format(folder)
    rows, problems = _read_list(root, name, folder, labelled=True)
    if not rows:
        return problems
    existing = {_without_label(study): study for study in (path.rpartition("/")[0] for path in paths)}
    listed = {_without_label(path): path for path, _ in rows}
    labels = {_without_label(path): label for path, label in rows}
    problems += _differences(name, listed, existing)
    for study in existing.keys() & listed.keys():
        sign = existing[study].rpartition("_")[2]
        if labels[study] != LABEL_OF[sign]:
            detail = f"{name} says {labels[study]}, the folder {sign}"
            problems.append(Problem("label-disagrees", existing[study], detail))
    return problems


def _without_label(study: str) -> str:
    return study.removesuffix("_positive").removesuffix("_negative")


def _differences(name: str, listed: dict[str, str], existing: dict[str, str]) -> list[Problem]:
    """Compare the keys of `listed` and `existing`; their values are the paths that are shown."""
    missing = [Problem("listed-but-missing", listed[key], f"only in {name}") for key in listed.keys() - existing.keys()]
    more = [Problem("not-listed", existing[key], f"not in {name}") for key in existing.keys() - listed.keys()]
    return missing + more


def _read_list(root: Path, name: str, folder: str, labelled: bool) -> tuple[list[Row], list[Problem]]:
    """Return the rows of a list that can be read, none if there is no such list, and what is wrong with the list."""
    try:
        text = read_file(root / name).decode("utf-8-sig", errors="replace")
    except OSError as error:
        return [], [Problem("missing-list", name, f"can't be read ({error.strerror}); the folder is used")]
    start = re.compile(PATH_START.format(folder=folder))
    lines = [(number, line) for number, line in enumerate(text.replace("\\", "/").splitlines(), 1) if line.strip()]
    parsed = [(number, line, _parse(line, start, labelled)) for number, line in lines]
    has_header = bool(parsed) and parsed[0][2] is None and "XR_" not in parsed[0][1]
    rows = [row for _, _, row in parsed if row is not None]
    strange = [(number, line) for number, line, row in parsed[has_header:] if row is None]
    problems = []
    if strange:
        number, line = strange[0]
        detail = f"{len(strange)} rows name no part of this split, the first is line {number}: {line[:100]!r}"
        problems.append(Problem("list-row", name, detail))
    if not rows:
        problems.append(Problem("missing-list", name, "holds no row that can be read; the folder is used"))
    return rows, problems


def _parse(line: str, start: re.Pattern, labelled: bool) -> Row | None:
    """Return what a line says, or None. In a time that grows with the line's length only."""
    starts = [found.start() for found in start.finditer(line)]
    if not starts:
        return None
    path, _, rest = line[starts[-1] :].partition(",")  # the last one: the folders above may be called train too
    path = path.rstrip().removesuffix('"').rstrip().removesuffix("/")
    label = LABEL.fullmatch(rest)
    if '"' in path or (labelled and label is None):
        return None
    return path, int(label[1]) if labelled and label else None
