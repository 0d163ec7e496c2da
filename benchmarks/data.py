"""What the benchmarks are measured on: synthetic radiographs, made once into a folder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import REPOSITORY
from mura.extremities import FOLDER_OF


def radiographs(folder: Path, patients: int, size: int) -> Path:
    """`mura synth` of so many patients, the longest side `size` pixels; MURA's is 512."""
    root = folder / f"synthetic-{patients}-{size}"
    if not root.is_dir():
        command = ["synth", str(root), "--patients", str(patients), "--size", str(size)]
        subprocess.run(
            [sys.executable, "-m", "mura.cli", *command], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL
        )
    return root


def noise(folder: Path, pictures: int) -> Path:
    """`pictures` small pictures of noise in MURA's layout, without lists: to count and move, not to look at."""
    root = folder / f"noise-{pictures}" / "MURA-v1.1"
    if root.is_dir():
        return root
    rng = np.random.default_rng(0)
    beside = root.with_name("unfinished")
    for number in range(pictures // 2):
        part = "valid" if number % 12 == 0 else "train"
        extremity = list(FOLDER_OF.values())[number % 7]
        label = ("negative", "positive")[number // 7 % 2]
        study = beside / part / extremity / f"patient{number:05d}" / f"study1_{label}"
        study.mkdir(parents=True)
        for view in (1, 2):
            Image.fromarray(rng.integers(0, 256, (40, 32), dtype=np.uint8)).save(study / f"image{view}.png")
    beside.rename(root)
    return root
