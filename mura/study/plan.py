"""The plan of a study: where each of its runs is written, which are missing, and the jobs that make them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from mura.files import write_json
from mura.launch.jobs import Job
from mura.runs.folder import STUDY_FILE, RunFolder
from mura.study.grid import FINISHED, HALF_DONE, Cell, seconds_left
from mura.study.space import without

Config = dict[str, Any]
Chosen = dict[str, list[str]]
"""By `model/data`, the settings that a search has chosen for its runs, as on a command line."""


@dataclass(frozen=True)
class Plan:
    """The runs of a study in the order in which they start: the config that each would have, and its state.

    `settings` are the command line's own, the same for every run; `chosen` are those that a search has chosen.
    """

    name: str
    folder: Path
    settings: list[str]
    configs: dict[Cell, Config]
    states: dict[Cell, str]
    chosen: Chosen = field(default_factory=dict)

    def run(self, cell: Cell) -> RunFolder:
        return RunFolder(self.folder / cell.name)

    @property
    def missing(self) -> list[Cell]:
        """The runs that are not finished."""
        return [cell for cell, state in self.states.items() if state != FINISHED]

    @property
    def example(self) -> Config:
        """The config of one run, for what is the same in all."""
        return next(iter(self.configs.values()))

    @property
    def project(self) -> str | None:
        """The runs' project in W&B, or None if they don't log to it."""
        return self.example["logger"]["project"]

    @property
    def group(self) -> str:
        """The runs' group in W&B: the one asked for, else the study's name."""
        return self.example.get("group") or self.name

    def waves(self) -> list[list[Job]]:
        """Return the jobs of the missing runs; those of a later wave start from runs of an earlier one."""
        first = [self._job(cell) for cell in self.missing if cell.parent is None]
        return [first, [self._job(cell) for cell in self.missing if cell.parent is not None]]

    def _job(self, cell: Cell) -> Job:
        """Return the job that begins a missing run, or goes on with a half-done one."""
        path = self.run(cell).path
        if self.states[cell] == HALF_DONE:
            return Job(cell.name, [f"resume={path}"], path)
        place = [f"name={cell.model}-{cell.data}-seed{cell.seed}", f"group={self.group}", f"hydra.run.dir={path}"]
        return Job(cell.name, [*settings_of(cell, self.settings, self.chosen, self.folder), *place], path)

    def describe(self, at_a_time: int | None) -> str:
        """Return a line a run with its state, and a last one with the time left when so many run at a time."""
        lines = [f"{state:10} {cell.name}" for cell, state in self.states.items()]
        finished = [self.run(cell) for cell, state in self.states.items() if state == FINISHED]
        left = seconds_left(finished, self.missing, at_a_time or len(self.states))
        count = f"{len(finished)} of {len(self.states)} runs finished"
        return "\n".join([*lines, f"{count}; time left: {describe_duration(left)}"])


def settings_of(cell: Cell, settings: Sequence[str], chosen: Chosen, folder: Path) -> list[str]:
    """Return the settings that make a run of the study in `folder`; what a search has chosen wins."""
    tuned = chosen.get(f"{cell.model}/{cell.data}", [])
    keys = [setting.lstrip("+").partition("=")[0] for setting in tuned]
    return [*without(settings, keys), *cell.overrides(folder), *tuned]


def note_plan(folder: Path, seeds: Sequence[int], margin: float | None = None, primary: str | None = None) -> None:
    """Write STUDY_FILE into the folder of a study that starts for the first time: what is declared before any look.

    A study that was begun before this file was written is taken as planned with the seeds that it has runs of, and
    nothing is known of its margin and primary model.
    """
    if (folder / STUDY_FILE).is_file():
        return
    runs = [re.fullmatch(r"seed(\d+)", path.parent.name) for path in folder.glob("*/*/seed*/config.yaml")]
    begun = {int(run[1]) for run in runs if run}
    plan = {"seeds": sorted(begun)} if begun else {"seeds": sorted(seeds), "margin": margin, "primary": primary}
    write_json(folder / STUDY_FILE, plan | {"date": date.today().isoformat()})


def describe_duration(seconds: float | None) -> str:
    """Return minutes or hours in words."""
    if seconds is None:
        return "unknown before a run of each model has finished"
    return f"about {seconds / 3600:.1f} h" if seconds > 5400 else f"about {max(1, round(seconds / 60))} min"
