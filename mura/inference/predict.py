"""A trained model asked about pictures: files or folders in, a table of probabilities out.

The pictures take the way that they take in a run: the same decoding, the same square, the same network.
"""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from mura.data.images import UnreadableImage, decode, fit
from mura.data.index import EXTREMITY_NAME, MAC_NAME
from mura.errors import MuraError
from mura.extremities import EXTREMITIES, EXTREMITY_OF, INDEX_OF
from mura.machine import cores, in_float32
from mura.metrics import THRESHOLD
from mura.models.checkpoint import load_checkpoint
from mura.models.classifier import AbnormalityClassifier
from mura.runs import RunFolder
from mura.training.checkpoints import checksums_hold

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
COLUMNS = ["path", "extremity", "probability", "study", "study_probability", "study_is"]
BATCH = 32

log = logging.getLogger(__name__)


def predict(
    model: Path, places: list[Path], extremity: str | None = None, show: Callable[[int, int], None] = lambda *_: None
) -> tuple[pd.DataFrame, list[str]]:
    """COLUMNS, a row a picture, and a sentence for each picture that could not be read.

    `model` is a checkpoint, or a run folder: then its best checkpoint, or all of its ensemble. The pictures of one
    folder are one study, and its probability is the mean over them (Rajpurkar et al. 2017); a picture that is named by
    itself is a study of its own. `study_is` is abnormal above THRESHOLD. `extremity` is what the pictures show where
    their path does not say it, as MURA's does (XR_WRIST).
    Raises MuraError: no such model, no picture, or a model with separate heads that is not told the extremity.
    """
    if extremity is not None and extremity not in EXTREMITIES:
        raise MuraError(f"--extremity {extremity}: there is no such extremity. Options: {', '.join(EXTREMITIES)}.")
    members = [_loaded(path) for path in checkpoints_of(model)]
    network, provenance = members[0]
    pictures = list(pictures_of(places))
    table = pd.DataFrame(pictures, columns=["path", "study"])
    table["extremity"] = [extremity or _extremity_of(path) for path in table["path"]]
    unknown = table["path"][table["extremity"].isna()]
    if network.hparams["separate_heads"] and len(unknown):
        raise MuraError(
            f"{model} has a head for each extremity, and the path of {unknown.iloc[0]} does not say which it shows: "
            f"give --extremity, one of {', '.join(EXTREMITIES)}."
        )
    foreign = sorted(set(table["extremity"].dropna()) - set(provenance["extremities"]))
    if foreign:
        log.warning("%s was trained on %s, not on %s", model, ", ".join(provenance["extremities"]), ", ".join(foreign))
    faults: list[str] = []
    networks = [network for network, _ in members]
    table["probability"] = _probabilities(networks, int(provenance["cache_size"]), table, faults, show)
    if len(faults) == len(table):
        raise MuraError(faults[0])
    table["study_probability"] = table.groupby("study")["probability"].transform("mean")
    table["study_is"] = (table["study_probability"] > THRESHOLD).map({True: "abnormal", False: "normal"})
    return table[COLUMNS][table["probability"].notna()].reset_index(drop=True), faults


def render(table: pd.DataFrame) -> None:
    """To the console: a line a study, named from where the paths part, with its pictures' probabilities."""
    above = os.path.commonpath([Path(study).parent for study in table["study"]])
    shown = Table(title=f"studies below {above}", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("study", overflow="fold", min_width=32)
    shown.add_column("extremity")
    shown.add_column("abnormal", justify="right")
    shown.add_column("each picture", justify="right")
    for study, views in table.groupby("study", sort=False):
        first = views.iloc[0]
        style = "bold" if first["study_is"] == "abnormal" else ""
        each = ", ".join(f"{probability:.2f}" for probability in views["probability"])
        name = os.path.relpath(str(study), above)
        shown.add_row(name, first["extremity"] or "", f"{first['study_probability']:.3f}", each, style=style)
    Console().print(shown)


def checkpoints_of(model: Path) -> list[Path]:
    """A checkpoint itself; of a run folder the best one, or those of its ensemble."""
    if not model.is_dir():
        return [model]
    run = RunFolder(model)
    ensemble = sorted(run.checkpoints.glob("top-*.ckpt"))
    if not ensemble and not run.best_checkpoint.is_file():
        raise MuraError(f"{model} is no run folder: {run.best_checkpoint} is not there.")
    return ensemble or [run.best_checkpoint]


def pictures_of(places: list[Path]) -> Iterator[tuple[str, str]]:
    """(path, study) of every picture named, or below a folder named; sorted within a folder."""
    for place in places:
        if not place.is_dir():
            yield str(place), str(place)
            continue
        found = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        pictures = [path for path in found if path.is_file() and not MAC_NAME.fullmatch(path.name)]
        if not pictures:
            raise MuraError(f"{place} holds no picture ({', '.join(sorted(SUFFIXES))}).")
        yield from ((str(path), str(path.parent)) for path in pictures)


def _extremity_of(path: str) -> str | None:
    """From a folder such as XR_WRIST."""
    found = EXTREMITY_NAME.search(str(Path(path).resolve()))
    return EXTREMITY_OF[found[1]] if found else None


def _loaded(path: Path) -> tuple[AbnormalityClassifier, dict[str, Any]]:
    """The model, ready to predict, and what its checkpoint says of its making."""
    content = load_checkpoint(path)
    if not checksums_hold(path):
        raise MuraError(f"{path} is damaged (a checksum is wrong): nothing is predicted from it; take another one.")
    model = AbnormalityClassifier(**content["hyper_parameters"])
    model.load_state_dict(content["state_dict"])
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), content["hyper_parameters"]["provenance"]


@torch.inference_mode()
def _probabilities(
    networks: list[AbnormalityClassifier],
    size: int,
    table: pd.DataFrame,
    faults: list[str],
    show: Callable[[int, int], None],
) -> np.ndarray:
    """[N], the mean over the networks; NaN where a picture can't be read, which `faults` then says."""
    found = np.full(len(table), np.nan)

    def picture(path: str) -> np.ndarray | UnreadableImage:
        try:
            return fit(decode(path), size)
        except UnreadableImage as fault:
            return fault

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(table), BATCH):
            part = table.iloc[start : start + BATCH]
            decoded = list(enumerate(pool.map(picture, part["path"]), start))
            faults += [str(each) for _, each in decoded if isinstance(each, UnreadableImage)]
            readable = {row: each for row, each in decoded if isinstance(each, np.ndarray)}
            if readable:
                images = torch.from_numpy(np.stack(list(readable.values())))[:, None]
                shown = torch.tensor([INDEX_OF.get(name, 0) for name in table["extremity"].iloc[list(readable)]])
                each_ones = [_of_one(network, images, shown) for network in networks]
                found[list(readable)] = torch.stack(each_ones).mean(0).numpy()
            show(min(start + BATCH, len(table)), len(table))
    return found


def _of_one(model: AbnormalityClassifier, images: torch.Tensor, extremity: torch.Tensor) -> torch.Tensor:
    """Return the probabilities, float64 [B], of `images`, uint8 [B, 1, S, S]."""
    with in_float32(model.device):
        logits = model(images.to(model.device), extremity.to(model.device))
    return logits.cpu().double().sigmoid()
