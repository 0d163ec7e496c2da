"""The start of a run in its folder: refused without a trace, or written down, so that the run can go on."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mura.config.sentences import explain_unless_stopped
from mura.errors import ConfigError, InterruptedRunError
from mura.files import write_text
from mura.processes import is_rank_zero
from mura.runs.folder import EXPERIMENT_KEYS, MAY_CHANGE, RunFolder
from mura.runs.records import read_config
from mura.study.grid import differences


def claim_folder(config: DictConfig, key: str) -> None:
    """Make the folder of a run (`run`) or multirun (`sweep`) that nobody has named, so that no other start has it.

    Where its name is taken, a counter stands behind it.
    """
    if not is_rank_zero() or any(each.startswith(f"hydra.{key}.dir=") for each in config.hydra.overrides.hydra):
        return
    path = Path(config.hydra[key].dir)
    for number in count(1):
        free = path if number == 1 else path.with_name(f"{path.name}_{number}")
        try:
            free.mkdir(parents=True)
        except FileExistsError:
            continue
        with read_write(config), open_dict(config):
            config.hydra[key].dir = str(free)
        return


def fetch_weights(models: Iterable[Mapping[str, Any]]) -> None:
    """Fetch the ImageNet weights of these models once, where the command is typed, before any run is started.

    The machines of a queue may have no network. Raises MuraError for weights that can't be had.
    """
    wanted = sorted({(each["name"], each["library"]) for each in models if each["weights"] == "imagenet"})
    if wanted:  # else torch need not be imported
        from mura.models.backbones import pretrained_file

        for name, library in wanted:
            pretrained_file(name, library)


@contextmanager
def removed_if_refused(run: RunFolder) -> Iterator[None]:
    """Remove what a refused first start leaves in its folder, and the folder if nothing else is in it.

    Empty folders above it go too, up to the working folder.
    """
    try:
        yield
    except Exception as error:
        user_error = explain_unless_stopped(error)
        refused = user_error is not None and not isinstance(user_error, InterruptedRunError)
        if refused and is_rank_zero() and not run.begun:
            for name in (".lock", ".writer", "train.log"):
                (run.path / name).unlink(missing_ok=True)
            here = Path.cwd()
            with suppress(OSError):  # not empty
                for folder in (run.path, *(parent for parent in run.path.parents if here in parent.parents)):
                    if folder != here:
                        folder.rmdir()
        raise


def refuse_another_experiment(run: RunFolder, cfg: DictConfig) -> None:
    """Raise ConfigError when the run in the folder was trained with other settings than these.

    Of what makes the experiment, only MAY_CHANGE may be another; and no epoch that is done is undone.
    """
    if not (run.last_file.is_file() or run.previous_file.is_file()):
        return
    if not run.config.exists():
        raise ConfigError(
            f"{run.path}: has checkpoints, but no config.yaml that says what they were trained with; "
            "choose another hydra.run.dir."
        )
    saved, wanted = read_config(run), _experiment_of(cfg)
    different = list(differences(saved, wanted, MAY_CHANGE))
    if different:
        follows = (
            all(each.startswith("scheduler.T_max ") for each in different)
            and saved["trainer"]["max_epochs"] != cfg.trainer.max_epochs
        )
        why = "its schedule follows trainer.max_epochs" if follows else f"only {', '.join(MAY_CHANGE)} may change"
        raise ConfigError(
            f"{run.path} holds a run with other settings: {'; '.join(different)}; go on with those that it was trained "
            f"with ({why}), or choose another hydra.run.dir."
        )
    if cfg.trainer.max_epochs < run.epochs_done:
        raise ConfigError(
            f"trainer.max_epochs={cfg.trainer.max_epochs}: {run.path} has trained {run.epochs_done} epochs already; "
            "give as many at least, or choose another hydra.run.dir."
        )


def _experiment_of(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings that make the experiment, resolved: those alone, as others depend on the run's folder."""
    experiment = OmegaConf.create({})
    for key in EXPERIMENT_KEYS:
        value = OmegaConf.select(cfg, key)
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        OmegaConf.update(experiment, key, plain, force_add=True)
    plain_experiment = OmegaConf.to_container(experiment)
    assert isinstance(plain_experiment, dict)
    return {str(key): value for key, value in plain_experiment.items()}


def write_settings(run: RunFolder, cfg: DictConfig) -> None:
    """Write config.yaml and Hydra's own files, by which the run can go on; once no check is left that refuses it."""
    if not is_rank_zero():
        return
    hydra = HydraConfig.get()
    run.overrides.parent.mkdir(exist_ok=True)
    write_text(run.overrides.with_name("config.yaml"), OmegaConf.to_yaml(cfg))
    write_text(run.overrides.with_name("hydra.yaml"), OmegaConf.to_yaml({"hydra": hydra}))
    write_text(run.overrides, OmegaConf.to_yaml(hydra.overrides.task))
    write_text(run.config, OmegaConf.to_yaml(cfg, resolve=True))
