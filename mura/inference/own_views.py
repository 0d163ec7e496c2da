"""A run explains itself on its own test views: heat.npz, and how often it looks where the findings are.

Only synthetic data say where those are (boxes.csv). Shapes: S x S a square for the model, G cells along a side.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich import box
from rich.table import Table

from mura.data.images import UnreadableImage, fit, place_in_square
from mura.data.index import find_root
from mura.errors import MuraError, printable
from mura.extremities import BOXES, TOP_FOLDER
from mura.inference.loading import TorchModel, load_run, new_network
from mura.inference.predict import BATCH_SIZE, Progress, read_in_batches
from mura.metrics import OVERALL, THRESHOLD
from mura.runs.folder import RunFolder
from mura.runs.heat import HeatMaps, write_heat
from mura.runs.records import read_config, read_metrics
from mura.runs.tables import read_table

LARGEST_GRID = 14  # cells that are kept along a side
WRONG_SHOWN, THUMBNAIL = 12, 112  # pictures, pixels
AS_PREDICTED = 1e-3  # the most by which a probability may differ from what the run predicted

FIGURES = ("pointing_game", "heat_in_box")

Place = tuple[float, float, float, float]
"""Top, left, height and width in a square."""


def explain_again(run: RunFolder, root: Path | None = None, show: Progress = lambda *_: None) -> dict[str, Any]:
    """Explain a finished run as `explain_views` does. `root` is where the data lie, if not where it was trained.

    Raises MuraError, too, when the run has no test predictions.
    """
    if read_metrics(run.metrics)["test"] is None:
        raise MuraError(run.how_to_test())
    trained_at = (read_config(run).get("data") or {}).get("root")
    if root is None and trained_at is None:
        raise MuraError(f"{run.config} names no data.root; give --root DIR.")
    table = read_table(run.predictions, ("split", "extremity", "path"), ("label", "probability"))
    views = table[table["split"] == "test"].reset_index(drop=True)
    return explain_views(run, views, root or Path(str(trained_at)), show)


def explain_views(run: RunFolder, views: pd.DataFrame, root: Path, show: Progress = lambda *_: None) -> dict[str, Any]:
    """Write the run's heat.npz for its test `views`, which have PREDICTION_COLUMNS; return its figures.

    Raises MuraError when a view can't be read, or is not the picture that the run was tested on.
    """
    home = find_root(root)
    model = load_run(run.path)
    squares_NSS, shapes = read_squares(views, home, model)
    refuse_other_pictures(model, squares_NSS, views, run)
    heat_NGG = in_batches(model, squares_NSS, views, show)
    places = [place_in_square(shape, model.cache_size, model.fit) for shape in shapes]
    figures = {
        "views": len(views),
        "without_heat": int((~(heat_NGG > 0)).all(axis=(1, 2)).sum()),
        "boxes": summarise_looks(looks_at_findings(model, squares_NSS, heat_NGG, shapes, views, read_boxes(home))),
    }
    kept_NGG = np.stack([compact(heat, place, model.cache_size) for heat, place in zip(heat_NGG, places, strict=True)])
    paths, wrong = views["path"].to_numpy(str), surest_mistakes(views)
    thumbnails = np.array([fit(squares_NSS[row], THUMBNAIL) for row in wrong], np.uint8)
    thumbnails = thumbnails.reshape(-1, THUMBNAIL, THUMBNAIL)
    write_heat(run.heat, HeatMaps(paths, kept_NGG, paths[wrong], thumbnails, figures))
    return figures


def looks_at_findings(
    model: TorchModel,
    squares_NSS: np.ndarray,
    heat_NGG: np.ndarray,
    shapes: list[tuple[int, ...]],
    views: pd.DataFrame,
    boxes: dict[str, Place],
) -> pd.DataFrame:
    """Return a row for each abnormal view whose finding's box is known: how the model, and chance, look at it.

    `chance` is the share of the picture that is in the box; random_weights_... is the same network, untrained.
    """
    is_known = (views["label"] == 1) & views["path"].isin(boxes)
    rows = np.flatnonzero(is_known)
    own = [boxes[path] for path in views["path"][is_known]]
    places = [place_in_square(shapes[row], model.cache_size, model.fit) for row in rows]
    inside = [box_in_square(each, shapes[row], place) for each, row, place in zip(own, rows, places, strict=True)]
    looks: dict[str, Any] = {"extremity": views["extremity"].to_numpy()[rows]}
    looks["chance"] = [each[2] * each[3] / np.prod(shapes[row]) for each, row in zip(own, rows, strict=True)]
    random_NGG = in_batches(with_random_weights(model), squares_NSS[rows], views[is_known])
    for prefix, heats in (("", heat_NGG[rows]), ("random_weights_", random_NGG)):
        for figure, values in zip(FIGURES, look_at(heats, inside, model.cache_size), strict=True):
            looks[prefix + figure] = values
    return pd.DataFrame(looks)


def read_squares(views: pd.DataFrame, home: Path, model: TorchModel) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Return the views as squares for the model, uint8 [N, S, S], and the shapes of the pictures. Raises MuraError."""
    files = [str(home / path) for path in views["path"]]
    squares, shapes = [], []
    for _, seen in read_in_batches(
        pd.DataFrame({"path": files, "name": files}),
        lambda pixels: (fit(pixels, model.cache_size, model.fit), pixels.shape),
    ):
        for each in seen:
            if isinstance(each, UnreadableImage):
                raise MuraError(f"{each} The run's own test views are needed; give --root DIR if they were moved.")
            squares.append(each[0])
            shapes.append(each[1])
    return np.stack(squares), shapes


