"""Who has which study: MURA's counts or its proportions, both labels everywhere, and nobody on two sides."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from mura.extremities import EXTREMITIES
from mura.synthetic.plan import MURA, SPLITS, plan_studies


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
