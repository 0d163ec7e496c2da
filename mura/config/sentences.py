"""One clear sentence, and an exit code, for each error that is a user's to mend."""

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.errors import OverrideParseException as OverrideParseError
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mura.config import CONF_DIR
from mura.config.rules import unknown
from mura.errors import DISK_FULL, ConfigError, InterruptedRunError, MuraError, say
from mura.processes import is_rank_zero
from mura.signals import signal_behind

STATED_TWICE = re.compile(r"Multiple values for (\S+?)\.")
KEY_NOT_FOUND = re.compile(r"Key '([^']+)' is not in struct")
FAILED_OVERRIDE = re.compile(r"Could not override '([^']+)'")


def setting_names(config_name: str) -> list[str]:
    """Every key and group of the config with the options chosen on this command line."""
    groups = [folder.name for folder in CONF_DIR.iterdir() if folder.is_dir() and folder.name != "hydra"]
    chosen = [argument for argument in sys.argv[1:] if argument.partition("=")[0] in groups and "," not in argument]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        try:
            cfg = compose(config_name, chosen)
        except HydraException:  # the choice itself is at fault
            cfg = compose(config_name)
    return sorted({*groups, *keys_of(OmegaConf.to_container(cfg))})


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """Every key of a tree of dicts, dotted: `data`, `data.root`."""
    if isinstance(node, dict):
        for key, child in node.items():
            if not str(key).startswith("_"):
                yield path + str(key)
                yield from keys_of(child, f"{path}{key}.")


def sentence_for(error: Exception, config_name: str) -> str:
    """One sentence for what Hydra or OmegaConf found wrong with a command line."""
    text = " ".join(str(cause) for cause in _chain(error))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        if group:
            return f"{group}={name}: " + unknown(name, options, group)
        return f"{name}: there is no such config."
    if isinstance(error, OverrideParseError):
        return f"{error.override}: not understood; settings are written key=value, lists key=[a,b]."
    failed = FAILED_OVERRIDE.search(text)
    if KEY_NOT_FOUND.search(text) or failed:
        key = failed.group(1) if failed else KEY_NOT_FOUND.search(text).group(1)  # type: ignore[union-attr]
        return _no_such_setting(key, config_name)
    if twice := STATED_TWICE.search(text):
        return f"{twice.group(1)} is given twice: give it once."
    return str(error).split("\n")[0].rstrip(".") + "."


def _no_such_setting(key: str, config_name: str) -> str:
    return near_names(key, setting_names(config_name))


def near_names(key: str, names: list[str]) -> str:
    """`trainer.epochs: there is no such setting; did you mean ...? Options: ...`"""
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.6)
    leaf = key.rsplit(".", 1)[-1]
    near += [name for name in names if name.rsplit(".", 1)[-1] == leaf and name not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "`--cfg job` shows them all."
    parent = key.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    return f"{key}: there is no such setting; {hint} Options: {', '.join(siblings)}."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def users_error(error: Exception) -> MuraError | None:
    """The error of the user's in an exception, which Hydra may have wrapped; None when it is not the user's."""
    if not isinstance(error, (HydraException, OmegaConfBaseException, MuraError)):
        return None
    return next((cause for cause in _chain(error) if isinstance(cause, MuraError)), None)


@contextmanager
def one_clear_line(config_name: str = "train") -> Iterator[None]:
    """The one place where an error of the user's becomes a sentence on stderr and an exit code.

    Anything that is not the user's to mend keeps its traceback.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then hands its errors on instead of printing them
    try:
        yield
    except Exception as error:
        user_error = users_error(error)
        if signal_behind(error) is not None and not isinstance(user_error, InterruptedRunError):
            raise  # a library's reaction to Ctrl-C or SIGTERM
        if user_error is None:
            user_error = as_users_error(error, config_name)
        if user_error is None:
            raise
        if is_rank_zero() or not isinstance(user_error, InterruptedRunError):  # the first process speaks for all
            say(str(user_error))
        raise SystemExit(user_error.exit_code) from None


def as_users_error(error: Exception, config_name: str) -> MuraError | None:
    """What Hydra, OmegaConf or the disk found wrong, as an error of the user's; None when it is not the user's."""
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(f"{error.full_key} is not set: give {error.full_key}=VALUE.")
    if isinstance(error, (ConfigCompositionException, OverrideParseError, OmegaConfBaseException)):
        return ConfigError(sentence_for(error, config_name))
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        place = error.filename or "the disk"
        return MuraError(f"{place}: no room ({error.strerror}); make room and give the same command again.")
    return None
