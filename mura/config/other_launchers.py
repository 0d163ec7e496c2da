"""Jobs of a multirun under another launcher than this program's own: Hydra's basic, or the joblib and submitit plugins.

They call a function for each job, in one process or in a worker of theirs. Lightning starts the further processes of a
run with the command line of the first, which is the whole multirun's here, or not this program's at all. A run of
several processes is therefore started with a command line of its own.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mura.config.command_line import search_path
from mura.config.rules import check_config
from mura.config.sentences import exit_with_sentence, explain_unless_stopped
from mura.config.start import removed_if_refused
from mura.errors import ConfigError, InterruptedRunError, MuraError, say
from mura.launch.jobs import Job, run_jobs
from mura.processes import srun_tasks
from mura.runs.folder import RunFolder
from mura.runs.records import read_best_value


def run_job(job: Callable[[DictConfig, RunFolder], None], cfg: DictConfig, script: Path) -> float | None:
    """Call `job` with the config and folder that Hydra has made for it, and report its errors as its launcher wants.

    Returns the best value of what is monitored, by which a sweeper searches.

    Under this program's launchers a job is a single run: its error is a sentence and an exit code. Under another one
    it is handed on, and a run of several processes becomes a command of its own, of `script`.
    """
    run = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        with exit_with_sentence():
            job(cfg, run)
        return read_best_value(run)
    with report_and_raise():
        with run.locked(), removed_if_refused(run):
            check_config(cfg)
        if cfg.trainer.devices * cfg.trainer.num_nodes > 1:
            run_as_command(script, run)
        else:
            job(cfg, run)
    return read_best_value(run)


def run_as_command(script: Path, run: RunFolder) -> None:
    """Run the current job as a process of its own, with this process's output. Raises MuraError when it fails."""
    if srun_tasks() > 1:
        raise ConfigError(
            f"srun started {srun_tasks()} tasks for a job of this multirun, and each would start the whole run: set "
            "hydra.launcher.tasks_per_node=1."
        )
    # joblib's workers start processes in a way of their own, which a new process would inherit and not know
    multiprocessing.set_start_method("forkserver", force=True)
    hydra = HydraConfig.get()
    arguments = [*hydra.overrides.task, *search_path(hydra.searchpath), f"hydra.run.dir={run.path}"]
    job = Job(run.path.name, arguments, run.path)
    [outcome] = run_jobs(script, [job], lambda *_: None)
    if outcome.exit_code != 0:
        raise MuraError(f"{run.path}: this run failed (exit code {outcome.exit_code}); its job's output says why.")


@contextmanager
def report_and_raise() -> Iterator[None]:
    """Say a user's error when it happens, then hand it on to Hydra, which goes on with the other jobs."""
    try:
        yield
    except Exception as error:
        user_error = explain_unless_stopped(error)
        if user_error is None:
            raise
        say(str(user_error))
        if isinstance(user_error, InterruptedRunError):
            raise SystemExit(user_error.exit_code) from None
        raise user_error from None
