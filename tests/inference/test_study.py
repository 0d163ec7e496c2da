"""A study is asked as one model: each picture of its extremity's runs, averaged over the seeds."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import mura
from refusals import refusal
from run_folders import write_run

from mura.errors import ConfigError, MuraError
from mura.inference.loading import load_model

SQUARES = np.random.default_rng(0).integers(0, 256, (5, 40, 40), dtype=np.uint8)


@pytest.fixture
def pictures(mura_root: Path) -> dict[str, list[Path]]:
    """The test pictures of two patients, by extremity."""
    return {
        name: sorted((mura_root / "valid" / f"XR_{name.upper()}").rglob("*.png"))[:3]
        for name in ("wrist", "hand", "elbow")
    }


def test_each_picture_is_asked_of_its_extremitys_runs_and_averaged_over_the_seeds(study: Path) -> None:
    names = ["hand", "wrist", "hand", "hand", "wrist"]
    asked = load_model(study, "specialised").probabilities(SQUARES, names)
    for row, name in enumerate(names):
        runs = [load_model(study / "cnn2" / name / f"seed{seed}") for seed in (0, 1)]
        alone = [run.probabilities(SQUARES[row : row + 1], [name])[0] for run in runs]
        assert alone[0] != pytest.approx(alone[1], abs=1e-4)
        assert asked[row] == pytest.approx(np.mean(alone), abs=1e-7)


@pytest.mark.parametrize("arm", ["unified", "shared"])
def test_a_pooled_arm_is_averaged_over_its_seeds(arm: str, study: Path) -> None:
    model = load_model(study, arm)
    names = ["elbow", "wrist", "wrist", "shoulder", "hand"]
    runs = [load_model(study / "cnn2" / arm / f"seed{seed}").probabilities(SQUARES, names) for seed in (0, 1)]
    np.testing.assert_allclose(model.probabilities(SQUARES, names), np.mean(runs, axis=0), atol=1e-7)
    assert model.needs_extremity == (arm == "shared")


def test_a_pooled_arm_needs_no_extremity(study: Path, pictures: dict[str, list[Path]], tmp_path: Path) -> None:
    nameless = Path(shutil.copy(pictures["hand"][0], tmp_path / "some.png"))
    found = mura("predict", study, nameless, "--arm", "unified", "--json")
    assert found.exit_code == 0
    [row] = json.loads(found.stdout)["pictures"]
    assert (row["path"], row["extremity"]) == (str(nameless), None)
    with pytest.raises(MuraError, match=r"does not say which it shows: give --extremity, one of hand, wrist\."):
        mura("predict", study, nameless, "--arm", "specialised")


def test_what_is_asked_of_a_study_is_said_by_the_log(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    load_model(study, "specialised")
    assert caplog.messages == [f"{study}: cnn2, specialised, 4 runs, seeds 0, 1"]


def test_an_arm_that_is_not_there_and_what_is_not_trained_are_sentences(
    study: Path, pictures: dict[str, list[Path]], tmp_path: Path
) -> None:
    several = "has runs of several arms: give --arm, one of shared, specialised, unified."
    assert refusal(lambda: load_model(study)) == f"{study} {several}"
    assert refusal(lambda: load_model(study, "finetuned")) == (
        f"--arm finetuned: {study} has no such finished run; there is shared, specialised, unified."
    )
    assert "--model resnet18" in str(refusal(lambda: load_model(study, "unified", "resnet18")))
    assert "nothing trained for elbow" in str(
        refusal(lambda: mura("predict", study, pictures["elbow"][0], "--arm", "specialised"))
    )
    single = study / "cnn2" / "wrist" / "seed0"
    for model in (single, single / "checkpoints" / "best.ckpt"):
        assert f"--arm unified: chooses among the runs of a study, and {model} is" in str(
            refusal(lambda model=model: load_model(model, "unified"))
        )
    (tmp_path / "empty").mkdir()
    assert "holds no finished run" in str(refusal(lambda: load_model(tmp_path / "empty")))
    unfinished = tmp_path / "half" / "cnn2" / "wrist" / "seed0"
    (unfinished).mkdir(parents=True)
    (unfinished / "config.yaml").touch()
    assert "holds no finished run (a folder with metrics.json); 1 unfinished" in str(
        refusal(lambda: load_model(tmp_path / "half", "specialised"))
    )
    assert "holds no model" in str(refusal(lambda: load_model(unfinished)))


def test_a_study_of_several_backbones_is_asked_for_one(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "mine")
    write_run(tmp_path / "mine" / "cnn4" / "wrist" / "seed0", ["wrist"], 0, "cnn4", patients=4)
    said = refusal(lambda: load_model(tmp_path / "mine", "specialised"))
    assert said is not None
    assert said.endswith("has runs of several models: give --model, one of cnn2, cnn4.")
    assert load_model(tmp_path / "mine", "specialised", "cnn2").extremities == ["hand", "wrist"]
    shutil.copytree(study / "cnn2" / "hand" / "seed0", tmp_path / "mine" / "again")
    assert "both answer for hand, seed 0" in str(refusal(lambda: load_model(tmp_path / "mine", "specialised", "cnn2")))


def test_a_list_on_standard_input_is_asked_and_written_as_csv_and_json(
    study: Path, pictures: dict[str, list[Path]], tmp_path: Path
) -> None:
    named = [*pictures["hand"], *pictures["wrist"]]
    lines = "".join(f"{path}\n" for path in named)
    found = mura("predict", study, "-", "--arm", "specialised", "--csv", tmp_path / "a.csv", "--json", said=lines)
    assert found.exit_code == 0
    rows = json.loads(found.stdout)["pictures"]
    assert [row["path"] for row in rows] == list(map(str, named))
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["probability"].tolist() == pytest.approx([row["probability"] for row in rows])
    assert table["extremity"].tolist() == ["hand"] * 3 + ["wrist"] * 3
    printed = mura("predict", study, "-", "--arm", "specialised", "--csv", "-", said=lines)
    assert printed.stdout == (tmp_path / "a.csv").read_text()
    with pytest.raises(ConfigError, match="--csv - and --json would both print"):
        mura("predict", study, "-", "--arm", "specialised", "--csv", "-", "--json", said=lines)
    again = mura(
        "predict", study, "-", "--arm", "specialised", "--out", tmp_path / "b.csv", said=lines.replace("\n", "\0")
    )
    assert again.stdout == ""
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()
    assert "names no picture" in str(refusal(lambda: mura("predict", study, "-", "--arm", "unified", said="\n")))


def test_json_names_what_could_not_be_read_and_exits_with_1(
    study: Path, pictures: dict[str, list[Path]], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(pictures["hand"][0].read_bytes()[:100])
    found = mura("predict", study, pictures["hand"][0], tmp_path / "broken.png", "--arm", "unified", "--json")
    assert found.exit_code == 1
    answer = json.loads(found.stdout)
    assert len(answer["pictures"]) == 1
    [fault] = answer["unreadable"]
    assert "broken.png is truncated" in fault
