"""The study: one unified model or seven specialised ones?

    python sweep.py 'models=[resnet18,densenet121]' name=mine data.root=DIR
    python sweep.py experiment=kumar2024 data.root=DIR --dry-run

Trains models x (seven specialised + unified) x seeds, then compares the two approaches. Started again, it trains only
the missing runs. The study's own settings:

    'models=[...]'      the models to train (conf/model)
    'seeds=[0,1,2]'     three or more let the verdict speak of the approaches, not of single trained models
    'extremities=[...]' all seven by default
    'arms=[...]'        specialised and unified by default; also shared (one backbone, a head for each extremity),
                        finetuned (the unified model, trained on with each extremity) and leave_one_out (trained on
                        all but one, tested on that one)
    margin=0.03         two approaches whose accuracies differ by less are called equivalent; none by default
    primary=MODEL       the only model that the others are compared with, within each arm; any two by default
    budget=epochs       or steps: a specialised model is trained for as many steps as the unified one
    search=NAME         lr_wd, head_augmentation or schedule (conf/search): before the study is trained, so many
                        trials=N for each model and data set, on the validation part; what is best is trained
                        (docs/tuning.md); prune=true stops hopeless trials, 'folds=[0,1,2]' averages each over folds
    wandb.workspace=true  saves a view of the W&B dashboard for this study (needs a login, and -e .[workspace])
    folds=fixed         every run validates on the fold data.fold; with rotate, seed k on fold k mod 5, in all arms
                        alike, so that the verdict speaks of several splits
    name=NAME           the study's folder below studies_dir
    studies_dir=studies
    launcher=local      runs on this machine, launcher.workers=N at a time; by default one a GPU, or
                        without GPUs as many as cores and memory allow
    launcher=slurm      runs in a SLURM queue, with launcher.partition, launcher.account, launcher.time=12:00:00,
                        launcher.gpus=1, launcher.cpus=4, launcher.memory=16 (GiB) for each, launcher.at_a_time=N,
                        'launcher.setup=[lines for the batch script]', 'launcher.options={qos: high}' (docs/scaling.md)
    experiment=NAME     kumar2024, rajpurkar2018, demo or debug (conf/study), or tuned/STUDY, what a search has chosen
    --dry-run           list the runs, start nothing

Every other setting goes through to each run: see python train.py --help.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mura.config import CONF_DIR
from mura.config.command_line import study_arguments, understood_settings
from mura.config.hydra_hooks import register_resolvers
from mura.config.rules import SETTING_RULES, check_config, check_extremities, check_launcher
from mura.config.search import read_chosen, read_tuning, refuse_mixture, write_preset
from mura.config.sentences import exit_with_sentence
from mura.config.start import fetch_weights
from mura.errors import ConfigError, MuraError
from mura.launch.jobs import Outcome, run_jobs
from mura.launch.placement import place_runs
from mura.launch.processes import start_server
from mura.launch.slurm import queue
from mura.processes import PROGRAM, typed
from mura.progress import console_on
from mura.runs.folder import FOLDS, RunFolder
from mura.signals import answering_signals
from mura.study.arms import ARMS, OTHERS
from mura.study.grid import BUDGETS, EPOCHS, FIXED, FOLD_CHOICES, STEPS, Cell, cells, state_of
from mura.study.plan import Chosen, Config, Plan, note_plan, settings_of
from mura.study.search import require_optuna
from mura.study.trials import Tuning
from mura.tracking.wandb_run import refuse_shared_id

SCRIPT = PROGRAM / "train.py"
OWN_KEYS = (
    "models", "seeds", "extremities", "arms", "budget", "folds", "margin", "primary", "wandb", "name", "studies_dir",
    "launcher", "search", "trials", "prune", "chosen",
)  # fmt: skip

Launch = Callable[..., list[Outcome]]


def sweep(study: DictConfig, plan: Plan, tuning: Tuning | None, launch: Launch) -> int:
    """Search if that was asked for, train what is missing, then compare; return 1 when a run failed, else 0."""
    import_report(plan.project)
    from mura.study.watch import StudyWatch, run_study

    fetch_weights([plan.configs[cell]["model"] for cell in plan.missing])
    build_caches([plan.configs[cell]["data"] for cell in plan.missing])
    with RunFolder(make_folder(plan.folder)).locked("study"):
        note_plan(plan.folder, as_list(study.seeds), study.margin, study.primary)
        if tuning is None:
            failed = run_study(launch, plan.waves(), StudyWatch(len(plan.states), len(plan.missing)))
        else:
            plan, failed = tune_and_train(study, plan, tuning, launch)
        if any(plan.run(cell).finished for cell in plan.states):
            compare_runs(plan, study.margin, study.primary, study.wandb.workspace)
    return 1 if failed else 0


def tune_and_train(study: DictConfig, plan: Plan, tuning: Tuning, launch: Launch) -> tuple[Plan, list[Outcome]]:
    """Search, and train what was chosen; return the plan of what was trained, and the runs that failed.

    Runs that start from others are searched and trained after these. Last the recipe's own trials are tested, so that
    the report can say what came before tuning.
    """
    from mura.study.watch import StudyWatch, run_study

    for stage, searches in enumerate(tuning.stages()):
        if failed := tuning.run(searches, launch):
            return plan, failed
        plan = plan_study(study, plan.settings, tuning.chosen, dry_run=False)
        jobs = plan.waves()[stage]
        if failed := run_study(launch, [jobs], StudyWatch(len(plan.states), len(plan.missing))):
            return plan, failed
    file, command = write_preset(study, tuning)
    logging.info("chosen: %s; train with it again: %s", file, command)
    return plan, tuning.test_recipes(launch)


def read_study(arguments: list[str]) -> tuple[DictConfig, list[str]]:
    """Return the study's own settings, and those of each run. `experiment=NAME` is a preset of conf/study.

    Raises ConfigError for a setting that can't be used.
    """
    own: list[str] = []
    settings: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "experiment":
            own.append(f"tuned={value.removeprefix('tuned/')}" if value.startswith("tuned/") else f"study={value}")
        elif argument != "search=null":
            (own if key.lstrip("+~").split(".")[0] in OWN_KEYS else settings).append(argument)
    places = [setting for setting in settings if setting.startswith("hydra.searchpath=")]
    study = compose("sweep", [*own, *places])
    check_study(study)
    settings = [*understood_settings(study.settings), *settings]
    check_folds(study, settings)
    return study, settings


def check_study(study: DictConfig) -> None:
    """Raise ConfigError for a setting of the study that can't be used."""
    for key in ("name", "studies_dir"):
        if study[key] in (None, ""):
            raise ConfigError(f"{key}={study[key]}: must be the name of a folder, such as {key}=mine.")
    for key in ("models", "extremities", "arms", "seeds"):
        values = as_list(study[key])
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{key}={values}: name at least one, and each only once.")
    check_extremities("extremities", as_list(study.extremities))
    rule = SETTING_RULES["seed"]
    if not all(map(rule.holds, as_list(study.seeds))):
        raise ConfigError(f"seeds={as_list(study.seeds)}: each must be {rule.wanted}.")
    arms = as_list(study.arms)
    for arm in arms:
        if arm not in ARMS:
            raise ConfigError(f"arms={arms}: there is no arm {arm}. Options: {', '.join(ARMS)}.")
        if ARMS[arm].trains_on == OTHERS and len(as_list(study.extremities)) < 2:
            raise ConfigError(f"arms={arms}: {arm} needs two extremities at least.")
    check_launcher(study.launcher)
    if study.margin is not None:
        from mura.comparison.equivalence import check_margin

        check_margin(study.margin)
    if study.primary is not None and study.primary not in as_list(study.models):
        raise ConfigError(f"primary={study.primary}: must be one of models={as_list(study.models)}.")
    if study.budget not in (None, *BUDGETS):
        raise ConfigError(f"budget={study.budget}: must be one of {', '.join(BUDGETS)}.")


