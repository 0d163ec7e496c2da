"""Who has which study: patients, studies and views in MURA's numbers or in its proportions."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from mura.extremities import FOLDER_OF, INDEX_OF

SPLITS = ("train", "valid")  # MURA's folder names; `valid` is everybody's test set
MOST_VIEWS = 11
# Studies of each label in each extremity, however small the set: one for each of five folds, two to test on.
FEWEST_STUDIES = {"train": 5, "valid": 2}


@dataclass(frozen=True)
class Share:
    """What a split holds of one extremity."""

    patients: int
    studies: tuple[int, int]  # normal, abnormal
    views: tuple[int, int]


@dataclass(frozen=True)
class SplitSize:
    """What a split holds: distinct patients, those with several extremities, and each extremity's share."""

    patients: int
    several: int
    shares: dict[str, Share]


# MURA v1.1: views and patients counted on its lists, studies from table 1 of Rajpurkar et al., arXiv 1712.06957.
MURA: dict[str, SplitSize] = {
    "train": SplitSize(11184, 1467, {
        "elbow": Share(1711, (1094, 660), (2925, 2006)),
        "finger": Share(1865, (1280, 655), (3138, 1968)),
        "forearm": Share(865, (590, 287), (1164, 661)),
        "hand": Share(1945, (1497, 521), (4059, 1484)),
        "humerus": Share(587, (321, 271), (673, 599)),
        "shoulder": Share(2694, (1364, 1457), (4211, 4168)),
        "wrist": Share(3267, (2134, 1326), (5765, 3987)),
    }),
    "valid": SplitSize(783, 248, {
        "elbow": Share(152, (92, 66), (235, 230)),
        "finger": Share(166, (92, 83), (214, 247)),
        "forearm": Share(129, (69, 64), (150, 151)),
        "hand": Share(159, (101, 66), (271, 189)),
        "humerus": Share(132, (68, 67), (148, 140)),
        "shoulder": Share(173, (99, 95), (285, 278)),
        "wrist": Share(207, (140, 97), (364, 295)),
    }),
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """One visit of a patient: `number` counts within patient and extremity."""

    split: str
    extremity: str
    patient: int
    number: int
    label: int
    views: int

    @property
    def folder(self) -> str:
        """The study's folder below MURA-v1.1."""
        kind = ("negative", "positive")[self.label]
        return f"{self.split}/{FOLDER_OF[self.extremity]}/patient{self.patient:05d}/study{self.number}_{kind}"


def plan_studies(
    patients: int | None, *, seed: int = 0, valid_fraction: float | None = None, balanced: bool = False
) -> list[Study]:
    """Return all studies, sorted by split and extremity.

    If `patients` is None they are as many as MURA's, count by count. Else they have its proportions, with at least
    FEWEST_STUDIES of each label in every extremity. `valid_fraction` is the share of patients in the test set, MURA's
    by default. With `balanced`, every extremity and label has as many studies.
    """
    sizes = dict(MURA) if patients is None else _scaled_sizes(patients, valid_fraction, balanced)
    studies, first = [], 1
    for position, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, position])
        studies += _plan_split(split, sizes[split], first, rng)
        first += sizes[split].patients
    return studies


def _scaled_sizes(patients: int, valid_fraction: float | None, balanced: bool) -> dict[str, SplitSize]:
    share = MURA["valid"].patients / sum(size.patients for size in MURA.values())
    share = share if valid_fraction is None else valid_fraction
    in_valid = min(max(round(patients * share), 7), patients - 7)
    wanted = {"train": patients - in_valid, "valid": in_valid}
    return {split: _scale_split(MURA[split], wanted[split], FEWEST_STUDIES[split], balanced) for split in SPLITS}


def _scale_split(size: SplitSize, patients: int, fewest: int, balanced: bool) -> SplitSize:
    """Return the split with this many patients."""
    factor = patients / size.patients
    even = sum(sum(share.studies) for share in size.shares.values()) / (2 * len(size.shares))
    shares = {}
    for extremity, share in size.shares.items():
        wanted = (even, even) if balanced else share.studies
        normal, abnormal = (max(fewest, round(factor * n)) for n in wanted)
        of_mura = [v / s for v, s in zip(share.views, share.studies, strict=True)]
        views = (round(normal * of_mura[0]), round(abnormal * of_mura[1]))
        people = round((normal + abnormal) * share.patients / sum(share.studies))
        shares[extremity] = Share(min(people, patients), (normal, abnormal), views)
    return SplitSize(patients, round(factor * size.several), shares)


def _plan_split(split: str, size: SplitSize, first: int, rng: np.random.Generator) -> list[Study]:
    members = _assign_patients(size, rng)
    studies = []
    for extremity, share in size.shares.items():
        labels = np.repeat([0, 1], share.studies)
        rng.shuffle(labels)
        views = [iter(_spread_views(total, n, rng)) for total, n in zip(share.views, share.studies, strict=True)]
        people = members[extremity]
        extra = [people[i] for i in rng.permutation(len(people))]
        owners = people + [extra[i % len(extra)] for i in range(len(labels) - len(people))]
        seen: Counter[int] = Counter()
        for owner, label in zip(owners, labels.tolist(), strict=True):
            seen[owner] += 1
            studies.append(Study(split, extremity, first + owner, seen[owner], label, next(views[label])))
    return sorted(studies, key=lambda s: (INDEX_OF[s.extremity], s.patient, s.number))


def _assign_patients(size: SplitSize, rng: np.random.Generator) -> dict[str, list[int]]:
    """Return the patients (0, 1, ...) of each extremity: everybody has one, about `several` of them have more."""
    wanted = {extremity: share.patients for extremity, share in size.shares.items()}
    homes = _in_proportion(size.patients, list(wanted.values()))
    everybody = rng.permutation(size.patients).tolist()
    members: dict[str, list[int]] = {}
    for extremity, count in zip(wanted, homes, strict=True):
        members[extremity], everybody = everybody[:count], everybody[count:]
    order = rng.permutation(size.patients).tolist()
    several, others = order[: size.several], order[size.several :]
    extras: Counter[int] = Counter()
    for extremity, count in wanted.items():
        own = set(members[extremity])
        chosen = sorted((p for p in several if p not in own), key=lambda p: extras[p])
        chosen = [*chosen, *(p for p in others if p not in own)][: count - len(own)]
        extras.update(chosen)
        members[extremity] += chosen
        rng.shuffle(several)
    return members


def _in_proportion(total: int, weights: list[int]) -> list[int]:
    """Return whole numbers that add up to `total`, by largest remainder."""
    exact = [total * weight / sum(weights) for weight in weights]
    whole = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole


def _spread_views(total: int, studies: int, rng: np.random.Generator) -> list[int]:
    """Return the number of views of each study, 1 to 11 and mostly 2 or 3, that add up to `total`."""
    common, weights = [1, 2, 3, 4, 5, 7, 9, 11], [0.06, 0.29, 0.5, 0.11, 0.03, 0.006, 0.003, 0.001]
    views = rng.choice(common, size=studies, p=weights).tolist()
    while (missing := total - sum(views)) != 0:
        step = 1 if missing > 0 else -1
        fits = [i for i in range(studies) if 1 <= views[i] + step <= (4 if step > 0 else MOST_VIEWS)]
        fits = fits or [i for i in range(studies) if 1 <= views[i] + step <= MOST_VIEWS]
        for i in rng.permutation(fits)[: abs(missing)].tolist():
            views[i] += step
    return views
