"""This machine: its cores and memory, and which device and precision a run takes, each choice with its reason.

No torch at the top: studies and launchers ask for cores before they import it.
"""

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mura.errors import ConfigError
from mura.processes import local_rank

if TYPE_CHECKING:
    import torch

CPU_INFO = Path("/proc/cpuinfo")
CGROUPS, CGROUP_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Control groups, versions 1 and 2: containers and batch systems set limits there, at any level above the process."""

MEBIBYTE = 2**20

KEEP_MEMORY = "MURA_KEEP_MEMORY"
MALLOC_OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 64 * MEBIBYTE)}
"""Numbers of glibc's malloc.h, and values: no mapping of its own for a large block, and no memory given back."""

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|ALLOC_FAILED|ALLOCATION_FAILED|unable to find an engine to execute"
    r"|unable to find a valid cuDNN algorithm",
    re.IGNORECASE,
)
"""What PyTorch, CUDA, cuBLAS, cuDNN and NCCL say when memory is short; cuDNN then finds no way that fits."""


class Choice(NamedTuple):
    """A value that was chosen automatically, and why; the log prints both."""

    value: str
    reason: str


def cores() -> int:
    """Return how many cores this process may use: by its affinity, its container's CPU quota, and SLURM."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    limits = [usable, *([] if quota is None else [round(quota)]), *_slurm("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")]
    return max(1, min(limits))


def memory() -> int:
    """Return the bytes of main memory, or what the process's container or SLURM allows it of them."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit()
    of_node = [MEBIBYTE * size for size in _slurm("SLURM_MEM_PER_NODE")]
    of_cores = [MEBIBYTE * size * cores() for size in _slurm("SLURM_MEM_PER_CPU")]
    return min([installed, *([] if limit is None else [limit]), *of_node, *of_cores])


def _slurm(*names: str) -> list[int]:
    """Return the first of these numbers that SLURM states, if any; 0 stands for no limit there."""
    stated = [int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()]
    return [number for number in stated[:1] if number > 0]


def cpu_quota() -> float | None:
    """Return how many cores' worth of time the control groups allow this process; None without a quota."""
    quotas = [words for words in _cgroup_values("", "cpu.max") if len(words) == 2]
    for number in ("cpu", "cpu,cpuacct"):
        pairs = zip(
            _cgroup_values(number, "cpu.cfs_quota_us"), _cgroup_values(number, "cpu.cfs_period_us"), strict=False
        )
        quotas += [quota + period for quota, period in pairs]
    shares = [int(quota) / int(period) for quota, period in quotas if quota.isdigit() and int(period) > 0]
    return min(shares, default=None)


def memory_limit() -> int | None:
    """Return how many bytes of main memory the control groups allow this process; None without a limit."""
    stated = [*_cgroup_values("", "memory.max"), *_cgroup_values("memory", "memory.limit_in_bytes")]
    return min((int(words[0]) for words in stated if words and words[0].isdigit()), default=None)


def _cgroup_values(controller: str, file: str) -> Iterator[list[str]]:
    """Yield the words in `file` of this process's group and of every group above it; `controller` is "" in version 2.

    In a container the path that the kernel names may lie outside of what is mounted: then only the mount has the file.
    """
    base = CGROUPS / controller
    group = base / _cgroup_path(controller).lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(base) and (folder / file).is_file():
            yield (folder / file).read_text(encoding="utf-8").split()


def _cgroup_path(controller: str) -> str:
    """Return the path of this process's group below the controller's mount."""
    lines = CGROUP_OF_PROCESS.read_text(encoding="utf-8").splitlines() if CGROUP_OF_PROCESS.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == controller or controller in controllers.split(","):
            return path
    return "/"


def prepare_process() -> None:
    """Make a process ready for PyTorch on a CPU: no more threads than cores, and memory that is kept for the next step.

    PyTorch knows nothing of a CPU quota.
    """
    import torch

    if torch.get_num_threads() > cores():
        torch.set_num_threads(cores())
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep what is freed; elsewhere, and with MURA_KEEP_MEMORY=0, do nothing.

    Else it gives each large activation back to the kernel, which zeroes its pages again in the next step.
    """
    libc = ctypes.CDLL(None)
    if os.environ.get(KEEP_MEMORY, "1") != "0" and hasattr(libc, "gnu_get_libc_version"):
        for option, value in MALLOC_OPTIONS.values():
            libc.mallopt(option, value)


class Gpus(NamedTuple):
    """The numbers of the CUDA devices that compute, and why another one does not; empty if none fails."""

    usable: list[int]
    fault: str


def usable_gpus(wanted: Iterable[int] | None = None) -> Gpus:
    """Return which CUDA devices, of all or of those `wanted`, carry out a tiny operation.

    To count them is not enough: a card is counted too when its driver is too old for PyTorch, or PyTorch has no code
    for it, and then fails on first use.
    """
    import torch

    usable, faults = [], []
    for number in range(torch.cuda.device_count()) if wanted is None else wanted:
        try:
            compute_on(number)
            usable.append(number)
        except (RuntimeError, AssertionError) as error:  # a PyTorch without CUDA asserts
            faults.append(f"GPU {number} can't be used: {first_sentence(error)}")
    return Gpus(usable, next(iter(faults), ""))


def compute_on(number: int) -> None:
    """Compute one sum on a CUDA device, and wait for it."""
    import torch

    torch.ones(1, device=f"cuda:{number}").add_(1).item()


def first_sentence(error: BaseException) -> str:
    """Return the first line of an error's words, or its first sentence, without the full stop."""
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")


