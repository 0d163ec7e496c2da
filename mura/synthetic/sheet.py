"""A contact sheet of synthetic radiographs: the seven extremities, normal above, abnormal below."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mura.errors import MuraError
from mura.extremities import EXTREMITIES, INDEX_OF
from mura.synthetic.dataset import FEWEST_PATIENTS, check_settings
from mura.synthetic.findings import FINDING_KINDS, new_body, new_finding
from mura.synthetic.picture import draw_radiograph


def write_preview(file: Path, *, size: int = 256, seed: int = 0) -> Path:
    """Write a contact sheet (PNG) whose tiles are `size` pixels wide; return the file's path.

    Raises MuraError for a size or seed that can't be used, and when the file can't be written.
    """
    check_settings(FEWEST_PATIENTS, size, seed, "shared", None, None)
    margin, gap = max(20, size // 8), max(4, size // 40)
    tall = round(size * 1.2)
    sheet = Image.new("L", (margin + len(EXTREMITIES) * (size + gap), margin + 2 * (tall + gap)), 12)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(10, size // 14))
    for column, extremity in enumerate(EXTREMITIES):
        left = margin + column * (size + gap)
        pen.text((left + size / 2, margin / 2), extremity, fill=220, font=font, anchor="mm")
        for label in (0, 1):
            pixels = _showpiece(extremity, label, tall, seed)
            tile = Image.fromarray(pixels)
            tile.thumbnail((size, tall))
            top = margin + label * (tall + gap)
            sheet.paste(tile, (left + (size - tile.width) // 2, top + (tall - tile.height) // 2))
    for label, word in enumerate(("normal", "abnormal")):
        strip = Image.new("L", (tall, margin), 12)
        ImageDraw.Draw(strip).text((tall / 2, margin / 2), word, fill=220, font=font, anchor="mm")
        sheet.paste(strip.rotate(90, expand=True), (0, margin + label * (tall + gap)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(file, "PNG")
    except OSError as error:
        raise MuraError(f"Could not write the contact sheet {file}: {error}.") from error
    return file


def _showpiece(extremity: str, label: int, size: int, seed: int) -> np.ndarray:
    """Return a frontal view of this extremity, normal or with a plain sign, uint8 [height, width]."""
    kind = FINDING_KINDS[INDEX_OF[extremity] % len(FINDING_KINDS)]
    for attempt in itertools.count():
        rng = np.random.default_rng([seed, 4, INDEX_OF[extremity], label, attempt])
        body = new_body(rng)
        sign = replace(new_finding(extremity, body, rng, (kind,)), subtlety=0.15) if label else None
        picture = draw_radiograph(extremity, body, sign, 0, size, rng)
        if sign is None or picture.box is not None:
            return picture.pixels
    raise AssertionError
