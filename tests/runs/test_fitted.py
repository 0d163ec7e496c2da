"""What is fitted on a run's validation views: found back, described for people, and read again or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from refusals import refusal
from run_folders import predict, views_of
from scipy.special import expit

from mura.calibration import calibration_error
from mura.errors import MuraError
from mura.runs.fitted import (
    FITTED_RULES,
    MOST_ACCURATE,
    SPECIFIC,
    accuracy,
    at_temperature,
    at_threshold,
    describe_fit,
    fit_threshold,
    read_fitted,
    sensitivity_when_specific,
    studies_at_shifts,
)


@pytest.fixture(scope="module")
def views() -> pd.DataFrame:
    """The views of a model whose logits are three times too large."""
    table = predict(views_of("wrist", 200), 1.3, np.random.default_rng(0))
    return table.assign(logit=3 * table["logit"], probability=expit(3 * table["logit"]))


def test_the_file_says_how_reliable_the_views_are_before_and_after_the_temperature(views: pd.DataFrame) -> None:
    said = describe_fit(views, views)
    before, after = (said["reliability"]["test"][when] for when in ("before", "after"))
    assert said["temperature"] > 1.5
    assert after["ece"] < before["ece"] == calibration_error(views["label"] == 1, views["probability"].to_numpy())
    assert after["brier"] < before["brier"]
    for each in (before, after):
        assert sum(part["n"] for part in each["curve"]) == each["n"] == len(views)
        assert all(part["from"] <= part["probability"] <= part["to"] for part in each["curve"])
    json.dumps(said, allow_nan=False)


def test_the_test_views_have_no_say_in_a_fit(views: pd.DataFrame) -> None:
    flipped = views.assign(label=1 - views["label"])
    kept = ("temperature", "thresholds")
    assert [describe_fit(views, flipped)[key] for key in kept] == [describe_fit(views, views[:0])[key] for key in kept]
    assert set(describe_fit(views, views[:0])["reliability"]) == {"val"}


def test_the_specific_point_is_the_most_sensitive_of_those_that_are_specific_enough(views: pd.DataFrame) -> None:
    at = studies_at_shifts(views)
    specificity, sensitivity = (at.right[:, of].mean(axis=1) for of in (~at.abnormal, at.abnormal))
    threshold = fit_threshold(views, sensitivity_when_specific)
    assert threshold is not None
    chosen = int(np.argmin(np.abs(expit(at.shifts) - threshold)))
    assert specificity[chosen] >= 0.887
    assert sensitivity[chosen] == sensitivity[specificity >= 0.887].max()
    assert accuracy(at).max() == at.right.mean(axis=1)[np.argmin(np.abs(expit(at.shifts) - fit_threshold(views)))]


def test_no_point_is_specific_enough_where_normal_and_abnormal_views_are_alike(views: pd.DataFrame) -> None:
    alike = views.assign(logit=2.0, probability=expit(2.0))
    assert fit_threshold(alike, sensitivity_when_specific) is None
    assert describe_fit(alike, alike)["thresholds"][SPECIFIC] is None


def test_a_threshold_is_moved_to_a_half_and_a_temperature_changes_no_call() -> None:
    logits = np.array([-2.0, 0.0, 0.5, 3.0])
    assert expit(at_threshold(logits, float(expit(0.5)))).tolist() == [expit(-2.5), expit(-0.5), 0.5, expit(2.5)]
    assert (np.sign(at_temperature(logits, 2.5)) == np.sign(logits)).all()


def test_one_class_gives_no_fit_and_the_file_says_so(views: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(describe_fit(views[views["label"] == 1], views[:0])))
    fitted = read_fitted(file)
    assert fitted is not None
    assert fitted["temperature"] is None
    assert fitted["thresholds"] == {MOST_ACCURATE: None, SPECIFIC: None}
    assert fitted["reliability"]["val"]["after"] is None
    assert read_fitted(tmp_path / "absent.json") is None


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_no_threshold_calls_every_view_alike(threshold: float, tmp_path: Path) -> None:
    content = {"schema": 1, "temperature": None, "reliability": {}}
    content["thresholds"] = {MOST_ACCURATE: threshold, SPECIFIC: None}
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(content))
    with pytest.raises(MuraError, match=r"thresholds\.accuracy"):
        read_fitted(file)


@pytest.mark.parametrize("key", FITTED_RULES)
@pytest.mark.parametrize("value", ["x", True, -1.0, 2e300, [], "missing"])
def test_a_damaged_file_is_refused_with_its_key(key: str, value: Any, views: pd.DataFrame, tmp_path: Path) -> None:
    content = {"schema": 1, "temperature": 1.2, "thresholds": {MOST_ACCURATE: 0.4, SPECIFIC: None}, "reliability": {}}
    *above, name = key.split(".")
    place: dict[str, Any] = content[above[0]] if above else content
    place[name] = value
    if value == "missing":
        del place[name]
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(content))
    said = refusal(lambda: read_fitted(file))
    assert said is not None
    assert str(file) in said
    assert key in said
    file.write_bytes(b"\xff{")
    assert "can't be read" in str(refusal(lambda: read_fitted(file)))
