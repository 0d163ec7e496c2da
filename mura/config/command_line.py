"""The command line as Hydra gets it: flags in front, and the settings of a run that goes on."""

from pathlib import Path

from omegaconf import OmegaConf

from mura.errors import ConfigError
from mura.runs import RunFolder

FLAGS_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip
SHOWING_FLAGS = {"--cfg", "-c", "--info", "-i"}


def flags_first(arguments: list[str]) -> list[str]:
    """Move Hydra's flags, with their values, to the front: its parser refuses settings on both sides of a flag.

    Raises ConfigError when a multirun is to be shown: Hydra shows a single run.
    """
    flags: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_value = before in FLAGS_WITH_VALUE and not (before in ("--info", "-i") and "=" in argument)
        (flags if is_value or argument.startswith("-") else settings).append(argument)
    if SHOWING_FLAGS & set(flags) and {"-m", "--multirun"} & set(flags):
        raise ConfigError("-m and --cfg don't go together: leave out -m, and name one run.")
    return flags + settings


def resume_arguments(arguments: list[str]) -> list[str]:
    """Replace `resume=RUN_FOLDER` by the saved command line of that run; return other arguments unchanged.

    Those settings that are given anew (trainer.max_epochs=30, logger=csv) are left out of it. Raises ConfigError when
    there is no run in the folder, or a finished one.
    """
    given = [argument for argument in arguments if argument.startswith("resume=")]
    folder_text = given[-1].removeprefix("resume=").strip("'\"") if given else ""
    if folder_text in ("", "null") or any(argument.startswith("hydra.run.dir=") for argument in arguments):
        return arguments
    run = RunFolder(Path(folder_text).resolve())
    if not run.overrides.is_file():
        raise ConfigError(f"resume={folder_text}: no run to go on with there ({run.overrides} is missing).")
    if run.finished:
        raise ConfigError(f"resume={folder_text}: this run is finished; its results are in metrics.json.")
    others = [argument for argument in arguments if argument not in given]
    again = {*map(key_of, others), "resume"}
    saved = [str(override) for override in OmegaConf.load(run.overrides) if key_of(str(override)) not in again]
    # another logger brings its own settings: `logger=csv` has no `logger.project`
    kept = [override for override in saved if "logger" not in again or not key_of(override).startswith("logger.")]
    return [*kept, *others, f"resume='{run.path}'", f"hydra.run.dir='{run.path}'"]


def key_of(override: str) -> str:
    """Return the setting of an override: `trainer.max_time` of `+trainer.max_time=1`."""
    return override.lstrip("+~").partition("=")[0]