def check_folds(study: DictConfig, settings: list[str]) -> None:
    """Raise ConfigError for folds that can't be used with the study's seeds or the runs' own settings."""
    is_of_search = OmegaConf.is_list(study.folds) and study.get("search") is not None
    if study.folds not in FOLD_CHOICES and not is_of_search:
        raise ConfigError(
            f"folds={study.folds}: must be fixed (every run validates on the fold data.fold) or rotate (seed k on fold "
            f"k mod {FOLDS}); a list of folds is for a search, else choose the seeds instead."
        )
    if study.folds == FIXED or is_of_search:
        return
    given = [setting.lstrip("+") for setting in settings if setting.lstrip("+").split("=")[0] == "data.fold"]
    runs = [compose("train", [*settings, f"model={model}"]) for model in as_list(study.models)]
    default = compose("train").data.fold
    given += [f"data.fold={run.data.fold}" for run in runs if run.data.fold != default]  # in an experiment's file
    if given:
        raise ConfigError(f"{given[0]}: folds=rotate gives each run the fold of its seed; leave one of the two out.")
    seeds = as_list(study.seeds)
    if len({seed % FOLDS for seed in seeds}) == 1:
        raise ConfigError(
            f"folds=rotate: with seeds={seeds} every run validates on fold {seeds[0] % FOLDS}; take seeds on several "
            f"folds, such as seeds=[0,1,2], or data.fold={seeds[0] % FOLDS} instead."
        )


