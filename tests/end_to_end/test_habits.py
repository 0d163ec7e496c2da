"""What people who know Lightning, Hydra and W&B type: it works as they mean it, or is refused in one sentence."""

import copy
import functools
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command import ON_CPU, REPOSITORY, Command, same, weights
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mura.config import CONF_DIR
from mura.config.command_line import hydra_arguments, study_arguments, understood_settings
from mura.config.help import run_groups
from mura.config.hydra_hooks import register_resolvers
from mura.config.rules import ADDED_RULES, OPEN_SECTIONS, REFUSED_ARGUMENTS, check_config, check_values
from mura.config.sentences import explain_error
from mura.errors import ConfigError, MuraError

STRANGE = "größe & co, [1] #it's (a=b) {x}"  # a name of a folder that people have, and Hydra's grammar can't take
BEST_OF_ONE_EPOCH = ("data=wrist", "trainer.max_epochs=1")
SWEEPER = '''
from hydra.plugins.sweeper import Sweeper


class AskingSweeper(Sweeper):
    """Tries the rates, one after the other, and prints what comes back."""

    def __init__(self, max_batch_size=None, params=None):
        """What Hydra's own sweeper takes."""

    def setup(self, *, hydra_context, task_function, config):
        from hydra.core.plugins import Plugins

        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        for number, rate in enumerate(RATES):
            [job] = self.launcher.launch([[*arguments, f"optimizer.lr={rate}"]], initial_job_idx=number)
            print("objective", job.return_value, flush=True)
'''


def composed(*typed: str) -> DictConfig:
    """Return the config of what was typed, as `train.py` would compose it."""
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", hydra_arguments(list(typed)))


@functools.cache
def trainer_without_more() -> DictConfig:
    """Return the trainer's settings when nothing is typed; composing takes a tenth of a second."""
    return composed().trainer


