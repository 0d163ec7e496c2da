"""What a process knows of itself: its place in a run, quick imports that leave everything usable, and deadlines."""

import subprocess
import sys
import threading

import pytest

from mura.processes import call_with_deadline, is_rank_zero

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


def test_what_is_called_with_a_deadline_returns_raises_or_is_given_up() -> None:
    assert call_with_deadline(lambda: 3, 5) == 3
    with pytest.raises(ZeroDivisionError):
        call_with_deadline(lambda: 1 / 0, 5)
    release = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        call_with_deadline(lambda: release.wait(20), 0.1)
    release.set()

    def time_out() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        call_with_deadline(time_out, 5)
