"""The study: one unified model or seven specialised ones?

    python sweep.py models=[resnet18,densenet121] seeds=[0,1,2] name=mine data.root=DIR
    python sweep.py experiment=kumar2024 data.root=DIR --dry-run

Trains what is missing of models x (seven specialised + unified) x seeds, then compares the two approaches. Started
again, it does only what is still missing. The study's own settings:

    models=[...]        the models to train (conf/model)
    seeds=[0]           three or more let the verdict speak of the approaches, not of single trained models
    extremities=[...]   all seven by default
    arms=[...]          specialised and unified by default; also shared (one backbone, a head for each extremity),
                        finetuned (the unified model, trained on with each extremity) and leave_one_out (trained on
                        all but one, tested on that one)
    budget=epochs       or steps: a specialised model is trained for as many steps as the unified one
    wandb.workspace=true  saves a view of the W&B dashboard for this study (needs a login and mura[workspace])
    name=NAME           the study's folder below studies_dir
    studies_dir=studies
    launcher=local      runs on this machine, launcher.workers=N at a time; by default one a GPU, or
                        without GPUs as many as cores and memory allow
    launcher=slurm      runs in a SLURM queue, with launcher.partition, launcher.account, launcher.time=12:00:00,
                        launcher.gpus=1, launcher.cpus=4, launcher.memory=16 (GiB) for each, launcher.at_a_time=N,
                        launcher.setup=[lines for the batch script], launcher.options={qos: high} (docs/scaling.md)
    experiment=NAME     kumar2024, rajpurkar2018 or demo (conf/study)
    --dry-run           list the runs, start nothing

Every other setting goes through to each run: see python train.py --help.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mura.config import CONF_DIR
from mura.config.hydra_hooks import register_resolvers
from mura.config.rules import check_config, check_launcher
from mura.config.sentences import exit_with_sentence
from mura.errors import ConfigError, MuraError
from mura.launch.jobs import Job, JobListener, Outcome, run_jobs
from mura.launch.placement import place_runs
from mura.launch.processes import start_server
from mura.launch.slurm import queue
from mura.runs import RunFolder
from mura.signals import stop_answered
from mura.study.arms import ARMS, OTHERS
from mura.study.grid import BUDGETS, FINISHED, HALF_DONE, Cell, cells, seconds_left, state_of

SCRIPT = Path(__file__).resolve().parent / "train.py"
OWN = ("models", "seeds", "extremities", "arms", "budget", "wandb", "name", "studies_dir", "launcher", "study")


@dataclass(frozen=True)
class Plan:
    """The study's runs: where each is written, the config that it would have, and whether it is finished."""

    folder: Path
    runs: dict[Cell, RunFolder]
    configs: dict[Cell, dict[str, Any]]
    states: dict[Cell, str]

    @property
    def missing(self) -> list[Cell]:
        return [cell for cell in self.runs if self.states[cell] != FINISHED]

    @property
    def a_config(self) -> dict[str, Any]:
        """For what is the same in all runs."""
        return next(iter(self.configs.values()))

    @property
    def project(self) -> str | None:
        """W&B's, or None where the runs don't log to it."""
        return self.a_config["logger"]["project"]

    def seconds_left(self, at_a_time: int | None) -> float | None:
        finished = [run for cell, run in self.runs.items() if self.states[cell] == FINISHED]
        return seconds_left(finished, self.missing, at_a_time or len(self.runs))

    def show(self, at_a_time: int | None) -> None:
        for cell in self.runs:
            print(f"{self.states[cell]:10} {cell.name}")
        finished = len(self.runs) - len(self.missing)
        print(f"{finished} of {len(self.runs)} runs finished; time left: {in_words(self.seconds_left(at_a_time))}")


