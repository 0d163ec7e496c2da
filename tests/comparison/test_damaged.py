"""Damaged run folders: one sentence with the file and the key, or no effect; the other runs can still be compared."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from refusals import refusal
from run_folders import write_run

from mura.comparison.collect import collect
from mura.comparison.planning import plan_study
from mura.config.command_line import resume_arguments
from mura.errors import MuraError
from mura.report.write import write_report
from mura.runs.folder import RunFolder
from mura.runs.records import METRICS_RULES, read_metrics
from mura.study.grid import state_of

WRONG = (None, True, -1, 1.5, 10**400, "", "many", "2024-01-01", [], ["x"], {}, {"x": {"y": 1}})
MATTERS = ("schema", "model", "data", "arm", "seed", "fold", "test", "data_fingerprint", "split_hash")


@pytest.fixture
def pilot(tmp_path: Path) -> Path:
    """Finished runs of two arms with two seeds each, small enough to be compared many times."""
    for seed in (0, 1):
        for arm in ("specialised", "finetuned"):
            write_run(tmp_path / "pilot" / arm / f"seed{seed}", ["wrist"], seed, arm=arm, patients=6)
    return tmp_path / "pilot"


@pytest.fixture
def damaged(pilot: Path) -> RunFolder:
    """The run of the pilot that a test damages."""
    return RunFolder(pilot / "specialised" / "seed0")


def sentence_of(folder: Path) -> str | None:
    """What `mura report` refuses the runs with; None when it compares them."""
    return refusal(lambda: write_report([folder], folder.parent / "report", resamples=10))


def places(tree: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict):
        return []
    return [place for key, value in tree.items() for place in ((*above, key), *places(value, (*above, key)))]


def put(tree: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = json.loads(json.dumps(tree))
    node = changed
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return changed


def test_every_key_of_metrics_json_is_refused_with_its_name_or_has_no_say(damaged: RunFolder) -> None:
    whole = json.loads(damaged.metrics.read_text())
    whole |= {"git": {"commit": "c" * 40, "dirty": False}, "pictures_seen": 9, "synthetic": True, "best_value": 0.5}
    taken: dict[tuple[str, ...], list[Any]] = {}
    for place in (each for each in places(whole) if len(each) < 3 or ".".join(each) in METRICS_RULES):
        for wrong in WRONG:
            damaged.metrics.write_text(json.dumps(put(whole, place, wrong)))
            said = refusal(lambda: read_metrics(damaged.metrics))
            if said is None:
                taken.setdefault(place, []).append(wrong)
            else:
                assert said.startswith(f"{damaged.metrics} ")
                assert place[0] in said
    read = {place: taken[place] for place in taken if ".".join(place) in METRICS_RULES}
    for number in range(max(map(len, read.values()))):  # what is taken doesn't break the report
        changed = whole
        for place, values in read.items():
            if len(place) < 3 and place[0] not in MATTERS and isinstance(whole[place[0]], type(changed[place[0]])):
                changed = put(changed, place, values[number % len(values)])
        damaged.metrics.write_text(json.dumps(changed))
        assert sentence_of(damaged.path.parent.parent) is None


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("metrics.json", lambda text: text[:100], "can't be read"),
        ("metrics.json", lambda text: "[" * 100_000, "nested too deeply"),
        ("metrics.json", lambda text: text.replace('"seed": 0', '"seed": 0, "seed": 0'), "seed is there twice"),
        ("metrics.json", lambda text: text.replace('"seed": 0', '"seed": NaN'), "NaN is no number"),
        ("metrics.json", lambda text: text.replace('"epochs": 5', f'"epochs": {"9" * 5000}'), "can't be read"),
        ("metrics.json", lambda text: "[1]", "must hold a table"),
        ("config.yaml", lambda text: "", "holds null"),
        ("config.yaml", lambda text: f"{text}name: 2024-01-01\n", "name=2024-01-01, a date"),
        ("config.yaml", lambda text: f"{text}seed: 1\n", "twice"),
        ("config.yaml", lambda text: f"{text}list: {'[' * 30}{']' * 30}\n", "more than 20 levels below list"),
        ("config.yaml", lambda text: f"{text}list: {'[' * 5000}\n", "nested too deeply"),
        ("config.yaml", lambda text: f"{text}a: &a [1]\nb: *a\n", "an alias"),
        ("config.yaml", lambda text: f"{text}1: 2\n", "the key 1"),
        ("config.yaml", lambda text: f"{text}x: !!bool maybe\n", "can't be read"),
        ("config.yaml", lambda text: f"{text}x: !!python/object:os.system ls\n", "could not determine a constructor"),
        ("config.yaml", lambda text: "model: 3\n", "model=3"),
        ("config.yaml", lambda text: "data: {root: [1]}\n", "data.root=a list"),
        ("config.yaml", lambda text: "trainer: {max_epochs: x}\n", "trainer.max_epochs='x'"),
        ("history.csv", lambda text: with_cell(text, "val_loss", "word"), "val_loss is word in row 1"),
        ("history.csv", lambda text: with_cell(text, "val_loss", "-inf"), "val_loss is -inf in row 1"),
        ("history.csv", lambda text: text.replace("\n1,", "\n0,"), "epoch is 0 in row 2"),
        ("history.csv", lambda text: text.replace("\n1,", "\none,"), "epoch is one in row 2"),
        ("history.csv", lambda text: text.replace("\n1,", "\n1e300,"), "epoch is 1e+300 in row 2"),
        ("history.csv", lambda text: text.replace("train_loss", "loss"), "lacks the column train_loss"),
        ("history.csv", lambda text: text.replace("\n1,", "\n1,1,1,1,"), "can't be read"),
        ("history.csv", lambda text: text.replace("\n", ",1\n").replace("auroc,1", "auroc", 1), "more cells"),
        ("predictions.csv", lambda text: with_cell(text, "logit", "word"), "logit is word in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "logit", ""), "logit is nan in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "logit", "inf"), "logit is inf in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "logit", "1e300"), "logit is 1e+300 in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "probability", "word"), "probability is word in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "probability", "nan"), "probability is nan in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "split", "train"), "split is train in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "patient", ""), "patient is empty in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "view", "first"), "view is first in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "label", "True"), "label is True in row 1"),
        ("predictions.csv", lambda text: with_cell(text, "label", "9" * 400), "label"),
        ("predictions.csv", lambda text: text.replace("label", "logit", 1), "label"),
        ("predictions.csv", lambda text: "", "can't be read"),
        ("predictions.csv", lambda text: text + text.splitlines()[-1] + "\n", "is doubled"),
    ],
)
def test_a_damaged_file_of_a_run_is_one_sentence_with_its_name(
    damaged: RunFolder, file: str, change: Callable[[str], str], words: str
) -> None:
    place = damaged.path / file
    place.write_text(change(place.read_text()))
    said = sentence_of(damaged.path.parent.parent)
    assert said is not None
    assert str(place) in said
    assert words in said


def with_cell(text: str, column: str, value: str) -> str:
    """Return a CSV text with another value in its first row."""
    header, first, *others = text.splitlines()
    cells = first.split(",")
    cells[header.split(",").index(column)] = value
    return "\n".join([header, ",".join(cells), *others, ""])


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml", "history.csv", "predictions.csv", "transfer.csv"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: place.mkdir(), "it is a folder"),
        (lambda place: place.write_bytes(b"\xff\xfe\x00"), "UTF-8"),
    ],
)
def test_what_is_no_text_file_is_named(damaged: RunFolder, name: str, make: Callable[[Path], None], words: str) -> None:
    place = damaged.path / name
    place.unlink(missing_ok=True)
    make(place)
    said = sentence_of(damaged.path.parent.parent)
    assert said is not None
    assert f"{place} can't be read" in said
    assert words in said


def test_a_run_from_before_a_key_was_written_is_compared(damaged: RunFolder) -> None:
    whole = json.loads(damaged.metrics.read_text())
    old = {key: value for key, value in whole.items() if key not in METRICS_RULES or METRICS_RULES[key].needed}
    damaged.metrics.write_text(json.dumps(old))
    damaged.config.unlink()
    damaged.history.unlink()
    assert sentence_of(damaged.path.parent.parent) is None


def test_the_other_runs_are_compared_and_the_damaged_one_is_named(damaged: RunFolder, tmp_path: Path) -> None:
    damaged.history.write_text("epoch\nword\n")
    command = [sys.executable, "-m", "mura", "report", str(tmp_path / "pilot"), "--out", str(tmp_path / "out")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    [sentence] = refused.stderr.splitlines()
    assert sentence.startswith("mura: ")
    assert str(damaged.history) in sentence
    assert "--skip-damaged" in sentence
    taken = subprocess.run([*command, "--skip-damaged"], capture_output=True, text=True, check=True)
    for said in (taken.stdout, *((tmp_path / "out" / name).read_text() for name in ("index.html", "results.md"))):
        assert "A run is left out" in said
        assert "history.csv" in re.sub(r"\s", "", said)
    seeds = pd.read_csv(tmp_path / "out" / "results.csv").groupby("arm")["seed"].unique()
    assert list(seeds["specialised"]) == [1]
    assert sorted(seeds["finetuned"]) == [0, 1]


def test_when_all_runs_are_damaged_there_is_nothing_to_compare(damaged: RunFolder, tmp_path: Path) -> None:
    for file in (tmp_path / "pilot").rglob("metrics.json"):
        file.write_text("")
    with pytest.raises(MuraError, match=r"no finished run .*\(4 left out\)"):
        collect([tmp_path / "pilot"], [])


@pytest.mark.parametrize("content", ["", "{}", "- 1", "[[a=b]]", "- &a x=1\n- *a", "[" * 3000, "seed=1"])
def test_a_damaged_command_line_is_named_when_a_run_would_go_on(damaged: RunFolder, content: str) -> None:
    damaged.metrics.unlink()
    damaged.overrides.parent.mkdir()
    damaged.overrides.write_text(content)
    said = refusal(lambda: resume_arguments([f"resume={damaged.path}"]))
    assert said is not None
    assert str(damaged.overrides) in said


def test_a_plan_and_a_study_that_starts_again_name_the_damaged_file_too(damaged: RunFolder) -> None:
    damaged.config.write_text("")
    damaged.overrides.parent.mkdir()
    damaged.overrides.write_text("[]")
    for read in (lambda: plan_study(damaged.path.parent.parent, 10), lambda: state_of(damaged, {}, "d" * 32)):
        with pytest.raises(MuraError, match=r"config\.yaml holds null"):
            read()
