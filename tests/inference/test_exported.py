"""Files that are no export, or a hostile one: one sentence with the file, and nothing is opened, run or filled."""

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refusal

from mura.inference.exported import graph_sha256, load_exported

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Refused = Callable[[Callable[[Any], object]], str]


@pytest.fixture
def refused(wrist_file: Path, tmp_path: Path) -> Refused:
    """What is said of the exported file after a change to it, whose checksum its author has made fit."""

    def words(change: Callable[[Any], object]) -> str:
        model = onnx.load(wrist_file)
        change(model)
        rewrite(model, graph_sha256=graph_sha256(model.graph))
        file = tmp_path / "changed.onnx"
        file.write_bytes(model.SerializeToString())
        said = refusal(lambda: load_exported(file))
        assert said is not None
        assert str(file) in said
        return said

    return words


def rewrite(model: Any, **about: object) -> None:
    """Change what the file says of itself; `...` takes a key out."""
    for entry in model.metadata_props:
        said = json.loads(entry.value) | about
        entry.value = json.dumps({key: value for key, value in said.items() if value is not ...})


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\x00" * 100, b"PK\x03\x04", bytes(range(256)) * 8, b"\x08\x0a" * 5000, b'{"a": 1}', b"\x80\x02cos\n"],
)
def test_a_file_that_is_no_model_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    said = str(refusal(lambda: load_exported(file)))
    assert said.startswith(f"{file} ")
    assert "is no ONNX file" in said or "was not written by `mura export`" in said


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.onnx").mkdir()
    for name, words in (("pipe", "is a FIFO"), ("folder", "is a folder"), ("absent", "No such file")):
        assert words in str(refusal(lambda name=name: load_exported(tmp_path / f"{name}.onnx")))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_export_is_one_sentence(share: float, wrist_file: Path, tmp_path: Path) -> None:
    content = wrist_file.read_bytes()
    file = tmp_path / "cut.onnx"
    file.write_bytes(content[: int(share * len(content))])
    assert refusal(lambda: load_exported(file)) is not None


def test_every_flipped_bit_of_a_weight_is_noticed(wrist_file: Path, tmp_path: Path) -> None:
    content = bytearray(wrist_file.read_bytes())
    weights = max((each.raw_data for each in onnx.load(wrist_file).graph.initializer), key=len)
    place = content.find(weights)
    file = tmp_path / "flipped.onnx"
    for offset in np.random.default_rng(0).integers(0, len(weights), 5):
        flipped = content.copy()
        flipped[place + int(offset)] ^= 1
        file.write_bytes(flipped)
        assert "is damaged (its checksum is wrong)" in str(refusal(lambda: load_exported(file)))


def test_a_model_of_another_program_is_one_sentence(refused: Refused) -> None:
    assert "was not written by `mura export`" in refused(lambda model: model.ClearField("metadata_props"))


@pytest.mark.parametrize("text", ["[]", "{}", "nonsense", "[" * 100_000, "1e999", '{"schema": 2}'])
def test_a_model_that_says_nonsense_of_itself_is_one_sentence(text: str, wrist_file: Path, tmp_path: Path) -> None:
    model = onnx.load(wrist_file)
    model.metadata_props[0].value = text
    file = tmp_path / "changed.onnx"
    file.write_bytes(model.SerializeToString())
    assert str(refusal(lambda: load_exported(file))).startswith(f"{file} ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cache_size", 10**9), ("cache_size", -1), ("cache_size", "40"), ("cache_size", ...), ("image_size", 10**30),
        ("extremities", []), ("extremities", ["knee"]), ("extremities", ["wrist", "wrist"]), ("fit", "crop"),
        ("threshold", 7.0), ("threshold", float("nan")), ("fitted", {"knee": {}}), ("synthetic", "no"),
        ("fitted", {"all": {"temperature": -1.0, "thresholds": {}}}), ("weights_sha256", "x"), ("versions", {"a": 1}),
    ],
)  # fmt: skip
def test_a_value_that_can_t_be_is_one_sentence_with_its_key(key: str, value: object, refused: Refused) -> None:
    assert key in refused(lambda model: rewrite(model, **{key: value}))


def test_metadata_of_megabytes_are_not_parsed(refused: Refused) -> None:
    assert "was not written by" in refused(lambda model: rewrite(model, more="x" * 2**21))


