"""The door: a mistyped command line gets one sentence and exit code 2; a recipe comes whole; the command line wins."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mura.config import CONF_DIR
from mura.config.command_line import hydra_arguments, resume_arguments
from mura.config.hydra_hooks import register_resolvers
from mura.config.parts import make_each
from mura.config.rules import SETTING_RULES, check_values
from mura.data.images import cache_size_for
from mura.errors import ConfigError
from mura.extremities import EXTREMITIES

REPOSITORY = Path(__file__).parent.parent.parent
REFUSED = [
    (["model=resnet81"], "did you mean resnet18?"),
    (["data=wrst"], "did you mean wrist?"),
    (["experiment=debgu"], "did you mean debug?"),
    (["modle=resnet18"], "did you mean mode or model?"),
    (["data.btch_size=8"], "data.batch_size"),
    (["lr=0.1"], "lr: there is no such setting; did you mean optimizer.lr?"),
    (["experimnt=debug"], "did you mean experiment"),
    (["optimizer=adamw", "optimizer.momentum=0.9"], "optimizer.momentum: there is no such setting"),
    (["data.batch_size=0"], "data.batch_size=0: must be a whole number of at least 1."),
    (["data.batch_size=many"], "data.batch_size=many: must be a whole number"),
    (["model=cnn4", "model.batch_norm=2"], "model.batch_norm=2: must be true, false or null."),
    (["model=resnet18", "model.batch_norm=true"], "model.batch_norm=true: can be chosen for cnn2, cnn4, cnn15 only"),
    (["optimizer.lr=-0.1"], "optimizer.lr=-0.1: must be a number above 0."),
    (["data.fit=crop"], "data.fit=crop: must be one of pad, stretch."),
    (["data.fold=5"], "data.fold=5: must be a whole number from 0 to 4."),
    (["data.extremities=[wrist,toe]"], "there is no extremity toe"),
    (["data.extremities=[]"], "data.extremities is empty"),
    (["trainer.precision=17"], "trainer.precision=17: must be one of auto"),
    (["trainer.precision=64-true"], "must be one of auto, 32-true, bf16-mixed, 16-mixed, 32."),
    (["monitor=val_auroc", "mode=min"], "the best monitor=val_auroc is its maximum, and mode follows from that; leave"),
    (["mode=max"], "mode=max: the best monitor=val_loss is its minimum"),
    (["monitor=val_kappa", "scheduler=plateau", "scheduler.mode=min"], "scheduler.mode=min: the best monitor"),
    (["monitor=val_acc"], "monitor=val_acc: must be one of val_loss"),
    (["trainer.limit_val_batches=0"], "must be a whole number of batches, at least 1, or a share of them above 0.0"),
    (["test=maybe"], "test=maybe: must be one of True, False."),
    (["data.conflicts=keep"], "data.conflicts=keep: must be one of refuse, leave_out."),
    (["test=false", "data.transfer=true"], "test=false predicts no test view: leave one of the two out."),
    (["model=torchvision"], "model.name is not set"),
    (["data.root=/no/such/folder"], "data.root=/no/such/folder: there is no such folder"),
    (["data.root="], "data.root is not set"),
    (["wrist"], "wrist: not understood"),
    (["--config-dir", "/no/such/folder"], "--config-dir /no/such/folder: there is no such folder."),
    (["resume=/no/such/run"], "resume=/no/such/run: no run to go on with there"),
    (["-m", "data=wrist,fingr"], "did you mean finger?"),
    (["-m", "optimizer.lr=interval(0,1)"], "Can only enumerate CHOICE and RANGE sweeps"),
    (["-m", "data=wrist,hand", "--cfg", "job"], "-m and --cfg don't go together"),
    (["-m", "data.btch_size=8,16"], "did you mean data.batch_size"),
    (["-m", "data=wrist,finger", "data.batch_size=0"], "data.batch_size=0"),
    (["-m", "seed=0,1", "hydra.launcher.workers=0"], "hydra.launcher.workers=0: must be a whole number of at least 1"),
    (["-m", "optimizer.lr=-1,0.1"], "optimizer.lr=-1: must be a number above 0."),
    (["-m", "data=glob(f*)", "seed=range(-1,1)"], "seed=-1: must be a whole number from 0"),
]


def configured(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", list(overrides))


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


def run_train(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / "train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_faulty_command_line_gets_one_sentence_without_torch_and_leaves_nothing(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    given = [] if any("data.root" in argument for argument in arguments) else [f"data.root={tmp_path}"]
    result = run_train(*arguments, *given, folder=tmp_path)
    said = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    assert result.returncode == 2
    assert len(said) == 1
    assert sentence in said[0]
    assert " torch\n" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_faulty_job_of_another_launcher_is_refused_when_it_starts(tmp_path: Path) -> None:
    result = run_train("-m", "hydra/launcher=basic", "data.batch_size=0,-1", "hydra.sweep.dir=all", folder=tmp_path)
    assert result.returncode == 2
    assert "train.py: data.batch_size=0: must be a whole number of at least 1." in result.stderr
    assert "train.py: data.batch_size=-1: must be a whole number of at least 1." in result.stderr
    assert "Traceback" not in result.stderr
    assert " torch\n" not in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_and_config_answer_without_torch_and_without_a_data_root(arguments: list[str], tmp_path: Path) -> None:
    result = run_train(*arguments, folder=tmp_path)
    assert result.returncode == 0
    assert "batch_size" in result.stdout
    assert " torch\n" not in result.stderr


def test_the_shell_completes_groups_and_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_train("-sc", "install=bash", folder=tmp_path)
    assert result.returncode == 0
    assert "complete -o nospace" in result.stdout
    monkeypatch.setenv("COMP_LINE", "python train.py model=dense")
    result = run_train("-sc", "query=bash", folder=tmp_path)
    assert "model=densenet121" in result.stdout.split()


@pytest.mark.parametrize("way", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_a_user_adds_options_in_a_folder_of_their_own(way: str, tmp_path: Path) -> None:
    own = tmp_path / "augmentation" / "mine.yaml"
    own.parent.mkdir()
    own.write_text((CONF_DIR / "augmentation" / "none.yaml").read_text().replace("flip: 0.0", "flip: 0.25"))
    result = run_train(way.format(tmp_path), "augmentation=mine", "--cfg", "job", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "flip: 0.25" in result.stdout
    result = run_train(way.format(tmp_path), "augmentation=mien", folder=tmp_path)
    assert "did you mean mine?" in result.stderr


def test_a_model_brings_its_whole_recipe() -> None:
    cfg = configured("model=densenet121")
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (1e-4, 0.9, 1e-4)
    assert (cfg.scheduler.step_size, cfg.scheduler.gamma) == (3, 0.3)
    assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.early_stopping.patience) == (32, 20, 2)
    assert (cfg.model.head, cfg.model.weights, cfg.data.image_size) == ("kumar_densenet", "imagenet", 224)
    cfg = configured("model=resnet18")
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (1e-3, 0.8, 1e-3)
    assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.early_stopping.patience) == (32, 20, 4)
    for name in ("cnn2", "cnn4", "cnn15"):
        cfg = configured(f"model={name}")
        assert (cfg.optimizer._target_, cfg.optimizer.lr, cfg.model.weights) == ("torch.optim.Adam", 1e-4, None)
    cfg = configured("model=densenet169")
    assert (cfg.optimizer.lr, cfg.data.image_size, cfg.data.batch_size) == (1e-4, 320, 8)
    assert cfg.model.loss.balance is True


def test_the_demo_trains_with_an_optimiser_of_its_own() -> None:
    cfg = configured("experiment=demo", "data=wrist")
    assert (cfg.model.name, cfg.optimizer._target_, cfg.optimizer.lr) == ("cnn4", "torch.optim.AdamW", 1e-3)
    assert (cfg.scheduler._target_, cfg.model.batch_norm) == ("mura.models.classifier.no_scheduler", None)


def test_the_command_line_wins_over_the_recipe_and_leaves_no_stray_key() -> None:
    cfg = configured("model=densenet121", "optimizer=adamw", "data.batch_size=8", "scheduler=cosine")
    assert "momentum" not in cfg.optimizer
    assert cfg.optimizer._target_ == "torch.optim.AdamW"
    assert cfg.scheduler.T_max == 20
    assert cfg.data.batch_size == 8


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in (
            "model",
            "data",
            "optimizer",
            "scheduler",
            "augmentation",
            "trainer",
            "logger",
            "experiment",
        )
        for option in options(group)
    ],
)
def test_every_option_of_every_group_composes_and_keeps_the_rules(group: str, option: str) -> None:
    extra = ["model.name=convnext_tiny"] if option in ("torchvision", "timm") else []
    check_values(configured(f"{group}={option}", *extra))


@pytest.mark.parametrize("option", options("study"))
def test_every_preset_of_the_study_composes(option: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        study = compose("sweep", [f"study={option}"])
    assert study.models
    assert study.name == option
    assert list(study.seeds) == ([0] if option in ("debug", "demo") else [0, 1, 2])


def test_the_rows_of_kumars_table_have_both_networks_from_scratch() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        study = compose("sweep", ["study=kumar2024"])
    assert list(study.models) == ["cnn4", "cnn15", "resnet18", "resnet50", "densenet121"]


def test_every_numeric_setting_has_a_rule() -> None:
    def numbers(settings: dict[str, Any], path: str = "") -> list[str]:
        names = []
        for key, value in settings.items():
            if isinstance(value, dict):
                names += numbers(value, f"{path}{key}.")
            elif type(value) in (int, float):
                names.append(f"{path}{key}")
        return names

    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for scheduler in options("scheduler"):
            for optimizer in options("optimizer"):
                cfg = compose("train", [f"scheduler={scheduler}", f"optimizer={optimizer}"])
                del cfg.logger
                assert set(numbers(OmegaConf.to_container(cfg, resolve=True))) - {
                    "model.seed",
                    "model.image_size",
                    "data.seed",
                } <= set(SETTING_RULES)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["callbacks=learning_rate_monitor", "logger=none"], "callbacks.learning_rate_monitor: writes to the loggers"),
        (["model._convert_=none"], "model._convert_=none: must be all: a checkpoint then holds plain values"),
        (["data._convert_={}"], "data._convert_={}: must be all"),
        (["+data.more={}"], "data.more: there is no such setting"),
        (["optimizer._partial_=false"], "optimizer._partial_=False: must be true"),
        (["callbacks=ema", "+callbacks.ema._partial_=true"], "callbacks.ema._partial_=True: must be false"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_lose_the_results_of_a_run_is_refused_before_it(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_values(configured(*overrides))
    assert str(refused.value).startswith(sentence)


def test_a_module_in_the_place_of_a_class_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.mine\._target_=json: names no class"):
        make_each(OmegaConf.create({"mine": {"_target_": "json"}}), "callbacks")


def test_names_follow_from_the_extremities() -> None:
    assert configured("data=wrist").arm == "specialised"
    assert configured().name == "resnet18-unified-seed0"
    union = configured("data.extremities=[wrist,finger]", "model=cnn4", "seed=3")
    assert (union.name, union.arm) == ("cnn4-finger+wrist-seed3", "union")
    assert list(configured().data.extremities) == list(EXTREMITIES)


def test_models_of_one_input_size_share_a_cache_size() -> None:
    assert cache_size_for(224) == 256
    assert configured("model=resnet18").data.cache_size == configured("model=densenet121").data.cache_size == 256
    assert all(cache_size_for(size) >= size for size in range(32, 513))


def test_a_cache_smaller_than_the_network_input_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.cache_size=64 is smaller than data\.image_size=224"):
        check_values(configured("data.cache_size=64"))


def test_resume_takes_the_saved_command_line_but_for_what_is_given_anew(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    saved = ["model=cnn4", "trainer.max_epochs=2", "logger=wandb", "logger.wandb.project=mine", "data.root=here"]
    (tmp_path / ".hydra" / "overrides.yaml").write_text("".join(f"- {setting}\n" for setting in saved))
    result = resume_arguments([f"resume={tmp_path}", "trainer.max_epochs=5", "logger=csv"])
    assert result[:4] == ["model=cnn4", "data.root=here", "trainer.max_epochs=5", "logger=csv"]
    assert f"hydra.run.dir={tmp_path}" in result


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[]\n")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ConfigError, match="this run is finished"):
        resume_arguments([f"resume={tmp_path}"])


@pytest.mark.parametrize("scheduler", options("scheduler"))
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimiser_takes_a_step_under_every_schedule(optimizer: str, scheduler: str) -> None:
    cfg = configured(f"optimizer={optimizer}", f"scheduler={scheduler}")
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = instantiate(cfg.optimizer)([weight])
    schedule = instantiate(cfg.scheduler)(optimiser)
    weight.sum().backward()
    optimiser.step()
    if schedule is not None:
        schedule.step(*([1.0] if scheduler == "plateau" else []))
    assert (weight < 1).all()


def test_the_parts_of_a_batch_are_set_in_one_place_and_have_a_view_each() -> None:
    assert configured("data.accumulate=4").trainer.accumulate_grad_batches == 4
    with pytest.raises(ConfigError, match=r"trainer\.accumulate_grad_batches=4: .* give data\.accumulate instead"):
        check_values(configured("trainer.accumulate_grad_batches=4"))
    with pytest.raises(ConfigError, match=r"data\.accumulate=5: a batch of data\.batch_size=4 views"):
        check_values(configured("data.accumulate=5", "data.batch_size=4"))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["data=wrist", "-m", "seed=0,1"], ["-m", "data=wrist", "seed=0,1"]),
        (["model=cnn4", "--cfg", "job", "data=wrist"], ["--cfg", "job", "model=cnn4", "data=wrist"]),
        (["a=1", "--package", "x=y", "b=2"], ["--package", "x=y", "a=1", "b=2"]),
        (["a=1", "--info", "searchpath", "b=2"], ["--info", "searchpath", "a=1", "b=2"]),
        (["--info", "a=1"], ["--info", "a=1"]),
        (["~logger", "+trainer.max_time=1"], ["~logger", "+trainer.max_time=1"]),
    ],
)
def test_flags_may_stand_anywhere_among_the_settings(typed: list[str], expected: list[str]) -> None:
    assert hydra_arguments(typed) == expected
