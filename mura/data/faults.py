"""Counts of what is in a MURA folder, and every problem from a missing list to a leak; behind `mura check`."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mura.data.fingerprint import content_hash, map_in_threads
from mura.data.images import UnreadableImage, decode, read_picture
from mura.data.index import find_root, scan
from mura.data.levels import why_blank
from mura.data.problems import HARMLESS, PHRASE_OF_PROBLEM, Problem, by_kind, worst_first
from mura.errors import printable

EXAMPLES_PER_KIND = 5

STUDY_COLUMNS = ["split", "extremity", "patient", "study"]
Counts = dict[str, dict[str, dict[str, int]]]


@dataclass(frozen=True)
class Report:
    """What a MURA folder holds: `counts[split][extremity]` of `normal` and `abnormal` views, `studies` and `patients`.

    Only extremities that are there have an entry. `problems` are ordered by kind (as PHRASE_OF_PROBLEM) and path.
    """

    views: int
    studies: int
    patients: int
    counts: Counts
    problems: list[Problem]

    def to_dict(self) -> dict:
        """Return the report as plain dicts and lists, ready for JSON."""
        return asdict(self)


def check_folder(root: str | Path) -> Report:
    """Decode and compare every picture of the MURA folder at `root`; a progress bar shows how far it is.

    Raises MuraError when there is no MURA folder.
    """
    root = find_root(root)
    index, problems = scan(root)
    paths = index["path"].tolist()
    pictures = list(map_in_threads(lambda path: _check_picture(root, path), paths, "checking"))
    problems += [problem for _, problem in pictures if problem is not None]
    problems += _duplicates(index, [digest for digest, _ in pictures])
    return Report(
        views=len(index),
        studies=len(index.drop_duplicates(STUDY_COLUMNS)),
        patients=index["patient"].nunique(),
        counts=_counts(index),
        problems=worst_first(problems),
    )


def render(report: Report) -> Group:
    """Return the report for people, to be printed by rich."""
    return Group(_table(report), *_problem_lines(report.problems))


def _check_picture(root: Path, path: str) -> tuple[str | None, Problem | None]:
    """Return the digest of a picture's bytes, None if it can't be decoded, and what is wrong with it."""
    try:
        data = read_picture(root / path)
        blank = why_blank(decode(root / path, data))
    except UnreadableImage as error:
        return None, Problem(error.kind, path, str(error).removeprefix(f"{root / path} "))
    return content_hash(data), Problem("blank", path, blank) if blank else None


def _duplicates(index: pd.DataFrame, hashes: list[str | None]) -> list[Problem]:
    """Return a problem for each group of equal files of several patients or splits. Unreadable files have no hash."""
    content = pd.Series(hashes, index=index.index, dtype=object).dropna()
    content = content[content.duplicated(keep=False)]
    problems = []
    for _, group in index.loc[content.index].groupby(content):
        first, *others = group["path"]
        if group["split"].nunique() > 1:
            kind = "duplicate-across-splits"
        elif group["patient"].nunique() > 1:
            kind = "duplicate-across-patients"
        else:
            continue
        problems.append(Problem(kind, first, f"same bytes as {', '.join(others)}"))
    return problems


def _counts(index: pd.DataFrame) -> Counts:
    counts: Counts = {split: {} for split in index["split"].unique()}
    for _, views in index.groupby(["split", "extremity"]):
        split, extremity = str(views["split"].iat[0]), str(views["extremity"].iat[0])
        abnormal = int(views["label"].sum())
        counts[split][extremity] = {
            "normal": len(views) - abnormal,
            "abnormal": abnormal,
            "studies": len(views.drop_duplicates(STUDY_COLUMNS)),
            "patients": views["patient"].nunique(),
        }
    return counts


def _table(report: Report) -> Table:
    title = f"{report.views:,} views, {report.studies:,} studies, {report.patients:,} patients"
    table = Table("split", "extremity", title=title, box=box.SIMPLE_HEAD)
    for column in ("normal", "abnormal", "views", "studies", "patients"):
        table.add_column(column, justify="right")
    for split, extremities in report.counts.items():
        for extremity, count in extremities.items():
            table.add_row(split, extremity, *_cells(count), f"{count['patients']:,}")
        total = {key: sum(count[key] for count in extremities.values()) for key in ("normal", "abnormal", "studies")}
        # no sum of patients: one of them may have several extremities
        table.add_row(split, "all", *_cells(total), "", style="bold", end_section=True)
    return table


def _cells(count: dict[str, int]) -> list[str]:
    views = count["normal"] + count["abnormal"]
    abnormal = f"{count['abnormal']:,} ({count['abnormal'] / views:.1%})"
    return [f"{count['normal']:,}", abnormal, f"{views:,}", f"{count['studies']:,}"]


def _problem_lines(problems: list[Problem]) -> list[Text]:
    if not problems:
        return [Text("No problems.", style="green")]
    lines = []
    for kind, group in by_kind(problems).items():
        style = "yellow" if kind in HARMLESS else "bold red"
        lines.append(Text(f"{len(group):,} {PHRASE_OF_PROBLEM[kind]}", style=style))
        lines += [
            Text(f"  {printable(problem.path)}: {printable(problem.detail)}") for problem in group[:EXAMPLES_PER_KIND]
        ]
        if len(group) > EXAMPLES_PER_KIND:
            lines.append(Text(f"  and {len(group) - EXAMPLES_PER_KIND:,} more"))
    return lines
