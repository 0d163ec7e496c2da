"""What a run folder of somebody else may make this program do: nothing but what its own classes do."""

import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from refusals import refusal

from mura.config import CONF_DIR
from mura.config.command_line import resume_arguments
from mura.config.hydra_hooks import register_resolvers
from mura.config.rules import check_values
from mura.errors import MuraError
from mura.runs.folder import RunFolder
from mura.runs.records import CLASSES, read_config

FOREIGN = (
    "os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load", "torch.load", "torch.os.system",
    "lightning.pytorch.cli.LightningCLI", "lightning.pytorch.callbacks.timer.os.system", "mura.files.os.remove",
    "torch.optim.SGD\n", "${name}", "", None, 3, ["os.system"],
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has begun."""
    run = RunFolder(tmp_path / "run")
    run.overrides.parent.mkdir(parents=True)
    run.overrides.write_text("- model=cnn2\n")
    return run


def composed(*overrides: str):
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", list(overrides))


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("part", ["data", "model", "trainer", "optimizer", "scheduler", "nothing"])
def test_the_config_of_a_run_folder_names_only_known_classes(part: str, name: object, run: RunFolder) -> None:
    for settings in ({"_target_": name}, {"inside": {"_target_": name}}, {"listed": [1, {"_target_": name}]}):
        run.config.write_text(yaml.safe_dump({part: settings}))
        said = refusal(lambda: read_config(run))
        assert said is not None
        assert f"{run.config} has {part}." in said
        assert "must be a class of this project, torch or Lightning that belongs there" in said


def test_every_class_of_conf_is_known_and_a_report_passes_over_a_callback_of_ones_own(run: RunFolder) -> None:
    for file in CONF_DIR.rglob("*.yaml"):
        if file.parent.name in ("logger", "callbacks", "optimizer", "scheduler"):
            run.config.write_text(yaml.safe_dump({file.parent.name: yaml.safe_load(file.read_text())}))
            read_config(run)
    run.config.write_text("callbacks: {mine: {_target_: my.Own}}")
    assert read_config(run)


@pytest.mark.parametrize("part", ["+callbacks.mine", "+logger.mine", "optimizer", "data", "+model.loss"])
@pytest.mark.parametrize("name", ["os.system", "${oc.env:HOME}", "torch.hub.load"])
def test_a_run_that_goes_on_makes_only_known_classes(part: str, name: str) -> None:
    cfg = composed("model=cnn2", f"{part}._target_={name}")
    typed_by_its_user = part in ("+callbacks.mine", "+logger.mine")
    assert (refusal(lambda: check_values(cfg)) is None) == typed_by_its_user
    cfg.resume = "run"
    words = "in a run that goes on from its folder|model.loss._target_: there is no such setting"
    with pytest.raises(MuraError, match=words):
        check_values(cfg)


def test_every_class_that_conf_names_is_known() -> None:
    for file in sorted(CONF_DIR.rglob("*.yaml")):
        for name in re.findall(r"_target_: (\S+)", file.read_text(encoding="utf-8")):
            if not name.startswith(("hydra_plugins.", "mura.config.")):  # Hydra's, which no run folder sets
                assert any(re.fullmatch(pattern, name) for pattern in CLASSES.values()), name


@pytest.mark.parametrize("setting", ["scheduler._partial_=x", "model._convert_=3", "+optimizer._recursive_=null"])
def test_how_an_object_is_made_is_checked_too(setting: str) -> None:
    with pytest.raises(MuraError, match=r"must be (one of|true|all)"):
        check_values(composed("model=cnn2", setting))


@pytest.mark.parametrize(
    "setting", ["hydra.callbacks.x._target_=os.system", "+hydra.searchpath=[x]", "hydra/launcher=x", "++hydra={}"]
)
def test_a_run_folder_sets_nothing_of_hydra(setting: str, run: RunFolder) -> None:
    run.overrides.write_text(yaml.safe_dump(["model=cnn2", setting]))
    said = refusal(lambda: resume_arguments([f"resume={run.path}"]))
    assert said is not None
    assert "must hold no setting of Hydra's own" in said


def test_options_of_another_folder_are_named_again_by_who_trusts_them(run: RunFolder) -> None:
    saved = run.overrides.with_name("hydra.yaml")
    saved.write_text("hydra: {searchpath: ['file:///own']}")
    said = refusal(lambda: resume_arguments([f"resume={run.path}"]))
    assert said is not None
    assert "--config-dir=/own" in said
    assert "--config-dir=/own" in resume_arguments([f"resume={run.path}", "--config-dir=/own"])
    for content in ("", "hydra: 3", "hydra: {searchpath: 3}", "hydra: {}", "[" * 5000):
        saved.write_text(content)
        said = refusal(lambda: resume_arguments([f"resume={run.path}"]))
        assert said is not None
        assert str(saved) in said
