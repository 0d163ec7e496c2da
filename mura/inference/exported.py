"""Exported models: ONNX files that `mura export` wrote, checked and asked about pictures, without PyTorch.

Nothing in such a file is trusted. It is parsed without following a path, its graph must be what its own checksum says
and no larger than its pictures ask for, and only then is it given to onnxruntime. That gets a part of the memory, since
a graph may also ask for sizes that only its pictures tell.
Shapes: B pictures of a batch; S their side, the model's `cache_size`.
"""

import functools
import hashlib
import json
import math
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mura.data.images import FITS
from mura.errors import ConfigError, MuraError
from mura.extremities import INDEX_OF
from mura.files import kind_of_file
from mura.inference.predict import Model
from mura.machine import cores, memory
from mura.metrics import OVERALL
from mura.runs.fitted import FIT_RULES, Fits
from mura.runs.records import FLAG, NAMES, TEXT, TEXTS, Rule, fault_in, one_of, whole

ONNX, SAFETENSORS = ".onnx", ".safetensors"
FORMATS = {ONNX: "onnx", SAFETENSORS: "safetensors"}
SCHEMA = 1
OPSET = 20
IMAGES, EXTREMITY, PROBABILITY = "images", "extremity", "probability"
"""The inputs of an exported model, uint8 [B, 1, S, S] and, where it has several answers, int64 [B]; its output [B]."""

MOST_BYTES = 2**31 - 1
"""No ONNX file can be larger: it is one message of protobuf."""

ABOUT = "mura"
"""The key of the file's metadata that holds, as JSON, what the export says of itself."""

MOST_TEXT = 2**20  # characters of it
MOST_VALUES = 2**30
"""The largest tensor that a picture may lead to; a DenseNet's at 4096 pixels has a quarter of it."""

SHARE_OF_MEMORY = 0.5  # of this process's, for all exported models together

SMALL = 1024  # bytes of a tensor that may be a shape
LOOPS = ("Loop", "Scan", "SequenceMap")
MISSING = "can't be imported: pip install -e '.[export]'"


def _are_fits(value: Any) -> bool:
    names = (OVERALL, *INDEX_OF)
    return isinstance(value, dict) and all(key in names and fault_in(value[key], FIT_RULES) is None for key in value)


SHA256 = Rule(lambda value: isinstance(value, str) and len(value) == 64, "64 hexadecimal digits")
ABOUT_RULES = {
    "schema": whole(SCHEMA, SCHEMA),
    "cache_size": whole(1, 4096),
    "image_size": whole(1, 4096),
    "fit": one_of(*FITS),
    "extremities": Rule(lambda value: NAMES.holds(value) and 0 < len(value) == len(set(value)), NAMES.wanted),
    "threshold": Rule(lambda value: isinstance(value, float) and 0 < value < 1, "a number between 0 and 1"),
    "data_fingerprint": TEXT.or_null,
    "synthetic": FLAG.or_null,
    "versions": TEXTS,
    "fitted": Rule(_are_fits, "what was fitted, by extremity"),
    "weights_sha256": SHA256,
    "graph_sha256": SHA256.optional,
}
"""What an export says of itself, in the metadata of the ONNX file or in the JSON file beside a safetensors file."""


