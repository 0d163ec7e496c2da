"""A real SLURM of one node, started for the tests and stopped after them."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """SLURM_CONF is set; yields the folder of the daemons."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(
            f"SLURM is not installed ({', '.join(missing)}): apt-get install slurmctld slurmd slurm-client munge"
        )
    if os.getuid() != 0:
        pytest.skip("a SLURM of one's own is started by root only")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: munge's socket has one of 107 characters at most
    try:
        subprocess.run([str(Path(__file__).parent / "start.sh"), str(folder)], check=True, timeout=60)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        yield folder
    finally:
        for name in ("SLURM_CONF", "GLOO_SOCKET_IFNAME"):
            os.environ.pop(name, None)
        for name in ("slurmctld", "slurmd", "munged"):
            stop(folder / f"{name}.pid")
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_left_in_the_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails leaves no job to the next."""
    yield
    if "SLURM_CONF" in os.environ:
        subprocess.run(["scancel", "--full", "--user=root"], capture_output=True, timeout=60)


def stop(pid_file: Path) -> None:
    if not pid_file.is_file():
        return
    process = Path("/proc", pid_file.read_text().strip())
    for sent in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 5
        if runs(process):
            os.kill(int(process.name), sent)
        while runs(process) and time.monotonic() < deadline:
            time.sleep(0.1)


def runs(process: Path) -> bool:
    """And is no zombie, which only init could end."""
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
