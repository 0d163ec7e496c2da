"""A trained model handed on: one ONNX file that needs no code of this program, or its weights as safetensors.

What is written is asked about pictures before it has its name, and must answer as the checkpoints do.
Shapes: B pictures of a batch; S their side, the model's `cache_size`.
"""

import importlib.metadata
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from mura.data.images import decode, fit
from mura.data.index import find_root
from mura.errors import MuraError
from mura.extremities import INDEX_OF
from mura.files import atomically, refuse_unwritable, write_json
from mura.inference.exported import (
    ABOUT,
    EXTREMITY,
    IMAGES,
    MISSING,
    MOST_BYTES,
    ONNX,
    OPSET,
    PROBABILITY,
    SCHEMA,
    graph_sha256,
    load_exported,
    parts_of,
)
from mura.inference.loading import ArmModel, TorchModel, shared_model
from mura.inference.predict import Model
from mura.metrics import THRESHOLD
from mura.models.checkpoint import weights_sha256
from mura.provenance import versions
from mura.runs.records import read_config, read_metrics
from mura.runs.tables import read_table

TOLERANCE = 1e-4
"""By so much the probabilities of an export may differ from those of the checkpoints."""

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
OLDEST_EXPORTER = "2.8"  # the version of PyTorch; 2.6 refuses batches of any size, and what lies between was not tried
REAL, RANDOM = 8, 3
"""How many pictures of each run, and how many random ones of each extremity, an export is checked with."""

NOT_A_DEVICE = "For research: not a medical device."

log = logging.getLogger(__name__)


class Examples(NamedTuple):
    """Squares, uint8 [B, S, S], and what each shows; the first `real` of them are pictures of the runs' data."""

    squares: np.ndarray
    extremities: list[str]
    real: int


def export(model: TorchModel | ArmModel, out: Path) -> str:
    """Write a model to a file of one of FORMATS, which its ending names; return in a sentence what was checked.

    Raises MuraError when it can't be written so, or answers otherwise than the checkpoints. Nothing is left then.
    """
    refuse_unwritable(out, "OUT")
    write = write_onnx if out.suffix == ONNX else write_safetensors
    examples = find_examples(model)
    try:
        difference = write(model, out, examples)
    except OSError as error:
        raise MuraError(f"{out}: can't be written ({error.strerror}).") from error
    real = f"{examples.real} pictures of its data and " if examples.real else ""
    none = "" if examples.real else " (its data are not on this machine)"
    return f"checked on {real}{len(examples.extremities) - examples.real} random ones{none}: within {difference:.1g}"


def write_onnx(model: TorchModel | ArmModel, out: Path, examples: Examples) -> float:
    """Write an ONNX file; return the largest difference to the checkpoints' probabilities."""
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise MuraError(f"{out} needs {' and '.join(missing)}, which {MISSING}.")
    if TorchVersion(torch.__version__) < OLDEST_EXPORTER:
        raise MuraError(f"{out} needs PyTorch {OLDEST_EXPORTER} or newer to be written; this is {torch.__version__}.")
    runs = runs_of(model)
    size = sum(tensor.numel() * tensor.element_size() for _, tensor in weights_of(model))
    if size > MOST_BYTES:
        raise MuraError(f"{model.source} has {size:,} bytes of weights, more than an ONNX file can hold; name one run.")
    if None in runs:
        graph = to_onnx(runs[None])
    else:
        graph = join({name: to_onnx(of_name) for name, of_name in runs.items() if name is not None}, model.cache_size)
    about = describe(model) | {"graph_sha256": graph_sha256(graph.graph)}
    for library in LIBRARIES:
        about["versions"][library] = importlib.metadata.version(library)
    graph.producer_name, graph.producer_version = ABOUT, about["versions"][ABOUT]
    entry = graph.metadata_props.add()
    entry.key, entry.value = ABOUT, json.dumps(about, indent=1)
    with atomically(out) as file:
        file.write(graph.SerializeToString())
        file.flush()
        return compare(load_exported(Path(file.name)), model, examples, out)


def write_safetensors(model: TorchModel | ArmModel, out: Path, examples: Examples) -> float:
    """Write the weights of one network, and beside them a JSON file with all that is needed to build it again."""
    try:
        from safetensors.torch import load, save
    except ImportError:
        raise MuraError(f"{out} needs safetensors, which {MISSING}.") from None
    if not isinstance(model, TorchModel) or len(model.members) > 1:
        raise MuraError(
            f"{model.source} averages several networks, and a safetensors file holds one: write a file that ends in "
            f"{ONNX}, or name one of its checkpoints."
        )
    [member] = model.members
    refuse_unwritable(out.with_suffix(".json"), "OUT")
    settings = {key: value for key, value in member.hparams.items() if key != "provenance"}
    about = describe(model) | {"network": settings}
    content = save({name: tensor.cpu().contiguous() for name, tensor in member.state_dict().items()})
    difference = compare(shared_model(about, load(content), out), model, examples, out)
    with atomically(out) as file:
        file.write(content)
    write_json(out.with_suffix(".json"), about)
    return difference


