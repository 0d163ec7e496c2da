"""Hydra's launchers for `train.py -m`: each job is a run of its own, through mura.launch."""

import logging
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from mura.config.command_line import search_path
from mura.config.rules import check_config, check_launcher
from mura.config.start import claim_folder, fetch_weights, refuse_another_experiment
from mura.errors import ConfigError, MuraError
from mura.launch.jobs import Job, Outcome, run_jobs
from mura.launch.placement import place_runs
from mura.launch.slurm import queue
from mura.runs.folder import RunFolder
from mura.runs.records import read_best_value

log = logging.getLogger(__name__)


class ProcessLauncher(Launcher):
    """Each job as a process of this machine. A failing job does not stop the others, and is named at the end again.

    All jobs are checked before Hydra makes the multirun's folder. Under Hydra's other launchers (basic, joblib,
    submitit), and with a sweeper that searches, each job is checked when it starts.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.trainers: dict[Path, DictConfig] = {}  # of each job, by its folder

    @property
    def captured(self) -> bool:
        """Whether the output of a run goes to its folder: not if one runs at a time, which is watched."""
        return self.workers > 1

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.script = Path(task_function.__code__.co_filename).resolve()
        self._check_launcher()
        if self._takes_every_combination:
            jobs = [self._configure(job, number) for number, job in enumerate(self._combinations())]
            for job_config in jobs:
                check_config(job_config)
            for job_config in jobs:
                self._refuse_if_taken(job_config)
            fetch_weights([dict(job_config.model) for job_config in jobs])
        claim_folder(config, "sweep")

    def _combinations(self) -> Iterator[list[str]]:
        """Yield the settings of each job: one of every combination of the values on the command line."""
        parser = OverridesParser.create(self.hydra_context.config_loader)
        choices = {}  # a key given twice counts as Hydra counts it: the last one
        for override in parser.parse_overrides(list(self.config.hydra.overrides.task)):
            several = override.is_sweep_override()
            values = override.sweep_string_iterator() if several else [override.get_value_element_as_str()]
            choices[override.get_key_element()] = [f"{override.get_key_element()}={value}" for value in values]
        yield from map(list, product(*choices.values()))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
        jobs = [self._job(list(each), number, common) for number, each in enumerate(job_overrides, initial_job_idx)]
        failed = {outcome.job.name: outcome for outcome in self._run(jobs) if outcome.exit_code != 0}
        if failed and self._takes_every_combination:
            names = ", ".join(f"{name} (exit code {outcome.exit_code})" for name, outcome in failed.items())
            raise MuraError(f"{len(failed)} of {len(jobs)} runs failed: {names}; see their folders and logs above.")
        return [
            _job_return(job, settings, job.name in failed) for job, settings in zip(jobs, job_overrides, strict=True)
        ]

    @property
    def _takes_every_combination(self) -> bool:
        """Whether the sweeper is Hydra's own; another one chooses its jobs as it goes, by what they return."""
        return str(self.config.hydra.sweeper._target_).endswith("BasicSweeper")

    def _check_launcher(self) -> None:
        """Raise ConfigError for a faulty setting of the launcher, MuraError where it can't work."""
        check_launcher({"workers": self.workers}, "hydra.launcher")
        if self.workers is None:
            raise ConfigError("hydra.launcher.workers=null: must be a whole number of at least 1.")

    def _run(self, jobs: list[Job]) -> list[Outcome]:
        return run_jobs(
            self.script, jobs, self._tell, workers=self.workers, gpus=self._gpus(jobs), captured=self.captured
        )

    def _gpus(self, jobs: list[Job]) -> list[list[str]]:
        """Return the groups of GPUs that runs side by side take turns with; one at a time takes the first by itself."""
        if self.workers == 1:
            return []
        trainers = [self.trainers[job.folder] for job in jobs]
        accelerator = "cpu" if all(each.accelerator == "cpu" for each in trainers) else "auto"
        devices = max(each.devices for each in trainers)
        return place_runs(self.workers, accelerator, devices, len(jobs))[1]

    def _configure(self, overrides: list[str], number: int) -> DictConfig:
        """Return the config of a job of the multirun."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _refuse_if_taken(self, config: DictConfig) -> None:
        """Raise MuraError when the folder of a job holds a run that is finished, being written, or of other settings.

        The multirun is then refused as a whole: the output of a job that starts is written to its folder.
        """
        run = RunFolder(_folder_of(config))
        run.refuse_if_finished()
        run.refuse_if_locked()
        refuse_another_experiment(run, config)

    def _job(self, overrides: list[str], number: int, common: set[str]) -> Job:
        """Return a job of the multirun, named by the settings that are not common to all of them."""
        config = self._configure(overrides, number)
        folder = _folder_of(config)
        self.trainers[folder] = config.trainer
        sweep = Path(config.hydra.sweep.dir).resolve()
        arguments = [*overrides, *search_path(config.hydra.searchpath), f"hydra.run.dir={folder}"]
        if config.group is None:
            arguments.append(f"group={sweep.parent.name}_{sweep.name}")
        name = " ".join(setting for setting in filter_overrides(overrides) if setting not in common)
        return Job(name, arguments, folder)

    def _tell(self, job: Job, outcome: Outcome | None) -> None:
        if outcome is None:
            where = f"; output in {job.log}" if self.captured else ""
            log.info("run: %s%s", job.name, where)
        elif outcome.exit_code != 0:
            log.error("FAILED: %s (exit code %d), %s", job.name, outcome.exit_code, job.folder)
        elif self.captured:
            log.info("done: %s (%.0f s)", job.name, outcome.seconds)


def _folder_of(config: DictConfig) -> Path:
    """Return the folder of a job by its config."""
    return Path(config.hydra.sweep.dir).resolve() / config.hydra.sweep.subdir


def _job_return(job: Job, overrides: Sequence[str], failed: bool) -> JobReturn:
    """Return what a sweeper learns of a job: the best value of what it monitors, or its error."""
    result = JobReturn(overrides=overrides, status=JobStatus.FAILED if failed else JobStatus.COMPLETED)
    result.return_value = (
        MuraError(f"{job.folder}: this run failed.") if failed else read_best_value(RunFolder(job.folder))
    )
    return result


class SlurmLauncher(ProcessLauncher):
    """Each job in SLURM's queue, with the resources of conf/hydra/launcher/slurm.yaml; waits until all have ended."""

    def __init__(self, **resources: Any) -> None:
        super().__init__()
        self.resources = resources

    @property
    def captured(self) -> bool:
        return True

    def _check_launcher(self) -> None:
        self.resources = check_launcher(self.resources, "hydra.launcher")
        queue.require_slurm()

    def _refuse_if_taken(self, config: DictConfig) -> None:
        """Raise ConfigError when a job's folder holds a run of other settings; the same multirun goes on."""
        refuse_another_experiment(RunFolder(_folder_of(config)), config)

    def _run(self, jobs: list[Job]) -> list[Outcome]:
        folder = Path(self.config.hydra.sweep.dir).resolve() / ".slurm"
        return queue.run_jobs(self.script, jobs, self._tell, resources=queue.Resources(**self.resources), folder=folder)
