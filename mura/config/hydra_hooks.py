"""What Hydra calls: the values that conf/ derives, and the check of a run's config before Hydra makes its folder."""

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mura.config.rules import check
from mura.config.sentences import exit_with_sentence
from mura.extremities import data_name
from mura.runs import RunFolder
from mura.study.arms import arm_of


def register_resolvers() -> None:
    """The derived values that conf/ uses: `${data_name:...}`, `${cache_size:...}`, `${run_dir:}`."""
    OmegaConf.register_new_resolver("data_name", lambda names: data_name(list(names)), replace=True)
    OmegaConf.register_new_resolver("arm_of", lambda names: arm_of(list(names)), replace=True)
    OmegaConf.register_new_resolver("not", lambda value: not value, replace=True)
    OmegaConf.register_new_resolver("cache_size", _cache_size_for, replace=True)
    OmegaConf.register_new_resolver("run_dir", lambda: HydraConfig.get().runtime.output_dir, replace=True)


def _cache_size_for(image_size: int) -> int:
    from mura.data.images import cache_size_for  # numpy comes with it: a wrong name is answered without

    return cache_size_for(image_size)


class CheckBeforeRun(Callback):
    """Checks a run's config before Hydra makes its folder, so that a refused run leaves nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_with_sentence():
            check(config)
            folder = RunFolder(Path(config.hydra.run.dir))
            folder.refuse_if_finished()
            folder.refuse_if_unwritable()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
            return  # a searching sweeper makes up its jobs as it goes
        with exit_with_sentence():
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            jobs = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
            loader, name = GlobalHydra.instance().config_loader(), kwargs["config_name"]
            for cfg in [loader.load_configuration(name, list(job), RunMode.RUN) for job in jobs]:
                check(cfg)
