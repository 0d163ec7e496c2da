"""What a run shows of its results on the console."""

import io

import pytest
from rich.console import Console

from mura.training.results import CONSOLE_METRICS, ResultsTable

PART = {
    level: {"wrist": dict.fromkeys(CONSOLE_METRICS, 0.5) | {"n": 3197}, "all": {}, "hand": {"auroc": None}}
    for level in ("image", "study")
}
METRICS = {"name": "cnn2-wrist+hand-seed0", "val": PART, "test": PART}


@pytest.mark.parametrize(("width", "shown"), [(40, 1), (80, 4), (120, 6)])
def test_a_narrow_terminal_shows_fewer_metrics_and_breaks_no_number(width: int, shown: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(ResultsTable(METRICS))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    wrist = next(line for line in lines if "wrist " in line)
    assert "3197 / 3197" in wrist
    assert wrist.count("0.500 / 0.500") == shown - 1
    assert [name for name in CONSOLE_METRICS if any(name in line.split() for line in lines)] == [
        *CONSOLE_METRICS[:shown]
    ]