def answer(*typed: str) -> str:
    """Return the sentence that `train.py` says to a command line before it imports torch."""
    with pytest.raises(Exception) as caught:
        check_config(composed(*typed))
    said = explain_error(caught.value)
    assert said is not None, caught.value
    assert "\n" not in str(said)
    return str(said)


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("+traner.max_epochs=3", "traner.max_epochs: there is no such setting; did you mean trainer.max_epochs"),
        ("+calbacks.x._target_=a.B", "calbacks.x._target_: there is no such setting"),
        ("+data._partial_=true", "data._partial_: there is no such setting"),
        ("callbacks=[ema,emma]", "there is no callbacks emma; did you mean ema? Options: ema, learning_rate_monitor"),
        ("+lr=0.1", "lr: there is no such setting; did you mean optimizer.lr?"),
        ("+data.foo.bar=3", "data.foo.bar: there is no such setting"),
        ("+trainer.callbacks=[a]", "trainer.callbacks: can't be used here: callbacks are chosen with callbacks="),
        ("+trainer.logger=true", "trainer.logger: can't be used here: loggers are chosen with logger="),
        ("+trainer.profiler=simpel", "trainer.profiler=simpel: must be one of simple, advanced, pytorch"),
        ("+trainer.max_epochs=3", "+trainer.max_epochs: this setting is there already; leave out the plus."),
        ("trainer.fast_dev_run=true", "is added with a plus: +trainer.fast_dev_run=VALUE."),
        ("+trainer.gradient_clip_algorithm=norm", "clips nothing without +trainer.gradient_clip_val=VALUE."),
        ("+trainer.max_time=00:00:00:00", "must be above zero and DD:HH:MM:SS, such as '00:01:30:00', or {hours: 1"),
        ("+trainer.max_time={hours: 0}", "must be above zero and DD:HH:MM:SS"),
        ("+trainer.min_epochs=99", "trainer.min_epochs=99: more than trainer.max_epochs=20."),
        ("optimizer.nesterov=true", "added with a plus: +optimizer.nesterov=VALUE."),
        ("--optimizer.lr=0.1", "settings are written without dashes, optimizer.lr=0.1 (a W&B sweep does it with"),
        ("--gpus", "--gpus: there is no such flag; settings are written key=value"),
        ("data=wrist,hand", "add -m, or pool them in one run with 'data.extremities=[wrist,hand]'."),
        ("data=[wrist,hand]", "extremities are pooled with 'data.extremities=[wrist,hand]'."),
        ("data.extremities=wrist,hand", "a list is written 'data.extremities=[wrist,hand]'"),
        ("logger=wandb,csv", "a list is written 'logger=[wandb,csv]'"),
        ("seed=0,1", "seed=0,1: several values are a run for each: add -m."),
        ("data.extremities.foo=3", "data.extremities.foo=3: there is no such setting"),
        ("optimizer=null", "optimizer=null: a run needs one of adam, adamw"),
        ("~optimizer", "optimizer was taken away: every run needs it"),
        ("~data.seed", "data.seed was taken away: every run needs it"),
        ("~foo", "~foo: there is no such setting"),
        ("early_stopping=null", "has settings below it, such as early_stopping.patience; give that."),
        ("model.loss=true", "model.loss=True: has settings below it, such as model.loss.balance"),
        ("hydra/launcher=null", "Config group override must be a string or a list."),
        ("data.root=/no/such (1)", "data.root=/no/such (1): there is no such folder"),
    ],
)
def test_what_can_not_be_meant_is_one_sentence_with_the_way_out(typed: str, sentence: str) -> None:
    assert sentence in answer(typed)


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("data.root=/data/größe/x", "data.root", "/data/größe/x"),
        ("model.weights=runs/x/epoch=3.ckpt", "model.weights", "runs/x/epoch=3.ckpt"),
        (f"data.root=/a/{STRANGE}", "data.root", f"/a/{STRANGE}"),
        ("data.root=/a b", "data.root", "/a b"),
        ("data.root='/a b'", "data.root", "/a b"),
        ("data.root=/a\\ b", "data.root", "/a b"),
        ("data.root=[x]", "data.root", "[x]"),
        ("data.cache_dir=2026", "data.cache_dir", "2026"),
        ("data.cache_dir=null", "data.cache_dir", None),
        ("data.cache_dir=~/cache", "data.cache_dir", str(Path.home() / "cache")),
        ("data.root=~", "data.root", str(Path.home())),
        ("data.root=${oc.env:HOME}/MURA", "data.root", str(Path.home() / "MURA")),
        ("name=5", "name", "5"),
        ("name=It's (mine)", "name", "It's (mine)"),
        ("logger.wandb.project=Größe & co", "logger.wandb.project", "Größe & co"),
        ("scheduler=null", "scheduler._target_", "mura.models.classifier.no_scheduler"),
        ("+experiment=demo", "model.name", "cnn4"),
        ("experiment=null", "model.name", "resnet18"),
        ("+trainer.max_time=00:01:30:00", "trainer.max_time", "00:01:30:00"),
    ],
)
def test_a_value_means_what_was_typed(typed: str, key: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.home()))
    cfg = composed("logger=wandb", typed)
    assert OmegaConf.select(cfg, key) == value
    check_values(cfg)


@pytest.mark.parametrize("typed", ["~logger", "logger=null", "logger=False", "logger=none", "callbacks=null"])
def test_a_run_does_without_logger_or_callbacks(typed: str) -> None:
    cfg = composed(typed)
    check_values(cfg)
    assert not cfg.get(typed.strip("~").partition("=")[0])


def test_what_is_typed_once_is_understood_the_same_when_a_child_process_types_it_again() -> None:
    typed = [f"data.root=/a/{STRANGE}", "resume=~/x=1", "name=a b", "optimizer.lr=0.1", "'data.cache_dir=x'"]
    once = understood_settings(typed)
    assert understood_settings(once) == once


