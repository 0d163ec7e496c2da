"""The program around the package: train.py, sweep.py and conf/, at the top of a clone, or inside an installed wheel."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_IN_WHEEL = Path(__file__).resolve().parent / "program"
"""Where pyproject.toml puts them; a clone, also one that is installed with -e, has no such folder."""

IS_CLONE = not _IN_WHEEL.is_dir()
PROGRAM = Path(__file__).resolve().parent.parent if IS_CLONE else _IN_WHEEL
"""The folder that holds train.py, sweep.py and conf/."""


def typed(command: str) -> str:
    """Return how a user types the command `train` or `sweep`: `python train.py` in a clone, else `mura train`."""
    return f"python {command}.py" if IS_CLONE else f"mura {command}"


def run_command(command: str, arguments: Sequence[str]) -> NoReturn:
    """Become `python train.py ...` or `python sweep.py ...`: signals and exit codes are then those of the script."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(PROGRAM / f"{command}.py"), *arguments])
