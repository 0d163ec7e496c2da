"""`mura predict`: what a run predicted of its test views it says of them again; faults are sentences."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Command, weights

TRAINED = ("data=wrist", "trainer.max_epochs=1", "hydra.run.dir=run")


def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("mura")), "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def table_of(found: subprocess.CompletedProcess[str]) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(found.stdout))


@pytest.mark.parametrize(
    "more",
    [
        ("trainer.precision=32-true",),
        ("trainer.precision=bf16-mixed",),  # trained in bfloat16, predicted in float32, by the run as by `mura predict`
        ("ensemble=2", "trainer.max_epochs=3", "early_stopping.patience=null"),
        ("data.fit=stretch",),  # the pictures here are not square
    ],
)
def test_a_run_says_of_its_test_views_what_it_predicted(
    more: tuple[str, ...], train: Command, mura_root: Path, tmp_path: Path
) -> None:
    train(*TRAINED, *more)
    found = ask(tmp_path / "run", mura_root / "valid" / "XR_WRIST")
    assert (found.returncode, found.stderr) == (0, "")
    views = table_of(found)
    expected = pd.read_csv(tmp_path / "run" / "predictions.csv").query("split == 'test'")
    assert list(views["path"]) == [str(mura_root / path) for path in expected["path"]]
    np.testing.assert_allclose(views["probability"], expected["probability"], atol=1e-6)
    assert set(views["extremity"]) == {"wrist"}
    means = expected.groupby(["patient", "study"])["probability"].mean()
    assert sorted(views.drop_duplicates("study")["study_probability"]) == pytest.approx(sorted(means), abs=1e-5)
    assert views["study_is"].tolist() == ["abnormal" if p > 0.5 else "normal" for p in views["study_probability"]]


def test_pictures_from_anywhere_are_predicted_and_bad_ones_named(
    train: Command, mura_root: Path, tmp_path: Path
) -> None:
    train(*TRAINED)
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    picture = tmp_path / "some.png"
    shutil.copy(next((mura_root / "valid" / "XR_HAND").rglob("*.png")), picture)
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:300])
    found = ask(checkpoint, picture, tmp_path / "broken.png", "--extremity", "hand", "--out", tmp_path / "out.csv")
    assert found.returncode == 1
    assert found.stdout == ""
    assert "broken.png is truncated" in found.stderr
    assert "was trained on wrist, not on hand" in found.stderr
    views = pd.read_csv(tmp_path / "out.csv")
    assert list(views["path"]) == [str(picture)]
    assert list(views["study"]) == [str(picture)]
    assert list(views["extremity"]) == ["hand"]

    damaged = tmp_path / "damaged.ckpt"
    content = bytearray(checkpoint.read_bytes())
    first = next(iter(weights(tmp_path / "run", "best.ckpt").values())).numpy().tobytes()
    content[content.find(first) + 2] ^= 1
    damaged.write_bytes(content)

    for arguments, words in (
        ((damaged, picture), "damaged.ckpt is damaged (a checksum is wrong)"),
        ((checkpoint, tmp_path / "absent.png"), "absent.png is not there"),
        ((tmp_path, picture), "is no run folder"),
        ((tmp_path / "run" / "metrics.json", picture), "metrics.json"),
        ((checkpoint, picture, "--extremity", "knee"), "there is no such extremity"),
        ((checkpoint, tmp_path / "run" / ".hydra"), "holds no picture"),
        ((checkpoint, picture, "--out", tmp_path / "no" / "out.csv"), "there is no folder"),
    ):
        found = ask(*arguments)
        assert found.returncode == 1
        [sentence] = found.stderr.strip().splitlines()
        assert sentence.startswith("mura: ")
        assert words in sentence
        assert found.stdout == ""


def test_a_model_with_separate_heads_must_know_what_it_looks_at(
    train: Command, mura_root: Path, tmp_path: Path
) -> None:
    train("data=unified", "model.separate_heads=true", *TRAINED[1:])
    found = ask(tmp_path / "run", mura_root / "valid" / "XR_HAND")
    expected = pd.read_csv(tmp_path / "run" / "predictions.csv").query("split == 'test' and extremity == 'hand'")
    np.testing.assert_allclose(table_of(found)["probability"], expected["probability"], atol=1e-5)
    picture = tmp_path / "some.png"
    shutil.copy(next((mura_root / "valid" / "XR_HAND").rglob("*.png")), picture)
    assert "give --extremity, one of elbow, finger" in ask(tmp_path / "run", picture).stderr
