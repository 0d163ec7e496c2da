"""A run explains its own test views: figures against chance, a small file for the report, and sentences."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import Command, mura
from PIL import Image
from refusals import refusal
from scipy import ndimage

from mura.data.images import fit, place_in_square
from mura.inference.loading import load_run
from mura.inference.own_views import (
    box_in_square,
    compact,
    look_at,
    summarise_looks,
    surest_mistakes,
    with_random_weights,
)
from mura.runs import heat
from mura.runs.folder import RunFolder
from mura.runs.heat import HeatMaps, read_heat, write_heat

MARK = (30, 8, 12, 20)  # x, y, width, height


@pytest.fixture
def root(mura_root: Path, tmp_path: Path) -> Path:
    """The small folder with a boxes.csv: the bright square of each abnormal test picture."""
    root = Path(shutil.copytree(mura_root, tmp_path / "data" / "MURA-v1.1"))
    rows = ["path,x,y,width,height,kind,subtlety"]
    for picture in sorted(root.glob("valid/XR_WRIST/*/*_positive/*.png")):
        means = ndimage.uniform_filter(np.asarray(Image.open(picture)).astype(float), 14)
        y, x = np.unravel_index(means.argmax(), means.shape)
        rows.append(f"MURA-v1.1/{picture.relative_to(root).as_posix()},{x - 7},{y - 7},14,14,square,0.1")
    (root / "boxes.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.slow
def test_a_run_explains_itself_while_training_and_afterwards_alike(train: Command, root: Path, tmp_path: Path) -> None:
    train("data=wrist", "trainer.max_epochs=1", "hydra.run.dir=run", f"data.root={root}", "explain=true")
    run = RunFolder(tmp_path / "run")
    figures = json.loads(run.metrics.read_text())["explain"]
    views = pd.read_csv(run.predictions).query("split == 'test'")
    assert figures["views"] == len(views)
    assert list(figures["boxes"]) == ["all", "wrist"]
    assert figures["boxes"]["all"]["n"] == (views["label"] == 1).sum()
    assert figures["boxes"]["all"]["chance"] == pytest.approx(14 * 14 / (44 * 36))
    kept = read_heat(run.heat)
    assert kept.path.tolist() == views["path"].tolist()
    assert kept.figures == figures
    before = run.heat.read_bytes()
    run.heat.unlink()

    found = mura("explain", run.path, "--test", "--json")
    assert json.loads(found.stdout) == {"run": figures}
    again = read_heat(run.heat)
    assert np.array_equal(again.heat, kept.heat, equal_nan=True)
    assert len(before) < 80_000
    assert "0." in mura("explain", run.path, "--test").stdout

    shutil.move(root, tmp_path / "moved")
    assert "give" in str(refusal(lambda: mura("explain", run.path, "--test")))
    assert json.loads(mura("explain", run.path, "--test", "--root", tmp_path / "moved", "--json").stdout) == {
        "run": figures
    }
    first = tmp_path / "moved" / str(kept.path[0])
    Image.fromarray(255 - np.asarray(Image.open(first))).save(first)
    said = refusal(lambda: mura("explain", run.path, "--test", "--root", tmp_path / "moved"))
    assert said is not None
    assert "says something else of these test views than its predictions.csv" in said
    first.unlink()
    assert "image1.png is not there" in str(
        refusal(lambda: mura("explain", run.path, "--test", "--root", tmp_path / "moved"))
    )


def test_what_test_does_not_take_is_not_ignored(study: Path, tmp_path: Path) -> None:
    for arguments in (("a.png",), ("--arm", "unified"), ("--out", "x"), ("--anonymous",), ("--extremity", "hand")):
        said = refusal(lambda arguments=arguments: mura("explain", study, *arguments, "--test"))
        assert "explains a run's own test views; leave it out." in str(said)
    assert "--root" in str(refusal(lambda: mura("explain", study, "a.png", "--root", "x")))
    assert "name the pictures to explain" in str(refusal(lambda: mura("explain", study)))
    assert "holds no finished run" in str(refusal(lambda: mura("explain", tmp_path, "--test")))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("explain=true", "test=false"), "explain=true explains the test views, and test=false"),
        (("explain=true", "model=torchvision", "model.name=vit_b_16", "data.image_size=224"), "vit_b_16 can't be expl"),
    ],
)
def test_what_cant_be_explained_is_refused_before_training(
    settings: tuple[str, ...], words: str, train: Command
) -> None:
    ended = train("data=wrist", "hydra.run.dir=run", *settings, check=False)
    assert ended.code != 0
    assert words in ended.said


def test_a_box_is_where_the_finding_lies_in_the_square() -> None:
    x, y, width, height = MARK
    picture = np.zeros((60, 90), np.uint8)
    picture[y : y + height, x : x + width] = 255
    for how in ("pad", "stretch"):
        top, left, tall, wide = box_in_square(MARK, picture.shape, place_in_square(picture.shape, 80, how))
        square = fit(picture, 80, how) > 127
        rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
        assert (top, top + tall) == pytest.approx((rows[0], rows[-1] + 1), abs=1)
        assert (left, left + wide) == pytest.approx((columns[0], columns[-1] + 1), abs=1)


def test_the_pointing_game_counts_the_hottest_place_and_the_share_of_heat() -> None:
    maps = np.zeros((3, 8, 8), np.float32)
    maps[0, 2, 5] = 1  # its centre is at row 25, column 55 of 80
    maps[1] = 0.5
    maps[1, 2, 5] = 1
    inside, beside = (20.0, 50.0, 10.0, 10.0), (40.0, 50.0, 10.0, 10.0)
    hits, shares = look_at(maps, [inside] * 3, 80)
    assert hits == [True, True, False]  # where there is no heat, nothing is pointed at
    assert shares[0] > 0.5 > shares[1] > 1 / 64
    assert shares[2] == 0
    assert look_at(maps, [beside] * 3, 80)[0] == [False, False, False]
    assert look_at(maps, [(0.0, 0.0, 80.0, 80.0)] * 3, 80)[1] == pytest.approx([1, 1, 0])


def test_figures_are_means_by_extremity_and_none_without_findings() -> None:
    looks = pd.DataFrame({"extremity": ["hand", "hand", "wrist"], "pointing_game": [True, False, True]})
    assert summarise_looks(looks) == {
        "all": {"n": 3, "pointing_game": pytest.approx(2 / 3)},
        "hand": {"n": 2, "pointing_game": 0.5},
        "wrist": {"n": 1, "pointing_game": 1.0},
    }
    assert summarise_looks(looks.iloc[:0]) is None


def test_what_is_kept_is_small_and_says_where_there_is_no_picture() -> None:
    kept = compact(np.ones((56, 56), np.float32), place_in_square((40, 20), 80, "pad"), 80)
    assert kept.shape == (14, 14)
    assert np.isnan(kept[:, [0, 1, 2, 11, 12, 13]]).all()
    assert (kept[:, 4:10] == 1).all()


def test_the_surest_mistakes_come_first_and_right_answers_never() -> None:
    views = pd.DataFrame({"label": [1, 0, 1, 0, 1], "probability": [0.9, 0.7, 0.1, 0.2, 0.5]})
    assert surest_mistakes(views) == [2, 1, 4]


def test_a_damaged_or_foreign_heat_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = HeatMaps(
        np.array(["a"]),
        np.zeros((1, 4, 4)),
        np.array([], "U1"),
        np.zeros((0, 8, 8), np.uint8),
        {"views": 1, "without_heat": 0, "boxes": None},
    )
    file = tmp_path / "heat.npz"
    write_heat(file, maps)
    assert read_heat(file).figures == maps.figures
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert str(file) in str(refusal(lambda: read_heat(file)))
    np.savez_compressed(file, path=np.array([{}], object))
    assert "can't be read" in str(refusal(lambda: read_heat(file)))
    monkeypatch.setattr(heat, "MOST_BYTES", 10**6)
    np.savez_compressed(file, path=np.zeros(10**6))  # a bomb: 8 MB in a file of 8 kB
    assert "it has more than 1,000,000 bytes" in str(refusal(lambda: read_heat(file)))
    write_heat(file, HeatMaps(maps.path, np.zeros((2, 4, 4)), maps.wrong, maps.pictures, {}))
    assert "don't fit together" in str(refusal(lambda: read_heat(file)))


def test_the_random_network_is_the_same_each_time_and_draws_nothing_from_the_runs_randomness(study: Path) -> None:
    model = load_run(study / "cnn2" / "wrist" / "seed0")
    squares = np.full((1, 40, 40), 9, np.uint8)
    state = torch.get_rng_state()
    first, second = (with_random_weights(model).probabilities(squares, ["wrist"])[0] for _ in range(2))
    assert first == second != model.probabilities(squares, ["wrist"])[0]
    assert torch.equal(torch.get_rng_state(), state)
