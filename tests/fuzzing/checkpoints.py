"""Checkpoints with other insides or changed bytes: a model that predicts, or a sentence; never their code."""

import io
import random
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mura.inference.loading import load_model
from mura.inference.predict import Model
from mura.models.checkpoint import CHECKPOINT_RULES
from mura.models.classifier import AbnormalityClassifier
from mura.runs.folder import RunFolder
from mura.runs.records import fault_in
from mura.training.checkpoints import RESUMED_RULES, newest_whole

from .cases import (
    VALUES,
    Case,
    Edit,
    Refused,
    answer,
    draw_byte_edit,
    edit_bytes,
    emptied_folder,
    outcome,
    writing_only_below,
)  # fmt: skip

TENSORS = ("first", "more", "sparse", "meta", "numbers", "words", "nan", "double", "huge", "scalar", "missing")
CODE = b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch PWNED!\x85R."
"""A pickle that runs a command where nothing keeps it from it."""


class Checkpoints:
    """Tries checkpoints as `mura predict` and `resume=` read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        trained = {"extremities": ["wrist"], "cache_size": 40, "fit": "pad", "data_fingerprint": "d" * 32}
        model = AbnormalityClassifier(name="cnn2", head="cnn2", image_size=32, provenance=trained)
        self.content = {
            "epoch": 0, "global_step": 1, "pytorch-lightning_version": "2.6.0", "optimizer_states": [],
            "lr_schedulers": [], "loops": {}, "callbacks": {"History": {"rows": []}},
            "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams),
        }  # fmt: skip
        self.keys = [*CHECKPOINT_RULES, *RESUMED_RULES, *(f"hyper_parameters.{key}" for key in model.hparams)]

    def draw(self, rng: random.Random) -> Case:
        edits = [self.draw_edit(rng) for _ in range(rng.randint(1, 3))]
        return Case("cnn2", tuple(sorted(edits, key=lambda edit: edit[0] == "bytes")))

    def draw_edit(self, rng: random.Random) -> Edit:
        kind = rng.choice(["put", "put", "put", "tensors", "bytes", "bytes", "code"])
        if kind == "put":
            return (kind, rng.choice(self.keys), rng.choice([*VALUES, "resnet18", "hf-hub:a/b", "vit_b_16", "linear"]))
        if kind == "tensors":
            return (kind, rng.choice(TENSORS))
        return (kind, draw_byte_edit(rng)) if kind == "bytes" else (kind,)

    def attempt(self, case: Case) -> str:
        with emptied_folder(self.folder) as above:
            run = RunFolder(above)
            run.checkpoints.mkdir()
            file = run.last_file
            content, rest = edited(self.content, case.edits)
            data = io.BytesIO()
            torch.save(content, data)
            file.write_bytes(with_bytes(data.getvalue(), rest))
            with writing_only_below(above):
                newest = answer(lambda: newest_whole(run))
                if not isinstance(newest, Refused):
                    fault_in(newest.content, RESUMED_RULES)
                result = answer(lambda: predictions(load_model(file)))
            if not isinstance(result, Refused):
                assert ((result >= 0) & (result <= 1)).all()
            return outcome(result)


def predictions(model: Model) -> np.ndarray:
    return model.probabilities(np.full((1, model.cache_size, model.cache_size), 99, np.uint8), ["wrist"])


def edited(content: dict[str, Any], edits: tuple[Edit, ...]) -> tuple[dict[str, Any], list[Edit]]:
    """Return the content with its edits, and those edits that are of the file's bytes."""
    for kind, *rest in edits:
        if kind == "put":
            content = put(content, rest[0].split("."), rest[1])
        elif kind == "tensors" and isinstance(content.get("state_dict"), dict):
            with suppress(ValueError, IndexError, RuntimeError):  # an edit before it has left no tensor that it fits
                content = content | {"state_dict": changed_tensors(rest[0], content["state_dict"])}
    return content, [edit for edit in edits if edit[0] in ("bytes", "code")]


def put(tree: Any, place: list[str], value: Any) -> Any:
    if not place:
        return value
    return {**tree, place[0]: put(tree.get(place[0]), place[1:], value)} if isinstance(tree, dict) else tree


def changed_tensors(how: str, state: dict[str, Any]) -> dict[Any, Any]:
    first, *others = state
    one = state[first]
    if how == "missing":
        return {key: state[key] for key in others}
    if how == "numbers":
        return dict(enumerate(state.values()))
    other = {
        "more": lambda: one, "sparse": one.to_sparse, "meta": lambda: one.to("meta"), "words": lambda: "x",
        "nan": lambda: one * torch.nan, "double": one.double, "huge": lambda: one * 1e38, "scalar": one.sum,
        "first": lambda: one[:1],
    }[how] if isinstance(one, torch.Tensor) else (lambda: one)  # fmt: skip
    return state | {"another" if how == "more" else first: other()}


def with_bytes(data: bytes, edits: list[Edit]) -> bytes:
    for kind, *rest in edits:
        if kind == "bytes":
            data = edit_bytes(data, (rest[0],))
        elif zipfile.is_zipfile(io.BytesIO(data)):
            data = with_code(data)
    return data


def with_code(data: bytes) -> bytes:
    """Return the zip archive with a pickle in it that runs a command."""
    file = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
            for name in old.namelist():
                new.writestr(name, CODE if name.endswith("data.pkl") else old.read(name))
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        return data
    return file.getvalue()
