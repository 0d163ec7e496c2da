"""The command line as Hydra gets it: flags in front, and the settings of a run that goes on."""

from pathlib import Path

from omegaconf import OmegaConf

from mura.errors import ConfigError
from mura.runs import RunFolder


def multirun_first(arguments: list[str]) -> list[str]:
    """Move `-m` to the front: Hydra's parser drops settings that follow it."""
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return flags + [argument for argument in arguments if argument not in flags]


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
