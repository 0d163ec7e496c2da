"""The way to the network: gathering and augmenting batches, and building the cache."""

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.data import radiographs
from benchmarks.measure import Plan, Row, by_turns, median_of, ratios, seconds
from benchmarks.peers import PictureFolder, template_loader
from mura.data import cache as caches
from mura.data import fingerprint
from mura.data.batches import TrainingBatches, Views
from mura.data.cache import open_cache
from mura.data.index import find_root, read_index
from mura.models.augment import Augmentation, augment

BATCH, SIDE = 32, 224
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def loader(plan: Plan) -> list[Row]:
    """Compare pictures per second in one thread: decoded, augmented, normalised; and gathered alone, beside a GPU."""
    root = find_root(radiographs(plan.folder, 80 if plan.quick else 200, 512))
    index = read_index(root)
    peer = template_loader(PictureFolder(root, index[index["split"] == "train"], SIDE, 3), BATCH, workers=0)
    views = Views(open_cache(root, 256, plan.folder / "cache"))
    rows = np.flatnonzero(index["split"] == "train")
    how = Augmentation(flip=0.5, rotation=30)

    def batches() -> Iterator[torch.Tensor]:
        for part in itertools.cycle(TrainingBatches(rows, BATCH, seed=0, rank=0, world_size=1)):
            yield views[part]["image"]

    def augmented() -> Iterator[torch.Tensor]:
        for images in batches():  # normalised as by the model
            yield torch.addcmul(-MEAN / STD, augment(images, SIDE, how).expand(-1, 3, -1, -1), 1 / STD)

    with one_thread():
        pictures_per_second(augmented(), 20)  # the pages of the cache are in memory
        ours, bare, theirs = by_turns(
            plan.rounds,
            lambda: pictures_per_second(augmented(), 40),
            lambda: pictures_per_second(batches(), 400),
            lambda: pictures_per_second(peer, 5),
        )
    detail = (
        f"one thread: ours {median_of(ours, 'pictures/s', 0)}, of these to gather alone "
        f"{median_of(bare, 'pictures/s', 0)}, template {median_of(theirs, 'pictures/s', 0)}"
    )
    peer_name, whole = "the template's DataLoader, a core", "decoded, augmented, normalised, on the CPU"
    return [
        Row(f"loader alone: {whole}", peer_name, ratios(ours, theirs), 5, detail=detail),
        Row("loader alone: what stays on the CPU beside a GPU", peer_name, ratios(bare, theirs), 100, detail=detail),
    ]


def pictures_per_second(batches: Iterable[Sized], number: int) -> float:
    """Return the rate at which `number` batches come."""
    return number * BATCH / seconds(lambda: list(map(len, itertools.islice(batches, number))))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in a single thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cache_building(plan: Plan) -> list[Row]:
    """Compare our cache with PIL's decoding and resizing alone, on one core; and two cores with one."""
    root = find_root(radiographs(plan.folder, 80 if plan.quick else 200, 512))
    index = read_index(root).iloc[: 150 if plan.quick else 400]
    paths = [root / path for path in index["path"]]

    def built(threads: int) -> float:
        folder = Path(plan.folder) / "building"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        state = np.zeros(len(index), np.uint8)
        with patch.object(fingerprint, "cores", return_value=threads):
            taken = seconds(lambda: caches.decode_all(folder, root, index, 256, state, np.arange(len(index))))
        return len(index) / taken

    def plain() -> float:
        def decode(path: Path) -> None:
            picture = Image.open(path).convert("L")
            scale = 256 / max(picture.size)
            picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BILINEAR, reducing_gap=2)

        return len(paths) / seconds(lambda: [decode(path) for path in paths])

    plain()  # the files are in memory
    one, two, theirs = by_turns(plan.rounds, lambda: built(1), lambda: built(2), plain)
    detail = (
        f"ours {median_of(one, 'pictures/s', 0)} on one core, {median_of(two, 'pictures/s', 0)} on two; PIL "
        f"{median_of(theirs, 'pictures/s', 0)}"
    )
    return [
        Row("cache building, one core", "PIL decoding and resizing alone", ratios(one, theirs), 0.8, detail=detail),
        Row("cache building, two cores", "one core", ratios(two, one), 1.6, detail=detail),
    ]
