"""The places of somebody's own pictures in MURA's layout: new numbers, and who is in train/ and who in valid/."""

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np

from mura.data.index import FOLDER_OF_SPLIT
from mura.data.lists import LABEL_OF
from mura.data.own_table import SPLIT, Row, study_of
from mura.errors import MuraError
from mura.extremities import FOLDER_OF

VALID_FRACTION = 0.1
SIGNS = {label: sign for sign, label in LABEL_OF.items()}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture of the table and its place in MURA-v1.1."""

    row: Row
    folder: str
    patient: int
    study: int
    number: int

    @property
    def study_path(self) -> str:
        """The folder of its study, relative to MURA-v1.1."""
        study = f"study{self.study}_{SIGNS[self.row.label]}"
        return f"{self.folder}/{FOLDER_OF[self.row.extremity]}/patient{self.patient:05d}/{study}"

    @property
    def path(self) -> str:
        """The place of the picture, relative to MURA-v1.1."""
        return f"{self.study_path}/image{self.number}.png"


def check_fraction(rows: list[Row], given: float | None) -> float | None:
    """Return the share of patients in valid/, None if the table says itself who is there. Raises MuraError."""
    if rows[0].split is not None:
        if given is not None:
            raise MuraError(f"--valid-fraction {given}: the table has a column {SPLIT}; leave one of the two out.")
        if len(set(_folders_said(rows).values())) < len(FOLDER_OF_SPLIT):
            raise MuraError(f"the column {SPLIT} gives only one part: a data set needs train, and test or valid.")
        if {"valid", "test"} <= {row.split for row in rows}:
            log.info("%s: test becomes valid/, MURA's test set; valid joins train/, which is dealt into folds", SPLIT)
        return None
    fraction = VALID_FRACTION if given is None else given
    if not 0 < fraction < 1:
        raise MuraError(f"--valid-fraction {fraction}: it must lie between 0 and 1.")
    if len({row.patient for row in rows}) < len(FOLDER_OF_SPLIT):
        raise MuraError("the table has one patient: a data set needs one in train and one in valid, or more.")
    return fraction


def _folders_said(rows: list[Row]) -> dict[str, str]:
    """Return train or valid for each patient, as the table says.

    MURA's valid/ is the test set, and validation views are taken from train/. So if there is a test part, the
    validation part joins train/.
    """
    tested = "test" if any(row.split == "test" for row in rows) else "valid"
    return {row.patient: "valid" if row.split == tested else "train" for row in rows}


def plan_pictures(rows: list[Row], valid_fraction: float | None, seed: int) -> list[Picture]:
    """Return the pictures in MURA's order. Patients are numbered at random, first those of train, from 1.

    Studies of a patient and extremity, and pictures of a study, are numbered in the order of the table.
    """
    rng = np.random.default_rng(seed)
    names = sorted({row.patient for row in rows})
    shuffled = [names[place] for place in rng.permutation(len(names))]
    if valid_fraction is None:
        folder_of = _folders_said(rows)
    else:
        tested = choose_valid(shuffled, rows, valid_fraction)
        folder_of = {patient: "valid" if patient in tested else "train" for patient in names}
    ordered = [patient for folder in FOLDER_OF_SPLIT.values() for patient in shuffled if folder_of[patient] == folder]
    number_of = {patient: number for number, patient in enumerate(ordered, 1)}
    studies: Counter[tuple[str, str]] = Counter()
    study_numbers: dict[tuple[str, str, str], int] = {}
    views: Counter[tuple[str, str, str]] = Counter()
    pictures = []
    for row in rows:
        study = study_of(row)
        if study not in study_numbers:
            studies[row.patient, row.extremity] += 1
            study_numbers[study] = studies[row.patient, row.extremity]
        views[study] += 1
        place = number_of[row.patient], study_numbers[study], views[study]
        pictures.append(Picture(row, folder_of[row.patient], *place))
    return sorted(pictures, key=lambda each: (each.folder, each.row.extremity, each.patient, each.study, each.number))


def choose_valid(patients: list[str], rows: list[Row], fraction: float) -> set[str]:
    """Return the patients of valid/: of each extremity and label the `fraction`, and one at least.

    The rarest extremity and label chooses first. Its last patient stays in train. `patients` are in random order.
    """
    kinds_of: dict[str, set[tuple[str, int]]] = {patient: set() for patient in patients}
    for row in rows:
        kinds_of[row.patient].add((row.extremity, row.label))
    people_of = {
        kind: [patient for patient in patients if kind in kinds_of[patient]]
        for kind in sorted(set().union(*kinds_of.values()))
    }
    left = {kind: len(people) for kind, people in people_of.items()}  # in train
    chosen: set[str] = set()
    for kind, people in sorted(people_of.items(), key=lambda each: len(each[1])):
        wanted = max(1, round(fraction * len(people)))
        for patient in people:
            is_enough = len(people) - left[kind] >= wanted
            if not is_enough and patient not in chosen and all(left[each] > 1 for each in kinds_of[patient]):
                chosen.add(patient)
                left.update({each: left[each] - 1 for each in kinds_of[patient]})
    return chosen or set(patients[:1])
