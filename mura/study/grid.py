"""The grid of a study: which runs it consists of, which of them are finished, and which are missing.

No config and no torch here: a run is known by its settings (plain dict) and its folder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mura import __version__
from mura.errors import MuraError
from mura.runs.folder import ADDED_LATER, EXPERIMENT_KEYS, FOLDS, RunFolder
from mura.runs.records import read_config, read_metrics
from mura.study.arms import ALL, ARMS, ONE, OTHERS, arm_rank

EPOCHS, STEPS = BUDGETS = ("epochs", "steps")
FIXED, ROTATE = "fixed", "rotate"
FOLD_CHOICES = (FIXED, ROTATE)
"""Which fold validates: the one of the settings, the same in all runs, or one that follows from the seed."""

LARGEST_FIRST = ("wrist", "shoulder", "hand", "finger", "elbow", "forearm", "humerus")
FINISHED, HALF_DONE, MISSING = "finished", "half-done", "missing"


@dataclass(frozen=True)
class Cell:
    """One run of the study. `data` names its folder: unified, shared, wrist, finetuned-wrist, without-wrist.

    It trains on `extremities` and is tested on `tested`; an epoch has as many steps as one over `steps_like` has (None:
    as its own views give). `fold` validates (None: that of the settings).
    """

    model: str
    arm: str
    data: str
    seed: int
    extremities: tuple[str, ...]
    tested: tuple[str, ...]
    steps_like: tuple[str, ...] | None = None
    fold: int | None = None

    @property
    def name(self) -> str:
        return f"{self.model}/{self.data}/seed{self.seed}"

    @property
    def parent(self) -> str | None:
        """The name of the run that this one starts from."""
        origin = ARMS[self.arm].starts_from
        return None if origin is None else f"{self.model}/{ARMS[origin].data}/seed{self.seed}"

    def overrides(self, study: Path) -> list[str]:
        """Return the settings that make this run, in the study whose folder is `study`."""
        settings = [f"model={self.model}", f"arm={self.arm}", f"seed={self.seed}"]
        settings.append(f"data.extremities=[{','.join(self.extremities)}]")
        if self.tested != self.extremities:
            settings.append(f"data.test_extremities=[{','.join(self.tested)}]")
        if self.steps_like is not None:
            settings.append(f"data.steps_like=[{','.join(self.steps_like)}]")
        if self.fold is not None:
            settings.append(f"data.fold={self.fold}")
        settings += ARMS[self.arm].settings
        if self.parent is not None:
            settings.append(f"model.weights={RunFolder(study / self.parent).best_checkpoint}")
        return settings


def cells(
    models: Sequence[str],
    extremities: Sequence[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    budget: str = EPOCHS,
    folds: str = FIXED,
) -> list[Cell]:
    """Return every run of the study: the longest first, so that the last ones to end are short.

    A run that starts from another one comes after all others; the other is then among them, asked for or not. With
    `budget` "steps", an epoch of every run has as many steps as one of the unified run: so many passes over its own
    views. Schedules, early stopping and the most that a run is trained are then the same in all arms. With `folds`
    ROTATE, the runs of seed k, of all arms alike, validate on fold k mod FOLDS.
    """
    needed = {*arms, *(origin for name in arms if (origin := ARMS[name].starts_from))}
    grid: list[Cell] = []
    for model, seed, arm in product(models, seeds, ARMS.values()):
        if arm.name in needed:
            equal = tuple(extremities) if budget == STEPS and not arm.is_pooled else None
            runs = arm.runs(extremities)
            fold = seed % FOLDS if folds == ROTATE else None
            grid += [Cell(model, arm.name, data, seed, trained, tested, equal, fold) for data, trained, tested in runs]
    return sorted(grid, key=_longest_first)


def _longest_first(cell: Cell) -> tuple[Any, ...]:
    """Return the key that sorts the runs of a study."""
    arm = ARMS[cell.arm]
    size = LARGEST_FIRST.index(cell.tested[0]) if arm.trains_on == ONE else arm_rank(arm.name)
    return arm.starts_from is not None, (ALL, OTHERS, ONE).index(arm.trains_on), size


def state_of(run: RunFolder, settings: dict[str, Any], fingerprint: str) -> str:
    """Return FINISHED, HALF_DONE or MISSING.

    Raises MuraError when the folder holds another experiment's run, or one without test predictions.
    """
    if not run.begun:
        return MISSING
    saved = read_config(run)
    if saved.get("test") is False and settings.get("test") is not False:
        raise MuraError(run.how_to_test())
    different = list(differences(saved, settings))
    if run.finished:
        about = read_metrics(run.metrics)
        saved_fingerprint, version = about["data_fingerprint"], (about.get("versions") or {}).get("mura", "unknown")
        if saved_fingerprint != fingerprint:
            different.append(f"the data (fingerprint {saved_fingerprint[:8]}, now {fingerprint[:8]})")
        if version != __version__:
            different.append(f"mura {version}, now {__version__}")
    if different:
        raise MuraError(
            f"{run.path} holds a run with other settings: {'; '.join(different)}; give the study another name=, "
            "or remove that folder to run it again."
        )
    return FINISHED if run.finished else HALF_DONE


def differences(saved: dict[str, Any], wanted: dict[str, Any], may_change: Sequence[str] = ()) -> Iterator[str]:
    """Yield what differs between two resolved configs in what makes an experiment: `optimizer.lr 0.1, now 0.2`.

    Another value of what `may_change` is no difference.
    """
    for key in EXPERIMENT_KEYS:
        if key not in may_change:
            yield from _compare(key, _at(saved, key), _at(wanted, key))


def _compare(key: str, saved: Any, wanted: Any) -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for name in sorted(saved.keys() | wanted.keys()):
            yield from _compare(f"{key}.{name}", saved.get(name), wanted.get(name))
    elif saved != wanted:
        yield f"{key} {saved}, now {wanted}"


def _at(settings: dict[str, Any], key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return ADDED_LATER.get(key) if value is None else value


def seconds_left(finished: list[RunFolder], missing: list[Cell], workers: int) -> float | None:
    """Return an estimate from the finished runs of the same model and data, or model; None before one has run."""
    known: dict[str, list[float]] = {}
    for run in finished:
        about = read_metrics(run.metrics)
        seconds = about["speed"]["wall_seconds"]
        if seconds is not None:
            for key in (f"{about['model']}/{about['data']}", about["model"]):
                known.setdefault(key, []).append(seconds)
    guesses = [known.get(f"{cell.model}/{cell.data}") or known.get(cell.model) for cell in missing]
    if not all(guesses):
        return None
    return sum(sum(guess) / len(guess) for guess in guesses if guess) / workers
