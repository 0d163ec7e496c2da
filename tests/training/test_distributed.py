"""The processes of a run watch over each other, and Lightning, which would kill them, no longer does."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mura.runs.folder import RunFolder
from mura.training.distributed import Companions
from mura.training.shutdown import meaning_of


def trainer_of_two(seconds: float) -> Any:
    """A first process that has started a second one, which ends by itself after so many seconds."""
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
    launcher = SimpleNamespace(procs=[child])
    return SimpleNamespace(world_size=2, local_rank=0, callbacks=[], strategy=SimpleNamespace(launcher=launcher))


def test_a_failed_run_ends_its_other_process_and_takes_it_from_lightning(tmp_path: Path) -> None:
    trainer = trainer_of_two(60)
    seen_by_lightning = trainer.strategy.launcher.procs
    [child] = seen_by_lightning
    Companions(trainer, RunFolder(tmp_path), meaning_of).end(failed=True)
    assert child.returncode is not None
    assert seen_by_lightning == []  # its observer kills the first process when one of these has ended


def test_a_run_that_has_ended_well_waits_for_its_other_process(tmp_path: Path) -> None:
    trainer = trainer_of_two(0.5)
    [child] = trainer.strategy.launcher.procs
    Companions(trainer, RunFolder(tmp_path), meaning_of).end(failed=False)
    assert child.returncode == 0


def test_the_other_process_is_taken_from_lightning_while_the_run_goes_on(tmp_path: Path) -> None:
    trainer = trainer_of_two(60)
    companions = Companions(trainer, RunFolder(tmp_path), meaning_of)
    deadline = time.monotonic() + 30
    with companions.watched():
        while trainer.strategy.launcher.procs and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(companions.children) == 1
    companions.end(failed=True)
