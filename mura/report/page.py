"""index.html: the whole report as one file that asks nobody for anything."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mura.calibration import ECE_VARIANT
from mura.comparison.collect import FinishedRun
from mura.comparison.operating import RESAMPLES_AT_A_POINT
from mura.comparison.pairs import ArmTable, scope_name
from mura.comparison.summary import SYNTHETIC, ComparedPair, Study, surest_mistakes
from mura.comparison.transfer import ALL_BUT_IT, transfer_matrix
from mura.comparison.tuning import StudySearch
from mura.comparison.verdict import PRIMARY
from mura.extremities import EXTREMITIES
from mura.metrics import LEVELS, PAPER_SPECIFICITY, REPORTED_METRICS, THRESHOLD, binary_metrics
from mura.provenance import versions
from mura.report import figures
from mura.report.references import KUMAR, KUMAR_SOURCE, PAPER_SOURCE, REFERENCE_NOTES
from mura.report.tables import (
    COLUMN_NAMES,
    METRIC_NAMES,
    TABLE_METRICS,
    backbone_rows,
    confusion,
    heat_rows,
    look_rows,
    pair_rows,
    point_rows,
    published_rows,
    search_rows,
    wide_numbers,
)
from mura.report.words import (
    ELSEWHERE,
    NO_HEAT,
    NOT_PUBLISHED,
    QUESTION,
    describe_backbones,
    describe_before,
    describe_duration,
    describe_heat,
    describe_models,
    describe_search,
    describe_thresholds,
    describe_transfer,
    describe_verdict,
    number,
    p_value,
    percent,
)

TEMPLATES = Path(__file__).parent / "templates"
TRANSFER_FIGURES = (("image", "accuracy"), ("study", "accuracy"), ("image", "auroc"), ("study", "auroc"))


def page_templates(*folders: Path) -> Environment:
    """Return the templates of pages in these folders: values are text there, and none may be missing."""
    return Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def index_html(study: Study, with_pictures: bool = True) -> str:
    """Return the page; without pictures of the data, it may be passed on where those may not."""
    environment = page_templates(TEMPLATES)
    environment.filters |= {"percent": percent, "number": number, "duration": describe_duration}
    environment.filters |= {"p": p_value, "yaml": _config_yaml}
    environment.globals |= {"arm_number": figures.arm_number}
    return environment.get_template("index.html.j2").render(
        study=study,
        question=QUESTION,
        synthetic=SYNTHETIC if study.synthetic else None,
        not_published=NOT_PUBLISHED,
        pairs=[pair_context(compared) for compared in study.pairs],
        backbones=backbone_rows(study),
        backbone_words=describe_backbones(study),
        models=[model_context(study, model, with_pictures) for model in study.models],
        shown=[(level, METRIC_NAMES[metric]) for level, metric in TABLE_METRICS],
        searches=[search_context(search) for search in study.searches if search.arms],
        elsewhere=ELSEWHERE,
        before=describe_before(study),
        rows=published_rows(study),
        kumar=KUMAR,
        kumar_source=KUMAR_SOURCE,
        paper_source=PAPER_SOURCE,
        notes=REFERENCE_NOTES,
        numbers=wide_numbers(study.results),
        heat_rows=heat_rows(study),
        heat_words=describe_heat(study),
        look_rows=look_rows(study),
        no_heat=None if any(run.heat for run in study.runs) else NO_HEAT,
        has_own_pictures=with_pictures and not study.synthetic,
        metrics={
            name: COLUMN_NAMES.get(name, name.replace("_", " ")) for name in ("validation_accuracy", *REPORTED_METRICS)
        },
        ece_variant=ECE_VARIANT,
        paper_specificity=PAPER_SPECIFICITY,
        threshold=THRESHOLD,
        point_resamples=RESAMPLES_AT_A_POINT,
        all_but_it=ALL_BUT_IT,
        version=versions()["mura"],
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def pair_context(compared: ComparedPair) -> dict[str, Any]:
    """Return what the page shows of two arms: the words, the tables' rows, a forest plot a level and metric."""
    pair = compared.pair
    return {
        "pair": pair,
        "words": describe_verdict(compared),
        "models": describe_models(pair),
        "warnings": compared.warnings,
        "verdict": compared.main.verdict,
        "budget": "; ".join(describe_budget(arm, tables) for arm, tables in pair.arms.items()),
        "rows": pair_rows(compared),
        "points": point_rows(compared),
        "thresholds": describe_thresholds(compared),
        "forest": figures.forest(compared.records(*PRIMARY), pair.a, pair.b),
        "forests": [
            (
                f"{level} {METRIC_NAMES[metric].removesuffix(', %')}",
                figures.forest(compared.records(level, metric), pair.a, pair.b),
            )
            for level in LEVELS
            for metric in METRIC_NAMES
            if (level, metric) != PRIMARY
        ],
        "agreements": compared.agreements,
    }