def as_list(value: Any) -> list[Any]:
    return list(value) if OmegaConf.is_list(value) else [value]


def study_folder(study: DictConfig) -> Path:
    return Path(str(study.studies_dir)).expanduser().resolve() / str(study.name)


def study_grid(study: DictConfig) -> list[Cell]:
    models, extremities, arms, seeds = (as_list(study[key]) for key in ("models", "extremities", "arms", "seeds"))
    budget = study.budget or (EPOCHS if study.get("search") is None else STEPS)
    return cells(models, extremities, arms, seeds, budget, FIXED if OmegaConf.is_list(study.folds) else study.folds)


def plan_search(study: DictConfig, settings: list[str]) -> Tuning | None:
    """Return the searches of the study with what they have found so far; None when none is asked for."""
    folder = study_folder(study)
    refuse_mixture(study, folder)
    if study.get("search") is None:
        return None
    require_optuna()
    first = [cell for cell in study_grid(study) if cell.seed == as_list(study.seeds)[0]]
    tuning = read_tuning(study, settings, first, folder)
    tuning.take_over()
    for search in tuning.searches:
        for cell, run in search.runs(0).items():
            if run.begun:
                config = checked_config(compose("train", understood_settings(tuning.trial_settings(cell, {}))))
                state_of(run, config, data_fingerprint(config["data"]))
    return tuning


def plan_study(study: DictConfig, settings: list[str], chosen: Chosen, dry_run: bool) -> Plan:
    """Return the plan of the study. Nothing is written."""
    folder, grid = study_folder(study), study_grid(study)
    one_a_model = {cell.model: cell for cell in grid}.values()  # where most faults of a command line show
    configs = {cell: run_config(settings_of(cell, settings, chosen, folder)) for cell in one_a_model}
    example = next(iter(configs.values()))
    if not dry_run:
        prepare(study, example, is_done=all(RunFolder(folder / cell.name).finished for cell in grid))
    rest = {cell: run_config(settings_of(cell, settings, chosen, folder)) for cell in grid if cell not in configs}
    configs = {cell: (configs | rest)[cell] for cell in grid}
    fingerprint = data_fingerprint(example["data"])
    states = {cell: state_of(RunFolder(folder / cell.name), configs[cell], fingerprint) for cell in grid}
    return Plan(str(study.name), folder, settings, configs, states, chosen)


def run_config(settings: list[str]) -> Config:
    """Return the resolved config that a run of the study would have. Raises ConfigError for one without results."""
    cfg = compose("train", understood_settings(settings))
    if cfg.test is False:
        raise ConfigError(
            "test=false: a study compares on the test views; leave it out, or tune single runs with python train.py."
        )
    if cfg.trainer.get("fast_dev_run"):
        raise ConfigError(
            "trainer.fast_dev_run: leaves no results to compare; try out a study with experiment=debug, or a single "
            "run with python train.py."
        )
    return checked_config(cfg)


