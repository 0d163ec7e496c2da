"""One split by patient for all eight data sets: nobody on both sides, every fold alike."""

import hashlib
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mura.data.index import COLUMNS
from mura.data.split import assign_folds, split_hash
from mura.errors import MuraError
from mura.extremities import EXTREMITIES

DATA_SETS = [*([name] for name in EXTREMITIES), list(EXTREMITIES)]


def table(views: list[tuple[int, str, int]], split: str = "train") -> pd.DataFrame:
    """Rows from (patient, extremity, label)."""
    rows = [
        (split, extremity, f"patient{patient:05d}", "study1", number, label, f"{split}/{extremity}/{patient}/{number}")
        for number, (patient, extremity, label) in enumerate(views)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


VIEWS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(EXTREMITIES), st.integers(0, 1)), min_size=5, max_size=120
).filter(lambda views: len({patient for patient, _, _ in views}) >= 5)


@settings(deadline=None, max_examples=30)
@given(VIEWS, st.integers(0, 3))
def test_a_patient_is_never_on_both_sides_of_any_fold_of_any_data_set(views, seed: int) -> None:
    index = table(views)
    folds = assign_folds(index, seed=seed)
    assert set(folds) == set(range(5))
    for fold in range(5):
        validates = folds == fold
        for extremities in DATA_SETS:
            chosen = index["extremity"].isin(extremities)
            validation = set(index.loc[chosen & validates, "patient"])
            training = set(index.loc[~validates, "patient"])  # of all extremities, not only of these
            assert not validation & training


def test_folds_are_alike_on_a_table_of_muras_counts(full_table: pd.DataFrame) -> None:
    folds = assign_folds(full_table)
    assert len(full_table) == 36_808
    assert folds.groupby(full_table["patient"]).nunique().max() == 1
    counts = full_table.groupby(["extremity", "label", folds]).size().unstack()
    shares = counts.div(counts.sum(axis=1), axis=0)
    assert shares.shape == (14, 5)
    assert shares.to_numpy() == pytest.approx(0.2, abs=0.01)


def test_only_training_rows_have_a_fold_and_keep_their_row_number() -> None:
    training = table([(number, "wrist", number % 2) for number in range(20)])
    test = table([(number + 100, "wrist", number % 2) for number in range(6)], split="test")
    index = pd.concat([test, training], ignore_index=True)
    folds = assign_folds(index)
    assert list(folds.index) == list(range(6, 26))
    assert folds.name == "fold"
    assert folds.dtype == np.int64


def test_the_split_is_the_seeds_alone() -> None:
    index = table([(number // 2, EXTREMITIES[number % 7], number % 3 == 0) for number in range(200)])
    assert assign_folds(index).equals(assign_folds(index))
    assert not assign_folds(index, seed=0).equals(assign_folds(index, seed=1))
    shuffled = index.sample(frac=1, random_state=0)
    assert assign_folds(shuffled).groupby(index["patient"]).nunique().max() == 1


@pytest.mark.parametrize("n_folds", [2, 3, 10])
def test_any_number_of_folds_is_dealt(n_folds: int) -> None:
    index = table([(number, "hand", number % 2) for number in range(60)])
    assert assign_folds(index, n_folds=n_folds).value_counts().to_dict() == dict.fromkeys(range(n_folds), 60 // n_folds)


@pytest.mark.parametrize(("patients", "n_folds"), [(0, 5), (4, 5), (9, 10), (20, 1)])
def test_too_few_patients_or_folds_are_refused(patients: int, n_folds: int) -> None:
    index = table([(number, "hand", view % 2) for number in range(patients) for view in range(4)])
    with pytest.raises(MuraError, match=f"train/ holds {patients} patients, .* to {n_folds} folds"):
        assign_folds(index, n_folds=n_folds)


def test_a_fold_that_would_stay_empty_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from mura.data import split

    monkeypatch.setattr(split, "_deal", lambda strata, *_: np.arange(len(strata)) % 4)
    with pytest.raises(MuraError, match="one stays empty"):
        assign_folds(table([(number, "hand", 0) for number in range(20)]))


def test_tiny_classes_are_dealt_without_a_warning() -> None:
    views = [(number, "wrist", number % 2) for number in range(40)] + [(50, "hand", 1), (51, "elbow", 0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assign_folds(table(views))
        assign_folds(table([(number, EXTREMITIES[number % 7], number % 2) for number in range(10)]))


def test_five_folds_and_seed_zero_are_the_default() -> None:
    index = table([(number // 2, EXTREMITIES[number % 7], number % 3 == 0) for number in range(200)])
    assert assign_folds(index).equals(assign_folds(index, n_folds=5, seed=0))
    assert not any(assign_folds(index).equals(assign_folds(index, seed=seed)) for seed in (1, 2, 3))


def test_as_many_patients_as_folds_are_enough() -> None:
    for patients in (2, 5):
        folds = assign_folds(table([(number, "hand", number % 2) for number in range(patients)]), n_folds=patients)
        assert sorted(folds) == list(range(patients))


def test_a_stratum_of_as_many_views_as_folds_is_dealt_by_itself() -> None:
    strata = [(extremity, label) for extremity in EXTREMITIES for label in (0, 1)]
    views = [(100 * place + number, *stratum) for place, stratum in enumerate(strata) for number in range(5)]
    index = table(views)
    folds = assign_folds(index)
    assert folds.groupby([index["extremity"], index["label"]]).nunique().eq(5).all()


def test_strata_too_small_for_the_folds_are_dealt_as_one() -> None:
    rare = [(1000 + number, extremity, number % 2) for number, extremity in enumerate(EXTREMITIES[:5])]
    for seed in range(5):
        index = table([(number, "wrist", number % 2) for number in range(40)] + rare)
        folds = assign_folds(index, seed=seed)
        assert sorted(folds[index["patient"].str[7:].astype(int) >= 1000]) == list(range(5))


def test_the_hash_is_32_hex_characters_over_path_and_fold_in_the_order_of_the_rows() -> None:
    index = table([(number, "wrist", number % 2) for number in range(40)])
    folds = assign_folds(index)[5:30]  # rows without a fold have no part in it
    lines = "".join(f"{index['path'][row]}\t{folds[row]}\n" for row in range(5, 30))
    expected = hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()
    assert split_hash(index, folds) == expected
    assert re.fullmatch("[0-9a-f]{32}", expected)
    assert split_hash(index, folds[::-1]) != expected


def test_the_hash_names_the_split() -> None:
    index = table([(number, "wrist", number % 2) for number in range(40)])
    folds = assign_folds(index)
    assert split_hash(index, folds) == split_hash(index.copy(), assign_folds(index))
    assert len(split_hash(index, folds)) == 32
    assert split_hash(index, folds) != split_hash(index, (folds + 1) % 5)
    renamed = index.assign(path=index["path"] + "x")
    assert split_hash(index, folds) != split_hash(renamed, folds)
