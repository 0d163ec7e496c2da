"""Disks that are full: one sentence, what was there before still whole, and nothing half written."""

import ctypes
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from run_folders import write_run

from mura.files import write_json, write_text
from mura.report.write import write_report
from mura.synthetic.dataset import write_dataset
from mura.training.checkpoints import SafeCheckpointIO

from .cases import Case, Refused, answer, outcome, writing_only_below

KIB = 1024
ROOM = 2 * KIB * KIB
libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Yield whether `folder` is a file system of ROOM bytes of its own, which takes root."""
    mounted = os.geteuid() == 0 and libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={ROOM}".encode()) == 0
    try:
        yield mounted
    finally:
        if mounted:
            libc.umount2(os.fsencode(folder), 2)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)


class Disks:
    """Tries what writes files with too little room: on a small disk if this is root, else with a limit of sizes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.disk.mkdir()
        for arm in ("specialised", "finetuned"):
            write_run(folder / "whole" / arm, ["wrist"], arm=arm, patients=6)
        self.works: dict[str, Callable[[Path], object]] = {
            "text": lambda place: write_text(place / "file", "new" * 100 * KIB),
            "json": lambda place: write_json(place / "file", {"new": ["x" * KIB] * 300}),
            "checkpoint": self.save,
            "report": lambda place: write_report([folder / "whole"], place / "report", resamples=10),
            "synth": lambda place: write_dataset(place / "data", patients=8, size=64, workers=1),
        }

    def save(self, place: Path) -> None:
        SafeCheckpointIO().save_checkpoint({"new": torch.zeros(100 * KIB)}, place / "run" / "checkpoints" / "last.ckpt")

    def draw(self, rng: random.Random) -> Case:
        [work] = rng.choices(list(self.works), [3, 3, 6, 1, 2])  # a report takes longest
        return Case(work, (("room", rng.choice(["disk", "limit"]), int(rng.random() ** 2 * 600 * KIB)),))

    def attempt(self, case: Case) -> str:
        [(_, way, room)] = case.edits or [("room", "disk", ROOM)]
        for left in self.disk.iterdir():
            shutil.rmtree(left)
        with small_disk(self.disk) as is_small:
            place = self.disk / "place"
            before = place / "run" / "checkpoints" / "last.ckpt"
            before.parent.mkdir(parents=True)
            torch.save({"old": 1}, before)
            (place / "file").write_text("old")
            with writing_only_below(self.folder):
                if is_small and way == "disk":
                    (self.disk / "filler").write_bytes(bytes(max(0, ROOM - room - 64 * KIB)))
                    result = answer(lambda: self.works[case.base](place))
                else:
                    with files_of_at_most(room):
                        result = answer(lambda: self.works[case.base](place))
            assert_whole(place, isinstance(result, Refused))
        return outcome(result)


def assert_whole(place: Path, refused: bool) -> None:
    """What was there is as it was, or new and whole; nothing hidden is left."""
    text = (place / "file").read_text()
    assert text == "old" or (text.startswith(("new", "{")) and not refused), "half a file"
    run = place / "run" / "checkpoints"
    kept = [file for file in run.iterdir() if file.name in ("last.ckpt", "previous.ckpt")]
    assert kept, "the last checkpoint is gone"
    for file in kept:
        assert torch.load(file, weights_only=True), f"{file.name} is half written"
    assert not [file for file in place.rglob(".*") if file.is_file()], "a file is half written"
