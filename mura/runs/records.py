"""What a run, or its checkpoint, says of itself: read by tables of rules, one line a key, instead of trusted.

A file that breaks a rule is refused in one sentence with its name and the key at fault. Keys without a rule are read by
nothing, and keys that are not `needed` may be missing: older runs lack what was added later.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mura.errors import MuraError
from mura.extremities import EXTREMITIES
from mura.files import read_file
from mura.runs.folder import FOLDS, SCHEMA, SEARCH_FILE, RunFolder

DEEPEST = 20
"""Levels of a config: none of this program's has half as many."""

MOST = 2**53
"""The most that is counted: up to here a float is exact."""

KINDS = {"dict": "table", "list": "list", "Tensor": "tensor"}
MENDED_BY = "restore it, or remove the run's folder and run it again; `mura report --skip-damaged` leaves it out."


@dataclass(frozen=True)
class Rule:
    """What a value must be, of a setting or in a record: `holds(value)` tests it, `wanted` says it in words."""

    holds: Callable[[Any], bool]
    wanted: str
    needed: bool = True

    @property
    def optional(self) -> "Rule":
        """The same rule, for a key that older runs lack."""
        return replace(self, needed=False)

    @property
    def or_null(self) -> "Rule":
        return replace(self, holds=lambda value: value is None or self.holds(value), wanted=f"{self.wanted} or null")


def whole(low: int, high: int | None = None, most: int = MOST) -> Rule:
    """Return the rule for an integer within bounds, both of which are allowed; without `high`, up to `most`."""
    words = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    return Rule(lambda value: type(value) is int and low <= value <= (most if high is None else high), words)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MOST  # infinity and NaN are not


def _is_list_of_extremities(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each in EXTREMITIES for each in value)


def one_of(*options: Any) -> Rule:
    """Return the rule for a value out of these; 1 is not true, and 0 is not false."""

    def holds(value: Any) -> bool:
        return any(type(value) is type(option) and value == option for option in options)

    return Rule(holds, "one of " + ", ".join("null" if option is None else str(option) for option in options))


TEXT = Rule(lambda value: isinstance(value, str) and bool(value), "a text")
FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
NUMBER = Rule(_is_number, "a number")
POSITIVE = Rule(lambda value: _is_number(value) and value >= 0, "a number from 0")
TREE = Rule(lambda value: isinstance(value, dict), "a table of keys")
NAMES = Rule(_is_list_of_extremities, "a list of extremities")
LINES = Rule(lambda value: isinstance(value, list) and all(map(TEXT.holds, value)), "a list of texts")
TEXTS = Rule(lambda value: isinstance(value, dict) and all(map(TEXT.holds, value.values())), "a table of texts")

METRICS_RULES = {
    "schema": whole(SCHEMA, SCHEMA),
    "name": TEXT.optional,
    "model": TEXT,
    "data": TEXT,
    "extremities": NAMES.optional,
    "test_extremities": NAMES.optional,
    "arm": TEXT,
    "seed": whole(0, 2**32 - 1),
    "fold": whole(0, FOLDS - 1),
    "best_epoch": whole(0),
    "best_value": NUMBER.or_null.optional,
    "epochs": whole(0),
    "steps": whole(0).or_null.optional,
    "pictures_seen": whole(0).or_null.optional,
    "stopped_by": TEXT.or_null.optional,
    "val": TREE.or_null.optional,
    "test": TREE.or_null,
    "test.image": TREE,
    "test.image.all": TREE,
    "test.image.all.n": whole(0),
    "explain": TREE.or_null.optional,
    "synthetic": FLAG.optional,
    "speed": TREE.or_null.optional,
    "speed.wall_seconds": POSITIVE.or_null.optional,
    "speed.train_images_per_second": POSITIVE.or_null.optional,
    "device": TEXT.or_null.optional,
    "precision": TEXT.or_null.optional,
    "data_fingerprint": TEXT,
    "split_hash": TEXT,
    "versions": TEXTS.or_null.optional,
    "git": TREE.or_null.optional,
    "git.commit": TEXT,
    "git.dirty": FLAG.optional,
}
"""What metrics.json holds. A key below another counts where that one is a table, and comes after it here."""

CONFIG_RULES = {
    "test": FLAG.optional,
    "data": TREE.optional,
    "data.root": TEXT.or_null.optional,
    "model": TREE.optional,
    "model.weights": TEXT.or_null.optional,
    "trainer": TREE.optional,
    "trainer.max_epochs": whole(1).optional,
}
"""What is read of config.yaml by its key; the other settings are compared and shown as they are."""

HYDRA_RULES = {"hydra": TREE, "hydra.searchpath": LINES}
"""What is read of .hydra/hydra.yaml."""

