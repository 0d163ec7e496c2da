"""What must not change a result, and what must change it in a known way."""

import locale
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import views_of, write_run

from mura.comparison.summary import summarise_study
from mura.data.index import read_index, scan
from mura.data.split import assign_folds, split_hash
from mura.metrics import LEVELS, OVERALL, binary_metrics, summarise
from mura.runs.tables import csv_text

PATIENT = r"patient(\d+)"
# 1024ths: one minus such a probability is exact, so that no two become equal by rounding
PROBABILITIES = st.integers(10, 1014).filter(lambda part: part != 512).map(lambda part: part / 1024)
CASES = st.lists(st.tuples(st.booleans(), PROBABILITIES), min_size=4, max_size=60).filter(
    lambda cases: len({label for label, _ in cases}) == 2
)


def renumbered(names: pd.Series) -> pd.Series:
    """Return patients, or paths that name them, with other numbers in the same order."""
    return names.str.replace(PATIENT, lambda found: f"patient{3 * int(found[1]) + 7:05d}", regex=True)


@pytest.fixture
def index(mura_root: Path) -> pd.DataFrame:
    return read_index(mura_root)


def test_the_order_of_the_rows_does_not_change_the_split(index: pd.DataFrame) -> None:
    folds = assign_folds(index)
    for seed in range(3):
        assert assign_folds(index.sample(frac=1, random_state=seed)).sort_index().equals(folds)


def test_patients_with_other_numbers_in_the_same_order_are_split_alike(index: pd.DataFrame) -> None:
    renamed = index.assign(patient=renumbered(index["patient"]))
    assert renamed["patient"].nunique() == index["patient"].nunique()
    assert assign_folds(renamed).equals(assign_folds(index))


def test_patients_with_any_other_names_are_still_on_one_side_each(index: pd.DataFrame) -> None:
    names = index["patient"].unique()
    shuffled = dict(zip(names, np.random.default_rng(0).permutation(names), strict=True))
    renamed = index.assign(patient=index["patient"].map(shuffled))
    folds = assign_folds(renamed)
    assert folds.groupby(renamed["patient"]).nunique().max() == 1
    sizes = folds.value_counts()
    assert sizes.max() - sizes.min() < 0.1 * len(folds)


def test_files_written_in_another_order_and_permuted_lists_give_the_same_index_and_split(
    index: pd.DataFrame, mura_root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "MURA-v1.1"
    for path in index["path"].sample(frac=1, random_state=0):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(mura_root / path, copy / path)
    for table in mura_root.glob("*.csv"):
        lines = pd.Series(table.read_text().splitlines()).sample(frac=1, random_state=0)
        (copy / table.name).write_text("\n".join([*lines, ""]))
    again, problems = scan(copy)
    assert problems == []
    assert again.equals(index)
    assert split_hash(again, assign_folds(again)) == split_hash(index, assign_folds(index))


def test_another_time_zone_and_locale_change_neither_split_nor_metrics(
    index: pd.DataFrame, mura_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results() -> tuple[str, str, str]:
        here = read_index(mura_root)
        table = views_of("wrist", 20).assign(probability=lambda views: np.linspace(0.1, 0.9, len(views)))
        return split_hash(here, assign_folds(here)), str(summarise(table)), csv_text(table)

    before, language = results(), locale.setlocale(locale.LC_ALL)
    try:
        for zone in ("Pacific/Kiritimati", "America/St_Johns"):
            for name in ("C", "C.UTF-8", "tr_TR.UTF-8", "de_DE.UTF-8"):
                monkeypatch.setenv("TZ", zone)
                time.tzset()
                try:
                    locale.setlocale(locale.LC_ALL, name)
                except locale.Error:
                    continue  # this machine lacks it
                assert results() == before
    finally:
        locale.setlocale(locale.LC_ALL, language)
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("change", ["rows in another order", "patients with other numbers"])
def test_a_comparison_is_of_the_predictions_and_not_of_their_order_or_their_patients_names(
    change: str, tmp_path: Path
) -> None:
    def changed(table: pd.DataFrame) -> pd.DataFrame:
        if change == "rows in another order":
            return table.sample(frac=1, random_state=len(table))
        return table.assign(patient=renumbered(table["patient"]), path=renumbered(table["path"]))

    results = []
    for name, spoil in (("before", None), ("after", changed)):
        for arm in ("specialised", "finetuned"):
            place = write_run(tmp_path / name / arm, ["wrist"], arm=arm, patients=12) / "predictions.csv"
            if spoil is not None:
                spoil(pd.read_csv(place)).to_csv(place, index=False)
        results.append(summarise_study([tmp_path / name], tmp_path / "out", 50))
    pd.testing.assert_frame_equal(results[0].results, results[1].results, check_exact=False)
    before, after = ([record.to_dict() for record in result.comparisons] for result in results)
    pd.testing.assert_frame_equal(pd.DataFrame(before), pd.DataFrame(after), check_exact=False)


@given(CASES)
def test_swapped_classes_swap_the_rates_and_keep_what_is_of_both(cases: list[tuple[bool, float]]) -> None:
    label, probability = (np.array(each, dtype=float) for each in zip(*cases, strict=True))
    metrics, mirrored = binary_metrics(label, probability), binary_metrics(1 - label, 1 - probability)
    assert mirrored["sensitivity"] == pytest.approx(metrics["specificity"])
    assert mirrored["specificity"] == pytest.approx(metrics["sensitivity"])
    for name in ("accuracy", "kappa", "auroc", "brier"):
        assert mirrored[name] == pytest.approx(metrics[name]), name


@given(CASES)
def test_swapped_labels_alone_mirror_every_metric_of_right_and_wrong(cases: list[tuple[bool, float]]) -> None:
    label, probability = (np.array(each, dtype=float) for each in zip(*cases, strict=True))
    metrics, mirrored = binary_metrics(label, probability), binary_metrics(1 - label, probability)
    for name, other in (
        ("accuracy", "accuracy"), ("auroc", "auroc"), ("sensitivity", "specificity"), ("specificity", "sensitivity")
    ):  # fmt: skip
        assert mirrored[name] == pytest.approx(1 - metrics[other]), name
    assert mirrored["kappa"] * metrics["kappa"] <= 1e-12  # agreement becomes disagreement


@pytest.mark.parametrize(("answer", "kappa"), [("label", 1.0), (0.9, 0.0), (0.1, 0.0), (0.5, 0.0)])
def test_a_model_that_knows_the_label_has_kappa_1_and_a_constant_one_0(answer: str | float, kappa: float) -> None:
    views = pd.concat([views_of(name, 12) for name in ("wrist", "hand")], ignore_index=True)
    found = summarise(views.assign(probability=views["label"].astype(float) if answer == "label" else answer))
    for level in LEVELS:
        for group in (OVERALL, "wrist", "hand"):
            assert found[level][group]["kappa"] == pytest.approx(kappa)
            assert found[level][group]["auroc"] == (1.0 if answer == "label" else 0.5)


def test_a_patient_leaked_on_purpose_is_caught(mura_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "MURA-v1.1"
    shutil.copytree(mura_root, root)
    patient = min((root / "train" / "XR_WRIST").iterdir())
    shutil.copytree(patient, root / "valid" / "XR_WRIST" / patient.name)
    _, problems = scan(root)
    [leak] = [problem for problem in problems if problem.kind == "patient-in-both-splits"]
    assert patient.name in leak.path
