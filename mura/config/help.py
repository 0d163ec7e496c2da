"""A command line before Hydra reads it: the help page, and a mistyped name, each at once.

Hydra would compose every group for its help, and the whole config before it finds a wrong name; reading the YAML files
is enough for both.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mura.config import CONF_DIR
from mura.config.rules import unknown
from mura.config.sentences import keys_of, near_names
from mura.errors import ConfigError

PLAIN = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
HELP = """\
Train and test one model on MURA: is this radiograph normal or abnormal?

  python train.py model=resnet18 data=wrist data.root=DIR     one run
  python train.py -m data=elbow,finger,unified model=cnn4     several runs, one after the other
  python train.py resume=RUN_FOLDER                           go on with an interrupted run
  python train.py model=cnn4 --cfg job                        show the config, start nothing

DIR is a MURA-v1.1 folder, or one written by `mura synth`; it can also stand in MURA_ROOT.

Choices (group=option):

{choices}

Settings (key=value; a model's recipe brings its own values, `--cfg job` shows them):

{settings}

Flags: -m (several runs), --cfg job (show the config), --resolve (with its values), -sc install=bash (completion);
python train.py --hydra-help has the rest.
"""


def help_page() -> str:
    """What `python train.py --help` prints."""
    groups = [folder for folder in sorted(CONF_DIR.iterdir()) if folder.name in run_groups()]
    choices = "\n".join(f"  {folder.name:13} {', '.join(options(folder))}" for folder in groups)
    text = (CONF_DIR / "train.yaml").read_text(encoding="utf-8")
    settings = text[text.index("\nseed:") : text.index("\nhydra:")].strip()
    return HELP.format(choices=choices, settings=settings)


def run_groups() -> list[str]:
    """The groups that train.yaml chooses from."""
    defaults = yaml.safe_load((CONF_DIR / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    return [key for entry in defaults if isinstance(entry, dict) for key in entry if " " not in key]


def options(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def check_names(arguments: list[str]) -> None:
    """Raises ConfigError for a key that no file of the config has, and for an option that its group hasn't.

    Hydra's own syntax (+key, ~key, hydra.key, lists, sweeps by glob or choice) is left to Hydra.
    """
    groups = run_groups()
    known: set[str] = set()
    for argument in arguments:
        plain = PLAIN.fullmatch(argument)
        if plain is None or plain.group(1).startswith("hydra"):
            continue
        key, value = plain.groups()
        if key in groups:
            for choice in value.split(","):
                if choice != "null" and re.fullmatch(r"[\w-]+", choice):
                    _check_option(key, choice)
            continue
        known = known or {*groups, *every_key()}
        if key not in known:
            raise ConfigError(near_names(key, sorted(known)))


def _check_option(group: str, choice: str) -> None:
    known = options(CONF_DIR / group)
    if choice not in known:
        raise ConfigError(f"{group}={choice}: {unknown(choice, known, group)}")


def every_key() -> Iterator[str]:
    """The keys of train.yaml and of every option of its groups, whatever is chosen."""
    yield from keys_of(_read(CONF_DIR / "train.yaml"))
    for group in run_groups():
        for file in (CONF_DIR / group).glob("*.yaml"):
            is_global = file.read_text(encoding="utf-8").startswith("# @package _global_")
            yield from keys_of(_read(file), "" if is_global else f"{group}.")


def _read(file: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # a safe one, in C if there is