def sweep(study: DictConfig, settings: list[str], dry_run: bool) -> int:
    """Runs what is missing, then compares; the exit code is 1 when a run failed."""
    plan = plan_of(study, settings, dry_run)
    at_a_time, run = launcher(study.launcher, plan.folder, plan.a_config["trainer"], len(plan.runs))
    if dry_run:
        plan.show(at_a_time)
        return 0
    import_what_compares(plan.project)
    from mura.study.watch import Watch, run_study

    if "workers" not in study.launcher:
        queue.require_slurm()
    build_caches([plan.configs[cell]["data"] for cell in plan.missing])
    watch = Watch(len(plan.runs), len(plan.missing))
    with RunFolder(made(plan.folder)).locked("study"):
        waves: list[list[Job]] = [[], []]  # what starts from another run of the study comes after it
        for cell in plan.missing:
            own = [*settings, *cell.overrides(plan.folder)]
            waves[cell.parent is not None].append(job(cell, plan.runs[cell], plan.states[cell], own, study.name))
        failed = run_study(run, waves, watch)
        if len(failed) < len(plan.runs):
            compare_runs(plan.folder, plan.project, study)
    return 1 if failed else 0


def plan_of(study: DictConfig, settings: list[str], dry_run: bool) -> Plan:
    """Nothing is written yet; but the runs' server starts, so that it imports torch while the rest is looked at."""
    planned_cells = planned(study)
    folder = Path(str(study.studies_dir)).resolve() / str(study.name)
    runs = {cell: RunFolder(folder / cell.name) for cell in planned_cells}
    one_a_model = {cell.model: cell for cell in runs}.values()  # where most faults of a command line show
    configs = {cell: run_config(cell, settings, folder) for cell in one_a_model}
    a_config = next(iter(configs.values()))
    if study.wandb.workspace and not dry_run:
        require_workspace(a_config["logger"]["project"])
    if "workers" in study.launcher and not dry_run and not all(run.finished for run in runs.values()):
        start_server()
    configs |= {cell: run_config(cell, settings, folder) for cell in runs if cell not in configs}
    fingerprint = data_fingerprint(a_config)
    states = {cell: state_of(run, configs[cell], fingerprint) for cell, run in runs.items()}
    return Plan(folder, runs, configs, states)


def import_what_compares(project: str | None) -> None:
    """Now, while the server of the runs imports torch; at the end it would be waited for."""
    import mura.report.write  # noqa: F401

    if project is not None:
        import wandb  # noqa: F401


def require_workspace(project: str | None) -> None:
    """Before hours of training: a workspace asked for must be possible."""
    from mura.report.publish import require_workspaces

    if project is None:
        raise ConfigError("wandb.workspace=true: the runs don't log to W&B; take logger=wandb.")
    require_workspaces()


def compare_runs(folder: Path, project: str | None, study: DictConfig) -> None:
    """The report, its table on the console, and the comparison in the runs' W&B group, with the dashboard's view where
    it is asked for."""
    from rich.console import Console

    from mura.report.write import console_table, write_report

    report = write_report([folder], folder)
    Console(width=None if sys.stdout.isatty() else 120).print(console_table(report))
    if project is not None:
        from mura.report.publish import publish, save_workspace

        publish(report, project, study.name)
        if study.wandb.workspace:
            logging.info("W&B workspace: %s", save_workspace(project, study.name))


def planned(study: DictConfig) -> list[Cell]:
    """The study's runs. Raises ConfigError for a key that can't be used."""
    for key in ("name", "studies_dir"):
        if study[key] in (None, ""):
            raise ConfigError(f"{key}={study[key]}: must be the name of a folder, such as {key}=mine.")
    lists = {key: study[key] for key in ("models", "extremities", "arms", "seeds")}
    plain = {key: list(value) if OmegaConf.is_list(value) else [value] for key, value in lists.items()}
    for key, values in plain.items():
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{key}={values}: name at least one, and each only once.")
    for arm in plain["arms"]:
        if arm not in ARMS:
            raise ConfigError(f"arms={plain['arms']}: there is no arm {arm}. Options: {', '.join(ARMS)}.")
        if ARMS[arm].trains_on == OTHERS and len(plain["extremities"]) < 2:
            raise ConfigError(f"arms={plain['arms']}: {arm} needs two extremities at least.")
    check_launcher(study.launcher)
    if study.budget not in BUDGETS:
        raise ConfigError(f"budget={study.budget}: must be one of {', '.join(BUDGETS)}.")
    return cells(plain["models"], plain["extremities"], plain["arms"], plain["seeds"], study.budget)


