"""Run folders in, the study's answer out: the report's files, and its tables for the console.

What is shown is worked out in mura/comparison, and put into rows in `tables.py`. Each file is enough by itself.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mura.comparison.operating import operating_table
from mura.comparison.summary import SYNTHETIC, ComparedPair, Study, summarise_study
from mura.comparison.verdict import PRIMARY, RESAMPLES, Comparison
from mura.errors import MuraError
from mura.files import write_text
from mura.report.markdown import results_md
from mura.report.page import index_html
from mura.report.tables import METRIC_NAMES, TABLE_METRICS, pair_rows
from mura.report.words import describe_models, describe_verdict
from mura.runs.tables import csv_text

WIDE = 110  # columns of a console, below which words of the whole table would be cut


def write_report(
    directories: Sequence[Path],
    out: Path,
    resamples: int = RESAMPLES,
    margin: float | None = None,
    primary: str | None = None,
    skip_damaged: bool = False,
) -> Study:
    """Compare the finished runs below the directories, and write the report's files into `out`.

    `margin`, `primary` and `skip_damaged` are explained at `summarise_study`. MuraError when there is no
    finished run, when they are not comparable, when margin or primary can't be used, or when `out` can't be written.
    """
    study = summarise_study(directories, out, resamples, margin, primary, skip_damaged)
    files = {
        "results.csv": csv_text(study.results),
        "comparison.json": comparison_json(study.comparisons),
        "results.md": results_md(study),
        "index.html": index_html(study),
    }
    if study.fitted:
        files["operating_points.csv"] = csv_text(operating_table(study.fitted))
    if len(study.transfer):
        files["transfer.csv"] = csv_text(study.transfer)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_text(out / name, content)
    except OSError as error:
        raise MuraError(f"{out}: the report can't be written there ({error.strerror}).") from None
    return study


def comparison_json(comparisons: Iterable[Comparison]) -> str:
    """Return a list of records; what is undefined is null."""
    return json.dumps([record.to_dict() for record in comparisons], indent=2, allow_nan=False) + "\n"


def console_table(study: Study) -> RenderableType:
    """Return for every two arms a table by extremity and the verdict in words, and where the report lies."""
    parts: list[RenderableType] = [Text(SYNTHETIC, "yellow")] if study.synthetic else []
    for compared in study.pairs:
        pair = compared.pair
        is_with_first_arm = pair.a == study.pairs[0].pair.a  # of five arms, ten pairs: too much for a console
        head = PairTable(compared) if is_with_first_arm else Text(f"{pair.model}: {pair.a} / {pair.b}", "bold")
        parts += [head, Text("\n".join(describe_verdict(compared)))]
        parts += [*(Text(f"Warning: {warning}", "yellow") for warning in compared.warnings), Text()]
    parts += [Text(f"Note: {note}", "dim") for note in study.notes]
    if study.unfinished:
        parts.append(Text(f"Unfinished runs, left out: {', '.join(str(run.folder.path) for run in study.unfinished)}"))
    parts.append(Text(f"report: {study.out / 'index.html'}", no_wrap=True))
    parts.append(Text(f"curves: curves.png in each run's folder, such as {study.runs[-1].folder.curves}"))
    return Group(*parts)


@dataclass(frozen=True)
class PairTable:
    """The table of two arms by extremity; a console below WIDE columns shows the verdict's own metric alone."""

    compared: ComparedPair

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        yield _pair_table(self.compared, TABLE_METRICS if options.max_width >= WIDE else (PRIMARY,))


def _pair_table(compared: ComparedPair, metrics: Sequence[tuple[str, str]]) -> Table:
    pair = compared.pair
    about = ", ".join(filter(None, (pair.model, describe_models(pair), f"test: {pair.a} / {pair.b}")))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title=Text(about))
    table.add_column("\nextremity", overflow="fold")
    for level, metric in metrics:
        table.add_column(f"{level}\n{METRIC_NAMES[metric]}", justify="right")
    table.add_column("study accuracy,\ndifference (95 %)", justify="right", no_wrap=True)
    table.add_column("\nverdict", max_width=20)
    for row in pair_rows(compared):
        if row.is_total:
            table.add_section()
        values = [f"{a} / {b}" for shown, (a, b) in zip(TABLE_METRICS, row.values, strict=True) if shown in metrics]
        table.add_row(*map(Text, (row.group, *values, row.difference, row.verdict)))
    return table
