"""Whole studies drawn with a known answer: run folders in, and every word that a verdict can say.

Each specialised model is trained apart, so each has a logit offset of its own.
"""

import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_folders import write_run
from sklearn.metrics import roc_auc_score

from mura.comparison.summary import ComparedPair, summarise_study
from mura.extremities import EXTREMITIES, data_name
from mura.report.words import describe_verdict
from mura.study.arms import SPECIALISED, UNIFIED, arm_of

PATIENTS, RESAMPLES = 40, 200


@dataclass(frozen=True)
class Answer:
    """What is true of a study: how well each arm sees, by its name or by (arm, extremity), which wins.

    `own` is the deviation of what a model alone sees, against 1 of what all models see; `offsets` that of the
    specialised models' logit offsets. `one_class` is an extremity without abnormal studies.
    """

    skill: dict[str | tuple[str, str], float]
    own: float = 0.5
    offsets: float = 0.3
    seeds: tuple[int, ...] = (0, 1, 2)
    one_class: str | None = None


def redraw(table: pd.DataFrame, answer: Answer, arm: str, seed: int) -> pd.DataFrame:
    """Return the predictions of one model: what all models see of a view, what it alone sees, and its offset."""
    parts = []
    for extremity, part in table.groupby("extremity", sort=False):
        number, name = EXTREMITIES.index(str(extremity)), zlib.crc32(arm.encode())
        everybody, alone = np.random.default_rng([number, 0]), np.random.default_rng([number, name, seed])
        label = part["label"] * (extremity != answer.one_class)
        skill = answer.skill.get((arm, str(extremity)), answer.skill[arm])
        evidence = everybody.normal(size=len(part)) + answer.own * alone.normal(size=len(part))
        offset = answer.offsets * alone.normal() if arm == SPECIALISED else 0.0
        logit = skill * (2 * label - 1) + evidence + offset
        parts.append(part.assign(label=label, logit=logit, probability=1 / (1 + np.exp(-logit))))
    return pd.concat(parts)


def compared(folder: Path, answer: Answer, margin: float | None = None) -> ComparedPair:
    """Return what the study says of its two arms, from the run folders of eight models a seed."""
    for seed in answer.seeds:
        for names in (EXTREMITIES, *((name,) for name in EXTREMITIES)):
            change = partial(redraw, answer=answer, arm=arm_of(names), seed=seed)
            write_run(folder / data_name(list(names)) / f"seed{seed}", names, seed, patients=PATIENTS, change=change)
    [pair] = summarise_study([folder], folder, RESAMPLES, margin).pairs
    return pair


ALIKE = {UNIFIED: 1.5, SPECIALISED: 1.5}


@pytest.mark.parametrize(
    ("answer", "margin", "word"),
    [
        (Answer({UNIFIED: 1.6, SPECIALISED: 1.0}), None, "unified better"),
        (Answer({UNIFIED: 1.6, SPECIALISED: 1.0}, seeds=(0,)), None, "unified better"),
        (Answer({UNIFIED: 1.0, SPECIALISED: 1.6}), None, "specialised better"),
        (Answer(ALIKE), None, "no difference shown"),
        (Answer(ALIKE, own=0.1, offsets=0.1), 0.03, "equivalent within 3 points"),
        (Answer(ALIKE, own=1.0), 0.03, "unified not worse by 3 points"),
        (Answer(ALIKE, own=1.0), 0.01, "no difference shown"),
    ],
)
def test_a_study_whose_answer_is_known_is_given_it(tmp_path, answer, margin, word):
    pair = compared(tmp_path, answer, margin)
    assert pair.main.verdict == word
    together, *_, scope = describe_verdict(pair)
    assert together.startswith(f"Over all seven extremities together: {word};")
    assert ("not of the two approaches" in scope) == (len(answer.seeds) == 1)


def test_one_extremity_in_seven_that_differs_a_little_is_not_shown_after_correction(tmp_path):
    pair = compared(tmp_path, Answer({UNIFIED: 1.2, SPECIALISED: 1.2, (UNIFIED, "hand"): 1.8}))
    verdicts = {record.extremity: record.verdict for record in pair.records("study", "accuracy")}
    assert verdicts.pop("hand") == "not shown after correction"
    assert verdicts.pop("all") == "unified better"
    assert set(verdicts.values()) == {"no difference shown"}
    assert any("not shown after correction for hand (alone p = 0.0" in sentence for sentence in describe_verdict(pair))


def test_an_extremity_of_one_class_is_not_assessable_in_auroc_nor_are_all_seven(tmp_path):
    pair = compared(tmp_path, Answer(ALIKE, one_class="hand"))
    lacking = [record.extremity for record in pair.records("study", "auroc") if record.verdict == "not assessable"]
    assert lacking == ["hand", "all"]
    assert pair.main.verdict == "no difference shown"


def test_offsets_of_separately_trained_models_alone_make_no_verdict_on_auroc(tmp_path):
    pair = compared(tmp_path, Answer(ALIKE, own=0.0, offsets=1.5))
    record = pair.record("all", "image", "auroc")
    assert record.difference == pytest.approx(0, abs=1e-12)
    assert record.verdict == pair.record("all", "study", "auroc").verdict == "no difference shown"
    pooled = {
        arm: np.mean([roc_auc_score(table.test["label"], table.test["logit"]) for table in tables])
        for arm, tables in pair.pair.arms.items()
    }
    assert pooled[UNIFIED] - pooled[SPECIALISED] > 0.03
