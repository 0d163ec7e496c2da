"""A trained model asked about pictures: files or folders in, a table of probabilities out.

The pictures take the way that they take in a run: the same decoding, the same square, the same network. No PyTorch
here: a model says itself how it computes.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mura.data.dicom import study_key
from mura.data.images import UnreadableImage, decode, fit
from mura.data.index import EXTREMITY_NAME
from mura.data.levels import why_blank
from mura.errors import MuraError, printable
from mura.extremities import EXTREMITIES, EXTREMITY_OF
from mura.inference.places import PICTURE_SUFFIXES, find_pictures
from mura.machine import cores
from mura.metrics import THRESHOLD, mean_of_views
from mura.runs.fitted import Fits

COLUMNS = ["path", "extremity", "probability", "study", "study_probability", "study_is"]
BATCH_SIZE = 32

Progress = Callable[[int, int], None]
Prepared = TypeVar("Prepared")
Said = TypeVar("Said")

log = logging.getLogger(__name__)


class Model(Protocol):
    """A trained model that can be asked about pictures, whatever library computes it.

    It learnt from `extremities`; pictures come to it as squares of `cache_size` pixels, made by `images.fit` in the way
    `fit`. Where it `needs_extremity`, each picture's must be known, and one of these. `source` is what the user named.
    """

    source: Path
    extremities: list[str]
    cache_size: int
    fit: str

    @property
    def needs_extremity(self) -> bool: ...

    def fitted(self) -> Fits:
        """Return what was fitted on its validation views; empty where nothing was."""

    def is_synthetic(self) -> bool | None:
        """Return whether it learnt from drawings of this program; None where nothing says."""

    def probabilities(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return the probability of "abnormal", float64 [B], of squares, uint8 [B, S, S]."""

    def predict(self, pictures: Sequence[str | Path], extremity: str | None = None) -> pd.DataFrame:
        """Return COLUMNS, a row a picture, for picture files and those below folders, as `mura predict` does.

        What can't be read is left out, with a warning. Raises MuraError as `predict_pictures` does.
        """
        table, faults = predict_pictures(self, [Path(picture) for picture in pictures], extremity)
        for fault in faults:
            log.warning("%s", fault)
        return table


class Answer(NamedTuple):
    """`table` has COLUMNS, a row a readable picture; `faults` a sentence for each of the others."""

    table: pd.DataFrame
    faults: list[str]


def predict_pictures(
    model: Model,
    places: list[Path],
    extremity: str | None = None,
    show: Progress = lambda *_: None,
    anonymous: bool = False,
    threshold: float = THRESHOLD,
) -> Answer:
    """Predict picture files, and those below folders.

    The pictures of one folder are one study, and its probability is the mean over them (Rajpurkar et al. 2017); a
    picture that is named by itself is a study of its own. DICOM files say themselves which are of one study.
    `study_is` is abnormal above the threshold. `extremity` is what the pictures show where their path does not say it,
    as MURA's does (XR_WRIST). With `anonymous`, numbers stand for the names of files and studies.
    Raises MuraError when there is no picture, or none can be read, or an extremity is not known that must be.
    """
    pictures, faults = pictures_at(model, places, extremity, anonymous)
    answers: list[float | UnreadableImage] = []
    for part, squares in read_in_batches(pictures, lambda pixels: fit(pixels, model.cache_size, model.fit)):
        answers += ask_of_readable(lambda *batch: model.probabilities(*batch).tolist(), squares, part["extremity"])
        show(len(answers), len(pictures))
    readable, unreadable = sort_out(pictures, answers)
    readable["probability"] = [answer for answer in answers if isinstance(answer, float)]
    return Answer(with_studies(readable, threshold), faults + unreadable)


