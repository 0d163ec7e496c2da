"""What the control groups of this process allow it: cores by the CPU quota, and bytes of main memory.

Containers and batch systems set them, by version 1 or 2. A limit may stand at any level above the process.
"""

from collections.abc import Iterator
from pathlib import Path

MOUNT, OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cpu_quota() -> float | None:
    """Return how many cores' worth of time this process may use; None without a quota."""
    quotas = [words for words in _values("", "cpu.max") if len(words) == 2]
    for number in ("cpu", "cpu,cpuacct"):
        pairs = zip(_values(number, "cpu.cfs_quota_us"), _values(number, "cpu.cfs_period_us"), strict=False)
        quotas += [quota + period for quota, period in pairs]
    shares = [int(quota) / int(period) for quota, period in quotas if quota.isdigit() and int(period) > 0]
    return min(shares, default=None)


def memory_limit() -> int | None:
    """Return how many bytes of main memory this process may use; None without a limit."""
    stated = [*_values("", "memory.max"), *_values("memory", "memory.limit_in_bytes")]
    return min((int(words[0]) for words in stated if words and words[0].isdigit()), default=None)


def _values(controller: str, file: str) -> Iterator[list[str]]:
    """Yield the words in `file` of this process's group and of every group above it; `controller` is "" in version 2.

    In a container the path that the kernel names may lie outside of what is mounted: then only the mount has the file.
    """
    base = MOUNT / controller
    group = base / _path_of(controller).lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(base) and (folder / file).is_file():
            yield (folder / file).read_text(encoding="utf-8").split()


def _path_of(controller: str) -> str:
    """Return the path of this process's group below the controller's mount."""
    lines = OF_PROCESS.read_text(encoding="utf-8").splitlines() if OF_PROCESS.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == controller or controller in controllers.split(","):
            return path
    return "/"
