"""What each setting may be: checked before anything heavy is imported, started or written.

Every leaf of a run's config has a rule here; a key without one is read by nothing, and refused. What stands below
`optimizer`, `scheduler`, `logger` and `callbacks` besides goes to the class that `_target_` names, which refuses it
itself (parts.py).
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mura.errors import LONGEST, ConfigError
from mura.extremities import EXTREMITIES
from mura.files import expand_home
from mura.launch.slurm.queue import minutes_of
from mura.launch.slurm.srun import check_tasks
from mura.runs.folder import FOLDS
from mura.runs.records import CLASSES, KNOWN_CLASS, Rule, foreign_class, one_of, whole
from mura.study.arms import ARMS, UNION

MOST_COUNTED = 10**9  # by a setting
LARGEST = 3e38  # in float32


def count(low: int, high: int | None = None) -> Rule:
    """Return the rule for a setting that counts something: an integer within bounds, both of which are allowed."""
    return whole(low, high, MOST_COUNTED)


def number(low: float, high: float | None = None, above: bool = False) -> Rule:
    """Return the rule for a number of float32 within bounds; `above` excludes the lower one."""

    def holds(value: Any) -> bool:
        if type(value) not in (int, float) or not abs(value) <= LARGEST:  # nan neither
            return False
        return (value > low if above else value >= low) and (high is None or value <= high)

    bounds = f"a number {'above' if above else 'of at least'} {low:g}"
    if high is not None:
        bounds = f"a number above {low:g}, at most {high:g}" if above else f"a number from {low:g} to {high:g}"
    return Rule(holds, bounds)


def text(what: str, or_null: bool = False) -> Rule:
    """Return the rule for a text that is not empty; `what` says what it is, such as "a name"."""

    def holds(value: Any) -> bool:
        return (value is None and or_null) or (type(value) is str and value.strip() != "")

    return Rule(holds, f"{what}, or null" if or_null else what)


def share_or_count() -> Rule:
    """Return the rule of Lightning's limits: an integer counts batches, a float is a share of them; none is too few."""

    def holds(value: Any) -> bool:
        return (type(value) is int and 1 <= value <= MOST_COUNTED) or (type(value) is float and 0 < value <= 1)

    return Rule(holds, "a whole number of batches, at least 1, or a share of them above 0.0, at most 1.0")


MODE_OF = dict.fromkeys(("val_loss", "train_loss"), "min") | dict.fromkeys(
    ("val_accuracy", "val_kappa", "val_auroc", "train_accuracy"), "max"
)
"""What `monitor` may be, and whether the least or the most of it is the best."""


def is_list_of(value: Any, kind: type) -> bool:
    return (OmegaConf.is_list(value) or isinstance(value, list)) and all(type(each) is kind for each in value)


def is_duration(value: Any) -> bool:
    """Return whether Lightning's Timer takes this as a time above zero: `DD:HH:MM:SS`, or a dict such as {hours: 2}."""
    if OmegaConf.is_dict(value):
        units = ("weeks", "days", "hours", "minutes", "seconds")
        counts = all(key in units and type(value[key]) is int and value[key] >= 0 for key in value)
        return counts and any(value.values())
    parts = value.split(":") if isinstance(value, str) else []
    return len(parts) == 4 and all(part.isascii() and part.isdigit() for part in parts) and any(map(int, parts))


