"""The rows of the report's tables, made once: the console, Markdown and the page only lay them out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mura.comparison.collect import views_of
from mura.comparison.pairs import ArmTable
from mura.comparison.summary import ComparedPair, Study
from mura.comparison.tuning import StudySearch
from mura.comparison.verdict import PRIMARY
from mura.metrics import PAPER_SPECIFICITY, THRESHOLD
from mura.report.references import KUMAR, PAPER, PUBLISHED_ROWS
from mura.report.words import describe_difference, describe_row, describe_simultaneous, number, p_value, percent
from mura.runs.folder import DIVERGED, PRUNED

TABLE_METRICS = (("image", "accuracy"), ("study", "accuracy"), ("study", "kappa"), ("study", "auroc"))
"""What the table by extremity shows, arm beside arm."""

METRIC_NAMES = {"accuracy": "accuracy, %", "kappa": "kappa", "auroc": "AUROC"}

COLUMN_NAMES = {
    "auroc": "AUROC", "f1": "F1", "ece": "ECE", "sensitivity_at_specificity": f"sensitivity at {PAPER_SPECIFICITY}",
}  # fmt: skip
"""The heads of the table of all numbers, where they are other than the metric's name."""


@dataclass(frozen=True)
class PairRow:
    """One line of the table of two arms; `values` has both arms' value in each of TABLE_METRICS.

    `side` is the verdict as it stands in comparison.json; `verdict` is it in words.
    """

    group: str
    is_total: bool
    values: list[tuple[str, str]]
    difference: str
    simultaneous: str
    p: str
    p_holm: str
    side: str
    verdict: str
    studies: int
    patients: int


def pair_rows(compared: ComparedPair) -> list[PairRow]:
    """Return a row for each extremity and, where there are several, one for all of them together."""
    rows = []
    for group in compared.pair.groups:
        main = compared.record(group, *PRIMARY)
        records = [compared.record(group, level, metric) for level, metric in TABLE_METRICS]
        is_total = group not in compared.pair.extremities
        rows.append(
            PairRow(
                group=group,
                is_total=is_total,
                values=[(format_metric(r.a, r.metric), format_metric(r.b, r.metric)) for r in records],
                difference=describe_difference(main),
                simultaneous="–" if is_total else describe_simultaneous(main),
                p=p_value(main.p),
                p_holm="–" if is_total else p_value(main.p_holm),
                side=main.verdict,
                verdict=describe_row(main),
                studies=main.n,
                patients=main.patients,
            )
        )
    return rows


@dataclass(frozen=True)
class BackboneRow:
    """Two models of one arm; `extremities` are those with a verdict for a model, each with it."""

    arm: str
    models: str
    a: str
    b: str
    difference: str
    p_holm: str
    verdict: str
    extremities: str


def backbone_rows(study: Study) -> list[BackboneRow]:
    """Return a row for every two models of an arm that are compared."""
    rows = []
    for compared in study.backbones:
        pair, main = compared.pair, compared.main
        better = [
            f"{name}: {record.verdict}"
            for name, record in compared.by_extremity.items()
            if record is not main and record.verdict in (f"{pair.a} better", f"{pair.b} better")
        ]
        rows.append(
            BackboneRow(
                pair.model, f"{pair.a} / {pair.b}", percent(main.a), percent(main.b), describe_difference(main),
                p_value(main.p_holm), main.verdict, "; ".join(better) or "–",
            )
        )  # fmt: skip
    return rows


def format_metric(value: float | None, metric: str) -> str:
    """Return an accuracy in percent, any other metric as it is."""
    return percent(value) if metric == "accuracy" else number(value)


@dataclass(frozen=True)
class PointRow:
    """Two arms at one operating point; `brier` and `ece` are of both arms."""

    point: str
    a: str
    b: str
    difference: str
    verdict: str
    other_verdicts: str
    brier: str
    ece: str


def point_rows(compared: ComparedPair) -> list[PointRow]:
    """Return a row for each operating point, the fixed one first; none where nothing could be fitted."""
    return [
        PointRow(
            at.point.description, percent(at.main.a), percent(at.main.b), describe_difference(at.main),
            at.main.verdict, "; ".join(at.other_verdicts(compared.points[0])) or "–",
            " / ".join(map(number, at.brier)), " / ".join(map(number, at.ece)),
        )
        for at in compared.points
    ]  # fmt: skip


@dataclass(frozen=True)
class PublishedRow:
    """A row of Kumar et al.'s table and ours beside it, a value a model; `paper` is the MURA paper's kappa."""

    name: str
    kumar: list[str]
    accuracy: list[str]
    paper: str
    kappa: list[str]


def published_rows(study: Study) -> list[PublishedRow]:
    """Return image accuracies beside each other, then study kappas."""
    return [
        PublishedRow(
            row,
            [percent(column.values[row]) for column in KUMAR],
            [percent(study.beside_kumar(model, row, "image", "accuracy")) for model in study.models],
            number(PAPER.values.get(row)),
            [number(study.beside_kumar(model, row, "study", "kappa")) for model in study.models],
        )
        for row in PUBLISHED_ROWS
    ]


