"""A model at what was fitted on its validation views: a temperature, or an operating point by its name. No PyTorch."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from mura.calibration import SUREST
from mura.errors import ConfigError, MuraError
from mura.inference.predict import Model
from mura.metrics import OVERALL, THRESHOLD, VIEW_KEY, check_predictions
from mura.runs.fitted import FIT_RULES, Fits, Floats, at_temperature, at_threshold, fit_points, read_fitted
from mura.runs.folder import RunFolder
from mura.runs.tables import read_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adjusted(Model):
    """A model whose logits are changed before anything else is made of them: by `move`, and `values` by extremity."""

    source: Path
    extremities: list[str]
    cache_size: int
    fit: str
    model: Model
    move: Callable[[Floats, Floats], Floats]
    values: Mapping[str, float]

    def fitted(self) -> Fits:
        return self.model.fitted()

    def is_synthetic(self) -> bool | None:
        return self.model.is_synthetic()

    @property
    def needs_extremity(self) -> bool:
        return self.model.needs_extremity

    def probabilities(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return the changed probability of "abnormal", float64 [B]."""
        value_B = np.array([self.values.get(name or "", self.values.get(OVERALL)) for name in extremities], float)
        sure_B = np.clip(self.model.probabilities(images_BSS, extremities), SUREST, 1 - SUREST)
        changed: np.ndarray = expit(self.move(logit(sure_B), value_B))
        return changed


def check_threshold(threshold: float | None, point: str | None) -> float:
    """Return the probability above which a study is called abnormal. Raises ConfigError for one that can't be used."""
    if threshold is not None and point is not None:
        raise ConfigError(f"--threshold and --operating-point {point}: the point is a threshold by itself; give one.")
    if threshold is not None and not 0 < threshold < 1:
        raise ConfigError(f"--threshold {threshold:g}: it must lie between 0 and 1.")
    return THRESHOLD if threshold is None else threshold


def adjust(model: Model, temperature: bool = False, point: str | None = None) -> Model:
    """Return the model with its fitted temperature, or at the operating point of a name; as it is without either.

    Raises ConfigError when both are asked for or there is no such point, MuraError when the model has no such fit.
    """
    if temperature and point is not None:
        raise ConfigError("--temperature and --operating-point: each was fitted on the logits as they are; give one.")
    if point is not None:
        known = [key.removeprefix("thresholds.") for key in FIT_RULES if key.startswith("thresholds.")]
        if point not in known:
            raise ConfigError(f"--operating-point {point}: there is no such point. Options: {', '.join(known)}.")
        values = {name: each["thresholds"][point] for name, each in model.fitted().items()}
        return _adjusted(model, at_threshold, _known(model, values, f"--operating-point {point}", "threshold"))
    if temperature:
        values = {name: each["temperature"] for name, each in model.fitted().items()}
        return _adjusted(model, at_temperature, _known(model, values, "--temperature", "temperature"))
    return model


def _adjusted(model: Model, move: Callable[[Floats, Floats], Floats], values: Mapping[str, float]) -> Adjusted:
    return Adjusted(model.source, model.extremities, model.cache_size, model.fit, model, move, values)


def _known(model: Model, values: Mapping[str, float | None], option: str, what: str) -> dict[str, float]:
    """Return the values; MuraError where one is missing."""
    lacking = [name for name in ([OVERALL] if OVERALL in values else model.extremities) if values.get(name) is None]
    if lacking:
        which = "" if lacking == [OVERALL] or not values else f" for {', '.join(lacking)}"
        raise MuraError(
            f"{option}: {model.source} has no {what}{which} fitted on validation views (a calibration.json beside the "
            "best checkpoint, and views of both classes)."
        )
    known = {name: value for name, value in values.items() if value is not None}
    said = ", ".join(f"{value:.3f}{'' if name == OVERALL else f' for {name}'}" for name, value in known.items())
    log.info("%s: %s %s", option, what, said)
    return known


def fits_of(runs: Mapping[str, Sequence[Path]]) -> Fits:
    """Return what is fitted of the run folders, by extremity or under OVERALL; nothing of those that have none."""
    fits = {name: _fit_of_mean(folders) for name, folders in runs.items()}
    return {name: fit for name, fit in fits.items() if fit is not None}


def _fit_of_mean(folders: Sequence[Path]) -> dict[str, Any] | None:
    """Return the fit of a run, or of the mean over several, whose validation views must then be the same."""
    if len(folders) == 1:
        stored = read_fitted(RunFolder(folders[0]).calibration)
        return None if stored is None else {key: stored[key] for key in ("temperature", "thresholds")}
    views = [_validation_views(RunFolder(path).predictions) for path in folders]
    if any(not each.index.equals(views[0].index) for each in views):
        return None
    mean = pd.concat([each["probability"] for each in views], axis=1).mean(axis=1).clip(SUREST, 1 - SUREST)
    return fit_points(views[0].assign(probability=mean, logit=logit(mean)).reset_index())


def _validation_views(predictions: Path) -> pd.DataFrame:
    table = read_table(predictions, VIEW_KEY[:-1], ("view", "label", "probability"))
    check_predictions(table, str(predictions))
    return table[table["split"] == "val"].set_index(VIEW_KEY).sort_index()
