"""Folders in, finished runs out: found, read, checked to be comparable, and put together into arms and pairs.

Every folder with metrics.json is a finished run; one with only config.yaml is unfinished and listed as such.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mura.comparison.verdict import ALL
from mura.errors import MuraError
from mura.extremities import BOXES, EXTREMITIES, TOP_FOLDER, data_name
from mura.metrics import VIEW_KEY, check_predictions, view_name
from mura.runs import PREDICTION_COLUMNS, SCHEMA, RunFolder
from mura.study.arms import ARMS, UNION, arm_rank

ROUTED = "routed"
"""The data of a row that several runs of one arm answer together, each for its own extremity."""

COMPARABLE = {"data_fingerprint": "data (fingerprint)", "split_hash": "split (hash)", "fold": "validation fold"}
NEEDED = ("model", "arm", "data", "seed", "best_epoch", "epochs", "test", *COMPARABLE)
RECIPE = (
    "model", "optimizer", "scheduler", "augmentation", "early_stopping", "data.image_size", "data.batch_size",
    "trainer.max_epochs", "trainer.limit_train_batches", "trainer.limit_val_batches",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run: its metrics.json, and its predictions of the validation views and of the test views."""

    folder: RunFolder
    metrics: dict[str, Any]
    validation: pd.DataFrame
    test: pd.DataFrame

    @property
    def model(self) -> str:
        return str(self.metrics["model"])

    @property
    def data(self) -> str:
        return str(self.metrics["data"])

    @property
    def seed(self) -> int:
        return int(self.metrics["seed"])

    @property
    def arm(self) -> str:
        """Unions of different extremities are different ways to train."""
        arm = str(self.metrics["arm"])
        return f"{UNION}({self.data})" if arm == UNION else arm

    @property
    def name(self) -> str:
        return f"{self.model}, {self.data}, seed {self.seed}"

    @cached_property
    def extremities(self) -> tuple[str, ...]:
        return present(self.test)

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_config(self.folder)

    @cached_property
    def transfer(self) -> pd.DataFrame | None:
        """Predictions of the other extremities' test views; None when the run was not asked for them."""
        return read_predictions(self.folder.transfer, "test") if self.folder.transfer.is_file() else None

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """None when the run left no curves."""
        try:
            history = pd.read_csv(self.folder.history)
        except (OSError, ValueError):
            return None
        return history if len(history) else None


@dataclass(frozen=True)
class Unfinished:
    """A run folder without results, and the last thing its log says."""

    folder: RunFolder
    said: str


@dataclass(frozen=True)
class ArmTable:
    """The test predictions of one arm with one seed, each extremity from the run that was trained for it.

    `validation` are the runs' validation predictions, put together likewise.
    """

    model: str
    arm: str
    seed: int
    runs: tuple[Run, ...]
    table: pd.DataFrame
    validation: pd.DataFrame

    @cached_property
    def extremities(self) -> tuple[str, ...]:
        return present(self.table)

    def of(self, extremities: Sequence[str]) -> pd.DataFrame:
        return of(self.table, extremities)

    def data_of(self, extremities: Sequence[str]) -> str:
        """The data set of the run that answers for these extremities, or that they are routed."""
        names = {run.data for run in self.runs if set(run.extremities) & set(extremities)}
        return names.pop() if len(names) == 1 else ROUTED


@dataclass(frozen=True)
class Pair:
    """Two arms of one model on the extremities that both have; what had to be left out is said in `notes`."""

    model: str
    a: str
    b: str
    extremities: tuple[str, ...]
    arms: dict[str, list[ArmTable]]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.a}-{self.b}"

    @property
    def scope(self) -> str:
        return scope_name(self.extremities)

    def tables(self) -> dict[str, list[pd.DataFrame]]:
        return {arm: [table.of(self.extremities) for table in tables] for arm, tables in self.arms.items()}


def arm_number(arm: str) -> int:
    """The number of an arm's colour and dash, the same in every figure."""
    return arm_rank(arm)[0]


def of(views: pd.DataFrame, extremities: Sequence[str]) -> pd.DataFrame:
    """The views of these extremities."""
    return views[views["extremity"].isin(extremities)]


