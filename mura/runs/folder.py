"""The run folder: what a run leaves behind. Written here, read here; `metrics.json` comes last and means finished.

No torch here: the door asks a run folder questions before anything heavy is imported.
"""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from mura.errors import InterruptedRunError, MuraError
from mura.files import acquire, lock_beside
from mura.processes import is_rank_zero, typed
from mura.signals import signal_behind

SCHEMA = 1
STUDY_FILE = "study.json"
"""What a study notes in its folder at its first start: seeds, margin and primary model as declared, and the date."""

NOTED = {"margin": float, "primary": str}
"""What else it notes, and of which type; null says that nothing was declared."""

SEARCH_FOLDER, SEARCH_FILE, JOURNAL_FILE = "search", "search.json", "journal.log"
"""Where a study keeps its search for good settings: what was searched, tried and chosen, and Optuna's record of it."""

FOLDS = 5
"""The folds of the one split: in each run one validates and the others train."""

COMPLETE, PRUNED, DIVERGED = "complete", "pruned", "diverged"
"""How a trial of a search ended: at its own end, stopped as hopeless, or with a loss that is no number any more."""

EXPERIMENT_KEYS = (
    "arm", "seed", "monitor", "mode", "model", "early_stopping", "ensemble", "optimizer", "scheduler", "augmentation",
    "data.extremities", "data.test_extremities", "data.transfer", "data.steps_like", "data.conflicts",
    "data.image_size", "data.cache_size", "data.fit", "data.batch_size", "data.accumulate", "data.fold", "data.seed",
    "trainer.max_epochs", "trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.limit_predict_batches",
    "trainer.overfit_batches", "trainer.min_epochs", "trainer.max_time", "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm", "callbacks",
)  # fmt: skip
"""Two runs with these settings alike are the same experiment; where it ran and how it was logged may differ."""

ADDED_LATER = {"data.fit": "pad", "model.library": "torchvision"}
"""Settings among these that older runs don't name, with what those runs did."""

MAY_CHANGE = ("trainer.max_epochs",)
"""Of these, what may be another when a run goes on: the epochs before are the same with it.

What is no EXPERIMENT_KEY may change: launcher, logger, device, precision, where the data lie.
"""

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


