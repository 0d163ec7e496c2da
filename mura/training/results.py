"""The results of a run: predictions.csv, curves.png and, last, metrics.json."""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning import Trainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table

from mura.calibration import ECE_VARIANT
from mura.data.datamodule import MuraDataModule
from mura.data.index import is_synthetic
from mura.extremities import data_name
from mura.files import write_json, write_text
from mura.machine import device_name
from mura.metrics import LEVELS, OVERALL, PAPER_SPECIFICITY, THRESHOLD, summarise
from mura.models.checkpoint import load_checkpoint
from mura.processes import PROGRAM
from mura.progress import console_on
from mura.provenance import git_state, versions
from mura.runs.fitted import describe_fit
from mura.runs.folder import PREDICTION_COLUMNS, SCHEMA, RunFolder
from mura.runs.tables import csv_text
from mura.tracking import logger as tracking
from mura.training.callbacks import stopped_by
from mura.training.prediction import Predictions
from mura.training.speed import Speed

CONSOLE_METRICS = ("n", "accuracy", "kappa", "auroc", "sensitivity", "specificity")

log = logging.getLogger(__name__)


def provenance(data: MuraDataModule, weights: str | None) -> dict[str, Any]:
    """Return what a checkpoint says of its own making: plain values, so that it loads without running any code."""
    return data.provenance() | {"threshold": THRESHOLD, "initial_weights": weights, "versions": versions()}


def describe_run(
    run: RunFolder, identity: dict[str, Any], trainer: Trainer, data: MuraDataModule, predictions: Predictions
) -> dict[str, Any]:
    """Return the content of metrics.json."""
    speed = next(callback for callback in trainer.callbacks if isinstance(callback, Speed))  # type: ignore[attr-defined]
    module: Any = trainer.lightning_module
    return {
        "schema": SCHEMA,
        "name": identity["name"],
        "model": module.hparams["name"],
        "data": data_name(data.extremities),
        "extremities": data.extremities,
        "test_extremities": data.test_extremities,
        "arm": identity["arm"],
        "seed": identity["seed"],
        "fold": data.fold,
        "best_epoch": best_epoch(run, predictions),
        "best_value": best_value(trainer),
        "averaged_epochs": predictions.epochs,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "pictures_seen": sum(int(pictures) for pictures, *_ in speed.epochs),
        "stopped_by": stopped_by(trainer),
        "threshold": THRESHOLD,
        "ece_variant": ECE_VARIANT,
        "paper_specificity": PAPER_SPECIFICITY,
        "val": summarise(predictions.of_role("val")),
        "test": summarise(predictions.of_role("test")) if data.test else None,
        "synthetic": is_synthetic(data.root),
        "damaged_left_out": data.left_out(),
        "conflicting_left_out": len(data.conflicting),
        "blank_views": data.blank(),
        "speed": speed.summary(),
        "device": device_name(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "data_fingerprint": data.opened.fingerprint,
        "split_hash": data.opened.split_hash,
        "versions": versions(),
        "git": git_state(PROGRAM),
    }


def best_epoch(run: RunFolder, predictions: Predictions) -> int:
    """Return the epoch of best.ckpt, from which the predictions are, unless there is an ensemble."""
    if len(predictions.epochs) == 1:
        return predictions.epochs[0]
    return int(load_checkpoint(run.best_checkpoint)["epoch"])


def best_value(trainer: Trainer) -> float | None:
    """Return what `monitor` was in the epoch of best.ckpt; None without one."""
    best = next(callback for callback in trainer.checkpoint_callbacks if callback.filename == "best")  # type: ignore[attr-defined]
    score = best.best_model_score  # type: ignore[attr-defined]
    return None if score is None else float(score)


def write_results(run: RunFolder, trainer: Trainer, predictions: Predictions, metrics: dict[str, Any]) -> None:
    """Write predictions, curves and, last, metrics.json, from the first process; show the metrics."""
    if not trainer.is_global_zero:
        return
    transfer = predictions.of_role("transfer")
    own = predictions.views.drop(index=transfer.index)[PREDICTION_COLUMNS]
    write_text(run.predictions, csv_text(own))
    if len(transfer):
        write_text(run.transfer, csv_text(transfer))
    title = f"{metrics['model']}, {metrics['data']}, seed {metrics['seed']}"
    draw_curves(pd.read_csv(run.history), metrics["best_epoch"], title, run.curves)
    fitted = describe_fit(predictions.of_role("val"), predictions.of_role("test"))
    write_json(run.calibration, fitted)
    tracking.log_results(trainer.loggers, metrics, own, run.curves)
    write_json(run.metrics, metrics)
    console_on(sys.stderr, width=110).print(ResultsTable(metrics))
    log.info("%s", calibration_words(fitted))
    log.info("done: %s", run.path)


def calibration_words(fitted: dict[str, Any]) -> str:
    """Return what the fitted temperature would do to the calibration error of the views."""
    if fitted["temperature"] is None:
        return "no temperature: the validation views are all of one class"
    errors = [f"{part} {each['before']['ece']:.3f} / {each['after']['ece']:.3f}"
              for part, each in fitted["reliability"].items()]  # fmt: skip
    return f"ECE before / after a temperature of {fitted['temperature']:.2f} (not applied): {', '.join(errors)}"


@dataclass(frozen=True)
class ResultsTable:
    """The metrics at both levels for the console: as many of CONSOLE_METRICS as stand there unbroken."""

    metrics: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        for count in range(len(CONSOLE_METRICS), 0, -1):
            table = results_table(self.metrics, CONSOLE_METRICS[:count])
            if console.measure(table, options=options.update(width=sys.maxsize)).maximum <= options.max_width:
                break
        yield table


def results_table(metrics: dict[str, Any], shown: Sequence[str]) -> Table:
    """Return the metrics that are shown, at both levels: each as `validation / test`, or without the test."""
    parts = [metrics[part] for part in ("val", "test") if metrics[part] is not None]
    what = "validation / test" if len(parts) == 2 else "validation (test=false)"
    table = Table(title=f"{what}: {metrics['name']}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("level", "extremity", *shown):
        table.add_column(column, justify="left" if column in ("level", "extremity") else "right")
    for level in LEVELS:
        of_level = [part[level] for part in parts]
        for extremity in dict.fromkeys(name for groups in of_level for name in groups):
            if extremity == OVERALL and all(len(groups) == 2 for groups in of_level):
                continue  # a single extremity: the same row again
            values = [groups.get(extremity, {}) for groups in of_level]
            cells = [" / ".join(_cell(each.get(name)) for each in values) for name in shown]
            table.add_row(level, extremity, *cells)
    return table


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def draw_curves(history: pd.DataFrame, best_epoch: int, title: str, file: Path) -> None:
    """Draw loss and accuracy over the epochs into `file`, as in Kumar et al. 2024, appendix A.

    `history` has the columns of history.csv; the best epoch is marked.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        epochs = history["epoch"] + 1
        axes.plot(epochs, history[f"train_{what}"], marker="o", markersize=3, label="training")
        axes.plot(epochs, history[f"val_{what}"], marker="o", markersize=3, label="validation")
        axes.axvline(best_epoch + 1, color="0.6", linestyle="--", linewidth=1, label="best epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=what)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(file, dpi=120)
