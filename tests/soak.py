"""Runs that are killed at random moments, and the proof that each ends as if nothing had happened.

    python tests/soak.py --kills 50 --seed 0

A round is one run, killed a few times and started again after each; then its weights, its predictions and its history
must equal, bit for bit, those of a run that nobody disturbed. Signals and moments are drawn from the seed.
"""

import argparse
import functools
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from command import ON_CPU

from mura.launch.processes import forking_context, run_script
from mura.runs.folder import RunFolder
from mura.synthetic.dataset import write_dataset
from mura.training.checkpoints import read_if_whole

REPOSITORY = Path(__file__).resolve().parent.parent
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
EPOCHS, BATCH_SIZE, IMAGE_SIZE = 3, 4, 32
LONGEST = 300  # seconds that a run may take


@dataclass(frozen=True)
class Moment:
    """Where a signal comes: in some call of a function, up to `delay` seconds after its beginning."""

    function: str
    delay: float


# in the order in which a run comes to them
MOMENTS = {
    "cache": Moment("mura.data.cache:decode", 0.01),
    "train": Moment("mura.models.classifier:AbnormalityClassifier.training_step", 0.02),
    "validation": Moment("mura.models.classifier:AbnormalityClassifier.validation_step", 0.01),
    "checkpoint": Moment("mura.training.checkpoints:SafeCheckpointIO.save_checkpoint", 0.015),
    "test": Moment("mura.models.classifier:AbnormalityClassifier.predict_step", 0.01),
    "results": Moment("mura.training.results:write_results", 0.5),
    "report": Moment("mura.report.write:write_report", 2.0),
}
STAGE = {"anywhere": 0, "cache": 0, "train": 1, "validation": 1, "checkpoint": 1, "test": 2, "results": 3}


@dataclass(frozen=True)
class Kill:
    """A signal that ended a process; `exit_code` is negative where the signal did it without the program's help."""

    moment: str
    sent: signal.Signals
    exit_code: int


# --- a process that is going to be killed -------------------------------------------------------------------


def set_trap(moment: Moment, nth: int, delay: float, sent: signal.Signals) -> None:
    """Has this process send itself `sent`, `delay` seconds after the beginning of the `nth` call."""
    module, _, path = moment.function.partition(":")
    *owners, name = path.split(".")
    owner: Any = functools.reduce(getattr, owners, import_module(module))
    original, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(original)
    def trapped(*arguments: Any, **named: Any) -> Any:
        if next(calls) == nth:
            timer = threading.Timer(delay, os.kill, (os.getpid(), sent))
            timer.daemon = True
            timer.start()
        return original(*arguments, **named)

    setattr(owner, name, trapped)


