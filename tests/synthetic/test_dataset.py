"""Synthetic MURA: layout, counts, repeatable pictures, boxes, and each world's rule for labels."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura.errors import MuraError
from mura.extremities import EXTREMITIES, EXTREMITY_OF
from mura.synthetic.dataset import PLATE_IS_NORMAL, draw_study, write_dataset
from mura.synthetic.plan import MURA, SPLITS, Study, plan_studies
from mura.synthetic.sheet import write_preview

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


def test_in_the_shared_world_a_sign_means_abnormal_everywhere() -> None:
    for pairs in signs_and_labels("shared", patients=8).values():
        assert all(sign == bool(label) for sign, label in pairs)


def test_in_the_conflicting_world_a_plate_means_normal_in_some_extremities() -> None:
    assert 0 < len(PLATE_IS_NORMAL) < len(EXTREMITIES)
    for extremity, pairs in signs_and_labels("conflicting", patients=8).items():
        normal = extremity in PLATE_IS_NORMAL
        assert all(sign == (bool(label) != normal) for sign, label in pairs)


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


# ---------------------------------------------------------------- who has which study


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("patients", [14, 40, 300])
def test_every_extremity_has_both_labels_in_both_splits(patients: int, balanced: bool) -> None:
    studies = plan_studies(patients, balanced=balanced)
    counts = Counter((study.split, study.extremity, study.label) for study in studies)
    for extremity in EXTREMITIES:
        for label in (0, 1):
            assert counts["train", extremity, label] >= 5
            assert counts["valid", extremity, label] >= 2
    assert len({study.patient for study in studies}) == patients


def test_no_patient_is_in_both_splits_and_no_study_is_named_twice() -> None:
    studies = plan_studies(500, seed=3)
    of_split = {split: {study.patient for study in studies if study.split == split} for split in SPLITS}
    assert not of_split["train"] & of_split["valid"]
    assert len({(study.extremity, study.patient, study.number) for study in studies}) == len(studies)


def test_proportions_are_those_of_mura() -> None:
    studies = [study for study in plan_studies(3000) if study.split == "train"]
    share = Counter(study.extremity for study in studies)
    real = {extremity: sum(own.studies) / 13457 for extremity, own in MURA["train"].shares.items()}
    for extremity in EXTREMITIES:
        assert share[extremity] / len(studies) == pytest.approx(real[extremity], abs=0.01)
    assert np.mean([study.label for study in studies]) == pytest.approx(5177 / 13457, abs=0.01)
    assert np.mean([study.views for study in studies]) == pytest.approx(2.73, abs=0.1)


def test_a_balanced_set_has_as_many_studies_of_each_extremity_and_label() -> None:
    counts = Counter((study.split, study.extremity, study.label) for study in plan_studies(400, balanced=True))
    for split in SPLITS:
        assert len({counts[split, extremity, label] for extremity in EXTREMITIES for label in (0, 1)}) == 1


def test_valid_fraction_is_the_share_of_test_patients() -> None:
    studies = plan_studies(200, valid_fraction=0.25)
    assert len({study.patient for study in studies if study.split == "valid"}) == 50


def test_the_full_plan_has_exactly_the_counts_of_mura() -> None:
    studies = plan_studies(None)
    views = Counter()
    visits = Counter()
    people = defaultdict(set)
    for study in studies:
        views[study.split, study.extremity, study.label] += study.views
        visits[study.split, study.extremity, study.label] += 1
        people[study.split, study.extremity].add(study.patient)
    for split, size in MURA.items():
        for extremity, share in size.shares.items():
            assert tuple(views[split, extremity, label] for label in (0, 1)) == share.views
            assert tuple(visits[split, extremity, label] for label in (0, 1)) == share.studies
            assert len(people[split, extremity]) == share.patients
    assert views.total() == 40005
    assert {study.views for study in studies} <= set(range(1, 12))


def test_patients_of_the_full_plan_overlap_as_in_mura() -> None:
    extremities, labels = defaultdict(set), defaultdict(set)
    for study in plan_studies(None):
        extremities[study.split, study.patient].add(study.extremity)
        labels[study.split, study.patient].add(study.label)
    for split, patients, several in (("train", 11184, 1467), ("valid", 783, 248)):
        own = [found for (part, _), found in extremities.items() if part == split]
        assert len(own) == patients
        assert sum(len(found) > 1 for found in own) == pytest.approx(several, rel=0.05)
    both = sum(len(found) > 1 for (split, _), found in labels.items() if split == "train")
    assert both == pytest.approx(888, rel=0.15)


# ---------------------------------------------------------------- bad input, interruption, preview


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


def test_the_preview_shows_seven_extremities_twice(tmp_path: Path) -> None:
    file = write_preview(tmp_path / "docs" / "sheet.png", size=64)
    with Image.open(file) as sheet:
        assert sheet.width > 7 * 64
        assert sheet.height > 2 * 64
