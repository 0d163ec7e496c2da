"""The table of somebody's own pictures: which file shows which extremity of whom, and whether it is normal.

Its cells name patients. So no sentence quotes one, nor a path: a fault is known by its line.
"""

import csv
import io
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.files import kind_of_file, persistently, read_file

SPLIT = "split"
COLUMNS = ("path", "patient", "study", "extremity", "label")
SEPARATORS = ",;\t"
MEANING: dict[str, dict[str, str]] = {
    "extremity": {start + name: name for name in EXTREMITIES for start in ("", "xr_")},
    "label": {"0": "0", "normal": "0", "negative": "0", "1": "1", "abnormal": "1", "positive": "1"},
    SPLIT: {name: name for name in ("train", "valid", "test")},
}
"""What a cell may say, in any case of letters, and what is meant."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A line of the table: `path` as written there, `file` where it leads; `split` if there is such a column."""

    line: int
    path: str
    patient: str
    study: str
    extremity: str
    label: int
    split: str | None
    file: str
    identity: tuple[int, int]  # of the file, whatever it is called


def read_table(table: Path, folder: Path) -> list[Row]:
    """Return the rows of a CSV file whose paths lie below `folder`, in its order. Raises MuraError.

    The separator may be a comma, a semicolon or a tab; the text is UTF-8, with or without a byte order mark.
    """
    if not folder.is_dir():
        raise MuraError(f"{folder} is no folder: name the one that the paths in the table begin in.")
    records = _records(table)
    line, header = next(records, (1, []))
    columns = _columns(table, line, [cell.lower() for cell in header])
    root = os.path.realpath(folder)
    rows = [_row(table, line, _cells(table, line, cells, columns, len(header)), root) for line, cells in records]
    if not rows:
        raise MuraError(f"{table.name} lists no picture: it needs a line for each, below the names of the columns.")
    _refuse_two(table, rows, lambda row: row.identity, lambda row: row.line, "the picture is also listed in")
    _refuse_two(table, rows, study_of, lambda row: row.label, "the study has another label in")
    _refuse_two(table, rows, lambda row: row.patient, lambda row: row.split, "the patient has another split in")
    return rows


def study_of(row: Row) -> tuple[str, str, str]:
    """Return what the pictures of one study have in common: as in MURA, a study shows one extremity."""
    return row.patient, row.extremity, row.study


def fault(table: Path, line: int, what: str) -> MuraError:
    """Return the error in a line. Only the name of the table is said, and nothing of what it holds."""
    return MuraError(f"{table.name}, line {line}: {what}.")


def _records(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each record that is not empty."""
    try:
        data = read_file(table)
    except OSError as error:
        raise MuraError(f"--table {table}: can't be read ({error.strerror}).") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fault(table, line, "the text is not UTF-8; save the table as CSV in UTF-8") from None
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=first.count), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error:
            raise fault(table, line, "that is no CSV; look for a quotation mark that is not closed") from None
        if any(cells):
            yield line, cells


def _columns(table: Path, line: int, header: list[str]) -> dict[str, int]:
    """Return where each column is."""
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        what = f"no column {', '.join(missing)}; the first line must name {', '.join(COLUMNS)}, and may name {SPLIT}"
        raise fault(table, line, what)
    known = [name for name in header if name in (*COLUMNS, SPLIT)]
    twice = [name for name in known if known.count(name) > 1]
    if twice:
        raise fault(table, line, f"there are two columns {twice[0]}")
    unused = [str(place) for place, name in enumerate(header, 1) if name not in known]
    if unused:
        log.info("%s: not used: column %s", table.name, ", ".join(unused))
    return {name: header.index(name) for name in known}


def _cells(table: Path, line: int, cells: list[str], columns: dict[str, int], width: int) -> dict[str, str]:
    """Return the cells by column, each with something in it; those of MEANING as what is meant."""
    if len(cells) < width or any(cells[width:]):
        raise fault(table, line, f"there are {len(cells)} cells and not {width}, as in the first line")
    named = {name: cells[place] for name, place in columns.items()}
    for name, cell in named.items():
        if not cell:
            raise fault(table, line, f"the column {name} is empty")
        if name in MEANING:
            meant = MEANING[name].get(cell.lower())
            if meant is None:
                options = (each for each in MEANING[name] if not each.startswith("xr_"))
                raise fault(table, line, f"the {name} is none of {', '.join(options)}")
            named[name] = meant
    return named


def _row(table: Path, line: int, cells: dict[str, str], folder: str) -> Row:
    file, about = _file_at(table, line, folder, cells["path"])
    return Row(
        line=line, path=cells["path"], patient=cells["patient"], study=cells["study"], extremity=cells["extremity"],
        label=int(cells["label"]), split=cells.get(SPLIT), file=file, identity=(about.st_dev, about.st_ino),
    )  # fmt: skip


def _file_at(table: Path, line: int, folder: str, path: str) -> tuple[str, os.stat_result]:
    """Return where `path` leads below `folder`, links followed, and what is there."""
    try:
        real = os.path.realpath(os.path.join(folder, path.replace("\\", "/")))  # noqa: PTH118
        is_inside = real.startswith(os.path.join(folder, ""))  # noqa: PTH118
        about = persistently(lambda: os.stat(real)) if is_inside else None  # noqa: PTH116
    except (ValueError, FileNotFoundError, NotADirectoryError):
        raise fault(table, line, "the path leads to no file") from None
    except OSError as error:
        raise fault(table, line, f"the path can't be followed ({error.strerror})") from None
    if about is None:
        raise fault(table, line, "the path leads out of the folder; name a folder that holds all pictures")
    if not stat.S_ISREG(about.st_mode):
        raise fault(table, line, f"the path leads to {kind_of_file(about)} and no file")
    return real, about


def _refuse_two(
    table: Path, rows: list[Row], key: Callable[[Row], object], value: Callable[[Row], object], what: str
) -> None:
    """Raise MuraError for the first row whose `value` is not that of an earlier one with the same `key`."""
    first: dict[object, Row] = {}
    for row in rows:
        other = first.setdefault(key(row), row)
        if value(row) != value(other):
            raise fault(table, row.line, f"{what} line {other.line}")
