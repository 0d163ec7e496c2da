"""Finished run folders, made by hand in the contracted format: what a study leaves, without training anything."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mura.extremities import EXTREMITIES, data_name
from mura.metrics import summarise
from mura.study.arms import arm_of

MakeRun = Callable[..., Path]
SKILL = {"unified": 1.3, "specialised": 1.0}


def views_of(extremity: str, patients: int) -> pd.DataFrame:
    """Return the test views of an extremity, always the same; every fourth patient occurs in all extremities."""
    rng = np.random.default_rng(zlib.crc32(extremity.encode()))
    rows = []
    for number in range(patients):
        name = f"patient{number if number % 4 == 0 else 1000 * EXTREMITIES.index(extremity) + number:05}"
        label = number % 2 if number < 2 else int(rng.integers(0, 2))
        for view in range(1, 2 + int(rng.integers(0, 3))):
            path = f"valid/XR_{extremity.upper()}/{name}/study1_{('negative', 'positive')[label]}/image{view}.png"
            rows.append(("test", extremity, name, "study1", view, path, label))
    return pd.DataFrame(rows, columns=["split", "extremity", "patient", "study", "view", "path", "label"])


def predict(views: pd.DataFrame, skill: float, rng: np.random.Generator) -> pd.DataFrame:
    """Return the predictions of a model with some skill, whose mistakes cluster by patient."""
    patients, which = np.unique(views["patient"], return_inverse=True)
    chance = rng.normal(size=len(patients))[which] + 0.7 * rng.normal(size=len(views))
    logit = skill * (2 * views["label"] - 1) + chance
    return views.assign(logit=logit, probability=1 / (1 + np.exp(-logit)))


def write_run(
    folder: Path,
    extremities: Sequence[str],
    seed: int = 0,
    model: str = "cnn4",
    arm: str | None = None,
    patients: int = 24,
    change: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    root: Path | None = None,
    transfer: bool = False,
    **metrics: object,
) -> Path:
    """Write a finished run folder; `change` spoils predictions.csv after the metrics were taken."""
    folder.mkdir(parents=True)
    names = list(extremities)
    arm = arm or arm_of(names)
    views = pd.concat([views_of(name, patients) for name in names], ignore_index=True)
    rng = np.random.default_rng([seed, zlib.crc32(f"{model}{arm}{names}".encode())])
    table = predict(views, SKILL.get(arm, 0.8), rng)
    validation = predict(views.assign(split="val"), SKILL.get(arm, 0.8), rng)
    about = {
        "schema": 1, "name": f"{model}-{data_name(names)}-seed{seed}", "model": model, "data": data_name(names),
        "extremities": names, "arm": arm, "seed": seed, "fold": 0, "best_epoch": 2, "epochs": 5, "steps": 50,
        "stopped_by": "max_epochs", "val": summarise(validation), "test": summarise(table), "device": "cpu",
        "precision": "32-true",
        "speed": {"train_images_per_second": 77.0, "wall_seconds": 13.1, "peak_memory_bytes": 1}, "git": None,
        "data_fingerprint": "d" * 32, "split_hash": "5" * 32, "versions": {"python": "3.11", "mura": "0.1.0"},
    }  # fmt: skip
    config = {"seed": seed, "arm": arm, "model": {"name": model}, "data": {"root": str(root or folder)}}
    epochs = np.arange(5)
    history = pd.DataFrame({"epoch": epochs, "lr": 0.001, "seconds": 2.0})
    for part, gap in (("train", 0.0), ("val", 0.05)):
        history[f"{part}_loss"] = 0.7 * np.exp(-epochs / 5) + gap + rng.normal(0, 0.01, 5)
        history[f"{part}_accuracy"] = 0.9 - 0.4 * np.exp(-epochs / 3) - gap
    history["val_kappa"], history["val_auroc"] = 0.5, 0.8
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    history.to_csv(folder / "history.csv", index=False)
    spoilt = change(table) if change else table
    pd.concat([validation[spoilt.columns], spoilt]).to_csv(folder / "predictions.csv", index=False)
    if transfer:
        others = pd.concat([views_of(name, patients) for name in EXTREMITIES if name not in names], ignore_index=True)
        predict(others, 0.2, rng).to_csv(folder / "transfer.csv", index=False)
    (folder / "metrics.json").write_text(json.dumps(about | metrics))
    return folder


def write_study(
    folder: Path, seeds: Sequence[int] = (0,), models: Sequence[str] = ("cnn4",), patients: int = 24, **more: object
) -> Path:
    """Write seven specialised runs and a unified one, for each model and seed."""
    for model in models:
        for seed in seeds:
            for names in (EXTREMITIES, *((name,) for name in EXTREMITIES)):
                place = folder / model / data_name(list(names)) / f"seed{seed}"
                write_run(place, names, seed, model, patients=patients, **more)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> MakeRun:
    """A function that writes one run below the test's folder `runs`."""

    def write(extremities: str | Sequence[str], **settings: object) -> Path:
        names = [extremities] if isinstance(extremities, str) else extremities
        runs = tmp_path / "runs"
        number = len(list(runs.iterdir())) if runs.is_dir() else 0
        return write_run(runs / f"{number}_{data_name(list(names))}", names, **settings)

    return write


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen finished runs of one model with two seeds, to be read only."""
    return write_study(tmp_path_factory.mktemp("study") / "runs", seeds=(0, 1))
