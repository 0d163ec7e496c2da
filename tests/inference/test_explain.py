"""`mura explain`: the heat lies where it belongs on each picture, whatever its file, and faults are sentences."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from command import mura
from dicom_files import dataset, saved
from PIL import Image
from refusals import refusal

from mura.inference.explain import heat_on_picture, hottest_box
from mura.inference.loading import load_model, scaled
from mura.runs.heat import overlay

CORNER = np.zeros((8, 8), np.float32)
CORNER[1, 6] = 1


@pytest.fixture
def folder(mura_root: Path, tmp_path: Path) -> Path:
    """A wrist study of three pictures, all of them normal."""
    patients = sorted((mura_root / "valid" / "XR_WRIST").iterdir())
    study = max((next(patient.iterdir()) for patient in patients), key=lambda study: len(list(study.iterdir())))
    return Path(shutil.copytree(study, tmp_path / "XR_WRIST" / "study"))


def test_each_picture_has_an_overlay_and_each_study_a_sheet(study: Path, folder: Path, tmp_path: Path) -> None:
    found = mura("explain", study, folder, "--arm", "specialised", "--out", tmp_path / "out", "--json")
    assert found.exit_code == 0
    rows = json.loads(found.stdout)["pictures"]
    predicted = json.loads(mura("predict", study, folder, "--arm", "specialised", "--json").stdout)["pictures"]
    assert [{key: row[key] for key in predicted[0]} for row in rows] == predicted
    assert {Path(row["overlay"]).name for row in rows} == {f"000{i}_image{i}.png" for i in range(1, len(rows) + 1)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "study0001.png", *(Path(row["overlay"]).name for row in rows),
    }  # fmt: skip
    for row in rows:
        with Image.open(row["path"]) as picture, Image.open(row["overlay"]) as drawn:
            assert drawn.size == picture.size
            assert np.asarray(drawn).shape[2] == 3
            box = row["box"]
            assert box is None or (
                box["x"] + box["width"] <= picture.width and box["y"] + box["height"] <= picture.height
            )
    assert any(row["box"] for row in rows)


def test_the_same_radiograph_is_explained_alike_from_a_turned_jpeg_and_from_dicom(
    study: Path, folder: Path, tmp_path: Path
) -> None:
    upright = Image.open(sorted(folder.iterdir())[0])
    files = tmp_path / "files"
    files.mkdir()
    exif = Image.Exif()
    exif[274] = 6
    upright.rotate(90, expand=True).save(files / "turned.png", exif=exif)
    upright.save(files / "upright.png")
    (files / "dicom").write_bytes(saved(dataset(np.asarray(upright).astype(np.uint16), 8)))
    found = mura("explain", study, files, "--arm", "unified", "--out", tmp_path / "out", "--json")
    dicom, turned, plain = json.loads(found.stdout)["pictures"]
    assert dicom["box"] == turned["box"] == plain["box"] is not None
    images = [np.asarray(Image.open(row["overlay"])) for row in (dicom, turned, plain)]
    assert np.array_equal(images[1], images[2])
    assert np.array_equal(images[0], images[2])


def test_anonymous_numbers_stand_for_every_name(study: Path, folder: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"ZQ{number}.png")
    out = tmp_path / "out"
    found = mura("explain", study, folder, "--arm", "unified", "--out", out, "--anonymous", "--json")
    assert "ZQ" not in found.stdout
    assert not any("ZQ" in path.name for path in out.iterdir())
    assert (out / "0001.png").is_file()


def test_heat_is_put_back_where_the_picture_lay_in_its_square() -> None:
    heat = heat_on_picture(CORNER, (200, 100), side=80, how="pad")  # 20 columns of black on either side
    assert heat.shape == (200, 100)
    assert heat.max() < 0.6  # the hottest cell's centre is at column 65 of 80, beyond the picture's last, 59
    assert heat[:, 97:].max() > 0.3
    stretched = heat_on_picture(CORNER, (200, 100), side=80, how="stretch")
    assert np.unravel_index(stretched.argmax(), stretched.shape) == pytest.approx((37, 81), abs=2)


def test_the_box_lies_around_the_hottest_place_only_and_nothing_has_none() -> None:
    heat = np.zeros((20, 30), np.float32)
    heat[2:5, 10:17] = 0.7
    heat[3, 12] = 1
    heat[15:18, 20:25] = 0.9  # another place, less hot
    assert hottest_box(heat) == (10, 2, 7, 3)
    assert hottest_box(heat * 0) is None
    assert hottest_box(heat * 1e-30) == (10, 2, 7, 3)


def test_a_map_without_heat_stays_zero_and_leaves_the_picture_grey() -> None:
    maps = np.stack([CORNER * 0, CORNER * 3])
    assert np.array_equal(scaled(maps), np.stack([CORNER * 0, CORNER]))
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(overlay(grey, CORNER * 0), np.stack([grey] * 3, axis=2))


def test_python_gets_the_heat_of_a_picture_as_an_array(study: Path, folder: Path) -> None:
    picture = sorted(folder.iterdir())[0]
    model = load_model(study, "specialised")
    heat = model.explain(picture)
    with Image.open(picture) as image:
        assert heat.shape == (image.height, image.width)
    assert 0 <= heat.min() < heat.max() <= 1
    elsewhere = shutil.copy(picture, folder.parent.parent / "some.png")
    assert "give --extremity" in str(refusal(lambda: model.explain(elsewhere)))
    assert np.array_equal(model.explain(elsewhere, "wrist"), heat)


def test_what_cant_be_explained_is_a_sentence(study: Path, wrist_file: Path, folder: Path, tmp_path: Path) -> None:
    run, picture = study / "cnn2" / "wrist" / "seed0", sorted(folder.iterdir())[0]
    said = {
        "is not empty, and nothing is overwritten": ("explain", run, picture, "--out", folder),
        "is no PyTorch checkpoint": ("explain", picture, picture, "--out", tmp_path / "a"),
        "wrist.onnx can't be explained: an ONNX": ("explain", wrist_file, picture, "--out", tmp_path / "d"),
        "is not there": ("explain", run, tmp_path / "gone.png", "--out", tmp_path / "b"),
        "declares 9000 x 9000 pixels": ("explain", run, huge(tmp_path), "--out", tmp_path / "c"),
    }
    for words, arguments in said.items():
        assert words in str(refusal(lambda arguments=arguments: mura(*arguments)))


def huge(folder: Path) -> Path:
    """A PNG of a few kilobytes that declares 81 million pixels."""
    file = BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    path = folder / "XR_WRIST-huge.png"
    path.write_bytes(file.getvalue())
    return path
