"""MLflow, the real one, in a folder: how a run begins, and what happens when it can't."""

import logging
import shutil
from pathlib import Path

import pytest

from mura.errors import ConfigError
from mura.tracking.mlflow_run import CautiousMLFlowLogger, mlflow_logger

SETTINGS = {"experiment_name": "mura", "run_name": "cnn2-wrist-seed0", "tags": {"arm": "specialised", "group": None}}


def test_runs_meet_in_one_folder_and_one_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert isinstance(mlflow_logger("größe #1", **SETTINGS), CautiousMLFlowLogger)
    arms = list((tmp_path / "größe #1").glob("*/*/tags/arm"))
    assert len(arms) == 2
    assert len({arm.parents[2] for arm in arms}) == 1
    assert not list((tmp_path / "größe #1").rglob("tags/group"))


def test_a_run_goes_on_when_its_folder_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = mlflow_logger(str(tmp_path / "runs"), **SETTINGS)
    assert isinstance(logger, CautiousMLFlowLogger)
    shutil.rmtree(tmp_path / "runs")
    for step in range(2):
        logger.log_metrics({"val_loss": 1.0}, step)
    logger.finalize("success")
    assert caplog.text.count("MLflow: logging an epoch failed, the run folder has everything") == 1


def test_a_server_that_is_away_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert mlflow_logger("http://127.0.0.1:9", **SETTINGS) is False
    assert "MLflow: http://127.0.0.1:9 can't be reached, so it is not used" in caplog.text


def test_where_no_run_can_be_begun_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place in (f"{tmp_path}/file/runs", "foo://runs"):
        with pytest.raises(ConfigError, match=f"^logger.mlflow.tracking_uri={place}: no run can be begun there: "):
            mlflow_logger(place, **SETTINGS)
    monkeypatch.setattr("mura.tracking.mlflow_run.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="MLflow is not installed; pip install -e"):
        mlflow_logger("runs", **SETTINGS)
