"""What Hydra calls: the values that conf/ derives, and the check of a run's config before Hydra makes its folder."""

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from mura.config.rules import MODE_OF, check_config
from mura.config.sentences import exit_with_sentence
from mura.config.start import claim_folder
from mura.extremities import data_name
from mura.runs.folder import RunFolder
from mura.study.arms import arm_of
from mura.tracking.wandb_run import refuse_shared_id


def register_resolvers() -> None:
    """Register the derived values that conf/ uses: `${data_name:...}`, `${cache_size:...}`, `${run_dir:}`."""
    OmegaConf.register_new_resolver("data_name", lambda names: data_name(list(names)), replace=True)
    OmegaConf.register_new_resolver("arm_of", lambda names: arm_of(list(names)), replace=True)
    OmegaConf.register_new_resolver("mode_of", lambda monitor: MODE_OF.get(monitor), replace=True)
    OmegaConf.register_new_resolver("not", lambda value: not value, replace=True)
    OmegaConf.register_new_resolver("cache_size", _cache_size_for, replace=True)
    OmegaConf.register_new_resolver(
        "wandb", lambda name, default: os.environ.get(f"WANDB_{name}") or default, replace=True
    )
    OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)


def _run_dir() -> str:
    """Return the run's folder; the working folder while a config is only looked at, and has none."""
    return str(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else "."


def _cache_size_for(image_size: int) -> int:
    from mura.data.images import cache_size_for  # numpy comes with it: a wrong name is answered without

    return cache_size_for(image_size)


class CheckBeforeRun(Callback):
    """The check of a single run's config. The jobs of a multirun are checked by their launcher."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a multirun whose runs would all be one run in W&B."""
        if "wandb_logger" in str(config.logger):
            refuse_shared_id()

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a run before Hydra makes its folder, so that nothing is left behind."""
        with exit_with_sentence():
            check_config(config)
            RunFolder(Path(config.hydra.run.dir)).refuse_if_unwritable()
            claim_folder(config, "run")
            RunFolder(Path(config.hydra.run.dir)).refuse_if_finished()
