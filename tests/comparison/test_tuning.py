"""What the report says of a study's search: equal chances in numbers, the best of many, before and after."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from refusals import refusal
from run_folders import write_run

from mura.comparison.collect import find_runs
from mura.comparison.summary import Study
from mura.comparison.tuning import _best_out_of_bag
from mura.report.write import write_report

DATA = {"unified": ["wrist", "hand"], "wrist": ["wrist"], "hand": ["hand"]}
LR = {"low": 1e-5, "high": 0.01, "log": True, "whole": False}
TRIALS = 4


def write_searched_study(folder: Path) -> Path:
    """Write a study of two arms whose search had four trials each; of each, the recipe's was tested too."""
    searches = {}
    for name, extremities in DATA.items():
        arm = "unified" if name == "unified" else "specialised"
        write_run(folder / "cnn4" / name / "seed0", extremities, arm=arm)
        place = folder / "search" / "cnn4" / name
        for number in range(TRIALS):
            more = {} if number == 0 else {"test": None}
            write_run(
                place / f"trial{number}",
                extremities,
                seed=0,
                model=f"cnn{number}" if number else "cnn4",
                arm=arm,
                **more,
            )
        trials = [
            {"number": number, "params": {"optimizer.lr": 10.0 ** -(5 - number)}, "value": 0.7 - 0.1 * (number == 2),
             "state": "complete", "epochs": 3, "steps": 30, "seconds": 1.0}
            for number in range(TRIALS)
        ]  # fmt: skip
        searches[f"cnn4/{name}"] = {
            "model": "cnn4", "data": name, "arm": arm, "recipe": {"optimizer.lr": 1e-5}, "trials": trials, "chosen": 2,
            "importance": {"optimizer.lr": 1.0},
        }  # fmt: skip
    terms = {"space": {"optimizer.lr": LR}, "folds": [], "trials": TRIALS, "seed": 0, "prune": False}
    noted = terms | {"monitor": "val_loss", "mode": "min", "searches": searches}
    (folder / "search" / "search.json").write_text(json.dumps(noted))
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_searched_study(tmp_path_factory.mktemp("searched") / "study")


@pytest.fixture(scope="module")
def study(searched: Path) -> Study:
    return write_report([searched], searched, resamples=100)


def test_no_trial_is_compared(searched: Path, study: Study) -> None:
    assert len(find_runs([searched])[0]) == 3
    assert [run.model for run in study.runs] == ["cnn4"] * 3


def test_the_report_shows_what_was_searched_and_the_verdict_before_and_after(searched: Path, study: Study) -> None:
    [before] = study.before
    [after] = study.pairs
    assert before.pair.name == after.pair.name
    for name in ("results.md", "index.html"):
        text = (searched / name).read_text().replace("\\", "")
        assert "3 searches, each of 4 trials in the same space (optimizer.lr 1e-05 to 0.01, logarithmic)" in text
        assert "A whole trial took 30 steps." in text
        assert "trial 2: optimizer.lr 0.001" in text
        assert "before tuning (the recipe, one seed): " in text
        assert "Tuned for each model and data set, with equal chances: optimizer.lr" in text
    assert (searched / "index.html").read_text().count('aria-label="Search of cnn4') == 3


def test_without_all_recipes_tested_nothing_is_said_of_before(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched, tmp_path / "study")
    metrics = tmp_path / "study" / "search" / "cnn4" / "hand" / "trial0" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"test": None}))
    (tmp_path / "study" / "search" / "cnn4" / "wrist" / "trial3" / "predictions.csv").unlink()
    lacking = write_report([tmp_path / "study"], tmp_path / "study", resamples=100)
    assert lacking.before == []
    assert "before tuning" not in (tmp_path / "study" / "results.md").read_text()
    elsewhere = {arm.data: arm.elsewhere for arm in lacking.searches[0].arms}
    assert elsewhere["wrist"] is None, "a trial's predictions are gone"
    assert elsewhere["hand"] is not None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "can't be read"), ("{}", "lacks space"), ('{"space": []}', "has space=a list, which must be a table")],
)
def test_a_damaged_search_is_refused_in_a_sentence(content: str, sentence: str, searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched, tmp_path / "study")
    (tmp_path / "study" / "search" / "search.json").write_text(content)
    said = str(refusal(lambda: write_report([tmp_path / "study"], tmp_path / "out", resamples=100)))
    assert "search.json" in said
    assert sentence in said


def test_the_best_of_many_is_worse_on_patients_that_did_not_choose_it() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 4, 60).astype(float)
    alike = 0.5 + 0.3 * rng.normal(size=(20, 60))
    best = (alike * sizes).sum(1).min() / sizes.sum()
    elsewhere = _best_out_of_bag(alike * sizes, sizes)
    assert elsewhere is not None
    assert best + 0.02 < elsewhere == pytest.approx(0.5, abs=0.05)

    single = _best_out_of_bag((alike * sizes)[:1], sizes)
    assert single == pytest.approx((alike[0] * sizes).sum() / sizes.sum(), abs=0.01), "one trial has no luck"
    assert _best_out_of_bag(np.ones((2, 1)), np.ones(1)) is None
