"""A small study whose models nobody trained: run folders with the checkpoints of fresh networks, as fixtures."""

from pathlib import Path

import pytest
import torch
from run_folders import write_run
from torch.torch_version import TorchVersion

from mura.extremities import EXTREMITIES
from mura.inference.export import OLDEST_EXPORTER, export
from mura.inference.loading import load_run
from mura.models.classifier import AbnormalityClassifier
from mura.study.arms import SHARED, SPECIALISED, UNIFIED


def write_checkpoint(run: Path, extremities: list[str], seed: int, separate_heads: bool = False, name: str = "best"):
    """Write a checkpoint of a fresh cnn2 into a run folder, as Lightning would a trained one."""
    torch.manual_seed(seed)
    trained = {"extremities": extremities, "cache_size": 40, "fit": "pad", "data_fingerprint": "d" * 32}
    model = AbnormalityClassifier(
        name="cnn2", head="cnn2", image_size=32, separate_heads=separate_heads, provenance=trained
    )
    torch.nn.init.normal_(model.network.head[-1].bias if not separate_heads else model.network.head.heads[0][-1].bias)
    content = {"epoch": 0, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(content, run / "checkpoints" / f"{name}.ckpt")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of cnn2: specialised for wrist and hand, unified, and shared; to be read only."""
    folder = tmp_path_factory.mktemp("studies") / "mine"
    for seed in (0, 1):
        for number, (arm, data, names) in enumerate(
            (
                (SPECIALISED, "wrist", ["wrist"]),
                (SPECIALISED, "hand", ["hand"]),
                (UNIFIED, "unified", list(EXTREMITIES)),
                (SHARED, "shared", list(EXTREMITIES)),
            )
        ):
            run = write_run(folder / "cnn2" / data / f"seed{seed}", names, seed, "cnn2", arm, patients=4)
            write_checkpoint(run, names, 10 * number + seed, separate_heads=arm == SHARED)
    return folder


@pytest.fixture(scope="session")
def wrist(study: Path) -> Path:
    """A run of the study, to be read only."""
    return study / "cnn2" / "wrist" / "seed0"


@pytest.fixture(scope="session")
def exporter() -> None:
    """Skip where ONNX files can't be written."""
    pytest.importorskip("onnx")
    if TorchVersion(torch.__version__) < OLDEST_EXPORTER:
        pytest.skip("this PyTorch is too old to write ONNX files")


@pytest.fixture(scope="session")
def wrist_file(exporter: None, wrist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's ONNX file, to be read only."""
    out = tmp_path_factory.mktemp("exported") / "wrist.onnx"
    assert "random ones (its data are not on this machine)" in export(load_run(wrist), out)
    return out
