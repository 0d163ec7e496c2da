"""What was fitted on validation views is applied when it is asked for, and as the comparison applies it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from mura.errors import ConfigError, MuraError
from mura.inference.loading import load_model
from mura.inference.operating import adjust, check_threshold
from mura.inference.predict import Model, predict_pictures
from mura.runs.fitted import describe_fit, fit_points

SQUARES = np.random.default_rng(0).integers(0, 256, (3, 40, 40), np.uint8)


def fitted_run(wrist: Path, folder: Path) -> Path:
    """Return a copy of the run with a calibration.json from its own validation views."""
    shutil.copytree(wrist, folder)
    views = pd.read_csv(folder / "predictions.csv").query("split == 'val'")
    (folder / "checkpoints" / "calibration.json").write_text(json.dumps(describe_fit(views, views[:0])))
    return folder


def logits(model: Model, names: list[str | None]) -> np.ndarray:
    moved: np.ndarray = logit(model.probabilities(SQUARES, names))
    return moved


def test_temperature_and_threshold_change_the_logits_of_a_run(wrist: Path, tmp_path: Path) -> None:
    run = fitted_run(wrist, tmp_path / "run")
    fit = json.loads((run / "checkpoints" / "calibration.json").read_text())
    names = [None] * 3
    for place in (run, run / "checkpoints" / "best.ckpt"):
        model = load_model(place)
        assert adjust(model) is model
        np.testing.assert_allclose(
            logits(adjust(model, temperature=True), names), logits(model, names) / fit["temperature"], rtol=1e-6
        )
        shift = logit(fit["thresholds"]["accuracy"])
        np.testing.assert_allclose(
            logits(adjust(model, point="accuracy"), names), logits(model, names) - shift, rtol=1e-6
        )


def test_an_arm_has_the_fit_of_its_seeds_mean_extremity_by_extremity(study: Path) -> None:
    arm, names = load_model(study, "specialised"), ["hand", "wrist", "hand"]
    views = [pd.read_csv(study / "cnn2" / "hand" / f"seed{seed}" / "predictions.csv").query("split == 'val'")
             for seed in (0, 1)]  # fmt: skip
    mean = (views[0]["probability"] + views[1]["probability"]) / 2
    fit = fit_points(views[0].assign(probability=mean, logit=logit(mean)))
    assert arm.fitted()["hand"] == {"temperature": pytest.approx(fit["temperature"]), "thresholds": fit["thresholds"]}
    moved = logits(adjust(arm, temperature=True), names) / logits(arm, names)
    temperatures = [arm.fitted()[name]["temperature"] for name in names]
    np.testing.assert_allclose(1 / moved, temperatures, rtol=1e-6)
    assert list(load_model(study, "unified").fitted()) == ["all"]


def test_seeds_that_validated_on_other_views_have_no_fit_together(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "mine")
    file = tmp_path / "mine" / "cnn2" / "hand" / "seed1" / "predictions.csv"
    table = pd.read_csv(file)
    table[1:].to_csv(file, index=False)
    arm = load_model(tmp_path / "mine", "specialised")
    assert list(arm.fitted()) == ["wrist"]
    with pytest.raises(MuraError, match=r"--temperature: .* has no temperature for hand fitted on validation views"):
        adjust(arm, temperature=True)


def test_what_was_not_fitted_or_contradicts_itself_is_refused(wrist: Path) -> None:
    model = load_model(wrist)
    with pytest.raises(MuraError, match=r"--operating-point accuracy: .* has no threshold fitted on validation views"):
        adjust(model, point="accuracy")
    for ask, words in (
        (lambda: adjust(model, point="best"), "there is no such point. Options: accuracy, specificity"),
        (lambda: adjust(model, temperature=True, point="accuracy"), "give one"),
        (lambda: check_threshold(0.4, "accuracy"), "give one"),
        (lambda: check_threshold(1.0, None), "--threshold 1: it must lie between 0 and 1"),
        (lambda: check_threshold(float("nan"), None), "must lie between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            ask()
    assert (check_threshold(None, "accuracy"), check_threshold(0.3, None)) == (0.5, 0.3)


def test_a_study_is_called_by_the_threshold_that_was_asked_for(wrist: Path, mura_root: Path) -> None:
    model, folder = load_model(wrist), [mura_root / "valid" / "XR_WRIST"]
    found = predict_pictures(model, folder).table
    middle = float(found["study_probability"].median())
    again = predict_pictures(model, folder, threshold=middle).table
    assert list(again["study_probability"]) == list(found["study_probability"])
    assert set(again["study_is"]) == {"normal", "abnormal"}
    assert list(again["study_is"] == "abnormal") == list(again["study_probability"] > middle)


def test_an_exported_model_brings_its_fits(wrist: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from mura.inference.export import export

    run = load_model(fitted_run(wrist, tmp_path / "run"))
    export(run, tmp_path / "wrist.safetensors")
    shared = load_model(tmp_path / "wrist.safetensors")
    assert shared.fitted() == run.fitted() != {}
    np.testing.assert_allclose(
        adjust(shared, point="specificity").probabilities(SQUARES, [None] * 3),
        expit(logits(run, [None] * 3) - logit(run.fitted()["all"]["thresholds"]["specificity"])),
    )
