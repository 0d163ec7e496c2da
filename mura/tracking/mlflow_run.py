"""A run in MLflow, in a folder or on a tracking server: nothing is sent anywhere else, and it never costs a run."""

import logging
import os
from importlib.util import find_spec
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger

from mura.errors import ConfigError
from mura.files import acquire, expand_home, lock_beside
from mura.processes import is_rank_zero
from mura.tracking.logger import Cautious
from mura.tracking.wandb_run import answers

ENVIRONMENT = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # MLflow 3 writes to a folder only when told to
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # by default, a server that is gone holds up a run for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""What MLflow reads, where the user has not said otherwise."""

ADDRESSES = ("databricks", "file:", "uc:")  # beside those with "://"; all others are folders

log = logging.getLogger(__name__)
logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # it warns of each new experiment


class CautiousMLFlowLogger(Cautious, MLFlowLogger):
    """Lightning's MLflow logger, as a run has it."""

    service = "MLflow"


def mlflow_logger(tracking_uri: str, tags: dict[str, str | None], **settings: Any) -> Logger | bool:
    """Return a new MLflow run as a Lightning logger, or False when its server can't be reached.

    `tracking_uri` is a server, a database or a folder, which is made; `settings` are further ones of MLFlowLogger.
    Raises ConfigError when MLflow is not installed, or can't write where it should.
    """
    if not is_rank_zero():
        return False
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if find_spec("mlflow") is None:
        raise ConfigError("logger=mlflow: MLflow is not installed; pip install -e '.[mlflow]'.")
    if tracking_uri.startswith(("http://", "https://")) and not answers(tracking_uri):
        log.warning("MLflow: %s can't be reached, so it is not used; the run folder has everything", tracking_uri)
        return False
    try:
        return _begin(tracking_uri, {name: value for name, value in tags.items() if value is not None}, settings)
    except Exception as error:  # MLflow's own, of a file, of a database: nothing has been trained yet
        why = str(error).split("\n")[0]
        raise ConfigError(f"logger.mlflow.tracking_uri={tracking_uri}: no run can be begun there: {why}") from None


def _begin(tracking_uri: str, tags: dict[str, str], settings: dict[str, Any]) -> Logger:
    """Begin the run; one process at a time where runs meet in a folder, lest each makes the experiment."""
    if "://" in tracking_uri or tracking_uri.startswith(ADDRESSES):
        logger = CautiousMLFlowLogger(tracking_uri=tracking_uri, tags=tags, **settings)
        log.info("MLflow: run %s in %s", logger.run_id, tracking_uri)
        return logger
    folder = expand_home(tracking_uri).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_beside(folder / ".lock")
    acquire(lock, wait=True)
    try:
        return _begin(folder.as_uri(), tags, settings)
    finally:
        lock.release()
