"""The command line as Hydra gets it: flags in front, texts quoted, and the settings of a run that goes on."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from mura.config import CONF_DIR
from mura.config.help import options, run_groups
from mura.config.rules import LISTS_OF_EXTREMITIES
from mura.errors import ConfigError
from mura.runs.folder import RunFolder
from mura.runs.records import read_overrides, read_search_path

FLAGS_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip
FLAGS = (
    *FLAGS_WITH_VALUE, "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc",
)  # fmt: skip
SHOWING_FLAGS = {"--cfg", "-c", "--info", "-i"}
MULTIRUN = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
PATHS = ("data.root", "data.cache_dir", "model.weights", "resume", "studies_dir", "hydra.run.dir", "hydra.sweep.dir")
ONE_FOR_ALL = ("resume", "hydra.run.dir", "hydra.sweep.dir")  # no run of a multirun has its own
TEXTS = (*PATHS, "name", "group")
SEVERAL_AT_ONCE = ("logger", "callbacks")  # groups of which several options may be chosen together
STUDY_LISTS = ("models", "seeds", "extremities", "arms", *SEVERAL_AT_ONCE, *LISTS_OF_EXTREMITIES)
PLAIN = re.compile(r"[\w./-]*", re.ASCII)  # what Hydra takes as it stands


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Return what was typed as Hydra understands it.

    Flags, with their values, go to the front: Hydra's parser refuses settings on both sides of a flag. Values that its
    grammar can't take are quoted. Raises ConfigError for a flag that there is not, and for what contradicts itself.
    """
    flags, settings = flags_and_settings(arguments)
    for flag in flags:
        if flag.startswith("-"):
            check_flag(flag, FLAGS)
    if SHOWING_FLAGS & {flag.partition("=")[0] for flag in flags} and MULTIRUN & set(arguments):
        raise ConfigError("-m and --cfg don't go together: leave out -m, and name one run.")
    several = bool(MULTIRUN & set(arguments))
    flags, own_options = without_config_dir(flags)
    return [*flags, *understood_settings(settings, several), *own_options]


def study_arguments(arguments: list[str]) -> list[str]:
    """Return the settings of a study, and of its runs, as Hydra understands them.

    Raises ConfigError for a flag that there is not, and for several values that are no list.
    """
    flags, settings = flags_and_settings(arguments)
    for flag in flags:
        if flag in MULTIRUN:
            raise ConfigError(f"{flag}: a study starts its runs itself; give lists, such as 'seeds=[0,1,2]'.")
        if flag.startswith("-"):
            check_flag(flag, ("--config-dir", "-cd"))
    understood = [*understood_settings(settings), *without_config_dir(flags)[1]]
    for setting in understood:
        key, _, values = setting.partition("=")
        override = None if PLAIN.fullmatch(values) else parsed(setting)
        if override is not None and override.is_sweep_override():
            way = f"; a list is written '{key}=[{values}]'" if key in STUDY_LISTS else ": in a study it takes one"
            raise ConfigError(f"{setting}: several values{way}.")
    return understood


