"""What can be wrong with a MURA folder: the kinds of problems, worst first, and a phrase for each."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from mura.errors import printable
from mura.extremities import TOP_FOLDER

UNREAD_FOLDER = "unreadable-folder"
PHRASE_OF_PROBLEM = {
    "duplicate-across-splits": "pictures that are in train and in valid, byte for byte",
    "duplicate-across-patients": "pictures that several patients share, byte for byte",
    "empty": "pictures of 0 bytes",
    "truncated": "truncated pictures",
    "unreadable": "pictures that can't be decoded",
    "unsupported": "pictures of kinds that are not read",
    "too-large": "pictures too large to be radiographs",
    "missing": "pictures that are links to nowhere",
    "unread": "pictures that could not be read, whole or not (rights, disk or mount; a run stops there)",
    "blank": "pictures that are blank or nearly so (used as they are)",
    "listed-but-missing": "listed, but not in the folder",
    "not-listed": "in the folder, but not listed",
    "label-disagrees": "studies whose label differs between list and folder name (the folder name is used)",
    "two-labels": "studies that are both positive and negative (refused by runs, unless data.conflicts=leave_out)",
    "patient-in-both-splits": "patients in both train and valid",
    "doubled-view": "further pictures of a view, by their number (ignored)",
    "doubled-number": "patients or studies that share their number with another name (both are used)",
    "list-row": "list rows that can't be read",
    "empty-study": "studies without a picture",
    UNREAD_FOLDER: "folders that can't be read (a run stops there)",
    "unknown-file": "files and folders that don't belong to MURA (ignored)",
    "missing-list": "lists not there (the folder is used)",
    "mac-file": "macOS ._ files (ignored)",
    "other-name": "pictures with another ending or number than MURA's imageN.png (read)",
    "link-out": "links that lead out of the folder (followed)",
    "nested": f"{TOP_FOLDER} inside {TOP_FOLDER} (the inner one is used)",
}
SEVERITY = {kind: position for position, kind in enumerate(PHRASE_OF_PROBLEM)}
HARMLESS = frozenset({"missing-list", "mac-file", "other-name", "link-out", "nested"})


@dataclass(frozen=True)
class Problem:
    """Something wrong with a MURA folder: `kind` is one of PHRASE_OF_PROBLEM, `path` is relative to the folder."""

    kind: str
    path: str
    detail: str


def worst_first(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems ordered by kind (as PHRASE_OF_PROBLEM) and path."""
    return sorted(problems, key=lambda problem: (SEVERITY[problem.kind], problem.path))


def by_kind(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Return the problems of each kind that occurs, worst kind first."""
    groups: dict[str, list[Problem]] = {}
    for problem in worst_first(problems):
        groups.setdefault(problem.kind, []).append(problem)
    return groups


def summarise(problems: Iterable[Problem]) -> list[tuple[int, str]]:
    """Return one line for the log for each kind that occurs, with its level: INFO if harmless, else WARNING."""
    return [
        (
            logging.INFO if kind in HARMLESS else logging.WARNING,
            f"index: {len(group)} {PHRASE_OF_PROBLEM[kind]}, first {printable(group[0].path)}",
        )
        for kind, group in by_kind(problems).items()
    ]
