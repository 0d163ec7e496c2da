"""`python sweep.py search=...`: equal chances, nothing seen of the test set, a kill in the middle, bad input."""

import json
import shutil
from functools import partial
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
import yaml
from command import ON_CPU, REPOSITORY, Command
from hydra import compose, initialize_config_dir
from offline import records
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

import sweep
from mura.config import CONF_DIR
from mura.config.command_line import hydra_arguments, study_arguments
from mura.config.hydra_hooks import register_resolvers
from mura.config.rules import check_values
from mura.launch.jobs import run_jobs
from mura.runs.folder import RunFolder
from mura.study.trials import Tuning

SMALL = (
    "models=[cnn2]", "seeds=[0]", "extremities=[wrist,hand]", "name=study", "logger=none",
    "data.image_size=32", "trainer.max_epochs=2", *ON_CPU,
)  # fmt: skip
SEARCH = ("search=lr_wd", "trials=4")
ONE_ARM = ("arms=[specialised]", "extremities=[wrist]")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of workers decides the threads of a run, and so the last bits of its results."""
    monkeypatch.setattr("mura.launch.jobs.cores", lambda: 1)


@pytest.fixture
def say(sweep: Command, mura_root: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`python sweep.py ...`; its presets lie in the test's folder instead of conf/."""
    conf = tmp_path / "conf"
    conf.mkdir()
    monkeypatch.setattr("mura.config.search.CONF_DIR", conf)
    places = (f"data.root={mura_root}", f"data.cache_dir={cache_dir}", f"studies_dir={tmp_path / 'studies'}")
    return partial(sweep, *SMALL, *places)


def search_only(root: Path, cache: Path, studies: Path, *more: str, workers: int = 1) -> Tuning:
    """Run the searches of a study and train nothing after them."""
    places = [f"data.root={root}", f"data.cache_dir={cache}", f"studies_dir={studies}"]
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        study, settings = sweep.read_study(study_arguments([*SMALL, *SEARCH, *places, *more]))
        tuning = sweep.plan_search(study, settings)
    assert tuning is not None
    launch = partial(run_jobs, REPOSITORY / "train.py", workers=workers, captured=True)
    for searches in tuning.stages():
        assert tuning.run(searches, launch) == []
    return tuning


