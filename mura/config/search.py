"""The search of a study: read from its settings, tried out on each model before anything starts, kept as a preset."""

import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from mura.config import CONF_DIR
from mura.config.command_line import understood_settings
from mura.config.help import run_groups
from mura.config.rules import check_values, count
from mura.errors import ConfigError, MuraError
from mura.files import write_text
from mura.processes import IS_CLONE, typed
from mura.runs.folder import EXPERIMENT_KEYS, FOLDS, SEARCH_FILE, SEARCH_FOLDER
from mura.study.arms import ARMS
from mura.study.grid import STEPS, Cell
from mura.study.search import Search, Terms
from mura.study.space import Params, Space, overrides, read_space, without
from mura.study.trials import Tuning

TRIALS = count(2, 10_000)
PRESETS = "tuned"
"""The group of the presets that searches leave: conf/tuned of a clone, else a folder in the study's own."""


def refuse_mixture(study: DictConfig, folder: Path) -> None:
    """Raise ConfigError for settings of a search without one, and for a folder of runs that were trained otherwise."""
    has_search = (folder / SEARCH_FOLDER / SEARCH_FILE).is_file()
    if study.get("search") is None:
        for key in ("trials", "prune"):
            if study[key]:
                raise ConfigError(f"{key}={study[key]}: belongs to a search; give search=, such as search=lr_wd.")
        if has_search:
            raise ConfigError(
                f"{folder} was begun with a search: go on with its search=, or give the study another name=."
            )
    elif study.chosen:
        raise ConfigError("search=: the preset has settings that were chosen by a search; leave out one of the two.")
    elif not has_search and any(folder.glob("*/*/seed*/config.yaml")):
        raise ConfigError(
            f"{folder} holds runs that were trained without a search; give the study another name=, and the report "
            "shows the recipe beside what is chosen."
        )


def read_tuning(study: DictConfig, settings: list[str], cells: Sequence[Cell], folder: Path) -> Tuning:
    """Return the study's searches, one for each of the `cells`, none of them begun.

    Raises ConfigError for what can't be searched, or not with equal chances.
    """
    tree: Any = OmegaConf.to_container(study.search, resolve=True)
    space = read_space(tree if isinstance(tree, dict) else {})
    check_terms(study)
    composed = {cell.model: compose_recipe([*settings, *cell.overrides(folder)]) for cell in reversed(cells)}
    recipe = composed[cells[0].model]
    folds = search_folds(study, recipe)
    terms = Terms(space, study.trials, cells[0].seed, folds, study.prune, recipe.monitor, recipe.mode)
    group, logging = recipe.group or study.name, []
    if "wandb" in (recipe.get("logger") or {}):
        logging = ["logger.wandb.job_type=search"]
    tuning = Tuning(terms, folder / SEARCH_FOLDER, [], settings, logging, str(group))
    values = {model: recipe_values(space, cfg) for model, cfg in composed.items()}
    for cell in {cell.model: cell for cell in cells}.values():
        try_space(space, tuning.trial_settings(cell, {}))
    tuning.searches = [
        Search(cell, terms, tuning.folder, values[cell.model], composed[cell.model].trainer.max_epochs)
        for cell in cells
    ]
    return tuning


def check_terms(study: DictConfig) -> None:
    """Raise ConfigError for a number of trials, a budget or a pruning that can't be used."""
    if study.trials is None:
        raise ConfigError("trials is not set: give their number for each model and data set, such as trials=20.")
    if not TRIALS.holds(study.trials):
        raise ConfigError(f"trials={study.trials}: must be {TRIALS.wanted}; the first is the recipe as it is.")
    workers = study.launcher.get("workers") or study.launcher.get("at_a_time")
    if workers is not None and study.trials < workers:
        raise ConfigError(f"trials={study.trials}: fewer than the {workers} runs at a time; give more trials.")
    if type(study.prune) is not bool:
        raise ConfigError(f"prune={study.prune}: must be true or false.")
    if study.budget not in (None, STEPS):
        raise ConfigError(
            f"budget={study.budget}: in a search the runs of all arms have equally many steps; leave it out, or take "
            f"budget={STEPS}."
        )


