"""How a test starts a command of this repository, and what comes of it."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from click.testing import Result
from typer.testing import CliRunner

from mura.cli import app
from mura.launch.processes import forking_context, run_script

REPOSITORY = Path(__file__).parent.parent
ON_CPU = ("trainer=cpu", "trainer.precision=32-true")
"""Results then say the same on every CPU: precision=auto trains in bfloat16 where the CPU computes in it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    said: str


Command = Callable[..., Ended]


def start(train_arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """`python train.py` in `folder`, to be signalled or waited for."""
    command = [sys.executable, str(REPOSITORY / "train.py"), *train_arguments]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def fork(train_arguments: list[str], folder: Path, room: int | None = None) -> ForkServerProcess:
    """`python train.py`, forked from a process that has imported torch; what it prints is added to `console.log`.

    No file that it writes may be longer than `room` bytes.
    """
    process = forking_context().Process(target=run_typed, args=(train_arguments, folder / "console.log", room))
    process.start()
    return process


def run_typed(train_arguments: list[str], log: Path, room: int | None) -> None:
    """Run `train.py` in the forked process."""
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    run_script(REPOSITORY / "train.py", train_arguments, 1, dict(os.environ), log)


def ended(process: ForkServerProcess, folder: Path) -> Ended:
    """Wait for the end of a forked process; its exit code is negative for a signal."""
    process.join(300)
    assert process.exitcode is not None, "it hangs"
    return Ended(process.exitcode, (folder / "console.log").read_text())


def mura(*arguments: object, said: str | None = None) -> Result:
    """`mura ...` in this process, with `said` on standard input; a MuraError passes on."""
    return CliRunner().invoke(app, list(map(str, arguments)), input=said, catch_exceptions=False)


def weights(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
