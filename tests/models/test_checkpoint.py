"""Checkpoints whose insides are wrong: one sentence with the file; their settings only ever build a network."""

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refusal

from mura.errors import MuraError
from mura.inference.loading import load_model
from mura.models.backbones import build_network
from mura.models.checkpoint import CHECKPOINT_RULES
from mura.models.classifier import AbnormalityClassifier

WRONG = (None, True, -1, 10**30, float("nan"), "", "../x", [], ["x"], {}, {1: 2}, torch.ones(2), "hf-hub:a/b")


@pytest.fixture
def content() -> dict[str, Any]:
    """What Lightning saves of a small model, without the parts that only training reads."""
    torch.manual_seed(0)
    trained = {"extremities": ["wrist"], "cache_size": 40, "fit": "pad", "data_fingerprint": "d" * 32}
    model = AbnormalityClassifier(name="cnn2", head="cnn2", image_size=32, provenance=trained)
    return {"epoch": 0, "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[dict[str, Any]], str | None]:
    """What is said of a checkpoint with this content; None when it loads."""

    def words(content: dict[str, Any]) -> str | None:
        file = tmp_path / "best.ckpt"
        torch.save(content, file)
        said = refusal(lambda: load_model(file))
        assert said is None or str(file) in said
        return said

    return words


def put(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy with another value under a dotted key; `...` removes it."""
    first, _, rest = key.partition(".")
    if rest:
        return tree | {first: put(tree[first], rest, value)}
    return {k: v for k, v in tree.items() if k != first} if value is ... else tree | {first: value}


@pytest.mark.parametrize("key", CHECKPOINT_RULES)
def test_a_wrong_or_missing_value_inside_is_one_sentence_or_has_no_say(
    key: str, content: dict[str, Any], refused: Callable[[dict[str, Any]], str | None]
) -> None:
    said = [refused(put(content, key, wrong)) for wrong in (*WRONG, ...)]
    assert sum(each is not None for each in said) >= len(WRONG) // 2
    assert refused(content) is None


@pytest.mark.parametrize(
    "state",
    [
        lambda state: {key: state[key] for key in list(state)[1:]},
        lambda state: state | {"more": torch.ones(1)},
        lambda state: {key: tensor[:1] for key, tensor in state.items()},
        lambda state: {key: tensor.to_sparse() for key, tensor in state.items()},
        lambda state: {key: tensor.to("meta") for key, tensor in state.items()},
        lambda state: dict(enumerate(state.values())),
        lambda state: dict.fromkeys(state, "x"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(
    state: Callable[[dict[str, Any]], Any], content: dict[str, Any], refused: Callable[[dict[str, Any]], str | None],
    tmp_path: Path,
) -> None:  # fmt: skip
    changed = put(content, "state_dict", state(dict(content["state_dict"])))
    assert refused(changed) is not None
    said = refusal(lambda: build_network("cnn2", head="cnn2", weights=str(tmp_path / "best.ckpt")))
    if "more" in changed["state_dict"]:
        assert said is None  # it stands beside the network, where nothing is read
    else:
        assert said is not None
        assert said.startswith(f"model.weights: {tmp_path / 'best.ckpt'} ")


def test_its_settings_never_download_compile_or_read_another_file(
    content: dict[str, Any], refused: Callable[[dict[str, Any]], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("a checkpoint's setting was obeyed")

    for place in ("mura.models.backbones.pretrained_file", "mura.models.backbones.load_file"):
        monkeypatch.setattr(place, never)
    monkeypatch.setattr(torch.nn.Module, "compile", never)
    more = {"weights": "imagenet", "compile": True, "optimizer": "x", "class_weights": 3, "loss": {"balance": True}}
    assert refused(content | {"hyper_parameters": content["hyper_parameters"] | more}) is None
    for name in ("hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "../cnn2"):
        said = refused(put(put(content, "hyper_parameters.library", "timm"), "hyper_parameters.name", name))
        assert said is not None
        assert "not an address or a path" in said


def test_a_checkpoint_that_unpacks_to_more_than_its_own_bytes_is_not_unpacked(
    content: dict[str, Any], tmp_path: Path
) -> None:
    file, bomb = tmp_path / "best.ckpt", tmp_path / "bomb.ckpt"
    torch.save(content, file)
    with zipfile.ZipFile(file) as stored, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in stored.infolist():
            packed.writestr(part.filename, stored.read(part))
        packed.writestr("best/data/99", bytes(10**8))
    assert bomb.stat().st_size < 10**6
    tracemalloc.start()
    said = refusal(lambda: load_model(bomb))
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    assert said == f"checkpoint: {bomb} is compressed, which no PyTorch checkpoint is; it was not unpacked"
    assert refusal(lambda: load_model(file)) is None


def test_a_model_that_answers_nan_predicts_nothing_and_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    state = {key: tensor * torch.nan for key, tensor in content["state_dict"].items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints" / "top-1.ckpt")
    torch.save(put(content, "state_dict", state), tmp_path / "checkpoints" / "top-2.ckpt")
    model = load_model(tmp_path)
    with pytest.raises(MuraError, match=r"top-2\.ckpt: this model answers NaN"):
        model.probabilities(np.zeros((1, 40, 40), np.uint8), ["wrist"])