BOOL = one_of(True, False)
PLAIN_VALUES = Rule(lambda value: value == "all", "all: a checkpoint then holds plain values, and loads without code")
MADE_LATER = Rule(lambda value: value is True, "true: what it works on is there only later")
MADE_AT_ONCE = Rule(lambda value: value is False, "false: nothing is added to it later")
SEED = count(0, 2**32 - 1)
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", 32)
SETTING_RULES: dict[str, Rule] = {
    "seed": SEED,
    "name": text("a name"),
    "group": text("a name", or_null=True),
    "resume": text("a run folder", or_null=True),
    "arm": one_of(*ARMS, UNION),
    "mode": one_of("min", "max", None),
    "test": BOOL,
    "explain": BOOL,
    "monitor": one_of(*MODE_OF),
    "data.root": Rule(lambda value: value is None or type(value) is str, "a folder"),
    "data.image_size": count(32, 2048),
    "data.cache_size": count(32, 4096),
    "data.fit": one_of("pad", "stretch"),
    "data.cache_dir": text("a folder", or_null=True),
    "data.batch_size": count(1),
    "data.accumulate": count(1, 4096),
    "data.fold": count(0, FOLDS - 1),
    "data.seed": SEED,
    "data.transfer": BOOL,
    "data.resident": one_of("auto", True, False),
    "data.trust_cache": BOOL,
    "data.conflicts": one_of("refuse", "leave_out"),
    "data._convert_": PLAIN_VALUES,
    "ensemble": count(1),
    "model.name": text("the name of a network"),
    "model.head": text("the name of a head"),
    "model.weights": text("imagenet or a file", or_null=True),
    "model.image_size": count(32, 2048),
    "model.seed": SEED,
    "model.dropout": number(0, 0.99),
    "model.batch_norm": Rule(one_of(True, False, None).holds, "true, false or null"),
    "model.loss.balance": BOOL,
    "model.separate_heads": BOOL,
    "model.compile": BOOL,
    "model.library": one_of("torchvision", "timm"),
    "model._convert_": PLAIN_VALUES,
    "early_stopping.patience": count(1).or_null,
    "optimizer._partial_": MADE_LATER,
    "optimizer.lr": number(0, above=True),
    "optimizer.momentum": number(0, 0.9999),
    "optimizer.weight_decay": number(0),
    "scheduler._partial_": MADE_LATER,
    "scheduler.step_size": count(1),
    "scheduler.gamma": number(0, 1, above=True),
    "scheduler.factor": number(0, 0.9999, above=True),
    "scheduler.patience": count(0),
    "scheduler.T_max": count(1),
    "scheduler.mode": one_of("min", "max"),
    "augmentation.flip": number(0, 1),
    "augmentation.rotation": number(0, 180),
    "augmentation.shift": number(0, 1),
    "augmentation.scale": number(0, 0.9),
    "augmentation.brightness": number(0, 1),
    "augmentation.contrast": number(0, 1),
    "logger.wandb.project": text("a name"),
    "logger.wandb.entity": text("a team or user", or_null=True),
    "logger.wandb.notes": text("a description", or_null=True),
    "logger.wandb.name": text("a name"),
    "logger.wandb.group": text("a name", or_null=True),
    "logger.wandb.tags": Rule(lambda value: is_list_of(value, str), "a list of words"),
    "logger.wandb.job_type": text("a word"),
    "logger.wandb.folder": text("a folder"),
    "logger.csv.save_dir": text("a folder"),
    "logger.csv.name": text("a name"),
    "logger.tensorboard.save_dir": text("a folder"),
    "logger.tensorboard.name": text("a name"),
    "logger.mlflow.tracking_uri": text("a server, a database or a folder"),
    "logger.mlflow.experiment_name": text("a name"),
    "logger.mlflow.run_name": text("a name"),
    "logger.mlflow.tags": Rule(
        lambda value: OmegaConf.is_dict(value) and all(text("", or_null=True).holds(value[tag]) for tag in value),
        "words, or null, by the names of the tags",
    ),
    "callbacks.ema.decay": number(0, 1),
    "callbacks.swa.start": count(0),
    "callbacks.learning_rate_monitor.logging_interval": one_of("epoch", "step"),
    "trainer.accelerator": one_of("auto", "cpu", "gpu"),
    "trainer.strategy": one_of("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"),
    "trainer.devices": count(1, 1024),
    "trainer.num_nodes": count(1, 1024),
    "trainer.precision": one_of(*PRECISIONS),
    "trainer.sync_batchnorm": BOOL,
    "trainer.max_epochs": count(1),
    "trainer.accumulate_grad_batches": count(1),
    "trainer.num_sanity_val_steps": count(0),
    "trainer.limit_train_batches": share_or_count(),
    "trainer.limit_val_batches": share_or_count(),
    "trainer.limit_predict_batches": share_or_count(),
    "trainer.use_distributed_sampler": Rule(
        lambda value: value is False, "false: the data module shares out the views, each exactly once"
    ),
    "trainer.enable_model_summary": BOOL,
    "trainer.inference_mode": BOOL,
    "trainer.deterministic": one_of(True, False, "warn"),
    "trainer.benchmark": BOOL,
}

