"""Where a model looks: pictures in; their heat as overlays, contact sheets and boxes out.

No PyTorch here: a model says itself where its heat is. Shapes: B pictures, S their side in the cache, H x W a picture
as it is in its file, G cells along a side of a heat map.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage

from mura.data.images import UnreadableImage, decode, fit, place_in_square
from mura.errors import MuraError, printable
from mura.inference import predict
from mura.inference.predict import (
    Answer,
    Model,
    Progress,
    ask_of_readable,
    check_extremities,
    extremity_in,
    pictures_at,
    read_in_batches,
    sort_out,
    with_studies,
)
from mura.runs.heat import overlay

LARGEST_SIDE = 1024  # pixels of an overlay: a screen shows no more
TILE, CAPTION, COLUMNS_OF_SHEET = 256, 22, 4
HOT = 0.5  # of the hottest: what is in the box
BOX_COLUMNS = ["x", "y", "width", "height"]
BOX_COLOUR = (0, 220, 255)


class ExplainedModel(Model, Protocol):
    """A model that can also say which places of a picture speak for "abnormal"."""

    def heat_maps(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return heat, float32 [B, G, G], of squares, uint8 [B, S, S]: 1 where it is hottest; some maps are zero."""

    def explain(self, picture: str | Path, extremity: str | None = None) -> np.ndarray:
        """Return the heat of a picture file, float32 [H, W] from 0 to 1, as `mura explain` draws it.

        Raises UnreadableImage, or MuraError when the extremity must be known and is not.
        """
        pixels = decode(picture)
        name = extremity or extremity_in(str(picture))
        check_extremities(self, pd.DataFrame({"name": [str(picture)], "extremity": pd.Series([name], dtype=object)}))
        [heat_GG] = self.heat_maps(fit(pixels, self.cache_size, self.fit)[None], [name])
        return heat_on_picture(heat_GG, pixels.shape, self.cache_size, self.fit)


def explainable(model: Model) -> ExplainedModel:
    """Return the model as one that can say where it looks. Raises MuraError with the reason when it can't."""
    if not hasattr(model, "heat_maps"):
        raise MuraError(
            f"{model.source} can't be explained: an ONNX file answers, and Grad-CAM needs the network itself; name the "
            "run folder or the checkpoint that it was exported from."
        )
    asked = cast(ExplainedModel, model)
    black_BSS = np.zeros((len(model.extremities), model.cache_size, model.cache_size), np.uint8)
    asked.heat_maps(black_BSS, model.extremities)
    return asked


class Seen(NamedTuple):
    """A picture that was read: `square` uint8 [S, S] for the model; `shown`, at most LARGEST_SIDE, to draw on."""

    square: np.ndarray
    shown: np.ndarray
    shape: tuple[int, ...]


def explain_pictures(
    model: ExplainedModel,
    places: list[Path],
    out: Path,
    extremity: str | None = None,
    show: Progress = lambda *_: None,
    anonymous: bool = False,
) -> Answer:
    """Predict pictures as `predict_pictures` does, and draw where the model looks.

    The table has two things more: `overlay`, the PNG file in `out`, and BOX_COLUMNS, the box around the hottest place
    in the pixels of the picture, empty where nothing speaks for "abnormal". The overlays of a study with several
    pictures stand together in a contact sheet, `study0001.png`.
    Raises MuraError as `predict_pictures` does, and when `out` can't be written or is not empty.
    """
    pictures, faults = pictures_at(model, places, extremity, anonymous)
    make_folder(out)
    pictures["overlay"] = [
        str(out / overlay_name(number, path, anonymous)) for number, path in enumerate(pictures["path"], 1)
    ]

    def look(squares_BSS: np.ndarray, names: list[str | None]) -> list[tuple[float, np.ndarray]]:
        answers = model.probabilities(squares_BSS, names).tolist()
        return list(zip(answers, model.heat_maps(squares_BSS, names), strict=True))

    rows: list[list[float] | UnreadableImage] = []
    for part, seen in read_in_batches(pictures, lambda pixels: see(pixels, model)):
        squares = [each if isinstance(each, UnreadableImage) else each.square for each in seen]
        answers = ask_of_readable(look, squares, part["extremity"])
        for picture, answer, file in zip(seen, answers, part["overlay"], strict=True):
            if isinstance(picture, Seen) and isinstance(answer, tuple):
                probability, heat_GG = answer
                rows.append([probability, *draw_overlay(picture, heat_GG, model.fit, Path(file))])
            elif isinstance(picture, UnreadableImage):
                rows.append(picture)
        show(len(rows), len(pictures))
    readable, unreadable = sort_out(pictures, rows)
    readable[["probability", *BOX_COLUMNS]] = np.array([row for row in rows if isinstance(row, list)], dtype=float)
    table = with_studies(readable).astype(dict.fromkeys(BOX_COLUMNS, "Int64"))
    write_sheets(table, out)
    return Answer(table, faults + unreadable)