def flags_and_settings(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags with their values, and the other arguments."""
    flags: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_value = before in FLAGS_WITH_VALUE and not (before in ("--info", "-i") and "=" in argument)
        (flags if is_value or argument.startswith("-") else settings).append(argument)
    return flags, settings


def check_flag(typed: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError for a flag that there is not, such as the `--optimizer.lr=0.1` of a W&B agent."""
    name, equals, _ = typed.partition("=")
    if name in known:
        return
    if equals:
        raise ConfigError(
            f"{typed}: settings are written without dashes, {typed.lstrip('-')} (a W&B sweep does it with "
            "${args_no_hyphens} in place of ${args} in its command)."
        )
    raise ConfigError(f"{typed}: there is no such flag; settings are written key=value, without dashes.")


def without_config_dir(flags: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags without --config-dir, and its folder as a setting.

    As a setting it reaches the processes of a multirun, of a study and of a run that goes on.
    """
    kept, folders = [], []
    for before, flag in zip(["", *flags], flags, strict=False):
        name, equals, value = flag.partition("=")
        if before in ("--config-dir", "-cd"):
            folders.append(flag)
        elif name not in ("--config-dir", "-cd"):
            kept.append(flag)
        elif equals:
            folders.append(value)
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise ConfigError(f"--config-dir {folder}: there is no such folder.")
    return kept, search_path(f"file://{Path(folder).expanduser().resolve()}" for folder in folders)


def search_path(places: Iterable[str]) -> list[str]:
    """Return the setting that has Hydra look for options there too; none without places."""
    listed = ",".join(quoted(place) for place in places)
    return [f"hydra.searchpath=[{listed}]"] if listed else []


def understood_settings(settings: list[str], several: bool = False) -> list[str]:
    """Return the settings with values that Hydra takes as they are meant; `several` allows lists of runs."""
    return [understood for setting in settings for understood in understood_setting(setting, several)]


def understood_setting(setting: str, several: bool = False) -> Iterator[str]:
    """Yield the setting with its value quoted where Hydra would misread it, and `~` expanded in a path.

    A group that is set to null is left out, or has its option `none`. Raises ConfigError for a group without a choice,
    and for a run folder without a name.
    """
    key, equals, value = setting.partition("=")
    name = key.lstrip("+")
    if equals and name in ("hydra.run.dir", "hydra.sweep.dir") and value.strip("'\" ") in ("", "null"):
        raise ConfigError(f"{setting}: names no folder; give one, or leave the setting out.")
    if value == "" or key.startswith("~"):
        yield setting
    elif name in run_groups():
        yield from chosen_option(key, value)
    elif name in TEXTS:
        yield f"{key}={text_of(expanded(value) if name in PATHS else value, several and name not in ONE_FOR_ALL)}"
    elif PLAIN.fullmatch(value) or value[0] in "[{'\"" or parsed(setting):
        yield setting
    else:
        yield f"{key}={text_of(value, several)}"


def chosen_option(key: str, value: str) -> Iterator[str]:
    """Yield the choice of a group's option. Raises ConfigError for null or false, or a list, where one is needed."""
    group = key.lstrip("+")  # each has a default, so that nothing is to be added
    if value.startswith("[") and group not in SEVERAL_AT_ONCE:
        pooled = f"; extremities are pooled with 'data.extremities={value}'" if group == "data" else ""
        raise ConfigError(f"{group}={value}: takes one option, or several with -m, a run for each{pooled}.")
    if value.lower() not in ("null", "false"):
        yield f"{group}={value}"
    elif "none" in options(CONF_DIR / group):
        yield f"{group}=none"
    elif group != "experiment":
        raise ConfigError(f"{group}={value}: a run needs one of {', '.join(options(CONF_DIR / group))}.")


def expanded(path: str) -> str:
    """Return a path with its `~` or `~user` expanded, as a shell does only at the beginning of a word."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def text_of(value: str, several: bool = False) -> str:
    """Return a text as Hydra reads it as this very text, quoted if need be; null and what is quoted stay as they are.

    With `several`, commas separate texts, unless there is a file or folder with that comma in its name.
    """
    if value in ("", "null"):
        return value
    override = parsed(f"key={value}")
    sweeps = override is not None and override.is_sweep_override()
    read = None if override is None or sweeps else override.value()
    if isinstance(read, str) and (read == value or value[0] in "'\"" or "\\" in value):  # quoted or escaped already
        return value
    if several and not is_one_path(value):
        if sweeps:
            return value
        if "," in value:
            return ",".join(text_of(each) for each in value.split(","))
    return quoted(value)


def is_one_path(value: str) -> bool:
    """Return whether a comma of this path is one in the name of a file or folder that is there."""
    path = Path(value)
    return any(each.exists() for each in (path, *path.parents) if "," in str(each))


def quoted(text: str) -> str:
    return str(QuotedString(text, Quote.single).with_quotes())


def parsed(setting: str) -> Override | None:
    """Return the setting as Hydra's parser reads it; None if it can't."""
    try:
        return OverridesParser.create().parse_override(setting)
    except HydraException:
        return None


def resume_arguments(arguments: list[str]) -> list[str]:
    """Replace `resume=RUN_FOLDER` by the saved command line of that run; return other arguments unchanged.

    Those settings that are given anew (trainer.max_epochs=30, logger=csv) are left out of it. Raises ConfigError when
    there is no run in the folder, or a finished one.
    """
    given = [argument for argument in arguments if argument.startswith("resume=")]
    folder_text = given[-1].removeprefix("resume=").strip("'\"") if given else ""
    if folder_text in ("", "null") or any(argument.startswith("hydra.run.dir=") for argument in arguments):
        return arguments
    run = RunFolder(Path(folder_text).expanduser().resolve())
    if not run.overrides.is_file():
        raise ConfigError(f"resume={folder_text}: no run to go on with there ({run.overrides} is missing).")
    if run.finished:
        raise ConfigError(f"resume={folder_text}: this run is finished; its results are in metrics.json.")
    others = [argument for argument in arguments if argument not in given]
    again = {*map(key_of, others), "resume"}
    saved = [override for override in read_overrides(run) if key_of(override) not in again]
    # another logger brings its own settings: `logger=csv` has no `logger.wandb`
    kept = [override for override in saved if "logger" not in again or not key_of(override).startswith("logger.")]
    if not {"--config-dir", "-cd", "hydra.searchpath"} & {argument.partition("=")[0] for argument in others}:
        refuse_saved_search_path(run)
    return [*kept, *others, f"resume={run.path}", f"hydra.run.dir={run.path}"]


def key_of(override: str) -> str:
    """Return the setting of an override: `trainer.max_time` of `+trainer.max_time=1`."""
    return override.lstrip("+~").partition("=")[0]


def refuse_saved_search_path(run: RunFolder) -> None:
    """Raise ConfigError when a run's options lay in a folder of the user's own, which must then be named again.

    What lies there is obeyed by Hydra, so that the file of a run folder alone must not choose it.
    """
    for place in read_search_path(run):
        folder = place.removeprefix("file://")
        raise ConfigError(
            f"resume={run.path}: some of its options lay in {folder}; if you trust what is there, name it again: "
            f"--config-dir={folder}."
        )
