"""Containers and batch systems limit a process by control groups, at its own level or above."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mura import machine
from mura.machine import cpu_quota, memory_limit

GIB = 2**30


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """State the groups of this process: what /proc names, and the files below the mount."""

    def make(of_process: str, **files: str) -> None:
        (tmp_path / "self").write_text(of_process)
        for name, content in files.items():
            file = tmp_path / "mount" / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        monkeypatch.setattr("mura.machine.CGROUP_OF_PROCESS", tmp_path / "self")
        monkeypatch.setattr("mura.machine.CGROUPS", tmp_path / "mount")
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
        for variable in ("CPUS_PER_TASK", "CPUS_ON_NODE", "MEM_PER_NODE", "MEM_PER_CPU"):
            monkeypatch.delenv(f"SLURM_{variable}", raising=False)

    return make


def test_without_limits_there_are_all_cores_and_all_memory(state: Callable[..., None]) -> None:
    state("0::/\n", **{"cpu.max": "max 100000\n", "memory.max": "max\n"})
    assert cpu_quota() is None
    assert memory_limit() is None
    assert machine.cores() == 64


def test_a_container_of_version_2_has_its_limits_at_the_mount(state: Callable[..., None]) -> None:
    state("0::/docker/abc\n", **{"cpu.max": "250000 100000\n", "memory.max": f"{6 * GIB}\n"})
    assert cpu_quota() == 2.5
    assert machine.cores() == 2
    assert machine.memory() == 6 * GIB


def test_the_tightest_level_counts(state: Callable[..., None]) -> None:
    state(
        "0::/slurm/job_1/step_0\n",
        **{
            "slurm__cpu.max": "400000 100000\n",
            "slurm__job_1__cpu.max": "max 100000\n",
            "slurm__job_1__memory.max": f"{3 * GIB}\n",
            "slurm__job_1__step_0__memory.max": f"{4 * GIB}\n",
            "other__memory.max": f"{GIB}\n",
        },
    )
    assert machine.cores() == 4
    assert machine.memory() == 3 * GIB


def test_version_1_has_a_mount_for_each_controller(state: Callable[..., None]) -> None:
    state(
        "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n",
        **{
            "cpu__job__cpu.cfs_quota_us": "300000\n",
            "cpu__job__cpu.cfs_period_us": "100000\n",
            "cpu__cpu.cfs_quota_us": "-1\n",
            "cpu__cpu.cfs_period_us": "100000\n",
            "memory__job__memory.limit_in_bytes": f"{2 * GIB}\n",
            "memory__memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert machine.cores() == 3
    assert machine.memory() == 2 * GIB


def test_a_quota_below_one_core_is_one_core(state: Callable[..., None]) -> None:
    state("0::/\n", **{"cpu.max": "20000 100000\n"})
    assert machine.cores() == 1


def test_what_slurm_states_counts_where_no_group_holds_it(
    state: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    state("0::/\n")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "512")
    assert machine.cores() == 8
    assert machine.memory() == 4 * GIB
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node's
    assert machine.cores() == 2
    assert machine.memory() == GIB
