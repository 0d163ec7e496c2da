"""The grid of a study: which runs it consists of, which of them are finished, and which are missing.

No config and no torch here: a run is known by its settings (plain dict) and its folder.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from mura import __version__
from mura.errors import MuraError
from mura.extremities import LEAVE_ONE_OUT, UNIFIED
from mura.runs import RunFolder

# Two runs with these alike are the same experiment; where it ran and how it was logged may differ.
SHOULD_MATCH = (
    "arm", "seed", "monitor", "mode", "model", "early_stopping", "ensemble", "optimizer", "scheduler", "augmentation",
    "data.extremities", "data.test_extremities", "data.transfer", "data.steps_like",
    "data.image_size", "data.cache_size", "data.batch_size", "data.accumulate", "data.fold", "data.seed",
    "trainer.max_epochs", "trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.limit_predict_batches",
)  # fmt: skip
BUDGETS = ("epochs", "steps")
LONGEST_FIRST = (
    UNIFIED, "shared", LEAVE_ONE_OUT, "wrist", "shoulder", "hand", "finger", "elbow", "forearm", "humerus",
)  # fmt: skip
FINISHED, HALF_DONE, MISSING = "finished", "half-done", "missing"


@dataclass(frozen=True)
class Cell:
    """One run of the study. `data` names its folder: unified, shared, wrist, finetuned-wrist, without-wrist.

    It trains on `extremities` and is tested on `tested` (None: the same); an epoch has as many steps as one over
    `steps_like` has (None: as its own views give).
    """

    model: str
    arm: str
    data: str
    seed: int
    extremities: tuple[str, ...]
    tested: tuple[str, ...] | None = None
    steps_like: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return f"{self.model}/{self.data}/seed{self.seed}"

    @property
    def parent(self) -> str | None:
        """The run that this one starts from."""
        return f"{self.model}/unified/seed{self.seed}" if self.arm == "finetuned" else None

    def overrides(self, study: Path) -> list[str]:
        """The settings that make this run, in the study whose folder is `study`."""
        settings = [f"model={self.model}", f"arm={self.arm}", f"seed={self.seed}"]
        settings.append(f"data.extremities=[{','.join(self.extremities)}]")
        if self.tested is not None:
            settings.append(f"data.test_extremities=[{','.join(self.tested)}]")
        if self.steps_like is not None:
            settings.append(f"data.steps_like=[{','.join(self.steps_like)}]")
        if self.arm == "specialised":
            settings.append("data.transfer=true")
        if self.arm == "shared":
            settings.append("model.separate_heads=true")
        if self.parent is not None:
            settings.append(f"model.weights='{RunFolder(study / self.parent).best_checkpoint}'")
        return settings


def cells(
    models: list[str], extremities: list[str], arms: list[str], seeds: list[int], budget: str = "epochs"
) -> list[Cell]:
    """Every run of the study: the longest first, so that the last ones to end are short, and after all others those
    that start from a unified run (which is then among them, asked for or not).

    With `budget` "steps", an epoch of every run has as many steps as one of the unified run: so many passes over its
    own views. Schedules, early stopping and the most that a run is trained are then the same in all arms.
    """
    pooled = tuple(extremities)
    equal = pooled if budget == "steps" else None
    found: list[Cell] = []
    for model, seed in product(models, seeds):
        if "unified" in arms or "finetuned" in arms:
            found.append(Cell(model, "unified", "unified", seed, pooled))
        if "shared" in arms:
            found.append(Cell(model, "shared", "shared", seed, pooled))
        for name in extremities:
            others = tuple(other for other in extremities if other != name)
            if LEAVE_ONE_OUT in arms:
                found.append(Cell(model, LEAVE_ONE_OUT, f"without-{name}", seed, others, (name,), equal))
            if "specialised" in arms:
                found.append(Cell(model, "specialised", name, seed, (name,), None, equal))
            if "finetuned" in arms:
                found.append(Cell(model, "finetuned", f"finetuned-{name}", seed, (name,), None, equal))
    return sorted(found, key=lambda cell: (cell.arm == "finetuned", LONGEST_FIRST.index(_length_of(cell))))


def _length_of(cell: Cell) -> str:
    return cell.arm if cell.arm == LEAVE_ONE_OUT else cell.data.removeprefix("finetuned-")


def state_of(run: RunFolder, settings: dict[str, Any], fingerprint: str) -> str:
    """`finished`, `half-done` or `missing`. Raises MuraError when the folder holds another experiment's run."""
    if not run.config.is_file() or not (run.path / ".hydra" / "overrides.yaml").is_file():
        return MISSING
    saved = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    different = list(differences(saved, settings))
    if run.finished:
        about = json.loads(run.metrics.read_text(encoding="utf-8"))
        found, version = about["data_fingerprint"], about["versions"]["mura"]
        if found != fingerprint:
            different.append(f"the data (fingerprint {found[:8]}, now {fingerprint[:8]})")
        if version != __version__:
            different.append(f"mura {version}, now {__version__}")
    if different:
        raise MuraError(
            f"{run.path} holds a run with other settings: {'; '.join(different)}; give the study another name=, "
            "or remove that folder to run it again."
        )
    return FINISHED if run.finished else HALF_DONE


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """What differs between two resolved configs in what makes an experiment: `optimizer.lr 0.1, now 0.2`."""
    for key in SHOULD_MATCH:
        yield from _compare(key, _at(saved, key), _at(wanted, key))


def _compare(key: str, saved: Any, wanted: Any) -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for name in sorted(saved.keys() | wanted.keys()):
            yield from _compare(f"{key}.{name}", saved.get(name), wanted.get(name))
    elif saved != wanted:
        yield f"{key} {saved}, now {wanted}"


def _at(settings: dict[str, Any], key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def seconds_left(finished: list[RunFolder], missing: list[Cell], workers: int) -> float | None:
    """Estimate from the finished runs of the same model and data (or model); None before one has run."""
    known: dict[str, list[float]] = {}
    for run in finished:
        about = json.loads(run.metrics.read_text(encoding="utf-8"))
        for key in (f"{about['model']}/{about['data']}", about["model"]):
            known.setdefault(key, []).append(about["speed"]["wall_seconds"])
    guesses = [known.get(f"{cell.model}/{cell.data}") or known.get(cell.model) for cell in missing]
    if not all(guesses):
        return None
    return sum(sum(guess) / len(guess) for guess in guesses if guess) / workers
