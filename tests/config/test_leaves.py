"""What the rules of the settings let pass is run: it trains to the end, or is refused before anything is written."""

import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing.cases import Edit, Refused, answer
from fuzzing.settings import ELSEWHERE, SEVERAL_PROCESSES, SMALL, composed, settings_of, trained, with_edits
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mura.config.rules import ADDED_RULES, rule_of
from mura.runs.folder import RunFolder

BASES = (
    "optimizer=sgd_resnet scheduler=step callbacks=[ema,learning_rate_monitor] augmentation=strong logger=csv",
    "optimizer=adamw scheduler=plateau callbacks=swa augmentation=none logger=csv",
    "optimizer=adam scheduler=cosine callbacks=none logger=[csv,mlflow,tensorboard,wandb]",
)
"""Command lines that have every setting between them."""

TRIED = (
    True, False, 0, 1, 2, 32, 0.0, 0.5, 0.99, 1.0, 30.0, 1e-30, 10**9, 2**32 - 1, None, "x", "none", [], ["x"], {},
    {"x": "y"},
)  # fmt: skip
"""What every setting is tried with, and the options that its rule names; see `accepted`."""

OF_THEIR_OWN: dict[str, tuple[Any, ...]] = {
    "data.extremities": (["wrist", "hand"],), "data.test_extremities": (["hand"],), "data.steps_like": (["hand"],),
    "data.image_size": (48,), "data.cache_size": (40, 50), "model.name": ("cnn4", "x"), "model.head": ("linear", "x"),
    "trainer.max_epochs": (2,), "trainer.max_time": ("00:00:00:01", {"hours": 1}), "trainer.min_epochs": (1, None),
    "optimizer.lr": (1e-30, 0.1), "optimizer.weight_decay": (0, 1e-30, 1.0),
}  # fmt: skip
"""What settings are tried with instead: with more, a run takes hours or diverges, and some take nothing of TRIED."""

NOT_TRIED = (
    *ELSEWHERE, *SEVERAL_PROCESSES, "resume", "model.image_size", "model.compile", "model.library",
    "trainer.fast_dev_run",
)  # fmt: skip
"""What has tests of its own: it needs another folder, more processes, or minutes, or makes another kind of run."""

WITHOUT_A_CHOICE = {"scheduler.mode", "trainer.accumulate_grad_batches", "trainer.sync_batchnorm"}
"""What follows another setting, or is for GPUs alone, so that any other value is refused."""


def accepted(base: str) -> Iterator[list[Edit]]:
    """Yield each setting of a command line, and each that may be added, with the other values that its rule allows."""
    now = settings_of(base)
    for key in (*now, *ADDED_RULES):
        rule = rule_of(key)
        if rule is not None and key not in NOT_TRIED and not key.endswith("_target_"):
            words = rule.wanted.removeprefix("one of ").split(", ") if rule.wanted.startswith("one of") else ()
            tried = OF_THEIR_OWN.get(key, (*TRIED, *words))
            others = [value for value in tried if key not in now or value != now[key]]
            yield [(key, value) for value in others if rule.holds(value)]
        elif key in OF_THEIR_OWN:
            yield [(key, value) for value in OF_THEIR_OWN[key]]


@pytest.fixture
def restored() -> Iterator[None]:
    """Have what a run sets in its process be as it was, for the tests that come next in this one."""
    environment, is_deterministic = dict(os.environ), torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    yield
    os.environ.clear()
    os.environ.update(environment)
    torch.use_deterministic_algorithms(is_deterministic)
    torch.backends.cudnn.benchmark = benchmark
    HydraConfig.instance().cfg = None


class Tried:
    """Runs in which several settings have another value at once, each of them at least once in one that ended."""

    def __init__(self, cfg: DictConfig, folder: Path, name: int) -> None:
        self.cfg, self.folder, self.name = cfg, folder, name
        self.number = 0
        self.ended: set[str] = set()

    def run(self, edits: list[Edit]) -> list[Edit]:
        """Run with the edits, but for those that are refused, which are returned."""
        self.number += 1
        run = RunFolder(self.folder / f"{self.name}-{self.number}")
        result = answer(lambda: trained(with_edits(self.cfg, tuple(edits)), run))
        if not isinstance(result, Refused):
            assert run.finished
            self.ended |= {key for key, _ in edits}
            return []
        assert not run.begun, f"refused late: {result.said}\n{edits}"
        named = [edit for edit in edits if result.said.startswith((f"{edit[0]}=", f"{edit[0]}:", f"{edit[0]} "))]
        assert named, f"{result.said}\n{edits}"
        others = [edit for edit in edits if edit not in named]
        return named + (self.run(others) if others else [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries, about what they are asked for
@pytest.mark.usefixtures("restored")
def test_every_value_that_a_rule_allows_trains_to_the_end_or_is_refused_before_that(
    mura_root: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known: set[str] = set()
    ended: set[str] = set()
    for number, base in enumerate(BASES):
        place = [f"data.root={mura_root}", f"data.cache_dir={cache_dir}"]
        small = [each for each in SMALL if not each.startswith("logger")]
        tried = Tried(composed(*base.split(), "model=cnn2", *small, *place), tmp_path, number)
        settings = [edits for edits in accepted(base) if edits and edits[0][0] not in known]
        known |= {edits[0][0] for edits in settings}
        refused = [edit for edits in zip_longest(*settings) for edit in tried.run([each for each in edits if each])]
        for edit in refused:
            tried.run([edit])
        ended |= tried.ended
    assert known - ended == WITHOUT_A_CHOICE
    assert len(ended) > 70
