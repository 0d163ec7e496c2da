"""Say in one sentence what is wrong with a command line, a config or the disk, and end with its exit code."""

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.errors import OverrideParseException as OverrideParseError
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from mura.config import CONF_DIR
from mura.config.help import options
from mura.config.rules import LISTS_OF_EXTREMITIES, describe_unknown, describe_unknown_setting
from mura.errors import DISK_FULL, LONGEST, ConfigError, InterruptedRunError, MuraError, escape_on_stdout, say
from mura.processes import is_rank_zero
from mura.signals import signal_behind

STATED_TWICE = re.compile(r"Multiple values for (\S+?)\.")
FAILED_OVERRIDE = re.compile(r"Could not override '([^']+)'")
AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.+)'$", re.MULTILINE)
THERE_ALREADY = re.compile(r"Could not append to config. An item is already at '(.+)'")
NOT_THERE = re.compile(r"Could not delete from config. '(.+)' does not exist")
OTHER_KIND = re.compile(r"Error merging override (\S+?)=")
ONE_LIST = ("logger", "callbacks", *LISTS_OF_EXTREMITIES)


@contextmanager
def exit_with_sentence() -> Iterator[None]:
    """Say a user's error on stderr and exit with its code; any other error keeps its traceback."""
    escape_on_stdout()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then hands its errors on instead of printing them
    try:
        yield
    except Exception as error:
        user_error = explain_unless_stopped(error)
        if user_error is None:
            raise
        if is_rank_zero() or not isinstance(user_error, InterruptedRunError):  # the first process speaks for all
            say(str(user_error))
        raise SystemExit(user_error.exit_code) from None


def explain_unless_stopped(error: Exception) -> MuraError | None:
    """Return what `explain_error` does, but None for what a library makes of Ctrl-C or SIGTERM."""
    user_error = explain_error(error)
    if signal_behind(error) is not None and not isinstance(user_error, InterruptedRunError):
        return None
    return user_error


def explain_error(error: Exception) -> MuraError | None:
    """Return the error as one that its user can mend, with a sentence; None for a fault of the program."""
    if isinstance(error, (HydraException, OmegaConfBaseException, MuraError)):  # Hydra wraps what its callees raise
        raised = next((cause for cause in _causes(error) if isinstance(cause, MuraError)), None)
        if raised is not None:
            return raised
    if isinstance(error, (HydraException, OmegaConfBaseException)) and not isinstance(error, InstantiationException):
        return ConfigError(describe_config_error(error))
    if (of_composition := error_of_composition(error)) is not None:
        return of_composition
    if isinstance(error, UnicodeEncodeError):
        return MuraError(f"{str(error.object)[:200]}: holds a name that is not UTF-8; rename that file or folder.")
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        place = error.filename or "the disk"
        return MuraError(f"{place}: no room ({error.strerror}); make room and give the same command again.")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return MuraError(f"{str(error.filename)[:LONGEST]}...: the name is too long for a file; give a shorter one.")
    return None


def describe_config_error(error: Exception) -> str:
    """Return in one sentence what Hydra or OmegaConf found wrong with a command line."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: give {error.full_key}=VALUE."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group:
            return f"{group}={name}: {describe_unknown(name, list(error.options or options(CONF_DIR / group)), group)}"
        return f"{name}: there is no such config."
    if isinstance(error, OverrideParseError):
        if not str(error.override).isascii():
            return f"{error.override}: not understood; put such a name in quotes, \"key='name'\"."
        return f"{error.override}: not understood; settings are written key=value, lists 'key=[a,b]'."
    for cause in _causes(error):
        if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and OmegaConf.is_dict(cause.parent_node):
            return describe_unknown_key(error, cause)
    if several := AMBIGUOUS.search(str(error)):
        return describe_several(several.group(1))
    if there := THERE_ALREADY.search(str(error)):
        return f"+{there.group(1)}: this setting is there already; leave out the plus."
    if not_there := NOT_THERE.search(str(error)):
        return f"~{not_there.group(1)}: there is no such setting; `--cfg job` shows them all."
    if twice := STATED_TWICE.search(str(error)):
        return f"{twice.group(1)} is given twice: give it once."
    if override := FAILED_OVERRIDE.search(str(error)):
        return f"{override.group(1)}: there is no such setting; `--cfg job` shows them all."
    if mixed := OTHER_KIND.search(str(error)):
        wanted = "has settings below it" if "object_type=dict" in str(error.__cause__) else "is a list"
        return f"{mixed.group(1)}: {wanted}, which this can't take the place of; `--cfg job` shows it as it is."
    return first_line(error)


def describe_unknown_key(error: Exception, cause: ConfigAttributeError | ConfigKeyError) -> str:
    """Return the sentence for a key that is not in the config.

    The names come from the config as Hydra had composed it when it met the key, so they need no second composition.
    """
    override = FAILED_OVERRIDE.search(str(error))
    key = override.group(1) if override else str(cause.full_key)
    to_root = "." * (str(cause.full_key).count(".") + 1)  # OmegaConf's relative path upwards from the key's parent
    return describe_unknown_setting(key, OmegaConf.to_container(OmegaConf.select(cause.parent_node, to_root)))


def describe_several(setting: str) -> str:
    """Return what a setting with commas may mean: runs of a multirun, or one list."""
    key, _, values = setting.partition("=")
    if key in ONE_LIST:
        return f"{setting}: a list is written '{key}=[{values}]'; with -m it is a run for each."
    pooled = f", or pool them in one run with 'data.extremities=[{values}]'" if key == "data" else ""
    return f"{setting}: several values are a run for each: add -m{pooled}."


def error_of_composition(error: Exception) -> ConfigError | None:
    """Return what Hydra stumbled over while it composed the config, with an error that is none of its own.

    None for an error from elsewhere.
    """
    composing, setting = False, None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        composing |= frame.f_globals.get("__name__") == "hydra._internal.config_loader_impl"
        if frame.f_code.co_name == "_apply_overrides_to_config":
            setting = getattr(frame.f_locals.get("override"), "input_line", None)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return ConfigError(f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}.")
    if setting is not None:
        return ConfigError(f"{setting}: there is no such setting; `--cfg job` shows them all.")
    return ConfigError(first_line(error)) if composing else None


def first_line(error: Exception) -> str:
    """Return the first line of an error's words as a sentence."""
    return str(error).split("\n")[0].rstrip(".:") + "."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
