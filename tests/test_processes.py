"""What a process knows of itself: its place in a run, and quick imports that leave everything usable."""

import subprocess
import sys

import pytest

from mura.processes import is_rank_zero

CODE = """
import gc
from mura.processes import quick_imports
with quick_imports():
    import lightning, torch, torchvision
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() > 0
frozen = gc.get_freeze_count()
with quick_imports():
    pass
assert gc.get_freeze_count() == frozen
"""


def test_the_garbage_collector_rests_during_the_imports_and_works_again_after_them() -> None:
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_only_a_task_of_srun_is_a_further_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert is_rank_zero()  # what one task of srun started by itself, or a shell of an allocation
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert not is_rank_zero()
