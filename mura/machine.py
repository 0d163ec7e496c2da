"""What there is of this machine for this process: cores and main memory."""

import os
from pathlib import Path


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of main memory, or of what a container is allowed of it."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    stated = [limit.read_text().strip() for limit in limits if limit.is_file()]
    return min([installed, *(int(limit) for limit in stated if limit.isdigit())])