def runs_of(model: TorchModel | ArmModel) -> dict[str | None, list[TorchModel]]:
    """Return the runs that answer for each extremity, or under None those that answer for all."""
    if isinstance(model, TorchModel):
        return {None: [model]}
    if model.is_pooled:
        return {None: model.runs[model.extremities[0]]}
    return {name: model.runs[name] for name in model.extremities}


def every_run(model: TorchModel | ArmModel) -> list[TorchModel]:
    """Return each run of a model once."""
    return list({run.source: run for of_name in runs_of(model).values() for run in of_name}.values())


def weights_of(model: TorchModel | ArmModel) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a model's networks, with its name; those of several are numbered."""
    members = [member for run in every_run(model) for member in run.members]
    for number, member in enumerate(members):
        for name, tensor in member.state_dict().items():
            yield (f"{number}.{name}" if len(members) > 1 else name), tensor


def describe(model: TorchModel | ArmModel) -> dict[str, Any]:
    """Return what an export says of itself (ABOUT_RULES). Nothing in it names a place of this machine."""
    first = every_run(model)[0].members[0]
    trained: dict[str, Any] = first.hparams["provenance"]
    finished = [read_metrics(run.folder.metrics) for run in every_run(model) if run.folder.finished]
    return {
        "schema": SCHEMA,
        "use": NOT_A_DEVICE,
        "model": first.hparams["name"],
        "seeds": sorted({each["seed"] for each in finished}),
        "image_size": first.image_size,
        "cache_size": model.cache_size,
        "fit": model.fit,
        "extremities": model.extremities,
        "extremity_index": INDEX_OF,
        "threshold": THRESHOLD,
        "fitted": model.fitted(),
        "synthetic": model.is_synthetic(),
        "data_fingerprint": trained.get("data_fingerprint"),
        "trained_with": trained.get("versions") or {},
        "versions": versions(),
        "weights_sha256": weights_sha256(weights_of(model)),
    }


def find_examples(model: TorchModel | ArmModel) -> Examples:
    """Return the pictures to check an export with: some of the runs' own, where they lie here, and random ones."""
    real = [(square, name) for run in every_run(model) for square, name in _pictures_of(run)
            if name in model.extremities]  # fmt: skip
    side, random = model.cache_size, np.random.default_rng(0)
    names = [name for name in model.extremities for _ in range(RANDOM)]
    squares = [*(square for square, _ in real), *random.integers(0, 256, (len(names), side, side), np.uint8)]
    return Examples(np.stack(squares), [*(name for _, name in real), *names], len(real))


def _pictures_of(run: TorchModel) -> Iterator[tuple[np.ndarray, str]]:
    """Yield a few pictures that a run predicted, from its validation views on; none where they can't be had."""
    try:
        root = find_root((read_config(run.folder).get("data") or {})["root"])
        views = read_table(run.folder.predictions, ("path", "extremity"), ())
        views = views.iloc[np.linspace(0, len(views) - 1, min(REAL, len(views))).astype(int)]
        for path, extremity in zip(views["path"], views["extremity"], strict=True):
            yield fit(decode(root / path), run.cache_size, run.fit), extremity
    except (MuraError, KeyError, TypeError):
        return


def compare(written: Model, model: TorchModel | ArmModel, examples: Examples, out: Path) -> float:
    """Return the largest difference between two models' probabilities, of one picture and of many at once.

    Raises MuraError when it is above TOLERANCE.
    """
    images, names, _ = examples
    parts = (slice(0, 1), slice(1, None))
    differences = [
        written.probabilities(images[part], names[part]) - model.probabilities(images[part], names[part])
        for part in parts
    ]
    largest = max(float(np.abs(each).max()) for each in differences)
    if not largest <= TOLERANCE:
        raise MuraError(f"{out} was not written: it answers otherwise than the checkpoints, by up to {largest:.2g}.")
    return largest


