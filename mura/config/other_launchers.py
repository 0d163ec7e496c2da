"""Jobs of a multirun under another launcher than this program's own: Hydra's basic, or the joblib and submitit plugins.

They call a function for each job, in one process or in a worker of theirs. Lightning starts the further processes of a
run with the command line of the first, which is there the whole multirun's, or none of this program; so a run of
several processes is started from here with a command line of its own.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from mura.config.sentences import users_error
from mura.errors import ConfigError, InterruptedRunError, MuraError, say
from mura.launch.jobs import Job, run_jobs
from mura.processes import srun_tasks
from mura.runs import RunFolder


def called_by_another_launcher() -> bool:
    """Under this program's own launchers each job is a command of a single run."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def run_as_command(script: Path, run: RunFolder) -> None:
    """The current job as a process of its own, with this process's output; raises MuraError when it fails."""
    if srun_tasks() > 1:
        raise ConfigError(
            f"srun started {srun_tasks()} tasks for a job of this multirun, and each would start the whole run: set "
            "hydra.launcher.tasks_per_node=1."
        )
    # a worker of joblib has a way of its own to start processes, which the new one would be told of and does not know
    multiprocessing.set_start_method("forkserver", force=True)
    job = Job(run.path.name, [*HydraConfig.get().overrides.task, f"hydra.run.dir='{run.path}'"], run.path)
    [outcome] = run_jobs(script, [job], lambda *_: None)
    if outcome.exit_code != 0:
        raise MuraError(f"{run.path}: this run failed (exit code {outcome.exit_code}); its job's output says why.")


@contextmanager
def failing_alone() -> Iterator[None]:
    """A user's error is said when it happens, and handed on to Hydra, which goes on with the other jobs."""
    try:
        yield
    except Exception as error:
        found = users_error(error)
        if found is None:
            raise
        say(str(found))
        if isinstance(found, InterruptedRunError):
            raise SystemExit(found.exit_code) from None
        raise found from None