def checked_config(cfg: DictConfig) -> Config:
    """Return a config resolved, checked as `train.py` checks it, with its W&B project."""
    check_config(cfg)
    # the rest depends on the run's folder
    cfg.logger = {key: OmegaConf.select(cfg, f"logger.wandb.{key}") for key in ("project", "entity")}
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def data_fingerprint(data: Config) -> str:
    from mura.data.cache import fingerprint_of

    return fingerprint_of(data["root"], data["cache_dir"], data["trust_cache"])


def choose_launcher(settings: DictConfig, plan: Plan) -> tuple[int | None, Launch]:
    """Return how many runs at a time (None: all), and what runs them: this machine, or SLURM."""
    plain = check_launcher(settings)
    if runs_here(settings):
        trainer = plan.example["trainer"]
        workers, gpus = place_runs(plain["workers"], trainer["accelerator"], trainer["devices"], len(plan.states))
        return workers, partial(run_jobs, SCRIPT, workers=workers, gpus=gpus, captured=True)
    submit = partial(queue.run_jobs, SCRIPT, resources=queue.Resources(**plain), folder=plan.folder / ".slurm")
    return plain["at_a_time"], submit


def runs_here(launcher: DictConfig) -> bool:
    """Return whether the runs are processes of this machine, and not jobs of SLURM."""
    return "workers" in launcher


def prepare(study: DictConfig, config: Config, is_done: bool) -> None:
    """Refuse what would fail after hours of training; have the server that forks runs import torch meanwhile."""
    project = config["logger"]["project"]
    if project is not None:
        refuse_shared_id()
    if study.wandb.workspace:
        from mura.report.publish import require_workspaces

        if project is None:
            raise ConfigError("wandb.workspace=true: the runs don't log to W&B; take logger=wandb.")
        require_workspaces()
    if not runs_here(study.launcher):
        queue.require_slurm()
    elif not is_done:
        start_server()


def import_report(project: str | None) -> None:
    """Import what compares and reports now, while the server of the runs imports torch."""
    import mura.report.write  # noqa: F401

    if project is not None:
        import wandb  # noqa: F401


def build_caches(data: list[Config]) -> None:
    """Build the caches once, before the runs, each of which would wait for the first."""
    from mura.data.cache import open_cache

    keys = ("root", "cache_size", "cache_dir", "fit", "trust_cache")
    for place in {tuple(each[key] for key in keys) for each in data}:
        open_cache(*place)


def compare_runs(plan: Plan, margin: float | None, primary: str | None, workspace: bool) -> None:
    """Write the report, print its table, and log the comparison to the runs' W&B group."""
    from mura.report.write import console_table, write_report

    report = write_report([plan.folder], plan.folder, margin=margin, primary=primary)
    console_on(sys.stdout, width=120).print(console_table(report))
    if plan.project is not None:
        from mura.report.publish import publish, save_workspace

        publish(report, plan.project, plan.group, plan.example["logger"]["entity"])
        if workspace:
            logging.info("W&B workspace: %s", save_workspace(plan.project, plan.group))


def make_folder(folder: Path) -> Path:
    """Make the study's folder. Raises MuraError when it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MuraError(
            f"{folder}: the study can't be written there ({error.strerror}); choose studies_dir=."
        ) from None
    return folder


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if {"-h", "--help"} & set(arguments):
        print(str(__doc__).replace("python sweep.py", typed("sweep")).replace("python train.py", typed("train")))
        return 0
    dry_run = "--dry-run" in arguments
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        given = study_arguments([argument for argument in arguments if argument != "--dry-run"])
        study, settings = read_study(given)
        tuning = plan_search(study, settings)
        chosen = read_chosen(study, study_grid(study)) if tuning is None else tuning.chosen
        plan = plan_study(study, settings, chosen, dry_run)
        at_a_time, launch = choose_launcher(study.launcher, plan)
        if dry_run:
            print("\n".join([*(tuning.describe() if tuning else []), plan.describe(at_a_time)]))
            return 0
        return sweep(study, plan, tuning, launch)


if __name__ == "__main__":
    with answering_signals(), exit_with_sentence():
        sys.exit(main(sys.argv[1:]))