def device_name(device: "torch.device") -> str:
    """Return the name of a card, such as `Tesla T4`; `cpu` for that."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def names_a_gpu(chosen: str | None) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES asks for a card: neither `-1`, nor SLURM's `NoDevFiles` for none."""
    names = [name.strip() for name in (chosen or "").split(",")]
    return any(name.isdigit() or name.startswith(("GPU-", "MIG-")) for name in names)


def choose_device(accelerator: str, devices: int, sync_batchnorm: bool = False) -> Choice:
    """Return `cpu` or `gpu`; each process of a run looks at its own card.

    Raises ConfigError when GPUs are asked for that can't be used, by `accelerator` or by CUDA_VISIBLE_DEVICES, when
    more are asked for than there are, and for `sync_batchnorm` on the CPU.
    """
    chosen = _choose_device(accelerator, devices)
    if chosen.value == "cpu" and sync_batchnorm:
        raise ConfigError(
            f"trainer.sync_batchnorm=true: PyTorch does it on GPUs only, and this run is on the CPU ({chosen.reason}); "
            "leave it out."
        )
    return chosen


def _choose_device(accelerator: str, devices: int) -> Choice:
    import torch

    if accelerator == "cpu":
        return Choice("cpu", "as asked")
    own, seen = local_rank(), torch.cuda.device_count()
    usable, fault = usable_gpus([own] if own < seen else [])
    if usable and seen >= devices:
        return Choice("gpu", "as asked" if accelerator == "gpu" else torch.cuda.get_device_name(own))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    asked = f"trainer.accelerator={accelerator} trainer.devices={devices}"
    if fault:
        why = f"{asked}: {fault}"
    elif seen or accelerator == "gpu" or not names_a_gpu(chosen):
        why = f"{asked}: this machine has {seen} CUDA GPU(s)"
    else:
        why = f"CUDA_VISIBLE_DEVICES={chosen}: there is no such GPU here"
    if accelerator == "auto" and (fault or not seen) and not names_a_gpu(chosen):
        return Choice("cpu", fault or "no GPU here")
    raise ConfigError(f"{why}; take trainer=cpu, or trainer=ddp_cpu to try out several processes.")


def choose_precision(precision: str | int, device: str, devices: int = 1) -> Choice:
    """Return Lightning's word: bfloat16 where the device computes in it, float16 on older GPUs, else float32.

    Of several GPUs the oldest one decides, since all processes of a run must agree.
    """
    import torch

    if precision != "auto":
        return Choice(str(precision), "as asked")
    if device == "gpu":
        capability = min(torch.cuda.get_device_capability(number) for number in range(devices))
        of_this = f"in this GPU, of compute capability {capability[0]}.{capability[1]}"
        # is_bf16_supported() says yes to emulation too: Ampere (8.0) is the first that computes in it
        if capability >= (8, 0):
            return Choice("bf16-mixed", f"bfloat16 is fast {of_this}")
        if capability >= (7, 0):
            return Choice("16-mixed", f"float16 is fast {of_this}, and bfloat16 is not")
        return Choice("32-true", f"no half precision is fast {of_this}")
    if cpu_computes_bfloat16():
        return Choice("bf16-mixed", "this CPU computes in bfloat16")
    return Choice("32-true", "this CPU has no bfloat16 instructions")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the host is out of memory; for some of it PyTorch has words, and no exception."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def allow_tf32(device: str, precision: str) -> str:
    """Allow TF32 for float32 products on a GPU, which rounds the factors to 10 bits; return the words for it."""
    import torch

    if device != "gpu" or precision not in ("32-true", "32"):
        return ""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    return ", products in TF32 where the GPU has it"


@contextmanager
def in_float32(device: "torch.device") -> Iterator[None]:
    """Compute in float32 without TF32, whatever precision the run trains in.

    Predictions are made in it, so that a run and its own checkpoint, asked on another machine, agree.
    """
    import torch

    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def choose_residence(asked: str | bool, device: "torch.device", needed: int) -> Choice:
    """Return `device` or `host`: where the pictures of a run, `needed` bytes, are kept.

    On a GPU they stay in its memory when they take at most a third of what is free: the rest is the network's.
    """
    import torch

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