ADDED_RULES: dict[str, Rule] = {
    "trainer.min_epochs": count(1).or_null,
    "trainer.max_time": Rule(
        is_duration, "above zero and DD:HH:MM:SS, such as '00:01:30:00', or {hours: 1, minutes: 30}"
    ),
    "trainer.overfit_batches": share_or_count(),
    "trainer.fast_dev_run": Rule(
        lambda value: type(value) is bool or count(1).holds(value), "true, false or a number of batches"
    ),
    "trainer.gradient_clip_val": number(0, above=True),
    "trainer.gradient_clip_algorithm": one_of("norm", "value"),
    "trainer.detect_anomaly": BOOL,
    "trainer.profiler": one_of("simple", "advanced", "pytorch", None),
    "trainer.log_every_n_steps": count(1),
    "trainer.enable_progress_bar": BOOL,
}
"""Further arguments of Lightning's Trainer, which a command line may add: +trainer.max_time=00:01:00:00."""

REFUSED_ARGUMENTS: dict[str, str] = {
    "logger": "loggers are chosen with logger=, such as 'logger=[wandb,csv]'",
    "callbacks": "callbacks are chosen with callbacks=, such as callbacks=ema, or added with +callbacks.mine._target_=",
    "plugins": "the plugins of this program write whole checkpoints and find the processes of a run",
    "max_steps": "validation and checkpoints come at the end of an epoch; give trainer.max_epochs, with "
    "trainer.limit_train_batches for shorter epochs",
    "min_steps": "the epoch is the unit here; give +trainer.min_epochs",
    "val_check_interval": "the best epoch is chosen by its validation at its end; for shorter epochs give "
    "trainer.limit_train_batches",
    "check_val_every_n_epoch": "every epoch is validated, since any may be the best; to validate on less give "
    "trainer.limit_val_batches",
    "limit_test_batches": "the test views are predicted at the end; give trainer.limit_predict_batches",
    "enable_checkpointing": "the best checkpoint is what is tested",
    "barebones": "it would leave out the checkpoints and the history that a run is made of",
    "reload_dataloaders_every_n_epochs": "the loaders read from one cache, and there is nothing to reload",
    "default_root_dir": "everything is written to the run folder; give hydra.run.dir",
    "enable_autolog_hparams": "the whole config is logged instead of the model's hyperparameters",
    "model_registry": "nothing is uploaded",
}
"""Arguments of Lightning's Trainer that can't go with this program, each with the reason."""

LISTS_OF_EXTREMITIES = ("data.extremities", "data.test_extremities", "data.steps_like")
OPEN_SECTIONS = ("optimizer", "scheduler", "logger", "callbacks")  # other keys there go to the class of `_target_`
MADE_FROM = ("data._target_", "model._target_", "trainer._target_")
NEED_A_LOGGER = ("LearningRateMonitor", "DeviceStatsMonitor")  # of Lightning's callbacks
REMOVABLE = ("logger", "callbacks")  # what a run can do without

NETWORKS_FROM_SCRATCH = ("cnn2", "cnn4", "cnn15")  # those of models/cnn.py, which would import torch


def check_values(cfg: DictConfig) -> None:
    """Raise ConfigError for the first setting that breaks its rule, or that contradicts another one."""
    check_sections(cfg)
    if OmegaConf.is_missing(cfg.model, "name"):
        raise ConfigError(
            f"model.name is not set: give any classifier of {cfg.model.library}, for example model.name=convnext_tiny."
        )
    check_extremities("data.extremities", cfg.data.extremities)
    for key in ("test_extremities", "steps_like"):
        if cfg.data[key] is not None:
            check_extremities(f"data.{key}", cfg.data[key])
    for key, value in leaves(cfg):
        check_leaf(key, value, cfg)
    check_classes(cfg)
    check_loggers(cfg)
    check_mode(cfg)
    check_together(cfg)


