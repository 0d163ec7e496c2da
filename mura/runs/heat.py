"""heat.npz of a run: where its model looked on each of its test views, and pictures of its surest mistakes.

It is there when a run was asked to explain itself, and small: a few hundred bytes a view.
"""

import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mura.errors import MuraError
from mura.files import atomically
from mura.runs.records import POSITIVE, TREE, fault_in, whole

MOST_BYTES = 2**28  # unpacked; MURA's test set has 1.3 MB of heat
STRENGTH = 0.6  # of the colour where it is hottest
FIGURE_RULES = {
    "views": whole(0),
    "without_heat": whole(0),
    "boxes": TREE.or_null,
    "boxes.all": TREE,
    "boxes.all.n": whole(1),
    "boxes.all.pointing_game": POSITIVE,
    "boxes.all.heat_in_box": POSITIVE,
    "boxes.all.chance": POSITIVE,
    "boxes.all.random_weights_pointing_game": POSITIVE,
    "boxes.all.random_weights_heat_in_box": POSITIVE,
}
SHAPES = {"path": 1, "heat": 3, "wrong": 1, "pictures": 3, "figures": 0}
KINDS = {"path": "U", "heat": "f", "wrong": "U", "pictures": "u", "figures": "U"}


@dataclass(frozen=True)
class HeatMaps:
    """N views by `path` [N] as in predictions.csv, and their `heat`, float16 [N, G, G]: NaN beside the picture.

    `wrong` [K] are the views of the surest mistakes, with `pictures` uint8 [K, T, T] of them. `figures` is what
    metrics.json says of the heat, if the run was trained with explain=true.
    """

    path: np.ndarray
    heat: np.ndarray
    wrong: np.ndarray
    pictures: np.ndarray
    figures: dict[str, Any]


def write_heat(file: Path, maps: HeatMaps) -> None:
    """Write a heat.npz, whole or not at all."""
    content = {field.name: getattr(maps, field.name) for field in fields(maps)}
    content |= {"heat": maps.heat.astype(np.float16), "figures": np.array(json.dumps(maps.figures, allow_nan=False))}
    with atomically(file) as stream:
        np.savez_compressed(stream, **content)


def read_heat(file: Path) -> HeatMaps:
    """Return a heat.npz. Raises MuraError when it can't be read, or holds something else."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        with np.load(file, allow_pickle=False) as archive:
            content = {name: archive[name] for name in SHAPES}
        for name, array in content.items():
            if (array.ndim, array.dtype.kind) != (SHAPES[name], KINDS[name]):
                raise ValueError(f"{name} is {array.dtype} with {array.ndim} dimensions")
        content["figures"] = json.loads(str(content["figures"]))
        maps = HeatMaps(**content)
        sizes = len(maps.path) == len(maps.heat), len(maps.wrong) == len(maps.pictures)
        if not all(sizes) or maps.heat.shape[1] != maps.heat.shape[2]:
            raise ValueError("its parts don't fit together")
        if fault := fault_in(maps.figures, FIGURE_RULES):
            raise ValueError(f"it {fault}")
    except Exception as error:  # damaged bytes surface in any of a dozen types
        why = " ".join(str(error).split())[:200]
        raise MuraError(
            f"{file} can't be read ({why}); remove it, or make it again with `mura explain --test`."
        ) from None
    return maps


def overlay(grey_HW: np.ndarray, heat_HW: np.ndarray) -> np.ndarray:
    """Return a picture, uint8 [H, W], as uint8 [H, W, 3]: the hotter, the less grey and the more red, then yellow."""
    heat_HW1 = heat_HW[..., None].clip(0, 1)
    colour_HW3 = np.concatenate([np.full_like(heat_HW1, 255), 255 * heat_HW1**2, np.zeros_like(heat_HW1)], axis=2)
    share_HW1 = STRENGTH * heat_HW1
    return (grey_HW[..., None] * (1 - share_HW1) + colour_HW3 * share_HW1).round().astype(np.uint8)
