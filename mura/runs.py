"""The run folder: what a run leaves behind. Written here, read here; `metrics.json` comes last and means finished.

No torch here: the door asks a run folder questions before anything heavy is imported.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mura.errors import MuraError

SCHEMA = 1
PREDICTION_COLUMNS = [
    "split",
    "extremity",
    "patient",
    "study",
    "view",
    "path",
    "label",
    "logit",
    "probability",
]
LIBRARIES = ("torch", "torchvision", "lightning", "numpy", "pandas", "pillow", "scikit-learn", "hydra-core")


@dataclass(frozen=True)
class RunFolder:
    """Paths and questions of one run's folder; nothing is created by asking."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.csv"

    @property
    def transfer(self) -> Path:
        """Predictions of the test views of extremities that the run was not trained for; only where asked for."""
        return self.path / "transfer.csv"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last_file(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous_file(self) -> Path:
        """The last.ckpt before the last one."""
        return self.checkpoints / "previous.ckpt"

    @property
    def finished(self) -> bool:
        return self.metrics.is_file()

    def refuse_if_finished(self) -> None:
        if self.finished:
            raise MuraError(
                f"{self.path} holds a finished run (metrics.json): choose another hydra.run.dir, "
                "or remove the folder to run it again."
            )

    def refuse_if_unwritable(self) -> None:
        """Raises MuraError when the folder can't be made or written to; leaves nothing behind."""
        parent = self.path
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise MuraError(f"{self.path}: can't be written to ({parent}); choose another hydra.run.dir.")

    @contextmanager
    def locked(self, what: str = "run") -> Iterator[None]:
        """One process at a time writes this run or study; the lock falls with its process, even one that is killed.

        The further processes of a distributed run pass: their first one holds it. Raises MuraError, with the process
        that has it.
        """
        if not is_rank_zero():
            yield
            return
        lock, writer = FileLock(self.path / ".lock"), self.path / ".writer"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = writer.read_text(encoding="utf-8") if writer.is_file() else "another process"
            raise MuraError(f"{self.path}: {who} is writing this {what}; wait for it, or stop it.") from None
        try:
            since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
            writer.write_text(f"process {os.getpid()} on {platform.node()}, since {since},", encoding="utf-8")
            yield
        finally:
            writer.unlink(missing_ok=True)
            lock.release()


def is_rank_zero() -> bool:
    """Whether this is the first process of a distributed run, or the only one; known before torch is imported."""
    ranks = ["LOCAL_RANK", "RANK"]
    if srun_tasks() > 1:
        ranks.append("SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def srun_tasks() -> int:
    """How many tasks `srun` started together with this process; 1 in a batch script, in salloc's shell, outside.

    SLURM_PROCID and SLURM_NTASKS won't do: a batch script and what is typed in salloc's shell have them too.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def write_atomically(path: Path, text: str, sync: bool = True) -> None:
    """The file is there whole, or as it was before; with `sync` even after a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """JSON without NaN: what is undefined is null."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "mura": importlib.metadata.version("mura")}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether there were uncommitted changes; None outside a repository or without git."""

    def git(*arguments: str) -> str:
        # no optional locks: interrupted, it would leave one behind, and with it a repository that can't commit
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
