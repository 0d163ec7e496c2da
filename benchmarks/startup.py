"""What a user waits for: --help, a mistyped option, the first step, and a study of eight short runs."""

import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.data import radiographs
from benchmarks.measure import Plan, Row, by_turns, median_of, ratios, seconds_of_command

FIRST_STEP = """
import os, runpy, sys
from mura.models.classifier import AbnormalityClassifier
AbnormalityClassifier.training_step = lambda *_: os._exit(0)
sys.path.insert(0, ".")
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


def command_line(plan: Plan) -> list[Row]:
    rounds = 3 if plan.quick else 7
    hydra, help_, mistyped = by_turns(
        rounds,
        lambda: seconds_of_command("-c", "import hydra"),
        lambda: seconds_of_command("train.py", "--help"),
        lambda: seconds_of_command("train.py", "modle=resnet18", fails=True),
    )
    against = 'python -c "import hydra"'
    detail = ", ".join(
        f"{who} {median_of(values, 's', 2)}"
        for who, values in (("import hydra", hydra), ("--help", help_), ("a mistyped option", mistyped))
    )
    return [
        Row("python train.py --help", against, ratios(help_, hydra), 2, at_most=True, detail=detail),
        Row("a mistyped option", against, ratios(mistyped, hydra), 2, at_most=True, detail=detail),
    ]


def first_step(plan: Plan) -> list[Row]:
    root = radiographs(plan.folder, 60, 96)
    where = tempfile.mkdtemp(dir=plan.folder)
    run = ["-c", FIRST_STEP, "model=resnet18", "model.weights=null", "data.image_size=64", f"data.root={root}"]
    run += [f"data.cache_dir={plan.folder / 'cache'}", "logger=wandb", "trainer=cpu"]
    number = iter(range(100))

    def ours() -> float:
        return seconds_of_command(*run, f"hydra.run.dir={where}/{next(number)}")

    ours()  # builds the cache
    started, imported = by_turns(
        2 if plan.quick else 5, ours, lambda: seconds_of_command("-c", "import torch, lightning, torchvision")
    )
    detail = f"ours {median_of(started, 's')}, the imports {median_of(imported, 's')}"
    return [
        Row(
            "to the first training step (cache built, W&B offline)", "import torch, lightning, torchvision",
            ratios(started, imported), 1.35, at_most=True, detail=detail,
        )
    ]  # fmt: skip


def study(plan: Plan) -> list[Row]:
    """Eight short runs, all included (imports, start, cache, evaluation, report), against the time in their epochs when
    each has the machine to itself: as `sweep.py` runs them here, and one at a time."""
    root, epochs = radiographs(plan.folder, 600, 96), 20

    def seconds(*more: str) -> tuple[float, float]:
        """Return the seconds of the whole study, and those in the epochs of its runs."""
        with tempfile.TemporaryDirectory(dir=plan.folder) as folder:
            taken = seconds_of_command(
                "sweep.py", "experiment=demo", f"studies_dir={folder}", f"data.root={root}",
                f"data.cache_dir={folder}/cache", f"trainer.max_epochs={epochs}", "early_stopping.patience=null", *more,
            )  # fmt: skip
            histories = [pd.read_csv(path)["seconds"].sum() for path in Path(folder).rglob("history.csv")]
        assert len(histories) == 8
        return taken, sum(histories)

    alone, in_epochs = seconds("launcher.workers=1")
    as_here, _ = seconds()
    detail = (
        f"{epochs} epochs a run, {in_epochs:.0f} s in all; all included {as_here:.0f} s, one at a time {alone:.0f} s"
    )
    name, against = "8 short runs of a study (cnn4, 64 pixels)", "the sum of their training times, one at a time"
    return [
        Row(name, against, [as_here / in_epochs], 1.25, at_most=True, detail=detail),
        Row(f"{name}, launcher.workers=1", against, [alone / in_epochs], None, at_most=True, detail=detail),
    ]
