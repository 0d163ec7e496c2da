"""MURA folders and lists that are damaged: an index that is true of the folder, or a sentence."""

import os
import random
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mura.data.faults import check_folder, render
from mura.data.index import COLUMNS, scan
from mura.data.problems import SEVERITY
from mura.data.split import assign_folds
from mura.extremities import EXTREMITIES

from .cases import Case, Edit, Refused, answer, draw_byte_edit, edit_bytes, emptied_folder, outcome, writing_only_below

LISTS = tuple(f"{split}_{rest}.csv" for split in ("train", "valid") for rest in ("image_paths", "labeled_studies"))
NAMES = (
    "x", "patient00001", "patient1", "patient\u0661", "PATIENT00002", "XR_WRIST", "XR_Wrist", "study1_positive",
    "study1_negative", "study2_maybe", "image1.png", "image01.png", "image\u0661.png", "image2.jpg", "._image1.png",
    ".DS_Store", "a\nb", "[red]x", "=1+1", "caf\udce9", "x" * 250, "train", "valid", "image99999999999999999999.png",
)  # fmt: skip

KINDS_OF_EDIT = ("list", "list", "line", "rename", "remove", "add", "link", "fifo", "copy", "empty", "folder")
LINES = (" " * 60_000, "a" * 9000, "../../x", "\"'", "\0", ",,", "MURA-v1.1/valid/../train/XR_WRIST/x.png")


class Trees:
    """Tries small folders of eight patients as a run and `mura check` read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}
        for number in range(8):
            split, top = ("valid" if number > 5 else "train"), ("XR_WRIST", "XR_HAND")[number % 2]
            label = ("negative", "positive")[number // 2 % 2]
            self.draw_picture(f"{split}/{top}/patient{number:05}/study1_{label}/image1.png", number)
        for split in ("train", "valid"):
            pictures = [f"MURA-v1.1/{name}" for name in self.files if name.startswith(split)]
            studies = [f"{name.rpartition('/')[0]}/,{int('positive' in name)}" for name in pictures]
            self.files[f"{split}_image_paths.csv"] = "".join(f"{each}\n" for each in pictures).encode()
            self.files[f"{split}_labeled_studies.csv"] = "".join(f"{each}\n" for each in studies).encode()

    def draw_picture(self, name: str, number: int) -> None:
        file = self.folder / "drawn.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
        self.files[name] = file.read_bytes()

    def draw(self, rng: random.Random) -> Case:
        return Case("tree", tuple(self.draw_edit(rng) for _ in range(rng.randint(1, 5))))

    def draw_edit(self, rng: random.Random) -> Edit:
        """Return an edit of a list's bytes, or of a place that is a file of the tree or a folder above one."""
        parts = rng.choice([name for name in self.files if name not in LISTS]).split("/")
        place = "/".join(parts[: rng.randint(1, len(parts))])
        kind = rng.choice(KINDS_OF_EDIT)
        if kind == "list":
            return (kind, rng.choice(LISTS), draw_byte_edit(rng))
        if kind == "line":
            return (kind, rng.choice(LISTS), rng.choice([f"MURA-v1.1/{place}", f"{place}/,1", *LINES]))
        target = rng.choice([place, "/dev/zero", "/", "nowhere", "..", "train", "/etc"])
        return (kind, place, rng.choice(NAMES), target)

    def attempt(self, case: Case) -> str:
        with emptied_folder(self.folder) as above:
            root = above / "MURA-v1.1"
            for name, data in self.files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
            for edit in case.edits:
                with suppress(OSError):  # an edit before it has taken its place away
                    apply(root, edit)
            with writing_only_below(above):
                found = answer(lambda: scan(root))
                if isinstance(found, Refused):
                    return outcome(found)
                assert_true(root, *found)
                index, problems = found
                again, same = scan(root)
                assert index.equals(again)
                assert problems == same
                if len(case.edits) == 1:
                    render(check_folder(root))
                folds = answer(lambda: assign_folds(index))
                if not isinstance(folds, Refused):
                    assert folds.groupby(index["patient"]).nunique().max() == 1
            return outcome(found)


def apply(root: Path, edit: Edit) -> None:
    kind, place, *rest = edit
    file = root / place
    if not os.path.realpath(file.parent).startswith(f"{root.parent}/"):
        return  # behind a link that leads out, where nothing is to be changed
    beside = file.with_name(rest[0]) if kind in ("add", "copy", "folder") else file
    modes = [each.stat().st_mode for each in (file, beside) if each.exists()]
    if kind != "rename" and not all(stat.S_ISREG(mode) or stat.S_ISDIR(mode) for mode in modes):
        return  # this very process would wait for a writer, or read a device that has no end
    if kind == "list":
        file.write_bytes(edit_bytes(file.read_bytes(), (rest[0],)))
    elif kind == "line":
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{rest[0]}\n")
    elif kind == "rename":
        file.rename(file.with_name(rest[0]))
    elif kind in ("add", "folder"):
        beside.mkdir() if kind == "folder" else beside.write_bytes(b"x")
    elif kind == "copy":
        beside.write_bytes(file.read_bytes())
    elif kind == "empty":
        file.write_bytes(b"")
    else:
        if file.is_dir():
            file.rename(root.parent / f"away{len(list(root.parent.iterdir()))}")
        else:
            file.unlink()
        if kind == "link":
            file.symlink_to(root / rest[1] if rest[1] in place else rest[1])
        elif kind == "fifo":
            os.mkfifo(file)


def assert_true(root: Path, index: Any, problems: Any) -> None:
    """What the index says is there, each view once; each problem is of a known kind."""
    assert list(index.columns) == COLUMNS
    assert not index.duplicated(["split", "extremity", "patient", "study", "view"]).any()
    assert set(index["split"]) <= {"train", "test"}
    assert set(index["extremity"]) <= set(EXTREMITIES)
    assert set(index["label"]) <= {0, 1}
    for path, label in zip(index["path"], index["label"], strict=True):
        assert os.path.lexists(root / path), f"{path} is not there"
        assert f"_{('negative', 'positive')[label]}/" in path
    assert all(problem.kind in SEVERITY for problem in problems)