def present(table: pd.DataFrame) -> tuple[str, ...]:
    found = set(table["extremity"])
    return tuple(name for name in EXTREMITIES if name in found)


def scope_name(extremities: Sequence[str]) -> str:
    """`all` for the seven, else the names themselves: `finger+wrist`."""
    return ALL if len(extremities) == len(EXTREMITIES) else data_name(list(extremities))


def collect(directories: Sequence[Path]) -> tuple[list[Run], list[Unfinished]]:
    """Every run below the directories, each once, ordered by model, arm, seed and extremity.

    MuraError when there is no finished one, when one can't be read, or when they can't stand in one table.
    """
    finished, unfinished = find_runs(directories)
    if not finished:
        where = ", ".join(map(str, directories))
        waiting = f" ({len(unfinished)} unfinished)" if unfinished else ""
        raise MuraError(f"There is no finished run (a folder with metrics.json) below {where}{waiting}.")
    runs = sorted((read_run(folder) for folder in finished), key=_order)
    check_comparable(runs)
    return runs, [Unfinished(folder, last_words(folder)) for folder in unfinished]


def _order(run: Run) -> tuple[Any, ...]:
    return run.model, arm_rank(run.arm), run.seed, [EXTREMITIES.index(name) for name in run.extremities]


def find_runs(directories: Sequence[Path]) -> tuple[list[RunFolder], list[RunFolder]]:
    """Finished and unfinished run folders, sorted, each once. Hidden folders and what lies in a run are left out."""
    found = set()
    for directory in directories:
        if not directory.is_dir():
            raise MuraError(f"{directory} is not a folder.")
        found |= set(_walk(directory.resolve()))
    folders = [RunFolder(path) for path in sorted(found)]
    return [run for run in folders if run.finished], [run for run in folders if not run.finished]


def _walk(directory: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(directory):
        if "metrics.json" in files or "config.yaml" in files:
            yield Path(place)
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".") and name != "wandb"]