@dataclass(frozen=True)
class ExportedModel(Model):
    """A model from an ONNX file, ready to predict."""

    source: Path
    extremities: list[str]
    cache_size: int
    fit: str
    about: dict[str, Any]
    session: Any

    def fitted(self) -> Fits:
        fits: Fits = self.about["fitted"]
        return fits

    def is_synthetic(self) -> bool | None:
        said: bool | None = self.about["synthetic"]
        return said

    @property
    def needs_extremity(self) -> bool:
        return any(each.name == EXTREMITY for each in self.session.get_inputs())

    def probabilities(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return the probability of "abnormal", float64 [B], of squares as `mura.data.images.fit` makes them.

        Raises MuraError when the model answers NaN, as it does for an extremity that it was not made for, or asks for
        more than SHARE_OF_MEMORY.
        """
        given = {IMAGES: images_BSS[:, None]}
        if self.needs_extremity:
            given[EXTREMITY] = np.array([INDEX_OF.get(name or "", -1) for name in extremities], np.int64)
        try:
            [probability_B] = self.session.run([PROBABILITY], given)
        except Exception as error:  # onnxruntime has a class for each of its codes
            raise _not_run(f"{self.source} can't be run on {len(images_BSS)} pictures", error) from None
        if np.isnan(probability_B).any():
            unknown = sorted({str(name) for name in extremities} - set(self.extremities))
            why = f"it answers for {', '.join(self.extremities)}, not for {', '.join(unknown)}" if unknown else (
                "it answers NaN, so nothing is predicted; take another"
            )  # fmt: skip
            raise MuraError(f"{self.source}: {why}.")
        return np.asarray(probability_B, dtype=np.float64)


def load_exported(path: Path) -> ExportedModel:
    """Return the model of an ONNX file that `mura export` wrote.

    Raises MuraError when it can't be read, is damaged, was not made here, or asks for more than such a file may.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MuraError(f"{path} needs {error.name}, which {MISSING}.") from None
    content = _read(path)
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # protobuf's DecodeError, which lies in another place from version to version
        raise MuraError(f"{path} is no ONNX file, or a damaged one; export it again.") from None
    about = read_about(path, next((each.value for each in model.metadata_props if each.key == ABOUT), None))
    if fault := fault_in_graph(model, about):
        raise MuraError(f"{path} {fault}; export it again.")
    limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = cores(), 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise _not_run(f"{path} can't be run", error) from None
    return ExportedModel(path, about["extremities"], about["cache_size"], about["fit"], about, session)


@functools.cache
def limit_memory() -> None:
    """Give the exported models of this process SHARE_OF_MEMORY of its memory, which they share."""
    import onnxruntime

    memory_of_cpu = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    limit = onnxruntime.OrtArenaCfg({"max_mem": int(SHARE_OF_MEMORY * memory())})
    onnxruntime.create_and_register_allocator(memory_of_cpu, limit)


def _not_run(what: str, error: Exception) -> MuraError:
    why = " ".join(str(error).split())
    if "Available memory of" in why:
        why = f"it asks for more than the {SHARE_OF_MEMORY * memory() / 1e9:.3g} GB of memory that it may have"
    return MuraError(f"{what} ({why[:200]}); export it again.")


def _read(path: Path) -> bytes:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise MuraError(f"{path} is {kind_of_file(about)} and no ONNX file.")
        if about.st_size > MOST_BYTES:
            raise MuraError(f"{path} has {about.st_size:,} bytes, and no ONNX file can have so many.")
        return path.read_bytes()
    except OSError as error:
        raise MuraError(f"{path} can't be read ({error.strerror}).") from None


def check_format(out: Path, asked: str | None) -> None:
    """Raise ConfigError unless a file's ending says in which of FORMATS it is to be written, the one asked for."""
    endings = [ending for ending, name in FORMATS.items() if asked in (None, name)]
    if not endings:
        raise ConfigError(f"--format {asked}: there is no such format. Options: {', '.join(FORMATS.values())}.")
    if out.suffix not in endings:
        raise ConfigError(f"{out}: the name of the file must end in {' or '.join(endings)}.")


def read_about(path: Path, text: str | None) -> dict[str, Any]:
    """Return what an export says of itself, from its JSON. MuraError unless it keeps ABOUT_RULES."""
    if text is None or len(text) > MOST_TEXT:
        raise MuraError(f"{path} was not written by `mura export`; only what that wrote can be asked.")
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        raise MuraError(f"{path} is damaged (what it says of itself is no JSON); export it again.") from None
    if fault := fault_in(about, ABOUT_RULES):
        raise MuraError(f"{path} {fault}; export it again.")
    checked: dict[str, Any] = about
    return checked


def graph_sha256(graph: Any) -> str:
    """Return the checksum of a graph with its weights."""
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()


def fault_in_graph(model: Any, about: dict[str, Any]) -> str | None:
    """Return what is wrong with an ONNX model that says `about` of itself; None when it may be run.

    Whoever makes a file can make its checksum fit too. What it may ask for is therefore limited, checksum or not.
    """
    domains = {each.domain for each in model.opset_import} | {node.domain for node in _nodes(model.graph)}
    if domains - {"", "ai.onnx"} or model.functions or any(node.op_type in LOOPS for node in _nodes(model.graph)):
        return "has operators that no export of this program has"
    if any(tensor.external_data or tensor.data_location for tensor in _tensors(model.graph)):
        return "keeps weights in another file, which is not opened"
    if graph_sha256(model.graph) != about.get("graph_sha256"):
        return "is damaged (its checksum is wrong)"
    side = about["cache_size"]
    taken = {each.name: _shape(each) for each in model.graph.input}
    extremity = {EXTREMITY: (7, [None])} if EXTREMITY in taken else {}
    if taken != {IMAGES: (2, [None, 1, side, side]), **extremity}:
        return f"does not take pictures of {side} pixels on a side, as it says"
    if [(each.name, _shape(each)) for each in model.graph.output] != [(PROBABILITY, (1, [None]))]:
        return "does not answer with a probability for each picture"
    largest = max(_sizes(model), default=0)
    return f"makes a tensor of {largest:,} values of a picture" if largest > MOST_VALUES else None


def _shape(value: Any) -> tuple[int, list[int | None]]:
    """Return the type of a tensor and its sides, None for one that is free."""
    tensor = value.type.tensor_type
    return tensor.elem_type, [side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim]


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph, and of the graphs in them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor with values anywhere in a message."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for each in parts_of(message):
        yield from _tensors(each)


def parts_of(message: Any) -> Iterator[Any]:
    """Yield the messages that stand directly in a message."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            yield from (value,) if hasattr(value, "ListFields") else value


def _sizes(model: Any) -> Iterator[int]:
    """Yield how many values each tensor has for one picture, as far as the graph says. Takes the large weights out."""
    import onnx

    for tensor in _tensors(model.graph):
        yield math.prod(tensor.dims)
        if len(tensor.raw_data) > SMALL:
            tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for graph in (inferred.graph, *(each.g for node in _nodes(inferred.graph) for each in node.attribute)):
        for value in graph.value_info:
            yield math.prod(side if side is not None else 1 for side in _shape(value)[1])
