"""Settings of every leaf of conf/ with other values: refused in a sentence, or a run that comes to its end."""

import copy
import random
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mura.config import CONF_DIR
from mura.config.command_line import hydra_arguments
from mura.config.hydra_hooks import register_resolvers
from mura.config.rules import ADDED_RULES, check_config, check_values, leaves, rule_of
from mura.runs.folder import RunFolder

from .cases import VALUES, Case, Edit, Refused, answer, emptied_folder, outcome, writing_only_below

GROUPS = ("optimizer", "scheduler", "augmentation", "callbacks", "model")
SMALL = (
    "data=wrist", "data.image_size=32", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1",
    "logger=none", "data.batch_size=16", "trainer.limit_train_batches=1",
)  # fmt: skip
SEVERAL_PROCESSES = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator")
LONG = ("model.compile", "trainer.max_epochs", "model.image_size", "data.image_size", "data.cache_size")
ELSEWHERE = ("data.root", "data.cache_dir")


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


def bases() -> list[str]:
    """Return few command lines that have every option of GROUPS between them, each with all loggers."""
    some = {group: options(group) for group in GROUPS}
    lines = []
    for number in range(max(map(len, some.values()))):
        chosen = [f"{group}={names[number % len(names)]}" for group, names in some.items()]
        named = ["model.name=convnext_tiny"] if chosen[-1] in ("model=torchvision", "model=timm") else []
        loggers = ",".join(name for name in options("logger") if name != "none")
        lines.append(" ".join([*chosen, f"logger=[{loggers}]", *named]))
    return lines


@cache
def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


@cache
def settings_of(base: str) -> dict[str, Any]:
    return dict(leaves(composed(*base.split())))


class Settings:
    """Tries values as the check of every command line does, which trains nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bases = bases()

    def draw(self, rng: random.Random) -> Case:
        base = rng.choice(self.bases)
        edits = tuple(draw_edit(base, rng) for _ in range(rng.choice([1, 1, 2, 3])))
        return Case(base, edits)

    def attempt(self, case: Case) -> str:
        with writing_only_below(self.folder):
            cfg = answer(lambda: with_edits(composed(*case.base.split()), case.edits))
            if not isinstance(cfg, Refused):
                cfg = answer(lambda: check_values(cfg))
            for key, value in case.edits:
                answer(lambda key=key, value=value: hydra_arguments([f"{key}={value}"]))
        return outcome(cfg)


class Trainings:
    """Tries values as a whole run of one batch: what the check lets pass trains, predicts and writes its results."""

    def __init__(self, folder: Path) -> None:
        from mura.synthetic.dataset import write_dataset

        self.folder = folder
        self.root = write_dataset(folder / "data", patients=60, size=40, valid_fraction=0.3, balanced=True, workers=1)
        with emptied_folder(folder) as above:  # makes the cache, and what libraries keep in the user's folders
            trained(self.config(Case("", ())), RunFolder(above / "run"))

    def draw(self, rng: random.Random) -> Case:
        chosen = f"{(group := rng.choice(GROUPS[:-1]))}={rng.choice(options(group))}"
        edits: list[Edit] = []
        while len(edits) < rng.randint(1, 3):
            key, value = draw_edit(chosen, rng, plausible=True)
            rule = rule_of(key)
            if key not in SEVERAL_PROCESSES + LONG + ELSEWHERE and (rule is None or rule.holds(value)):
                edits.append((key, value))
        return Case(chosen, tuple(edits))

    def attempt(self, case: Case) -> str:
        with emptied_folder(self.folder) as above:
            run = RunFolder(above / "run")
            with writing_only_below(self.folder):
                result = answer(lambda: trained(self.config(case), run))
            if isinstance(result, Refused):
                stopped = "training was stopped" in result.said or "no room" in result.said
                assert not run.begun or stopped, f"refused late: {result.said}"
            else:
                assert run.finished or result.trainer.get("fast_dev_run")
                assert not list(run.path.rglob(".*.????????")), "a file is half written"
            return outcome(result)

    def config(self, case: Case) -> DictConfig:
        place = [f"data.root={self.root}", f"data.cache_dir={self.folder / 'cache'}"]
        return with_edits(composed(*case.base.split(), "model=cnn2", *SMALL, *place), case.edits)


def trained(cfg: DictConfig, run: RunFolder) -> DictConfig:
    """Check and train a run as `python train.py` does, in this process."""
    from train import train_in_folder

    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(run.path)
        cfg.hydra.run.dir = str(run.path)
    HydraConfig.instance().set_config(cfg)
    check_config(cfg)
    run.path.mkdir()
    with open_dict(cfg):
        del cfg["hydra"]
    train_in_folder(cfg, run)
    return cfg


def draw_edit(base: str, rng: random.Random, plausible: bool = False) -> Edit:
    """Return a setting and a value; a `plausible` one is near to what the setting has."""
    known = settings_of(base)
    key = rng.choice(
        [*known, *ADDED_RULES, *("" if plausible else ("data", "trainer", "optimizer", "logger", "hydra.x"))]
    )
    now = known.get(key)
    near: list[Any] = [True, False, 0, 1, 2, 3, 0.0, 0.1, 0.5, 0.9, 1.0, 1e-6, 1e30, None, "x", "none", "auto"]
    if type(now) in (int, float):
        near += [now + 1, now * 2, now / 2, -now]
    if "max_time" in key:
        near += ["00:00:00:00", "00:00:00:01", {"minutes": 1}]
    return (key, rng.choice(near if plausible else [*VALUES, *near]))


def with_edits(base: DictConfig, edits: tuple[Edit, ...]) -> DictConfig:
    """Return a copy of the config with other values; a key below what became a list fits no more, and is left out."""
    cfg = copy.deepcopy(base)
    with open_dict(cfg):
        for key, value in edits:
            try:
                OmegaConf.update(cfg, key, value, merge=False, force_add=True)
            except (TypeError, ValueError) as error:
                if isinstance(error, OmegaConfBaseException):
                    raise
    return cfg
