"""Starts into a folder that is taken, runs that go on with other settings, and folders that no two starts share."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command import ON_CPU, Command, ended, fork
from omegaconf import OmegaConf

from mura.config.start import claim_folder
from mura.runs.folder import RunFolder

HALF_DONE = ("data=wrist", "trainer.max_epochs=2", "logger=csv")


def content(folder: Path) -> dict[Path, bytes]:
    """Return every file of a folder but the marks of whoever writes to it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.name not in (".lock", ".writer")}


@pytest.fixture(scope="module")
def lacking(mura_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that lacks its results, to be copied only."""
    folder = tmp_path_factory.mktemp("half_done")
    data = (f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32")
    found = ended(fork(["model=cnn2", *HALF_DONE, *data, *ON_CPU, f"hydra.run.dir={folder / 'run'}"], folder), folder)
    assert found.code == 0, found.said
    (folder / "run" / "metrics.json").unlink()
    return folder / "run"


@pytest.fixture
def half_done(lacking: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lacking, tmp_path / "run"))


@pytest.mark.parametrize("launcher", [[], ["-m", "hydra/launcher=basic"], ["-m"], ["-m", "hydra.launcher.workers=2"]])
def test_a_start_into_the_folder_of_a_running_one_changes_nothing(
    launcher: list[str], train: Command, half_done: Path, tmp_path: Path
) -> None:
    before = content(half_done)
    place = [f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=run"] if launcher else [f"hydra.run.dir={half_done}"]
    with RunFolder(half_done).locked():
        found = train(*launcher, "data=wrist", "seed=1", "data.fold=3", *place, check=False)
    assert found.code != 0
    assert "is writing this run; wait for it, or stop it." in found.said
    assert "Traceback" not in found.said
    assert content(half_done) == before


@pytest.mark.parametrize(
    ("given", "difference"),
    [
        (["seed=1", "data.fold=3"], "seed 0, now 1; model.seed 0, now 1; data.fold 0, now 3"),
        (["data=hand"], "data.extremities ['wrist'], now ['hand']"),
        (["optimizer=adamw"], "optimizer._target_ torch.optim.Adam, now torch.optim.AdamW"),
        (["scheduler=cosine", "trainer.max_epochs=3"], "scheduler.T_max None, now 3"),
    ],
)
def test_a_run_goes_on_with_nothing_but_what_it_was_trained_with(
    given: list[str], difference: str, train: Command, half_done: Path
) -> None:
    before = content(half_done)
    for way in ([f"resume={half_done}"], [f"hydra.run.dir={half_done}"]):
        bare = way[0].startswith("resume")
        kept = [
            setting for setting in HALF_DONE if not any(each.startswith(setting.split("=")[0] + "=") for each in given)
        ]
        found = train(*([] if bare else kept), *way, *given, bare=bare, check=False)
        assert found.code == 2
        assert f"{half_done} holds a run with other settings: " in found.said
        assert difference in found.said
        assert "(only trainer.max_epochs may change)" in found.said
        assert content(half_done) == before


def test_epochs_that_are_done_are_not_undone(train: Command, half_done: Path) -> None:
    before = content(half_done)
    found = train(f"resume={half_done}", "trainer.max_epochs=1", bare=True, check=False)
    assert found.code == 2
    assert f"trainer.max_epochs=1: {half_done} has trained 2 epochs already; give as many at least" in found.said
    assert content(half_done) == before


def test_epochs_are_fixed_where_the_schedule_follows_them(train: Command, tmp_path: Path) -> None:
    place = f"hydra.run.dir={tmp_path}/run"
    train(*HALF_DONE, place, "scheduler=cosine")
    (tmp_path / "run" / "metrics.json").unlink()
    found = train("resume=run", "trainer.max_epochs=3", bare=True, check=False)
    assert found.code == 2
    assert "scheduler.T_max 2, now 3; go on with" in found.said
    assert "(its schedule follows trainer.max_epochs)" in found.said


@pytest.mark.parametrize("planned", [2, 9])
def test_more_or_fewer_epochs_and_another_logger_are_no_other_experiment(
    planned: int, train: Command, half_done: Path
) -> None:
    config = half_done / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2", f"max_epochs: {planned}"))
    train(f"resume={half_done}", "trainer.max_epochs=3", "logger=none", "trainer.precision=bf16-mixed", bare=True)
    assert json.loads((half_done / "metrics.json").read_text())["epochs"] == 3
    assert "logger=none" in (half_done / ".hydra" / "overrides.yaml").read_text()


def test_a_first_start_that_is_refused_leaves_no_folder_behind(train: Command, tmp_path: Path) -> None:
    for settings in (["model=resnet18", "model.weights=/no/such/file"], ["monitor=val_auroc", "data.batch_size=1"]):
        found = train("data=hand", "trainer.limit_val_batches=1", *settings, check=False)
        assert found.code != 0
        assert "Traceback" not in found.said
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("console")] == []


def test_the_default_folder_tells_seed_and_fold(train: Command, tmp_path: Path) -> None:
    train("data=wrist", "experiment=debug", "seed=4", "data.fold=2")
    [made] = (tmp_path / "runs").glob("*/*")
    assert made.name.endswith("_cnn2_wrist_seed4_fold2")


def test_starts_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "12-00-00_cnn2"
    claimed = []
    for _ in range(3):
        config = OmegaConf.create({"hydra": {"run": {"dir": str(folder)}, "overrides": {"hydra": []}}})
        claim_folder(config, "run")
        claimed.append(Path(config.hydra.run.dir).name)
    assert claimed == ["12-00-00_cnn2", "12-00-00_cnn2_2", "12-00-00_cnn2_3"]
    named = OmegaConf.create({"hydra": {"run": {"dir": "mine"}, "overrides": {"hydra": ["hydra.run.dir=mine"]}}})
    claim_folder(named, "run")
    assert named.hydra.run.dir == "mine"


@pytest.mark.slow
def test_a_checkpoint_with_wrong_insides_is_one_sentence_when_a_run_would_go_on(train: Command, tmp_path: Path) -> None:
    train("data=wrist", "trainer.max_epochs=1", "hydra.run.dir=run")
    run = RunFolder(tmp_path / "run")
    run.metrics.unlink()
    whole = torch.load(run.last_file, weights_only=True)
    run.previous_file.unlink(missing_ok=True)
    for changed in (
        {"hyper_parameters": None},
        {"state_dict": {"network": torch.ones(1)}},
        {"optimizer_states": [{"state": 1}]},
        {"loops": 3},
        {"callbacks": None},
        {"callbacks": {}},
        {"callbacks": whole["callbacks"] | {"History": {"rows": "x"}}},
        {"global_step": torch.ones(2)},
        {"pytorch-lightning_version": 7},
    ):
        torch.save(whole | changed, run.last_file)
        ended = train("resume=run", "trainer.max_epochs=2", check=False, bare=True)
        assert ended.code == 1, (changed, ended.said)
        assert "Traceback" not in ended.said, (changed, ended.said)
        assert "last.ckpt" in ended.said.splitlines()[-1]
