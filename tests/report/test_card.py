"""Model cards: what stands in the run folders, said for people and for hubs; what is missing is said, nothing else."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from command import mura
from run_folders import MakeRun, write_run

from mura.errors import MuraError
from mura.metrics import share_interval, study_table
from mura.report.card import model_card
from mura.runs.fitted import describe_fit

DEVICE = "It is not a medical device"


def matter_of(card: str) -> dict[str, object]:
    """Return the front matter."""
    _, text, _ = card.split("---\n", 2)
    matter: dict[str, object] = yaml.safe_load(text)
    return matter


@pytest.fixture
def wrist(run: MakeRun) -> Path:
    """A run with its calibration."""
    folder = run("wrist", synthetic=True)
    views = pd.read_csv(folder / "predictions.csv")
    (folder / "checkpoints").mkdir()
    fitted = describe_fit(*(views[views["split"] == split] for split in ("val", "test")))
    (folder / "checkpoints" / "calibration.json").write_text(json.dumps(fitted))
    return folder


def test_it_is_printed_or_written_to_a_file(wrist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mura("card", wrist).stdout == mura("card", wrist, "--out", "-").stdout == model_card(wrist)
    assert not Path("-").exists()
    assert mura("card", wrist, "--out", "card.md").stdout == ""
    assert Path("card.md").read_text() == model_card(wrist)


def test_a_run_is_described_with_its_own_numbers_and_their_intervals(wrist: Path) -> None:
    card = model_card(wrist)
    views = pd.read_csv(wrist / "predictions.csv").query("split == 'test'")
    studies = study_table(views)
    right = ((studies["probability"] > 0.5) == (studies["label"] == 1)).to_numpy()
    low, high = share_interval(right, studies["patient"].to_numpy())
    [row] = re.findall(r"\| wrist \| .*", card)
    assert f"| wrist | {len(studies)} | {studies['patient'].nunique()} |" in row
    assert f"| {100 * right.mean():.1f} ({100 * low:.1f} to {100 * high:.1f}) |" in row
    metrics = json.loads((wrist / "metrics.json").read_text())
    assert f"| {metrics['test']['study']['wrist']['auroc']:.3f} |" in row
    assert f"{100 * metrics['test']['study']['wrist']['sensitivity']:.1f} (" in row
    assert f"Best epoch: {metrics['best_epoch'] + 1}." in card  # people count from 1
    assert DEVICE in card
    assert "This is one run. Which approach is better, a study says" in card


def test_hubs_find_the_same_numbers_in_the_front_matter(wrist: Path) -> None:
    card = model_card(wrist)
    matter = matter_of(card)
    assert matter["pipeline_tag"] == "image-classification"
    [index] = matter["model-index"]  # type: ignore[misc]
    [result] = index["results"]
    assert result["dataset"] == {"name": "synthetic radiographs", "type": "synthetic", "split": "test"}
    metrics = json.loads((wrist / "metrics.json").read_text())["test"]["study"]["all"]
    found = {each["type"]: each["value"] for each in result["metrics"]}
    assert found == {
        "accuracy": pytest.approx(metrics["accuracy"], abs=1e-4), "roc_auc": pytest.approx(metrics["auroc"], abs=1e-4),
        "cohen_kappa": pytest.approx(metrics["kappa"], abs=1e-4),
    }  # fmt: skip
    assert "licence" not in matter
    assert "license" not in matter  # no run folder says it


def test_synthetic_results_say_so_at_the_top_in_the_tags_and_among_the_limits(run: MakeRun, wrist: Path) -> None:
    card = model_card(wrist)
    assert card.count("Synthetic data: these pictures are drawn by the program.") == 2
    assert "synthetic-data" in matter_of(card)["tags"]  # type: ignore[operator]
    real = model_card(run("hand", synthetic=False))
    assert "drawn by the program." in real
    assert "Synthetic" not in real


def test_the_calibration_is_told_before_and_after_the_temperature(wrist: Path) -> None:
    fitted = json.loads((wrist / "checkpoints" / "calibration.json").read_text())
    test = fitted["reliability"]["test"]
    card = model_card(wrist)
    assert f"| {fitted['temperature']:.3f} |" in card
    assert f"| {test['before']['ece']:.3f} / {test['after']['ece']:.3f} |" in card


def test_what_a_run_does_not_hold_is_said_and_no_place_of_the_machine_is(run: MakeRun, tmp_path: Path) -> None:
    folder = run("wrist", steps=None, versions=None, git=None)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"data": {"root": str(tmp_path)}, "model": {"weights": "/w/a.pt"}})
    )
    card = model_card(folder)
    for words in (
        "Optimiser steps: not noted", "Versions: not noted", "Commit: not noted", "learning rate: not noted",
        "Not noted: whether views are blank", "Initial weights: a file", "1 of 1 runs have no calibration.json",
        "the licence of the weights", "Hash of the split: 55555",
    ):  # fmt: skip
        assert words in card, words
    assert str(tmp_path) not in card
    assert "/w/a.pt" not in card


def test_an_untested_run_is_described_by_its_validation_and_says_so(run: MakeRun) -> None:
    folder = run("wrist", test=None)
    views = pd.read_csv(folder / "predictions.csv")
    views[views["split"] == "val"].to_csv(folder / "predictions.csv", index=False)
    card = model_card(folder)
    assert "VALIDATION, on which its checkpoint was chosen: it was not tested" in card
    assert "Test: 0 views" in card
    assert "model-index" not in matter_of(card)


def test_a_study_s_card_has_every_arm_and_the_verdict_of_its_report(tmp_path: Path) -> None:
    for seed in (0, 1):
        for names in (["hand", "wrist"], ["hand"], ["wrist"]):
            arm = "unified" if len(names) > 1 else "specialised"
            write_run(tmp_path / "mine" / "cnn4" / "+".join(names) / f"seed{seed}", names, seed, arm=arm, patients=8)
    card = model_card(tmp_path / "mine", resamples=200)
    assert card.count("\n# mine\n") == 1
    for arm in ("unified", "specialised"):
        table = card.split(f"**cnn4, {arm}**, 2 seeds, test:")[1].split("**")[0]
        assert re.findall(r"^\| ([^|]+) \| \d+ \|", table, re.MULTILINE) == ["hand", "wrist", "hand+wrist"]
    verdict = card.split("## The comparison's verdict")[1].split("## Limits")[0]
    assert "**cnn4, unified and specialised.** Over hand and wrist together:" in verdict
    assert "this speaks of these trained models, not of the two approaches" in verdict
    assert "2 seeds: other random numbers" in card
    found = {each["name"] for each in matter_of(card)["model-index"][0]["results"][0]["metrics"]}  # type: ignore[index]
    assert "study accuracy, cnn4, unified, mean of 2 seeds" in found


def test_names_that_are_markdown_or_yaml_stay_text(run: MakeRun) -> None:
    name = "evil: [x](y) <script> | `a`\n---\n# b"
    card = model_card(run("wrist", name=name))
    [index] = matter_of(card)["model-index"]  # type: ignore[misc]
    assert index["name"] == name.replace("\n", "\\n")
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body
    assert "[x](y)" not in body


def test_what_can_t_be_described_is_one_sentence(run: MakeRun, tmp_path: Path) -> None:
    folder = run("wrist")
    (folder / "metrics.json").unlink()
    with pytest.raises(MuraError, match="is not finished"):
        model_card(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MuraError, match="There is no finished run"):
        model_card(tmp_path / "empty")