def typed(script: str, arguments: list[str], log: Path, trap: tuple[Any, ...] | None) -> None:
    """Run `python SCRIPT ARGUMENTS` in the child, with a trap."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    if trap is not None:
        set_trap(*trap)
    run_script(REPOSITORY / script, arguments, 1, dict(os.environ), log)


def start(script: str, arguments: list[str], log: Path, trap: tuple[Any, ...] | None = None) -> ForkServerProcess:
    process = forking_context().Process(target=typed, args=(script, arguments, log, trap))
    process.start()
    return process


def ended(process: ForkServerProcess, log: Path) -> int:
    process.join(LONGEST)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"hangs after {LONGEST} s:\n{log.read_text()}")
    return process.exitcode


# --- the soak -----------------------------------------------------------------------------------------------


class Soak:
    """Kills runs on the data at `root`, in folders below `folder`."""

    def __init__(self, root: Path, folder: Path, seed: int) -> None:
        self.root, self.folder, self.rng = root, folder, random.Random(seed)
        self.kills: list[Kill] = []
        began = time.monotonic()
        self.whole = self.undisturbed("train.py", self.run_arguments(folder / "whole"), folder / "whole")
        self.seconds = time.monotonic() - began
        self.calls = calls_of(self.whole)
        self.study_is_there = False

    def run_arguments(self, place: Path) -> list[str]:
        return [
            "model=cnn2", "data=wrist", "logger=none", *ON_CPU, f"data.root={self.root}",
            f"data.cache_dir={place / 'cache'}", f"data.image_size={IMAGE_SIZE}", f"data.batch_size={BATCH_SIZE}",
            f"trainer.max_epochs={EPOCHS}", "early_stopping.patience=null", "scheduler=plateau",
            f"hydra.run.dir={place / 'run'}",
        ]  # fmt: skip

    def study_arguments(self) -> list[str]:
        return [
            "models=[cnn2]", "seeds=[0]", "extremities=[wrist,hand]", "name=study", f"studies_dir={self.folder}",
            *ON_CPU, "logger=none", "trainer.max_epochs=1", f"data.root={self.root}", f"data.image_size={IMAGE_SIZE}",
            f"data.cache_dir={self.folder / 'whole' / 'cache'}",
        ]  # fmt: skip

    def undisturbed(self, script: str, arguments: list[str], place: Path) -> Path:
        """Runs a command to its end; returns `place`."""
        log = place / "console.log"
        code = ended(start(script, arguments, log), log)
        assert code == 0, log.read_text()
        return place

    def disturbed(self, script: str, arguments: list[str], place: Path, name: str) -> bool:
        """Runs a command and kills it; whether it was still there to be killed."""
        log, sent = place / "console.log", self.rng.choice(list(CODES))
        before = log.stat().st_size if log.is_file() else 0
        if name == "anywhere":
            process = start(script, arguments, log)
            process.join(self.rng.uniform(0, self.seconds))
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, sent)
        else:
            moment = MOMENTS[name]
            nth, delay = self.rng.randint(1, self.calls[name]), self.rng.uniform(0, moment.delay)
            process = start(script, arguments, log, (moment, nth, delay, sent))
        code = ended(process, log)
        said = log.read_text()[before:] if log.is_file() else ""
        expected = {0, CODES[sent]}
        if name == "anywhere":  # also before the program has begun to answer signals
            unheard = sent == signal.SIGINT and not said  # and before its output goes to the log
            expected |= {-sent, 1} if "KeyboardInterrupt" in said or unheard else {-sent}
        elif code != 0:
            assert "Traceback" not in said, f"{name}, {sent.name}\n{said}"
        assert code in expected, f"{name}, {sent.name}: exit code {code}\n{said}"
        if code != 0:
            self.kills.append(Kill(name, sent, code))
        return code != 0

    def round(self, place: Path, names: list[str]) -> None:
        """One run, killed at these moments, and carried to its end."""
        run = RunFolder(place / "run")
        for name in names:
            self.disturbed("train.py", self.again(place), place, name)
            for checkpoint in run.checkpoints.glob("*.ckpt"):
                assert read_if_whole(checkpoint), f"{checkpoint} is half written after {self.kills[-1]}"
            if run.finished:
                break
        if not run.finished:
            self.undisturbed("train.py", self.again(place), place)
        assert_same(self.whole, place)
        shutil.rmtree(place)

    def again(self, place: Path) -> list[str]:
        """The same command, or `resume=`: both go on."""
        begun = (place / "run" / ".hydra" / "overrides.yaml").is_file()
        return [f"resume={place / 'run'}"] if begun and self.rng.random() < 0.5 else self.run_arguments(place)

    def report_round(self, kills: int) -> None:
        """A finished study whose report is killed, and then written."""
        place = self.folder / "study"
        if not self.study_is_there:
            self.undisturbed("sweep.py", self.study_arguments(), place)
            self.study_is_there = True
        files = [place / name for name in ("results.csv", "comparison.json")]
        expected = [file.read_bytes() for file in files]
        for file in files:
            file.unlink()
        for _ in range(kills):
            self.disturbed("sweep.py", self.study_arguments(), place, "report")
        self.undisturbed("sweep.py", self.study_arguments(), place)
        assert [file.read_bytes() for file in files] == expected

    def until(self, kills: int) -> Iterator[Kill]:
        """Rounds until so many kills are done; each kill as it is done."""
        for number in itertools.count():
            seen = len(self.kills)
            if seen >= kills:
                return
            wanted = min(self.rng.randint(2, 6), kills - seen)
            if number % 4 == 3:
                self.report_round(min(wanted, 2))
            else:
                names = sorted(self.rng.choices(list(STAGE), k=wanted), key=STAGE.__getitem__)
                self.round(self.folder / f"round{number}", names)
            yield from self.kills[seen:]


def calls_of(whole: Path) -> dict[str, int]:
    """How often the undisturbed run came to each moment."""
    [table] = (whole / "cache").glob("*/table.csv")
    views = pd.read_csv(whole / "run" / "predictions.csv")["split"].value_counts()
    batches = {part: -(-int(count) // BATCH_SIZE) for part, count in views.items()}
    steps = torch.load(whole / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    often = {"cache": len(pd.read_csv(table)), "train": steps, "validation": EPOCHS * batches["val"]}
    # best.ckpt is not written in every epoch
    return often | {"checkpoint": EPOCHS + 1, "test": sum(batches.values()), "results": 1, "report": 1}


def assert_same(whole: Path, broken: Path) -> None:
    """The cache, the weights, the predictions and the history are those of the undisturbed run, bit for bit."""
    images = [next((place / "cache").glob("*/images.bin")).read_bytes() for place in (whole, broken)]
    assert images[0] == images[1], "other pictures in the cache"
    for name in ("last.ckpt", "best.ckpt"):
        left, right = (
            torch.load(place / "run" / "checkpoints" / name, weights_only=True)["state_dict"]
            for place in (whole, broken)
        )
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), f"other weights in {name}"
    assert_same_tables(whole / "run", broken / "run")


def assert_same_tables(whole: Path, broken: Path) -> None:
    tables = [(place / "predictions.csv").read_bytes() for place in (whole, broken)]
    assert tables[0] == tables[1], "other predictions"
    histories = [pd.read_csv(place / "history.csv").drop(columns="seconds") for place in (whole, broken)]
    pd.testing.assert_frame_equal(*histories)
    assert np.array_equal(histories[0]["epoch"], range(EPOCHS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mura-soak-") as folder:
        root = write_dataset(Path(folder) / "data", patients=120, size=64, valid_fraction=0.2, balanced=True)
        soak = Soak(root, Path(folder), given.seed)
        for number, kill in enumerate(soak.until(given.kills), 1):
            print(f"{number:3} {kill.moment:11} {kill.sent.name:8} exit code {kill.exit_code}", flush=True)
    moments = ", ".join(f"{count} {name}" for name, count in Counter(kill.moment for kill in soak.kills).items())
    seconds = time.monotonic() - began
    print(f"{len(soak.kills)} kills ({moments}) in {seconds:.0f} s: every run ended as the undisturbed one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
