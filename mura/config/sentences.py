"""Say in one sentence what is wrong with a command line, a config or the disk, and end with its exit code."""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.errors import OverrideParseException as OverrideParseError
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from mura.config.rules import describe_unknown
from mura.errors import DISK_FULL, ConfigError, InterruptedRunError, MuraError, escape_on_stdout, say
from mura.processes import is_rank_zero
from mura.signals import signal_behind

STATED_TWICE = re.compile(r"Multiple values for (\S+?)\.")
FAILED_OVERRIDE = re.compile(r"Could not override '([^']+)'")
NULL_GROUPS = ("experiment",)  # a group that chooses nothing by default leaves no key in the config


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
    if isinstance(error, UnicodeEncodeError):
        return MuraError(f"{str(error.object)[:200]}: holds a name that is not UTF-8; rename that file or folder.")
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        place = error.filename or "the disk"
        return MuraError(f"{place}: no room ({error.strerror}); make room and give the same command again.")
    return None


def describe_config_error(error: Exception) -> str:
    """Return in one sentence what Hydra or OmegaConf found wrong with a command line."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: give {error.full_key}=VALUE."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group:
            return f"{group}={name}: {describe_unknown(name, list(error.options or []), group)}"
        return f"{name}: there is no such config."
    if isinstance(error, OverrideParseError):
        if not str(error.override).isascii():
            return f"{error.override}: not understood; put such a name in quotes, \"key='name'\"."
        return f"{error.override}: not understood; settings are written key=value, lists 'key=[a,b]'."
    for cause in _causes(error):
        if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and OmegaConf.is_dict(cause.parent_node):
            return describe_unknown_key(error, cause)
    if twice := STATED_TWICE.search(str(error)):
        return f"{twice.group(1)} is given twice: give it once."
    if override := FAILED_OVERRIDE.search(str(error)):
        return f"{override.group(1)}: there is no such setting; `--cfg job` shows them all."
    return str(error).split("\n")[0].rstrip(".") + "."


def describe_unknown_key(error: Exception, cause: ConfigAttributeError | ConfigKeyError) -> str:
    """Return `trainer.epochs: there is no such setting; did you mean ...? Options: ...`

    The names come from the config as Hydra had composed it when it met the key, so they need no second composition.
    """
    override = FAILED_OVERRIDE.search(str(error))
    key = override.group(1) if override else str(cause.full_key)
    to_root = "." * (str(cause.full_key).count(".") + 1)  # OmegaConf's relative path upwards from the key's parent
    root = OmegaConf.to_container(OmegaConf.select(cause.parent_node, to_root))
    names = sorted({*NULL_GROUPS, *keys_of(root)})

    near = difflib.get_close_matches(key, names, n=3, cutoff=0.6)
    leaf = key.rsplit(".", 1)[-1]
    near += [name for name in names if name.rsplit(".", 1)[-1] == leaf and name not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "`--cfg job` shows them all."
    parent = str(cause.full_key).rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    options = f" Options: {', '.join(siblings)}." if siblings else ""
    return f"{key}: there is no such setting; {hint}{options}"


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """Yield every key of a tree of dicts, dotted: `data`, `data.root`."""
    if isinstance(node, dict):
        for key, child in node.items():
            if not str(key).startswith("_"):
                yield path + str(key)
                yield from keys_of(child, f"{path}{key}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
