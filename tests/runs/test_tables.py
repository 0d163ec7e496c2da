"""CSV files that people open in a spreadsheet: no text is a formula there, and all is read back as it was."""

import io
from pathlib import Path

import pandas as pd
import pytest

from mura.errors import MuraError
from mura.runs.tables import csv_text, read_table

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\n-1", "'=1", "''@1", "＝1", "=a,b", '="x"']
ORDINARY = ["image1.png", "a=b", "1-2", "'quoted'", "it's", "/data/-x.png", "", "käse", "#1"]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_that_a_spreadsheet_would_run_is_a_text_there_and_the_same_name_here(name: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["a.png", name], "n": [1, 2]})
    written = csv_text(table)
    cells = pd.read_csv(io.StringIO(written, newline=""))["path"]
    assert cells[1] == f"'{name}"
    (tmp_path / "table.csv").write_bytes(written.encode())
    assert list(read_table(tmp_path / "table.csv", ["path"], ["n"])["path"]) == ["a.png", name]


def test_ordinary_names_and_all_numbers_are_written_as_they_were() -> None:
    table = pd.DataFrame({"path": ORDINARY, "value": [-1.5, float("nan"), 1e-300, 3, 4, 5, 6, 7, 8]})
    table["mixed"] = pd.Series([None, -1, -0.25, True, 7, 8, 9, 10, 11], dtype=object)
    table["kind"] = pd.Categorical(["wrist"] * 8 + ["hand"])
    assert csv_text(table) == table.to_csv(index=False)


def test_only_the_text_that_needs_it_is_changed() -> None:
    table = pd.DataFrame({"path": ["a", "=b"], "n": pd.Series([None, 3], dtype=object), "low": [-1, -2]})
    assert csv_text(table) == "path,n,low\na,,-1\n'=b,3,-2\n"


def test_a_column_that_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    for content, words in (("a,b\n1,2\n", "lacks the column n"), ("n,n\n1,2\n", "has more than once the column n")):
        file.write_text(content)
        with pytest.raises(MuraError, match=words):
            read_table(file, [], ["n"])
