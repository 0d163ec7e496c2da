"""Transfer: each model's own extremity and the others, from the run folders to the page."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mura.comparison.collect import collect
from mura.comparison.transfer import ALL_BUT_IT, notes, own_and_others, transfer_matrix, transfer_table
from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.metrics import binary_metrics
from mura.report.figures import heat_colours, luminance
from mura.report.write import write_report

MakeRun = Callable[..., Path]


@pytest.fixture
def runs_folder(run: MakeRun, tmp_path: Path) -> Path:
    """A unified run and, with two seeds, specialised ones of wrist and hand; leave-one-out for the wrist."""
    run(EXTREMITIES)
    for seed in (0, 1):
        run("wrist", seed=seed, transfer=True)
        run("hand", seed=seed, transfer=True)
    run("wrist", arm="leave_one_out")
    return tmp_path / "runs"


def test_every_cell_is_the_metric_of_that_run_on_that_extremity(runs_folder: Path) -> None:
    runs, _ = collect([runs_folder])
    table = transfer_table(runs)
    [wrist] = [r for r in runs if (r.data, r.arm, r.seed) == ("wrist", "specialised", 1)]
    transfer = pd.read_csv(wrist.folder.transfer)
    for tested_on, views in (("elbow", transfer[transfer["extremity"] == "elbow"]), ("wrist", wrist.test)):
        cell = table[(table["trained_on"] == "wrist") & (table["tested_on"] == tested_on) & (table["seed"] == 1)]
        values = cell[cell["level"] == "image"].set_index("metric")["value"]
        expected = binary_metrics(views["label"], views["probability"])
        for metric in ("accuracy", "kappa", "auroc"):
            assert values[metric] == pytest.approx(expected[metric], abs=1e-12)


def test_the_matrix_has_the_specialised_models_then_leave_one_out_then_the_unified_one(runs_folder: Path) -> None:
    table = transfer_table(collect([runs_folder])[0])
    matrix = transfer_matrix(table, "cnn4", "image", "auroc")
    assert matrix.rows == ["hand", "wrist", ALL_BUT_IT, "unified"]
    assert matrix.columns == list(EXTREMITIES)
    assert matrix.values[ALL_BUT_IT]["hand"] is None
    assert matrix.values[ALL_BUT_IT]["wrist"] is not None
    own, others = own_and_others(matrix)
    assert own > others + 0.1  # as the runs were made


def test_a_run_without_transfer_is_said_and_a_spoilt_file_refused(run: MakeRun, tmp_path: Path) -> None:
    folder = run("wrist", transfer=True)
    run("hand")
    runs, _ = collect([tmp_path / "runs"])
    [note] = notes(runs)
    assert "hand seed 0 left no transfer.csv" in note
    (folder / "transfer.csv").write_text("extremity,view\nwrist,1\n")
    with pytest.raises(MuraError, match=r"transfer\.csv lacks the column"):
        collect([tmp_path / "runs"])


def test_the_page_shows_the_matrix_with_words_and_the_file_has_it_in_full(runs_folder: Path, tmp_path: Path) -> None:
    study = write_report([runs_folder], tmp_path / "out", 100)
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("Transfer of cnn4, ") == 8  # four figures, each with a region around it
    assert "AUROC by image" in (tmp_path / "out" / "results.md").read_text()
    written = pd.read_csv(tmp_path / "out" / "transfer.csv")
    assert len(written) == len(study.transfer)
    shown = transfer_matrix(study.transfer, "cnn4", "image", "auroc").values["wrist"]["elbow"]
    assert f"{shown:.3f}" in page


def test_without_any_transfer_there_is_no_such_section(study_folder: Path, tmp_path: Path) -> None:
    study = write_report([study_folder], tmp_path, 100)
    assert len(study.transfer) == 0
    assert not (tmp_path / "transfer.csv").exists()
    assert 'id="transfer"' not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t[~((t["extremity"] == "elbow") & (t["view"] == 1))], "lacks .* of the test views"),
        (lambda t: t.assign(label=1 - t["label"]), "label of .* differs"),
        (lambda t: t.assign(extremity=t["extremity"].replace("elbow", "wrist")), "which the run itself answers for"),
    ],
)
def test_a_transfer_file_with_other_views_is_refused(
    spoil: Callable[[pd.DataFrame], pd.DataFrame], words: str, run: MakeRun, tmp_path: Path
) -> None:
    run(EXTREMITIES)
    folder = run("wrist", transfer=True)
    spoil(pd.read_csv(folder / "transfer.csv")).to_csv(folder / "transfer.csv", index=False)
    with pytest.raises(MuraError, match=words):
        write_report([tmp_path / "runs"], tmp_path / "out", 50)


def test_the_figures_of_a_heat_map_read_well_on_their_ground() -> None:
    for value in range(40, 101):
        ground, ink = heat_colours(value / 100)
        one = luminance([int(part) for part in ground[4:-1].split(",")])
        other = luminance([int(ink[i : i + 2], 16) for i in (1, 3, 5)])
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) >= 4.5, value
