"""Grey pixels of a picture file: decoded to 8 bits, then fitted into a square."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mura.data import dicom, formats
from mura.data.dicom import HEAD, looks_like_dicom
from mura.data.formats import Refusal, Samples
from mura.data.levels import to_8_bits, to_16_bits, why_blank
from mura.errors import MuraError
from mura.files import read_file

MARGIN = 8 / 7  # oversampling, so that turned pictures stay sharp: 224 -> 256
SIDE_STEP = 16  # pixels
ROUNDING = 1  # of 255: by so much two ways of rounding may differ
PAD, STRETCH = "pad", "stretch"
FITS = (PAD, STRETCH)
"""How a picture becomes a square: with black added to its shorter sides, or stretched along them."""


formats.silence_libraries()


class UnreadableImage(MuraError):  # noqa: N818
    """A picture that can't be decoded. `kind`: one of PHRASE_OF_PROBLEM, such as truncated."""

    def __init__(self, sentence: str, kind: str = "unreadable") -> None:
        super().__init__(sentence)
        self.kind = kind

    @property
    def is_damage(self) -> bool:
        """Whether its bytes are at fault; else they could not be read, and may be sound."""
        return self.kind not in ("missing", "unread")


def decode(path: str | Path, data: bytes | None = None) -> np.ndarray:
    """Return the grey pixels of a picture file, upright: uint8 [H, W], maybe read-only. Raises UnreadableImage.

    docs/pictures.md says what black and white are, what is done with transparency, and what is refused. `data` are the
    file's bytes, if they have been read.
    """
    with _refusals_about(path):
        return _in_8_bits(_samples(path, data))


def to_png(path: str | Path) -> bytes:
    """Return a grey PNG of a picture file, which decodes to the same pixels as the file. Raises UnreadableImage.

    It has 16 bits if the file has more than 8 and the 16 give the same pixels, within rounding; else 8.
    """
    with _refusals_about(path):
        samples = _samples(path)
        levels = _in_8_bits(samples)
    if samples.values.itemsize > 1:
        deep = _on_black(to_16_bits(samples.values, samples.is_inverted, samples.limits), samples.opacity)
        png = _as_png(deep)
        if np.abs(decode(path, png).astype(np.int16) - levels).max() <= ROUNDING:
            return png
    return _as_png(levels)


@contextmanager
def _refusals_about(path: str | Path) -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise UnreadableImage(f"{path} {refusal}.", refusal.kind) from refusal


def _samples(path: str | Path, data: bytes | None = None) -> Samples:
    data = read_picture(path) if data is None else data
    if not data:
        raise UnreadableImage(f"{path} is empty (0 bytes).", "empty")
    reader = dicom if looks_like_dicom(data[:HEAD]) else formats
    return reader.read_samples(data)


def _in_8_bits(samples: Samples) -> np.ndarray:
    try:
        levels = to_8_bits(samples.values, samples.is_inverted, samples.limits)
    except ValueError as error:
        raise Refusal(str(error)) from error
    composed = _on_black(levels, samples.opacity)
    if samples.opacity is not None and why_blank(composed):
        raise Refusal("shows nothing on a black ground, where its transparency is: save it without an alpha channel")
    return composed


def _on_black(levels: np.ndarray, opacity: np.ndarray | None) -> np.ndarray:
    """Return `levels`, of 8 or 16 bits, on a black ground."""
    return levels if opacity is None else (levels * opacity + np.float32(0.5)).astype(levels.dtype)


def _as_png(levels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def fit(image: np.ndarray, size: int, how: str = PAD) -> np.ndarray:
    """Return `image` uint8 [H, W] as uint8 [size, size].

    PAD keeps the aspect: the longest side becomes `size`, and the picture lies centred on black. STRETCH fills the
    square with the picture.
    """
    top, left, height, width = place_in_square(image.shape, size, how)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = np.zeros((size, size), np.uint8)
    square[top : top + height, left : left + width] = np.asarray(resized)
    return square


def place_in_square(shape: tuple[int, ...], size: int, how: str = PAD) -> tuple[int, int, int, int]:
    """Return where `fit` puts a picture of this shape: the top and left, height and width of its part of the square."""
    height, width = (max(1, round(side * size / max(shape))) for side in shape)
    if how == STRETCH:
        height = width = size
    return (size - height) // 2, (size - width) // 2, height, width


def cache_size_for(image_size: int) -> int:
    """Return the cache's side in pixels, one for all models of an input size: 224 -> 256, 320 -> 368, 64 -> 80."""
    return -(-round(image_size * MARGIN) // SIDE_STEP) * SIDE_STEP


def read_picture(path: str | Path) -> bytes:
    """Return the bytes of a picture file, as `read_file` does. Raises UnreadableImage, which is no damage then."""
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise UnreadableImage(f"{path} is not there.", "missing") from error
    except OSError as error:
        raise UnreadableImage(f"{path} can't be read ({error.strerror}).", "unread") from error
