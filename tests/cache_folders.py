"""A MURA folder to be cached, and what a user finds of its cache."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from mura.data.cache import Cache

SIZE = 16
FIRST = "train/XR_WRIST/patient00000/study1_negative/image1.png"


def write_folder(root: Path, pictures_a_patient: int, side: int) -> Path:
    for patient in range(28):
        split, label = ("train", "valid")[patient >= 20], ("negative", "positive")[patient % 2]
        study = root / split / ("XR_WRIST", "XR_HAND")[patient // 2 % 2] / f"patient{patient:05d}" / f"study1_{label}"
        study.mkdir(parents=True)
        pixels = np.random.default_rng(patient).integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(study / "image1.png")
        for number in range(2, pictures_a_patient + 1):
            shutil.copyfile(study / "image1.png", study / f"image{number}.png")
    return root


def caches(home: Path) -> list[str]:
    """What a user finds below the cache folder, but for locks and remembered fingerprints."""
    return sorted(path.name for path in home.iterdir() if path.suffix != ".lock" and path.name != "fingerprints")


def picture(cache: Cache, path: str) -> np.ndarray:
    [row] = cache.table.index[cache.table["path"] == path]
    return np.asarray(cache.images[row])
