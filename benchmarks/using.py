"""A trained model at work: `mura predict` against a bare loop on the same files, `mura explain` against predict."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from benchmarks.data import radiographs
from benchmarks.measure import Plan, Row, by_turns, median_of, ratios, seconds
from mura.data.index import find_root, read_index
from mura.inference.explain import explain_pictures
from mura.inference.loading import TorchModel
from mura.inference.predict import BATCH_SIZE, predict_pictures
from mura.machine import keep_freed_memory
from mura.models.classifier import AbnormalityClassifier

SIDE, CACHE_SIZE = 224, 256


def predict(plan: Plan) -> list[Row]:
    """Compare pictures per second of ResNet-18 on PNG files of 512 pixels, decoding included but in one peer."""
    keep_freed_memory()  # as `mura predict` does
    root = find_root(radiographs(plan.folder, 80 if plan.quick else 200, 512))
    files = [root / path for path in read_index(root)["path"]][: 128 if plan.quick else 320]
    classifier = AbnormalityClassifier(name="resnet18", head="linear", image_size=SIDE).eval()
    model = TorchModel(Path("untrained"), [Path("untrained")], [classifier], CACHE_SIZE, ["wrist"], "pad")
    decoded = [square(file) for file in files]

    def rate(action: Callable[[], object]) -> float:
        return len(files) / seconds(action)

    def explain() -> None:
        with TemporaryDirectory(dir=plan.folder) as out:
            explain_pictures(model, files, Path(out) / "overlays")

    bare(classifier, decoded[:BATCH_SIZE])
    ours, explained, whole, network = by_turns(
        plan.rounds,
        lambda: rate(lambda: predict_pictures(model, files)),
        lambda: rate(explain),
        lambda: rate(lambda: bare(classifier, map(square, files))),
        lambda: rate(lambda: bare(classifier, decoded)),
    )
    detail = (
        f"predict {median_of(ours, 'pictures/s')}, explain {median_of(explained, 'pictures/s')}, bare loop "
        f"{median_of(whole, 'pictures/s')}, its network alone {median_of(network, 'pictures/s')}"
    )
    name = "mura predict, resnet18 at 224"
    return [
        Row(name, "a bare loop on the same files: Pillow, then the network", ratios(ours, whole), 0.9, detail=detail),
        Row(name, "the same loop on pictures in memory", ratios(ours, network), None, detail=detail),
        Row("mura explain, resnet18 at 224 (time)", "mura predict", ratios(ours, explained), 4, True, detail),
    ]


def square(file: Path) -> np.ndarray:
    """A picture as anyone would read it: grey, its longest side CACHE_SIZE, black beside it."""
    with Image.open(file) as image:
        image = image.convert("L")
        image.thumbnail((CACHE_SIZE, CACHE_SIZE))
        padded = Image.new("L", (CACHE_SIZE, CACHE_SIZE))
        padded.paste(image, ((CACHE_SIZE - image.width) // 2, (CACHE_SIZE - image.height) // 2))
        return np.asarray(padded)


@torch.inference_mode()
def bare(classifier: AbnormalityClassifier, squares: Iterable[np.ndarray]) -> None:
    """One batch after the other through the network, in float32, each read when its turn comes."""
    waiting = iter(squares)
    while batch := list(itertools.islice(waiting, BATCH_SIZE)):
        classifier(torch.from_numpy(np.stack(batch))[:, None]).sigmoid().tolist()
