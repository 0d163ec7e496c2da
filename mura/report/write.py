"""Run folders in, the study's answer out: results.csv, comparison.json, results.md, index.html, the console table.

What is shown is worked out in `summary.py`; here it is only written down. Each file is enough by itself.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mura.comparison.collect import FinishedRun
from mura.comparison.operating import RESAMPLES_AT_A_POINT, operating_table
from mura.comparison.pairs import ArmTable, scope_name
from mura.comparison.summary import SYNTHETIC, ComparedPair, Study, confidently_wrong, summarise_study
from mura.comparison.transfer import ALL_BUT_IT, transfer_matrix
from mura.comparison.verdict import PRIMARY, RESAMPLES, Comparison
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.files import write_text
from mura.metrics import LEVELS, REPORTED_METRICS, THRESHOLD, binary_metrics, study_table
from mura.provenance import versions
from mura.report import figures
from mura.report.references import KUMAR, KUMAR_SOURCE, NOTES, PAPER, PAPER_SOURCE, ROWS
from mura.report.words import describe_difference, describe_transfer, describe_verdict, number, p_value, percent

TEMPLATES = Path(__file__).parent / "templates"
QUESTION = "One model for all seven extremities, or one for each?"
NOT_PUBLISHED = "Synthetic data: ours can't be held against figures of MURA; the table shows what would stand here."
TABLE_METRICS = (("image", "accuracy"), ("study", "accuracy"), ("study", "kappa"), ("study", "auroc"))
"""What the table by extremity shows, arm beside arm."""

NAMES = {"accuracy": "accuracy, %", "kappa": "kappa", "auroc": "AUROC"}


def write_report(directories: Sequence[Path], out: Path, resamples: int = RESAMPLES) -> Study:
    """Compares the finished runs below the directories and writes the four files into `out`.

    MuraError when there is no finished run, when they are not comparable, or when `out` can't be written.
    """
    study = summarise_study(directories, out, resamples)
    files = {
        "results.csv": study.results.to_csv(index=False),
        "comparison.json": comparison_json(study.comparisons),
        "results.md": results_md(study),
        "index.html": index_html(study),
    }
    if study.fitted:
        files["operating_points.csv"] = operating_table(study.fitted).to_csv(index=False)
    if len(study.transfer):
        files["transfer.csv"] = study.transfer.to_csv(index=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_text(out / name, content)
    except OSError as error:
        raise MuraError(f"{out}: the report can't be written there ({error.strerror}).") from None
    return study


def comparison_json(comparisons: Iterable[Comparison]) -> str:
    """A list of records; what is undefined is null."""
    return json.dumps([record.to_dict() for record in comparisons], indent=2, allow_nan=False) + "\n"


def show(value: float | None, metric: str) -> str:
    return percent(value) if metric == "accuracy" else number(value)


def console_table(study: Study) -> RenderableType:
    """For each model and pair of arms a table by extremity and the verdict in words; where the report lies."""
    parts: list[RenderableType] = [Text(SYNTHETIC, "yellow")] if study.synthetic else []
    for compared in study.pairs:
        pair = compared.pair
        known = pair.a == study.pairs[0].pair.a  # of five arms, ten pairs: too much for a console
        head = _pair_table(compared) if known else Text(f"{pair.model}: {pair.a} / {pair.b}", "bold")
        parts += [head, Text("\n".join(describe_verdict(compared))), Text()]
    parts += [Text(f"Note: {note}", "dim") for note in study.notes]
    if study.unfinished:
        parts.append(Text(f"Unfinished runs, left out: {', '.join(str(u.folder.path) for u in study.unfinished)}"))
    parts.append(Text(f"report: {study.out / 'index.html'}", no_wrap=True))
    parts.append(Text(f"curves: curves.png in each run's folder, such as {study.runs[-1].folder.curves}"))
    return Group(*parts)


def _pair_table(compared: ComparedPair) -> Table:
    pair = compared.pair
    heads = [f"{level}\n{NAMES[metric]}" for level, metric in TABLE_METRICS]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title=Text(f"{pair.model}, test: {pair.a} / {pair.b}"))
    table.add_column("\nextremity", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right")
    table.add_column("study accuracy,\ndifference (95 %)", justify="right")
    table.add_column("\nverdict", max_width=20)
    for group in pair.groups:
        records = [compared.record(group, *shown) for shown in TABLE_METRICS]
        main = compared.record(group, *PRIMARY)
        if group == pair.scope and len(pair.extremities) > 1:
            table.add_section()
        values = [f"{show(r.a, r.metric)} / {show(r.b, r.metric)}" for r in records]
        table.add_row(*map(Text, (group, *values, describe_difference(main), main.verdict)))
    return table


def results_md(study: Study) -> str:
    """Kumar et al.'s table with ours beside it, and each comparison by extremity."""
    lines = [f"# {QUESTION}", ""]
    if study.synthetic:
        lines += [f"**{SYNTHETIC}**", ""]
    for compared in study.pairs:
        pair = compared.pair
        lines += [
            f"**{_md(pair.model)}, {_md(pair.a)} and {_md(pair.b)}.** {_md(' '.join(describe_verdict(compared)))}",
            "",
        ]
    lines += [f"- {_md(note)}" for note in study.notes]
    lines += ["", "## Beside published figures", ""]
    lines += [NOT_PUBLISHED, ""] if study.synthetic else []
    lines += _md_table(*kumar_table(study))
    lines += ["", *(f"- {_md(note)}" for note in NOTES), "- ours: mean over the seeds of the arm.", ""]
    for compared in study.pairs:
        pair = compared.pair
        lines += [f"## {_md(pair.model)}: {_md(pair.a)} and {_md(pair.b)}", ""]
        lines += [f"Test set, by extremity; difference = {_md(pair.a)} minus {_md(pair.b)}, study accuracy.", ""]
        lines += [*_md_table(*_md_pair(compared)), ""]
        lines += _md_points(compared)
    for model in study.transfer["model"].unique():
        lines += _md_transfer(study, str(model))
    return "\n".join(lines)


