"""A run in Weights & Biases: Lightning's logger, the results (in MLflow too), and the end."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from mura.metrics import roc_curve
from mura.processes import is_rank_zero
from mura.tracking.wandb_run import forget_failure, never_fatal, open_run


def no_logger() -> bool:
    """Return Lightning's word for no logger."""
    return False


class Cautious(Logger):
    """What makes a logger of Lightning's give up when its service fails in the middle; the run goes on without it."""

    service: str
    lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try("logging an epoch", super().log_metrics, metrics, step)  # type: ignore[safe-super]

    def log_hyperparams(self, params: Any) -> None:
        self._try("logging the config", super().log_hyperparams, params)  # type: ignore[safe-super]

    def finalize(self, status: str = "success") -> None:
        self._try("finalizing", super().finalize, status)

    def _try(self, what: str, log_it: Callable[..., None], *arguments: Any) -> None:
        if not self.lost:
            self.lost = True
            with never_fatal(what, self.service):
                log_it(*arguments)
                self.lost = False


class CautiousWandbLogger(Cautious, WandbLogger):
    """Lightning's W&B logger, as a run has it."""

    service = "W&B"


def wandb_logger(folder: str, tags: list[str], job_type: str = "train", **settings: Any) -> Logger | bool:
    """Return the W&B run of one run folder as a Lightning logger, or False when even offline fails.

    `settings` are those of `wandb.init`. A resumed run goes on in its W&B run, which is noted in the folder.
    """
    if not is_rank_zero():
        return False
    run = open_run(Path(folder), tags=list(tags), job_type=job_type, **settings)
    return False if run is None else CautiousWandbLogger(experiment=run, save_dir=folder)


@rank_zero_only
def log_results(loggers: list[Logger], metrics: dict[str, Any], predictions: pd.DataFrame, curves: Path) -> None:
    """Log the metrics to W&B's summary, the predictions as a table, the curves and the ROC as pictures.

    MLflow gets the metrics.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with never_fatal("logging the results"):
                _log_to_wandb(logger.experiment, metrics, predictions, curves)
        elif isinstance(logger, Cautious):
            numbers = {key: value for key, value in named_results(metrics) if isinstance(value, (int, float))}
            logger.log_metrics(numbers, step=metrics["steps"])


def named_results(metrics: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the results of both parts by the names that services show: `test/study/wrist/kappa`."""
    for part in ("val", "test"):
        for level, groups in (metrics[part] or {}).items():  # None: test=false
            for extremity, values in groups.items():
                for metric, value in values.items():
                    yield f"{part}/{level}/{extremity}/{metric}", value


def _log_to_wandb(run: Any, metrics: dict[str, Any], predictions: pd.DataFrame, curves: Path) -> None:
    import wandb

    for name, value in named_results(metrics):
        run.summary[name] = value
    run.summary["best_epoch"] = metrics["best_epoch"]
    for name, value in metrics["speed"].items():
        run.summary[f"speed/{name}"] = value
    pictures: dict[str, Any] = {"curves": wandb.Image(str(curves))} if curves.is_file() else {}
    points = roc_points(predictions[predictions["split"] == "test"])
    if len(points):
        pictures["roc"] = wandb.plot_table(  # as wandb.plot.roc_curve, without importing scikit-learn
            "wandb/area-under-curve/v0", wandb.Table(dataframe=points),
            {"x": "fpr", "y": "tpr", "class": "class"},
            {"title": "ROC", "x-axis-title": "False positive rate", "y-axis-title": "True positive rate"},
        )  # fmt: skip
    run.log(
        {
            "predictions": wandb.Table(dataframe=predictions), **pictures, "best_value": metrics["best_value"],
            "epoch": metrics["epochs"],
        }
    )  # fmt: skip


def roc_points(test: pd.DataFrame) -> pd.DataFrame:
    """Return `fpr`, `tpr` and `class`, the extremity: a ROC curve by image for each that has both classes."""
    curves = [pd.DataFrame(columns=["fpr", "tpr", "class"])]
    for extremity, part in test.groupby("extremity", observed=True):
        if part["label"].nunique() == 2:
            false_positive, true_positive = roc_curve(part["label"].to_numpy(bool), part["probability"].to_numpy())
            points = pd.DataFrame({"fpr": false_positive, "tpr": true_positive}).round(3).drop_duplicates()
            curves.append(points.assign(**{"class": extremity}))
    return pd.concat(curves[1:] or curves, ignore_index=True)


@rank_zero_only
def finish(loggers: list[Logger], exit_code: int) -> None:
    """End the W&B run of this process, so that the next one of a multirun is a run of its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with never_fatal("finishing"):
                logger.experiment.finish(exit_code=exit_code)
                continue
            forget_failure()
