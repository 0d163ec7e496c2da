"""The command line before Hydra reads it."""

from pathlib import Path

from omegaconf import OmegaConf

from mura.errors import ConfigError
from mura.runs import RunFolder


def multirun_first(arguments: list[str]) -> list[str]:
    """`-m` in front: among the settings, Hydra's parser does not take those behind it."""
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return flags + [argument for argument in arguments if argument not in flags]


def resume_arguments(arguments: list[str]) -> list[str]:
    """The command line of the run to go on with, when `resume=RUN_FOLDER` is among the arguments.

    The saved overrides come first, so that what stands on this command line (trainer.max_epochs=30) wins.
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