def kumar_table(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and rows: image accuracies beside each other, then study kappas, each with whose it is."""
    models = study.models
    header = ["extremity", *(f"Kumar et al. 2024, {column.name}: image accuracy, %" for column in KUMAR)]
    header += [f"ours, {model}: image accuracy, %" for model in models]
    header += [f"MURA paper, {PAPER.name}: study kappa, hidden test set"]
    header += [f"ours, {model}: study kappa" for model in models]
    rows = [
        [
            row,
            *(percent(column.values[row]) for column in KUMAR),
            *(percent(study.beside_kumar(model, row, "image", "accuracy")) for model in models),
            number(PAPER.values[row]),
            *(number(study.beside_kumar(model, row, "study", "kappa")) for model in models),
        ]
        for row in ROWS
    ]
    return header, rows


def _md_pair(compared: ComparedPair) -> tuple[list[str], list[list[str]]]:
    pair = compared.pair
    header = ["extremity", "studies", "patients"]
    header += [f"{level} {NAMES[metric]}: {arm}" for level, metric in TABLE_METRICS for arm in (pair.a, pair.b)]
    header += ["difference (95 % interval)", "p (Holm)", "verdict"]
    rows = []
    for group in pair.groups:
        main = compared.record(group, *PRIMARY)
        records = [compared.record(group, *shown) for shown in TABLE_METRICS]
        values = [show(value, r.metric) for r in records for value in (r.a, r.b)]
        row = [group, str(main.n), str(main.patients), *values]
        rows.append([*row, describe_difference(main), p_value(main.p_holm), main.verdict])
    return header, rows


def _md_points(compared: ComparedPair) -> list[str]:
    """The pair at every operating point; nothing where none could be fitted."""
    pair, points = compared.pair, compared.points
    header = ["operating point", pair.a, pair.b, "difference (95 % interval)", "verdict", "other verdicts than at 0.5"]
    rows = [
        [
            at.point.description, percent(at.main.a), percent(at.main.b), describe_difference(at.main), at.main.verdict,
            "; ".join(at.other_verdicts(points[0])) or "–",
        ]
        for at in points
    ]  # fmt: skip
    said = "Study accuracy at operating points fitted on the validation part:"
    return [said, "", *_md_table(header, rows), ""] if rows else []


def _md_transfer(study: Study, model: str) -> list[str]:
    """What specialised models make of the other extremities, AUROC by image."""
    found = transfer_matrix(study.transfer, model, "image", "auroc")
    rows = [[row, *(number(found.values[row][column]) for column in found.columns)] for row in found.rows]
    words = describe_transfer(study, model)
    said = [_md(words), ""] if words else []
    heading = f"## {_md(model)}: transfer, AUROC by image (rows: trained on, columns: tested on)"
    return [heading, "", *said, *_md_table(["trained on", *found.columns], rows), ""]


def _md(words: str) -> str:
    """Characters that Markdown or the HTML in it would read as more than text."""
    for character in "\\`*_[]<>|#":
        words = words.replace(character, f"\\{character}")
    return " ".join(words.split())


def _md_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(cell if cell.startswith("---") else _md(cell) for cell in line) + " |" for line in lines]


def index_html(study: Study) -> str:
    """The report: one file that asks nobody for anything."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "number": number, "p": p_value, "yaml": _yaml, "duration": duration}
    environment.globals |= {"show": show, "describe_difference": describe_difference, "arm_number": figures.arm_number}
    return environment.get_template("index.html.j2").render(
        study=study,
        question=QUESTION,
        synthetic=SYNTHETIC if study.synthetic else None,
        not_published=NOT_PUBLISHED,
        pairs=[pair_context(compared) for compared in study.pairs],
        models=[model_context(study, model) for model in study.models],
        shown=[(level, metric, NAMES[metric]) for level, metric in TABLE_METRICS],
        rows=ROWS,
        kumar=KUMAR,
        paper=PAPER,
        kumar_source=KUMAR_SOURCE,
        paper_source=PAPER_SOURCE,
        notes=NOTES,
        numbers=wide_numbers(study.results),
        metrics=REPORTED_METRICS,
        threshold=THRESHOLD,
        point_resamples=RESAMPLES_AT_A_POINT,
        all_but_it=ALL_BUT_IT,
        version=versions()["mura"],
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def pair_context(compared: ComparedPair) -> dict[str, Any]:
    """What the page shows of two arms: the words, the table's rows, a forest plot a level and metric."""
    pair = compared.pair
    groups = pair.groups
    by_level = {(level, metric): compared.records(level, metric) for level in LEVELS for metric in NAMES}
    return {
        "pair": pair,
        "words": describe_verdict(compared),
        "budget": "; ".join(budget(arm, tables) for arm, tables in pair.arms.items()),
        "rows": [
            (group, compared.record(group, *PRIMARY), [compared.record(group, *shown) for shown in TABLE_METRICS])
            for group in groups
        ],
        "main": compared.main,
        "points": compared.points,
        "forest": figures.forest(by_level[PRIMARY], pair.a, pair.b),
        "forests": [
            (f"{level} {NAMES[metric].removesuffix(', %')}", figures.forest(records, pair.a, pair.b))
            for (level, metric), records in by_level.items()
            if (level, metric) != PRIMARY
        ],
        "agreements": compared.agreements,
    }


def budget(arm: str, tables: Sequence[ArmTable]) -> str:
    """How much an arm was trained: its runs, their optimiser steps, the pictures they saw and their time."""
    runs = [run for table in tables for run in table.runs]
    steps = sum(run.metrics.get("steps") or 0 for run in runs)
    pictures = sum(run.metrics.get("pictures_seen") or 0 for run in runs)
    seconds = sum((run.metrics.get("speed") or {}).get("wall_seconds") or 0 for run in runs)
    count = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    return f"{arm}: {count}, {steps:,} steps, {pictures:,} pictures seen, {duration(seconds)}"


def model_context(study: Study, model: str) -> dict[str, Any]:
    """What the page shows of a model: ROC, calibration, confusion, curves, its worst mistakes."""
    tables = [table for table in study.tables if table.model == model]
    arms: dict[str, list[ArmTable]] = {}
    for table in tables:
        arms.setdefault(table.arm, []).append(table)
    shared = [name for name in EXTREMITIES if all(name in table.extremities for table in tables)]
    groups = {name: [name] for name in EXTREMITIES if any(name in table.extremities for table in tables)}
    together = {scope_name(shared): shared} if len(shared) > 1 else {}
    parts = {name: _parts(arms, names) for name, names in (together | groups).items()}
    whole = next(iter(parts))
    runs = [run for run in study.runs if run.model == model]
    return {
        "name": model,
        "arms": list(arms),
        "roc": [figures.roc(part, name, _means(part, "auroc")) for name, part in parts.items()],
        "calibration": figures.calibration(parts[whole], whole, _means(parts[whole], "ece")),
        "confusion": {name: {arm: confusion(group) for arm, group in part.items()} for name, part in parts.items()},
        "seeds": max(len(group) for group in arms.values()),
        "transfer": [
            (f"{level} {NAMES[metric]}", figures.heat_map(transfer_matrix(study.transfer, model, level, metric)))
            for level, metric in (("image", "accuracy"), ("study", "accuracy"), ("image", "auroc"), ("study", "auroc"))
            if (study.transfer["model"] == model).any()
        ],
        "transfer_words": describe_transfer(study, model),
        "curves": [
            figures.curves(run.history, run.metrics["best_epoch"], _run_name(run))
            for run in runs
            if run.history is not None
        ],
        "wrong": [(table, confidently_wrong(table).to_dict("records")) for table in tables],
    }


def _run_name(run: FinishedRun) -> str:
    """Of a run among those of its model."""
    return ", ".join(dict.fromkeys((run.data, run.arm, f"seed {run.seed}")))


def _parts(arms: dict[str, list[ArmTable]], names: Sequence[str]) -> dict[str, list[pd.DataFrame]]:
    """The predictions of each arm on these extremities; an empty list for an arm without them."""
    return {
        arm: [t.views_of(names) for t in tables if set(names) <= set(t.extremities)] for arm, tables in arms.items()
    }


def _means(part: dict[str, list[pd.DataFrame]], metric: str) -> dict[str, str]:
    """A metric of the views, mean over the seeds, in words."""
    return {arm: number(_mean([binary_metrics(t["label"], t["probability"])[metric] for t in tables]))
            for arm, tables in part.items()}  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def confusion(tables: Sequence[pd.DataFrame]) -> dict[str, int]:
    """Studies by what they are and what they are called, summed over the seeds."""
    counts = dict.fromkeys(("true_normal", "false_alarm", "missed", "found"), 0)
    for table in tables:
        studies = study_table(table)
        abnormal, called = studies["label"] == 1, studies["probability"] > THRESHOLD
        counts["true_normal"] += int((~abnormal & ~called).sum())
        counts["false_alarm"] += int((~abnormal & called).sum())
        counts["missed"] += int((abnormal & ~called).sum())
        counts["found"] += int((abnormal & called).sum())
    return counts


def wide_numbers(results: pd.DataFrame) -> list[dict[str, Any]]:
    """results.csv with a column a metric, in the same order."""
    key = ["model", "arm", "data", "seed", "extremity", "level", "n"]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in results.to_dict("records"):
        row = rows.setdefault(tuple(record[name] for name in key), {name: record[name] for name in key})
        row[str(record["metric"])] = None if pd.isna(record["value"]) else record["value"]
    return list(rows.values())


def _yaml(run: FinishedRun) -> str:
    return yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