def test_in_a_multirun_commas_separate_paths_unless_there_is_a_file_of_that_name(tmp_path: Path) -> None:
    assert understood_settings(["data.root=/a,/größe"], several=True) == ["data.root=/a,'/größe'"]
    assert understood_settings(["model.weights=null,imagenet"], several=True) == ["model.weights=null,imagenet"]
    (tmp_path / "a,b").mkdir()
    assert understood_settings([f"data.root={tmp_path}/a,b"], several=True) == [f"data.root='{tmp_path}/a,b'"]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("--seeds=0", "settings are written without dashes, seeds=0"),
        ("-m", "-m: a study starts its runs itself"),
        ("models=cnn2,cnn4", "a list is written 'models=[cnn2,cnn4]'."),
        ("optimizer.lr=0.1,0.2", "optimizer.lr=0.1,0.2: several values: in a study it takes one."),
        ("data=[wrist,hand]", "'data.extremities=[wrist,hand]'."),
    ],
)
def test_the_study_reads_its_command_line_alike(typed: str, sentence: str) -> None:
    with pytest.raises(Exception, match=re.escape(sentence)):
        study_arguments([typed])


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("early_stopping=[1,2]", "early_stopping: has settings below it"),
        ("data.extremities={a: 1}", "data.extremities: is a list"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_what_stands_there(typed: str, sentence: str) -> None:
    assert answer(typed).startswith(sentence)


@pytest.mark.parametrize("typed", ["hydra.run.dir=", "hydra.run.dir=null", "hydra.sweep.dir=' '"])
def test_a_run_folder_without_a_name_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{typed}: names no folder")):
        hydra_arguments([typed])


def test_a_study_of_a_quick_try_or_of_an_unknown_key_is_refused(sweep: Command, mura_root: Path) -> None:
    for typed, sentence in [
        ("+trainer.fast_dev_run=true", "leaves no results to compare"),
        ("+foo=3", "foo: there is"),
    ]:
        ended = sweep("models=[cnn2]", "name=x", f"data.root={mura_root}", typed, "--dry-run")
        assert ended.code == 2
        assert sentence in ended.said
        assert "Traceback" not in ended.said


@pytest.mark.parametrize("name", [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"])
def test_every_argument_of_lightnings_trainer_is_read_or_refused_by_name(name: str) -> None:
    """An argument has a rule, and then reaches Lightning, or a reason; a new one of Lightning's is noticed here."""
    known = name in trainer_without_more() or f"trainer.{name}" in ADDED_RULES
    assert known != (name in REFUSED_ARGUMENTS)
    if name in REFUSED_ARGUMENTS:
        assert f"trainer.{name}: can't be used here: {REFUSED_ARGUMENTS[name]}." in answer(f"+trainer.{name}=1")


WRONG = [[1, 2], {"a": 1}, float("inf"), -7, ""]
"""What no setting can be, apart from a root that is not given; every leaf of conf/ is tried with each."""


@pytest.mark.slow
def test_no_leaf_of_any_option_of_conf_takes_what_it_can_not_be() -> None:
    tried: set[str] = set()
    for group, option in options_of_conf():
        cfg = composed(f"{group}={option}", *(["model.name=convnext_tiny"] if option == "torchvision" else []))
        OmegaConf.set_struct(cfg, False)
        for key in keys_in(OmegaConf.to_container(cfg)):
            for wrong in WRONG if key not in tried else []:
                faulty = copy.deepcopy(cfg)
                OmegaConf.update(faulty, key, wrong, merge=False)
                if (key, wrong) != ("data.root", ""):
                    assert key.partition(".")[0] in sentence_for(faulty), f"{key}={wrong}"
            tried.add(key)
    assert len(tried) > 70


def options_of_conf() -> list[tuple[str, str]]:
    """Return every option of every group of a run, the one with the most settings first."""
    return [(group, file.stem) for group in run_groups() for file in sorted((CONF_DIR / group).glob("*.yaml"))]


def keys_in(tree: Any, path: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        if not str(name).startswith("_"):
            keys += keys_in(value, f"{path}{name}.") if isinstance(value, dict) else [f"{path}{name}"]
    return keys


def sentence_for(cfg: DictConfig) -> str:
    """Return the sentence that refuses a config."""
    with pytest.raises((HydraException, OmegaConfBaseException, MuraError)) as caught:
        check_values(cfg)
    return str(explain_error(caught.value))


def run(tmp_path: Path, name: str = "run") -> dict[str, Any]:
    return dict(json.loads((tmp_path / name / "metrics.json").read_text()))


@pytest.mark.slow
def test_a_quick_try_leaves_nothing_that_looks_finished(train: Command, tmp_path: Path) -> None:
    said = train("data=wrist", "+trainer.fast_dev_run=true", "hydra.run.dir=run").said
    assert "fast_dev_run: every part ran for 1 batches" in said
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_added_arguments_of_the_trainer_have_their_effect(train: Command, tmp_path: Path) -> None:
    train(*BEST_OF_ONE_EPOCH, "hydra.run.dir=plain")
    train(
        *BEST_OF_ONE_EPOCH, "hydra.run.dir=clipped", "+trainer.gradient_clip_val=1e-6", "+trainer.profiler=simple",
        "+trainer.max_time={hours: 9}",
    )  # fmt: skip
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "clipped"))
    assert "training_step" in (tmp_path / "clipped" / "fit-profile.txt").read_text()
    train(
        "data=wrist", "hydra.run.dir=same", "trainer.max_epochs=3", "+trainer.overfit_batches=1", "data.batch_size=8",
        "+trainer.detect_anomaly=true", "augmentation=none", "+trainer.enable_progress_bar=false",
    )  # fmt: skip
    assert run(tmp_path, "same")["pictures_seen"] == 3 * 8
    losses = pd.read_csv(tmp_path / "same" / "history.csv")["train_loss"]
    assert losses.is_monotonic_decreasing
    refused = train("data=wrist", "hydra.run.dir=no", "trainer.limit_predict_batches=0.0001", check=False).said
    assert "trainer.limit_predict_batches=0.0001: is less than one batch of the" in refused
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "average", [("callbacks=ema", "callbacks.ema.decay=0.5"), ("callbacks=swa", "callbacks.swa.start=0")]
)
def test_an_average_of_the_weights_is_what_is_tested_and_survives_a_resume(
    average: tuple[str, str], train: Command, tmp_path: Path
) -> None:
    settings = ("data=wrist", *average, "optimizer.lr=0.01")
    train(*settings, "trainer.max_epochs=3", "hydra.run.dir=whole")
    train(*settings, "trainer.max_epochs=2", "hydra.run.dir=run")
    plain = train("data=wrist", "optimizer.lr=0.01", "trainer.max_epochs=3", "hydra.run.dir=plain")
    assert plain.code == 0
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "plain"))
    (tmp_path / "run" / "metrics.json").unlink()  # as if it had been interrupted
    train("resume=run", "trainer.max_epochs=3", bare=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert run(tmp_path)["val"] == run(tmp_path, "whole")["val"]

    saved = torch.load(tmp_path / "whole" / "checkpoints" / "best.ckpt", weights_only=True)
    assert not same(saved["state_dict"], saved["current_model_state"])
    epochs = pd.read_csv(tmp_path / "whole" / "history.csv").set_index("epoch")
    best = run(tmp_path, "whole")
    assert epochs.loc[best["best_epoch"], "val_accuracy"] == pytest.approx(best["val"]["image"]["all"]["accuracy"])
    assert epochs.loc[best["best_epoch"], "val_loss"] == pytest.approx(best["best_value"])


@pytest.mark.slow
def test_several_loggers_get_the_epochs_and_callbacks_of_ones_own_run_too(train: Command, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    page = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    [own] = re.findall(r"```yaml\n(timer:\n.*?)```", page, re.DOTALL)
    (tmp_path / "own" / "callbacks").mkdir(parents=True)
    (tmp_path / "own" / "callbacks" / "timer.yaml").write_text(own)
    train(
        "--config-dir", "own", "callbacks=[timer,learning_rate_monitor]", "logger=[csv,tensorboard,mlflow]",
        "data=wrist", "trainer.max_epochs=2", "hydra.run.dir=run", "logger.mlflow.tracking_uri=ml #1",
    )  # fmt: skip
    losses = pd.read_csv(tmp_path / "run" / "history.csv")["val_loss"]
    logged = pd.read_csv(tmp_path / "run" / "csv" / "version_0" / "metrics.csv")
    assert logged["val_loss"].dropna().tolist() == losses.tolist()
    assert "lr-Adam" in logged
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "version_0"))
    events.Reload()
    assert [event.value for event in events.Scalars("val_loss")] == pytest.approx(losses.tolist())
    [mlflow] = (tmp_path / "ml #1").glob("*/*/params/model/name")
    assert mlflow.read_text() == "cnn2"
    mlflow_metrics = mlflow.parents[2] / "metrics"
    assert [float(row.split()[1]) for row in (mlflow_metrics / "val_loss").read_text().splitlines()] == losses.tolist()
    shown = float((mlflow_metrics / "test" / "study" / "wrist" / "accuracy").read_text().split()[1])
    assert shown == run(tmp_path)["test"]["study"]["wrist"]["accuracy"]
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "Timer" in checkpoint["callbacks"]

    (tmp_path / "run" / "metrics.json").unlink()
    refused = train("resume=run", "trainer.max_epochs=3", bare=True, check=False)  # Hydra obeys what lies there
    assert f"if you trust what is there, name it again: --config-dir={tmp_path / 'own'}." in refused.said
    train("resume=run", "--config-dir", "own", "trainer.max_epochs=3", bare=True)
    assert run(tmp_path)["epochs"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("+callbacks.x._target_=no.such.Thing", "(No module named 'no'); a class is named with its module"),
        ("+callbacks.x.foo=3", "callbacks.x: names no class"),
        (
            "callbacks=learning_rate_monitor",
            "callbacks.learning_rate_monitor: writes to the loggers, and there are none",
        ),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.StochasticWeightAveraging", "take callbacks=swa."),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.EarlyStopping", "missing 1 required positional argument"),
        ("+optimizer.nestrov=true", "optimizer.nestrov: there is no argument of torch.optim.Adam nestrov"),
        ("+optimizer.betas=3", "optimizer: 'int' object is not subscriptable."),
        ("+scheduler.gama=3", "scheduler.gama: there is no argument of mura.models.classifier.no_scheduler gama"),
    ],
)
def test_what_a_class_does_not_take_is_a_sentence_before_training(typed: str, sentence: str, train: Command) -> None:
    ended = train("data=wrist", typed, check=False)
    assert ended.code in (1, 2)
    assert sentence in ended.said
    assert "Traceback" not in ended.said
    assert "epoch 1" not in ended.said