class Probability(nn.Module):
    """The probability that runs give on average, each the mean over its checkpoints: uint8 [B, 1, S, S] -> [B]."""

    def __init__(self, runs: Sequence[TorchModel]) -> None:
        super().__init__()
        self.runs = nn.ModuleList(nn.ModuleList(run.members) for run in runs)

    def forward(self, images_B1SS: Tensor, extremity_B: Tensor | None = None) -> Tensor:
        means = [
            torch.stack([member(images_B1SS, extremity_B).sigmoid() for member in run]).mean(0)
            for run in cast(Iterable[nn.ModuleList], self.runs)
        ]
        return torch.stack(means).mean(0)


def to_onnx(runs: Sequence[TorchModel]) -> Any:
    """Return the ONNX model of the mean probability of runs.

    It takes the extremity too if they have a head for each. It says nothing of the machine that made it.
    """
    side = runs[0].cache_size
    given: tuple[Tensor, ...] = (torch.zeros(2, 1, side, side, dtype=torch.uint8),)
    if runs[0].needs_extremity:
        given += (torch.zeros(2, dtype=torch.int64),)
    for name in ("onnx_ir", "onnxscript", "torch.onnx"):  # the exporter tells of each of its steps
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own future
            program = torch.onnx.export(
                Probability(runs).cpu().eval(), given, dynamo=True, opset_version=OPSET, verbose=False,
                dynamic_shapes=({0: "batch"},) * len(given),
                input_names=[IMAGES, EXTREMITY][: len(given)], output_names=[PROBABILITY],
            )  # fmt: skip
    except Exception as error:  # of the exporter, in many lines: not every network is of what ONNX has
        why = " ".join(str(error.__cause__ or error).split())[:200]
        raise MuraError(f"{runs[0].source}: its network can't be written as ONNX ({why}).") from None
    model = program.model_proto  # type: ignore[union-attr]
    strip(model)
    return model


def strip(message: Any) -> None:
    """Take out of an ONNX model what the exporter noted of its making: lines of code, with this machine's paths."""
    for field in ("metadata_props", "doc_string"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for each in parts_of(message):
        strip(each)


def join(models: Mapping[str, Any], side: int) -> Any:
    """Return one ONNX model of those of several extremities, each of which sees its own extremity's pictures alone.

    An extremity without a model gets NaN.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Shape", [EXTREMITY], ["size"]),
        helper.make_node(
            "ConstantOfShape", ["size"], ["all_0"], value=numpy_helper.from_array(np.array([np.nan], np.float32))
        ),
    ]
    constants = {"zero": np.array([0])}
    for number, (name, model) in enumerate(models.items(), 1):
        constants[f"{name}_index"] = np.array([INDEX_OF[name]])
        nodes += [
            helper.make_node("Equal", [EXTREMITY, f"{name}_index"], [f"{name}_is"]),
            helper.make_node("NonZero", [f"{name}_is"], [f"{name}_found"]),
            helper.make_node("Squeeze", [f"{name}_found", "zero"], [f"{name}_rows"]),
            *(helper.make_node("Gather", [each.name, f"{name}_rows"], [f"{name}/{each.name}"])
              for each in model.graph.input),
            helper.make_node("Size", [f"{name}_rows"], [f"{name}_count"]),
            helper.make_node("Cast", [f"{name}_count"], [f"{name}_any"], to=TensorProto.BOOL),
            helper.make_node("If", [f"{name}_any"], [f"{name}_answer"], **_branches(name, model)),
            helper.make_node("ScatterElements", [f"all_{number - 1}", f"{name}_rows", f"{name}_answer"],
                             [f"all_{number}" if number < len(models) else PROBABILITY]),
        ]  # fmt: skip
    batch = ["batch"]
    graph = helper.make_graph(
        nodes, "arm",
        [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, [*batch, 1, side, side]),
         helper.make_tensor_value_info(EXTREMITY, TensorProto.INT64, batch)],
        [helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, batch)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=model.ir_version)


def _branches(name: str, model: Any) -> dict[str, Any]:
    """Return what an If node does: ask the model about `<name>/images`, or answer with nothing where there are none."""
    from onnx import TensorProto, compose, helper, numpy_helper

    graph = compose.add_prefix_graph(model.graph, f"{name}/", rename_inputs=True)
    for part in ("input", "value_info"):
        graph.ClearField(part)
    nothing = helper.make_node(
        "Constant", [], [f"{name}_nothing"], value=numpy_helper.from_array(np.zeros(0, np.float32))
    )
    free = [helper.make_tensor_value_info(f"{name}_nothing", TensorProto.FLOAT, [None])]
    return {"then_branch": graph, "else_branch": helper.make_graph([nothing], f"{name}_none", [], free)}
