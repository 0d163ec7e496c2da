"""An exported model in onnxruntime against the same checkpoint in PyTorch, on the same squares."""

import numpy as np
import torch

from benchmarks.measure import Plan, Row, by_turns, median_of, ratios, seconds
from mura.inference.export import export
from mura.inference.exported import load_exported
from mura.inference.loading import load_run
from mura.machine import keep_freed_memory
from mura.models.classifier import AbnormalityClassifier

BATCH = 32
NETWORKS = {"resnet18": "kumar_resnet", "densenet121": "kumar_densenet"}


def exported(plan: Plan) -> list[Row]:
    """Return how many times as many pictures a second the exported model answers for; untrained weights."""
    keep_freed_memory()  # as `mura predict` does
    return [_row(plan, name, head) for name, head in NETWORKS.items() if not (plan.quick and name == "densenet121")]


def _row(plan: Plan, name: str, head: str) -> Row:
    torch.manual_seed(0)
    trained = {"extremities": ["wrist"], "cache_size": 256, "fit": "pad"}
    fresh = AbnormalityClassifier(name=name, head=head, image_size=224, provenance=trained)
    checkpoint = plan.folder / "export" / f"{name}.ckpt"
    checkpoint.parent.mkdir(exist_ok=True)
    content = {"epoch": 0, "state_dict": fresh.state_dict(), "hyper_parameters": dict(fresh.hparams)}
    torch.save(content, checkpoint)
    model = load_run(checkpoint)
    export(model, checkpoint.with_suffix(".onnx"))
    contenders = (load_exported(checkpoint.with_suffix(".onnx")), load_run(checkpoint))
    squares = np.random.default_rng(0).integers(0, 256, (BATCH, 256, 256), np.uint8)
    names = [None] * BATCH
    times = 1 if plan.quick else 5

    def rate(which: int) -> float:
        contenders[which].probabilities(squares, names)
        taken = seconds(lambda: [contenders[which].probabilities(squares, names) for _ in range(times)])
        return times * BATCH / taken

    ours, theirs = by_turns(plan.rounds, lambda: rate(0), lambda: rate(1))
    detail = f"ONNX {median_of(ours, 'pictures/s')}, PyTorch {median_of(theirs, 'pictures/s')}, batches of {BATCH}"
    return Row(f"{name}, exported: answers", "the checkpoint", ratios(ours, theirs), 1.0, detail=detail)
