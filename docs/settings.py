"""Print docs/settings.md, which is made from conf/: python docs/settings.py > docs/settings.md"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mura.config import CONF_DIR
from mura.config.help import run_groups

SETTING = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>\S.*?))?(?: +# (?P<what>.*))?")
DERIVED = re.compile(r"\$\{(?:oc\.env:(?P<variable>\w+).*|(?P<key>[\w.]+))\}")
MADE_BY = "python docs/settings.py > docs/settings.md"
SETTINGS_PAGE = """\
# Settings

Every setting and every choice, with its default. This page is made from `conf/`, and a test compares the two:

    {made_by}

A value with brackets or braces needs quotes in the shell: `'data.extremities=[wrist,hand]'`. A wrong name or value is
refused before anything starts, in one sentence with the options.

| to | write |
|---|---|
| pool some extremities | `'data.extremities=[wrist,finger]'` |
| train any classifier of torchvision | `model=torchvision model.name=convnext_tiny` |
| change one thing of a recipe | `optimizer=adamw`, `optimizer.lr=1e-5`, `data.batch_size=64`, `augmentation=none` |
| repeat with other random numbers | `-m seed=0,1,2` |
| validate on another fifth | `data.fold=1` (0 to 4) |
| train on two GPUs; on the CPU; in two processes of the CPU | `trainer=ddp_2xt4`; `trainer=cpu`; `trainer=ddp_cpu` |
| split a batch into four parts to save memory | `data.accumulate=4` |
| average the predictions of the five best checkpoints | `ensemble=5` |
| test on another extremity; predict all others too | `'data.test_extremities=[hand]'`; `data.transfer=true` |
| try two batches, without a logger | `experiment=debug` |
| put the run elsewhere | `hydra.run.dir=DIR` |
| have two runs of a multirun at a time | `-m hydra.launcher.workers=2` |
| submit a study to SLURM | `launcher=slurm launcher.partition=P launcher.time=6:00:00` |

Completion in bash and zsh: `eval "$(python train.py -sc install=bash)"` for `python train.py`, and
`mura --install-completion` for `mura`.

## One run: `python train.py key=value ...`

A model's recipe, or another choice, replaces the defaults of this table, and the command line replaces both.
`--cfg job` shows what a run would have.

{run}

## Choices: `group=option`

{groups}

## The study: `python sweep.py key=value ...`

These settings are the study's own. Every other setting goes through to each run.

{study}

## Multiruns: `python train.py -m ...`

A setting with commas is a list of runs. Each run has its own process and folder, and one that fails does not stop the
others. It is a process of this machine (`hydra/launcher=processes`, the default) or a job of SLURM
(`hydra/launcher=slurm`).

{multirun}
"""


def settings_page() -> str:
    """Return docs/settings.md: every setting and group option, with its default and what it does, as Markdown."""
    launchers, presets = CONF_DIR / "launcher", CONF_DIR / "study"
    study = _settings_table({CONF_DIR / "sweep.yaml": ""})
    for name in ("local", "slurm"):
        study += f"\n\nWith `launcher={name}`:\n\n" + _settings_table({launchers / f"{name}.yaml": "launcher."})
    search = f"With `search=NAME` ([tuning.md](tuning.md)):\n\n{_options_table('search', CONF_DIR / 'search')}"
    multirun = {CONF_DIR / "hydra" / "launcher" / f"{name}.yaml": "hydra.launcher." for name in ("processes", "slurm")}
    return SETTINGS_PAGE.format(
        made_by=MADE_BY,
        run=_settings_table({CONF_DIR / "train.yaml": ""}),
        groups="\n\n".join(_group_section(group) for group in run_groups()),
        study=f"{study}\n\nWith `experiment=NAME`:\n\n{_options_table('experiment', presets)}\n\n{search}",
        multirun=_settings_table(multirun),
    )


def _group_section(group: str) -> str:
    """Return a group's options, and its own settings with the comments of its default option, or of others."""
    entries = _read(CONF_DIR / "train.yaml")["defaults"]
    default = next(entry[group] for entry in entries if isinstance(entry, dict) and group in entry)
    shown = f"Default: `{'null' if default is None else default}`."
    files = sorted((CONF_DIR / group).glob("*.yaml"), key=lambda file: (file.stem != default, file.stem))
    own = [row for file in files if not _is_global(file) for row in _settings(file, f"{group}.")]
    words = {key: what for key, _, what in reversed(own) if what}
    rows = [[f"`{key}`", words.get(key, "")] for key in dict.fromkeys(key for key, _, _ in own)]
    table = [_table(["setting", "what it is"], rows)] if rows and group != "data" else []
    return "\n\n".join([f"### `{group}=`", shown, _options_table(group, CONF_DIR / group), *table])


def _options_table(group: str, folder: Path) -> str:
    rows = []
    for file in sorted(folder.glob("*.yaml")):
        comments = [line[2:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        what = " ".join(line for line in comments if not line.startswith("@package"))
        overrides = [entry for entry in (_read(file) or {}).get("defaults", []) if isinstance(entry, dict)]
        brings = [f"{key.split('/')[-1]}={value}" for entry in overrides for key, value in entry.items()]
        prefix = "" if _is_global(file) else f"{group}."
        brings += [f"{key}={value}" for key, value, _ in _settings(file, prefix) if value != "???"]
        quoted = [f"'{each}'" if set("[{") & set(each) else each for each in brings if "${" not in each]
        rows.append([f"`{group}={file.stem}`", what, ", ".join(f"`{each}`" for each in quoted)])
    return _table(["option", "what it is", "what it sets"], rows)


def _settings_table(files: dict[Path, str]) -> str:
    """Return the settings of the files, each below its prefix."""
    settings = [setting for file, prefix in files.items() for setting in _settings(file, prefix)]
    rows = [[f"`{key}`", _default(key, value), what] for key, value, what in settings]
    return _table(["setting", "default", "what it is"], rows)


def _default(key: str, value: str) -> str:
    group = key.split(".")[0]
    if value == "???":
        return f"set by `{group}=`" if group in run_groups() else "must be given"
    if match := DERIVED.fullmatch(value):
        return f"`{match['variable'] or match['key']}`"
    return "derived" if "${" in value else f"`{value}`"


def _settings(file: Path, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, value as written, and comment of each setting; of Hydra's own, only those with a comment."""
    above: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        match = SETTING.fullmatch(line)
        if match is None or match["key"].startswith("_"):
            continue
        above = [*above[: len(match["indent"]) // 2], match["key"]]
        key, what = prefix + ".".join(above), match["what"] or ""
        if match["value"] is not None and (what or above[0] != "hydra"):
            yield key, match["value"], what


def _is_global(file: Path) -> bool:
    return file.read_text(encoding="utf-8").startswith("# @package _global_")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    print(settings_page(), end="")