def check_sections(cfg: DictConfig) -> None:
    """Raise ConfigError for a part of the config that was taken away, or is no part with settings below it."""
    for key in sorted({*SETTING_RULES, *LISTS_OF_EXTREMITIES, *OPEN_SECTIONS}):
        section, _, leaf = key.rpartition(".")
        if section.split(".")[0] in OPEN_SECTIONS or key in REMOVABLE:
            continue
        if section and not OmegaConf.is_dict(OmegaConf.select(cfg, section)):
            value = OmegaConf.select(cfg, section)
            raise ConfigError(f"{section}={describe(value)}: has settings below it, such as {key}; give that.")
        parent = OmegaConf.select(cfg, section) if section else cfg
        if leaf not in list(parent):  # what is still to be given is there
            raise ConfigError(f"{key} was taken away: every run needs it; to change it, give it a value.")
    for key in OPEN_SECTIONS:
        if key in cfg and cfg[key] is not None and not OmegaConf.is_dict(cfg[key]):
            raise ConfigError(f"{key}={describe(cfg[key])}: has settings below it; choose an option with {key}=NAME.")


def leaves(cfg: DictConfig, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of every setting.

    A dict counts as one if it is empty, or if a rule or a refusal wants it whole.
    """
    for name in map(str, cfg):
        key = f"{path}{name}"
        if key == "hydra":
            continue
        value: Any = cfg[name]
        if OmegaConf.is_dict(value) and len(value) and rule_of(key) is None and reason_against(key) is None:
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def rule_of(key: str) -> Rule | None:
    """Return the rule of a setting, or of what tells Hydra how to make an object; None where its class decides."""
    above, _, leaf = key.rpartition(".")
    if leaf == "_partial_" and above.rpartition(".")[0] in REMOVABLE:  # deeper down, it is an argument's
        return MADE_AT_ONCE
    return SETTING_RULES.get(key) or ADDED_RULES.get(key) or INSTANTIATION_RULES.get(leaf)


def reason_against(key: str) -> str | None:
    """Return why this argument of Lightning's Trainer can't be used here; None for any other key."""
    section, _, name = key.partition(".")
    return REFUSED_ARGUMENTS.get(name) if section == "trainer" else None


def check_leaf(key: str, value: Any, cfg: DictConfig) -> None:
    """Raise ConfigError for a setting that breaks its rule, or that nothing reads."""
    is_made = key.partition(".")[0] in OPEN_SECTIONS or key in MADE_FROM
    rule = rule_of(key)
    if reason := reason_against(key):
        raise ConfigError(f"{key}: can't be used here: {reason}.")
    if rule is not None and (is_made or key in SETTING_RULES or key in ADDED_RULES):
        if not rule.holds(value):
            raise ConfigError(f"{key}={describe(value)}: must be {rule.wanted}.")
    elif not is_made and key not in LISTS_OF_EXTREMITIES:
        raise ConfigError(describe_unknown_setting(key, OmegaConf.to_container(cfg), without=key))


def check_classes(cfg: DictConfig) -> None:
    """Raise ConfigError for a class that does not belong where it is named.

    A logger and a callback may be of the user's own class when it is typed, but not when a run folder brings it.
    """
    settings = {str(name): OmegaConf.to_container(cfg[name], resolve=True) for name in CLASSES if cfg.get(name)}
    if found := foreign_class(settings, own=cfg.resume is None):
        again = "" if cfg.resume is None else ", in a run that goes on from its folder"
        raise ConfigError(f"{found[0]}={describe(found[1])}: must be {KNOWN_CLASS}{again}.")


def check_loggers(cfg: DictConfig) -> None:
    """Raise ConfigError for a callback that writes to the loggers, where there is none."""
    for name, settings in (cfg.get("callbacks") or {}).items():
        target = settings.get("_target_") if OmegaConf.is_dict(settings) else None
        if str(target).endswith(NEED_A_LOGGER) and not cfg.get("logger"):
            raise ConfigError(f"callbacks.{name}: writes to the loggers, and there are none; give one, as logger=csv.")


def describe(value: Any) -> str:
    """Return a value as it is written on the command line, of a long one its beginning."""
    words = "null" if value is None else str(value)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def describe_unknown_setting(key: str, settings: Any, without: str = "") -> str:
    """Return `trainer.epochs: there is no such setting; did you mean ...? Options: ...`

    The names come from `settings`, a tree of dicts, apart from the key `without`, which is the unknown one itself.
    """
    if key in ADDED_RULES:
        return f"{key}: this argument of Lightning's Trainer is added with a plus: +{key}=VALUE."
    if reason := reason_against(key):
        return f"{key}: can't be used here: {reason}."
    names = sorted({*NULL_GROUPS, *(name for name in keys_of(settings) if not f"{without}.".startswith(f"{name}."))})
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.6)
    leaf = key.rsplit(".", 1)[-1]
    near += [name for name in names if name.rsplit(".", 1)[-1] == leaf and name not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "`--cfg job` shows them all."
    parent = key.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    options = f" Options: {', '.join(siblings)}." if siblings else ""
    more = f" A further argument of its class is added with a plus: +{key}=VALUE." if parent in OPEN_SECTIONS else ""
    return f"{key}: there is no such setting; {hint}{options}{more}"


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """Yield every key of a tree of dicts, dotted: `data`, `data.root`."""
    if isinstance(node, dict):
        for key, child in node.items():
            if not str(key).startswith("_"):
                yield path + str(key)
                yield from keys_of(child, f"{path}{key}.")


def check_together(cfg: DictConfig) -> None:
    """Raise ConfigError for settings that contradict each other."""
    if cfg.data.accumulate > cfg.data.batch_size:
        raise ConfigError(
            f"data.accumulate={cfg.data.accumulate}: a batch of data.batch_size={cfg.data.batch_size} views can't be "
            "split into more parts than it has views."
        )
    if cfg.trainer.accumulate_grad_batches != cfg.data.accumulate:
        raise ConfigError(
            f"trainer.accumulate_grad_batches={cfg.trainer.accumulate_grad_batches}: follows data.accumulate, which "
            "splits each batch into parts; give data.accumulate instead."
        )
    if cfg.model.image_size != cfg.data.image_size:
        raise ConfigError(f"model.image_size={cfg.model.image_size}: follows data.image_size; give that instead.")
    if "gradient_clip_algorithm" in cfg.trainer and "gradient_clip_val" not in cfg.trainer:
        raise ConfigError("trainer.gradient_clip_algorithm: clips nothing without +trainer.gradient_clip_val=VALUE.")
    if (cfg.trainer.get("min_epochs") or 1) > cfg.trainer.max_epochs:
        raise ConfigError(
            f"trainer.min_epochs={cfg.trainer.min_epochs}: more than trainer.max_epochs={cfg.trainer.max_epochs}."
        )
    if cfg.data.transfer and not cfg.test:
        raise ConfigError(
            "data.transfer=true predicts the test views of other extremities, and test=false predicts no test view: "
            "leave one of the two out."
        )
    if cfg.explain and not cfg.test:
        raise ConfigError(
            "explain=true explains the test views, and test=false keeps them out of sight: leave one of the two out."
        )
    if cfg.model.batch_norm is not None and cfg.model.get("name") not in NETWORKS_FROM_SCRATCH:
        raise ConfigError(
            f"model.batch_norm={str(cfg.model.batch_norm).lower()}: can be chosen for "
            f"{', '.join(NETWORKS_FROM_SCRATCH)} only; leave it out for {cfg.model.name}."
        )
    if cfg.data.cache_size < cfg.data.image_size:
        raise ConfigError(
            f"data.cache_size={cfg.data.cache_size} is smaller than data.image_size={cfg.data.image_size}: "
            "the cache must hold at least what the network sees; leave data.cache_size out to derive it."
        )


def check_mode(cfg: DictConfig) -> None:
    """Raise ConfigError for a direction, of the run or of its plateau schedule, that contradicts what is monitored."""
    wanted = MODE_OF[cfg.monitor]
    opposite = {"min": "max", "max": "min"}[wanted]
    for key, faulty in (("mode", cfg.mode != wanted), ("scheduler.mode", cfg.scheduler.get("mode") == opposite)):
        if faulty:
            raise ConfigError(
                f"{key}={OmegaConf.select(cfg, key)}: the best monitor={cfg.monitor} is its {wanted}imum, and {key} "
                "follows from that; leave it out."
            )


INSTANTIATION_RULES = {
    "_target_": text("the name of a class"),
    "_partial_": BOOL,
    "_recursive_": BOOL,
    "_convert_": one_of("none", "partial", "object", "all"),
}
"""What tells Hydra how to make an object, in whichever part it stands."""

NULL_GROUPS = ("experiment",)  # a group that chooses nothing by default leaves no key in the config
LAUNCHER_RULES: dict[str, Rule] = {
    "workers": count(1).or_null,
    "partition": text("a name", or_null=True),
    "account": text("a name", or_null=True),
    "time": Rule(
        lambda value: type(value) in (int, str) and minutes_of(value) is not None,
        "minutes, hours:minutes:seconds or days-hours:minutes, above zero",
    ),
    "gpus": count(0),
    "cpus": count(1),
    "memory": number(0, above=True),
    "at_a_time": count(1).or_null,
    "setup": Rule(
        lambda value: isinstance(value, list) and all(type(line) is str for line in value),
        "a list of lines for the batch script",
    ),
    "options": Rule(lambda value: isinstance(value, dict), "sbatch options with their values, such as {qos: high}"),
}


def check_launcher(settings: Mapping[Any, Any], prefix: str = "launcher") -> dict[str, Any]:
    """Return the settings of a launcher, local or SLURM's, as plain values. Raises ConfigError for a faulty one."""
    plain = {
        str(name): OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for name, value in settings.items()
    }
    for name, value in plain.items():
        if name not in LAUNCHER_RULES:
            raise ConfigError(f"{prefix}.{name}: there is no such setting; options: {', '.join(settings)}.")
        if not LAUNCHER_RULES[name].holds(value):
            raise ConfigError(f"{prefix}.{name}={describe(value)}: must be {LAUNCHER_RULES[name].wanted}.")
    return plain


def check_extremities(key: str, value: Any) -> None:
    """Raise ConfigError unless the value is a list of extremities, at least one and each only once."""
    if isinstance(value, str):
        raise ConfigError(f"{key}={describe(value)}: write it as a list, '{key}=[{describe(value)}]'.")
    if not (value is None or OmegaConf.is_list(value) or isinstance(value, list)):
        raise ConfigError(f"{key}={describe(value)}: must be a list of extremities, such as '{key}=[wrist,hand]'.")
    names = list(value or [])
    if not names:
        raise ConfigError(f"{key} is empty: name at least one of {', '.join(EXTREMITIES)}.")
    for name in names:
        if name not in EXTREMITIES:
            raise ConfigError(f"{key}: {describe_unknown(str(name), list(EXTREMITIES), 'extremity')}")
        if names.count(name) > 1:
            raise ConfigError(f"{key} names {name} twice: name each extremity once.")


def check_root(root: str | None) -> None:
    """Raise ConfigError when no data root is given, MuraError when it is no MURA folder."""
    if root is None or root == "":
        raise ConfigError(
            "data.root is not set: give data.root=DIR or set MURA_ROOT to your MURA-v1.1 folder "
            "(`mura synth DIR` writes a synthetic one)."
        )
    if not os.path.isdir(expand_home(root)):  # noqa: PTH112  Path.is_dir raises for a name that is too long
        raise ConfigError(f"data.root={root}: there is no such folder; give the path of MURA-v1.1.")
    from mura.data.index import find_root  # pandas comes with it, so this check is the last

    find_root(root)


def check_config(cfg: DictConfig) -> None:
    """Raise a MuraError for the first fault of a run's config, before anything is imported, started or written."""
    check_values(cfg)
    check_tasks(cfg.trainer.devices, cfg.trainer.num_nodes)
    check_root(cfg.data.root)


def describe_unknown(name: str, options: list[str], kind: str) -> str:
    """Return `there is no model resnet81; did you mean resnet18? Options: ...`"""
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]}?" if near else ""
    return f"there is no {kind} {describe(name)};{hint} Options: {', '.join(options) or 'none yet'}."
