"""`mura predict`: what a run predicted of its test views it says of them again; faults are sentences."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Command, weights
from dicom_files import CHARACTER_SET, dataset, mark_every_text_tag, mark_picture_tag, saved
from PIL import Image

from mura.cli import main

TRAINED = ("data=wrist", "trainer.max_epochs=1", "hydra.run.dir=run")

INVALID = ["NumberOfFrames", "PhotometricInterpretation", "RescaleSlope",
           "WindowCenter", "WindowWidth", "VOILUTFunction", "BitsStored", "Rows", "PixelPaddingValue"]  # fmt: skip
"""Tags that the decoder reads, with a value in each that none of them may have."""


Answer = subprocess.CompletedProcess[str]
Ask = Callable[..., Answer]


def ask_anew(*arguments: object) -> Answer:
    """`mura predict ...` in a process of its own."""
    command = [str(Path(sys.executable).with_name("mura")), "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Ask:
    """`mura predict ...` in this process, which has imported torch already; what it logs is on stderr too."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr("sys.argv", ["mura", "predict", *map(str, arguments)])
        capsys.readouterr()
        caplog.clear()
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        said = "".join(f"{message}\n" for message in caplog.messages)
        return Answer(sys.argv, int(end.value.code or 0), printed.out, said + printed.err)

    return run


