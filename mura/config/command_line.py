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

    The saved settings come first, so that those given now (trainer.max_epochs=30) win. Raises ConfigError when there
    is no run in the folder, or a finished one.
    """
    given = [argument for argument in arguments if argument.startswith("resume=")]
    folder_text = given[-1].removeprefix("resume=").strip("'\"") if given else ""
    if folder_text in ("", "null") or any(argument.startswith("hydra.run.dir=") for argument in arguments):
        return arguments
    folder = Path(folder_text)
    saved = folder / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        raise ConfigError(f"resume={folder_text}: no run to go on with there ({saved} is missing).")
    if RunFolder(folder).finished:
        raise ConfigError(f"resume={folder_text}: this run is finished; its results are in metrics.json.")
    others = [argument for argument in arguments if argument not in given]
    overrides = [str(override) for override in OmegaConf.load(saved)]
    absolute = str(folder.resolve())
    return [*overrides, *others, f"resume='{absolute}'", f"hydra.run.dir='{absolute}'"]
