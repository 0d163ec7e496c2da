"""The four lists beside a MURA folder, compared with what is in the folder. Problems come out, no data."""

import re
from pathlib import Path

from mura.data.problems import Problem

IMAGE_LIST, STUDY_LIST = "{}_image_paths.csv", "{}_labeled_studies.csv"  # of train or valid
LISTS = tuple(name.format(folder) for folder in ("train", "valid") for name in (IMAGE_LIST, STUDY_LIST))
LABEL_OF = {"negative": 0, "positive": 1}

# A row of a list: the path below MURA-v1.1/, whatever stands before it; in the list of studies the label too.
PATH_ROW = r'(?:.*[/,"\s])?({folder}/XR_[^,"]+?)/?"?\s*'
IMAGE_ROW, STUDY_ROW = PATH_ROW + r"(?:,.*)?", PATH_ROW + r',\s*"?([01])(?:\.0+)?"?[\s,]*'


def compare_with_lists(root: Path, folder: str, paths: list[str]) -> list[Problem]:
    """Return every disagreement between the lists of `folder` (train or valid) and `paths`, the views in it.

    Paths are relative to `root`, the folder that holds train/ and valid/. A list that can't be read is a problem too.
    """
    return _compare_images(root, folder, paths) + _compare_studies(root, folder, paths)


def _compare_images(root: Path, folder: str, paths: list[str]) -> list[Problem]:
    name = IMAGE_LIST.format(folder)
    rows, problems = _read_list(root, name, IMAGE_ROW.format(folder=folder))
    if rows:
        problems += _differences(name, {row[1]: row[1] for row in rows}, {path: path for path in paths})
    return problems


def _compare_studies(root: Path, folder: str, paths: list[str]) -> list[Problem]:
    """Compare the studies, whatever their label, then the labels of those that are in both."""
    name = STUDY_LIST.format(folder)
    rows, problems = _read_list(root, name, STUDY_ROW.format(folder=folder))
    if not rows:
        return problems
    existing = {_without_label(study): study for study in (path.rpartition("/")[0] for path in paths)}
    listed = {_without_label(row[1]): row[1] for row in rows}
    labels = {_without_label(row[1]): int(row[2]) for row in rows}
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


def _read_list(root: Path, name: str, pattern: str) -> tuple[list[re.Match], list[Problem]]:
    """Return the rows of a list that fit `pattern`, none if there is no such list, and what is wrong with the list."""
    try:
        text = (root / name).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        return [], [Problem("missing-list", name, f"can't be read ({error.strerror}); the folder is used")]
    lines = [(number, line) for number, line in enumerate(text.replace("\\", "/").splitlines(), 1) if line.strip()]
    matches = [(number, line, re.fullmatch(pattern, line)) for number, line in lines]
    has_header = bool(matches) and matches[0][2] is None and "XR_" not in matches[0][1]
    rows = [match for _, _, match in matches if match is not None]
    strange = [(number, line) for number, line, match in matches[has_header:] if match is None]
    problems = []
    if strange:
        number, line = strange[0]
        detail = f"{len(strange)} rows name no part of this split, the first is line {number}: {line[:100]!r}"
        problems.append(Problem("list-row", name, detail))
    if not rows:
        problems.append(Problem("missing-list", name, "holds no row that can be read; the folder is used"))
    return rows, problems
