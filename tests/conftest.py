"""A small MURA folder that all tests share, and the commands as a user types them."""

import os
import shutil
import signal
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from command import ON_CPU, REPOSITORY, Command, Ended
from fresh_models import exporter, study, wrist, wrist_file
from PIL import Image

from mura.extremities import FOLDER_OF
from mura.launch.jobs import Job, run_jobs

__all__ = ["exporter", "study", "wrist", "wrist_file"]

hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("patient")
os.environ["WANDB_MODE"] = "offline"
os.environ["OMP_NUM_THREADS"] = "1"  # of the workers and all that they start, which share the cores between them
os.environ.pop("MURA_ROOT", None)
os.environ.pop("JPY_PARENT_PID", None)  # of a notebook, from which the tests may be started
# A shell starts its background jobs deaf to SIGINT, and what they start is deaf too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first: at the end the workers then share short ones, and none waits for long."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("slurm")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def mura_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training and 6 test patients an extremity, half of them abnormal: a bright square on noise."""
    root = tmp_path_factory.mktemp("data") / "MURA-v1.1"
    patient = 0
    for split, patients in (("train", 20), ("valid", 6)):
        paths, studies = [], []
        for folder in FOLDER_OF.values():
            for number in range(patients):
                patient += 1
                label = number % 2
                study = Path(split, folder, f"patient{patient:05d}", f"study1_{('negative', 'positive')[label]}")
                (root / study).mkdir(parents=True)
                studies.append(f"MURA-v1.1/{study.as_posix()}/,{label}")
                for view in range(1, 2 + number % 3):
                    draw(np.random.default_rng([patient, view]), label).save(root / study / f"image{view}.png")
                    paths.append(f"MURA-v1.1/{study.as_posix()}/image{view}.png")
        (root / f"{split}_image_paths.csv").write_text("\n".join(paths) + "\n")
        (root / f"{split}_labeled_studies.csv").write_text("\n".join(studies) + "\n")
    return root


@pytest.fixture
def contradictory(mura_root: Path, tmp_path: Path) -> Path:
    """A copy of the small folder, in which a test study of the wrist is there with both labels."""
    root = tmp_path / "contradictory"
    shutil.copytree(mura_root, root)
    study = min((root / "valid" / "XR_WRIST").glob("*/study1_positive"))
    shutil.copytree(study, study.with_name("study1_negative"))
    return root


def conflict_in(root: Path) -> str:
    """Return the name of the study that is there with both labels."""
    [patient] = [each for each in (root / "valid" / "XR_WRIST").iterdir() if len(list(each.iterdir())) == 2]
    return f"valid/XR_WRIST/{patient.name}/study1"


def draw(rng: np.random.Generator, label: int) -> Image.Image:
    pixels = rng.integers(0, 120, (44, 36), dtype=np.uint8)
    if label:
        top, left = rng.integers(4, 24), rng.integers(4, 16)
        pixels[top : top + 14, left : left + 14] += 120
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(mura_root: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`python train.py ...` on the small folder with a small network, in an empty working folder.

    In a process of its own, forked from one that has imported torch: as `train.py -m` starts its runs.
    """
    settings = [f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32", *ON_CPU]
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, check: bool = True, bare: bool = False) -> Ended:
        # what the test asks for comes last, so that it wins
        given = arguments if bare else ("model=cnn2", "logger=none", *settings, *arguments)
        folder = tmp_path / f"console{len(list(tmp_path.glob('console*')))}"
        job = Job("train", list(given), folder)
        [outcome] = run_jobs(
            REPOSITORY / "train.py", [job], lambda *_: None, workers=os.cpu_count() or 1, captured=True
        )
        ended = Ended(outcome.exit_code, job.log.read_text())
        assert not check or ended.code == 0, ended.said
        return ended

    return run
