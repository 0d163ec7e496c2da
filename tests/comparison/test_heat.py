"""Do two arms look at the same places? Known maps, known answers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from refusals import refusal
from run_folders import MakeRun, write_run

from mura.comparison.collect import collect, read_run
from mura.comparison.heat import alike, heat_agreements, hottest, rank_correlation
from mura.comparison.summary import summarise_study
from mura.report.page import index_html
from mura.report.words import NO_HEAT
from mura.runs.folder import RunFolder
from mura.runs.heat import HeatMaps, write_heat

FIGURES = {
    "views": 9, "without_heat": 0,
    "boxes": {"all": {"n": 4, "pointing_game": 0.25, "heat_in_box": 0.2, "chance": 0.1,
                      "random_weights_pointing_game": 0.111, "random_weights_heat_in_box": 0.09}},
}  # fmt: skip


def add_heat(run: Path, seed: int, shared: float, boxes: bool = True) -> None:
    """Give a run heat maps, that are so far the same in all runs."""
    views = pd.read_csv(run / "predictions.csv").query("split == 'test'")
    common = np.stack([np.random.default_rng(list(path.encode())).random((6, 6)) for path in views["path"]])
    heat = shared * common + (1 - shared) * np.random.default_rng(seed).random(common.shape)
    heat[:, 0] = np.nan  # beside the picture
    wrong = views["path"][(views["probability"] > 0.5) != (views["label"] == 1)].to_numpy(str)
    pictures = np.full((len(wrong), 16, 16), 90, np.uint8)
    figures = FIGURES if boxes else FIGURES | {"boxes": None}
    write_heat(run / "heat.npz", HeatMaps(views["path"].to_numpy(str), heat, wrong, pictures, figures))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two seeds of unified and specialised for the wrist; the seeds of an arm agree more than the arms."""
    for seed in (0, 1):
        unified = write_run(tmp_path / f"u{seed}", ["hand", "wrist"], seed, arm="unified", patients=8)
        add_heat(unified, seed, shared=0.8)
        specialised = write_run(tmp_path / f"s{seed}", ["wrist"], seed, arm="specialised", patients=8)
        add_heat(specialised, 10 + seed, shared=0.3)
    return tmp_path


def test_the_same_map_agrees_wholly_its_reverse_not_at_all_and_another_by_chance() -> None:
    rng = np.random.default_rng(0)
    one = pd.DataFrame(rng.random((400, 50)), index=[str(number) for number in range(400)])
    same, reverse, other = alike(one, one), alike(one, 1 - one), alike(one, one * 0 + rng.random((400, 50)))
    assert same["correlation"].to_numpy() == pytest.approx(1)
    assert (same["overlap"] == 1).all()
    assert reverse["correlation"].to_numpy() == pytest.approx(-1)
    assert (reverse["overlap"] == 0).all()
    assert other["correlation"].mean() == pytest.approx(0, abs=0.03)
    assert other["overlap"].mean() == pytest.approx(0.1, abs=0.03)
    assert (other["chance"] == 0.1).all()


def test_the_rank_correlation_is_spearmans_and_cells_beside_the_picture_dont_count() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, (2, 6, 30)).astype(float)
    a[:, :9] = b[:, :9] = np.nan
    expected = [scipy.stats.spearmanr(x[9:], y[9:]).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b) == pytest.approx(expected)
    assert not hottest(a, np.full(6, 3))[:, :9].any()
    assert (hottest(a, np.full(6, 3)).sum(axis=1) == 3).all()


def test_a_view_without_heat_on_either_side_is_left_out() -> None:
    one = pd.DataFrame(np.random.default_rng(2).random((3, 20)), index=["a", "b", "c"])
    other = one.copy()
    other.loc["b"] = 0.0
    assert alike(one, other).index.tolist() == ["a", "c"]
    assert alike(one, other.drop("a")).index.tolist() == ["c"]


def test_arms_are_paired_by_seed_and_the_seeds_of_an_arm_stand_beside_them(study: Path) -> None:
    found = {(each.extremity, each.a, each.b): each for each in heat_agreements(collect([study])[0])}
    assert set(found) == {
        ("hand", "unified", "unified"), ("wrist", "unified", "unified"), ("wrist", "unified", "specialised"),
        ("wrist", "specialised", "specialised"),
    }  # fmt: skip
    assert found["wrist", "unified", "unified"].correlation > 0.8
    assert 0.1 < found["wrist", "unified", "specialised"].correlation < 0.6
    assert found["wrist", "unified", "specialised"].views == found["wrist", "unified", "unified"].views


def test_the_report_shows_agreement_findings_and_the_pictures_of_mistakes(study: Path, tmp_path: Path) -> None:
    summary = summarise_study([study], tmp_path, resamples=50)
    page = index_html(summary)
    assert 'src="data:image/jpeg;base64,' in page
    assert "two seeds of one arm: 0." in page
    for words in ("two seeds of unified", "unified and specialised", "0.111", "may not pass this page on"):
        assert words in page
    without = index_html(summary, with_pictures=False)
    assert "data:image" not in without
    assert "may not pass this page on" not in without


def test_without_heat_the_report_says_how_to_get_it(run: MakeRun, tmp_path: Path) -> None:
    run("wrist", patients=6)
    page = index_html(summarise_study([tmp_path / "runs"], tmp_path, resamples=50))
    assert NO_HEAT.replace("'", "&#39;") in page
    assert 'id="heat"' not in page
    assert "data:image" not in page


def test_a_damaged_heat_file_is_told_of_with_its_run(run: MakeRun) -> None:
    folder = run("wrist", patients=6)
    add_heat(folder, 0, 0.5, boxes=False)
    assert read_run(RunFolder(folder)).heat is not None
    (folder / "heat.npz").write_bytes(b"PK")
    assert "heat.npz can't be read" in str(refusal(lambda: read_run(RunFolder(folder))))
