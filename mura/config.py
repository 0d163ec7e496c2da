"""The door: what a command line is checked for before anything starts, and one clear line for each error.

No torch here: `--help`, `--cfg job` and a mistyped option must answer at once.
"""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.errors import OverrideParseException as OverrideParseError
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mura.data.sizes import cache_size_for
from mura.errors import DISK_FULL, ConfigError, InterruptedRunError, MuraError
from mura.extremities import EXTREMITIES, arm_of, data_name
from mura.runs import RunFolder, is_rank_zero
from mura.slurm import check_tasks, minutes_of

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"
STATED_TWICE = re.compile(r"Multiple values for (\S+?)\.")
KEY_NOT_FOUND = re.compile(r"Key '([^']+)' is not in struct")
FAILED_OVERRIDE = re.compile(r"Could not override '([^']+)'")

log = logging.getLogger(__name__)


def register_resolvers() -> None:
    """The derived values that conf/ uses: `${data_name:...}`, `${cache_size:...}`, `${run_dir:}`."""
    OmegaConf.register_new_resolver("data_name", lambda names: data_name(list(names)), replace=True)
    OmegaConf.register_new_resolver("arm_of", lambda names: arm_of(list(names)), replace=True)
    OmegaConf.register_new_resolver("not", lambda value: not value, replace=True)
    OmegaConf.register_new_resolver("cache_size", cache_size_for, replace=True)
    OmegaConf.register_new_resolver("run_dir", lambda: HydraConfig.get().runtime.output_dir, replace=True)


# --- values -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """What a setting may be: `holds(value)`, and `wanted`, the words for it."""

    holds: Callable[[Any], bool]
    wanted: str


def whole(low: int, high: int | None = None, or_null: bool = False) -> Rule:
    def holds(value: Any) -> bool:
        if value is None:
            return or_null
        return type(value) is int and value >= low and (high is None or value <= high)

    bounds = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    return Rule(holds, bounds + (" or null" if or_null else ""))


def number(low: float, high: float | None = None, above: bool = False) -> Rule:
    def holds(value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return (value > low if above else value >= low) and (high is None or value <= high)

    bounds = f"a number {'above' if above else 'of at least'} {low:g}"
    return Rule(holds, bounds if high is None else f"a number from {low:g} to {high:g}")


def one_of(*options: Any) -> Rule:
    return Rule(lambda value: value in options, "one of " + ", ".join(str(option) for option in options))


def share_or_count() -> Rule:
    def holds(value: Any) -> bool:
        return (type(value) is int and value >= 0) or (type(value) is float and 0 <= value <= 1)

    return Rule(holds, "a whole number of batches, or a share from 0.0 to 1.0")


PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", 32)
RULES: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "arm": one_of("specialised", "unified", "union", "shared", "finetuned", "leave_one_out"),
    "mode": one_of("min", "max"),
    "monitor": one_of("val_loss", "val_accuracy", "val_kappa", "val_auroc", "train_loss", "train_accuracy"),
    "data.image_size": whole(32, 2048),
    "data.cache_size": whole(32, 4096),
    "data.batch_size": whole(1),
    "data.accumulate": whole(1),
    "data.fold": whole(0, 4),
    "data.transfer": one_of(True, False),
    "data.resident": one_of("auto", True, False),
    "ensemble": whole(1),
    "model.dropout": number(0, 0.99),
    "model.loss.balance": one_of(True, False),
    "model.separate_heads": one_of(True, False),
    "model.compile": one_of(True, False),
    "early_stopping.patience": whole(1, or_null=True),
    "optimizer.lr": number(0, above=True),
    "optimizer.momentum": number(0, 0.9999),
    "optimizer.weight_decay": number(0),
    "scheduler.step_size": whole(1),
    "scheduler.gamma": number(0, 1, above=True),
    "scheduler.factor": number(0, 0.9999, above=True),
    "scheduler.patience": whole(0),
    "scheduler.T_max": whole(1),
    "augmentation.flip": number(0, 1),
    "augmentation.rotation": number(0, 180),
    "augmentation.shift": number(0, 1),
    "augmentation.scale": number(0, 0.9),
    "augmentation.brightness": number(0, 1),
    "augmentation.contrast": number(0, 1),
    "trainer.accelerator": one_of("auto", "cpu", "gpu"),
    "trainer.devices": whole(1),
    "trainer.num_nodes": whole(1),
    "trainer.precision": one_of(*PRECISIONS),
    "trainer.max_epochs": whole(1),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.num_sanity_val_steps": whole(0),
    "trainer.limit_train_batches": share_or_count(),
    "trainer.limit_val_batches": share_or_count(),
    "trainer.limit_predict_batches": share_or_count(),
}