CLASSES = {
    "data": r"mura\.data\.datamodule\.MuraDataModule",
    "model": r"mura\.models\.classifier\.AbnormalityClassifier",
    "trainer": r"lightning\.(pytorch\.)?Trainer",
    "optimizer": r"torch\.optim\.[A-Z]\w*",
    "scheduler": r"torch\.optim\.lr_scheduler\.[A-Z]\w*|mura\.models\.classifier\.no_scheduler",
    "logger": r"lightning\.pytorch\.loggers\.[A-Z]\w*|mura\.tracking\.(logger\.wandb|mlflow_run\.mlflow)_logger",
    "callbacks": r"lightning\.pytorch\.callbacks\.[A-Z]\w*|mura\.training\.(averaging|callbacks)\.[A-Z]\w*",
}
"""What `_target_` may name in each part of a config that comes from a run folder."""

OWN_CLASSES = ("logger", "callbacks")
"""The parts in which a user may name a class of their own: nothing but the run itself makes anything of them."""


KNOWN_CLASS = "a class of this project, torch or Lightning that belongs there"


def foreign_class(tree: Any, own: bool, key: str = "") -> tuple[str, Any] | None:
    """Return key and value of the first `_target_` of a config that names no class that belongs there; else None.

    `own` allows any class in OWN_CLASSES.
    """
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in pairs:
        place = f"{key}.{name}" if key else str(name)
        part, *deeper = place.split(".")
        if name != "_target_":
            found = foreign_class(value, own, place)
        elif own and part in OWN_CLASSES:
            found = None
        else:
            is_in_place = part in CLASSES and len(deeper) == (2 if part in OWN_CLASSES else 1)
            known = is_in_place and isinstance(value, str) and re.fullmatch(CLASSES[part], value, re.ASCII)
            found = None if known else (place, value)
        if found is not None:
            return found
    return None


SEARCH_RULES = {
    "space": TREE,
    "trials": whole(2),
    "seed": whole(0),
    "folds": Rule(lambda value: isinstance(value, list), "a list of folds"),
    "prune": FLAG,
    "monitor": TEXT,
    "mode": one_of("min", "max"),
    "searches": TREE,
}
"""What search.json holds: the terms, which are the same for all searches of a study, and what came of each."""

SEARCH_OF_ONE_RULES = {
    "model": TEXT,
    "data": TEXT,
    "arm": TEXT,
    "recipe": TREE,
    "trials": Rule(lambda value: isinstance(value, list), "a list of trials"),
    "chosen": whole(0).optional,
    "importance": TREE.or_null.optional,
}
"""What it says of the search of one model and data set; `chosen` is there once it is finished."""

TRIAL_RULES = {
    "number": whole(0),
    "params": TREE,
    "value": NUMBER.or_null,
    "state": TEXT,
    "epochs": whole(0),
    "steps": whole(0),
    "seconds": POSITIVE,
}


def fault_in(content: Any, rules: Mapping[str, Rule]) -> str | None:
    """Return the first rule that a tree breaks, as `lacks seed` or `has seed='x', which must be ...`; else None."""
    if not isinstance(content, dict):
        return f"holds {shown(content)}, and must hold a table of keys"
    for key, rule in rules.items():
        *above, name = key.split(".")
        place: Any = content
        for part in above:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            continue  # null or missing, which the rule of the key above allows
        if name in place and not rule.holds(place[name]):
            return f"has {key}={shown(place[name])}, which must be {rule.wanted}"
        if name not in place and rule.needed:
            return f"lacks {key}"
    return None


def shown(value: Any) -> str:
    """Return a value for a sentence: a text or a number as it is, of anything larger its kind."""
    if value is None:
        return "null"
    if not isinstance(value, (str, int, float)):
        return f"a {KINDS.get(type(value).__name__, type(value).__name__)}"
    words = (
        repr(value) if not isinstance(value, int) or abs(value) <= MOST else f"a number of {value.bit_length()} bits"
    )
    return words if len(words) <= 60 else f"{words[:60]}..."


def read_metrics(file: Path) -> dict[str, Any]:
    """Return the content of a metrics.json, null where an older run lacks a key.

    MuraError unless it can be read and keeps METRICS_RULES.
    """
    content = _read(file, lambda text: json.loads(text, object_pairs_hook=_once_each, parse_constant=_refuse_constant))
    if isinstance(content, dict) and type(content.get("schema")) is int and content["schema"] != SCHEMA:
        raise MuraError(f"{file} is not of this version of mura (schema {SCHEMA}); run it again.")
    _refuse(file, fault_in(content, METRICS_RULES))
    metrics: dict[str, Any] = content
    metrics["speed"] = metrics.get("speed") or {}
    for key, rule in METRICS_RULES.items():
        above, _, name = key.rpartition(".")
        place = metrics.get(above) if above else metrics
        if not rule.needed and isinstance(place, dict):
            place.setdefault(name, None)
    return metrics


