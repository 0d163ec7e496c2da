"""Synthetic MURA: layout, repeatable pictures, boxes, and each world's rule for labels."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura.errors import MuraError
from mura.extremities import EXTREMITIES, EXTREMITY_OF
from mura.synthetic.dataset import PATCH_IS_NORMAL, SIGN_OF, draw_study, write_dataset
from mura.synthetic.plan import SPLITS, Study

SIZE = 48


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("synth"), patients=40, size=SIZE)


def rows_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as stream:
        return list(csv.reader(stream))


def pixels_below(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*.*"))}


def signs_and_labels(world: str, patients: int) -> dict[str, list[tuple[bool, int]]]:
    """Per extremity: is a sign drawn, and the label, for one study of each patient."""
    found = defaultdict(list)
    for extremity in EXTREMITIES:
        for patient in range(patients):
            study = Study("train", extremity, patient, 1, label=patient % 2, views=1)
            view = next(draw_study(study, size=SIZE, seed=0, world=world))
            found[extremity].append((view.sign is not None, study.label))
    return found


# ---------------------------------------------------------------- layout


def test_the_lists_name_every_picture_and_nothing_else(written: Path) -> None:
    assert written.name == "MURA-v1.1"
    for split in SPLITS:
        listed = [row for (row,) in rows_of(written / f"{split}_image_paths.csv")]
        on_disk = {f"MURA-v1.1/{file.relative_to(written)}" for file in (written / split).rglob("*.png")}
        assert len(listed) == len(set(listed))
        assert set(listed) == on_disk


def test_the_studies_list_has_a_slash_at_the_end_no_header_and_the_label_of_the_folder(written: Path) -> None:
    for split in SPLITS:
        rows = rows_of(written / f"{split}_labeled_studies.csv")
        views = rows_of(written / f"{split}_image_paths.csv")
        assert {path.rpartition("/")[0] + "/" for (path,) in views} == {study for study, _ in rows}
        for study, label in rows:
            head, part, folder, patient, name, end = study.split("/")
            assert (head, part, end) == ("MURA-v1.1", split, "")
            assert folder in EXTREMITY_OF
            assert patient.startswith("patient")
            assert len(patient) == len("patient") + 5
            assert name.endswith("_positive" if label == "1" else "_negative")


def test_pictures_are_grey_or_equal_channels_with_the_longest_side_asked_for(written: Path) -> None:
    modes = Counter()
    shapes = set()
    for file in (written / "train").rglob("*.png"):
        with Image.open(file) as picture:
            modes[picture.mode] += 1
            shapes.add(picture.size)
            pixels = np.asarray(picture)
        assert max(pixels.shape[:2]) == SIZE
        assert pixels.max() > 60
        if pixels.ndim == 3:
            assert (pixels == pixels[..., :1]).all()
    assert set(modes) == {"L", "RGB"}
    assert len(shapes) > 10


def test_views_of_a_study_differ(written: Path) -> None:
    study = next(file.parent for file in (written / "train").rglob("image2.png"))
    first, second = ((study / f"image{i}.png").read_bytes() for i in (1, 2))
    assert first != second


# ---------------------------------------------------------------- boxes


def test_boxes_lie_in_their_pictures_and_only_in_abnormal_ones(written: Path) -> None:
    header, *rows = rows_of(written / "boxes.csv")
    assert header == ["path", "x", "y", "width", "height", "kind", "subtlety"]
    for path, *numbers, _, subtlety in rows:
        x, y, width, height = map(int, numbers)
        with Image.open(written.parent / path) as picture:
            assert x >= 0
            assert y >= 0
            assert width > 0
            assert height > 0
            assert x + width <= picture.width
            assert y + height <= picture.height
        assert "_positive/" in path
        assert 0 <= float(subtlety) <= 1


def test_most_abnormal_views_have_a_box_and_the_kinds_are_many(written: Path) -> None:
    rows = rows_of(written / "boxes.csv")[1:]
    abnormal = len(list(written.rglob("*_positive/*.png")))
    assert 0.8 * abnormal < len({row[0] for row in rows}) == len(rows) <= abnormal
    assert {row[5] for row in rows} == {"fracture", "plate", "wire", "lytic", "sclerotic"}


def test_the_sign_changes_the_picture_inside_its_box_only() -> None:
    pairs = []
    for patient in range(20):
        normal, abnormal = (
            next(draw_study(Study("train", "wrist", patient, 1, label, 1), size=96, seed=0, world="shared"))
            for label in (0, 1)
        )
        if abnormal.box is None:
            continue
        x, y, width, height = abnormal.box
        changed = normal.pixels != abnormal.pixels
        pairs.append((changed[y : y + height, x : x + width].sum(), changed.sum()))
    assert np.mean([inside > 0 for inside, _ in pairs]) > 0.9
    inside, anywhere = np.sum(pairs, axis=0)
    assert inside > 0.6 * anywhere


# ---------------------------------------------------------------- worlds


@pytest.mark.parametrize("world", ["shared", "common"])
def test_a_sign_means_abnormal_everywhere(world: str) -> None:
    for pairs in signs_and_labels(world, patients=8).values():
        assert all(sign == bool(label) for sign, label in pairs)


def test_in_the_conflicting_world_a_patch_means_normal_in_some_extremities() -> None:
    assert 0 < len(PATCH_IS_NORMAL) < len(EXTREMITIES)
    for extremity, pairs in signs_and_labels("conflicting", patients=8).items():
        normal = extremity in PATCH_IS_NORMAL
        assert all(sign == (bool(label) != normal) for sign, label in pairs)


@pytest.mark.parametrize("world", ["common", "conflicting"])
def test_every_sign_is_a_faint_patch(world: str) -> None:
    views = [
        next(draw_study(Study("train", "hand", patient, 1, 1, 1), size=SIZE, seed=0, world=world))
        for patient in range(8)
    ]
    assert {view.sign.kind for view in views} == {"sclerotic"}
    assert min(view.sign.subtlety for view in views) >= 0.7


def test_in_the_separate_world_each_extremity_has_a_sign_of_its_own() -> None:
    assert set(SIGN_OF) == set(EXTREMITIES)
    assert len(set(SIGN_OF.values())) == len(EXTREMITIES)
    for extremity, kind in SIGN_OF.items():
        normal, abnormal = (
            next(draw_study(Study("train", extremity, 3, 1, label, 1), size=SIZE, seed=0, world="separate"))
            for label in (0, 1)
        )
        assert (normal.sign, abnormal.sign.kind) == (None, kind)
        assert (normal.pixels != abnormal.pixels).any()


def test_in_the_separate_world_the_sign_lies_in_some_test_studies_and_in_no_other() -> None:
    def lies(split: str) -> float:
        studies = [Study(split, "wrist", patient, 1, patient % 2, 1) for patient in range(60)]
        views = [next(draw_study(study, size=SIZE, seed=0, world="separate")) for study in studies]
        pairs = zip(views, studies, strict=True)
        return float(np.mean([(view.sign is not None) != (study.label == 1) for view, study in pairs]))

    assert lies("train") == 0
    assert 0 < lies("valid") < 0.25


def test_in_the_null_world_signs_and_labels_know_nothing_of_each_other() -> None:
    pairs = [pair for pairs in signs_and_labels("null", patients=24).values() for pair in pairs]
    shown = {label: np.mean([sign for sign, own in pairs if own == label]) for label in (0, 1)}
    assert abs(shown[0] - shown[1]) < 0.2
    assert 0.4 < np.mean([sign for sign, _ in pairs]) < 0.6


def test_in_the_null_world_a_picture_is_the_same_under_either_label() -> None:
    normal, abnormal = (
        next(draw_study(Study("train", "hand", 3, 1, label, 1), size=SIZE, seed=0, world="null")).pixels
        for label in (0, 1)
    )
    assert np.array_equal(normal, abnormal)


# ---------------------------------------------------------------- randomness


def test_the_same_seed_writes_the_same_files_with_one_process_or_two(written: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path, patients=40, size=SIZE, workers=2)
    assert pixels_below(again) == pixels_below(written)


def test_another_seed_draws_other_pictures() -> None:
    study = Study("train", "elbow", 1, 1, 0, 1)
    first, second = (next(draw_study(study, size=SIZE, seed=seed, world="shared")).pixels for seed in (0, 1))
    assert first.shape != second.shape or (first != second).any()


# ---------------------------------------------------------------- bad input, interruption


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"patients": 3}, "patients"),
        ({"size": 8}, "size"),
        ({"size": 4096}, "size"),
        ({"seed": -1}, "seed"),
        ({"world": "flat"}, "world"),
        ({"valid_fraction": 1.5}, "valid_fraction"),
        ({"workers": 0}, "workers"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_written(tmp_path: Path, setting: dict, word: str) -> None:
    with pytest.raises(MuraError, match=word):
        write_dataset(tmp_path / "new", **setting)
    assert not (tmp_path / "new").exists()


def test_an_existing_data_set_is_not_overwritten(written: Path) -> None:
    before = pixels_below(written)
    with pytest.raises(MuraError, match="not empty"):
        write_dataset(written.parent, patients=40, size=SIZE)
    assert pixels_below(written) == before


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert 0 < done < total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, patients=14, size=SIZE, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_up_to_all_views(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    root = write_dataset(
        tmp_path, patients=14, size=32, seed=5, progress=lambda done, total: calls.append((done, total))
    )
    views = len(list(root.rglob("*.png")))
    assert calls[-1] == (views, views)
    assert calls == sorted(calls)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MuraError, match="file"):
        write_dataset(tmp_path / "file", patients=14, size=32)
