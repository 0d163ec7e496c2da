"""Weights & Biases: online with a key and a network, else offline; it never asks, hangs or costs a run."""

import contextlib
import hashlib
import io
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from mura.device import Choice
from mura.runs import is_rank_zero

CONNECT_SECONDS = 3
SETTINGS = {"init_timeout": 30, "finish_timeout": 120, "console": "off", "silent": True}

log = logging.getLogger(__name__)


def no_logger() -> bool:
    """Lightning's word for no logger."""
    return False


def choose_mode() -> Choice:
    """`online`, `offline` or `disabled`, with the reason. Asks nothing and waits three seconds at most."""
    import wandb

    wished = os.environ.get("WANDB_MODE")
    if wished in ("offline", "disabled"):
        return Choice(wished, "WANDB_MODE says so")
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            logged_in = wandb.login(prompt=False, verify=False)
        except Exception:  # a malformed key; without one there is nothing to lose
            logged_in = False
    if not logged_in:
        return Choice("offline", "no login: `wandb login` once, or WANDB_API_KEY")
    if wished:  # without a login it would ask for one
        return Choice(wished, "WANDB_MODE says so")
    address = urlparse(str(wandb.setup().settings.base_url))
    if not _answers(address.hostname or "", address.port or (443 if address.scheme == "https" else 80)):
        return Choice("offline", "the W&B server can't be reached")
    return Choice("online", "logged in")


def _answers(host: str, port: int) -> bool:
    """Whether somebody is there; in a thread, because looking up a name can take longer than any timeout."""
    reached = threading.Event()

    def knock() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
            reached.set()

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return reached.is_set()


class CautiousWandbLogger(WandbLogger):
    """Lightning's W&B logger; when W&B fails in the middle, the run goes on without it."""

    lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try("logging an epoch", super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        self._try("logging the config", super().log_hyperparams, params)

    def finalize(self, status: str) -> None:
        self._try("finalizing", super().finalize, status)

    def _try(self, what: str, log_it: Callable[..., None], *arguments: Any) -> None:
        if not self.lost:
            self.lost = True
            with never_fatal(what):
                log_it(*arguments)
                self.lost = False


def wandb_logger(project: str, name: str, group: str | None, tags: list[str], folder: str) -> Logger | bool:
    """The W&B run of one run folder, as a Lightning logger; False when even offline fails.

    A resumed run goes on in its W&B run: the id hangs on the run folder and the name.
    """
    if not is_rank_zero():
        return False
    run = open_run(Path(folder), project=project, name=name, group=group, tags=list(tags), job_type="train")
    return False if run is None else CautiousWandbLogger(experiment=run, save_dir=folder)


def open_run(folder: Path, *, name: str, **settings: Any) -> Any:
    """The W&B run `name` of a folder, begun or gone on with; None when even offline fails."""
    mode = choose_mode()
    identity = hashlib.blake2b(f"{folder.resolve()} {name}".encode(), digest_size=5).hexdigest()
    for attempt in dict.fromkeys([mode, Choice("offline", "instead")]):
        try:
            run = _start(attempt.value, dir=str(folder), id=identity, resume="allow", name=name, **settings)
        except Exception as error:  # whatever W&B's failure is, the run goes on
            log.warning("W&B %s failed: %s", attempt.value, str(error).split("\n")[0])
            _forget_failure()
            continue
        how = f"; later: wandb sync {folder}/wandb/offline-run-*" if attempt.value == "offline" else ""
        log.info("W&B: %s (%s)%s", attempt.value, attempt.reason, how)
        return run
    log.warning("W&B: not used; everything is in %s", folder)
    return None


def _start(mode: str, **arguments: Any) -> Any:
    import wandb

    run = wandb.init(mode=mode, settings=wandb.Settings(**SETTINGS), **arguments)  # type: ignore[arg-type]
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    return run


def _forget_failure() -> None:
    """The service that could not start a run holds on to its id; another one does not know it."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


@rank_zero_only
def log_results(loggers: list[Logger], metrics: dict[str, Any], predictions: pd.DataFrame, curves: Path) -> None:
    """The test metrics into the summary, the predictions as a table, the curves and the ROC as pictures."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with never_fatal("logging the results"):
                _log_to_wandb(logger.experiment, metrics, predictions, curves)


def _log_to_wandb(run: Any, metrics: dict[str, Any], predictions: pd.DataFrame, curves: Path) -> None:
    import wandb

    for level, groups in metrics["test"].items():
        for extremity, values in groups.items():
            for metric, value in values.items():
                run.summary[f"test/{level}/{extremity}/{metric}"] = value
    run.summary["best_epoch"] = metrics["best_epoch"]
    for name, value in metrics["speed"].items():
        run.summary[f"speed/{name}"] = value
    pictures: dict[str, Any] = {"curves": wandb.Image(str(curves))} if curves.is_file() else {}
    test = predictions[predictions["split"] == "test"]
    if test["label"].nunique() == 2:
        scores = [[1 - value, value] for value in test["probability"]]
        pictures["roc"] = wandb.plot.roc_curve(test["label"].tolist(), scores, labels=["normal", "abnormal"])
    run.log({"predictions": wandb.Table(dataframe=predictions), **pictures, "epoch": metrics["epochs"]})


@rank_zero_only
def finish(loggers: list[Logger], exit_code: int) -> None:
    """Ends the W&B run of this process, so that the next one of a multirun is a run of its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with never_fatal("finishing"):
                logger.experiment.finish(exit_code=exit_code)
                continue
            _forget_failure()


@contextlib.contextmanager
def never_fatal(what: str) -> Iterator[None]:
    """Whatever W&B's failure is, it is said in one line and nothing is lost by it."""
    try:
        yield
    except Exception as error:
        log.warning("W&B: %s failed, the run folder has everything: %s", what, str(error).split("\n")[0])