def read_best_value(run: RunFolder) -> float | None:
    """Return what `monitor` was in the best epoch; None of a run without results, such as one of fast_dev_run."""
    return read_metrics(run.metrics).get("best_value") if run.finished else None


def read_config(folder: RunFolder) -> dict[str, Any]:
    """Return the run's config.yaml, empty when there is none.

    MuraError unless it is a config, and names no class but those of CLASSES and OWN_CLASSES.
    """
    if not folder.config.exists():
        return {}
    content = _read(folder.config, lambda text: yaml.load(text, _PlainLoader))  # a SafeLoader
    _refuse(folder.config, fault_in(content, CONFIG_RULES) or next(_foreign(content, ""), None))
    if found := foreign_class(content, own=True):
        _refuse(folder.config, f"has {found[0]}={shown(found[1])}, which must be {KNOWN_CLASS}")
    config: dict[str, Any] = content
    return config


def read_search(folder: Path) -> dict[str, Any]:
    """Return the search.json of a study's search folder; MuraError unless it can be read and keeps SEARCH_RULES."""
    file = folder / SEARCH_FILE
    content = _read(file, lambda text: json.loads(text, object_pairs_hook=_once_each, parse_constant=_refuse_constant))
    fault = fault_in(content, SEARCH_RULES)
    for name, search in (content["searches"] if fault is None else {}).items():
        parts = [(search, SEARCH_OF_ONE_RULES)]
        if fault_in(*parts[0]) is None:
            parts += [(trial, TRIAL_RULES) for trial in search["trials"]]
        fault = fault or next((f"{each} (of {name})" for part in parts if (each := fault_in(*part))), None)
    if fault is not None:
        raise MuraError(f"{file} {fault}; restore it, or remove the folder {folder} to search again.")
    noted: dict[str, Any] = content
    return noted


def read_overrides(run: RunFolder) -> list[str]:
    """Return the command line of a run, a setting each; MuraError unless it can be read as one."""
    content = _read(run.overrides, lambda text: yaml.load(text, _PlainLoader))
    if not LINES.holds(content):
        _refuse(run.overrides, f"holds {shown(content)}, and must hold a list of settings")
    for setting in content:
        if re.match(r"\W*hydra\W", setting):  # Hydra would obey it before any check; this program writes none
            _refuse(run.overrides, f"holds {setting[:60]!r}, and must hold no setting of Hydra's own")
    settings: list[str] = content
    return settings


def read_search_path(run: RunFolder) -> list[str]:
    """Return where a run's first start looked for options besides conf/; MuraError unless its hydra.yaml says that."""
    file = run.overrides.with_name("hydra.yaml")
    if not file.exists():
        return []
    content = _read(file, lambda text: yaml.load(text, _PlainLoader))
    _refuse(file, fault_in(content, HYDRA_RULES))
    places: list[str] = content["hydra"]["searchpath"]
    return places


def _refuse(file: Path, fault: str | None) -> None:
    if fault is not None:
        raise MuraError(f"{file} {fault}; {MENDED_BY}")


def _read(file: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(read_file(file).decode("utf-8"))
    except Exception as error:  # PyYAML raises nearly anything on a tag that does not fit its value
        raise MuraError(f"{file} can't be read ({why_unreadable(error)}); {MENDED_BY}") from None


def why_unreadable(error: Exception) -> str:
    """Return in a few words why a file can't be read."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return tree


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


class _PlainLoader(yaml.SafeLoader):
    """Reads a config as this program writes it: no key twice, and no alias, which can make a small file huge."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "an alias", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key that is there twice", node.start_mark)
        return mapping


def _foreign(tree: Any, key: str, depth: int = 0) -> Iterator[str]:
    """Yield what no config holds: a date, a key that is no text, more than DEEPEST levels."""
    if depth > DEEPEST:
        yield f"has more than {DEEPEST} levels below {key.split('.')[0]}"
    elif isinstance(tree, dict):
        for name, value in tree.items():
            if not isinstance(name, str):
                yield f"has the key {shown(name)}{f' below {key}' if key else ''}, which must be a text"
            else:
                yield from _foreign(value, f"{key}.{name}" if key else name, depth + 1)
    elif isinstance(tree, list):
        for value in tree:
            yield from _foreign(value, key, depth + 1)
    elif not (tree is None or isinstance(tree, (str, bool, int, float))):
        yield f"has {key}={tree}, a {type(tree).__name__}, which no setting is"