@dataclass(frozen=True)
class SearchRow:
    """The search of one model and data set: what it spent, and what the recipe and its best trial reached."""

    name: str
    arm: str
    trials: str
    steps: str
    recipe: str
    best: str
    elsewhere: str
    chosen: str
    importance: str


def search_rows(search: StudySearch) -> list[SearchRow]:
    """Return a row for each finished search of a study."""
    rows = []
    for arm in search.arms:
        ends = {end: arm.count(end) for end in (PRUNED, DIVERGED)}
        told = "".join(f", {count} {end}" for end, count in ends.items() if count)
        settings = "; ".join(f"{key} {value}" for key, value in arm.chosen["params"].items())
        shares = sorted(arm.importance.items(), key=lambda item: -item[1])
        rows.append(
            SearchRow(
                name=f"{arm.model}, {arm.data}",
                arm=arm.arm,
                trials=f"{len(arm.trials)}{told}",
                steps=f"{sum(trial['steps'] for trial in arm.trials):,}",
                recipe=_loss(arm.recipe["value"]),
                best=_loss(arm.chosen["value"]),
                elsewhere=_loss(arm.elsewhere),
                chosen=f"trial {arm.chosen['number']}: {settings}" if arm.chosen["number"] else "the recipe as it is",
                importance="; ".join(f"{key} {percent(share)} %" for key, share in shares) or "–",
            )
        )
    return rows


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def confusion(tables: Sequence[ArmTable], extremities: Sequence[str]) -> dict[str, int]:
    """Return the studies by what they are and what they are called, summed over the seeds."""
    counts = dict.fromkeys(("true_normal", "false_alarm", "missed", "detected"), 0)
    for table in tables:
        studies = views_of(table.studies, extremities)
        abnormal, called = studies["label"] == 1, studies["probability"] > THRESHOLD
        counts["true_normal"] += int((~abnormal & ~called).sum())
        counts["false_alarm"] += int((~abnormal & called).sum())
        counts["missed"] += int((abnormal & ~called).sum())
        counts["detected"] += int((abnormal & called).sum())
    return counts


def wide_numbers(results: pd.DataFrame) -> list[dict[str, Any]]:
    """Return results.csv with a column a metric, and one for validation accuracy, in the same order.

    `notes` has what is said beside a value, by metric: its 95 % interval, or why it is undefined.
    """
    key = ["model", "arm", "data", "seed", "extremity", "level", "n"]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in results.to_dict("records"):
        row = rows.setdefault(tuple(record[name] for name in key), {name: record[name] for name in key} | {"notes": {}})
        row[str(record["metric"])] = None if pd.isna(record["value"]) else record["value"]
        if not pd.isna(record["low"]):
            row["notes"][record["metric"]] = f"({number(record['low'])} to {number(record['high'])})"
        elif not pd.isna(record["why_undefined"]) and record["why_undefined"]:
            row["notes"][record["metric"]] = f"({record['why_undefined']})"
        if record["metric"] == "accuracy":
            row["validation_accuracy"] = None if pd.isna(record["val_value"]) else record["val_value"]
    return list(rows.values())


@dataclass(frozen=True)
class LookRow:
    """How often a run's model looks at the finding, on the test views whose finding's place is known."""

    run: str
    findings: str
    pointing_game: str
    heat_in_box: str
    chance: str
    random_pointing_game: str
    random_heat_in_box: str


def look_rows(study: Study) -> list[LookRow]:
    """Return a row a run that says so; none on data without boxes.csv."""
    rows = []
    for run in study.runs:
        boxes = run.heat.figures["boxes"] if run.heat is not None else None
        if boxes is not None:
            about = boxes["all"]
            keys = ("pointing_game", "heat_in_box", "chance", "random_weights_pointing_game")
            numbers = (number(about[key]) for key in (*keys, "random_weights_heat_in_box"))
            rows.append(LookRow(f"{run.model}, {run.arm}, {run.data}, seed {run.seed}", str(about["n"]), *numbers))
    return rows


@dataclass(frozen=True)
class HeatRow:
    """How alike the heat maps of two arms are, or of two seeds of one."""

    model: str
    arms: str
    extremity: str
    views: str
    correlation: str
    overlap: str
    chance: str


def heat_rows(study: Study) -> list[HeatRow]:
    """Return a row for every two arms of a model, and for the seeds of each, by extremity; none without heat maps."""
    return [
        HeatRow(
            each.model, f"two seeds of {each.a}" if each.a == each.b else f"{each.a} and {each.b}", each.extremity,
            str(each.views), number(each.correlation), number(each.overlap), number(each.chance),
        )
        for each in sorted(study.heat, key=lambda each: (each.model, each.a == each.b))
    ]  # fmt: skip
