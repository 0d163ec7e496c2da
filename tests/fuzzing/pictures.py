"""Picture files of every container, with changed bytes: grey pixels, the same each time, or a sentence."""

import io
import random
from pathlib import Path

import numpy as np
from dicom_files import dataset, saved
from picture_files import png, tiff
from PIL import Image

from mura.data.images import decode, fit, to_png

from .cases import Case, Refused, answer, draw_byte_edit, edit_bytes, outcome, writing_only_below

GREY = np.random.default_rng(0).integers(0, 256, (24, 18), dtype=np.uint8)


def whole_pictures() -> dict[str, bytes]:
    """Return a sound file of each container and depth."""
    deep, colour = GREY.astype(np.uint16) * 257, np.stack([GREY, GREY, GREY], axis=-1)
    files = {
        "png": png(GREY, 8), "png 16": png(deep, 16), "png alpha": png(np.stack([GREY, GREY | 128], axis=-1), 8),
        "png colour": png(colour, 8), "png 1": png(GREY > 99, 1), "tiff": tiff(GREY), "tiff 16": tiff(deep, order=">"),
        "tiff deflated": tiff(deep, deflated=True), "tiff colour": tiff(colour, planar=True),
        "tiff float": tiff(GREY.astype(np.float32)), "dicom": saved(dataset(GREY)),
        "dicom 12": saved(dataset(deep >> 4, stored=12, WindowCenter=2000, WindowWidth=3000)),
        "dicom inverted": saved(dataset(GREY, PhotometricInterpretation="MONOCHROME1")),
    }  # fmt: skip
    for kind, mode in (("JPEG", "L"), ("JPEG", "RGB"), ("BMP", "L"), ("BMP", "RGB"), ("PNG", "P"), ("TIFF", "P")):
        file = io.BytesIO()
        Image.fromarray(GREY).convert(mode).save(file, kind)
        files[f"{kind.lower()} {mode}"] = file.getvalue()
    return files


class Pictures:
    """Tries picture files as the cache and `mura predict` read them, now and then as `mura import` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = whole_pictures()
        for name, data in self.whole.items():
            assert decode(name, data).shape == GREY.shape, name

    def draw(self, rng: random.Random) -> Case:
        return Case(rng.choice(list(self.whole)), tuple(draw_byte_edit(rng) for _ in range(rng.randint(1, 4))))

    def attempt(self, case: Case) -> str:
        data = edit_bytes(self.whole[case.base], case.edits)
        with writing_only_below(self.folder):
            pixels = answer(lambda: decode("picture", data))
            if isinstance(pixels, Refused):
                assert pixels.said.startswith("picture "), pixels.said
                return outcome(pixels)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 2
        assert pixels.size > 0
        assert np.array_equal(pixels, decode("picture", data)), "other pixels at the second time"
        assert fit(pixels, 32).shape == (32, 32)
        if len(data) % 8 == 0:
            file = self.folder / "picture"
            file.write_bytes(data)
            again = decode("copy", to_png(file))
            assert np.abs(again.astype(int) - pixels).max() <= 1, "mura import would write other pixels"
        return outcome(pixels)