def as_json(model: Model, answer: Answer) -> dict[str, Any]:
    """Return an answer as `mura explain --json` prints it: as `mura predict` does, with one `box` for BOX_COLUMNS."""
    content = predict.as_json(model, answer)
    for row in content["pictures"]:
        box = {column: row.pop(column) for column in BOX_COLUMNS}
        row["box"] = None if box["x"] is None else box
    return content


def make_folder(out: Path) -> None:
    """Make the folder of the overlays. Raises MuraError when it can't be made, or something is in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise MuraError(f"--out {out}: is not empty, and nothing is overwritten; name another folder.")
    except OSError as error:
        raise MuraError(f"--out {out}: can't be written ({error.strerror}); name another folder.") from error


def overlay_name(number: int, path: str, anonymous: bool) -> str:
    """Return the name of a picture's overlay: its number, and the picture's own name unless `anonymous`."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", Path(path).stem)[:60]
    return f"{number:04d}.png" if anonymous else f"{number:04d}_{name}.png"


def see(pixels: np.ndarray, model: Model) -> Seen:
    """Return a picture's pixels, uint8 [H, W], as they are needed to explain it."""
    shown = Image.fromarray(pixels)
    shown.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Seen(fit(pixels, model.cache_size, model.fit), np.asarray(shown), pixels.shape)


def heat_on_picture(heat_GG: np.ndarray, shape: tuple[int, ...], side: int, how: str) -> np.ndarray:
    """Return a heat map, float32 [H, W], of a picture of this shape that was put into a square of `side` pixels."""
    top, left, height, width = place_in_square(shape, side, how)
    square_SS = Image.fromarray(heat_GG.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    part = square_SS.crop((left, top, left + width, top + height))
    return np.asarray(part.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def hottest_box(heat_HW: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return `x, y, width, height` of the place around the hottest pixel where the heat is more than HOT of it."""
    highest = float(heat_HW.max())
    if not highest > 0:
        return None
    places, _ = ndimage.label(heat_HW > HOT * highest)
    rows, columns = ndimage.find_objects(places)[places.flat[heat_HW.argmax()] - 1]
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


def draw_overlay(picture: Seen, heat_GG: np.ndarray, how: str, file: Path) -> list[float]:
    """Write a picture with its heat and box as a PNG; return BOX_COLUMNS in the picture's own pixels, NaN without."""
    heat_HW = heat_on_picture(heat_GG, picture.shown.shape, len(picture.square), how)
    image = Image.fromarray(overlay(picture.shown, heat_HW))
    box = hottest_box(heat_HW)
    if box is not None:
        x, y, width, height = box
        ImageDraw.Draw(image).rectangle((x, y, x + width - 1, y + height - 1), outline=BOX_COLOUR)
    image.save(file, "PNG", compress_level=1)
    scale = picture.shape[0] / picture.shown.shape[0]
    return [np.nan] * 4 if box is None else [round(value * scale) for value in box]


def write_sheets(pictures: pd.DataFrame, out: Path) -> None:
    """Write a contact sheet for each study of several pictures, from their overlays."""
    font = ImageFont.load_default(13)
    for number, (study, views) in enumerate(pictures.groupby("study", sort=False), 1):
        if len(views) == 1:
            continue
        columns = min(len(views), COLUMNS_OF_SHEET)
        tall, wide = TILE + CAPTION, columns * TILE
        sheet = Image.new("RGB", (wide, CAPTION + tall * -(-len(views) // columns)), (16, 16, 16))
        pen, first = ImageDraw.Draw(sheet), views.iloc[0]
        title = f"{shorten(str(study))}: {first['study_probability']:.2f}, {first['study_is']}"
        pen.text((6, CAPTION / 2), title, fill=(255, 255, 255), font=font, anchor="lm")
        for place, view in enumerate(views.to_dict("records")):
            left, top = place % columns * TILE, CAPTION + place // columns * tall
            with Image.open(view["overlay"]) as image:
                tile = ImageOps.contain(image, (TILE - 4, TILE - 4))
                sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
            words = f"{shorten(Path(view['path']).name, 26)}: {view['probability']:.2f}"
            pen.text((left + TILE / 2, top + TILE + CAPTION / 2), words, fill=(220, 220, 220), font=font, anchor="mm")
        sheet.save(out / f"study{number:04d}.png", "PNG")


def shorten(name: str, most: int = 60) -> str:
    """Return the end of a name, in characters that every font has."""
    plain = printable(name).encode("ascii", "replace").decode()
    return plain if len(plain) <= most else f"...{plain[3 - most :]}"
