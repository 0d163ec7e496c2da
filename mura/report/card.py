"""The model card of a run or a study: Markdown, with the front matter that model hubs read.

Everything in it stands in the run folders. Nothing is taken from anywhere else, and what is missing is said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mura.comparison.collect import FinishedRun, extremities_in, is_synthetic, read_predictions, read_run, views_of
from mura.comparison.pairs import scope_name
from mura.comparison.summary import SYNTHETIC, Study, summarise_study
from mura.comparison.verdict import RESAMPLES
from mura.errors import MuraError, printable
from mura.metrics import STUDY_KEY, THRESHOLD, binary_metrics, share_interval, study_table
from mura.report.markdown import escape, table_lines
from mura.report.words import describe_verdict, number, percent
from mura.runs.fitted import read_fitted
from mura.runs.folder import RunFolder
from mura.runs.records import read_metrics

RESULT_HEADER = [
    "extremity", "studies", "patients", "study accuracy, % (95 %)", "kappa", "AUROC", "sensitivity, % (95 %)",
    "specificity, % (95 %)", "image accuracy, %",
]  # fmt: skip
HUB_METRICS = {"accuracy": "accuracy", "auroc": "roc_auc", "kappa": "cohen_kappa"}
"""Metrics of the front matter, with their names there."""

NOT_SAID = (
    "the licence of the weights, which whoever shares them must state; for the real MURA its terms of use count too",
    "age, sex, origin and clinical history of the patients, and the machines that made the pictures",
    "how many views it was trained on, and how often each finding occurs: the labels are normal and abnormal alone",
    "any test on other data than those of the fingerprint above",
    "who to ask about the model",
)
"""What a reader looks for in a model card, and no run folder holds."""

USE = """\
Made for research on musculoskeletal radiographs: to compare ways to train, and to ask how well such a model tells
normal from abnormal pictures of the extremities named above. **It is not a medical device.** It must not be used to
diagnose anybody, to choose among patients, or to replace a reader."""


@dataclass(frozen=True)
class Described:
    """The runs of one model and arm, and their predictions: `test` and `validation` have a table a seed."""

    name: str
    runs: list[FinishedRun]
    test: list[pd.DataFrame]
    validation: list[pd.DataFrame]


def model_card(place: Path, resamples: int = RESAMPLES) -> str:
    """Return the card of a finished run, or of all finished runs below a folder, as Markdown.

    MuraError when there is no finished run, or one can't be read.
    """
    folder = RunFolder(place)
    if not folder.is_there:
        study = summarise_study([place], place, resamples)
        arms = [
            Described(f"{model}, {arm}", list({run.folder.path: run for t in tables for run in t.runs}.values()),
                [t.test for t in tables], [t.validation for t in tables])
            for (model, arm), tables in _by_arm(study).items()
        ]  # fmt: skip
        return _card(place.resolve().name, arms, study)
    if not folder.finished:
        raise MuraError(f"{place} is not finished (it has no metrics.json): only a finished run can be described.")
    run = _read(folder)
    return _card(
        str(run.metrics["name"] or place.resolve().name), [Described(run.arm, [run], [run.test], [run.validation])]
    )


def _read(folder: RunFolder) -> FinishedRun:
    """Return a finished run; one of test=false has an empty test part."""
    metrics = read_metrics(folder.metrics)
    if metrics["test"] is not None:
        return read_run(folder)
    predictions = read_predictions(folder.predictions)
    parts = (predictions[predictions["split"] == split].reset_index(drop=True) for split in ("val", "test"))
    return FinishedRun(folder, metrics, *parts)


def _by_arm(study: Study) -> dict[tuple[str, str], list[Any]]:
    tables: dict[tuple[str, str], list[Any]] = {}
    for table in study.tables:
        tables.setdefault((table.model, table.arm), []).append(table)
    return tables


def _card(name: str, arms: Sequence[Described], study: Study | None = None) -> str:
    runs = [run for arm in arms for run in arm.runs]
    synthetic = any(map(is_synthetic, runs))
    name = printable(name)
    lines = ["---", yaml.safe_dump(front_matter(name, arms, synthetic), sort_keys=False, allow_unicode=True) + "---"]
    lines += ["", f"# {escape(name)}", ""]
    lines += [f"**{SYNTHETIC}**", ""] if synthetic else []
    lines += [f"{escape(_what(runs))} This page was written from what the run folders hold.", ""]
    lines += ["## Intended use", "", USE, ""]
    lines += ["## Data", "", *_items(_data_facts(arms, synthetic)), ""]
    lines += ["## Training", "", *_items(_training_facts(runs)), ""]
    lines += ["## Results", "", *_results(arms), ""]
    lines += ["## Calibration", "", *_calibration(arms), ""]
    lines += ["## The comparison's verdict", "", *_verdict(study), ""]
    lines += ["## Limits", "", *_items(_limits(runs, study, synthetic)), ""]
    lines += ["## What the run folders do not say", "", *_items(NOT_SAID), ""]
    return "\n".join(lines)


def _items(facts: "Sequence[str] | Iterator[str]") -> list[str]:
    return [f"- {escape(fact)}" for fact in facts]


def front_matter(name: str, arms: Sequence[Described], synthetic: bool) -> dict[str, Any]:
    """Return what model hubs read: tags, and the test results over all extremities by study."""
    runs = [run for arm in arms for run in arm.runs]
    data = "synthetic radiographs" if synthetic else f"data of fingerprint {runs[0].metrics['data_fingerprint']}"
    results = [
        {"type": hub, "name": f"study {metric}, {arm.name}, mean of {len(arm.test)} seeds", "value": round(value, 4)}
        for arm in arms
        for metric, hub in HUB_METRICS.items()
        if (value := _mean([_of_studies(test)[metric] for test in arm.test if len(test)])) is not None
    ]
    index = [{
        "name": name,
        "results": [{
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": "synthetic" if synthetic else "radiographs", "split": "test"},
            "metrics": results,
        }],
    }]  # fmt: skip
    tags = ["radiography", "musculoskeletal", "research-only", *(["synthetic-data"] if synthetic else [])]
    about = {"library_name": "mura", "pipeline_tag": "image-classification", "tags": tags}
    return about | {"metrics": list(HUB_METRICS.values())} | ({"model-index": index} if results else {})


def _what(runs: Sequence[FinishedRun]) -> str:
    models, seeds = sorted({run.model for run in runs}), sorted({run.seed for run in runs})
    arms, names = sorted({run.arm for run in runs}), sorted({name for run in runs for name in run.extremities})
    names = names or sorted({name for run in runs for name in run.metrics["extremities"] or ()})
    one = len(runs) == 1
    return (
        f"{'A classifier' if one else f'{len(runs)} classifiers'} of radiographs as normal or abnormal: "
        f"{', '.join(models)}; trained as {', '.join(arms)}; {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{', '.join(map(str, seeds))}; for {', '.join(names) or 'extremities that the run does not name'}."
    )


def _data_facts(arms: Sequence[Described], synthetic: bool) -> Iterator[str]:
    """Yield what is known of the data. No path of the machine is among it."""
    runs = [run for arm in arms for run in arm.runs]
    yield ("Drawn by the program: they show nobody." if synthetic else "Not drawn by the program.")
    for key, what in (("data_fingerprint", "Fingerprint of the data"), ("split_hash", "Hash of the split")):
        yield f"{what}: {', '.join(sorted({str(run.metrics[key]) for run in runs}))}."
    for part in ("validation", "test"):
        tables = [table for arm in arms for table in getattr(arm, part)]
        views = pd.concat(tables).drop_duplicates([*STUDY_KEY, "view"])
        studies, patients = len(views.drop_duplicates(STUDY_KEY)), views["patient"].nunique()
        share = f", {percent(views['label'].mean())} % of the views abnormal" if len(views) else ""
        yield f"{part.capitalize()}: {len(views):,} views, {studies:,} studies, {patients:,} patients{share}."
    for key, what in (
        ("damaged_left_out", "pictures that could not be decoded were left out"),
        ("conflicting_left_out", "studies that are there with both labels were left out"),
        ("blank_views", "views are blank"),
    ):
        counts = [run.metrics.get(key) for run in runs]
        if any(counts):
            yield f"In at least one run, {what} (up to {max(count or 0 for count in counts)})."
        elif None in counts:
            yield f"Not noted: whether {what}."


def _training_facts(runs: Sequence[FinishedRun]) -> Iterator[str]:
    """Yield how the runs were trained, each fact once."""

    def each(*values: Any) -> str:
        known = list(dict.fromkeys(str(value) for value in values if value is not None))
        return ", ".join(known) if known else "not noted"

    def setting(*path: str) -> str:
        return each(*(_at(run.config, *path) for run in runs))

    weights = [_at(run.config, "model", "weights") for run in runs]
    yield f"Initial weights: {each(*('random' if w is None else w if w == 'imagenet' else 'a file' for w in weights))}."
    yield f"Side of a picture: {setting('data', 'image_size')} pixels; batch size: {setting('data', 'batch_size')}."
    optimizer = each(*(str(_at(run.config, "optimizer", "_target_") or "").rpartition(".")[2] or None for run in runs))
    yield f"Optimiser: {optimizer}; learning rate: {setting('optimizer', 'lr')}."
    yield f"Checkpoints chosen by {setting('monitor')}, and averaged: {setting('ensemble')}; none by the test set."
    counted = (("best_epoch", "Best epoch", 1), ("epochs", "Epochs", 0), ("steps", "Optimiser steps", 0))
    for key, what, add in counted:  # people count epochs from 1
        values = sorted({run.metrics[key] + add for run in runs if run.metrics[key] is not None})
        span = each() if not values else f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
        yield f"{what}: {span}."
    yield f"Stopped by: {each(*(run.metrics['stopped_by'] for run in runs))}."
    device, precision = (each(*(run.metrics[key] for run in runs)) for key in ("device", "precision"))
    yield f"Device: {device}; precision: {precision}."
    yield f"Commit: {each(*((run.metrics['git'] or {}).get('commit') for run in runs))}."
    versions = each(
        *(", ".join(f"{k} {v}" for k, v in (run.metrics["versions"] or {}).items()) or None for run in runs)
    )
    yield f"Versions: {versions}."


def _results(arms: Sequence[Described]) -> Iterator[str]:
    """Yield a table for each arm: of the test views, or of the validation views where no test was made."""
    yield (
        f"A study's probability is the mean over its views, and above {THRESHOLD} it is called abnormal. Values are "
        "means over the seeds. Intervals are over patients, from the lowest to the highest end of the seeds' own."
    )
    for arm in arms:
        is_tested = all(len(test) for test in arm.test)
        part = "test" if is_tested else "VALIDATION, on which its checkpoint was chosen: it was not tested (test=false)"
        seeds = f"{len(arm.test)} {'seed' if len(arm.test) == 1 else 'seeds'}"
        yield from ("", f"**{escape(arm.name)}**, {seeds}, {part}:", "")
        yield from table_lines(RESULT_HEADER, list(result_rows(arm.test if is_tested else arm.validation)))


def result_rows(tables: Sequence[pd.DataFrame]) -> Iterator[list[str]]:
    """Yield the row of each extremity and, where there are several, of all together; `tables` are one a seed."""
    names = list(extremities_in(pd.concat(tables)))
    for group in [*((name,) for name in names), *([tuple(names)] if len(names) > 1 else [])]:
        of_group = [views_of(table, group) for table in tables]
        studies = [study_table(table) for table in of_group]
        measured = [_of_studies(table) for table in of_group]
        counted = studies[0]
        yield [
            group[0] if len(group) == 1 else scope_name(group), str(len(counted)), str(counted["patient"].nunique()),
            _with_interval([each["accuracy"] for each in measured], studies, None),
            number(_mean([each["kappa"] for each in measured])), number(_mean([each["auroc"] for each in measured])),
            _with_interval([each["sensitivity"] for each in measured], studies, 1),
            _with_interval([each["specificity"] for each in measured], studies, 0),
            percent(_mean([binary_metrics(t["label"], t["probability"])["accuracy"] for t in of_group])),
        ]  # fmt: skip


def _of_studies(views: pd.DataFrame) -> dict[str, Any]:
    studies = study_table(views)
    return binary_metrics(studies["label"], studies["probability"], studies["extremity"])


def _with_interval(values: Sequence[float | None], studies: Sequence[pd.DataFrame], label: int | None) -> str:
    """Return the mean of a share of right calls over the seeds, among studies of a label, with its interval."""
    ends = []
    for table in studies:
        of = table if label is None else table[table["label"] == label]
        right = (of["probability"] > THRESHOLD) == (of["label"] == 1)
        ends.append(share_interval(right.to_numpy(), of["patient"].to_numpy()))
    if any(low is None for low, _ in ends):
        return percent(_mean(values))
    low, high = min(low for low, _ in ends if low is not None), max(high for _, high in ends if high is not None)
    return f"{percent(_mean(values))} ({percent(low)} to {percent(high)})"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _calibration(arms: Sequence[Described]) -> Iterator[str]:
    """Yield a row a run: its fitted temperature, and calibration error and Brier score before and after it."""
    rows, without = [], 0
    for arm in arms:
        for run in arm.runs:
            fitted = read_fitted(run.folder.calibration)
            if fitted is None:
                without += 1
                continue
            rows.append([run.name, number(fitted["temperature"]), *_before_after(fitted["reliability"])])
    if rows:
        yield (
            "The temperature was fitted on the validation views. It is not applied unless asked for; what it would do, "
            "before / after:"
        )
        yield ""
        header = [
            "run",
            "temperature",
            *(f"{part} {what}" for part in ("validation", "test") for what in ("ECE", "Brier")),
        ]
        yield from table_lines(header, rows)
    if without:
        yield from ([""] if rows else [])
        yield f"- {without} of {without + len(rows)} runs have no calibration.json (not fitted, or removed)."


def _before_after(reliability: Any) -> Iterator[str]:
    for part in ("val", "test"):
        for metric in ("ece", "brier"):
            both = [_at(reliability, part, when, metric) for when in ("before", "after")]
            yield " / ".join(number(value if isinstance(value, (int, float)) else None) for value in both)


def _at(tree: Any, *path: str) -> Any:
    """Return what stands at a path of keys; None where it leads nowhere."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _verdict(study: Study | None) -> Iterator[str]:
    if study is None:
        yield "- This is one run. Which approach is better, a study says, of several seeds."
        return
    if not study.pairs:
        yield "- There are no two arms to compare."
    for compared in study.pairs:
        pair, words = compared.pair, " ".join(describe_verdict(compared))
        yield f"- **{escape(f'{pair.model}, {pair.a} and {pair.b}')}.** {escape(words)}"
        yield from (f"  - Warning: {escape(warning)}" for warning in compared.warnings)
    yield from (f"- Note: {escape(note)}" for note in study.notes)


def _limits(runs: Sequence[FinishedRun], study: Study | None, synthetic: bool) -> Iterator[str]:
    if synthetic:
        yield SYNTHETIC
    seeds = len({run.seed for run in runs})
    if seeds < 3:
        yield f"{seeds} {'seed' if seeds == 1 else 'seeds'}: other random numbers may give another model."
    yield "It was tested on views of the same data set as it was trained on; on others it may do worse."
    yield "Another extremity, or a picture that is no radiograph, gets a probability all the same."
    yield "Its probabilities are as they are: see the calibration above before taking one at its word."
    if study is not None and study.unfinished:
        yield f"{len(study.unfinished)} runs of the study are unfinished and are not in this page."
