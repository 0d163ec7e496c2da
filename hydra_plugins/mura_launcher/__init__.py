"""Hydra's launchers for `train.py -m`: each job is a run of its own, through mura.launch."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from mura.config.rules import check_launcher
from mura.errors import ConfigError, MuraError
from mura.launch.jobs import Job, Outcome, run_jobs
from mura.launch.slurm import queue

log = logging.getLogger(__name__)


class ProcessLauncher(Launcher):
    """A failing job does not stop the others; what failed is said at once, and again at the end."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.script = Path(task_function.__code__.co_filename).resolve()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        self._check()
        common = set.intersection(*(set(each) for each in job_overrides)) if len(job_overrides) > 1 else set()
        jobs = [self._job(list(each), initial_job_idx + number, common) for number, each in enumerate(job_overrides)]
        outcomes = self._run(jobs)
        failed = [outcome for outcome in outcomes if outcome.exit_code != 0]
        if failed:
            names = ", ".join(f"{outcome.job.name} (exit code {outcome.exit_code})" for outcome in failed)
            raise MuraError(f"{len(failed)} of {len(jobs)} runs failed: {names}; see their folders and logs above.")
        return [JobReturn(overrides=each, status=JobStatus.COMPLETED) for each in job_overrides]

    def _check(self) -> None:
        check_launcher({"workers": self.workers}, "hydra.launcher")
        if self.workers is None:
            raise ConfigError("hydra.launcher.workers=null: must be a whole number of at least 1.")

    def _run(self, jobs: list[Job]) -> list[Outcome]:
        return run_jobs(self.script, jobs, self._tell, workers=self.workers, captured=self.captured)

    @property
    def captured(self) -> bool:
        """Whether the output of a run goes to its folder: not when there is one at a time, which is watched."""
        return self.workers > 1

    def _job(self, overrides: list[str], number: int, common: set[str]) -> Job:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        sweep = Path(config.hydra.sweep.dir).resolve()
        folder = sweep / config.hydra.sweep.subdir
        arguments = [*overrides, f"hydra.run.dir='{folder}'"]
        if config.group is None:
            arguments.append(f"group='{sweep.parent.name}_{sweep.name}'")
        name = " ".join(each for each in filter_overrides(overrides) if each not in common)
        return Job(name, arguments, folder)

    def _tell(self, job: Job, outcome: Outcome | None) -> None:
        if outcome is None:
            where = f"; output in {job.log}" if self.captured else ""
            log.info("run: %s%s", job.name, where)
        elif outcome.exit_code != 0:
            log.error("FAILED: %s (exit code %d), %s", job.name, outcome.exit_code, job.folder)
        elif self.captured:
            log.info("done: %s (%.0f s)", job.name, outcome.seconds)


class SlurmLauncher(ProcessLauncher):
    """Each job in SLURM's queue, with the resources of conf/hydra/launcher/slurm.yaml; waits until all have ended."""

    def __init__(self, **resources: Any) -> None:
        self.resources = resources

    @property
    def captured(self) -> bool:
        return True

    def _check(self) -> None:
        self.resources = check_launcher(self.resources, "hydra.launcher")
        queue.require()

    def _run(self, jobs: list[Job]) -> list[Outcome]:
        folder = Path(self.config.hydra.sweep.dir).resolve() / ".slurm"
        return queue.run_jobs(self.script, jobs, self._tell, resources=queue.Resources(**self.resources), folder=folder)