def pictures_at(
    model: Model, places: list[Path], extremity: str | None, anonymous: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Return the pictures to ask a model about, `path`, `study`, `name` and `extremity`, and what can't be read.

    `name` stands for the path in all that is written. Raises MuraError as `predict_pictures` does.
    """
    if extremity is not None and extremity not in EXTREMITIES:
        raise MuraError(f"--extremity {extremity}: there is no such extremity. Options: {', '.join(EXTREMITIES)}.")
    found = find_pictures(places, anonymous)
    table = pd.DataFrame(found.pictures, columns=["path", "study"])
    table["study"] = name_studies(table, anonymous)
    table["name"] = [f"picture {number}" for number in range(1, len(table) + 1)] if anonymous else table["path"]
    table["extremity"] = pd.Series([extremity or extremity_in(path) for path in table["path"]], dtype=object)
    check_extremities(model, table)
    return table, found.faults


def sort_out(pictures: pd.DataFrame, answers: Sequence[object]) -> tuple[pd.DataFrame, list[str]]:
    """Return the pictures that were read, and why the others were not. Raises MuraError when none was."""
    unreadable = [str(answer) for answer in answers if isinstance(answer, UnreadableImage)]
    if len(unreadable) == len(pictures):
        others = f" None of the {len(pictures)} pictures can be read." if len(pictures) > 1 else ""
        raise MuraError(unreadable[0] + others)
    is_read = [not isinstance(answer, UnreadableImage) for answer in answers]
    return pictures[is_read].reset_index(drop=True), unreadable


def with_studies(pictures: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Return COLUMNS and any further ones, for pictures with their `probability`: what is said of their studies too."""
    table = pictures.assign(path=pictures["name"]).drop(columns="name")
    table["study_probability"] = table["study"].map(mean_of_views(table.groupby("study")["probability"]))
    table["study_is"] = (table["study_probability"] > threshold).map({True: "abnormal", False: "normal"})
    return table[[*COLUMNS, *(column for column in table if column not in COLUMNS)]]


def name_studies(pictures: pd.DataFrame, anonymous: bool = False) -> list[str]:
    """Return the name of each picture's study: its folder, or a number for DICOM and for all that is `anonymous`."""
    paths = pictures["path"]
    keys = [None if Path(path).suffix.lower() in PICTURE_SUFFIXES else study_key(path) for path in paths]
    studies = pd.Series([key or study for key, study in zip(keys, pictures["study"], strict=True)], dtype=object)
    names = [f"study {number}" for number in pd.factorize(studies)[0] + 1]
    if anonymous:
        return names
    folders = [str(Path(path).parent) for path in paths.groupby(studies).transform("first")]
    numbered = [str(Path(folder, name)) for folder, name in zip(folders, names, strict=True)]
    return [name if key else study for key, name, study in zip(keys, numbered, studies, strict=True)]


def check_extremities(model: Model, pictures: pd.DataFrame) -> None:
    """Raise MuraError for a picture whose extremity must be known; warn of one that the model was not trained on."""
    known = ", ".join(model.extremities)
    foreign = pictures[~pictures["extremity"].isin([*model.extremities, None])]
    unknown = pictures["name"][pictures["extremity"].isna()]
    if model.needs_extremity and len(unknown):
        raise MuraError(
            f"{model.source} answers by extremity, and the path of {unknown.iloc[0]} does not say which it shows: "
            f"give --extremity, one of {known}."
        )
    if model.needs_extremity and len(foreign):
        first = foreign.iloc[0]
        raise MuraError(
            f"{model.source} has nothing trained for {first['extremity']}, which {first['name']} shows; "
            f"it answers for {known}."
        )
    if len(foreign):
        names = sorted(set(foreign["extremity"]))
        log.warning("%s was trained on %s, not on %s", model.source, known, ", ".join(names))


def read_in_batches(
    pictures: pd.DataFrame, prepare: Callable[[np.ndarray], Prepared]
) -> Iterator[tuple[pd.DataFrame, list[Prepared | UnreadableImage]]]:
    """Yield batches of pictures with what `prepare` makes of their pixels, uint8 [H, W], or why they can't be read.

    Threads decode the next batch while the last one is worked on.
    """

    def read(path: str, name: str) -> Prepared | UnreadableImage:
        try:
            pixels = decode(path)
            if blank := why_blank(pixels):
                log.warning("%s %s; its probability says nothing.", name, blank)
            return prepare(pixels)
        except UnreadableImage as fault:
            return UnreadableImage(f"{name}{str(fault).removeprefix(path)}", fault.kind)

    parts = [pictures.iloc[start : start + BATCH_SIZE] for start in range(0, len(pictures), BATCH_SIZE)]
    with ThreadPoolExecutor(cores()) as pool:
        coming = pool.map(read, parts[0]["path"], parts[0]["name"])
        for number, part in enumerate(parts, 1):
            prepared = list(coming)
            following = parts[number] if number < len(parts) else part.iloc[:0]
            coming = pool.map(read, following["path"], following["name"])
            yield part, prepared


def ask_of_readable(
    ask: Callable[[np.ndarray, list[str | None]], Sequence[Said]],
    squares: Sequence[np.ndarray | UnreadableImage],
    extremities: Iterable[str | None],
) -> list[Said | UnreadableImage]:
    """Return what `ask` says of each square of a batch, and the faults of what could not be read in their places."""
    readable = [
        (square, name) for square, name in zip(squares, extremities, strict=True) if isinstance(square, np.ndarray)
    ]
    said = iter(ask(np.stack([square for square, _ in readable]), [name for _, name in readable]) if readable else ())
    return [square if isinstance(square, UnreadableImage) else next(said) for square in squares]


def extremity_in(path: str) -> str | None:
    """Return the extremity that a folder on the path names, such as XR_WRIST; None when none does."""
    folder = EXTREMITY_NAME.search(os.path.realpath(path))
    return EXTREMITY_OF[folder[1]] if folder else None


def as_json(model: Model, answer: Answer, threshold: float = THRESHOLD) -> dict[str, Any]:
    """Return an answer as `mura predict --json` prints it: the pictures' rows, and what could not be read."""
    rows = answer.table.astype(object).where(answer.table.notna(), None).to_dict("records")
    return {
        "model": str(model.source), "threshold": threshold, "pictures": rows, "unreadable": answer.faults,
    }  # fmt: skip


def print_studies(table: pd.DataFrame, console: Console, anonymous: bool = False) -> None:
    """Print a line a study, named from where the paths part, with its pictures' probabilities, all of them."""
    studies = [os.path.abspath(study) for study in table["study"]]  # noqa: PTH100  names stay links
    above = os.path.commonpath([os.path.dirname(study) for study in studies])  # noqa: PTH120
    title = Text("studies" if anonymous else f"studies below {printable(above)}")
    lines = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    lines.add_column("study", overflow="fold", min_width=8)
    lines.add_column("extremity", no_wrap=True)
    lines.add_column("abnormal", justify="right", no_wrap=True)
    lines.add_column("each picture", justify="right", overflow="fold", min_width=5)
    for study, views in table.groupby(studies, sort=False):
        first = views.iloc[0]
        style = "bold" if first["study_is"] == "abnormal" else ""
        each = ", ".join(f"{probability:.2f}" for probability in views["probability"])
        name = Text(printable(os.path.relpath(str(study), above)))
        lines.add_row(name, first["extremity"] or "", f"{first['study_probability']:.3f}", each, style=style)
    console.print(lines)
