"""Transfer: how well does a model of one extremity read the others? Runs in, a table and matrices out."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mura.comparison.collect import FinishedRun
from mura.extremities import EXTREMITIES
from mura.metrics import OVERALL, summarise
from mura.study.arms import LEAVE_ONE_OUT, SPECIALISED, UNIFIED

TRANSFER_COLUMNS = ["model", "trained_on", "tested_on", "seed", "level", "metric", "value", "n"]
TRANSFER_METRICS = ("accuracy", "kappa", "auroc")
ALL_BUT_IT = "all but it"
"""The row of leave-one-out: each extremity as a model sees it that was trained on the others."""


@dataclass(frozen=True)
class Matrix:
    """The transfer of a model, means over the seeds: `values[trained on][tested on]`, None where there are none."""

    model: str
    level: str
    metric: str
    rows: list[str]
    columns: list[str]
    values: dict[str, dict[str, float | None]]


def transfer_table(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Return TRANSFER_COLUMNS: each specialised run that predicted the other extremities too, on all extremities.

    Beside them stand the unified and the leave-one-out runs of their models. Empty when there is no such run.
    """
    models = {run.model for run in runs if run.transfer is not None}
    rows: list[tuple[object, ...]] = []
    for run in runs:
        if run.model not in models:
            continue
        if run.arm == SPECIALISED and run.transfer is not None:
            views = pd.concat([run.test, run.transfer], ignore_index=True)
            rows += _rows(run, run.extremities[0], views)
        elif run.arm == UNIFIED:
            rows += _rows(run, UNIFIED, run.test)
        elif run.arm == LEAVE_ONE_OUT:
            rows += _rows(run, ALL_BUT_IT, run.test)
    return pd.DataFrame(rows, columns=TRANSFER_COLUMNS)


def _rows(run: FinishedRun, trained_on: str, views: pd.DataFrame) -> list[tuple[object, ...]]:
    return [
        (run.model, trained_on, tested_on, run.seed, level, metric, values[metric], values["n"])
        for level, groups in summarise(views).items()
        for tested_on, values in groups.items()
        if tested_on != OVERALL
        for metric in TRANSFER_METRICS
    ]


def notes(runs: Sequence[FinishedRun]) -> list[str]:
    """Return a sentence for each model of which some specialised runs lack transfer.csv, and others don't."""
    sentences = []
    for model in dict.fromkeys(run.model for run in runs):
        specialised = [run for run in runs if (run.model, run.arm) == (model, SPECIALISED)]
        absent = [run for run in specialised if run.transfer is None]
        if absent and len(absent) < len(specialised):
            names = ", ".join(f"{run.data} seed {run.seed}" for run in absent)
            sentences.append(
                f"{model}: {names} left no transfer.csv (data.transfer=true), so the transfer matrix lacks it."
            )
    return sentences


def transfer_matrix(table: pd.DataFrame, model: str, level: str, metric: str) -> Matrix:
    """Return the means over the seeds of one model, at one level in one metric; specialised rows first."""
    part = table[(table["model"] == model) & (table["level"] == level) & (table["metric"] == metric)]
    known = [*EXTREMITIES, ALL_BUT_IT, UNIFIED]
    rows = [name for name in known if (part["trained_on"] == name).any()]
    columns = [name for name in EXTREMITIES if (part["tested_on"] == name).any()]

    seeds = {cell: values.astype(float) for cell, values in part.groupby(["trained_on", "tested_on"])["value"]}

    def mean(cell: tuple[str, str]) -> float | None:
        return float(seeds[cell].mean()) if cell in seeds and seeds[cell].notna().all() else None

    return Matrix(model, level, metric, rows, columns, {row: {c: mean((row, c)) for c in columns} for row in rows})


def own_and_others(matrix: Matrix) -> tuple[float, float] | None:
    """Return the mean of the specialised models on their own extremity, and on the others; None without both."""
    cells = [(row, column, value) for row in matrix.rows for column, value in matrix.values[row].items()]
    known = [(row == column, value) for row, column, value in cells if row in EXTREMITIES and value is not None]
    own = [value for same, value in known if same]
    others = [value for same, value in known if not same]
    return (sum(own) / len(own), sum(others) / len(others)) if own and others else None
