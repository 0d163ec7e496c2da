"""What conf/ names by `_target_`, made; an argument that its class does not take is a sentence."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from mura.config.rules import describe, describe_unknown
from mura.config.sentences import first_line
from mura.errors import ConfigError
from mura.machine import first_sentence

UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")
REFUSED_CALLBACKS = {  # Lightning's callbacks that can't go with this program
    "StochasticWeightAveraging": "it averages after the last epoch, when the best checkpoint has been chosen, so that "
    "its average would never be tested; take callbacks=swa",
    "BatchSizeFinder": "the batch is part of the recipe, and data.accumulate splits it to save memory",
    "LearningRateFinder": "rates are compared on the validation part: -m optimizer.lr=0.0001,0.001 test=false",
}


def make(settings: DictConfig, key: str, **more: Any) -> Any:
    """Return the object that `settings` describe, with `more` arguments.

    Raises ConfigError, with the section's `key`, when its class refuses the settings.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        return instantiate(settings, _convert_="all", **more)  # a class wants plain lists and dicts
    except InstantiationException as error:
        if error.__cause__ is None:  # a module, a value, or what Hydra never calls
            raise ConfigError(
                f"{key}._target_={describe(settings._target_)}: names no class that can be made."
            ) from None
        if str(error).startswith("Error locating target"):
            why = first_sentence(error.__cause__.__cause__ or error.__cause__)
            raise ConfigError(
                f"{key}._target_={describe(settings._target_)}: can't be imported ({why}); a class is named with its "
                "module, such as lightning.pytorch.callbacks.EarlyStopping."
            ) from None
        if isinstance(error.__cause__, (TypeError, ValueError, ImportError, MisconfigurationException)):
            raise refusal(error.__cause__, settings, key) from None
        raise


def make_each(section: DictConfig | None, key: str) -> list[Any]:
    """Return the objects of a group of which several may be chosen, each below a name of its own."""
    if not section:
        return []
    for name, settings in named(section):
        if not OmegaConf.is_dict(settings) or "_target_" not in settings:
            raise ConfigError(
                f"{key}.{name}: names no class; each of the {key} has a name, and below it _target_ with its settings."
            )
        reason = REFUSED_CALLBACKS.get(settings._target_.rpartition(".")[2])
        if reason is not None:
            raise ConfigError(f"{key}.{name}: {reason}.")
    made = [make(settings, f"{key}.{name}") for name, settings in named(section)]
    return [each for each in made if each is not False]  # Lightning's word for no logger


def named(section: DictConfig) -> list[tuple[str, DictConfig]]:
    return [(str(name), settings) for name, settings in section.items()]


def make_schedule(optimizer: DictConfig, scheduler: DictConfig) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the partials that make a run's optimiser and its schedule, tried on a parameter that nothing needs."""
    import torch

    partials = []
    tried: Any = [torch.nn.Parameter(torch.zeros(1))]
    for key, settings in (("optimizer", optimizer), ("scheduler", scheduler)):
        partials.append(make(settings, key))
        try:
            tried = partials[-1](tried)
        except (TypeError, ValueError) as error:
            raise refusal(error, settings, key) from None
    return partials[0], partials[1]


def refusal(error: Exception, settings: DictConfig, key: str) -> ConfigError:
    """Return the sentence for settings that their class does not take."""
    unknown = UNKNOWN_ARGUMENT.search(str(error))
    if unknown is None:
        return ConfigError(f"{key}: {first_line(error)}")
    taken = [name for name in inspect.signature(get_object(settings._target_)).parameters if name != "self"]
    words = describe_unknown(unknown.group(1), taken, f"argument of {settings._target_}")
    return ConfigError(f"{key}.{unknown.group(1)}: {words}")
