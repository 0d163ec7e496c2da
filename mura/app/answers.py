"""What a model says of pictures that a browser sent: what `mura predict` and `mura explain` say, as parts of a page."""

import base64
import logging
import re
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from PIL import Image

from mura.app.uploads import Upload
from mura.data.images import decode
from mura.errors import MuraError
from mura.inference.explain import ExplainedModel, explain_pictures, explainable
from mura.inference.predict import Answer, Model, predict_pictures
from mura.metrics import THRESHOLD

LARGEST_SIDE = 768  # pixels of a picture on the page
QUALITY = 90  # of its JPEG
NUMBERED = re.compile(r"^picture (\d+)(?= )")
"""How a sentence of `mura predict --anonymous` begins that is about one picture."""


@dataclass(frozen=True)
class AskedModel:
    """A model with what is known before it is asked: `explained` is None where `why_unexplained` says why."""

    model: Model
    explained: ExplainedModel | None
    why_unexplained: str | None


@dataclass(frozen=True)
class PictureAnswer:
    """What the model says of a picture; `overlay` is None where it can't be explained."""

    name: str
    probability: float
    is_abnormal: bool
    picture: str
    overlay: str | None
    has_heat: bool
    warnings: list[str]


@dataclass(frozen=True)
class StudyAnswer:
    """The mean over the pictures of a study."""

    probability: float
    is_abnormal: bool
    pictures: list[PictureAnswer]


@dataclass(frozen=True)
class Answers:
    """The studies that could be read, and a sentence for each picture that could not."""

    studies: list[StudyAnswer]
    faults: list[str]


def asked_model(model: Model) -> AskedModel:
    """Return a model with whether, or why not, it can say where it looks."""
    try:
        return AskedModel(model, explainable(model), None)
    except MuraError as error:
        return AskedModel(model, None, str(error))


def ask(asked: AskedModel, uploads: Sequence[Upload], extremity: str | None, as_one_study: bool) -> Answers:
    """Return what a model says of pictures, which lie in a folder of their own no longer than that takes.

    `as_one_study` takes them for the pictures of one folder, else each is a study of its own; DICOM files say
    themselves which are of one study. Raises MuraError as `predict_pictures` does.
    """
    with TemporaryDirectory(prefix="mura-app-") as place:
        study, out = Path(place, "study"), Path(place, "heat")
        study.mkdir()
        paths = [upload.save(study, number) for number, upload in enumerate(uploads, 1)]
        try:
            with remarks() as warnings:
                answer = _answer(asked, [study] if as_one_study else paths, out, extremity)
        except MuraError as error:
            raise MuraError(named(str(error), uploads)) from None
        rows = answer.table.to_dict("records")
        pictures = [_picture(row, uploads, paths, warnings) for row in rows]
        studies = [
            StudyAnswer(
                views["study_probability"].iloc[0],
                views["study_is"].iloc[0] == "abnormal",
                [pictures[position] for position in views.index],
            )
            for _, views in answer.table.groupby("study", sort=False)
        ]
        return Answers(studies, [named(fault, uploads) for fault in answer.faults])


def _answer(asked: AskedModel, places: list[Path], out: Path, extremity: str | None) -> Answer:
    if asked.explained is None:
        return predict_pictures(asked.model, places, extremity, anonymous=True)
    return explain_pictures(asked.explained, places, out, extremity, anonymous=True)


def named(sentence: str, uploads: Sequence[Upload]) -> str:
    """Return a sentence about `picture 3` with the name that the third picture came with."""
    return NUMBERED.sub(lambda found: uploads[int(found[1]) - 1].name, sentence)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Yield a list to which all is added that the program warns of meanwhile."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mura").addHandler(handler)
    try:
        yield heard
    finally:
        logging.getLogger("mura").removeHandler(handler)


def _picture(
    row: dict[Hashable, Any], uploads: Sequence[Upload], paths: Sequence[Path], warnings: Sequence[str]
) -> PictureAnswer:
    """Return the row of a picture as a part of the page."""
    label = str(row["path"])
    place = int(label.rpartition(" ")[2]) - 1
    overlay = row.get("overlay")
    return PictureAnswer(
        uploads[place].name,
        row["probability"],
        row["probability"] > THRESHOLD,
        as_address(Image.fromarray(decode(paths[place]))),
        as_address(Image.open(overlay)) if overlay else None,
        pd.notna(row.get("x")),
        [named(each, uploads) for each in warnings if each.startswith(f"{label} ")],
    )


def as_address(image: Image.Image) -> str:
    """Return the address of a picture that holds the picture itself, no larger than the page shows it."""
    with image, BytesIO() as file:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        image.save(file, "JPEG", quality=QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