def test_weights_in_another_file_are_never_opened(refused: Refused, tmp_path: Path) -> None:
    secret = tmp_path.parent / "secret"
    secret.write_bytes(b"\x00" * 10**6)

    def point_outside(model: Any) -> None:
        tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
        onnx.external_data_helper.set_external_data(tensor, "../secret")
        tensor.ClearField("raw_data")

    def point_without_saying_so(model: Any) -> None:
        point_outside(model)
        max(model.graph.initializer, key=lambda each: len(each.external_data)).ClearField("data_location")

    assert "keeps weights in another file, which is not opened" in refused(point_outside)
    assert "keeps weights in another file, which is not opened" in refused(point_without_saying_so)


def test_a_graph_that_would_fill_the_memory_is_refused_before_it_runs(refused: Refused) -> None:
    def fill(model: Any) -> None:
        sides = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "sides")
        model.graph.initializer.append(sides)
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["sides"], ["huge"]))

    def fill_in_a_branch(model: Any) -> None:
        node = helper.make_node("ConstantOfShape", ["sides"], ["huge"])
        branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("huge", TensorProto.FLOAT, None)],
                                   [numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "sides")])  # fmt: skip
        yes = numpy_helper.from_array(np.array(True), "yes")
        model.graph.initializer.append(yes)
        model.graph.node.append(helper.make_node("If", ["yes"], ["filled"], then_branch=branch, else_branch=branch))

    def claim(model: Any) -> None:
        model.graph.initializer.append(TensorProto(name="claimed", data_type=1, dims=[2**40]))

    tracemalloc.start()
    try:
        for change in (fill, fill_in_a_branch, claim):
            assert "values of a picture" in refused(change)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_a_size_that_only_the_pictures_tell_does_not_fill_the_memory(wrist_file: Path, tmp_path: Path) -> None:
    model = onnx.load(wrist_file)
    numbers = {"none": 0.0, "one": 1.0, "times": 1e12}
    model.graph.initializer.extend(numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items())
    last = next(node for node in model.graph.node if "probability" in node.output)
    last.output[0] = "told"
    model.graph.node.extend([
        helper.make_node("Cast", ["images"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["seen"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "times"], ["many"]),
        helper.make_node("Range", ["none", "many", "one"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "none"], ["nothing"]),
        helper.make_node("Add", ["told", "nothing"], ["probability"]),
    ])  # fmt: skip
    rewrite(model, graph_sha256=graph_sha256(model.graph))
    file = tmp_path / "grows.onnx"
    file.write_bytes(model.SerializeToString())
    loaded = load_exported(file)
    black, white = np.zeros((1, 40, 40), np.uint8), np.full((2, 40, 40), 255, np.uint8)
    assert 0 < loaded.probabilities(black, ["wrist"])[0] < 1
    said = refusal(lambda: loaded.probabilities(white, ["wrist", "wrist"]))
    assert said is not None
    assert f"{file} can't be run on 2 pictures (it asks for more than the" in said


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_operators_that_no_export_has_are_refused(kind: str, refused: Refused) -> None:
    def append(model: Any, node: Any) -> None:
        model.graph.node.append(node)

    assert "operators that no export" in refused(lambda model: append(model, helper.make_node(kind, [], ["x"])))
    strange = helper.make_node("Run", [], ["x"], domain="com.example")
    assert "operators that no export" in refused(lambda model: append(model, strange))
    library = helper.make_opsetid("com.example", 1)
    assert "operators that no export" in refused(lambda model: model.opset_import.append(library))


def test_other_inputs_and_outputs_than_it_says_are_refused(refused: Refused) -> None:
    def widen(model: Any) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 4096

    def add(model: Any) -> None:
        model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))

    def rename(model: Any) -> None:
        model.graph.output[0].name = "logits"

    assert "does not take pictures of 40 pixels on a side, as it says" in refused(widen)
    assert "does not take pictures of 40 pixels on a side, as it says" in refused(add)
    assert "does not answer with a probability" in refused(rename)
    assert "does not take pictures of 41 pixels" in refused(lambda model: rewrite(model, cache_size=41))


def test_a_graph_that_can_t_run_is_one_sentence(refused: Refused) -> None:
    assert "can't be run" in refused(lambda model: model.graph.node.pop())
