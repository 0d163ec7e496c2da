"""The end of a run: what an error means to its user."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mura.errors import MuraError
from mura.runs.folder import RunFolder
from mura.training.shutdown import clean_end


def pretended_trainer(batch_size: int, accumulate: int) -> Any:
    return SimpleNamespace(
        world_size=1, interrupted=False, loggers=[], strategy=SimpleNamespace(launcher=None),
        datamodule=SimpleNamespace(batch_size=batch_size, accumulate=accumulate, pictures_on_gpu=False),
    )  # fmt: skip


def too_much(what: str) -> None:
    if what == "host":
        torch.empty(2**46)
    if what == "numpy":
        np.empty(2**46)
    if what == "cuDNN":
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    if what == "cuBLAS":
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("what", ["host", "numpy", "device", "cuDNN", "cuBLAS"])
def test_too_little_memory_names_the_batch_size_and_a_number_of_parts(what: str, tmp_path: Path) -> None:
    said = r"data\.batch_size=32, data\.accumulate=2: data\.accumulate=4 takes the same batch in smaller parts"
    with pytest.raises(MuraError, match=said), clean_end(pretended_trainer(32, 2), RunFolder(tmp_path)):
        too_much(what)
    said = r"data\.batch_size=4, data\.accumulate=4: a smaller data\.image_size"  # a view at a time is the least
    with pytest.raises(MuraError, match=said), clean_end(pretended_trainer(4, 4), RunFolder(tmp_path)):
        too_much(what)


def test_another_error_of_the_device_is_not_taken_for_too_little_memory(tmp_path: Path) -> None:
    said = "CUDA error: device-side assert triggered"
    with pytest.raises(RuntimeError, match=said), clean_end(pretended_trainer(32, 2), RunFolder(tmp_path)):
        raise RuntimeError(said)
