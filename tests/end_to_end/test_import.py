"""People's own pictures, from a table to a trained model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import Command
from conftest import draw
from dicom_files import dataset, saved


@pytest.mark.slow
def test_a_model_is_trained_on_own_pictures(train: Command, tmp_path: Path) -> None:
    """Half of them are PNG, half DICOM of 12 bits."""
    lines = ["path;patient;study;extremity;label"]
    for number in range(40):
        label, path = number // 2 % 2, f"{number}.{('png', 'dcm')[number % 2]}"
        picture = draw(np.random.default_rng(number), label)
        (tmp_path / "own").mkdir(exist_ok=True)
        if number % 2:
            values = np.asarray(picture).astype(np.uint16) * 16
            made = dataset(4095 - values, 12, PhotometricInterpretation="MONOCHROME1")
            (tmp_path / "own" / path).write_bytes(saved(made))
        else:
            picture.save(tmp_path / "own" / path)
        lines.append(f"{path};P{number};S1;wrist;{('normal', 'abnormal')[label]}")
    (tmp_path / "own.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    for arguments in (["import", "own", "out", "--table", "own.csv", "--valid-fraction", "0.2"], ["check", "out"]):
        ended = subprocess.run([sys.executable, "-m", "mura", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    train("data=wrist", f"data.root={tmp_path / 'out'}", "trainer.max_epochs=1", "hydra.run.dir=run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert not metrics["synthetic"]
    assert metrics["test"]["image"]["wrist"]["n"] == 8
