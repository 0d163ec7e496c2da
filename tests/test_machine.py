"""Automatic choices come with a reason, on machines that are stated here; what can't be is refused at once."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mura.errors import ConfigError
from mura.machine import choose_device, choose_precision, choose_residence, in_float32


def cpu_with(flags: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags} ht\n")
    monkeypatch.setattr("mura.machine.CPU_INFO", folder / "cpuinfo")


def gpus(number: int, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (7, 5)) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr("mura.machine.compute_on", lambda _: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("number", "asked", "expected"),
    [
        (0, "auto", ("cpu", "no GPU here")),
        (2, "auto", ("gpu", "a card")),
        (2, "cpu", ("cpu", "as asked")),
        (2, "gpu", ("gpu", "as asked")),
    ],
)
def test_a_gpu_is_taken_where_there_is_one_unless_the_cpu_is_asked_for(
    number: int, asked: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(number, monkeypatch)
    assert choose_device(asked, 1) == expected


def test_more_gpus_than_there_are_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(1, monkeypatch)
    with pytest.raises(ConfigError, match=r"devices=2: this machine has 1 CUDA GPU.*trainer=ddp_cpu"):
        choose_device("gpu", 2)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2 avx512_bf16", "bf16-mixed"),
        ("amx_bf16", "bf16-mixed"),
        ("asimd bf16", "bf16-mixed"),
        ("avx2 avx512f", "32-true"),
    ],
)
def test_a_cpu_trains_in_bfloat16_only_when_it_computes_in_it(
    flags: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu_with(flags, monkeypatch, tmp_path)
    found = choose_precision("auto", "cpu")
    assert found.value == expected
    assert "bfloat16" in found.reason


def test_a_machine_that_lists_no_cpu_flags_trains_in_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mura.machine.CPU_INFO", tmp_path / "absent")
    assert choose_precision("auto", "cpu").value == "32-true"


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "16-mixed"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")]
)
def test_a_gpu_trains_in_the_half_precision_that_it_computes_in(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1, monkeypatch, capability)
    assert choose_precision("auto", "gpu").value == expected


def test_a_precision_that_is_asked_for_is_taken() -> None:
    assert choose_precision("16-mixed", "cpu") == ("16-mixed", "as asked")


@pytest.mark.parametrize(
    ("asked", "device", "needed", "expected"),
    [
        ("auto", "cpu", 1, "host"),
        ("auto", "cuda", 10, "device"),
        ("auto", "cuda", 11, "host"),
        (True, "cpu", 11, "device"),
        (False, "cuda", 1, "host"),
    ],
)
def test_pictures_stay_on_a_gpu_when_they_take_a_third_of_its_free_memory_at_most(
    asked: str | bool, device: str, needed: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (30, 100))
    assert choose_residence(asked, torch.device(device), needed).value == expected


def test_predictions_are_computed_in_float32_whatever_surrounds_them() -> None:
    a, b = torch.rand(4, 4), torch.rand(4, 4)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ b).dtype == torch.bfloat16
        with in_float32(torch.device("cpu")):
            assert (a @ b).dtype == torch.float32
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
        assert (a @ b).dtype == torch.bfloat16
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


FAULTS_OF_LARGE_ARRAYS = """
import resource
import numpy as np
from mura.machine import keep_freed_memory

keep_freed_memory()
np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the allocator is not glibc's")
def test_memory_that_was_freed_is_used_again_unless_it_is_switched_off() -> None:
    faults = {}
    for kept in ("1", "0"):
        command = [sys.executable, "-c", FAULTS_OF_LARGE_ARRAYS]
        environment = os.environ | {"MURA_KEEP_MEMORY": kept}
        faults[kept] = int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert faults["1"] * 10 < faults["0"]
