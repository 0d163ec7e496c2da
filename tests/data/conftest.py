"""A tiny MURA folder that a test may damage, and tables of MURA's own counts without any picture."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cache_folders import write_folder
from PIL import Image

from mura.data.index import COLUMNS
from mura.extremities import FOLDER_OF

STUDIES = [  # folder, pictures
    ("train/XR_WRIST/patient00002/study1_positive", 3),
    ("train/XR_WRIST/patient00002/study2_negative", 1),
    ("train/XR_WRIST/patient00010/study1_negative", 11),
    ("train/XR_ELBOW/patient00002/study1_negative", 1),
    ("train/XR_ELBOW/patient00003/study1_positive", 2),
    ("valid/XR_ELBOW/patient11185/study1_positive", 1),
    ("valid/XR_WRIST/patient11186/study1_negative", 2),
]


class Tree:
    """A MURA folder of 21 small, distinct pictures in 7 studies of 5 patients, with its lists."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for study, pictures in STUDIES:
            for number in range(1, pictures + 1):
                self.draw(f"{study}/image{number}.png")
        self.write_lists()

    def draw(self, path: str) -> Path:
        """A picture whose pixels follow from its path."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(list(path.encode())).integers(0, 256, (10, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        return file

    def write_lists(self) -> None:
        for split in ("train", "valid"):
            pictures = sorted(self.root.glob(f"{split}/*/*/*/image*.png"))
            names = [f"MURA-v1.1/{file.relative_to(self.root).as_posix()}" for file in pictures]
            studies = dict.fromkeys(name.rpartition("/")[0] for name in names)
            rows = [f"{study}/,{int(study.endswith('positive'))}" for study in studies]
            (self.root / f"{split}_image_paths.csv").write_text("".join(f"{name}\n" for name in names))
            (self.root / f"{split}_labeled_studies.csv").write_text("".join(f"{row}\n" for row in rows))

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        (self.root / name).write_text(text.replace(old, new), newline="")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "MURA-v1.1")


# extremity: train views normal and abnormal, train patients; FACTS: counted on the lists of MURA v1.1
TRAIN_COUNTS = {
    "elbow": (2925, 2006, 1711),
    "finger": (3138, 1968, 1865),
    "forearm": (1164, 661, 865),
    "hand": (4059, 1484, 1945),
    "humerus": (673, 599, 587),
    "shoulder": (4211, 4168, 2694),
    "wrist": (5765, 3987, 3267),
}


@pytest.fixture(scope="session")
def full_table() -> pd.DataFrame:
    """Training rows with MURA's counts: 36,808 views of 11,184 patients, some with several extremities."""
    rng = np.random.default_rng(0)
    rows = []
    for extremity, (normal, abnormal, patients) in TRAIN_COUNTS.items():
        here = rng.choice(11_184, patients, replace=False)
        owners = np.concatenate([here, rng.choice(here, normal + abnormal - patients)])
        # a patient's views tend to have one label: sorted by patient, then cut
        labels = np.zeros(len(owners), dtype=int)
        labels[np.argsort(rng.permutation(11_184)[owners], kind="stable")[:abnormal]] = 1
        rows += [
            ("train", extremity, f"patient{owner:05d}", "study1", view, label, f"{FOLDER_OF[extremity]}/{view}")
            for view, (owner, label) in enumerate(zip(owners, labels, strict=True))
        ]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "small", pictures_a_patient=3, side=12)


@pytest.fixture
def roomy(tmp_path: Path) -> Path:
    """A MURA folder of 28 patients and 420 pictures: of so many, four may be damaged."""
    return write_folder(tmp_path / "roomy", pictures_a_patient=15, side=12)


@pytest.fixture
def hear_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