def run_config(cell: Cell, settings: list[str], folder: Path) -> dict[str, Any]:
    """The resolved config that the run would have, checked as `train.py` checks it; of its logger, W&B's project."""
    cfg = compose("train", [*settings, *cell.overrides(folder)])
    check_config(cfg)
    cfg.logger = {"project": cfg.logger.get("project")}  # the rest hangs on the run's folder
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def launcher(
    settings: DictConfig, folder: Path, trainer: dict[str, Any], runs: int
) -> tuple[int | None, Callable[[list[Job], JobListener], list[Outcome]]]:
    """How many runs at a time (None: all), and what runs them: this machine, or SLURM."""
    plain = check_launcher(settings)
    if "workers" in plain:
        workers, gpus = place_runs(plain["workers"], trainer["accelerator"], trainer["devices"], runs)
        return workers, partial(run_jobs, SCRIPT, workers=workers, gpus=gpus, captured=True)
    submitted = partial(queue.run_jobs, SCRIPT, resources=queue.Resources(**plain), folder=folder / ".slurm")
    return plain["at_a_time"], submitted


def build_caches(data: list[dict[str, Any]]) -> None:
    """Once and before the runs, where each would wait for the first: here, while their server imports torch."""
    from mura.data.cache import open_cache

    for root, size, cache_dir in {(each["root"], each["cache_size"], each["cache_dir"]) for each in data}:
        open_cache(root, size, cache_dir)


def data_fingerprint(config: dict[str, Any]) -> str:
    from mura.data.cache import fingerprint_of

    return fingerprint_of(config["data"]["root"], config["data"]["cache_dir"])


def job(cell: Cell, run: RunFolder, state: str, settings: list[str], study: str) -> Job:
    """A half-done run goes on, a missing one begins."""
    if state == HALF_DONE:
        return Job(cell.name, [f"resume='{run.path}'"], run.path)
    named = [f"name={cell.model}-{cell.data}-seed{cell.seed}", f"group={study}", f"hydra.run.dir='{run.path}'"]
    return Job(cell.name, [*settings, *named], run.path)


def made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MuraError(
            f"{folder}: the study can't be written there ({error.strerror}); choose studies_dir=."
        ) from None
    return folder


def in_words(seconds: float | None) -> str:
    if seconds is None:
        return "unknown before a run of each model has finished"
    return f"about {seconds / 3600:.1f} h" if seconds > 5400 else f"about {max(1, round(seconds / 60))} min"


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The study's own overrides, and those of each run. `experiment=` is the study's when it has such a preset."""
    own: list[str] = []
    runs: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "experiment" and (not (CONF_DIR / "experiment" / f"{value}.yaml").is_file() or
                                    (CONF_DIR / "study" / f"{value}.yaml").is_file()):  # fmt: skip
            own.append(f"study={value}")
        else:
            (own if key.split(".")[0] in OWN else runs).append(argument)
    return own, runs


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--dry-run", "--help", "-h")]
    if "--help" in sys.argv or "-h" in sys.argv:
        print(__doc__)
        return 0
    own, settings = split_arguments(arguments)
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        with exit_with_sentence():
            study = compose("sweep", own)
        return sweep(study, [*study.settings, *settings], "--dry-run" in sys.argv)


if __name__ == "__main__":
    with stop_answered(), exit_with_sentence():
        sys.exit(main())
