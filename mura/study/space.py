"""The space of a search: the settings that it varies, each with a range or a list of options, as in conf/search."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mura.errors import ConfigError

Value = float | int | str | bool | None
Params = dict[str, Value]
"""A value for each setting of a space."""

DIGITS = 4  # significant ones of a number that is drawn: more could not be told apart, and would be hard to read
ADDED = "trainer.gradient_clip_"
"""Begins the only arguments of the trainer that can be searched; a run has them only where they are added."""

BUDGET = "all trials, of all arms, are trained equally long on the same views"
REFUSED = {
    **dict.fromkeys(("data", "trainer", "early_stopping", "model.image_size", "seed", "model.seed"), BUDGET),
    **dict.fromkeys(("monitor", "mode"), "the trials are compared by it"),
    **dict.fromkeys(("model.name", "model.library"), "each model has a search of its own"),
    **dict.fromkeys(("arm", "model.weights", "model.separate_heads"), "it belongs to the arm"),
    **dict.fromkeys(("name", "group", "resume", "test", "logger", "hydra", "model.compile"), "no model learns from it"),
    "model.loss": "it changes what the validation loss is",
    "ensemble": "the trials are compared by their best epoch alone",
    "experiment": "it stands for many settings",
}
"""What can't be searched, each with the reason; it holds for all settings below."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included: whole ones, or any; `log` has each power of ten count alike."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> Value:
        """Return the number at a share of the range, from 0 to 1."""
        low, high = self.low, self.high
        return self.rounded(low * (high / low) ** share if self.log else low + share * (high - low))

    def rounded(self, number: float) -> Value:
        """Return the number as it is tried: whole, or with DIGITS, and never beyond the bounds."""
        tried = round(number) if self.whole else float(f"{number:.{DIGITS}g}")
        return min(max(tried, self.low), self.high)

    def holds(self, value: Any) -> bool:
        return type(value) in (int, float) and self.low <= value <= self.high and (not self.whole or value % 1 == 0)

    @property
    def extremes(self) -> list[Value]:
        return [self.low, self.high]

    def describe(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log, "whole": self.whole}


@dataclass(frozen=True)
class Options:
    """Values to choose from: of a setting, or the names of a group's options."""

    values: tuple[Value, ...]

    def at(self, share: float) -> Value:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def rounded(self, value: Any) -> Value:
        return value

    def holds(self, value: Any) -> bool:
        return any(type(value) is type(each) and value == each for each in self.values)

    @property
    def extremes(self) -> list[Value]:
        return list(self.values)

    def describe(self) -> list[Value]:
        return list(self.values)


Space = dict[str, Range | Options]


def read_space(tree: Mapping[str, Any]) -> Space:
    """Return the space that a file of conf/search describes. Raises ConfigError for one that can't be searched."""
    space = dict(_dimensions(tree, ""))
    if not space:
        raise ConfigError("search: an empty space; give at least one setting a range or a list of options.")
    return space


def _dimensions(tree: Mapping[str, Any], above: str) -> Iterator[tuple[str, Range | Options]]:
    for name, value in tree.items():
        key = f"{above}{name}"
        reason = next((REFUSED[part] for part in _and_above(key) if part in REFUSED), None)
        if reason is not None and not key.startswith(ADDED) and not (key == "trainer" and isinstance(value, Mapping)):
            raise ConfigError(f"search.{key}: can't be searched, since {reason}.")
        if isinstance(value, list):
            yield key, _options(key, value)
        elif isinstance(value, Mapping) and not {"low", "high", "log", "whole"} & set(value):
            yield from _dimensions(value, f"{key}.")
        else:
            yield key, _range(key, value)


def _and_above(key: str) -> list[str]:
    """Return a dotted key, and each key above it."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _options(key: str, values: list[Any]) -> Options:
    if not all(value is None or isinstance(value, (str, bool, int, float)) for value in values):
        raise ConfigError(f"search.{key}={values}: each option must be a single value.")
    if len(set(map(repr, values))) < max(2, len(values)):
        raise ConfigError(f"search.{key}={values}: name at least two options, and each only once.")
    return Options(tuple(values))


def _range(key: str, value: Any) -> Range:
    if not isinstance(value, Mapping):
        raise ConfigError(f"search.{key}={value}: must be a range, {{low: 0.1, high: 0.5}}, or a list of options.")
    place = f"search.{key}"
    for name in value:
        if name not in ("low", "high", "log", "whole"):
            raise ConfigError(f"{place}.{name}: a range has low and high, and may have log: true or whole: true.")
    log, whole = (value.get(name, False) for name in ("log", "whole"))
    for name, flag in (("log", log), ("whole", whole)):
        if type(flag) is not bool:
            raise ConfigError(f"{place}.{name}={flag}: must be true or false.")
    bounds: dict[str, Any] = {name: value.get(name) for name in ("low", "high")}
    for name, bound in bounds.items():
        if type(bound) not in (int, float) or not math.isfinite(bound) or (whole and bound % 1):
            wanted = "a whole number" if whole else "a number"
            raise ConfigError(f"{place}.{name}={'null' if bound is None else bound}: must be {wanted}.")
    low, high = bounds.values()
    if low >= high:
        raise ConfigError(f"{place}: low={low} must be below high={high}.")
    if log and low <= 0:
        raise ConfigError(f"{place}: low={low}, and a range with log: true must begin above zero.")
    return Range(int(low), int(high), log, True) if whole else Range(float(low), float(high), log)


def describe_space(space: Space) -> dict[str, Any]:
    """Return the space as it is noted: plain values by key."""
    return {key: dimension.describe() for key, dimension in space.items()}


def quasi_random(space: Space, count: int, seed: int) -> list[Params]:
    """Return points that fill the space evenly, the same for the same space and seed (a scrambled Sobol sequence)."""
    from scipy.stats import qmc

    if count < 1:
        return []
    shares = qmc.Sobol(len(space), rng=seed).random_base2(math.ceil(math.log2(count)))[:count]
    return [
        {key: each.at(float(share)) for (key, each), share in zip(space.items(), row, strict=True)} for row in shares
    ]


def overrides(params: Params) -> list[str]:
    """Return the settings of a command line that give a run these values."""
    return [f"{'+' if key.startswith(ADDED) else ''}{key}={_written(value)}" for key, value in params.items()]


def _written(value: Value) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def without(settings: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Return the settings of a command line but those of these keys, which Hydra would refuse to be given twice."""
    return [setting for setting in settings if setting.lstrip("+~").partition("=")[0] not in keys]