def refuse_other_pictures(model: TorchModel, squares_NSS: np.ndarray, views: pd.DataFrame, run: RunFolder) -> None:
    """Raise MuraError unless the model says of the first views what the run predicted."""
    first = views.iloc[:BATCH_SIZE]
    said = model.probabilities(squares_NSS[: len(first)], list(first["extremity"]))
    if not np.allclose(said, first["probability"], atol=AS_PREDICTED):
        raise MuraError(
            f"{run.path}: its checkpoint says something else of these test views than its predictions.csv; the data, "
            "or the checkpoint, are not those of the run."
        )


def in_batches(
    model: TorchModel, squares_NSS: np.ndarray, views: pd.DataFrame, show: Progress = lambda *_: None
) -> np.ndarray:
    """Return the heat of squares, float32 [N, G, G]; [0, 1, 1] without any."""
    names = list(views["extremity"])
    heat_NGG = np.zeros((0, 1, 1), np.float32)
    for start in range(0, len(names), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        heat_BGG = model.heat_maps(squares_NSS[batch], names[batch])
        if start == 0:
            heat_NGG = np.empty((len(names), *heat_BGG.shape[1:]), np.float32)  # not a part a batch: see PerView
        heat_NGG[batch] = heat_BGG
        show(min(start + BATCH_SIZE, len(names)), len(names))
    return heat_NGG


def with_random_weights(model: TorchModel) -> TorchModel:
    """Return the same network before any training: what its heat shows is no finding that it learnt."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = new_network(model.members[0].hparams)
    fresh = fresh.eval().to(model.members[0].device)
    return replace(model, members=[fresh], checkpoints=model.checkpoints[:1])


def read_boxes(home: Path) -> dict[str, Place]:
    """Return `x, y, width, height` of the finding in each view that has one; empty where the data don't say."""
    file = home / BOXES
    if not file.is_file():
        return {}
    table = read_table(file, ("path",), ("x", "y", "width", "height"))
    paths = table["path"].str.removeprefix(f"{TOP_FOLDER}/")
    return dict(zip(paths, table[["x", "y", "width", "height"]].itertuples(index=False, name=None), strict=True))


def box_in_square(found: Place, shape: tuple[int, ...], place: tuple[int, int, int, int]) -> Place:
    """Return where a box, `x, y, width, height` in a picture of this shape, lies in the square: a Place."""
    (x, y, width, height), (top, left, tall, wide) = found, place
    down, across = tall / shape[0], wide / shape[1]
    return top + y * down, left + x * across, height * down, width * across


def look_at(heat_NGG: np.ndarray, boxes: list[Place], side: int) -> tuple[list[bool], list[float]]:
    """Return for each view whether the hottest place lies in its box, and the share of its heat there.

    The hottest place is the centre of the hottest cell. A view without heat points nowhere.
    """
    hits, shares = [], []
    cells = heat_NGG.shape[1]
    for heat_GG, (top, left, height, width) in zip(heat_NGG, boxes, strict=True):
        heat_SS = np.asarray(Image.fromarray(heat_GG).resize((side, side), Image.Resampling.BILINEAR))
        row, column = ((index + 0.5) * side / cells for index in divmod(int(heat_GG.argmax()), cells))
        has_heat = heat_GG.max() > 0
        hits.append(bool(has_heat and top <= row <= top + height and left <= column <= left + width))
        part = heat_SS[
            round(top) : max(round(top) + 1, round(top + height)),
            round(left) : max(round(left) + 1, round(left + width)),
        ]
        shares.append(float(part.sum() / heat_SS.sum()) if has_heat else 0.0)
    return hits, shares


def summarise_looks(looks: pd.DataFrame) -> dict[str, dict[str, float]] | None:
    """Return the means over the views with a finding, by OVERALL and extremity, with `n`; None without such views."""
    if not len(looks):
        return None
    groups = {OVERALL: looks} | {str(name): part for name, part in looks.groupby("extremity")}
    numbers = looks.columns.drop("extremity")
    return {name: {"n": len(part)} | {key: float(part[key].mean()) for key in numbers} for name, part in groups.items()}


def compact(heat_GG: np.ndarray, place: tuple[int, int, int, int], side: int) -> np.ndarray:
    """Return a heat map with at most LARGEST_GRID cells a side, float32, NaN where a cell's centre is no picture."""
    cells = min(len(heat_GG), LARGEST_GRID)
    small = np.array(Image.fromarray(heat_GG.astype(np.float32)).resize((cells, cells), Image.Resampling.BOX))
    centres = (np.arange(cells) + 0.5) * side / cells
    top, left, height, width = place
    rows, columns = (centres >= top) & (centres < top + height), (centres >= left) & (centres < left + width)
    small[~(rows[:, None] & columns)] = np.nan
    return small


def surest_mistakes(views: pd.DataFrame) -> list[int]:
    """Return the rows of the views that are most surely called wrongly, the surest first."""
    is_wrong = (views["probability"] > THRESHOLD) != (views["label"] == 1)
    distance = (views["probability"] - views["label"]).abs().where(is_wrong, 0).to_numpy()
    return [int(row) for row in np.argsort(-distance, kind="stable")[:WRONG_SHOWN] if distance[row] > 0]


def figures_table(figures: dict[str, dict[str, Any]]) -> Table:
    """Return the figures of runs, by folder, for the console."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = ("run", "extremity", "findings", "hottest place in the box", "heat in the box", "chance", "random weights")
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:2] else "right", overflow="fold")
    for run, about in figures.items():
        boxes = about["boxes"] or {}
        for name, each in boxes.items():
            if name != OVERALL and len(boxes) == 2:
                continue  # a single extremity: the same row again
            random = "{random_weights_pointing_game:.3f}, {random_weights_heat_in_box:.3f}".format(**each)
            numbers = (f"{each[key]:.3f}" for key in (*FIGURES, "chance"))
            table.add_row(printable(run), name, str(each["n"]), *numbers, random)
        if not boxes:
            table.add_row(printable(run), OVERALL, f"{about['views']} views, no boxes.csv")
    return table