def check_values(cfg: DictConfig) -> None:
    """Every setting that has a rule keeps it; raises ConfigError for the first that does not."""
    for key, rule in RULES.items():
        value = OmegaConf.select(cfg, key, default="absent")
        if value != "absent" and not rule.holds(value):
            raise ConfigError(f"{key}={value}: must be {rule.wanted}.")
    check_extremities("data.extremities", cfg.data.extremities)
    for key in ("test_extremities", "steps_like"):
        if cfg.data[key] is not None:
            check_extremities(f"data.{key}", cfg.data[key])
    if cfg.data.accumulate > cfg.data.batch_size:
        raise ConfigError(
            f"data.accumulate={cfg.data.accumulate}: a batch of data.batch_size={cfg.data.batch_size} views can't be "
            "taken in more parts than it has views."
        )
    if cfg.trainer.accumulate_grad_batches != cfg.data.accumulate:
        raise ConfigError(
            f"trainer.accumulate_grad_batches={cfg.trainer.accumulate_grad_batches}: follows data.accumulate, which "
            "takes each batch in parts; give data.accumulate instead."
        )
    if cfg.data.cache_size < cfg.data.image_size:
        raise ConfigError(
            f"data.cache_size={cfg.data.cache_size} is smaller than data.image_size={cfg.data.image_size}: "
            "the cache must hold at least what the network sees; leave data.cache_size out to derive it."
        )


def text_or_null() -> Rule:
    return Rule(lambda value: value is None or (type(value) is str and value != ""), "a name, or null")


LAUNCHER_RULES: dict[str, Rule] = {
    "workers": whole(1, or_null=True),
    "partition": text_or_null(),
    "account": text_or_null(),
    "time": Rule(
        lambda value: type(value) in (int, str) and minutes_of(value) is not None,
        "minutes, hours:minutes:seconds or days-hours:minutes, above zero",
    ),
    "gpus": whole(0),
    "cpus": whole(1),
    "memory": number(0, above=True),
    "at_a_time": whole(1, or_null=True),
    "setup": Rule(
        lambda value: isinstance(value, list) and all(type(line) is str for line in value),
        "a list of lines for the batch script",
    ),
    "options": Rule(lambda value: isinstance(value, dict), "sbatch options with their values, such as {qos: high}"),
}


def check_launcher(settings: Mapping[Any, Any], prefix: str = "launcher") -> dict[str, Any]:
    """The settings of a launcher, local or SLURM's, as plain values; raises ConfigError for one that can't be used."""
    plain = {
        str(name): OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for name, value in settings.items()
    }
    for name, value in plain.items():
        if not LAUNCHER_RULES[name].holds(value):
            raise ConfigError(f"{prefix}.{name}={value}: must be {LAUNCHER_RULES[name].wanted}.")
    return plain


def check_extremities(key: str, wished: Any) -> None:
    if isinstance(wished, str):
        raise ConfigError(f"{key}={wished}: write it as a list, {key}=[{wished}].")
    names = list(wished or [])
    if not names:
        raise ConfigError(f"{key} is empty: name at least one of {', '.join(EXTREMITIES)}.")
    for name in names:
        if name not in EXTREMITIES:
            raise ConfigError(f"{key}: {unknown(str(name), list(EXTREMITIES), 'extremity')}")
        if names.count(name) > 1:
            raise ConfigError(f"{key} names {name} twice: name each extremity once.")


def check_root(root: str | None) -> None:
    """A data root is given and is a MURA folder; what is in it, the index says."""
    if root is None or root == "":
        raise ConfigError(
            "data.root is not set: give data.root=DIR or set MURA_ROOT to your MURA-v1.1 folder "
            "(`mura synth DIR` writes a synthetic one)."
        )
    if not Path(root).expanduser().is_dir():
        raise ConfigError(f"data.root={root}: there is no such folder; give the path of MURA-v1.1.")
    from mura.data.index import find_root  # pandas comes with it: not before all else is right

    find_root(root)


def check(cfg: DictConfig) -> None:
    """All that can be known of one run's config before anything is imported, started or written."""
    check_values(cfg)
    if OmegaConf.is_missing(cfg.model, "name"):
        raise ConfigError(
            "model.name is not set: give any torchvision classifier, for example model.name=convnext_tiny."
        )
    check_tasks(cfg.trainer.devices, cfg.trainer.num_nodes)
    check_root(cfg.data.root)


