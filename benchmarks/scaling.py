"""Ten times the pictures: does it take more than ten times as long, or more memory?"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

from benchmarks.comparison import arms
from benchmarks.data import noise
from benchmarks.measure import REPOSITORY, Plan, Row, seconds
from mura.comparison.verdict import compare
from mura.data.cache import open_cache
from mura.data.faults import check_folder
from mura.data.index import read_index
from mura.data.split import assign_folds
from mura.extremities import ALL_SEVEN, EXTREMITIES, data_name
from mura.files import write_json
from mura.metrics import summarise
from mura.report.write import write_report
from mura.runs.folder import PREDICTION_COLUMNS, SCHEMA, RunFolder

MEMORY = """
import os, runpy, sys
from lightning import Callback
from mura.training import callbacks
class Look(Callback):
    def on_train_epoch_end(self, trainer, module):
        lines = open("/proc/self/status").read().splitlines()
        print(next(line.split()[1] for line in lines if line.startswith("RssAnon")), flush=True)
        os._exit(0)
make = callbacks.make_callbacks
callbacks.make_callbacks = lambda *arguments: [Look(), *make(*arguments)]
sys.path.insert(0, ".")
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


def study_of(tables: dict[str, list[pd.DataFrame]], folder: Path) -> Path:
    """Finished run folders with these predictions: a unified run, and a specialised one for each extremity."""
    for arm, [table] in tables.items():
        for names in [list(EXTREMITIES)] if arm == ALL_SEVEN else [[name] for name in EXTREMITIES]:
            run = RunFolder(folder / data_name(names))
            run.path.mkdir(parents=True)
            test = table[table["extremity"].isin(names)]
            test = test.assign(path=test["extremity"] + test["study"] + test["view"].astype(str))
            about = {
                "schema": SCHEMA, "model": "cnn4", "arm": arm, "data": data_name(names), "seed": 0, "best_epoch": 0,
                "epochs": 1, "test": summarise(test), "data_fingerprint": "none", "split_hash": "none", "fold": 0,
                "speed": {"wall_seconds": 1.0, "train_images_per_second": 1.0}, "device": "cpu", "precision": "32-true",
                "versions": {}, "git": None, "stopped_by": "max_epochs", "steps": 1, "name": data_name(names),
            }  # fmt: skip
            pd.concat([test.assign(split="val"), test])[PREDICTION_COLUMNS].to_csv(run.predictions, index=False)
            run.config.write_text(yaml.safe_dump({"data": {"root": str(folder)}}), encoding="utf-8")
            write_json(run.metrics, about)
    return folder


def growth(plan: Plan) -> list[Row]:
    few, many = (400, 4_000) if plan.quick else (4_000, 40_000)
    roots = {n: noise(plan.folder, n) for n in (few, many)}
    seconds_by_task: dict[str, dict[int, float]] = {}
    for n, root in roots.items():
        index = read_index(root)  # the folder is in memory
        cache = Path(tempfile.mkdtemp(dir=plan.folder))
        seconds_by_task.setdefault("index", {})[n] = min(seconds(lambda r=root: read_index(r)) for _ in range(2))
        seconds_by_task.setdefault("split", {})[n] = seconds(lambda i=index: assign_folds(i))
        seconds_by_task.setdefault("check", {})[n] = seconds(lambda r=root: check_folder(r))
        seconds_by_task.setdefault("cache", {})[n] = seconds(lambda r=root, c=cache: open_cache(r, 40, c))
        shutil.rmtree(cache)
    tables = arms()
    tenth = {name: [table.iloc[: len(table) // 10] for table in group] for name, group in tables.items()}
    seconds_by_task["comparison"] = {
        few: seconds(lambda: compare(tenth, "none")),
        many: seconds(lambda: compare(tables, "none")),
    }
    studies = {
        n: study_of(group, Path(tempfile.mkdtemp(dir=plan.folder))) for n, group in ((few, tenth), (many, tables))
    }
    seconds_by_task["report"] = {n: seconds(lambda f=folder: write_report([f], f)) for n, folder in studies.items()}
    return [
        Row(
            f"{what}: {many:,} pictures", f"ten times the time of {few:,}", [times[many] / times[few] / 10], 1.2,
            at_most=True, detail=f"{times[few]:.2f} s, {times[many]:.2f} s",
        )
        for what, times in seconds_by_task.items()
    ]  # fmt: skip


def memory(plan: Plan) -> list[Row]:
    """Memory of its own (anonymous) of a training process; the mapped cache is the system's, shared and given back."""
    few, many = (400, 4_000) if plan.quick else (4_000, 40_000)
    cache = plan.folder / "cache"

    def kilobytes(n: int) -> float:
        folder = tempfile.mkdtemp(dir=plan.folder)
        command = [
            sys.executable, "-c", MEMORY, "model=cnn2", "data.image_size=32", f"data.root={noise(plan.folder, n)}",
            f"data.cache_dir={cache}", "trainer=cpu", "logger=none", f"hydra.run.dir={folder}/run",
        ]  # fmt: skip
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return float(ended.stdout.split()[-1])

    rounds = 1 if plan.quick else 2
    ours = [(kilobytes(few), kilobytes(many)) for _ in range(rounds)]
    detail = f"{ours[0][0] / 1024:.0f} MiB, {ours[0][1] / 1024:.0f} MiB"
    row = Row(
        f"memory, training an epoch on {many:,} pictures", f"on {few:,}", [b / a for a, b in ours], 1.1, at_most=True,
        detail=detail,
    )  # fmt: skip
    return [row]
