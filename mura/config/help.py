"""The help page of train.py, read from the YAML files: Hydra would compose every group for its own."""

from functools import cache
from pathlib import Path

import yaml

from mura.config import CONF_DIR
from mura.processes import typed

HELP = """\
Train and test one model on MURA: is this radiograph normal or abnormal?

  {train} model=resnet18 data=wrist data.root=DIR     one run
  {train} -m data=elbow,finger,unified model=cnn4     several runs, one after the other
  {train} resume=RUN_FOLDER                           go on with an interrupted run
  {train} model=cnn4 --cfg job                        show the config, start nothing

DIR is a MURA-v1.1 folder, or one written by `mura synth`; it can also stand in MURA_ROOT.

Choices (group=option):

{choices}

Settings (key=value; a model's recipe brings its own values, `--cfg job` shows them):

{settings}

Flags: -m (several runs), --cfg job (show the config), --resolve (with its values), -sc install=bash (completion);
{train} --hydra-help has the rest.
"""


def help_page() -> str:
    """Return what --help of train.py prints."""
    groups = [folder for folder in sorted(CONF_DIR.iterdir()) if folder.name in run_groups()]
    choices = "\n".join(f"  {folder.name:13} {', '.join(options(folder))}" for folder in groups)
    text = (CONF_DIR / "train.yaml").read_text(encoding="utf-8")
    settings = text[text.index("\nseed:") : text.index("\nhydra:")].strip()
    return HELP.format(train=typed("train"), choices=choices, settings=settings)


@cache
def run_groups() -> tuple[str, ...]:
    """Return the groups that train.yaml chooses from."""
    defaults = yaml.safe_load((CONF_DIR / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    return tuple(key for entry in defaults if isinstance(entry, dict) for key in entry if " " not in key)


def options(folder: Path) -> list[str]:
    """Return the options of a group by name."""
    return sorted(file.stem for file in folder.glob("*.yaml"))
