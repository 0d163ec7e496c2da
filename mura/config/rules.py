"""What each setting may be: checked before anything heavy is imported, started or written."""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mura.errors import ConfigError
from mura.extremities import EXTREMITIES
from mura.files import expand_home
from mura.launch.slurm.queue import minutes_of
from mura.launch.slurm.srun import check_tasks
from mura.runs import FOLDS
from mura.study.arms import ARMS, UNION


@dataclass(frozen=True)
class Rule:
    """What a setting may be: `holds(value)` tests a value, `wanted` says it in words."""

    holds: Callable[[Any], bool]
    wanted: str


def whole(low: int, high: int | None = None, or_null: bool = False) -> Rule:
    """Return the rule for an integer within bounds, both of which are allowed."""

    def holds(value: Any) -> bool:
        if value is None:
            return or_null
        return type(value) is int and value >= low and (high is None or value <= high)

    bounds = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    return Rule(holds, bounds + (" or null" if or_null else ""))


def number(low: float, high: float | None = None, above: bool = False) -> Rule:
    """Return the rule for a number within bounds; `above` excludes the lower one."""

    def holds(value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return (value > low if above else value >= low) and (high is None or value <= high)

    bounds = f"a number {'above' if above else 'of at least'} {low:g}"
    return Rule(holds, bounds if high is None else f"a number from {low:g} to {high:g}")


def one_of(*options: Any) -> Rule:
    return Rule(lambda value: value in options, "one of " + ", ".join(str(option) for option in options))


def text_or_null() -> Rule:
    return Rule(lambda value: value is None or (type(value) is str and value != ""), "a name, or null")


def share_or_count() -> Rule:
    """Return the rule of Lightning's limits: an integer counts batches, a float is a share of them."""

    def holds(value: Any) -> bool:
        return (type(value) is int and value >= 1) or (type(value) is float and 0 < value <= 1)

    return Rule(holds, "a whole number of batches of at least 1, or a share above 0.0 and up to 1.0")


MODE_OF = dict.fromkeys(("val_loss", "train_loss"), "min") | dict.fromkeys(
    ("val_accuracy", "val_kappa", "val_auroc", "train_accuracy"), "max"
)
"""What `monitor` may be, and whether the least or the most of it is the best."""

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", 32)
SETTING_RULES: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "arm": one_of(*ARMS, UNION),
    "test": one_of(True, False),
    "monitor": one_of(*MODE_OF),
    "data.image_size": whole(32, 2048),
    "data.cache_size": whole(32, 4096),
    "data.fit": one_of("pad", "stretch"),
    "data.batch_size": whole(1),
    "data.accumulate": whole(1),
    "data.fold": whole(0, FOLDS - 1),
    "data.transfer": one_of(True, False),
    "data.resident": one_of("auto", True, False),
    "data.trust_cache": one_of(True, False),
    "data.conflicts": one_of("refuse", "leave_out"),
    "ensemble": whole(1),
    "model.dropout": number(0, 0.99),
    "model.batch_norm": Rule(lambda value: value is None or type(value) is bool, "true, false or null"),
    "model.loss.balance": one_of(True, False),
    "model.separate_heads": one_of(True, False),
    "model.compile": one_of(True, False),
    "model.library": one_of("torchvision", "timm"),
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


NETWORKS_FROM_SCRATCH = ("cnn2", "cnn4", "cnn15")  # those of models/cnn.py, which would import torch


def check_values(cfg: DictConfig) -> None:
    """Raise ConfigError for the first setting that breaks its rule, or that contradicts another one."""
    for key, rule in SETTING_RULES.items():
        value = OmegaConf.select(cfg, key, default="absent")
        if value != "absent" and not rule.holds(value):
            raise ConfigError(f"{key}={value}: must be {rule.wanted}.")
    check_mode(cfg)
    check_extremities("data.extremities", cfg.data.extremities)
    for key in ("test_extremities", "steps_like"):
        if cfg.data[key] is not None:
            check_extremities(f"data.{key}", cfg.data[key])
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
    if cfg.data.transfer and not cfg.test:
        raise ConfigError(
            "data.transfer=true predicts the test views of other extremities, and test=false predicts no test view: "
            "leave one of the two out."
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
    """Return the settings of a launcher, local or SLURM's, as plain values. Raises ConfigError for a faulty one."""
    plain = {
        str(name): OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for name, value in settings.items()
    }
    for name, value in plain.items():
        if not LAUNCHER_RULES[name].holds(value):
            raise ConfigError(f"{prefix}.{name}={value}: must be {LAUNCHER_RULES[name].wanted}.")
    return plain


def check_extremities(key: str, value: Any) -> None:
    """Raise ConfigError unless the value is a list of extremities, at least one and each only once."""
    if isinstance(value, str):
        raise ConfigError(f"{key}={value}: write it as a list, '{key}=[{value}]'.")
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
    if OmegaConf.is_missing(cfg.model, "name"):
        raise ConfigError(
            f"model.name is not set: give any classifier of {cfg.model.get('library', 'torchvision')}, for example "
            "model.name=convnext_tiny."
        )
    check_tasks(cfg.trainer.devices, cfg.trainer.num_nodes)
    check_root(cfg.data.root)


def describe_unknown(name: str, options: list[str], kind: str) -> str:
    """Return `there is no model resnet81; did you mean resnet18? Options: ...`"""
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]}?" if near else ""
    return f"there is no {kind} {name};{hint} Options: {', '.join(options)}."