def table_of(found: Answer) -> pd.DataFrame:
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
    more: tuple[str, ...], train: Command, ask: Ask, mura_root: Path, tmp_path: Path
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
    train: Command, ask: Ask, mura_root: Path, tmp_path: Path
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

    Image.new("L", (40, 30)).save(tmp_path / "blank.png")
    found = ask(checkpoint, tmp_path / "blank.png", "--extremity", "wrist")
    assert found.returncode == 0
    assert len(table_of(found)) == 1
    assert "blank.png is blank: all its pixels are 0 of 255; its probability says nothing." in found.stderr

    damaged = tmp_path / "damaged.ckpt"
    content = bytearray(checkpoint.read_bytes())
    first = next(iter(weights(tmp_path / "run", "best.ckpt").values())).numpy().tobytes()
    content[content.find(first) + 2] ^= 1
    damaged.write_bytes(content)

    for arguments, words in (
        ((damaged, picture), "damaged.ckpt is damaged (a checksum is wrong)"),
        ((checkpoint, tmp_path / "absent.png"), "absent.png is not there"),
        ((tmp_path / "run" / "checkpoints", picture), "is no run folder, and holds no finished run"),
        (("/dev/zero", picture), "is a device and no checkpoint"),
        ((tmp_path / "run" / "metrics.json", picture), "metrics.json"),
        ((checkpoint, picture, "--extremity", "knee"), "there is no such extremity"),
        ((checkpoint, tmp_path / "run" / ".hydra"), "holds no picture"),
        ((checkpoint, picture, "--out", tmp_path / "no" / "out.csv"), "there is no folder"),
        ((checkpoint, picture, "--out", tmp_path / ("x" * 300)), "can't be written (File name too long)"),
        ((checkpoint, picture, "--out", "/dev/null"), "that is a device"),
    ):
        refused = ask(*arguments)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_a_folder_of_anything_is_predicted_once_and_the_rest_is_said(
    train: Command, mura_root: Path, tmp_path: Path
) -> None:
    train(*TRAINED)
    pictures = sorted((mura_root / "valid" / "XR_WRIST").rglob("*.png"))
    study = tmp_path / "XR_WRIST" / "study"
    (study / ".ipynb_checkpoints").mkdir(parents=True)
    for name, picture in zip(("a.png", os.fsdecode(b"caf\xe9.png"), "[red]\x1b[31m.png"), pictures, strict=False):
        shutil.copy(picture, study / name)
    shutil.copy(pictures[0], study / ".ipynb_checkpoints" / "a-checkpoint.png")
    (study / "link.png").symlink_to("a.png")
    (study / "notes.txt").touch()
    os.mkfifo(study / "pipe.png")
    found = ask_anew(tmp_path / "run", tmp_path / "XR_WRIST", study / "zero.png", "--out", tmp_path / "out.csv")
    assert found.returncode == 1
    said = found.stderr.splitlines()
    assert sorted(said[0].removeprefix("left out: ").split(", ", 2)) == [
        ".txt (1)", "folder .ipynb_checkpoints (1)", "named twice, or a link to another (1)",
    ]  # fmt: skip
    assert said[1:] == [
        f"mura: {study}/pipe.png can't be read (it is a FIFO).", f"mura: {study}/zero.png is not there.",
    ]  # fmt: skip
    views = pd.read_csv(tmp_path / "out.csv")
    assert [Path(path).name for path in views["path"]] == ["[red]\x1b[31m.png", "a.png", r"caf\udce9.png"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_any_encoding_gets_all_rows(
    encoding: str, train: Command, mura_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(*TRAINED)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    pictures = sorted((mura_root / "valid" / "XR_WRIST").rglob("*.png"))[:2]
    for name, picture in zip(("骨.png", "é.png"), pictures, strict=True):
        shutil.copy(picture, tmp_path / name)
    command = [str(Path(sys.executable).with_name("mura")), "predict", "run", "骨.png", "é.png"]
    found = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=120, check=True)
    assert found.stdout.decode(encoding).count("png,") == 4
    assert b"\\u9aa8.png" in found.stdout


def test_a_model_with_separate_heads_must_know_what_it_looks_at(
    train: Command, ask: Ask, mura_root: Path, tmp_path: Path
) -> None:
    train("data=unified", "model.separate_heads=true", *TRAINED[1:])
    found = ask(tmp_path / "run", mura_root / "valid" / "XR_HAND")
    expected = pd.read_csv(tmp_path / "run" / "predictions.csv").query("split == 'test' and extremity == 'hand'")
    np.testing.assert_allclose(table_of(found)["probability"], expected["probability"], atol=1e-5)
    picture = tmp_path / "some.png"
    shutil.copy(next((mura_root / "valid" / "XR_HAND").rglob("*.png")), picture)
    assert "give --extremity, one of elbow, finger" in ask(tmp_path / "run", picture).stderr


def test_dicom_is_predicted_study_by_study_and_nobody_is_named(train: Command, ask: Ask, tmp_path: Path) -> None:
    """The files hold a mark in every text tag; nothing that is written may hold one."""
    train(*TRAINED)
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    grey = (np.arange(1200).reshape(40, 30) % 256).astype(np.uint16) * 16
    folder = tmp_path / "ZQfolderZQ"
    folder.mkdir()
    sound = saved(mark_every_text_tag(dataset(grey, 12, StudyInstanceUID="1.2.9797.1")))
    files = {
        "a.dcm": sound,
        "b": saved(mark_every_text_tag(dataset(grey[::-1].copy(), 12, StudyInstanceUID="1.2.9797.1"))),
        "c.ima": saved(mark_every_text_tag(dataset(grey, 12, StudyInstanceUID="1.2.9797.2"))),
        "cut": sound[: len(sound) // 2],
        "no-end.dcm": sound[:-100],
        "blank": saved(mark_every_text_tag(dataset(grey * 0, 12, StudyInstanceUID="1.2.9797.3"))),
        "character-set": sound.replace(CHARACTER_SET.encode(), b"ZQCHARSETS"),
        "coding": sound.replace(b"1.2.840.10008.1.2.1\0", b"1.2.9797.10008.1.2.1"),
        "class": sound[: len(sound) // 2].replace(b"1.2.840.10008.5", b"1.2.9797.1008.5"),
        "DICOMDIR": sound,
    }
    for name in INVALID:
        files[f"invalid-{name}"] = saved(mark_picture_tag(mark_every_text_tag(dataset(grey, 12)), name))
    spoilt = np.random.default_rng(0)
    for number in range(5):
        content = np.frombuffer(sound, np.uint8).copy()
        content[spoilt.integers(132, len(content), 400)] = spoilt.integers(0, 256, 400)
        files[f"spoilt{number}"] = content.tobytes()
    for name, content in files.items():
        (folder / (name if name == "DICOMDIR" else f"ZQ{name}")).write_bytes(content)

    out = tmp_path / "out.csv"
    found = ask_anew(checkpoint, folder, "--extremity", "wrist", "--anonymous", "--out", out)
    views = pd.read_csv(out)
    for written in (found.stdout, found.stderr, out.read_text()):
        assert not re.search("ZQ|9797|invalid|spoilt", written)
    assert "Traceback" not in found.stderr
    assert views["path"].str.fullmatch(r"picture \d+").all()
    assert views["study"].str.fullmatch(r"study \d+").all()
    assert views["study"].value_counts().iloc[0] >= 2
    assert re.search(r"picture \d+ is a damaged or truncated DICOM file\.", found.stderr)
    assert re.search(r"picture \d+ is blank: all its pixels are 0 of 255; its probability says nothing", found.stderr)

    named = ask(checkpoint, *(folder / f"ZQ{name}" for name in ("a.dcm", "b", "c.ima")), "--extremity", "wrist")
    assert (named.returncode, named.stderr) == (0, "")
    views = table_of(named)
    assert list(views["study"]) == [str(folder / f"study {number}") for number in (1, 1, 2)]
    assert list(views["path"]) == [str(folder / f"ZQ{name}") for name in ("a.dcm", "b", "c.ima")]
    assert views["study_probability"][0] == pytest.approx(views["probability"][:2].mean())
    assert "9797" not in named.stdout