def read_noted(study: Path) -> dict[str, Any]:
    """Return what a study noted at its first start, without what can't be used; empty when it has no STUDY_FILE."""
    try:
        noted = json.loads((study / STUDY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(noted, dict):
        return {}
    return {key: value for key, value in noted.items() if value is None or isinstance(value, NOTED.get(key, object))}


def read_planned_seeds(study: Path) -> list[int] | None:
    """Return the seeds that a study was planned with; None when its folder has no STUDY_FILE that says so."""
    try:
        return [int(seed) for seed in read_noted(study)["seeds"]]
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


@dataclass(frozen=True)
class RunFolder:
    """One run's folder: its paths, and questions about it; nothing is created by asking."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.csv"

    @property
    def transfer(self) -> Path:
        """Where the test views of extremities stand that the run was not trained for, if they were asked for."""
        return self.path / "transfer.csv"

    @property
    def heat(self) -> Path:
        """Where its model looked on the test views, if it was asked to explain itself."""
        return self.path / "heat.npz"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def epochs_done(self) -> int:
        return len(self.history.read_text(encoding="utf-8").splitlines()) - 1 if self.history.is_file() else 0

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        """The command line of the run, a setting a line, from which `resume=` makes its own."""
        return self.path / ".hydra" / "overrides.yaml"

    @property
    def begun(self) -> bool:
        """Whether a start passed all checks, so that the run can go on."""
        return self.config.exists() and self.overrides.exists()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def calibration(self) -> Path:
        """What was fitted on the validation views: `runs.fitted` says how it is written and read."""
        return self.checkpoints / "calibration.json"

    @property
    def last_file(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous_file(self) -> Path:
        """The last.ckpt of the epoch before."""
        return self.checkpoints / "previous.ckpt"

    @property
    def is_there(self) -> bool:
        """Whether the folder is a run's, and not one with runs below it."""
        return self.config.exists() or self.finished or self.checkpoints.exists()

    @property
    def finished(self) -> bool:
        """Whether the run has written its last file; its reader says so when that can't be read."""
        return self.metrics.exists()

    def refuse_if_finished(self) -> None:
        if self.finished:
            raise MuraError(
                f"{self.path} holds a finished run (metrics.json): choose another hydra.run.dir, "
                "or remove the folder to run it again."
            )

    def refuse_if_unwritable(self) -> None:
        """Raise MuraError when the folder can't be made or written to; leave nothing behind."""
        parent = self.path
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise MuraError(f"{self.path}: can't be written to ({parent}); choose another hydra.run.dir.")

    def how_to_test(self) -> str:
        """Return the sentence for a run of test=false where its test predictions are needed."""
        first = "remove its metrics.json, then " if self.finished else ""
        return (
            f"{self.path} was trained with test=false, and a comparison needs its test predictions: {first}go on with: "
            f"{typed('train')} resume={self.path} test=true"
        )

    @property
    def stopped(self) -> str:
        """The sentence for a run that was stopped: how to go on with it, if there is anything left to do."""
        return "stopped." if self.finished else f"stopped; go on with: {typed('train')} resume={self.path}"

    def refuse_if_locked(self) -> None:
        """Raise MuraError when a process writes this run; leave nothing behind."""
        if (self.path / ".lock").is_file():
            with self.locked():
                pass

    @contextmanager
    def locked(self, what: str = "run") -> Iterator[None]:
        """Hold the lock by which one process at a time writes this run or study; it falls with its process.

        The further processes of a distributed run pass: their first one holds it. Raises MuraError, which names the
        process that has it.
        """
        if not is_rank_zero():
            yield
            return
        lock, writer = lock_beside(self.path / ".lock"), self.path / ".writer"
        try:
            acquire(lock)
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


@contextmanager
def resumable(run: RunFolder) -> Iterator[None]:
    """Make an InterruptedRunError of Ctrl-C and SIGTERM, which says how to go on.

    A run that is finished, or has not begun, has nothing to resume; its error passes on.
    """
    try:
        yield
    except BaseException as error:
        number = signal_behind(error)
        if number is None or run.finished or not run.begun:
            raise
        raise InterruptedRunError(run.stopped, 128 + number) from None


def trial_runs(search: Path, number: int, folds: Sequence[int]) -> list[RunFolder]:
    """Return the runs of a trial of the search in a folder, one a fold; a single one without folds."""
    trial = search / f"trial{number}"
    return [RunFolder(trial / f"fold{fold}") for fold in folds] or [RunFolder(trial)]


def finished_runs(place: Path) -> list[RunFolder]:
    """Return the run at `place`, or those below it. Raises MuraError when none is finished."""
    finished, unfinished = find_runs([place])
    if not finished:
        rest = f"; {len(unfinished)} unfinished" if unfinished else ""
        raise MuraError(f"{place} is no run folder, and holds no finished run (a folder with metrics.json){rest}.")
    return finished


def find_runs(directories: Sequence[Path]) -> tuple[list[RunFolder], list[RunFolder]]:
    """Return finished and unfinished run folders, sorted, each once.

    Hidden folders and what lies within a run are left out. MuraError when a directory isn't there.
    """
    paths: set[Path] = set()
    for directory in directories:
        if not directory.is_dir():
            raise MuraError(f"{directory} is not a folder.")
        paths.update(_walk(directory.resolve()))
    folders = [RunFolder(path) for path in sorted(paths)]
    return [run for run in folders if run.finished], [run for run in folders if not run.finished]


def _walk(directory: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(directory):
        if {"metrics.json", "config.yaml"} & {*files, *folders}:
            yield Path(place)
            folders.clear()
        if SEARCH_FILE in files:  # the trials of a search: none of them is compared
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".") and name != "wandb"]