def search_folds(study: DictConfig, recipe: DictConfig) -> tuple[int, ...] | None:
    """Return the folds over which each trial is averaged; None for the one of the recipe.

    Raises ConfigError unless they are folds, each once, on which no arm was trained before.
    """
    if not OmegaConf.is_list(study.folds):
        return None
    folds = list(study.folds)
    rule = count(0, FOLDS - 1)
    if not folds or not all(map(rule.holds, folds)) or len(set(folds)) < len(folds):
        raise ConfigError(f"folds={folds}: name at least one, each {rule.wanted}, and each only once.")
    starting = [arm for arm in study.arms if ARMS[arm].starts_from]
    if starting and folds != [recipe.data.fold]:
        raise ConfigError(
            f"folds={folds}: the arm {starting[0]} starts from a run that was trained on the other folds; leave folds "
            "or that arm out."
        )
    return tuple(folds)


def compose_recipe(settings: Sequence[str]) -> DictConfig:
    return compose("train", understood_settings(list(settings)), return_hydra_config=True)


def recipe_values(space: Space, recipe: DictConfig) -> Params:
    """Return what the space's keys are without a search: a value, or the option of a group."""
    choices = recipe.hydra.runtime.choices
    return {key: choices[key] if key in run_groups() else OmegaConf.select(recipe, key) for key in space}


def try_space(space: Space, settings: Sequence[str]) -> None:
    """Compose a run with each bound and each option of the space. Raises what is wrong with them."""
    for key, dimension in space.items():
        for value in dimension.extremes:
            tried = [*without(settings, [key]), *overrides({key: value})]
            check_values(compose("train", understood_settings(tried)))


def read_chosen(study: DictConfig, cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Return what a preset of conf/tuned says was chosen, by `model/data`; empty without one.

    Raises ConfigError when it says nothing of one of the `cells`.
    """
    plain: Any = OmegaConf.to_container(study.chosen) if study.chosen else {}
    chosen = {}
    for model, by_data in plain.items() if isinstance(plain, Mapping) else ():
        for data, settings in by_data.items() if isinstance(by_data, Mapping) else ():
            if not isinstance(settings, list) or not all(type(each) is str for each in settings):
                raise ConfigError(f"chosen.{model}.{data}={settings}: must be a list of settings.")
            chosen[f"{model}/{data}"] = settings
    missing = [f"{cell.model}/{cell.data}" for cell in cells if f"{cell.model}/{cell.data}" not in chosen]
    if study.chosen and missing:
        raise ConfigError(
            f"chosen: the preset has nothing for {missing[0]}; leave it out of models, arms or extremities."
        )
    return chosen


def write_preset(study: DictConfig, tuning: Tuning) -> tuple[Path, str]:
    """Write what was chosen as a preset, and return its file and the command that uses it.

    It is conf/tuned/<study>.yaml in a clone. An installed program's own files are left alone: it then lies in the
    study's folder.
    """
    places = [CONF_DIR] if IS_CLONE and os.access(CONF_DIR, os.W_OK) else []
    for place in (*places, tuning.folder):
        file = place / PRESETS / f"{study.name}.yaml"
        try:
            file.parent.mkdir(exist_ok=True)
            write_text(file, preset_text(study, tuning))
        except OSError:
            continue
        where = "" if place == CONF_DIR else f" --config-dir {place}"
        return file, f"{typed('sweep')}{where} experiment={PRESETS}/{study.name} name=NAME"
    raise MuraError(f"{file}: can't be written; make room, and give the same command again.")


def preset_text(study: DictConfig, tuning: Tuning) -> str:
    """Return a preset of the study: its models and arms, and for each model and data set what was chosen."""
    chosen: dict[str, dict[str, list[str]]] = {}
    for name, settings in tuning.chosen.items():
        model, _, data = name.partition("/")
        chosen.setdefault(model, {})[data] = settings
    kept = {key: list(study[key]) if OmegaConf.is_list(study[key]) else [study[key]] for key in ("models", "arms")}
    preset: dict[str, Any] = {
        **kept, "extremities": list(study.extremities), "budget": STEPS,
        "settings": [each for each in tuning.settings if makes_an_experiment(each)], "chosen": chosen,
    }  # fmt: skip
    terms = tuning.terms
    head = [
        "# @package _global_",
        f"# Chosen on {date.today().isoformat()} by {terms.monitor}, {terms.trials} trials a model and data set,",
        f"# on the validation views. What was searched and tried stands in {tuning.folder / SEARCH_FILE}",
    ]
    return "\n".join(head) + "\n" + yaml.safe_dump(preset, sort_keys=False, allow_unicode=True, width=120)


def makes_an_experiment(setting: str) -> bool:
    """Return whether a setting decides what a run learns, and not where it runs or how it is logged."""
    key = setting.lstrip("+~").partition("=")[0]
    return any(key == each or key.startswith(f"{each}.") for each in (*EXPERIMENT_KEYS, "experiment"))