def search_context(search: StudySearch) -> dict[str, Any]:
    """Return what the page shows of a study's search."""
    terms = search.terms
    return {
        "words": describe_search(search),
        "rows": search_rows(search),
        "courses": [figures.search_course(arm, terms["monitor"], terms["mode"]) for arm in search.arms],
        "monitor": terms["monitor"],
    }


def describe_budget(arm: str, tables: Sequence[ArmTable]) -> str:
    """Return how much an arm was trained: its runs, their optimiser steps, the pictures they saw and their time."""
    runs = [run for table in tables for run in table.runs]
    steps = sum(run.metrics.get("steps") or 0 for run in runs)
    pictures = sum(run.metrics.get("pictures_seen") or 0 for run in runs)
    seconds = sum(run.metrics["speed"]["wall_seconds"] or 0 for run in runs)
    count = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    before = sum({run.parent.path: run.steps_of_parent for run in runs if run.parent}.values())
    more = f" after {before:,} of the runs that they start from" if before else ""
    return f"{arm}: {count}, {steps:,} steps{more}, {pictures:,} pictures seen, {describe_duration(seconds)}"


def model_context(study: Study, model: str, with_pictures: bool) -> dict[str, Any]:
    """Return what the page shows of a model: ROC, calibration, confusion, curves, its worst mistakes."""
    tables = [table for table in study.tables if table.model == model]
    arms: dict[str, list[ArmTable]] = {}
    for table in tables:
        arms.setdefault(table.arm, []).append(table)
    groups = _groups(tables)
    with_all = {
        name: {arm: [t for t in group if set(names) <= set(t.extremities)] for arm, group in arms.items()}
        for name, names in groups.items()
    }
    views = {
        name: {arm: [t.views_of(groups[name]) for t in group] for arm, group in by_arm.items()}
        for name, by_arm in with_all.items()
    }
    first = next(iter(groups))
    return {
        "name": model,
        "arms": list(arms),
        "roc": [figures.roc(views[name], name, _means(views[name], "auroc")) for name in EXTREMITIES if name in views],
        "calibration": figures.calibration(views[first], first, _means(views[first], "ece")),
        "confusion": {
            name: {arm: confusion(group, groups[name]) for arm, group in by_arm.items()}
            for name, by_arm in with_all.items()
        },
        "seeds": max(len(group) for group in arms.values()),
        "transfer": list(_transfer_figures(study, model)),
        "transfer_words": describe_transfer(study, model),
        "curves": [
            figures.curves(run.history, run.metrics["best_epoch"], _run_name(run))
            for run in study.runs
            if run.model == model and run.history is not None
        ],
        "wrong": [
            (table, surest_mistakes(table).to_dict("records"), mistake_pictures(table) if with_pictures else [])
            for table in tables
        ],
    }


def mistake_pictures(table: ArmTable) -> list[tuple[Markup, str]]:
    """Return the surest mistakes as pictures with their heat, and words; those whose run kept none are left out."""
    shown = []
    for view in surest_mistakes(table).to_dict("records"):
        for heat in (run.heat for run in table.runs):
            if heat is not None and view["path"] in heat.wrong:
                grey = heat.pictures[heat.wrong == view["path"]][0]
                words = (
                    f"{view['extremity']}, {'abnormal' if view['label'] == 1 else 'normal'}: {view['probability']:.2f}"
                )
                shown.append((figures.picture(grey, heat.heat[heat.path == view["path"]][0], words), words))
    return shown


def _groups(tables: Sequence[ArmTable]) -> dict[str, list[str]]:
    """Return the extremities that every table has together, where they are several, then each one that any has."""
    shared = [name for name in EXTREMITIES if all(name in table.extremities for table in tables)]
    together = {scope_name(shared): shared} if len(shared) > 1 else {}
    return together | {name: [name] for name in EXTREMITIES if any(name in table.extremities for table in tables)}


def _transfer_figures(study: Study, model: str) -> Iterator[tuple[str, Markup]]:
    """Yield the name and heat map of each of TRANSFER_FIGURES; none for a model without transfer."""
    if (study.transfer["model"] == model).any():
        for level, metric in TRANSFER_FIGURES:
            matrix = transfer_matrix(study.transfer, model, level, metric)
            yield f"{level} {METRIC_NAMES[metric]}", figures.heat_map(matrix)


def _run_name(run: FinishedRun) -> str:
    """Return the name of a run among those of its model."""
    return ", ".join(dict.fromkeys((run.data, run.arm, f"seed {run.seed}")))


def _means(views: dict[str, list[pd.DataFrame]], metric: str) -> dict[str, str]:
    """Return a metric of each arm's views, mean over the seeds, in words."""
    means = {}
    for arm, tables in views.items():
        values = [binary_metrics(table["label"], table["probability"])[metric] for table in tables]
        known = [value for value in values if value is not None]
        means[arm] = number(sum(known) / len(known) if known and len(known) == len(values) else None)
    return means


def _config_yaml(run: FinishedRun) -> str:
    return yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