@pytest.mark.slow
def test_strange_paths_serve_a_run_its_multirun_and_one_that_starts_from_it(
    train: Command, tmp_path: Path, mura_root: Path
) -> None:
    place = tmp_path / STRANGE
    place.mkdir()
    (place / "MURA").symlink_to(mura_root)
    strange = [f"data.root={place}/MURA", f"data.cache_dir={place}/cache", "data=wrist", "trainer.max_epochs=1"]
    train(*strange, f"hydra.run.dir={place}/epoch=3")
    assert (place / "epoch=3" / "metrics.json").is_file()
    assert (place / "cache").is_dir()
    (place / "epoch=3" / "metrics.json").unlink()
    train(f"resume={place}/epoch=3", "trainer.max_epochs=2", bare=True)
    weights_there = place / "epoch=3" / "checkpoints" / "best.ckpt"
    train("-m", *strange, "seed=0,1", f"hydra.sweep.dir={place}/all", f"model.weights={weights_there}")
    assert len(list((place / "all").glob("*/metrics.json"))) == 2


@pytest.mark.slow
def test_strange_paths_serve_a_study(
    sweep: Command, mura_root: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = sweep(
        "models=[cnn2]", "extremities=[wrist,hand]", "arms=[finetuned]", f"name={STRANGE}", f"studies_dir=~/{STRANGE}",
        "experiment=debug", *ON_CPU, f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32",
        "seeds=[0]",
    )  # fmt: skip
    assert ended.code == 0, ended.said
    study = tmp_path / STRANGE / STRANGE
    assert len(list(study.rglob("metrics.json"))) == 3
    assert (study / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "rates"),
    [
        ("processes", (0.001, 0.1)),
        ("basic", (0.001, 0.1)),  # both in the process that asks
        ("joblib", (0.1,)),
        ("submitit_local", (0.1,)),
    ],
)
def test_a_sweeper_gets_the_best_value_of_what_is_monitored(
    launcher: str, rates: tuple[float, ...], mura_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "hydra_plugins" / "asking" / "__init__.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f"RATES = {rates}\n{SWEEPER}")
    command = [
        sys.executable, str(REPOSITORY / "train.py"), "-m", "hydra.sweeper._target_=hydra_plugins.asking.AskingSweeper",
        f"hydra/launcher={launcher}", "model=cnn2", "logger=none", "data=wrist", "trainer.max_epochs=1", "trainer=cpu",
        f"data.root={mura_root}", f"data.cache_dir={cache_dir}", "data.image_size=32", "hydra.sweep.dir=all",
        "trainer.precision=32-true", "monitor=val_accuracy", "mode=max",
    ]  # fmt: skip
    places = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": places}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ended.returncode == 0, ended.stderr
    told = [float(value) for value in re.findall(r"objective (\S+)", ended.stdout)]
    reached = [json.loads(file.read_text())["best_value"] for file in sorted((tmp_path / "all").rglob("metrics.json"))]
    assert told == pytest.approx(reached)
    assert len(told) == len(rates)


def test_bash_completes_what_is_typed() -> None:
    script = f"""
    PATH="{Path(sys.executable).parent}:$PATH"
    eval "$(python train.py -sc install=bash)"
    COMP_LINE="python train.py callbacks=learn" COMP_POINT=31 COMP_CWORD=2
    hydra_bash_completion && echo "${{COMPREPLY[@]}}"
    """
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert "callbacks=learning_rate_monitor" in ended.stdout, ended.stderr


def test_every_open_section_is_a_group() -> None:
    assert all((CONF_DIR / group).is_dir() for group in OPEN_SECTIONS)