class CheckBeforeRun(Callback):
    """Checks a run's config before Hydra makes its folder, so that a refused run leaves nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with one_clear_line():
            check(config)
            folder = RunFolder(Path(config.hydra.run.dir))
            folder.refuse_if_finished()
            folder.refuse_if_unwritable()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
            return  # a searching sweeper makes up its jobs as it goes
        with one_clear_line():
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            jobs = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
            loader, name = GlobalHydra.instance().config_loader(), kwargs["config_name"]
            for cfg in [loader.load_configuration(name, list(job), RunMode.RUN) for job in jobs]:
                check(cfg)


# --- the command line -----------------------------------------------------------------------------------------------


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


# --- one clear line ---------------------------------------------------------------------------------------


def unknown(name: str, options: list[str], kind: str) -> str:
    """`no model resnet81; did you mean resnet18? Options: ...`"""
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]}?" if near else ""
    return f"there is no {kind} {name};{hint} Options: {', '.join(options)}."


def setting_names(config_name: str) -> list[str]:
    """Every key and group of the config with the options chosen on this command line."""
    groups = [folder.name for folder in CONF_DIR.iterdir() if folder.is_dir() and folder.name != "hydra"]
    chosen = [argument for argument in sys.argv[1:] if argument.partition("=")[0] in groups and "," not in argument]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        try:
            cfg = compose(config_name, chosen)
        except HydraException:  # the choice itself is at fault
            cfg = compose(config_name)
    return sorted({*groups, *keys_of(OmegaConf.to_container(cfg))})


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """Every key of a tree of dicts, dotted: `data`, `data.root`."""
    if isinstance(node, dict):
        for key, child in node.items():
            if not str(key).startswith("_"):
                yield path + str(key)
                yield from keys_of(child, f"{path}{key}.")


def sentence_for(error: Exception, config_name: str) -> str:
    """One sentence for what Hydra or OmegaConf found wrong with a command line."""
    text = " ".join(str(cause) for cause in _chain(error))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        if group:
            return f"{group}={name}: " + unknown(name, options, group)
        return f"{name}: there is no such config."
    if isinstance(error, OverrideParseError):
        return f"{error.override}: not understood; settings are written key=value, lists key=[a,b]."
    failed = FAILED_OVERRIDE.search(text)
    if KEY_NOT_FOUND.search(text) or failed:
        key = failed.group(1) if failed else KEY_NOT_FOUND.search(text).group(1)  # type: ignore[union-attr]
        return _no_such_setting(key, config_name)
    if twice := STATED_TWICE.search(text):
        return f"{twice.group(1)} is given twice: give it once."
    return str(error).split("\n")[0].rstrip(".") + "."


def _no_such_setting(key: str, config_name: str) -> str:
    return near_names(key, setting_names(config_name))


def near_names(key: str, names: list[str]) -> str:
    """`trainer.epochs: there is no such setting; did you mean ...? Options: ...`"""
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.6)
    leaf = key.rsplit(".", 1)[-1]
    near += [name for name in names if name.rsplit(".", 1)[-1] == leaf and name not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "`--cfg job` shows them all."
    parent = key.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    return f"{key}: there is no such setting; {hint} Options: {', '.join(siblings)}."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def users_error(error: Exception) -> MuraError | None:
    """The error of the user's in an exception, which Hydra may have wrapped; None when it is not the user's."""
    return next((cause for cause in _chain(error) if isinstance(cause, MuraError)), None)


@contextmanager
def one_clear_line(config_name: str = "train") -> Iterator[None]:
    """The one place where an error of the user's becomes a sentence on stderr and an exit code.

    Anything that is not the user's to mend keeps its traceback.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then hands its errors on instead of printing them
    try:
        yield
    except (HydraException, OmegaConfBaseException, MuraError) as error:
        user_error = users_error(error)
        if user_error is not None:
            if is_rank_zero() or not isinstance(user_error, InterruptedRunError):  # the first process speaks for all
                say(str(user_error))
            raise SystemExit(user_error.exit_code) from None
        if not isinstance(error, (ConfigCompositionException, OverrideParseError, OmegaConfBaseException)):
            raise
        if isinstance(error, MissingMandatoryValue):
            say(f"{error.full_key} is not set: give {error.full_key}=VALUE.")
        else:
            say(sentence_for(error, config_name))
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        say(f"{error.filename or 'the disk'}: no room ({error.strerror}); make room and give the same command again.")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("stopped.")
        raise SystemExit(130) from None


def say(sentence: str) -> None:
    """The sentence on stderr, with the program's name."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr, flush=True)
