"""Which device and which precision, each with its reason: an automatic choice is always explained."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mura.choice import Choice
from mura.errors import ConfigError

CPU_INFO = Path("/proc/cpuinfo")


def choose_device(accelerator: str, devices: int) -> Choice:
    """`cpu` or `gpu`. Raises ConfigError when more GPUs are asked for than there are."""
    available = torch.cuda.device_count()
    if accelerator == "auto":
        if available:
            return Choice("gpu", torch.cuda.get_device_name())
        return Choice("cpu", "no GPU here")
    if accelerator == "gpu" and available < devices:
        raise ConfigError(
            f"trainer.accelerator=gpu trainer.devices={devices}: this machine has {available} CUDA GPU(s); "
            "take trainer=cpu, or trainer=ddp_cpu to try out several processes."
        )
    return Choice(accelerator, "as asked")


def choose_precision(precision: str | int, device: str) -> Choice:
    """Lightning's precision string: bfloat16 where the device computes in it, float16 on older GPUs, else float32."""
    if precision != "auto":
        return Choice(str(precision), "as asked")
    if device == "gpu":
        # is_bf16_supported() says yes to emulation too: Ampere (8.0) is the first that computes in it
        if torch.cuda.get_device_capability() >= (8, 0):
            return Choice("bf16-mixed", "this GPU computes in bfloat16")
        return Choice("16-mixed", "this GPU has float16 tensor cores and no bfloat16")
    if cpu_computes_bfloat16():
        return Choice("bf16-mixed", "this CPU computes in bfloat16")
    return Choice("32-true", "this CPU has no bfloat16 instructions")


def allow_tf32(device: str, precision: str) -> str:
    """On a GPU float32 products may be taken in TF32, which rounds the factors to 10 bits; returns the words for it."""
    if device != "gpu" or precision not in ("32-true", "32"):
        return ""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    return ", products in TF32 where the GPU has it"


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Compute in float32 without TF32, whatever precision the run trains in.

    Predictions are made in it, so that a run and its own checkpoint, asked on another machine, agree.
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def choose_residence(asked: str | bool, device: torch.device, needed: int) -> Choice:
    """`device` or `host`: where the pictures of a run are kept; `needed` bytes of them.

    On a GPU they stay in its memory when they take at most a third of what is free: the rest is the network's.
    """
    if asked != "auto":
        return Choice("device" if asked else "host", "as asked")
    if device.type != "cuda":
        return Choice("host", "no GPU")
    free = torch.cuda.mem_get_info(device)[0]
    sizes = f"{needed / 1e9:.1f} GB, {free / 1e9:.1f} GB free on the GPU"
    return Choice("device", sizes) if needed <= free / 3 else Choice("host", f"{sizes}: too much for it")


def cpu_computes_bfloat16() -> bool:
    """Return whether the kernel lists AVX512-BF16, AMX or Arm's BF16; else bfloat16 is emulated, and slower."""
    if not CPU_INFO.is_file():
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(CPU_INFO.read_text(encoding="utf-8").split()))
