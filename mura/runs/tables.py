"""Tables as CSV files, which people open in a spreadsheet: written without formulas, and read back as they were.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`. A text that does, of a file's or a folder's name say,
is written with an apostrophe in front, which a spreadsheet takes as "this is a text"; `read_table` takes it off again.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mura.errors import MuraError
from mura.files import read_file
from mura.runs.records import MENDED_BY, why_unreadable

# White space in front hides nothing from a spreadsheet, and some take the wide forms too. The apostrophes in front
# make it certain that what is taken off is what was put on.
FORMULA = re.compile(r"'*[\s\x00-\x1f]*[=+\-@＝＋－＠]")


def csv_text(table: pd.DataFrame) -> str:
    """Return the table as CSV, without its index; no text in it is a formula to a spreadsheet."""
    written = table.copy(deep=False)
    for name in [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]:
        cells = [as_text(value) for value in table[name]]
        if cells != list(table[name]):
            written[name] = pd.Series(cells, index=table.index, dtype=object)
    texts = written.select_dtypes(exclude="number")
    # a carriage return begins a row, and its first cell may be a formula too: pandas leaves it unquoted by itself
    returns = any("\r" in cell for name in texts for cell in texts[name] if isinstance(cell, str))
    return written.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)


def as_text(value: object) -> object:
    """Return a text that a spreadsheet would run with an apostrophe in front; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def as_written(value: object) -> object:
    """Return what `as_text` was given."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value


def read_table(file: Path, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Return a CSV file with these columns; a number may be missing, a text may not.

    Raises MuraError, with the file, the column and the line at fault, unless they are there and hold such values.
    """
    try:
        content = read_file(file)
        lines = csv.reader(io.StringIO(content.decode("utf-8")))
        header, first = next(lines, []), next(lines, [])
        table = pd.read_csv(
            io.BytesIO(content), dtype=dict.fromkeys(texts, str), keep_default_na=False, low_memory=False,
            na_values={name: [""] for name in numbers},
        )  # fmt: skip
    except (OSError, ValueError, csv.Error, OverflowError) as error:
        raise MuraError(f"{file} can't be read ({why_unreadable(error)}); {MENDED_BY}") from None
    lacking = [name for name in (*texts, *numbers) if header.count(name) != 1]
    if lacking:
        what = "lacks" if lacking[0] not in header else "has more than once"
        raise MuraError(f"{file} {what} the column {lacking[0]}; {MENDED_BY}")
    if len(first) > len(header):  # pandas would take the first column for row names
        raise MuraError(f"{file} has rows of more cells than there are columns; {MENDED_BY}")
    for name in texts:
        if table[name].str.startswith("'", na=False).any():
            table[name] = table[name].map(as_written)
        refuse_rows(file, table[name], table[name].isna() | (table[name] == ""), "a text")
    for name in numbers:
        table[name] = _numbers(file, table[name])
    return table


def _numbers(file: Path, column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
        return column
    if column.isna().all():
        return column.astype(float)
    values = pd.to_numeric(column.astype(str).where(column.notna()), errors="coerce")
    refuse_rows(file, column, values.isna() & column.notna(), "a number")
    return values


def refuse_rows(file: Path, column: pd.Series, faulty: "pd.Series | np.ndarray", wanted: str) -> None:
    """Raise MuraError for the first faulty row of a column, with its line in the file."""
    rows = np.flatnonzero(np.asarray(faulty, dtype=bool))
    if len(rows):
        value = str(column.iloc[rows[0]])[:60] or "empty"
        raise MuraError(
            f"{file}: {column.name} is {value} in row {rows[0] + 1}, and must be {wanted} ({len(rows)} such rows); "
            f"{MENDED_BY}"
        )