@pytest.fixture(scope="module")
def undisturbed(mura_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    """A finished search of one model and data set by one worker, to be read or copied only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mura.launch.jobs.cores", lambda: 1)
        return search_only(mura_root, cache_dir, tmp_path_factory.mktemp("studies"), *ONE_ARM)


def told(tuning: Tuning) -> list[tuple[object, ...]]:
    [search] = tuning.searches
    return [(each.number, each.params, each.value, each.state, each.steps) for each in search.in_order()]


@pytest.mark.slow
def test_trials_have_equal_steps_and_predict_no_test_view(undisturbed: Tuning) -> None:
    assert [steps for *_, steps in told(undisturbed)] == [2, 2, 2, 2]
    for number in range(4):
        [run] = undisturbed.searches[0].runs(number).values()
        assert run.path == undisturbed.folder / "cnn2" / "wrist" / f"trial{number}"
        assert json.loads(run.metrics.read_text())["test"] is None
        assert "test," not in run.predictions.read_text().partition("\n")[2]
        assert yaml.safe_load(run.config.read_text())["data"]["steps_like"] == ["wrist"]
    assert undisturbed.terms.describe().items() <= json.loads((undisturbed.folder / "search.json").read_text()).items()


@pytest.mark.slow
def test_whatever_the_test_set_holds_the_same_is_tried_and_chosen(
    undisturbed: Tuning, mura_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "MURA-v1.1"
    shutil.copytree(mura_root, root)
    flipped = {"positive": "negative", "negative": "positive"}
    for study in sorted((root / "valid").glob("*/*/study1_*")):
        for picture in study.glob("*.png"):
            picture.unlink()
        study.rename(study.with_name(f"study1_{flipped[study.name.partition('_')[2]]}"))
    lists = root / "valid_labeled_studies.csv"
    lines = [line.rsplit("_", 1) for line in lists.read_text().splitlines()]
    swapped = [f"{start}_{flipped[end.partition('/')[0]]}/,{1 - int(end.rpartition(',')[2])}" for start, end in lines]
    lists.write_text("\n".join(swapped) + "\n")
    paths = root / "valid_image_paths.csv"
    paths.write_text(
        paths.read_text().replace("positive", "x").replace("negative", "positive").replace("x", "negative")
    )
    assert told(search_only(root, tmp_path / "cache", tmp_path, *ONE_ARM)) == told(undisturbed)


@pytest.mark.slow
def test_a_killed_search_goes_on_with_two_workers_to_the_same_choice_and_trains_it(
    undisturbed: Tuning, say: Command, tmp_path: Path
) -> None:
    search = tmp_path / "studies" / "study" / "search"
    shutil.copytree(undisturbed.folder, search)
    # As a kill during the second generation leaves it: one trial ended but not told, one stopped before its last epoch
    noted = json.loads((search / "search.json").read_text())
    about = noted["searches"]["cnn2/wrist"]
    del about["trials"][2:], about["chosen"], about["importance"]
    (search / "search.json").write_text(json.dumps(noted))
    stopped = RunFolder(search / "cnn2" / "wrist" / "trial3")
    stopped.metrics.unlink()
    stopped.last_file.unlink()
    lines = (search / "journal.log").read_bytes().splitlines(keepends=True)
    (search / "journal.log").write_bytes(b"".join(lines[:-2]) + lines[-2][:30])

    ended = say(*SEARCH, *ONE_ARM, "launcher.workers=2")
    assert ended.code == 0, ended.said
    assert ended.said.count("done    search/cnn2/wrist/trial") == 2, "the stopped trial, and the recipe's test"
    assert "done    cnn2/wrist/seed0" in ended.said
    again = json.loads((search / "search.json").read_text())["searches"]["cnn2/wrist"]
    [found] = undisturbed.searches
    assert again["chosen"] == found.chosen.number
    values = [(each["params"], each["value"]) for each in again["trials"]]
    assert values == [(each.params, each.value) for each in found.in_order()]

    chosen = yaml.safe_load((tmp_path / "studies/study/cnn2/wrist/seed0/config.yaml").read_text())
    assert chosen["optimizer"]["lr"] == found.chosen.params["optimizer.lr"]
    assert json.loads((search / "cnn2/wrist/trial0/metrics.json").read_text())["test"] is not None
    preset = yaml.safe_load((tmp_path / "conf" / "tuned" / "study.yaml").read_text())
    assert preset["chosen"]["cnn2"]["wrist"] == undisturbed.chosen["cnn2/wrist"]
    assert not any(each.startswith("data.root") for each in preset["settings"])

    finished = say(*SEARCH, *ONE_ARM, "launcher.workers=2")
    assert (finished.code, finished.said.count("done    ")) == (0, 0), finished.said


@pytest.mark.slow
def test_trials_are_averaged_over_folds_pruned_by_earlier_ones_and_runs_of_their_kind_in_wandb(
    mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    more = ("trials=2", "folds=[0,1]", "prune=true", "logger=wandb")
    tuning = search_only(mura_root, cache_dir, tmp_path, *ONE_ARM, *more, workers=2)
    [search] = tuning.searches
    for number in range(2):
        runs = list(search.runs(number).values())
        assert [run.path.name for run in runs] == ["fold0", "fold1"]
        metrics = [json.loads(run.metrics.read_text()) for run in runs]
        assert [each["fold"] for each in metrics] == [0, 1]
        assert search.told[number].value == pytest.approx(fmean(each["best_value"] for each in metrics))
        pruned = "pruned" in [each["stopped_by"] for each in metrics]
        assert search.told[number].state == ("pruned" if pruned else "complete")
    first, second = (search.runs(number).values() for number in range(2))
    for recipe, later in zip(first, second, strict=True):
        [limit, *_] = yaml.safe_load(later.config.read_text())["callbacks"]["prune"]["limits"]
        assert limit == pytest.approx(pd.read_csv(recipe.history)["val_loss"][0], abs=1e-6)
    [about] = records(next(iter(first)).path, "run")
    assert (about["job_type"], about["run_group"]) == ("search", "study")
    assert about["display_name"] == "cnn2-wrist-trial0"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["search=lr_wd"], "trials is not set"),
        (["search=lr", "trials=4"], "did you mean lr_wd?"),
        (["search=null", "trials=4"], "trials=4: belongs to a search"),
        (["prune=true"], "prune=True: belongs to a search"),
        (["folds=[0,1]"], "a list of folds is for a search"),
        (["experiment=tuned/nothing"], "there is no tuned nothing"),
        (["+chosen.cnn2.wrist=['optimizer.lr=1']"], "nothing for cnn2/unified"),
        ([*SEARCH, "trials=1"], "trials=1: must be a whole number from 2"),
        ([*SEARCH, "launcher.workers=5"], "trials=4: fewer than the 5 runs at a time"),
        ([*SEARCH, "~search.optimizer"], "search: an empty space"),
        ([*SEARCH, "search.optimizer.lr.low=1"], "search.optimizer.lr: low=1 must be below high=0.01"),
        ([*SEARCH, "search.optimizer.lr.low=0"], "a range with log: true must begin above zero"),
        ([*SEARCH, "+search.optimizer.speed={low: 1, high: 2}"], "optimizer.speed: there is no such setting"),
        ([*SEARCH, "+search.optimzer.lr={low: 1, high: 2}"], "did you mean optimizer.lr"),
        ([*SEARCH, "+search.model.dropout={low: 0, high: 2}"], "model.dropout=2.0: must be a number from 0 to 0.99"),
        ([*SEARCH, "+search.augmentation=[none, storng]"], "did you mean strong?"),
        ([*SEARCH, "+search.data.batch_size=[8, 16]"], "search.data: can't be searched"),
        ([*SEARCH, "budget=epochs"], "budget=epochs: in a search the runs of all arms have equally many steps"),
        ([*SEARCH, "prune=maybe"], "prune=maybe: must be true or false"),
        ([*SEARCH, "folds=[0,0]"], "folds=[0, 0]: name at least one"),
        ([*SEARCH, "folds=[5]"], "folds=[5]: name at least one, each a whole number from 0 to 4"),
        ([*SEARCH, "folds=[0,1]", "arms=[finetuned]"], "the arm finetuned starts from a run that was trained on"),
        ([*SEARCH, "+chosen.cnn2.wrist=[]"], "leave out one of the two"),
    ],
)
def test_a_faulty_search_is_refused_before_anything_starts(
    more: list[str], sentence: str, say: Command, tmp_path: Path
) -> None:
    refused = say(*more)
    assert refused.code == 2, refused.said
    assert sentence in refused.said
    assert not (tmp_path / "studies").exists()


@pytest.mark.slow
def test_a_search_and_runs_without_one_share_no_study(undisturbed: Tuning, say: Command, tmp_path: Path) -> None:
    study = tmp_path / "studies" / "study"
    shutil.copytree(undisturbed.folder, study / "search")
    assert "was begun with a search: go on with its search=" in say(*ONE_ARM).said
    other_terms = say("search=schedule", "trials=5", *ONE_ARM).said
    for what in ("on other terms: trials 4, now 5", "optimizer.weight_decay {", "scheduler not searched, now ["):
        assert what in other_terms
    assert "augmentation.flip 0.5, now 0.1" in say(*SEARCH, *ONE_ARM, "augmentation.flip=0.1").said
    shutil.rmtree(study / "search")
    (study / "cnn2" / "wrist" / "seed0").mkdir(parents=True)
    (study / "cnn2" / "wrist" / "seed0" / "config.yaml").write_text("seed: 0\n")
    assert "holds runs that were trained without a search" in say(*SEARCH, *ONE_ARM).said


def test_the_command_of_the_wandb_sweep_is_one_that_train_py_understands() -> None:
    about = yaml.safe_load((CONF_DIR / "wandb_sweep.yaml").read_text())
    for bound in ("min", "max"):
        tried = {key: {"value": each[bound]} for key, each in about["parameters"].items()}
        filled = create_sweep_command_args({"args": tried})["args_no_hyphens"]
        before, after = about["command"][:3], about["command"][3:]
        assert before == ["${env}", "python", "${program}"]
        assert after.pop() == "${args_no_hyphens}"
        register_resolvers()
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose("train", hydra_arguments([*after, *filled]))
            check_values(cfg)
        assert (cfg.optimizer.lr, cfg.test) == (tried["optimizer.lr"]["value"], False)
    assert about["metric"] == {"name": "best_value", "goal": {"min": "minimize", "max": "maximize"}[cfg.mode]}