def read_run(folder: RunFolder) -> Run:
    """Raises MuraError, with the file at fault, when metrics.json or predictions.csv can't be used."""
    try:
        metrics = json.loads(folder.metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MuraError(f"{folder.metrics} can't be read: {error}.") from None
    if not isinstance(metrics, dict) or metrics.get("schema") != SCHEMA:
        raise MuraError(f"{folder.metrics} is not of this version of mura (schema {SCHEMA}); run it again.")
    lacking = [key for key in NEEDED if key not in metrics]
    if lacking:
        raise MuraError(f"{folder.metrics} lacks {', '.join(lacking)}; run it again.")
    validation, test = (read_predictions(folder.predictions, split) for split in ("val", "test"))
    expected = metrics["test"]["image"][ALL]["n"]
    if len(test) != expected:
        raise MuraError(
            f"{folder.predictions} has {len(test)} test views, but the run's metrics.json counted {expected}."
        )
    return Run(folder, metrics, validation, test)


def read_predictions(file: Path, split: str) -> pd.DataFrame:
    """The rows of one split in a predictions file; MuraError unless each view is there once, with a probability."""
    source = str(file)
    try:
        table = pd.read_csv(file, dtype={"patient": str, "study": str})
    except (OSError, ValueError) as error:
        raise MuraError(f"{source} can't be read: {error}.") from None
    lacking = [name for name in PREDICTION_COLUMNS if name not in table.columns]
    if lacking:
        raise MuraError(f"{source} lacks the column {', '.join(lacking)}.")
    views = table[table["split"] == split].reset_index(drop=True)
    views["probability"] = pd.to_numeric(views["probability"], errors="coerce")
    check_predictions(views, source)
    doubled = views[views.duplicated(VIEW_KEY)]
    if len(doubled):
        raise MuraError(f"View {view_name(doubled.iloc[0])} is doubled in {source} ({len(doubled)} such views).")
    return views


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises MuraError, naming two runs and what differs, unless all can stand in one table."""
    first = runs[0]
    cells: dict[tuple[str, str, int, str], Run] = {}
    views: dict[str, tuple[Run, pd.DataFrame]] = {}
    for run in runs:
        for key, what in COMPARABLE.items():
            if run.metrics[key] != first.metrics[key]:
                raise MuraError(
                    f"These runs can't be compared: the {what} of {run.folder.path} is {run.metrics[key]}, "
                    f"that of {first.folder.path} is {first.metrics[key]}."
                )
        for extremity in run.extremities:
            twin = cells.setdefault((run.model, run.arm, run.seed, extremity), run)
            if twin is not run:
                raise MuraError(
                    f"Two finished runs answer for {extremity} ({run.model}, {run.arm}, seed {run.seed}): "
                    f"{twin.folder.path} and {run.folder.path}; name only one of them."
                )
            part = _keyed(run.test, extremity)
            other, expected = views.setdefault(extremity, (run, part))
            _check_same_views(run.folder.predictions, part, other.folder.predictions, expected)


def check_transfer(runs: Sequence[Run]) -> None:
    """Raises MuraError unless every transfer.csv has the other extremities' test views as they are, and only those."""
    known = {name: run for run in reversed(runs) for name in run.extremities}
    expected = {name: _keyed(run.test, name) for name, run in known.items()}
    for run in runs:
        if run.transfer is None:
            continue
        for extremity in present(run.transfer):
            if extremity in run.extremities:
                raise MuraError(f"{run.folder.transfer} holds views of {extremity}, which the run itself answers for.")
            other = known.get(extremity)
            if other is not None:
                mine = _keyed(run.transfer, extremity)
                _check_same_views(run.folder.transfer, mine, other.folder.predictions, expected[extremity])


def _keyed(views: pd.DataFrame, extremity: str) -> pd.DataFrame:
    """The views of one extremity, by their key."""
    return of(views, [extremity]).set_index(VIEW_KEY).sort_index()


def _check_same_views(ours: Path, part: pd.DataFrame, theirs: Path, expected: pd.DataFrame) -> None:
    for lacker, holder, rows in (
        (ours, theirs, expected[~expected.index.isin(part.index)]),
        (theirs, ours, part[~part.index.isin(expected.index)]),
    ):
        if len(rows):
            raise MuraError(
                f"{lacker} lacks {len(rows)} of the test views of {holder}, such as {rows.iloc[0]['path']}: "
                "runs are compared on the same views only."
            )
    relabelled = part[part["label"].to_numpy() != expected["label"].to_numpy()]
    if len(relabelled):
        raise MuraError(f"The label of {relabelled.iloc[0]['path']} differs between {ours} and {theirs}.")


def arm_tables(runs: Sequence[Run]) -> list[ArmTable]:
    """One table a model, arm and seed, in that order; `runs` as they come from `collect`."""
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.model, run.arm, run.seed), []).append(run)
    return [
        ArmTable(*key, tuple(group), _together(run.test for run in group), _together(run.validation for run in group))
        for key, group in groups.items()
    ]


def _together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One below the other; an empty one would turn the others' columns into objects."""
    found = [table for table in tables if len(table)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=PREDICTION_COLUMNS)


def pairs(tables: Sequence[ArmTable]) -> tuple[list[Pair], list[str]]:
    """Every two arms of a model that share an extremity, and a note for each two that don't."""
    found, notes = [], []
    by_arm: dict[str, dict[str, list[ArmTable]]] = {}
    for table in tables:
        by_arm.setdefault(table.model, {}).setdefault(table.arm, []).append(table)
    for model, arms in by_arm.items():
        if len(arms) < 2:
            notes.append(f"{model}: only the arm {next(iter(arms))} has finished runs, so nothing can be compared.")
        for a, b in combinations(arms, 2):
            pair = _pair(model, a, b, {a: arms[a], b: arms[b]})
            if pair is None:
                notes.append(f"{model}: {a} and {b} share no extremity, so they can't be compared.")
            else:
                found.append(pair)
    return found, notes


