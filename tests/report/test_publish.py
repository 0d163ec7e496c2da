"""The saved view of the W&B dashboard, built without a login: it must name what the runs really log."""

import json
from pathlib import Path

import pytest

from mura.errors import MuraError
from mura.report.publish import WORKSPACE_ORDER, save_workspace, workspace


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("wandb_workspaces", reason="the optional extra `workspace` is not installed")


@pytest.mark.filterwarnings("ignore")
def test_the_view_shows_the_keys_that_a_run_logs(study_folder: Path) -> None:
    view = json.loads(workspace("somebody", "mura", "mine")._to_model().model_dump_json())
    text = json.dumps(view)
    run = next(study_folder.rglob("unified/seed0/metrics.json"))
    groups = json.loads(run.read_text())["test"]
    for level, metric in (("image", "accuracy"), ("study", "accuracy"), ("study", "kappa")):
        for extremity, values in groups[level].items():
            assert metric in values
            assert f"test/{level}/{extremity}/{metric}" in text
    assert "val_kappa" in text
    validated = json.loads(run.read_text())["val"]
    for key in WORKSPACE_ORDER:
        _, level, extremity, metric = key.split("/")
        assert metric in validated[level][extremity]
    order = json.dumps(view["spec"]["section"]["run_sets"][0]["sort"])
    assert order.index(WORKSPACE_ORDER[0]) < order.index(WORKSPACE_ORDER[1])
    assert "test/" not in order
    assert "mine" in text


def test_without_a_login_the_view_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(MuraError, match="log in with `wandb login`"):
        save_workspace("mura", "mine")