def _pair(model: str, a: str, b: str, arms: dict[str, list[ArmTable]]) -> Pair | None:
    """The most extremities that a seed of each arm has; of the seeds, those that have them all."""

    def seeds_with(extremities: set[str]) -> dict[str, list[ArmTable]]:
        return {arm: [t for t in tables if extremities <= set(t.extremities)] for arm, tables in arms.items()}

    candidates = [set(one.extremities) & set(other.extremities) for one, other in product(arms[a], arms[b])]
    chosen = max(candidates, key=lambda names: (len(names), min(map(len, seeds_with(names).values()))))
    if not chosen:
        return None
    kept = seeds_with(chosen)
    extremities = tuple(name for name in EXTREMITIES if name in chosen)
    return Pair(model, a, b, extremities, kept, list(_left_out(model, arms, kept, chosen)))


def _left_out(
    model: str, arms: dict[str, list[ArmTable]], kept: dict[str, list[ArmTable]], chosen: set[str]
) -> Iterator[str]:
    """What a comparison had to do without, a sentence each."""
    pair = " and ".join(arms)
    covered = {arm: {name for table in tables for name in table.extremities} for arm, tables in arms.items()}
    for extremity in EXTREMITIES:
        lacking = [arm for arm in arms if extremity not in covered[arm]]
        if extremity in chosen or len(lacking) == len(arms):
            continue
        why = f"{lacking[0]} has no finished run of it" if lacking else "no seed has it together with the others"
        yield f"{model}: {extremity} is left out of the comparison of {pair}, since {why}."
    for arm, tables in arms.items():
        for table in tables:
            if table not in kept[arm]:
                lacks = ", ".join(name for name in EXTREMITIES if name in chosen - set(table.extremities))
                yield f"{model}: seed {table.seed} of {arm} is left out of the comparison of {pair}: it lacks {lacks}."


def recipe_notes(runs: Sequence[Run]) -> Iterator[str]:
    """A sentence for each setting that isn't the same in all runs of a model, and for different code."""
    by_model: dict[str, list[Run]] = {}
    for run in runs:
        by_model.setdefault(run.model, []).append(run)
    for model, group in by_model.items():
        recipes = [_recipe(run) for run in group]
        for key in sorted(set().union(*recipes)):
            values = {json.dumps(recipe.get(key)) for recipe in recipes}
            if len(values) > 1:
                yield f"{model}: {key} is not the same in all runs ({', '.join(sorted(values))})."
    commits = {(run.metrics.get("git") or {}).get("commit") or "unknown" for run in runs}
    if len(commits) > 1:
        yield f"The runs were made with different versions of the code: {', '.join(sorted(c[:10] for c in commits))}."


def _recipe(run: Run) -> dict[str, Any]:
    """Without what makes an arm what it is: its heads, and the weights that fine-tuning starts from."""
    flat = dict(_flat(run.config, ""))
    flat.pop("model.separate_heads", None)
    if run.arm in ARMS and ARMS[run.arm].starts_from:  # as the run that it starts from began
        flat["model.weights"] = _initial_weights(run)
    return {
        key: value
        for key, value in flat.items()
        if any(key == name or key.startswith(f"{name}.") for name in RECIPE) and key != "model.seed"
    }


def _initial_weights(run: Run) -> Any:
    """Of the run whose checkpoint a fine-tuned one starts from; None when its folder is not there."""
    checkpoint = Path(str((run.config.get("model") or {}).get("weights")))
    return (read_config(RunFolder(checkpoint.parent.parent)).get("model") or {}).get("weights")


def _flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The run's config.yaml; empty when there is none that can be read."""
    try:
        config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def is_synthetic(run: Run) -> bool:
    """Return whether the run's data are this program's own drawings.

    The run says so itself; one that was made before runs did is known by its data folder, where that still lies.
    """
    if "synthetic" in run.metrics:
        return bool(run.metrics["synthetic"])
    root = (run.config.get("data") or {}).get("root")
    if not isinstance(root, str):
        return False
    top = Path(root).expanduser()
    return any((place / BOXES).is_file() for place in (top, top / TOP_FOLDER, top / TOP_FOLDER / TOP_FOLDER))


def last_words(folder: RunFolder) -> str:
    """The last line that an unfinished run left in a log; empty when there is none."""
    logs = sorted(folder.path.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)
    for log in logs:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        if any(lines):
            return [line for line in lines if line][-1]
    return ""
